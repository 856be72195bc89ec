//! Activation functions by their formulas.

use super::product::Product;
use crate::ops::GeluApproximation;
use crate::passes::view::{View, close, input, output};
use crate::passes::{Diagnostics, Pass, Patch, Wire};
use crate::{Graph, Operator, ValueId, ops};
use deepseek_tensor::Result;
use std::f64::consts::{FRAC_1_SQRT_2, PI};
use std::sync::Arc;

/// The factor of the cube in [`Gelu`](ops::Gelu) by tanh.
const CUBE: f64 = 0.044715;

/// Finds [`Gelu`](ops::Gelu) by erf and by tanh, [`Swish`](ops::Swish) (SiLU, and GELU by a
/// sigmoid), [`SwiGLU`](ops::SwiGLU), [`HardSwish`](ops::HardSwish), [`Softplus`](ops::Softplus)
/// and [`Mish`](ops::Mish) in whatever order their factors are multiplied.
pub struct FuseActivations;

impl Pass for FuseActivations {
    fn name(&self) -> &'static str {
        "activation"
    }

    fn run<'g>(&self, graph: &'g Graph, diagnostics: &mut Diagnostics) -> Result<Vec<Patch<'g>>> {
        let view = View::new(graph);
        let mut patches = Vec::new();
        for node in graph.nodes() {
            let Some(y) = output(node).filter(|y| !view.is_unread(*y)) else { continue };
            if !view.dtype(y).is_some_and(|d| d.is_float()) {
                continue;
            }
            let found = match node.op.name() {
                "Mul" | "Div" => product(&view, y),
                "Log" => softplus(&view, y),
                _ => continue,
            };
            match found {
                Ok((op, inputs)) => {
                    let mut patch = Patch::new(graph);
                    let inputs: Vec<_> = inputs.into_iter().map(|x| Some(Wire::Old(x))).collect();
                    let new = patch.add_node(&node.name, op.clone(), &inputs, &[true])?;
                    match patch.redirect(y, new[0].expect("the output was asked for")) {
                        Ok(()) => {
                            diagnostics.fired(self.name(), &node.name, || op.name().to_owned());
                            patches.push(patch);
                        }
                        Err(e) => {
                            diagnostics.missed(self.name(), &node.name, || e.message().to_owned());
                        }
                    }
                }
                Err(Some(why)) => diagnostics.missed(self.name(), &node.name, || why),
                Err(None) => {}
            }
        }
        Ok(patches)
    }
}

/// An operator and its inputs; or why not, if it was close.
type Found = Result<(Arc<dyn Operator>, Vec<ValueId>), Option<String>>;

fn found(op: impl Operator, inputs: &[ValueId]) -> Found {
    Ok((Arc::new(op), inputs.to_vec()))
}

/// What makes the nonlinear factor of an activation.
enum Core {
    /// `1 + erf(x/√2)`.
    Erf,
    /// `1 + tanh(√(2/π) (x + 0.044715 x³))`.
    Tanh,
    /// `σ(αx)`.
    Sigmoid(f64),
    /// `clip(x + 3, 0, 6)`.
    Relu6,
    /// `max(0, min(1, x/6 + ½))`.
    HardSigmoid,
    /// `tanh(softplus(x))`.
    TanhSoftplus,
    /// `swish(x)`, with its operator.
    Swish(f32),
}

/// The nonlinear factor `v` and its `x`; or why not.
fn core(view: &View, v: ValueId) -> Result<(Core, ValueId), Option<String>> {
    if let Some((inner, one)) = view.shifted(v)
        && close(one, 1.0)
    {
        if let Some(arg) = view.unary::<ops::Erf>(inner) {
            let (x, c) = view.scaled(arg).ok_or(None)?;
            if !close(c, FRAC_1_SQRT_2) {
                return Err(Some(format!("a Gelu: its erf is of {c} · x, not of x/√2")));
            }
            return Ok((Core::Erf, x));
        }
        if let Some(arg) = view.unary::<ops::Tanh>(inner) {
            return tanh_argument(view, arg).map(|x| (Core::Tanh, x));
        }
        return Err(None);
    }
    if let Some(arg) = view.unary::<ops::Sigmoid>(v) {
        return Ok(match view.scaled(arg) {
            Some((x, alpha)) => (Core::Sigmoid(alpha), x),
            None => (Core::Sigmoid(1.0), arg),
        });
    }
    if let Some((op, node)) = view.made_by::<ops::HardSigmoid>(v) {
        let x = input(node, 0).ok_or(None)?;
        let fits = close(f64::from(op.alpha), 1.0 / 6.0) && close(f64::from(op.beta), 0.5);
        return if fits { Ok((Core::HardSigmoid, x)) } else { Err(None) };
    }
    if let Some((op, node)) = view.made_by::<ops::Swish>(v) {
        return Ok((Core::Swish(op.alpha), input(node, 0).ok_or(None)?));
    }
    if let Some(arg) = view.unary::<ops::Tanh>(v) {
        return match view.unary::<ops::Softplus>(arg) {
            Some(x) => Ok((Core::TanhSoftplus, x)),
            None => Err(None),
        };
    }
    match relu6(view, v).and_then(|arg| view.shifted(arg)) {
        Some((x, three)) if close(three, 3.0) => Ok((Core::Relu6, x)),
        _ => Err(None),
    }
}

/// `x` if `v = max(0, min(6, x))`.
fn relu6(view: &View, v: ValueId) -> Option<ValueId> {
    if let Some((_, node)) = view.made_by::<ops::Clip>(v) {
        let bound = |i: usize| input(node, i).and_then(|c| view.number(c));
        return if (bound(1), bound(2)) == (Some(0.0), Some(6.0)) { input(node, 0) } else { None };
    }
    let other = |(x, c): (ValueId, ValueId), want: f64| (view.number(c) == Some(want)).then_some(x);
    let low = match view.unary::<ops::Relu>(v) {
        Some(x) => return view.either::<ops::Min>(x).find_map(|p| other(p, 6.0)),
        None => view.either::<ops::Min>(v).find_map(|p| other(p, 6.0))?,
    };
    match view.unary::<ops::Relu>(low) {
        Some(x) => Some(x),
        None => view.either::<ops::Max>(low).find_map(|p| other(p, 0.0)),
    }
}

/// `x` if `v = √(2/π) (x + 0.044715 x³)`, or `√(2/π) x (1 + 0.044715 x²)`.
fn tanh_argument(view: &View, v: ValueId) -> Result<ValueId, Option<String>> {
    let sum = |f: ValueId| view.binary::<ops::Add>(f).is_some();
    let outer = Product::of(view, v, &sum);
    let want = (2.0 / PI).sqrt();
    let near = |why: &str| Err(Some(format!("a Gelu: {why}")));
    if !close(outer.coefficient, want) {
        return Err(None);
    }
    match *outer.factors {
        [f] => {
            for (x, cube) in view.either::<ops::Add>(f) {
                let cube = Product::of(view, cube, &|f| f == x);
                if cube.factors.len() == 3 && cube.without(x, 3).is_some() {
                    if !close(cube.coefficient, CUBE) {
                        return near(&format!("its cube has the factor {}", cube.coefficient));
                    }
                    return Ok(x);
                }
            }
            near("its tanh is not of x + 0.044715 x³")
        }
        [a, b] => {
            for (x, f) in [(a, b), (b, a)] {
                let Some((square, one)) = view.shifted(f) else { continue };
                let square = Product::of(view, square, &|f| f == x);
                if close(one, 1.0)
                    && close(square.coefficient, CUBE)
                    && square.factors.len() == 2
                    && square.without(x, 2).is_some()
                {
                    return Ok(x);
                }
            }
            near("its tanh is not of x (1 + 0.044715 x²)")
        }
        _ => Err(None),
    }
}

/// Activations that are a product of `x` and a function of it.
fn product(view: &View, y: ValueId) -> Found {
    let is_core = |v: ValueId| core(view, v).is_ok();
    let all = Product::of(view, y, &is_core);
    let mut close_call = None;
    for &f in &all.factors {
        let (kind, x) = match core(view, f) {
            Ok(found) => found,
            Err(why) => {
                close_call = close_call.or(why);
                continue;
            }
        };
        if let Core::Swish(alpha) = kind {
            // The gate times one other value.
            for (a, b) in view.either::<ops::Mul>(y).filter(|(a, _)| *a == f) {
                if view.same_shape(a, b) && view.read_once(a) {
                    return found(ops::SwiGLU { alpha }, &[x, b]);
                }
            }
            continue;
        }
        let product = Product::of(view, y, &|v| v == x || v == f);
        if product.factors.len() != 2 || product.without(f, 1) != Some(vec![x]) {
            continue;
        }
        let c = product.coefficient;
        match kind {
            Core::Erf if close(c, 0.5) => return found(ops::Gelu::default(), &[x]),
            Core::Tanh if close(c, 0.5) => {
                return found(ops::Gelu { approximate: GeluApproximation::Tanh }, &[x]);
            }
            Core::Sigmoid(alpha) if close(c, 1.0) => {
                return found(ops::Swish { alpha: alpha as f32 }, &[x]);
            }
            Core::Relu6 if close(c, 1.0 / 6.0) => return found(ops::HardSwish {}, &[x]),
            Core::HardSigmoid if close(c, 1.0) => return found(ops::HardSwish {}, &[x]),
            Core::TanhSoftplus if close(c, 1.0) => return found(ops::Mish {}, &[x]),
            // Half of it: the other half comes with a node above.
            _ if close(c, 1.0) => {}
            _ => close_call = Some(format!("an activation: the product has the factor {c}")),
        }
    }
    Err(close_call)
}

/// `ln(1 + eˣ)`.
fn softplus(view: &View, y: ValueId) -> Found {
    let sum = view.unary::<ops::Log>(y).and_then(|sum| view.shifted(sum));
    match sum.map(|(e, one)| (view.unary::<ops::Exp>(e), one)) {
        Some((Some(x), 1.0)) => found(ops::Softplus {}, &[x]),
        _ => Err(None),
    }
}
