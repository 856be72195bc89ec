//! Weights of chosen products and convolutions in 16 bits.

use super::fuse::{input, is_f32, output};
use super::{Patch, Wire, apply};
use crate::ops::{Conv, FusedConv, FusedMatMul, Gemm, MatMul};
use crate::{Graph, Node, Operator, ValueId};
use deepseek_tensor::{DType, Result, Tensor, ensure};
use half::{bf16, f16};
use std::collections::BTreeMap;
use std::sync::Arc;

/// `graph` with the weights of the nodes for which `choose` gives a type in that type: `bf16`, by which
/// operands rounded to bf16 are multiplied, or `f16`, which is storage alone (see [`FusedMatMul`] and
/// [`FusedConv`], which these nodes become). Nodes that cannot ([`narrows`]) stay as they are; graphs
/// inside operators too. Weights are rounded to nearest, ties to even.
///
/// Give it a graph as [`Pipeline::portable`](super::Pipeline::portable) has made it: what follows a product
/// is fused by then. The result goes through the passes again unchanged.
///
/// # Errors
/// `InvalidArgument` for another type; what building the graph reports.
pub fn narrow_products(graph: &Graph, choose: &dyn Fn(&Node) -> Option<DType>) -> Result<Graph> {
    let mut patches = Vec::new();
    let mut made: BTreeMap<(ValueId, &'static str), Tensor> = BTreeMap::new();
    for node in graph.nodes() {
        let Some(dtype) = choose(node) else { continue };
        ensure!(
            matches!(dtype, DType::BF16 | DType::F16),
            InvalidArgument,
            "node '{}': weights can be made bf16 or f16, not {dtype}",
            node.name
        );
        let Some((form, weights)) = Form::of(graph, node, dtype) else { continue };
        let Some(y) = output(node) else { continue };
        // Nodes that share weights share their copy.
        let weights = made.entry((form.weights, dtype.name())).or_insert(weights).clone();
        let mut patch = Patch::new(graph);
        let name = format!("{}.{dtype}", graph.value(form.weights).name);
        let weights = patch.constant(&name, weights);
        let mut inputs: Vec<Option<Wire>> = node.inputs.iter().map(|i| i.map(Wire::Old)).collect();
        inputs[1] = Some(weights);
        let new = patch.add_node(&node.name, form.op, &inputs, &[true])?[0];
        patch.redirect(y, new.expect("the output was asked for"))?;
        patches.push(patch);
    }
    if patches.is_empty() {
        return Ok(graph.clone());
    }
    let graph = apply(graph, &patches)?;
    let clean = super::Pipeline::new(Vec::new()).with(super::DeadCode);
    Ok(clean.run(&graph, &mut super::Diagnostics::new(super::Level::Off))?.graph)
}

/// Whether [`narrow_products`] can give `node` weights of `dtype`: a product of `f32` by a constant matrix
/// with at most a bias, or a convolution of `f32` with constant weights, in one group for `bf16`; the
/// weights finite in `dtype`.
pub fn narrows(graph: &Graph, node: &Node, dtype: DType) -> bool {
    matches!(dtype, DType::BF16 | DType::F16) && Form::of(graph, node, dtype).is_some()
}

/// What a node becomes.
struct Form {
    op: Arc<dyn Operator>,
    weights: ValueId,
}

impl Form {
    /// With the weights in `dtype`.
    fn of(graph: &Graph, node: &Node, dtype: DType) -> Option<(Form, Tensor)> {
        let (x, weights, y) = (input(node, 0)?, input(node, 1)?, output(node)?);
        let w = graph.constant(weights).filter(|w| w.dtype() == DType::F32)?;
        if !is_f32(graph, x) || !is_f32(graph, y) {
            return None;
        }
        let product = || w.rank() == 2 && graph.fact(x).rank().is_some_and(|r| r >= 2);
        let conv = |group: i64| w.rank() >= 3 && (group == 1 || dtype == DType::F16);
        let op: Arc<dyn Operator> = if let Some(op) = node.op.downcast::<FusedMatMul>() {
            product().then(|| Arc::new(op.clone()))?
        } else if node.op.downcast::<MatMul>().is_some() {
            product().then(|| Arc::new(FusedMatMul::default()))?
        } else if let Some(op) = node.op.downcast::<Gemm>() {
            let n = w.shape().get(usize::from(!op.transB))?;
            let bias = match input(node, 2) {
                None => true,
                Some(c) => {
                    let fits = matches!(graph.fact(c).shape(), Some([d]) if d.as_const() == Some(*n as i64));
                    fits && op.beta == 1.0
                }
            };
            let op = FusedMatMul { alpha: op.alpha, trans_b: op.transB, activation: None };
            let plain = !node.op.downcast::<Gemm>()?.transA;
            (product() && plain && bias).then(|| Arc::new(op))?
        } else if let Some(op) = node.op.downcast::<FusedConv>() {
            conv(op.group).then(|| Arc::new(op.clone()))?
        } else {
            let op = node.op.downcast::<Conv>()?;
            conv(op.group).then(|| Arc::new(FusedConv::new(op, None)))?
        };
        Some((Form { op, weights }, narrow(w, dtype)?))
    }
}

/// The weights rounded to `dtype`, unless a finite one would become infinite.
fn narrow(w: &Tensor, dtype: DType) -> Option<Tensor> {
    let v = w.to_vec::<f32>().ok()?;
    match dtype {
        DType::BF16 => {
            let all = v.iter().all(|&v| bf16::from_f32(v).is_finite() == v.is_finite());
            all.then(|| Tensor::from_vec(w.shape(), v.into_iter().map(bf16::from_f32).collect()))
        }
        _ => {
            let all = v.iter().all(|&v| f16::from_f32(v).is_finite() == v.is_finite());
            all.then(|| Tensor::from_vec(w.shape(), v.into_iter().map(f16::from_f32).collect()))
        }
    }?
    .ok()
}
