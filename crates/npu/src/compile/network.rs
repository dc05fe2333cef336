//! A network as the chip sees it: layers over tensors of pixels and channels. Between the graph and instructions.

use qing_graph::ValueId;

/// Names a [`Tensor`] of a network.
pub type TensorId = usize;

/// An activation: one frame of pixels, each of `channels` integers.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    /// For reports and errors.
    pub name: String,
    /// Rows of pixels.
    pub height: usize,
    /// Pixels per row.
    pub width: usize,
    /// Integers per pixel.
    pub channels: usize,
    /// Planes in memory: the bits of the integers, or 32 for sums.
    pub bits: usize,
    /// Two's complement.
    pub signed: bool,
    /// What the real number 0 is.
    pub zero: i32,
    /// Whether some layer needs one pixel per word.
    pub unpacked: bool,
    /// Whether windows of the auxiliary unit slide over it: rows then lie so that their taps are in different banks.
    pub windowed: bool,
    /// Whether the values are −1 and +1 of a bipolar type, held as two bits.
    pub bipolar: bool,
}

impl Tensor {
    /// Pixels of a frame.
    pub fn pixels(&self) -> usize {
        self.height * self.width
    }

    /// Groups of 64 channels.
    pub fn groups(&self) -> usize {
        self.channels.div_ceil(64)
    }
}

/// How a window slides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Rows and columns of taps.
    pub kernel: [usize; 2],
    /// Distance between output pixels.
    pub stride: [usize; 2],
    /// Distance between taps.
    pub dilation: [usize; 2],
    /// Padding above and to the left.
    pub pad: [usize; 2],
}

impl Window {
    /// One tap, every pixel.
    pub const POINT: Window = Window { kernel: [1, 1], stride: [1, 1], dilation: [1, 1], pad: [0, 0] };

    /// Taps.
    pub fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }
}

/// What a layer computes before it requantizes.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// Every output channel a dot of all channels of all taps; weights `[output][tap][channel]`.
    Dense {
        /// The integers.
        weights: Vec<i16>,
        /// Where the taps are.
        window: Window,
    },
    /// Every channel by itself; weights `[channel][tap]`.
    Depthwise {
        /// The integers.
        weights: Vec<i8>,
        /// Where the taps are.
        window: Window,
    },
    /// The sum of every channel over the taps.
    Sum {
        /// Where the taps are.
        window: Window,
        /// Input pixels are repeated so often, in rows and columns.
        repeat: [usize; 2],
    },
    /// The maximum of every channel over the taps.
    Max {
        /// Where the taps are.
        window: Window,
    },
    /// `first · multipliers[0] + second · multipliers[1]`.
    Add {
        /// The other operand.
        second: TensorId,
        /// Fixed-point factors.
        multipliers: [i32; 2],
    },
}

/// What becomes of sums.
#[derive(Debug, Clone, PartialEq)]
pub struct Finish {
    /// One for each output channel, or one for all.
    pub bias: Vec<i32>,
    /// One for each output channel, or one for all.
    pub scale: Vec<f32>,
    /// Added after rounding.
    pub zero: i32,
    /// Least integer.
    pub lo: i32,
    /// Greatest integer.
    pub hi: i32,
    /// Looked up afterwards, by the low byte.
    pub table: Option<Vec<u8>>,
    /// The sums themselves are stored.
    pub raw: bool,
}

/// One layer.
#[derive(Debug, Clone, PartialEq)]
pub struct Layer {
    /// Name of the node it began with.
    pub name: String,
    /// Its op.
    pub op: String,
    /// What it computes.
    pub kind: Kind,
    /// What it reads.
    pub input: TensorId,
    /// What it writes.
    pub output: TensorId,
    /// The output's channel that its first channel is.
    pub first_channel: usize,
    /// Channels it computes: those it writes, for all pixels that it computes as one.
    pub channels: usize,
    /// Output pixels side by side that are computed as one pixel of so many times the channels.
    pub merge: usize,
    /// How sums become integers.
    pub finish: Finish,
    /// Multiply–accumulates of the graph's node.
    pub macs: u64,
}

impl Layer {
    /// Whether it can work on packed pixels of an image of this width and number of channels, shifting words against each other.
    pub fn shifts(&self, input: &Tensor) -> bool {
        let lanes = input.channels.next_power_of_two().max(8);
        matches!(&self.kind, Kind::Depthwise { window, .. }
            if *window == Window { kernel: [3, 3], pad: [1, 1], ..Window::POINT })
            && lanes < 64
            && input.width.is_multiple_of(64 / lanes)
    }
}

/// Where an axis of a graph's value lies in a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Axis {
    /// The channels.
    Channel,
    /// The rows.
    Row,
    /// The columns.
    Column,
}

/// A graph's value on the chip: for each of its dimensions the axes it runs over, outermost first. Axes of size 1 are left out.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    /// What it is a view of.
    pub tensor: TensorId,
    /// The dimensions.
    pub dims: Vec<Vec<Axis>>,
    /// Sizes of the dimensions.
    pub shape: Vec<usize>,
}

/// How the host lays out windows instead of pixels: pixel j of a row holds the input's pixels `j · step − pad … + window − 1`, one after another,
/// the zero point where they are outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unfold {
    /// Pixels of the input that make one.
    pub window: usize,
    /// Distance of windows.
    pub step: usize,
    /// Pixels before the first.
    pub pad: usize,
    /// Channels, rows and columns of the input.
    pub size: [usize; 3],
}

/// What goes into the chip, or comes out.
#[derive(Debug, Clone, PartialEq)]
pub struct Port {
    /// The graph's value.
    pub value: ValueId,
    /// How it lies on the chip.
    pub view: View,
    /// For sums that the host turns into reals: a scale for each channel.
    pub real: Option<Vec<f32>>,
    /// For inputs that are laid out as windows.
    pub unfold: Option<Unfold>,
}

/// The part of a graph that the chip computes, in order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Network {
    /// The activations.
    pub tensors: Vec<Tensor>,
    /// The layers, in order.
    pub layers: Vec<Layer>,
    /// What the host brings.
    pub inputs: Vec<Port>,
    /// What the host takes.
    pub outputs: Vec<Port>,
    /// Nodes that the host computes before the chip.
    pub before: Vec<usize>,
    /// Nodes that the host computes after the chip.
    pub after: Vec<usize>,
}
