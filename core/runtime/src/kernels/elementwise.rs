//! Pointwise operators on `f32`.

use super::{all_f32, attr_f32, bind, bind_in_place, expect_shape, floats, none};
use crate::registry::{KernelArgs, KernelDef, PrepareArgs, Prepared};
use deepseek_graph::ops::Pointwise;
use deepseek_kernels_cpu::elementwise::{
    Binary, Rows, Unary, binary, binary_inplace, unary, unary_inplace,
};
use deepseek_tensor::{Result, Tensor, broadcast_shapes, contiguous_strides};

macro_rules! defs {
    ($($prepare:ident: $($op:literal)*;)*) => {
        pub(super) static KERNELS: &[KernelDef] =
            &[$($(KernelDef { op: $op, prepare: $prepare }),*),*];
    };
}

defs! {
    one_element:
        "Abs" "Ceil" "Cos" "Elu" "Erf" "Exp" "Floor" "Gelu" "HardSigmoid" "HardSwish" "LeakyRelu"
        "Log" "Mish" "Neg" "Reciprocal" "Relu" "Round" "Sigmoid" "Sin" "Softplus" "Sqrt" "Swish" "Tanh";
    two_elements: "Add" "Div" "Max" "Min" "Mul" "Pow" "Sub";
    clip: "Clip";
    swiglu: "SwiGLU";
}

/// The kernel of a function of one element.
pub(crate) fn function(f: &Pointwise) -> Option<Unary> {
    let p = f.parameters();
    Some(match f.name() {
        "Abs" => Unary::Abs,
        "Ceil" => Unary::Ceil,
        "Clip" => Unary::Clip { lo: p[0], hi: p[1] },
        "Cos" => Unary::Cos,
        "Elu" => Unary::Elu { alpha: p[0] },
        "Erf" => Unary::Erf,
        "Exp" => Unary::Exp,
        "Floor" => Unary::Floor,
        "Gelu" => Unary::Gelu,
        "GeluTanh" => Unary::GeluTanh,
        "HardSigmoid" => Unary::HardSigmoid { alpha: p[0], beta: p[1] },
        "HardSwish" => Unary::HardSwish,
        "LeakyRelu" => Unary::LeakyRelu { alpha: p[0] },
        "Log" => Unary::Log,
        "Mish" => Unary::Mish,
        "Neg" => Unary::Neg,
        "Reciprocal" => Unary::Reciprocal,
        "Relu" => Unary::Relu,
        "Round" => Unary::RoundEven,
        "Sigmoid" => Unary::Sigmoid,
        "Sin" => Unary::Sin,
        "Softplus" => Unary::Softplus,
        "Sqrt" => Unary::Sqrt,
        "Swish" => Unary::Silu,
        "SwishAlpha" => Unary::Swish { alpha: p[0] },
        "Tanh" => Unary::Tanh,
        _ => return None,
    })
}

/// The kernel of a function of two elements.
pub(super) fn function2(f: &Pointwise) -> Option<Binary> {
    Some(match f.name() {
        "Add" => Binary::Add,
        "Div" => Binary::Div,
        "Max" => Binary::Max,
        "Min" => Binary::Min,
        "Mul" => Binary::Mul,
        "Pow" => Binary::Pow,
        "Sub" => Binary::Sub,
        _ => return None,
    })
}

fn one_element(args: &PrepareArgs) -> Result<Option<Prepared>> {
    match Pointwise::of(args.graph, args.node).and_then(|f| function(&f)) {
        Some(op) if all_f32(args) => {
            bind_in_place(args, "f32", "unary", &[0], move |k| apply(k, op))
        }
        _ => Ok(None),
    }
}

fn apply(k: &mut KernelArgs, op: Unary) -> Result<()> {
    if k.in_place == Some(0) {
        unary_inplace(k.isa, k.pool, op, k.outputs[0].as_slice_mut()?);
        return Ok(());
    }
    let x = k.input(0)?.clone();
    expect_shape("input 0", x.shape(), k.outputs[0].shape())?;
    unary(k.isa, k.pool, op, floats(&x)?, k.outputs[0].as_slice_mut()?);
    Ok(())
}

fn swiglu(args: &PrepareArgs) -> Result<Option<Prepared>> {
    let Some(alpha) = attr_f32(args, "alpha").filter(|_| all_f32(args)) else { return Ok(None) };
    let gate = if alpha == 1.0 { Unary::Silu } else { Unary::Swish { alpha } };
    bind(args, "f32", "swiglu", none(), move |k| {
        apply(k, gate)?;
        let value = k.input(1)?.clone();
        expect_shape("input 1", value.shape(), k.outputs[0].shape())?;
        let y = k.outputs[0].as_slice_mut()?;
        let (n, value) = (y.len(), Rows::dense(floats(&value)?, y.len()));
        binary_inplace(k.isa, k.pool, Binary::Mul, 1, n, y, value, false);
        Ok(())
    })
}

/// Limits are scalars, absent ones infinite; a constant NaN limit is left to the reference.
fn clip(args: &PrepareArgs) -> Result<Option<Prepared>> {
    if !all_f32(args) {
        return Ok(None);
    }
    bind_in_place(args, "f32", "clip", &[0], |k| {
        let limit = |i: usize, open: f32| match k.opt(i) {
            Some(t) => t.item::<f32>(),
            None => Ok(open),
        };
        let (lo, hi) = (limit(1, f32::NEG_INFINITY)?, limit(2, f32::INFINITY)?);
        apply(k, Unary::Clip { lo, hi })
    })
}

fn two_elements(args: &PrepareArgs) -> Result<Option<Prepared>> {
    let Some(f) = Pointwise::of(args.graph, args.node) else { return Ok(None) };
    match function2(&f) {
        Some(op) if all_f32(args) => {
            let variant = f.name().to_lowercase();
            bind_in_place(args, "f32", &variant, &[0, 1], move |k| broadcast_binary(k, op))
        }
        _ => Ok(None),
    }
}

/// `y = op(a, b)` under numpy's broadcasting. Axes that both operands walk alike
/// collapse; the two innermost that remain go to the kernel, the others are looped. An
/// operand that is taken over has as many elements as the result, so it is walked like it.
fn broadcast_binary(k: &mut KernelArgs, op: Binary) -> Result<()> {
    let operand = |i: usize| (k.in_place != Some(i)).then(|| k.input(i).cloned()).transpose();
    let (a, b) = (operand(0)?, operand(1)?);
    let shape = k.outputs[0].shape().to_vec();
    if let (Some(a), Some(b)) = (&a, &b) {
        let broadcast = broadcast_shapes(a.shape(), b.shape())?;
        expect_shape("the broadcast of the inputs", &broadcast, &shape)?;
    }
    let steps = |t: &Option<Tensor>| match t {
        Some(t) => Ok(t.broadcast_to(&shape)?.strides().to_vec()),
        None => Ok::<_, deepseek_tensor::Error>(contiguous_strides(&shape).to_vec()),
    };
    let (a_steps, b_steps) = (steps(&a)?, steps(&b)?);
    let x = a.as_ref().map(floats).transpose()?;
    let y = b.as_ref().map(floats).transpose()?;
    let out = k.outputs[0].as_slice_mut::<f32>()?;
    if out.is_empty() {
        return Ok(());
    }
    let axes = collapse(&shape, &a_steps, &b_steps);
    let one = Axis { extent: 1, a: 0, b: 0 };
    let inner = axes.last().copied().unwrap_or(one);
    let rows = axes.len().checked_sub(2).map_or(one, |i| axes[i]);
    let outer = &axes[..axes.len().saturating_sub(2)];
    let block = rows.extent * inner.extent;
    let mut index = vec![0usize; outer.len()];
    for y_out in out.chunks_exact_mut(block) {
        let at = |step: fn(&Axis) -> usize| -> usize {
            index.iter().zip(outer).map(|(i, axis)| i * step(axis)).sum()
        };
        let a = x.map(|x| Rows { data: &x[at(|s| s.a)..], row: rows.a, col: inner.a });
        let b = y.map(|y| Rows { data: &y[at(|s| s.b)..], row: rows.b, col: inner.b });
        let (isa, pool, n, m) = (k.isa, k.pool, rows.extent, inner.extent);
        match (a, b) {
            (Some(a), Some(b)) => binary(isa, pool, op, n, m, a, b, y_out),
            (None, Some(b)) => binary_inplace(isa, pool, op, n, m, y_out, b, false),
            (Some(a), None) => binary_inplace(isa, pool, op, n, m, y_out, a, true),
            (None, None) => {}
        }
        for (i, axis) in index.iter_mut().zip(outer).rev() {
            *i += 1;
            if *i < axis.extent {
                break;
            }
            *i = 0;
        }
    }
    Ok(())
}

/// An axis of the result and the operands' steps along it, 0 where one repeats.
#[derive(Clone, Copy)]
struct Axis {
    extent: usize,
    a: usize,
    b: usize,
}

/// Drops axes of extent 1 and joins neighbours that both operands walk as one.
/// Strides of broadcast contiguous operands are never negative.
fn collapse(shape: &[usize], a: &[isize], b: &[isize]) -> Vec<Axis> {
    let mut out: Vec<Axis> = Vec::with_capacity(shape.len());
    for (i, &extent) in shape.iter().enumerate() {
        if extent == 1 {
            continue;
        }
        let axis = Axis { extent, a: a[i] as usize, b: b[i] as usize };
        match out.last_mut() {
            Some(last) if last.a == axis.a * extent && last.b == axis.b * extent => {
                *last = Axis { extent: last.extent * extent, ..axis };
            }
            _ => out.push(axis),
        }
    }
    out
}
