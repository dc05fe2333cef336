//! The networks the library carries inside, each with test and calibration images, so that everything can be tried
//! without a download. Recipes and provenance are in the folder `zoo/`.

use bytes::Bytes;

use crate::{DataError, Dataset, dataset::Source, mosaic::Sheets, mosaic::parse_labels};

/// A network that comes with the library.
#[derive(Debug)]
pub struct Entry {
    /// Name, used as `zoo:NAME`.
    pub name: &'static str,
    /// What it does, in a line.
    pub about: &'static str,
    /// The ONNX file.
    pub onnx: &'static [u8],
    /// Labelled images it was not trained on.
    pub test: fn() -> Result<Dataset, DataError>,
    /// Training images to choose ranges with.
    pub calibrate: fn() -> Result<Dataset, DataError>,
}

/// All of them.
pub const ZOO: &[Entry] = &[Entry {
    name: "fashion",
    about: "Fashion-MNIST: which of ten kinds of clothing a 28×28 image shows (residual network, 79 thousand parameters)",
    onnx: include_bytes!("../../../zoo/fashion/fashion.onnx"),
    test: || {
        let labels = parse_labels(include_str!("../../../zoo/fashion/test_labels.txt"));
        let labels = labels.map_err(|e| DataError::invalid(format!("zoo:fashion: {e}")))?;
        let sheet = include_bytes!("../../../zoo/fashion/test.png");
        Ok(Dataset::new("zoo:fashion", Source::Sheets(Sheets::embedded(sheet, 40, 28, labels.len(), Some(labels)))))
    },
    calibrate: || {
        let sheet = include_bytes!("../../../zoo/fashion/calibrate.png");
        Ok(Dataset::new("zoo:fashion:calibrate", Source::Sheets(Sheets::embedded(sheet, 16, 28, 256, None))))
    },
}];

/// The network of that name.
///
/// # Errors
/// If there is none; the message lists those there are.
pub fn find(name: &str) -> Result<&'static Entry, DataError> {
    ZOO.iter().find(|e| e.name == name).ok_or_else(|| {
        let names: Vec<String> = ZOO.iter().map(|e| format!("zoo:{}", e.name)).collect();
        DataError::invalid(format!("there is no zoo:{name}; there is {}", names.join(", ")))
    })
}

impl Entry {
    /// The ONNX file, shared with the binary.
    pub fn bytes(&self) -> Bytes {
        Bytes::from_static(self.onnx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Item;

    #[test]
    fn embedded_images_can_be_read() {
        for entry in ZOO {
            let test = (entry.test)().unwrap();
            assert_eq!(test.len(), 1000);
            for i in [0, 39, 40, 999] {
                assert!(matches!(test.item(i).unwrap(), Item::Image(p) if p.width == 28 && p.height == 28));
                assert!(test.label(i).unwrap() < 10);
            }
            let calibrate = (entry.calibrate)().unwrap();
            assert!(calibrate.item(calibrate.len() - 1).is_ok());
            assert!(entry.onnx.len() <= 1 << 20, "embedded networks stay below 1 MB");
        }
        assert!(find("none").unwrap_err().to_string().contains("zoo:fashion"));
    }
}
