//! Normalisations and softmax in `f32`.

use super::{all_f32, attr_f32, attr_i64, bind_in_place, expect_shape, floats};
use crate::registry::{KernelArgs, KernelDef, PrepareArgs, Prepared};
use deepseek_graph::Fact;
use deepseek_kernels_cpu::norm::{self, Stats};
use deepseek_kernels_cpu::softmax;
use deepseek_tensor::{Result, Tensor, ensure};

pub(super) static KERNELS: &[KernelDef] = &[
    KernelDef { op: "LayerNormalization", prepare: layer_norm },
    KernelDef { op: "RMSNormalization", prepare: rms_norm },
    KernelDef { op: "Softmax", prepare: |a| softmax_op(a, false) },
    KernelDef { op: "LogSoftmax", prepare: |a| softmax_op(a, true) },
];

/// `axis` counted from the front for input 0 of known rank.
fn axis_of(args: &PrepareArgs) -> Option<usize> {
    let rank = args.input(0).and_then(Fact::rank)?;
    deepseek_graph::ops::util::normalize_axis(attr_i64(args, "axis")?, rank).ok()
}

fn layer_norm(args: &PrepareArgs) -> Result<Option<Prepared>> {
    let (Some(axis), Some(eps)) = (axis_of(args), attr_f32(args, "epsilon")) else {
        return Ok(None);
    };
    if !all_f32(args) || args.node.outputs.len() > 1 {
        return Ok(None);
    }
    bind_in_place(args, "f32", "layer-norm", &[0], move |k| {
        let (x, scale, bias) = (k.opt(0).cloned(), k.input(1)?.clone(), k.opt(2).cloned());
        let (rows, cols) = split(k, x.as_ref(), axis)?;
        let bias = bias.as_ref().map(|b| vector("bias", b, cols)).transpose()?;
        let scale = Some(vector("scale", &scale, cols)?);
        let y = k.outputs[0].as_slice_mut()?;
        let (isa, pool) = (k.isa, k.pool);
        match x {
            None => norm::layer_norm_inplace(isa, pool, rows, cols, y, scale, bias, eps),
            Some(x) => {
                let (x, stats) = (floats(&x)?, Stats::default());
                norm::layer_norm(isa, pool, rows, cols, x, scale, bias, eps, y, stats);
            }
        }
        Ok(())
    })
}

fn rms_norm(args: &PrepareArgs) -> Result<Option<Prepared>> {
    let (Some(axis), Some(eps)) = (axis_of(args), attr_f32(args, "epsilon")) else {
        return Ok(None);
    };
    if !all_f32(args) {
        return Ok(None);
    }
    bind_in_place(args, "f32", "rms-norm", &[0], move |k| {
        let (x, scale) = (k.opt(0).cloned(), k.input(1)?.clone());
        let (rows, cols) = split(k, x.as_ref(), axis)?;
        let scale = Some(vector("scale", &scale, cols)?);
        let y = k.outputs[0].as_slice_mut()?;
        let (isa, pool) = (k.isa, k.pool);
        match x {
            None => norm::rms_norm_inplace(isa, pool, rows, cols, y, scale, eps),
            Some(x) => {
                let (x, stats) = (floats(&x)?, Stats::default());
                norm::rms_norm(isa, pool, rows, cols, x, scale, eps, y, stats);
            }
        }
        Ok(())
    })
}

/// Rows before `axis` and columns from it on, after checking that the input, unless it is
/// taken over, has the output's shape.
fn split(k: &KernelArgs, x: Option<&Tensor>, axis: usize) -> Result<(usize, usize)> {
    let shape = same_shape(k, x)?;
    let (rows, cols) = shape.split_at(axis.min(shape.len()));
    Ok((rows.iter().product(), cols.iter().product()))
}

/// The output's shape, which input 0 must have unless it is taken over.
fn same_shape<'a>(k: &'a KernelArgs, x: Option<&Tensor>) -> Result<&'a [usize]> {
    let shape = k.outputs[0].shape();
    match x {
        Some(x) => expect_shape("input 0", x.shape(), shape)?,
        None => ensure!(k.in_place == Some(0), InvalidGraph, "required input 0 is missing"),
    }
    Ok(shape)
}

fn vector<'a>(what: &str, t: &'a Tensor, len: usize) -> Result<&'a [f32]> {
    ensure!(
        t.len() == len,
        ShapeMismatch,
        "{what} has shape {:?}, the normalised axes hold {len} elements",
        t.shape()
    );
    floats(t)
}

fn softmax_op(args: &PrepareArgs, log: bool) -> Result<Option<Prepared>> {
    let Some(axis) = axis_of(args).filter(|_| all_f32(args)) else { return Ok(None) };
    bind_in_place(args, "f32", if log { "log-softmax" } else { "softmax" }, &[0], move |k| {
        let x = k.opt(0).cloned();
        let shape = same_shape(k, x.as_ref())?;
        let (outer, len) = (shape[..axis].iter().product(), shape[axis]);
        let inner = shape[axis + 1..].iter().product();
        let y = k.outputs[0].as_slice_mut()?;
        match x {
            None => softmax::softmax_inplace(k.isa, k.pool, log, outer, len, inner, y),
            Some(x) => {
                softmax::softmax(k.isa, k.pool, log, outer, len, inner, floats(&x)?, y);
            }
        }
        Ok(())
    })
}
