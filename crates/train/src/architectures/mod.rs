//! Networks that a recipe can name: graphs with freshly drawn weights.
//!
//! Convolutions and matrix products are drawn from a normal distribution of variance 2 / inputs (He et al., "Delving deep
//! into rectifiers", 2015); normalizations start as the identity.

mod builder;
mod design;
mod fashion;
mod keywords;
mod mobilenet;

use qing_graph::Graph;

use crate::TrainError;
pub use builder::Builder;
pub use design::{Design, Family, Stage};

/// What an architecture is built for.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Shape of a sample: channels, rows, columns.
    pub input: Vec<usize>,
    /// Classes to tell apart.
    pub classes: usize,
    /// What the weights are drawn from.
    pub seed: u64,
}

/// A network that can be built.
#[derive(Debug)]
pub struct Architecture {
    /// Its name in recipes.
    pub name: &'static str,
    /// What it is and where it is from, in a line.
    pub about: &'static str,
    /// Shape of a sample it was made for.
    pub input: [usize; 3],
    /// Classes it was made for.
    pub classes: usize,
    build: fn(&mut Builder, &Settings) -> Result<(), TrainError>,
}

/// All of them.
pub const ARCHITECTURES: &[Architecture] = &[
    Architecture {
        name: "fashion",
        about: "the network of zoo:fashion: five strided or residual stages of 3×3 convolutions, 79 thousand parameters",
        input: [1, 28, 28],
        classes: 10,
        build: fashion::build,
    },
    Architecture {
        name: "resnet8",
        about: "the image classifier of MLPerf Tiny (Banbury et al. 2021), 78 thousand parameters",
        input: [3, 32, 32],
        classes: 10,
        build: |b, s| design("resnet8")?.build(b, s),
    },
    Architecture {
        name: "resnet20",
        about: "for CIFAR (He et al. 2016), with projections where the width changes, 272 thousand parameters",
        input: [3, 32, 32],
        classes: 10,
        build: |b, s| design("resnet20")?.build(b, s),
    },
    Architecture {
        name: "resnet56",
        about: "as resnet20 with nine blocks a stage, 856 thousand parameters",
        input: [3, 32, 32],
        classes: 10,
        build: |b, s| design("resnet56")?.build(b, s),
    },
    Architecture {
        name: "ds-cnn",
        about: "the keyword spotter of MLPerf Tiny (Zhang et al. 2017): depthwise separable convolutions on 49×10 features",
        input: [1, 49, 10],
        classes: 12,
        build: keywords::build,
    },
    Architecture {
        name: "mobilenetv2-small",
        about: "inverted residuals (Sandler et al. 2018) at 0.35 of the width; images below 64 pixels are reduced later",
        input: [3, 96, 96],
        classes: 10,
        build: mobilenet::build,
    },
];

/// The architecture of that name.
///
/// # Errors
/// If there is none; the message lists those there are.
pub fn find(name: &str) -> Result<&'static Architecture, TrainError> {
    ARCHITECTURES.iter().find(|a| a.name == name).ok_or_else(|| {
        let names: Vec<&str> = ARCHITECTURES.iter().map(|a| a.name).collect();
        TrainError::invalid(format!("there is no architecture `{name}`; there are {}", names.join(", ")))
    })
}

/// What a recipe names as a design: one of the ResNets, or a [`Design`] as text.
///
/// # Errors
/// If it is none.
pub fn design(name: &str) -> Result<Design, TrainError> {
    match name {
        "resnet8" => Ok(Design::residual(1)),
        "resnet20" => Ok(Design::residual(3)),
        "resnet56" => Ok(Design::residual(9)),
        name if name.contains(':') => name.parse(),
        name => Err(TrainError::invalid(format!(
            "`{name}` is no design that can be changed; start from resnet8, resnet20, resnet56, or a design such as \
             residual:16,16x3,32x3s2,64x3s2 or inverted:16,16x1e1,24x2s2"
        ))),
    }
}

/// A network of that name, or of that [`Design`], with fresh weights, input `image` f32 `[N, channels, rows, columns]`, output `logits`
/// `[N, classes]`.
///
/// # Errors
/// If there is no such architecture, or the input is too small for it.
pub fn build(name: &str, settings: &Settings) -> Result<Graph, TrainError> {
    let design = name.contains(':').then(|| name.parse::<Design>()).transpose()?;
    if settings.input.len() != 3 || settings.input.contains(&0) || settings.classes == 0 {
        return Err(TrainError::invalid(format!(
            "{name} is for images [channels, rows, columns] and at least one class, got {:?} and {}",
            settings.input, settings.classes
        )));
    }
    let mut builder = Builder::new(name, settings);
    match design {
        Some(design) => design.build(&mut builder, settings)?,
        None => (find(name)?.build)(&mut builder, settings)?,
    }
    Ok(builder.finish())
}

#[cfg(test)]
mod tests {
    use qing_graph::{Tensor, interpret::interpret, verify::verify};

    use super::*;
    use crate::parameters::{Exposure, expose};

    #[test]
    fn sizes_as_published() {
        // He et al. give 0.27 M and 0.85 M for ResNet-20 and -56; MLPerf Tiny 78 thousand for ResNet-8, 23 for DS-CNN.
        let cases = [
            ("fashion", 79_482),
            ("resnet8", 78_042),
            ("resnet20", 272_474),
            ("resnet56", 855_770),
            ("ds-cnn", 23_180),
        ];
        for (name, count) in cases {
            let a = find(name).unwrap();
            let settings = Settings { input: a.input.to_vec(), classes: a.classes, seed: 3 };
            let graph = build(name, &settings).unwrap();
            verify(&graph).unwrap();
            assert_eq!(expose(&graph, &Exposure::all(1)).unwrap().trained(), count, "{name}");
        }
    }

    #[test]
    fn activations_neither_vanish_nor_explode() {
        for a in ARCHITECTURES.iter().filter(|a| a.name != "resnet56") {
            let input = if a.input[1] > 49 { vec![3, 16, 16] } else { a.input.to_vec() };
            let graph = build(a.name, &Settings { input: input.clone(), classes: 7, seed: 1 }).unwrap();
            let shape = [&[1], &input[..]].concat();
            let mut random = crate::random::Random::new(1, crate::random::Purpose::Probe, 0, 0);
            let values: Vec<f32> = (0..shape.iter().product()).map(|_| random.normal()).collect();
            let y = interpret(&graph, &[Tensor::new(&shape, values).unwrap()]).unwrap().remove(0);
            assert_eq!(y.shape(), [1, 7]);
            let size = y.to_f32s().iter().map(|v| v.abs()).fold(0.0, f32::max);
            assert!(size > 1e-3 && size < 1e3, "{}: {size}", a.name);
        }
    }

    #[test]
    fn seeds_decide() {
        let weights = |seed| {
            let graph = build("resnet8", &Settings { input: vec![3, 32, 32], classes: 10, seed }).unwrap();
            graph.values().filter_map(|(_, v)| v.constant.clone()).collect::<Vec<_>>()
        };
        assert_eq!(weights(1), weights(1));
        assert_ne!(weights(1), weights(2));
        let error = build("alexnet", &Settings { input: vec![3, 32, 32], classes: 10, seed: 1 }).unwrap_err();
        assert!(error.to_string().contains("resnet20"), "{error}");
    }
}
