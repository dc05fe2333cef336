//! Changes to images that leave their class what it was.

use qing_data::{DataError, Item, Pixels};

use super::Masks;
use crate::{TrainError, random::Random};

/// What is put where an image has nothing: byte values of a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fill {
    /// 0.
    #[default]
    Black,
    /// 128.
    Gray,
}

impl Fill {
    fn byte(self) -> u8 {
        match self {
            Fill::Black => 0,
            Fill::Gray => 128,
        }
    }
}

/// A square that is blotted out (DeVries and Taylor, "Improved regularization with cutout", 2017); its centre is anywhere in
/// the image, so parts of it may lie outside.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cutout {
    /// Pixels a side.
    pub size: usize,
    /// How often.
    pub probability: f32,
    /// With what.
    pub fill: Fill,
}

/// How much colours change: factors are drawn from `1 − v … 1 + v`.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Colour {
    /// Of all values.
    pub brightness: f32,
    /// Of the distance to the mean of the image.
    pub contrast: f32,
    /// Of the distance to gray.
    pub saturation: f32,
}

/// What is done to a sample, in this order; the default is nothing.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Augment {
    /// Pixels by which an image is padded on each side before a piece of its old size is cut out of it anywhere.
    pub crop: usize,
    /// What it is padded with.
    pub fill: Fill,
    /// How often it is mirrored.
    pub flip: f32,
    /// Changes of colour.
    pub colour: Option<Colour>,
    /// Squares blotted out.
    pub cutout: Option<Cutout>,
    /// Stripes of zeros in arrays.
    pub masks: Option<Masks>,
}

impl Augment {
    /// Refuses what makes no sense.
    ///
    /// # Errors
    /// Says which setting is out of which range.
    pub fn check(&self) -> Result<(), TrainError> {
        let share = |what: &str, v: f32| match (0.0..=1.0).contains(&v) {
            true => Ok(()),
            false => Err(TrainError::invalid(format!("{what} must be between 0 and 1, got {v}"))),
        };
        share("the share of mirrored images", self.flip)?;
        share("the share of images with cutout", self.cutout.map_or(0.0, |c| c.probability))?;
        let colour = self.colour.unwrap_or_default();
        share("brightness", colour.brightness)?;
        share("contrast", colour.contrast)?;
        share("saturation", colour.saturation)
    }

    /// A changed sample.
    ///
    /// # Errors
    /// If the sample is malformed.
    pub fn apply(&self, item: Item, random: &mut Random) -> Result<Item, DataError> {
        match item {
            Item::Image(image) => Ok(Item::Image(self.image(image, random))),
            Item::Array(array) => match &self.masks {
                Some(masks) => Ok(Item::Array(masks.apply(&array, random)?)),
                None => Ok(Item::Array(array)),
            },
        }
    }

    fn image(&self, mut image: Pixels, random: &mut Random) -> Pixels {
        // Numbers are drawn whether they are needed or not: a setting does not change what the others do.
        let span = u32::try_from(2 * self.crop + 1).unwrap_or(u32::MAX);
        let (dx, dy) = (random.below(span) as isize, random.below(span) as isize);
        let mirror = random.chance(self.flip);
        if self.crop > 0 || mirror {
            let by = self.crop as isize;
            image = shift(&image, dx - by, dy - by, mirror, self.fill.byte());
        }
        if let Some(colour) = &self.colour {
            colour.apply(&mut image, random);
        }
        if let Some(cutout) = &self.cutout {
            cutout.apply(&mut image, random);
        }
        image
    }
}

/// The image seen through a frame moved by (`dx`, `dy`), mirrored or not.
fn shift(image: &Pixels, dx: isize, dy: isize, mirror: bool, fill: u8) -> Pixels {
    let (w, h, c) = (image.width, image.height, image.channels);
    let mut data = vec![fill; image.data.len()];
    // Columns of the result that lie inside the old image.
    let first = (-dx).clamp(0, w as isize) as usize;
    let last = (w as isize - dx).clamp(first as isize, w as isize) as usize;
    for y in 0..h {
        let from = y as isize + dy;
        if !(0..h as isize).contains(&from) || first == last {
            continue;
        }
        let source = &image.data[from as usize * w * c..][..w * c];
        let row = &mut data[y * w * c..][..w * c];
        let at = (first as isize + dx) as usize;
        row[first * c..last * c].copy_from_slice(&source[at * c..(at + last - first) * c]);
        if mirror {
            for x in 0..w / 2 {
                for i in 0..c {
                    row.swap(x * c + i, (w - 1 - x) * c + i);
                }
            }
        }
    }
    Pixels { data, ..*image }
}

impl Cutout {
    fn apply(&self, image: &mut Pixels, random: &mut Random) {
        let (w, h, c) = (image.width, image.height, image.channels);
        let side = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let (x, y) = (random.below(side(w)) as usize, random.below(side(h)) as usize);
        if !random.chance(self.probability) {
            return;
        }
        let half = self.size / 2;
        let columns = x.saturating_sub(half)..(x + self.size - half).min(w);
        for row in y.saturating_sub(half)..(y + self.size - half).min(h) {
            image.data[(row * w + columns.start) * c..(row * w + columns.end) * c].fill(self.fill.byte());
        }
    }
}

impl Colour {
    fn apply(&self, image: &mut Pixels, random: &mut Random) {
        let mut factor = |v: f32| random.between(1.0 - v, 1.0 + v);
        let (brightness, contrast, saturation) =
            (factor(self.brightness), factor(self.contrast), factor(self.saturation));
        let mean = image.data.iter().map(|v| u64::from(*v)).sum::<u64>() as f32 / image.data.len() as f32;
        let middle = mean * brightness;
        for pixel in image.data.chunks_exact_mut(image.channels) {
            let gray = pixel.iter().map(|v| f32::from(*v)).sum::<f32>() / pixel.len() as f32;
            for v in pixel {
                let coloured = gray + (f32::from(*v) - gray) * saturation;
                let bright = coloured * brightness;
                *v = (middle + (bright - middle) * contrast).round().clamp(0.0, 255.0) as u8;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Purpose;

    fn ramp(width: usize, height: usize, channels: usize) -> Pixels {
        let data = (0..width * height * channels).map(|i| i as u8 + 1).collect();
        Pixels::new(width, height, channels, data).unwrap()
    }

    #[test]
    fn frames_move_and_mirror() {
        let image = ramp(3, 2, 1);
        assert_eq!(shift(&image, 0, 0, false, 9), image);
        assert_eq!(shift(&image, 0, 0, true, 9).data, [3, 2, 1, 6, 5, 4]);
        assert_eq!(shift(&image, 1, 0, false, 9).data, [2, 3, 9, 5, 6, 9]);
        assert_eq!(shift(&image, -2, 1, false, 9).data, [9, 9, 4, 9, 9, 9]);
        assert_eq!(shift(&image, -2, 1, true, 9).data, [4, 9, 9, 9, 9, 9]);
        assert_eq!(shift(&image, 5, 0, false, 9).data, [9; 6]);
        let colour = ramp(2, 1, 3);
        assert_eq!(shift(&colour, 0, 0, true, 0).data, [4, 5, 6, 1, 2, 3]);
    }

    #[test]
    fn squares_are_cut_at_the_edge() {
        let cutout = Cutout { size: 4, probability: 1.0, fill: Fill::Gray };
        let mut sizes = std::collections::BTreeSet::new();
        for i in 0..200 {
            let mut image = Pixels::new(8, 8, 1, vec![1; 64]).unwrap();
            cutout.apply(&mut image, &mut Random::new(1, Purpose::Augment, 0, i));
            sizes.insert(image.data.iter().filter(|v| **v == 128).count());
        }
        assert_eq!((sizes.first(), sizes.last()), (Some(&4), Some(&16)));
    }

    #[test]
    fn colours_change_within_bounds() {
        let image = Pixels::new(2, 1, 3, vec![100, 140, 180, 20, 100, 60]).unwrap();
        let mut same = image.clone();
        Colour::default().apply(&mut same, &mut Random::new(1, Purpose::Augment, 0, 0));
        assert_eq!(same, image);
        let mut gray = image.clone();
        let colour = Colour { saturation: 1.0, ..Colour::default() };
        colour.apply(&mut gray, &mut Random::new(1, Purpose::Augment, 0, 0));
        let spread = |p: &Pixels| p.data.chunks(3).map(|c| i32::from(c[2]) - i32::from(c[0])).max();
        assert_ne!(gray, image);
        assert!(spread(&gray) <= Some(160));
    }

    #[test]
    fn a_sample_depends_on_its_number_alone() {
        let augment = Augment { crop: 2, flip: 0.5, ..Augment::default() };
        let change =
            |i| augment.apply(Item::Image(ramp(6, 6, 1)), &mut Random::new(7, Purpose::Augment, 3, i)).unwrap();
        assert_eq!(change(5), change(5));
        assert!((0..10).any(|i| change(i) != change(i + 1)));
        assert!(Augment { flip: 2.0, ..augment }.check().is_err());
    }
}
