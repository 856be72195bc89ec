//! Layer and RMS normalisation by their formulas.

use crate::passes::view::{View, input, output};
use crate::passes::{Diagnostics, Pass, Patch, Wire};
use crate::{Graph, Node, ValueId, ops};
use deepseek_tensor::{DType, Result};

/// Finds [`LayerNormalization`](ops::LayerNormalization) and
/// [`RMSNormalization`](ops::RMSNormalization): first the normalised value itself, with a scale of
/// ones, then in later rounds the scale that is multiplied and the bias that is added.
pub struct FuseNorms;

impl Pass for FuseNorms {
    fn name(&self) -> &'static str {
        "norm"
    }

    fn run<'g>(&self, graph: &'g Graph, diagnostics: &mut Diagnostics) -> Result<Vec<Patch<'g>>> {
        let view = View::new(graph);
        let mut patches = Vec::new();
        for node in graph.nodes() {
            let Some(y) = output(node).filter(|y| !view.is_unread(*y)) else { continue };
            let found = match node.op.name() {
                "Div" => core(&view, y),
                "Mul" => core(&view, y).or_else(|why| scale(&view, y).ok_or(why)),
                "Add" => bias(&view, y).or_else(|| batch_norm_form(&view, y)).ok_or(None),
                _ => continue,
            };
            let found = match found {
                Ok(found) => found,
                Err(why) => {
                    if let Some(why) = why {
                        diagnostics.missed(self.name(), &node.name, || why);
                    }
                    continue;
                }
            };
            let mut patch = Patch::new(graph);
            let new = found.add(&view, &mut patch, node)?;
            match patch.redirect(y, new) {
                Ok(()) => {
                    diagnostics.fired(self.name(), &node.name, || found.what());
                    patches.push(patch);
                }
                Err(e) => diagnostics.missed(self.name(), &node.name, || e.message().to_owned()),
            }
        }
        Ok(patches)
    }
}

/// A normalisation over the axes from `axis` to the last.
struct Norm {
    x: ValueId,
    axis: usize,
    epsilon: f64,
    /// Whether the mean is subtracted.
    centred: bool,
    /// The scale; ones if absent.
    scale: Option<ValueId>,
    bias: Option<ValueId>,
}

impl Norm {
    fn what(&self) -> String {
        let name = if self.centred { "LayerNormalization" } else { "RMSNormalization" };
        format!("{name} from axis {}, epsilon {:e}", self.axis, self.epsilon)
    }

    fn add(&self, view: &View, patch: &mut Patch, node: &Node) -> Result<Wire> {
        let name = &node.name;
        let scale = match self.scale {
            Some(scale) => self.parameter(view, patch, scale)?,
            None => {
                let shape: Vec<usize> = extents(view, self.x, self.axis).unwrap_or_default();
                let dtype = view.dtype(self.x).unwrap_or(DType::F32);
                let ones = vec![1.0; shape.iter().product()];
                let ones = crate::ops::util::cast_from_f64(dtype, &shape, &ones)?;
                patch.constant(&format!("{name}.scale"), ones)
            }
        };
        let (axis, epsilon) = (self.axis as i64, self.epsilon as f32);
        if !self.centred {
            let op = ops::RMSNormalization { axis, epsilon, ..Default::default() };
            return patch.add(name, op, &[self.x.into(), scale]);
        }
        let mut inputs = vec![self.x.into(), scale];
        if let Some(bias) = self.bias {
            inputs.push(self.parameter(view, patch, bias)?);
        }
        let op = ops::LayerNormalization { axis, epsilon, ..Default::default() };
        patch.add(name, op, &inputs)
    }

    /// A parameter without leading axes of extent 1, if it is a constant.
    fn parameter(&self, view: &View, patch: &mut Patch, v: ValueId) -> Result<Wire> {
        let (Some(t), Some(rank)) = (view.constant(v), view.rank(self.x)) else {
            return Ok(v.into());
        };
        let own = rank - self.axis;
        if t.rank() <= own {
            return Ok(v.into());
        }
        let shape = t.shape()[t.rank() - own..].to_vec();
        Ok(patch.constant(&view.graph.value(v).name, t.reshape(&shape)?))
    }
}

/// The extents of `x` from `axis` on, if they are numbers.
fn extents(view: &View, x: ValueId, axis: usize) -> Option<Vec<usize>> {
    view.shape(x)?[axis..].iter().map(|d| usize::try_from(d.as_const()?).ok()).collect()
}

/// What is divided by a root of a mean square.
struct Deviation {
    /// The mean square.
    square: ValueId,
    epsilon: f64,
}

/// `√(m + ε)`.
fn root(view: &View, v: ValueId) -> Option<Deviation> {
    let sum = match view.unary::<ops::Sqrt>(v) {
        Some(sum) => sum,
        None => power(view, v, 0.5)?,
    };
    deviation(view, sum)
}

/// `1/√(m + ε)`.
fn inverse(view: &View, v: ValueId) -> Option<Deviation> {
    if let Some(x) = view.unary::<ops::Reciprocal>(v) {
        return root(view, x);
    }
    if let Some((one, x)) = view.binary::<ops::Div>(v) {
        return if view.is_number(one, 1.0) { root(view, x) } else { None };
    }
    deviation(view, power(view, v, -0.5)?)
}

fn power(view: &View, v: ValueId, exponent: f64) -> Option<ValueId> {
    let (x, n) = view.binary::<ops::Pow>(v)?;
    (view.number(n) == Some(exponent)).then_some(x)
}

/// `m + ε`, or `m` alone: an exporter may find that ε is nothing.
fn deviation(view: &View, sum: ValueId) -> Option<Deviation> {
    let (square, epsilon) = view.shifted(sum).unwrap_or((sum, 0.0));
    Some(Deviation { square, epsilon })
}

/// The value and the first axis if `v` is the mean of its last axes, which stay with extent 1.
fn mean(view: &View, v: ValueId) -> Option<(ValueId, usize)> {
    let (op, node) = view.made_by::<ops::ReduceMean>(v)?;
    let x = input(node, 0)?;
    let rank = view.rank(x)?;
    let axes = view.reduced_axes(node, op.noop_with_empty_axes, rank)?;
    let first = *axes.first()?;
    let last = axes.iter().copied().eq(first..rank);
    (op.keepdims && last).then_some((x, first))
}

/// `x` if `v = x²`.
fn square(view: &View, v: ValueId) -> Option<ValueId> {
    if let Some((a, b)) = view.binary::<ops::Mul>(v) {
        return (a == b).then_some(a);
    }
    power(view, v, 2.0)
}

/// The norm of `numerator / √(mean(d²) + ε)`.
fn normalised(view: &View, numerator: ValueId, by: &Deviation) -> Result<Norm, Option<String>> {
    let (squared, axis) = mean(view, by.square).ok_or(None)?;
    let d = square(view, squared).ok_or(None)?;
    let centred = |d: ValueId| {
        let (x, m) = view.binary::<ops::Sub>(d)?;
        let (of, at) = mean(view, m)?;
        (of == x && at == axis).then_some(x)
    };
    let (x, is_centred) = match (centred(d), d == numerator) {
        (Some(x), true) => (x, true),
        (None, true) => (d, false),
        // The same difference, computed apart.
        (Some(x), false) if centred(numerator) == Some(x) => (x, true),
        _ => return Err(Some("a norm: what is divided is not what is squared".to_owned())),
    };
    if extents(view, x, axis).is_none() {
        let dims = view.shape(x).map(|s| s[axis..].to_vec()).unwrap_or_default();
        return Err(Some(format!("a norm: the extents {dims:?} are not numbers")));
    }
    let epsilon = by.epsilon;
    Ok(Norm { x, axis, epsilon, centred: is_centred, scale: None, bias: None })
}

/// The normalised value alone, or with a scale that is multiplied into the reciprocal root.
fn core(view: &View, y: ValueId) -> Result<Norm, Option<String>> {
    if let Some((n, d)) = view.binary::<ops::Div>(y)
        && let Some(by) = root(view, d)
    {
        return normalised(view, n, &by);
    }
    for (n, d) in view.either::<ops::Mul>(y) {
        if let Some(by) = inverse(view, d) {
            return normalised(view, n, &by);
        }
        for (inv, gamma) in view.either::<ops::Mul>(d) {
            if let Some(by) = inverse(view, inv)
                && let Ok(norm) = normalised(view, n, &by)
                && fits(view, &norm, gamma)
            {
                return Ok(Norm { scale: Some(gamma), ..norm });
            }
        }
    }
    Err(None)
}

/// Whether `p` is a scale or bias of the normalised axes alone.
fn fits(view: &View, norm: &Norm, p: ValueId) -> bool {
    let (Some(x), Some(p)) = (view.shape(norm.x), view.shape(p)) else { return false };
    let own = x.len() - norm.axis;
    let Some(lead) = p.len().checked_sub(own) else { return false };
    p.len() <= x.len()
        && view.same_dims(&p[lead..], &x[norm.axis..])
        && p[..lead].iter().all(|d| d.as_const() == Some(1))
}

/// The norm that makes `v`, if only one node reads it.
fn existing(view: &View, v: ValueId) -> Option<Norm> {
    if !view.read_once(v) {
        return None;
    }
    let (node, _) = view.writer(v)?;
    let (axis, epsilon, centred) = if let Some(op) = node.op.downcast::<ops::LayerNormalization>() {
        (op.axis, op.epsilon, true)
    } else {
        let op = node.op.downcast::<ops::RMSNormalization>()?;
        (op.axis, op.epsilon, false)
    };
    let x = input(node, 0)?;
    let axis = crate::ops::util::normalize_axis(axis, view.rank(x)?).ok()?;
    let epsilon = f64::from(epsilon);
    if node.outputs.len() > 1 {
        return None;
    }
    Some(Norm { x, axis, epsilon, centred, scale: input(node, 1), bias: input(node, 2) })
}

/// A norm with a scale of ones, multiplied.
fn scale(view: &View, y: ValueId) -> Option<Norm> {
    view.either::<ops::Mul>(y).find_map(|(v, gamma)| {
        let norm = existing(view, v)?;
        let ones = view.is_number(norm.scale?, 1.0);
        let dtype = view.dtype(gamma) == view.dtype(v);
        (ones && norm.bias.is_none() && dtype && fits(view, &norm, gamma))
            .then_some(Norm { scale: Some(gamma), ..norm })
    })
}

/// A layer norm without bias, plus one.
fn bias(view: &View, y: ValueId) -> Option<Norm> {
    view.either::<ops::Add>(y).find_map(|(v, beta)| {
        let norm = existing(view, v)?;
        let constant = view.constant(beta).is_some();
        (norm.centred && norm.bias.is_none() && constant && fits(view, &norm, beta))
            .then_some(Norm { bias: Some(beta), ..norm })
    })
}

/// `x·s + (bias − mean·s)` with `s = scale/√(var + ε)`, as TensorFlow writes it.
fn batch_norm_form(view: &View, y: ValueId) -> Option<Norm> {
    view.either::<ops::Add>(y).find_map(|(scaled, shift)| {
        let (beta, moved) = view.binary::<ops::Sub>(shift)?;
        view.either::<ops::Mul>(scaled).find_map(|(x, s)| {
            let (m, _) = view.either::<ops::Mul>(moved).find(|(_, other)| *other == s)?;
            let (of, axis) = mean(view, m)?;
            let (by, gamma) = view
                .either::<ops::Mul>(s)
                .find_map(|(inv, gamma)| Some((inverse(view, inv)?, gamma)))?;
            let (squared, at) = mean(view, by.square)?;
            let d = square(view, squared)?;
            let (a, b) = view.binary::<ops::Sub>(d)?;
            let differs = (a, b) == (x, m) || (a, b) == (m, x);
            let norm = Norm {
                x,
                axis,
                epsilon: by.epsilon,
                centred: true,
                scale: Some(gamma),
                bias: Some(beta),
            };
            let fits = fits(view, &norm, gamma) && fits(view, &norm, beta);
            (of == x && at == axis && differs && fits).then_some(norm)
        })
    })
}
