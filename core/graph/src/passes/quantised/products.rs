//! The rules of [`FuseQuantised`](super::FuseQuantised).

use super::{Found, Quantised, Requantised, is_bytes, one};
use crate::ops::{
    Add, Cast, Conv, ConvIntegerToFloat, DequantizeLinear, Gemm, MatMul, MatMulInteger,
    MatMulIntegerToFloat, Mul, Pointwise, QLinearAdd, QLinearConv, QLinearMatMul, QuantizeLinear,
};
use crate::passes::fuse::per_channel;
use crate::passes::view::{View, input, output};
use crate::passes::{Patch, Wire};
use crate::{Node, ValueId};
use deepseek_tensor::{DType, Result, Tensor};
use std::sync::Arc;

/// Rules that end in a QuantizeLinear.
pub(super) fn requantised<'g>(view: &View<'g>, node: &'g Node, y: ValueId) -> Result<Found<'g>> {
    let Some(to) = Requantised::of(view, node, y) else { return Ok(Ok(None)) };
    let Some(x) = to.source(view) else { return Ok(Ok(None)) };
    if input(node, 0) == Some(x)
        && let Some(same) = Quantised::bytes(view, x).filter(|q| to.is_like(view, q))
    {
        let mut patch = Patch::new(view.graph);
        patch.redirect(y, same.q)?;
        return Ok(Ok(Some((patch, "the same bytes"))));
    }
    let Some((maker, 0)) = view.writer(x) else { return Ok(Ok(None)) };
    if let Some((layer, f)) = activated(view, maker, x) {
        return match layer.op.name() {
            "Conv" => convolution(view, layer, &to, Some(f)),
            _ => match Product::new(view, layer) {
                Some(p) => p.requantised(view, layer, &to, Some(f)),
                None => Ok(Ok(None)),
            },
        };
    }
    match maker.op.name() {
        "Conv" if view.read_once(x) => convolution(view, maker, &to, None),
        "Add" if view.read_once(x) => sum(view, maker, &to),
        "MatMul" | "Gemm" if view.read_once(x) => {
            let Some(p) = Product::new(view, maker) else { return Ok(Ok(None)) };
            p.requantised(view, maker, &to, None)
        }
        "MaxPool" | "Reshape" | "Transpose" | "Flatten" | "Squeeze" | "Unsqueeze" | "Slice"
            if input(node, 0) == Some(x) =>
        {
            moved(view, maker, &to)
        }
        _ => Ok(Ok(None)),
    }
}

/// The convolution or product before the activation that `node` applies, and the activation, if nobody
/// else reads either.
fn activated<'g>(view: &View<'g>, node: &'g Node, y: ValueId) -> Option<(&'g Node, Pointwise)> {
    let x = input(node, 0)?;
    let f = super::super::fuse::activation(view.graph, node, x)?;
    let (layer, slot) = view.writer(x)?;
    let once = view.read_once(x) && view.read_once(y) && slot == 0;
    (once && matches!(layer.op.name(), "Conv" | "MatMul" | "Gemm")).then_some((layer, f))
}

/// An operator that moves bytes or picks the greatest, between one scale and zero point.
fn moved<'g>(view: &View<'g>, node: &'g Node, to: &Requantised<'g>) -> Result<Found<'g>> {
    let Some(x) = input(node, 0).and_then(|x| Quantised::bytes(view, x)) else {
        return Ok(Ok(None));
    };
    if !x.is_uniform(view) || !to.is_like(view, &x) || node.outputs.len() != 1 {
        return Ok(Err("scale and zero point change on the way"));
    }
    let mut patch = Patch::new(view.graph);
    let mut inputs: Vec<_> = node.inputs.iter().map(|i| i.map(Wire::Old)).collect();
    inputs[0] = Some(x.q.into());
    let new = patch.add_node(&node.name, node.op.clone(), &inputs, &[true])?[0];
    patch.redirect(to.y, new.expect("the output was asked for"))?;
    Ok(Ok(Some((patch, "an operator on bytes"))))
}

fn sum<'g>(view: &View<'g>, node: &'g Node, to: &Requantised<'g>) -> Result<Found<'g>> {
    let both = (input(node, 0), input(node, 1));
    let (Some(a), Some(b)) = both else { return Ok(Ok(None)) };
    let (Some(a), Some(b)) = (Quantised::bytes(view, a), Quantised::bytes(view, b)) else {
        return Ok(Ok(None));
    };
    if !a.is_uniform(view) || !b.is_uniform(view) || !view.same_shape(a.q, b.q) {
        return Ok(Err("the summands differ in shape, or have several scales"));
    }
    let mut patch = Patch::new(view.graph);
    let (a_zero, b_zero) = (a.zero(view, &mut patch)?, b.zero(view, &mut patch)?);
    let [aq, a_scale, bq, b_scale] = [a.q, a.scale, b.q, b.scale].map(Wire::Old);
    let inputs = [aq, a_scale, a_zero, bq, b_scale, b_zero, to.scale.into(), to.zero.into()];
    let new = patch.add(&node.name, QLinearAdd::default(), &inputs)?;
    patch.redirect(to.y, new)?;
    Ok(Ok(Some((patch, "QLinearAdd"))))
}

/// The `i32` behind a bias whose unit is `a_scale · scales[j]`.
fn bias(view: &View, v: ValueId, a_scale: f32, scales: &[f32]) -> Option<ValueId> {
    let b = Quantised::behind(view, v)?;
    let q = view.constant(b.q).filter(|t| t.dtype() == DType::I32 && t.rank() == 1)?;
    if b.zero.is_some_and(|z| view.ints(z).is_none_or(|z| z.iter().any(|&z| z != 0))) {
        return None;
    }
    let units = view.constant(b.scale)?.to_vec::<f32>().ok()?;
    let n = q.len();
    let at = |v: &[f32], j: usize| if v.len() == 1 { Some(v[0]) } else { v.get(j).copied() };
    let same = (0..n).all(|j| match (at(&units, j), at(scales, j)) {
        (Some(unit), Some(scale)) => {
            let want = f64::from(a_scale) * f64::from(scale);
            (f64::from(unit) - want).abs() <= 1e-6 * want.abs()
        }
        _ => false,
    });
    same.then_some(b.q)
}

fn number(view: &View, v: ValueId) -> Option<f32> {
    view.constant(v).filter(|t| t.len() == 1)?.to_vec::<f32>().ok()?.first().copied()
}

fn convolution<'g>(
    view: &View<'g>,
    node: &'g Node,
    to: &Requantised<'g>,
    activation: Option<Pointwise>,
) -> Result<Found<'g>> {
    let Some(op) = node.op.downcast::<Conv>() else { return Ok(Ok(None)) };
    let both = (input(node, 0), input(node, 1));
    let (Some(x), Some(w)) = both else { return Ok(Ok(None)) };
    let (Some(x), Some(w)) = (Quantised::bytes(view, x), Quantised::bytes(view, w)) else {
        return Ok(Ok(None));
    };
    let Some(weights) = view.graph.constant(w.q) else {
        return Ok(Err("the weights are not constant"));
    };
    let scales = w.scales(view, weights.rank(), 0);
    let (Some(x_scale), Some(scales), true) = (number(view, x.scale), scales, x.is_uniform(view))
    else {
        return Ok(Err("scales are not constant, or lie along another axis"));
    };
    let bias = match input(node, 2) {
        None => None,
        Some(b) => match bias(view, b, x_scale, &scales) {
            None => return Ok(Err("the bias has another scale than the sums")),
            some => some,
        },
    };
    let mut patch = Patch::new(view.graph);
    let (x_zero, w_zero) = (x.zero(view, &mut patch)?, w.zero(view, &mut patch)?);
    let [xq, x_scale, wq, w_scale] = [x.q, x.scale, w.q, w.scale].map(Wire::Old);
    let mut inputs: Vec<Option<Wire>> =
        [xq, x_scale, x_zero, wq, w_scale, w_zero, to.scale.into(), to.zero.into()]
            .map(Some)
            .to_vec();
    inputs.extend(bias.map(|b| Some(Wire::Old(b))));
    let op = QLinearConv {
        auto_pad: op.auto_pad,
        dilations: op.dilations.clone(),
        group: op.group,
        kernel_shape: op.kernel_shape.clone(),
        pads: op.pads.clone(),
        strides: op.strides.clone(),
        channels_last: false,
        activation,
    };
    let new = patch.add_node(&node.name, Arc::new(op), &inputs, &[true])?[0];
    patch.redirect(to.y, new.expect("the output was asked for"))?;
    Ok(Ok(Some((patch, "QLinearConv"))))
}

/// A convolution of dequantised operands that stays in `f32`.
pub(super) fn float_convolution<'g>(
    view: &View<'g>,
    node: &'g Node,
    y: ValueId,
) -> Result<Found<'g>> {
    let Some(op) = node.op.downcast::<Conv>() else { return Ok(Ok(None)) };
    let (Some(x), Some(w)) = (input(node, 0), input(node, 1)) else { return Ok(Ok(None)) };
    let (Some(x), Some(w)) = (Quantised::bytes(view, x), Quantised::bytes(view, w)) else {
        return Ok(Ok(None));
    };
    let Some(weights) = view.graph.constant(w.q) else {
        return Ok(Err("the weights are not constant"));
    };
    let scales = w.scales(view, weights.rank(), 0);
    let (Some(x_scale), Some(scales), true) = (number(view, x.scale), scales, x.is_uniform(view))
    else {
        return Ok(Err("scales are not constant, or lie along another axis"));
    };
    let is_taken = input(node, 2).is_none_or(|b| bias(view, b, x_scale, &scales).is_some());
    if is_taken && taken(view, y) {
        return Ok(Ok(None));
    }
    let mut patch = Patch::new(view.graph);
    let (x_zero, w_zero) = (x.zero(view, &mut patch)?, w.zero(view, &mut patch)?);
    let [xq, x_scale, wq, w_scale] = [x.q, x.scale, w.q, w.scale].map(Wire::Old);
    let mut inputs = [xq, wq, x_scale, w_scale, x_zero, w_zero].map(Some).to_vec();
    inputs.extend(input(node, 2).map(|b| Some(Wire::Old(b))));
    let op = ConvIntegerToFloat {
        auto_pad: op.auto_pad,
        dilations: op.dilations.clone(),
        group: op.group,
        kernel_shape: op.kernel_shape.clone(),
        pads: op.pads.clone(),
        strides: op.strides.clone(),
        channels_last: false,
        activation: None,
    };
    let new = patch.add_node(&node.name, Arc::new(op), &inputs, &[true])?[0];
    patch.redirect(y, new.expect("the output was asked for"))?;
    Ok(Ok(Some((patch, "ConvIntegerToFloat"))))
}

/// A convolution in `f32` takes an activation.
pub(super) fn finished_convolution<'g>(
    view: &View<'g>,
    node: &'g Node,
    y: ValueId,
) -> Result<Found<'g>> {
    let Some(op) = node.op.downcast::<ConvIntegerToFloat>() else { return Ok(Ok(None)) };
    if op.activation.is_some() || !view.read_once(y) {
        return Ok(Ok(None));
    }
    let Some(next) = view.readers(y).next() else { return Ok(Ok(None)) };
    let Some(z) = output(next) else { return Ok(Ok(None)) };
    let Some(f) = super::super::fuse::activation(view.graph, next, y) else { return Ok(Ok(None)) };
    let inputs: Vec<_> = node.inputs.iter().map(|i| i.map(Wire::Old)).collect();
    let mut patch = Patch::new(view.graph);
    let op = ConvIntegerToFloat { activation: Some(f), ..op.clone() };
    let new = patch.add_node(&node.name, Arc::new(op), &inputs, &[true])?[0];
    patch.redirect(z, new.expect("the output was asked for"))?;
    Ok(Ok(Some((patch, "an activation of ConvIntegerToFloat"))))
}

/// Whether a QuantizeLinear takes `y`, directly or behind an activation.
fn taken(view: &View, y: ValueId) -> bool {
    let ends = |n: &Node| n.op.name() == "QuantizeLinear";
    let behind = |n: &Node| {
        super::super::fuse::activation(view.graph, n, y).is_some()
            && output(n).is_some_and(|r| view.read_once(r) && view.readers(r).any(ends))
    };
    view.read_once(y) && view.readers(y).all(|n| ends(n) || behind(n))
}

/// A product of bytes by constant bytes.
struct Product {
    a: Quantised,
    b: Quantised,
    weights: Tensor,
    /// Whether the weights are `[n, k]`.
    transposed: bool,
    bias: Option<ValueId>,
}

impl Product {
    fn new(view: &View, node: &Node) -> Option<Product> {
        let (a, b) = (input(node, 0)?, input(node, 1)?);
        let (a, b) = (Quantised::bytes(view, a)?, Quantised::bytes(view, b)?);
        let transposed = match node.op.downcast::<Gemm>() {
            Some(op) if op.transA || op.alpha != 1.0 || op.beta != 1.0 => return None,
            Some(op) => op.transB,
            None => node.op.downcast::<MatMul>().map(|_| false)?,
        };
        let weights = view.graph.constant(b.q).filter(|t| t.rank() == 2)?.clone();
        let uniform = a.is_uniform(view) && view.rank(a.q)? >= 2;
        b.scales(view, 2, usize::from(!transposed))?;
        uniform.then_some(Product { a, b, weights, transposed, bias: input(node, 2) })
    }

    /// The weights as `[k, n]`.
    fn weights<'g>(&self, view: &View<'g>, patch: &mut Patch<'g>) -> Result<Wire> {
        if !self.transposed {
            return Ok(self.b.q.into());
        }
        let t = self.weights.permute(&[1, 0])?.to_contiguous()?;
        Ok(patch.constant(&view.graph.value(self.b.q).name, t))
    }

    fn requantised<'g>(
        &self,
        view: &View<'g>,
        node: &'g Node,
        to: &Requantised<'g>,
        activation: Option<Pointwise>,
    ) -> Result<Found<'g>> {
        let scales = self.b.scales(view, 2, usize::from(!self.transposed));
        let (Some(a_scale), Some(scales)) = (number(view, self.a.scale), scales) else {
            return Ok(Err("scales are not constant"));
        };
        let bias = match self.bias {
            None => None,
            Some(b) => match bias(view, b, a_scale, &scales) {
                None => return Ok(Err("the bias has another scale than the sums")),
                some => some,
            },
        };
        let mut patch = Patch::new(view.graph);
        let (a_zero, b_zero) = (self.a.zero(view, &mut patch)?, self.b.zero(view, &mut patch)?);
        let b = self.weights(view, &mut patch)?;
        let [a, a_scale, b_scale] = [self.a.q, self.a.scale, self.b.scale].map(Wire::Old);
        let mut inputs: Vec<Option<Wire>> =
            [a, a_scale, a_zero, b, b_scale, b_zero, to.scale.into(), to.zero.into()]
                .map(Some)
                .to_vec();
        inputs.extend(bias.map(|b| Some(Wire::Old(b))));
        let op = Arc::new(QLinearMatMul { activation });
        let new = patch.add_node(&node.name, op, &inputs, &[true])?[0];
        patch.redirect(to.y, new.expect("the output was asked for"))?;
        Ok(Ok(Some((patch, "QLinearMatMul"))))
    }
}

/// A product of dequantised operands that stays in `f32`.
pub(super) fn product<'g>(view: &View<'g>, node: &'g Node, y: ValueId) -> Result<Found<'g>> {
    let Some(p) = Product::new(view, node) else { return Ok(Ok(None)) };
    // A QuantizeLinear takes it, if it can.
    let quantises = taken(view, y)
        && p.bias.is_none_or(|b| {
            let scales = p.b.scales(view, 2, usize::from(!p.transposed));
            match (number(view, p.a.scale), scales) {
                (Some(a), Some(s)) => bias(view, b, a, &s).is_some(),
                _ => false,
            }
        });
    if quantises {
        return Ok(Ok(None));
    }
    if p.bias.is_some_and(|b| view.rank(b) != Some(1) || view.dtype(b) != Some(DType::F32)) {
        return Ok(Err("the bias is no vector"));
    }
    let mut patch = Patch::new(view.graph);
    let (a_zero, b_zero) = (p.a.zero(view, &mut patch)?, p.b.zero(view, &mut patch)?);
    let b = p.weights(view, &mut patch)?;
    let [a, a_scale, b_scale] = [p.a.q, p.a.scale, p.b.scale].map(Wire::Old);
    let mut inputs = [a, b, a_scale, b_scale, a_zero, b_zero].map(Some).to_vec();
    inputs.extend(p.bias.map(|b| Some(Wire::Old(b))));
    let op = Arc::new(MatMulIntegerToFloat::default());
    let new = patch.add_node(&node.name, op, &inputs, &[true])?[0];
    patch.redirect(y, new.expect("the output was asked for"))?;
    Ok(Ok(Some((patch, "MatMulIntegerToFloat"))))
}

/// `Cast(MatMulInteger(a, w)) · (a_scale · w_scale)`.
pub(super) fn dynamic<'g>(view: &View<'g>, _: &'g Node, y: ValueId) -> Result<Found<'g>> {
    let found = view.either::<Mul>(y).find_map(|(sum, scale)| {
        let (cast, node) = view.made_by::<Cast>(sum)?;
        let sum = input(node, 0).filter(|_| view.dtype(y) == Some(DType::F32))?;
        let (_, product) = view.made_by::<MatMulInteger>(sum)?;
        let once = view.read_once(sum) && view.read_once(output(node)?);
        (once && cast.to == DType::F32).then_some((product, scale))
    });
    let Some((product, scale)) = found else { return Ok(Ok(None)) };
    let (Some(a), Some(b)) = (input(product, 0), input(product, 1)) else { return Ok(Ok(None)) };
    let Some(n) = view.graph.constant(b).filter(|t| t.rank() == 2).map(|t| t.shape()[1]) else {
        return Ok(Err("the weights are not a constant matrix"));
    };
    let columns = |v: ValueId| {
        view.constant(v).is_some_and(|t| t.len() == 1 || t.rank() == 1 && t.len() == n)
    };
    let scales = view.either::<Mul>(scale).find(|&(a, b)| one(view, a) && columns(b));
    if input(product, 2).is_some_and(|z| !one(view, z)) {
        return Ok(Err("each row has a zero point"));
    }
    let mut patch = Patch::new(view.graph);
    let (a_scale, b_scale): (Wire, Wire) = match scales {
        Some((a_scale, b_scale)) => (a_scale.into(), b_scale.into()),
        None if one(view, scale) => (scale.into(), patch.constant("one", Tensor::scalar(1.0f32)?)),
        None => return Ok(Err("the factor is no product of a scale and constant scales")),
    };
    let zeros = [input(product, 2), input(product, 3)].map(|z| z.map(Wire::Old));
    let mut inputs = vec![Some(a.into()), Some(b.into()), Some(a_scale), Some(b_scale)];
    inputs.extend(zeros);
    while inputs.last().is_some_and(Option::is_none) {
        inputs.pop();
    }
    let op = Arc::new(MatMulIntegerToFloat::default());
    let new = patch.add_node(&product.name, op, &inputs, &[true])?[0];
    patch.redirect(y, new.expect("the output was asked for"))?;
    Ok(Ok(Some((patch, "MatMulIntegerToFloat"))))
}

/// A requantised product of two operands that are not constant, as one of `f32`.
pub(super) fn in_floats<'g>(view: &View<'g>, node: &'g Node, y: ValueId) -> Result<Found<'g>> {
    let all: Option<Vec<ValueId>> = (0..8).map(|i| input(node, i)).collect();
    let Some(all) = all.filter(|_| node.inputs.len() == 8) else { return Ok(Ok(None)) };
    if view.graph.constant(all[3]).is_some() {
        return Ok(Ok(None));
    }
    let uniform = [1, 2, 4, 5, 6, 7].into_iter().all(|i| one(view, all[i]));
    let floats = [1, 4, 6].into_iter().all(|i| view.dtype(all[i]) == Some(DType::F32));
    if !uniform || !floats || ![0, 3].into_iter().all(|i| is_bytes(view, all[i])) {
        return Ok(Err("rows or columns have scales of their own"));
    }
    let mut patch = Patch::new(view.graph);
    let mut side = |i: usize, what: &str| {
        let inputs = [all[i], all[i + 1], all[i + 2]].map(Wire::Old);
        patch.add(&format!("{}.{what}", node.name), DequantizeLinear::default(), &inputs)
    };
    let (a, b) = (side(0, "a")?, side(3, "b")?);
    let product = patch.add(&node.name, MatMul::default(), &[a, b])?;
    let inputs = [product, all[6].into(), all[7].into()];
    let new = patch.add(&format!("{}.y", node.name), QuantizeLinear::default(), &inputs)?;
    patch.redirect(y, new)?;
    Ok(Ok(Some((patch, "MatMul in f32"))))
}

/// A product in `f32` takes a bias and an activation.
pub(super) fn finished<'g>(view: &View<'g>, node: &'g Node, y: ValueId) -> Result<Found<'g>> {
    let Some(op) = node.op.downcast::<MatMulIntegerToFloat>() else { return Ok(Ok(None)) };
    if op.activation.is_some() || !view.read_once(y) {
        return Ok(Ok(None));
    }
    let Some(next) = view.readers(y).next() else { return Ok(Ok(None)) };
    let Some(z) = output(next) else { return Ok(Ok(None)) };
    let mut inputs: Vec<_> = node.inputs.iter().map(|i| i.map(Wire::Old)).collect();
    let mut patch = Patch::new(view.graph);
    let (op, what) = match super::super::fuse::activation(view.graph, next, y) {
        Some(f) => {
            let op = MatMulIntegerToFloat { activation: Some(f) };
            (op, "an activation of MatMulIntegerToFloat")
        }
        None if next.op.name() == "Add" && input(node, 6).is_none() => {
            let other = view.either::<Add>(z).find(|(a, _)| *a == y).map(|(_, b)| b);
            let (Some(other), Some(shape)) = (other, view.shape(y)) else { return Ok(Ok(None)) };
            let n = shape.last().and_then(|d| usize::try_from(d.as_const()?).ok());
            let rank = shape.len();
            let bias = match (view.constant(other), n) {
                (Some(t), Some(n)) => per_channel(&t, rank, rank - 1, n),
                _ => None,
            };
            let Some(bias) = bias.filter(|_| view.same_shape(y, z)) else { return Ok(Ok(None)) };
            inputs.resize(6, None);
            let bias = Tensor::from_vec(&[bias.len()], bias)?;
            inputs.push(Some(patch.constant(&format!("{}.bias", node.name), bias)));
            (MatMulIntegerToFloat::default(), "a bias of MatMulIntegerToFloat")
        }
        None => return Ok(Ok(None)),
    };
    let new = patch.add_node(&node.name, Arc::new(op), &inputs, &[true])?[0];
    patch.redirect(z, new.expect("the output was asked for"))?;
    Ok(Ok(Some((patch, what))))
}

/// Whether a value of bytes is pooled or convolved as planes.
pub(super) fn is_planes(view: &View, v: ValueId) -> bool {
    is_bytes(view, v) && view.rank(v).is_some_and(|r| (3..=5).contains(&r))
}
