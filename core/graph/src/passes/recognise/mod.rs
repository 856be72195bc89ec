//! Finding what exporters take apart: one operator where a graph spells out its definition.
//!
//! Each rule starts at the last node of a pattern and reads upwards. It fires only where the
//! shapes prove what the pattern assumes, and otherwise says what is missing. Nodes inside the
//! pattern stay as long as something else reads them.
//!
//! The result is the same up to rounding: operators here round once where the spelled-out form
//! rounds after each node. One difference is meant: a row that may attend nothing at all is zero
//! in [`Attention`](crate::ops::Attention), where a softmax of nothing is not a number.

mod activation;
mod attention;
mod causal;
mod heads;
mod mask;
mod norm;
mod product;
mod rotary;
mod scores;
mod softmax;
#[cfg(test)]
mod tests;

pub use activation::FuseActivations;
pub use attention::FuseAttention;
pub use norm::FuseNorms;
pub use rotary::FuseRotary;
pub use softmax::FuseSoftmax;
