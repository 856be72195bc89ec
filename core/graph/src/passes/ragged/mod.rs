//! From a padded graph to a packed one: rows of all sequences end to end, no padding.
//!
//! A model over `[batch, seq, …]` runs a batch of sequences of different lengths padded to the
//! longest, with a mask. [`pack`] builds the graph that does the same work on `[tokens, …]` and
//! `offsets i64[batch + 1]`, if it can prove that one exists.
//!
//! # What is proved
//!
//! **The packed graph gives, for each sequence, what the given graph gives for that sequence
//! alone**: batch 1, no padding, masks all ones. For this every value gets a class that says how
//! its values for the sequences alone lie in one packed value:
//!
//! - *whole*: the same for every sequence;
//! - *rows*: one row for each token, `[tokens, …]`: the batch and sequence axes, wherever they
//!   stand or merged into one, become the first;
//! - *per sequence*: one row for each sequence, `[batch, …]`;
//! - *positions*: depends on places in the sequence alone, so that the value for a sequence is a
//!   prefix of the value for the longest one;
//! - *cover*: positions too, but different where a mask input is 0;
//! - *extents*: integers made of extents, whose formulas the facts hold.
//!
//! Every operator has a rule from the classes of its inputs to those of its outputs. Operators
//! that treat rows alike run on packed rows unchanged; those that look across the rows of a
//! sequence are replaced by operators with `offsets`; for all others there is no rule, and [`pack`]
//! says which node it was and why.
//!
//! Being alone, a sequence is number 0 of its batch.
//!
//! **A mask input means padding**: what it covers contributes nothing where it is 0. Its chain to
//! each use is evaluated at 1, where it must add exactly nothing, and at 0 (or the other way round,
//! for masks that are 1 where there is padding), where it must hide: an
//! attention score by −∞, `false` or at most −10⁴, a row by the neutral element of the reduction
//! that reads it. An input that is read in any other way is data.

mod attention;
mod blocks;
mod class;
mod linear;
mod mixing;
mod moves;
mod packer;
mod pointwise;
mod span;
#[cfg(test)]
mod tests;

use super::{Diagnostics, Pipeline};
use crate::{Graph, Symbol, ValueId};
use class::{Role, Stop};
use deepseek_tensor::{DType, Result, bail, err};
use std::collections::BTreeMap;

/// Name of the input `i64[batch + 1]` of a packed graph: where each sequence begins, and the end.
pub const OFFSETS: &str = "offsets";

/// Name of the input `i64[longest]` of a packed graph: 0, 1, … as long as the longest sequence.
pub const LONGEST: &str = "longest";

/// A packed graph and how its inputs and outputs relate to those of the graph it was made from.
#[derive(Clone, Debug)]
pub struct Packed {
    /// The graph. Its inputs are those of `inputs` that are no mask, in order, then
    /// [`OFFSETS`], then [`LONGEST`].
    pub graph: Graph,
    /// The inputs of the padded graph, in order.
    pub inputs: Vec<PackedInput>,
    /// The outputs, in order.
    pub outputs: Vec<PackedOutput>,
    /// Symbol of the batch in both graphs.
    pub batch: Symbol,
    /// Symbol of the sequence axis in the padded graph.
    pub seq: Symbol,
    /// Symbol of the number of rows in the packed graph.
    pub tokens: Symbol,
    /// Symbol of the length of the longest sequence in the packed graph.
    pub longest: Symbol,
    /// Least and greatest length of a sequence, as the padded graph bounds it.
    pub lengths: (i64, Option<i64>),
}

/// An input of the padded graph.
#[derive(Clone, Debug)]
pub struct PackedInput {
    /// Name, the same in both graphs.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// What becomes of it.
    pub kind: InputKind,
}

/// What an input of the padded graph is in the packed one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputKind {
    /// `[batch, seq, …]` becomes `[tokens, …]`.
    Rows {
        /// Whether it is `[seq, batch, …]`.
        seq_first: bool,
    },
    /// `[batch, …]` stays: one row for each sequence.
    PerSequence,
    /// Unrelated to batch and sequence; stays.
    Whole,
    /// `[batch, seq]`, perhaps with axes of extent 1; tells tokens from padding and is gone.
    Mask {
        /// What it is where there is a token: 1 if true, else 0. It is the other where there is
        /// padding.
        token: bool,
        /// Batch axis.
        batch: usize,
        /// Sequence axis.
        seq: usize,
    },
}

/// An output of the padded graph.
#[derive(Clone, Debug)]
pub struct PackedOutput {
    /// Name, the same in both graphs.
    pub name: String,
    /// What it is in the packed graph.
    pub kind: OutputKind,
}

/// What an output of the padded graph is in the packed one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputKind {
    /// `[tokens, …]`, the other axes in their order.
    Rows {
        /// Batch axis of the padded output, if it has one; that of `seq` where both are one.
        batch: Option<usize>,
        /// Sequence axis of the padded output.
        seq: usize,
    },
    /// `[batch, …]`, the other axes in their order.
    PerSequence {
        /// Batch axis of the padded output.
        batch: usize,
    },
    /// The same as in the padded graph.
    Whole,
}

/// Builds the packed graph of `graph`; see the [module](self).
///
/// # Errors
/// `Unsupported` if there is none, with the node and the reason.
pub fn pack(graph: &Graph) -> Result<Packed> {
    let mut roles: BTreeMap<ValueId, Role> = BTreeMap::new();
    for node in graph.nodes().iter().filter(|n| n.op.name() == "Gather") {
        if let [_, Some(index), ..] = node.inputs[..]
            && graph.inputs().contains(&index)
        {
            roles.insert(index, Role::Data);
        }
    }
    let mut no_mask = None;
    loop {
        match packer::build(graph, &roles) {
            Ok(mut packed) => {
                let cleaned = Pipeline::cleanup().run(&packed.graph, &mut Diagnostics::off())?;
                packed.graph = cleaned.graph;
                return Ok(packed);
            }
            // An input that was taken for a mask is one the other way round, or none.
            Err(Stop::Data { input, why }) => {
                let next = match roles.get(&input) {
                    None | Some(Role::Mask) => Role::Inverted,
                    Some(Role::Inverted) => Role::Data,
                    Some(Role::Data) => {
                        bail!(Internal, "input '{}' was data already", graph.value(input).name)
                    }
                };
                if next == Role::Inverted {
                    no_mask = Some((input, why));
                }
                roles.insert(input, next);
            }
            Err(Stop::Reason(why)) => {
                let note = no_mask.filter(|_| why.contains("its mask")).map(|(input, read)| {
                    format!("; input '{}' is no mask: {read}", graph.value(input).name)
                });
                return Err(err!(
                    Unsupported,
                    "graph '{}' cannot run packed: {why}{}",
                    graph.name,
                    note.unwrap_or_default()
                ));
            }
            Err(Stop::Fault(e)) => return Err(e),
        }
    }
}
