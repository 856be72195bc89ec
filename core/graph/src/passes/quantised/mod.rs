//! Quantised models: operators on bytes in place of dequantised ones, and the layout they want.

mod layout;
mod products;
#[cfg(test)]
mod tests;

pub use layout::ChannelsLast;

use super::view::{View, input, output};
use super::{Diagnostics, FoldConstants, Pass, Patch, Wire};
use crate::ops::{DequantizeLinear, QuantizeLinear};
use crate::{Graph, Node, ValueId};
use deepseek_tensor::{DType, Result, Tensor};

/// Makes operators on bytes of operators on what DequantizeLinear gives, and of what ONNX Runtime's
/// quantiser writes around integer products:
///
/// | before | after |
/// |---|---|
/// | `Q(MatMul(DQ(a), DQ(w)))`, `Q(Gemm(DQ(a), DQ(w), DQ(bias)))` | QLinearMatMul |
/// | the same without `Q` | MatMulIntegerToFloat |
/// | `Cast(MatMulInteger(a, w)) · (a_scale · w_scale)` | MatMulIntegerToFloat |
/// | `activation(MatMulIntegerToFloat + bias)` | MatMulIntegerToFloat |
/// | `Q(Conv(DQ(x), DQ(w), DQ(bias)))` | QLinearConv |
/// | the same without `Q` | ConvIntegerToFloat |
/// | either product or convolution with an activation before `Q` | the same with an activation |
/// | `activation(ConvIntegerToFloat)` | ConvIntegerToFloat |
/// | `Q(Add(DQ(a), DQ(b)))` | QLinearAdd |
/// | QLinearMatMul of two operands that are not constant | `Q(MatMul(DQ(a), DQ(b)))` |
/// | `Q(move(DQ(x)))` with one scale and zero point, and `Q(DQ(x))` | `move(x)`, `x` |
///
/// Weights are constants. A Relu before `Q` whose zero point is the least value does nothing and goes
/// away. Sums are exact where they were sums of rounded products, so a result may move by one step of its
/// quantisation where it was within rounding of the middle between two.
pub struct FuseQuantised;

impl Pass for FuseQuantised {
    fn name(&self) -> &'static str {
        "quantised"
    }

    fn is_late(&self) -> bool {
        true
    }

    fn run<'g>(&self, graph: &'g Graph, diagnostics: &mut Diagnostics) -> Result<Vec<Patch<'g>>> {
        let view = View::new(graph);
        let mut patches = Vec::new();
        for node in graph.nodes() {
            let Some(y) = output(node).filter(|y| !view.is_unread(*y)) else { continue };
            let found = match node.op.name() {
                "QuantizeLinear" => products::requantised(&view, node, y)?,
                "MatMul" | "Gemm" => products::product(&view, node, y)?,
                "Mul" => products::dynamic(&view, node, y)?,
                "Conv" => products::float_convolution(&view, node, y)?,
                "MatMulIntegerToFloat" => products::finished(&view, node, y)?,
                "ConvIntegerToFloat" => products::finished_convolution(&view, node, y)?,
                "QLinearMatMul" => products::in_floats(&view, node, y)?,
                _ => continue,
            };
            match found {
                Ok(Some((patch, what))) => {
                    diagnostics.fired(self.name(), &node.name, || what.to_owned());
                    patches.push(patch);
                }
                Ok(None) => {}
                Err(why) => diagnostics.missed(self.name(), &node.name, || why.to_owned()),
            }
        }
        Ok(patches)
    }
}

/// What a rule found: a patch and the operator it makes, nothing, or why it nearly fired.
type Found<'g> = std::result::Result<Option<(Patch<'g>, &'static str)>, &'static str>;

/// Folds what [`FuseQuantised`] left of dequantised constants.
pub struct FoldDequantised;

impl Pass for FoldDequantised {
    fn name(&self) -> &'static str {
        "fold dequantised"
    }

    fn is_late(&self) -> bool {
        true
    }

    fn run<'g>(&self, graph: &'g Graph, diagnostics: &mut Diagnostics) -> Result<Vec<Patch<'g>>> {
        FoldConstants { dequantise: true, ..FoldConstants::default() }.run(graph, diagnostics)
    }
}

/// A tensor of small integers that stand for numbers.
#[derive(Copy, Clone)]
struct Quantised {
    q: ValueId,
    scale: ValueId,
    zero: Option<ValueId>,
    axis: i64,
}

impl Quantised {
    /// What `v` is the `f32` form of, without blocks of scales.
    fn behind(view: &View, v: ValueId) -> Option<Quantised> {
        let (op, node) = view.made_by::<DequantizeLinear>(v)?;
        let (q, scale, zero) = (input(node, 0)?, input(node, 1)?, input(node, 2));
        let plain =
            op.block_size == 0 && view.dtype(v)? == DType::F32 && view.dtype(scale)? == DType::F32;
        plain.then_some(Quantised { q, scale, zero, axis: op.axis })
    }

    /// As [`Quantised::behind`], of bytes.
    fn bytes(view: &View, v: ValueId) -> Option<Quantised> {
        Quantised::behind(view, v).filter(|q| is_bytes(view, q.q))
    }

    /// Whether scale and zero point are one number each.
    fn is_uniform(&self, view: &View) -> bool {
        one(view, self.scale) && self.zero.is_none_or(|z| one(view, z))
    }

    /// The scales, if they are constant and lie along `axis` of a tensor of `rank` axes.
    fn scales(&self, view: &View, rank: usize, axis: usize) -> Option<Vec<f32>> {
        let t = view.constant(self.scale)?;
        let along = self.axis == axis as i64 || self.axis == axis as i64 - rank as i64;
        (t.len() == 1 || t.rank() == 1 && along).then(|| t.to_vec::<f32>().ok())?
    }

    /// The zero point; a scalar 0 where there is none.
    fn zero<'g>(&self, view: &View<'g>, patch: &mut Patch<'g>) -> Result<Wire> {
        Ok(match self.zero {
            Some(z) => z.into(),
            None => {
                let dtype = view.dtype(self.q).unwrap_or(DType::U8);
                patch.constant("zero", Tensor::zeros(dtype, &[])?)
            }
        })
    }
}

/// The QuantizeLinear of a tensor to bytes with one constant scale and zero point.
struct Requantised<'g> {
    node: &'g Node,
    y: ValueId,
    scale: ValueId,
    zero: ValueId,
}

impl<'g> Requantised<'g> {
    fn of(view: &View<'g>, node: &'g Node, y: ValueId) -> Option<Self> {
        let op = node.op.downcast::<QuantizeLinear>()?;
        let (x, scale, zero) = (input(node, 0)?, input(node, 1)?, input(node, 2)?);
        let plain = op.block_size == 0
            && op.precision.is_none_or(|p| p == DType::F32)
            && view.dtype(x)? == DType::F32
            && view.dtype(scale)? == DType::F32
            && is_bytes(view, y);
        let constant = one(view, scale) && one(view, zero);
        let constant = constant && view.constant(scale).is_some() && view.constant(zero).is_some();
        (plain && constant).then_some(Requantised { node, y, scale, zero })
    }

    /// What it quantises; before a Relu that saturation does anyway.
    fn source(&self, view: &View) -> Option<ValueId> {
        let mut x = input(self.node, 0)?;
        if let Some(inner) = view.unary::<crate::ops::Relu>(x)
            && view.read_once(x)
            && view.ints(self.zero)?.first() == Some(&self.least(view)?)
        {
            x = inner;
        }
        Some(x)
    }

    fn least(&self, view: &View) -> Option<i64> {
        Some(if view.dtype(self.zero)? == DType::I8 { -128 } else { 0 })
    }

    /// Whether scale and zero point are those of `x`.
    fn is_like(&self, view: &View, x: &Quantised) -> bool {
        let number = |v: ValueId| {
            view.constant(v)
                .and_then(|t| crate::ops::util::to_f64(&t).ok())
                .filter(|v| v.len() == 1)
        };
        let zero = x.zero.map_or(Some(vec![0.0]), number);
        view.dtype(x.q) == view.dtype(self.y)
            && number(x.scale).is_some()
            && number(x.scale) == number(self.scale)
            && zero == number(self.zero)
    }
}

fn is_bytes(view: &View, v: ValueId) -> bool {
    matches!(view.dtype(v), Some(DType::U8 | DType::I8))
}

/// Whether a tensor is known to have one element.
fn one(view: &View, v: ValueId) -> bool {
    view.shape(v).is_some_and(|s| s.iter().all(|d| d.as_const() == Some(1)))
}
