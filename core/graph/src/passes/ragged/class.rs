//! How a value of the padded graph relates to the sequences.

use super::span::Span;
use crate::ValueId;
use deepseek_tensor::Error;

/// Why packing stopped.
#[derive(Debug)]
pub(super) enum Stop {
    /// There is no packed form; the text names the node.
    Reason(String),
    /// The input was taken for a mask and is read as data.
    Data { input: ValueId, why: String },
    /// Building the graph failed.
    Fault(Error),
}

impl From<Error> for Stop {
    fn from(e: Error) -> Self {
        Stop::Fault(e)
    }
}

/// What an input that could be a mask is taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// A mask that is 1 where there is a token.
    Mask,
    /// A mask that is 0 where there is a token, and 1 where there is padding.
    Inverted,
    /// Data.
    Data,
}

pub(super) type Step<T> = Result<T, Stop>;

/// Leaves with a reason. The driver puts the node before it.
macro_rules! refuse {
    ($($text:tt)*) => {
        return Err($crate::passes::ragged::class::Stop::Reason(format!($($text)*)))
    };
}
pub(super) use refuse;

/// Which axes of a padded value are batch and sequence. One axis may be both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Axes {
    pub batch: Option<usize>,
    pub seq: Option<usize>,
    /// Where one axis is both: whether neighbours along it are of different sequences.
    pub seq_major: bool,
}

impl Axes {
    /// The given axes, apart from each other.
    pub fn new(batch: Option<usize>, seq: Option<usize>) -> Self {
        Axes { batch, seq, seq_major: false }
    }

    /// Whether `axis` is the batch or the sequence axis.
    pub fn contains(self, axis: usize) -> bool {
        self.batch == Some(axis) || self.seq == Some(axis)
    }

    /// The other axes of a value of rank `rank`.
    pub fn features(self, rank: usize) -> Vec<usize> {
        (0..rank).filter(|&a| !self.contains(a)).collect()
    }

    /// Axis of the packed value that `axis`, a feature axis, has become.
    pub fn packed(self, axis: usize) -> usize {
        1 + (0..axis).filter(|&a| !self.contains(a)).count()
    }

    /// The axes after each has moved.
    pub fn map(self, f: impl Fn(usize) -> usize) -> Axes {
        Axes { batch: self.batch.map(&f), seq: self.seq.map(&f), ..self }
    }

    /// Whether batch and sequence are one axis.
    pub fn merged(self) -> bool {
        self.batch.is_some() && self.batch == self.seq
    }
}

/// A packed value: `[tokens, …]` if it has a sequence axis, else `[batch, …]`, the other axes of
/// the padded value behind in their order.
#[derive(Clone, Debug)]
pub(super) struct Lead {
    pub axes: Axes,
    pub value: ValueId,
    /// What the row of a token holds where the mask is 0.
    pub pad: Span,
    /// Mask inputs that the value has been combined with.
    pub masks: Vec<ValueId>,
}

/// What depends on places alone.
#[derive(Clone, Debug)]
pub(super) struct Places {
    /// Sequence axes, ascending; at least one.
    pub axes: Vec<usize>,
    /// The value for the longest sequence.
    pub value: ValueId,
    /// With one axis: the packed rows, if they were made without `value`.
    pub rows: Option<ValueId>,
}

/// A value that is a function of places, and of masks at one place of the sequence.
#[derive(Clone, Debug)]
pub(super) struct Cover {
    /// Batch axis and the axis along which masks are read.
    pub axes: Axes,
    /// The value where the masks are 1, of the same rank; an extent of 1 stands for any.
    pub one: Even,
    /// The values where a mask is 0.
    pub zero: Span,
    /// The masks; none for what an exporter fills with constants.
    pub masks: Vec<ValueId>,
}

/// A value that is the same for all sequences, or a prefix for each.
#[derive(Clone, Debug)]
pub(super) enum Even {
    Whole(ValueId),
    Places(Places),
}

/// How a value of the padded graph relates to the sequences; see the module above.
#[derive(Clone, Debug)]
pub(super) enum Class {
    Whole(ValueId),
    Extents,
    /// No rule gave it a class, for this reason; nobody may read it, unless as part of a pattern.
    Opaque(String),
    Places(Places),
    Cover(Cover),
    Lead(Lead),
}

impl From<Even> for Class {
    fn from(e: Even) -> Self {
        match e {
            Even::Whole(v) => Class::Whole(v),
            Even::Places(p) => Class::Places(p),
        }
    }
}
