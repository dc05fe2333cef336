use std::path::Path;

use image::{DynamicImage, GrayImage, ImageReader, Limits, RgbImage, imageops};

use crate::{DataError, error::read_file};

/// Largest side of an image that is decoded: 16,384 pixels.
const LARGEST_SIDE: u32 = 1 << 14;
/// Most memory decoding one image may take: 1 GiB.
const MOST_MEMORY: u64 = 1 << 30;

/// An image in memory: rows of pixels, gray (1 byte) or red, green, blue (3 bytes).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pixels {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// 1 or 3.
    pub channels: usize,
    /// `height · width · channels` bytes.
    pub data: Vec<u8>,
}

impl Pixels {
    /// An image over bytes.
    ///
    /// # Errors
    /// If the bytes are not as many as the image needs, or there is no pixel.
    pub fn new(width: usize, height: usize, channels: usize, data: Vec<u8>) -> Result<Pixels, DataError> {
        let need = width.checked_mul(height).and_then(|n| n.checked_mul(channels));
        if !matches!(channels, 1 | 3) || need != Some(data.len()) || data.is_empty() {
            let n = data.len();
            return Err(DataError::invalid(format!("{n} bytes are no {width}×{height} image of {channels} channels")));
        }
        Ok(Pixels { width, height, channels, data })
    }

    /// Decodes a JPEG, PNG or WebP file; transparency is dropped, 16-bit samples are reduced to 8.
    ///
    /// # Errors
    /// If the file cannot be read or is not an image.
    pub fn open(path: &Path) -> Result<Pixels, DataError> {
        Pixels::decode(&read_file(path)?).map_err(|e| DataError::format(path, e.to_string()))
    }

    /// [`Pixels::open`] for bytes in memory.
    ///
    /// # Errors
    /// If the bytes are not an image, or one of more than 16,384 pixels a side.
    pub fn decode(bytes: &[u8]) -> Result<Pixels, DataError> {
        let bad = |e: &dyn std::fmt::Display| {
            DataError::invalid(format!("cannot be decoded as an image (JPEG, PNG and WebP are understood): {e}"))
        };
        let mut limits = Limits::default();
        limits.max_image_width = Some(LARGEST_SIDE);
        limits.max_image_height = Some(LARGEST_SIDE);
        limits.max_alloc = Some(MOST_MEMORY);
        let mut reader = ImageReader::new(std::io::Cursor::new(bytes)).with_guessed_format().map_err(|e| bad(&e))?;
        reader.limits(limits);
        let image = reader.decode().map_err(|e| bad(&e))?;
        let gray = matches!(
            image,
            DynamicImage::ImageLuma8(_)
                | DynamicImage::ImageLumaA8(_)
                | DynamicImage::ImageLuma16(_)
                | DynamicImage::ImageLumaA16(_)
        );
        let (width, height) = (image.width() as usize, image.height() as usize);
        match gray {
            true => Pixels::new(width, height, 1, image.into_luma8().into_raw()),
            false => Pixels::new(width, height, 3, image.into_rgb8().into_raw()),
        }
    }

    /// The image with 1 or 3 channels: gray repeated, or colour weighted as ITU-R BT.709 luma.
    #[must_use]
    pub fn with_channels(self, channels: usize) -> Pixels {
        let data = match (self.channels, channels) {
            (1, 3) => self.data.iter().flat_map(|&v| [v; 3]).collect(),
            (3, 1) => {
                let luma = |p: &[u8]| {
                    let [r, g, b] = [0, 1, 2].map(|i| u32::from(p[i]));
                    ((2126 * r + 7152 * g + 722 * b + 5000) / 10000) as u8
                };
                self.data.chunks_exact(3).map(luma).collect()
            }
            _ => return self,
        };
        Pixels { channels, data, ..self }
    }

    /// The part of `width` × `height` whose upper left corner is at (`left`, `top`).
    ///
    /// # Errors
    /// If it reaches outside.
    pub fn crop(&self, left: usize, top: usize, width: usize, height: usize) -> Result<Pixels, DataError> {
        if left + width > self.width || top + height > self.height {
            let (w, h) = (self.width, self.height);
            return Err(DataError::invalid(format!("cannot cut {width}×{height} at ({left}, {top}) out of {w}×{h}")));
        }
        let c = self.channels;
        let rows = (top..top + height).map(|y| (y * self.width + left) * c);
        let data = rows.flat_map(|at| &self.data[at..at + width * c]).copied().collect();
        Pixels::new(width, height, c, data)
    }

    /// Resamples with a triangle filter that widens when shrinking (what Pillow calls bilinear).
    #[must_use]
    pub fn resize(self, width: usize, height: usize) -> Pixels {
        if (width, height) == (self.width, self.height) || width == 0 || height == 0 {
            return self;
        }
        let (w, h) = (self.width as u32, self.height as u32);
        let (to_w, to_h) = (width as u32, height as u32);
        let filter = imageops::FilterType::Triangle;
        let data = match self.channels {
            1 => GrayImage::from_raw(w, h, self.data).map(|i| imageops::resize(&i, to_w, to_h, filter).into_raw()),
            _ => RgbImage::from_raw(w, h, self.data).map(|i| imageops::resize(&i, to_w, to_h, filter).into_raw()),
        };
        let data = data.unwrap_or_else(|| vec![0; width * height * self.channels]);
        Pixels { width, height, channels: self.channels, data }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cut_and_recolour() {
        let image = Pixels::new(3, 2, 1, vec![1, 2, 3, 4, 5, 6]).unwrap();
        assert_eq!(image.crop(1, 0, 2, 2).unwrap().data, [2, 3, 5, 6]);
        assert!(image.crop(2, 0, 2, 2).is_err());
        assert_eq!(image.clone().with_channels(3).with_channels(1), image);
        let red = Pixels::new(1, 1, 3, vec![255, 0, 0]).unwrap();
        assert_eq!(red.with_channels(1).data, [54]);
    }

    #[test]
    fn resizing_keeps_a_flat_image_flat() {
        let image = Pixels::new(5, 7, 3, vec![77; 105]).unwrap().resize(3, 4);
        assert_eq!((image.width, image.height), (3, 4));
        assert!(image.data.iter().all(|&v| v == 77));
    }

    #[test]
    fn bytes_that_are_no_image_are_refused() {
        for bytes in [&b""[..], b"P6", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBPVP8L"] {
            assert!(Pixels::decode(bytes).is_err());
        }
        assert!(Pixels::new(usize::MAX, 2, 1, vec![0]).is_err());
    }
}
