//! Arithmetic of less than 32 bits: which nodes can have it, and the graph in which they do.
//!
//! An [`Assignment`] says what each node computes in, and what calibration has found out about the
//! values they read. [`assign`] writes it into the graph: nodes on bytes read
//! `DequantizeLinear(QuantizeLinear(x))` and dequantised constants, as quantisers of ONNX models
//! write it, or rows that are quantised as they come (`DynamicQuantizeRows`). What the fusing
//! passes make of that runs on bytes. Nothing here measures or runs anything.
//!
//! | node | its input | its constant operand |
//! |---|---|---|
//! | Conv | `u8`, one scale and zero point for the tensor, from its calibrated range | `i8`, one scale for each output channel |
//! | MatMul, Gemm | `u8`, a scale for each row, from the row itself | `i8`, one scale for each column |
//!
//! Between two such convolutions sums, max pooling and activations stay on bytes too, where the
//! ranges of their operands are known.

mod flow;
mod rewrite;
pub mod smooth;
mod weights;

pub use rewrite::{Probe, assign, probe};

use super::fuse::{constant, input, output};
use crate::ops::{Conv, Gemm, MatMul};
use crate::{Graph, Node, ValueId};
use deepseek_tensor::{Error, Result, err};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// What a node computes in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Precision {
    /// 32-bit floats.
    #[default]
    F32,
    /// Operands rounded to bf16, sums in `f32`.
    Bf16,
    /// Operands rounded to f16, sums in `f32`.
    F16,
    /// Operands quantised to bytes, sums in `i32`.
    Int8,
}

impl Precision {
    /// All of them, the widest first.
    pub const ALL: [Precision; 4] =
        [Precision::F32, Precision::Bf16, Precision::F16, Precision::Int8];

    /// `f32`, `bf16`, `f16` or `int8`.
    pub fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
            Precision::F16 => "f16",
            Precision::Int8 => "int8",
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Precision {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        let long = match s {
            "float32" => "f32",
            "bfloat16" => "bf16",
            "float16" => "f16",
            "i8" => "int8",
            other => other,
        };
        Precision::ALL.into_iter().find(|p| p.name() == long).ok_or_else(|| {
            err!(InvalidArgument, "'{s}' is no precision; use f32, bf16, f16, int8 or auto")
        })
    }
}

/// The least and the greatest number that a value takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
    /// Least.
    pub min: f32,
    /// Greatest.
    pub max: f32,
}

impl Range {
    /// The range that holds both.
    pub fn union(self, other: Range) -> Range {
        Range { min: self.min.min(other.min), max: self.max.max(other.max) }
    }
}

/// What nodes of a graph compute in. Nodes that are not named compute in `f32`.
#[derive(Clone, Debug, Default)]
pub struct Assignment {
    /// Precision of nodes, by name.
    pub nodes: BTreeMap<String, Precision>,
    /// Ranges of values, by name: those that [`observed`] lists.
    pub ranges: BTreeMap<String, Range>,
    /// For a value whose rows are quantised, by name: numbers by which its columns are multiplied
    /// before, and the rows of the matrices that read it divided (Xiao et al., *SmoothQuant*, 2023).
    pub factors: BTreeMap<String, Vec<f32>>,
    /// Numbers to add to the channels of a convolution, by its name: what quantisation was seen to
    /// take from their mean.
    pub corrections: BTreeMap<String, Vec<f32>>,
}

impl Assignment {
    /// Every candidate of `graph` in `precision`.
    pub fn all(graph: &Graph, precision: Precision) -> Self {
        let nodes = candidates(graph).into_iter().map(|c| (c.node, precision)).collect();
        Assignment { nodes, ..Assignment::default() }
    }

    fn is(&self, node: &Node, precision: Precision) -> bool {
        self.nodes.get(&node.name) == Some(&precision)
    }
}

/// A node that can compute in less than `f32`.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// Its name.
    pub node: String,
    /// Conv, MatMul or Gemm.
    pub op: &'static str,
    /// Name of the value that it multiplies by a constant.
    pub input: String,
    /// Name of its result.
    pub output: String,
    /// Numbers in the constant.
    pub weights: usize,
}

/// The nodes of `graph` that an [`Assignment`] can name: convolutions and products in `f32` with a
/// constant operand, not yet fused with what follows them.
pub fn candidates(graph: &Graph) -> Vec<Candidate> {
    let mut found = Vec::new();
    for node in graph.nodes() {
        let Some(layer) = Layer::of(graph, node) else { continue };
        let name = |v: ValueId| graph.value(v).name.clone();
        found.push(Candidate {
            node: node.name.clone(),
            op: match layer.kind {
                Kind::Conv => "Conv",
                Kind::MatMul => "MatMul",
                Kind::Gemm { .. } => "Gemm",
            },
            input: name(layer.x),
            output: name(layer.y),
            weights: graph.constant(layer.w).map_or(0, deepseek_tensor::Tensor::len),
        });
    }
    found
}

/// Names of the values whose ranges an assignment of `int8` to the convolutions of `graph` reads.
pub fn observed(graph: &Graph) -> Vec<String> {
    let all = Assignment::all(graph, Precision::Int8);
    let flow = flow::Flow::new(graph, &all, true);
    graph
        .values()
        .iter()
        .enumerate()
        .filter(|(i, _)| flow.on_bytes(*i))
        .map(|(_, v)| v.name.clone())
        .collect()
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Conv,
    MatMul,
    Gemm { transposed: bool },
}

/// A candidate as values.
#[derive(Clone, Copy, Debug)]
struct Layer {
    kind: Kind,
    x: ValueId,
    w: ValueId,
    bias: Option<ValueId>,
    y: ValueId,
}

impl Layer {
    fn of(graph: &Graph, node: &Node) -> Option<Layer> {
        let (x, w, y) = (input(node, 0)?, input(node, 1)?, output(node)?);
        let (bias, f32s) = (input(node, 2), |v| super::fuse::is_f32(graph, v));
        let rank = graph.fact(x).rank()?;
        let weights = graph.constant(w)?;
        let constant_input = graph.constant(x).is_some();
        if constant_input || !f32s(x) || !f32s(w) || weights.is_empty() || !f32s(y) {
            return None;
        }
        let kind = match node.op.name() {
            "Conv" => {
                node.op.downcast::<Conv>()?;
                let fits = (3..=5).contains(&rank) && weights.rank() == rank;
                fits.then_some(Kind::Conv)?
            }
            "MatMul" => {
                node.op.downcast::<MatMul>()?;
                (rank >= 2 && weights.rank() == 2).then_some(Kind::MatMul)?
            }
            "Gemm" => {
                let op = node.op.downcast::<Gemm>()?;
                let plain = !op.transA && op.alpha == 1.0 && op.beta == 1.0;
                plain.then_some(Kind::Gemm { transposed: op.transB })?
            }
            _ => return None,
        };
        let outputs = match kind {
            Kind::Conv | Kind::Gemm { transposed: true } => weights.shape()[0],
            _ => weights.shape()[1],
        };
        let vector = |b: ValueId| {
            let fits = constant(graph, b).is_some_and(|v| v.len() == outputs);
            fits && graph.fact(b).shape().and_then(<[_]>::last).and_then(crate::Dim::as_const)
                == Some(outputs as i64)
        };
        bias.is_none_or(vector).then_some(Layer { kind, x, w, bias, y })
    }
}
