use crate::{Feed, Item, Layout, Pixels};

/// Made-up images for a network whose input is an image: smooth shapes with a little noise, in sizes and values the
/// preprocessing would give photographs. `None` for other networks. The same seed gives the same images.
pub fn synthetic(feed: &Feed, count: usize, seed: u64) -> Option<Vec<Item>> {
    let layout = feed.preprocess.as_ref()?.layout;
    let dims = feed.ty.shape.as_ref()?;
    let (row, column) = if layout == Layout::Nchw { (2, 3) } else { (1, 2) };
    let (height, width) = (dims.get(row)?.known()?, dims.get(column)?.known()?);
    let mut random = Random(seed.wrapping_mul(2).wrapping_add(1));
    (0..count)
        .map(|_| Pixels::new(width, height, 3, picture(&mut random, width, height)).ok().map(Item::Image))
        .collect()
}

/// A background gradient, then a dozen discs and boxes, then noise of about 2 %.
fn picture(random: &mut Random, width: usize, height: usize) -> Vec<u8> {
    let (w, h) = (width as f32, height as f32);
    let colour = |r: &mut Random| [r.unit(), r.unit(), r.unit()].map(|v| v * 255.0);
    let (from, to, angle) = (colour(random), colour(random), random.unit() * std::f32::consts::TAU);
    let shapes: Vec<_> = (0..12)
        .map(|_| {
            let centre = (random.unit() * w, random.unit() * h);
            let radius = (0.05 + 0.3 * random.unit() * random.unit()) * w.min(h);
            (centre, radius, colour(random), random.unit() < 0.5)
        })
        .collect();
    let mut out = Vec::with_capacity(width * height * 3);
    for y in 0..height {
        for x in 0..width {
            let (u, v) = (x as f32, y as f32);
            let t = 0.5 + 0.5 * ((u / w - 0.5) * angle.cos() + (v / h - 0.5) * angle.sin());
            let mut pixel = [0, 1, 2].map(|c| from[c] + (to[c] - from[c]) * t);
            for ((cx, cy), radius, colour, round) in &shapes {
                let (dx, dy) = ((u - cx).abs(), (v - cy).abs());
                let away = if *round { dx.hypot(dy) } else { dx.max(dy) };
                if away < *radius {
                    pixel = *colour;
                }
            }
            out.extend(pixel.map(|p| (p + 5.0 * random.normal()).clamp(0.0, 255.0) as u8));
        }
    }
    out
}

/// SplitMix64: small, seedable, good enough for pictures.
struct Random(u64);

impl Random {
    fn unit(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1 << 24) as f32
    }

    /// Standard normal, by Box and Muller.
    fn normal(&mut self) -> f32 {
        let radius = (-2.0 * self.unit().max(1e-7).ln()).sqrt();
        radius * (std::f32::consts::TAU * self.unit()).cos()
    }
}

#[cfg(test)]
mod tests {
    use qing_graph::{Dim, Element, Type};

    use super::*;
    use crate::Preprocess;

    #[test]
    fn normal_numbers_are_normal() {
        let mut random = Random(1);
        let x: Vec<f32> = (0..20_000).map(|_| random.normal()).collect();
        let mean = x.iter().sum::<f32>() / x.len() as f32;
        let variance = x.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / x.len() as f32;
        assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.05, "{mean} {variance}");
    }

    #[test]
    fn pictures_fit_the_input_and_repeat() {
        let ty = Type::new(Element::F32, [1, 3, 16, 24].map(Dim::Known));
        let feed = Feed { name: "x".into(), preprocess: Preprocess::guess(&ty), ty };
        let items = synthetic(&feed, 2, 7).unwrap();
        assert_eq!(items, synthetic(&feed, 2, 7).unwrap());
        assert_ne!(items[0], items[1]);
        assert_eq!(feed.batch(items).unwrap().shape(), [2, 3, 16, 24]);
    }
}
