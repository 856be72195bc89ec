//! Operators that move elements without looking at them: any element type of whole bytes.

use super::{attr_i64, bind, expect_shape, none};
use crate::registry::{KernelArgs, KernelDef, Output, PrepareArgs, Prepared};
use deepseek_graph::ops::util::normalize_axis;
use deepseek_graph::{Fact, ops};
use deepseek_kernels_cpu::Parallel;
use deepseek_kernels_cpu::convert::{MAX_DIMS, copy_strided};
use deepseek_tensor::{DType, Dims, Result, Strides, Tensor, contiguous_strides, ensure, err};

pub(super) static KERNELS: &[KernelDef] = &[
    KernelDef { op: "Transpose", prepare: transpose },
    KernelDef { op: "Slice", prepare: slice },
    KernelDef { op: "Expand", prepare: expand },
    KernelDef { op: "Concat", prepare: concat },
    KernelDef { op: "Split", prepare: split },
    KernelDef { op: "Gather", prepare: gather },
];

/// Elements that are whole bytes, of any kind but strings.
fn movable(args: &PrepareArgs) -> bool {
    args.dtype(0).is_some_and(|d| !d.is_packed() && d != DType::String)
        && args.input(0).and_then(Fact::rank).is_some_and(|r| r <= MAX_DIMS)
}

/// Copies the view `dims`/`offset`/`strides` (in elements) of `x` to `to`, row-major.
fn copy_view(
    pool: &dyn Parallel,
    x: &Tensor,
    dims: &[usize],
    offset: usize,
    strides: &[isize],
    to: &mut Output,
) -> Result<()> {
    expect_shape("the result", dims, to.shape())?;
    if to.is_empty() {
        return Ok(());
    }
    ensure!(x.dtype() == to.dtype(), DTypeMismatch, "{} to {}", x.dtype(), to.dtype());
    let from = x.as_bytes()?;
    let to = to.as_bytes_mut()?;
    match x.dtype().bits() {
        8 => copy_strided(pool, dims, from, offset, strides, to),
        16 => copy_strided(pool, dims, words::<u16>(from)?, offset, strides, words_mut::<u16>(to)?),
        32 => copy_strided(pool, dims, words::<u32>(from)?, offset, strides, words_mut::<u32>(to)?),
        _ => copy_strided(pool, dims, words::<u64>(from)?, offset, strides, words_mut::<u64>(to)?),
    }
    Ok(())
}

/// Plain integers, for which any bytes are a value.
trait Word: Copy + Send + Sync {}
impl Word for u16 {}
impl Word for u32 {}
impl Word for u64 {}

fn words<T: Word>(bytes: &[u8]) -> Result<&[T]> {
    // SAFETY: any bytes are valid integers.
    match unsafe { bytes.align_to::<T>() } {
        ([], words, []) => Ok(words),
        _ => Err(err!(Internal, "a tensor is not aligned to its elements")),
    }
}

fn words_mut<T: Word>(bytes: &mut [u8]) -> Result<&mut [T]> {
    // SAFETY: any bytes are valid integers, and any integers valid bytes.
    match unsafe { bytes.align_to_mut::<T>() } {
        ([], words, []) => Ok(words),
        _ => Err(err!(Internal, "a tensor is not aligned to its elements")),
    }
}

fn transpose(args: &PrepareArgs) -> Result<Option<Prepared>> {
    let Some(op) = args.op::<ops::Transpose>().filter(|_| movable(args)) else { return Ok(None) };
    let perm = op.perm.clone();
    bind(args, "any", "transpose", none(), move |k| {
        let x = k.input(0)?.clone();
        let axes = if perm.is_empty() {
            (0..x.rank()).rev().collect()
        } else {
            perm.iter().map(|&a| normalize_axis(a, x.rank())).collect::<Result<Vec<_>>>()?
        };
        let view = x.permute(&axes)?;
        copy_view(k.pool, &x, view.shape(), 0, view.strides(), &mut k.outputs[0])
    })
}

fn expand(args: &PrepareArgs) -> Result<Option<Prepared>> {
    if !movable(args) || args.output(0).and_then(Fact::rank).is_none_or(|r| r > MAX_DIMS) {
        return Ok(None);
    }
    bind(args, "any", "expand", none(), |k| {
        let x = k.input(0)?.clone();
        let target = deepseek_graph::ops::util::to_i64(k.input(1)?)?;
        let target = deepseek_graph::ops::util::usize_dims(&target)?;
        let shape = deepseek_tensor::broadcast_shapes(x.shape(), &target)?;
        let view = x.broadcast_to(&shape)?;
        copy_view(k.pool, &x, &shape, 0, view.strides(), &mut k.outputs[0])
    })
}

/// `Slice` with start, end, axes and steps in tensors. The arithmetic is the
/// operator's own: a view of the input, whose start is the distance of its first element.
fn slice(args: &PrepareArgs) -> Result<Option<Prepared>> {
    if !movable(args) {
        return Ok(None);
    }
    let op = args.node.op.clone();
    bind(args, "any", "slice", none(), move |k| {
        let x = k.input(0)?.clone();
        let inputs: Vec<_> = k.inputs.iter().map(|t| t.clone().map(Into::into)).collect();
        let env = deepseek_graph::NoSubgraphs;
        let eval = deepseek_graph::EvalArgs { inputs: &inputs, outputs: 1, env: &env };
        let values = op.eval(&eval)?;
        let view = values
            .first()
            .ok_or_else(|| err!(Internal, "the slice has no result"))?
            .tensor()?
            .clone();
        let inside = view.as_ptr().addr().wrapping_sub(x.as_ptr().addr());
        if view.is_empty() || inside >= x.size_bytes() {
            // Nothing to move, or a copy of its own.
            let dims = Dims::from_slice(view.shape());
            let view = view.to_contiguous()?;
            return copy_view(
                k.pool,
                &view,
                &dims,
                0,
                &contiguous_strides(&dims),
                &mut k.outputs[0],
            );
        }
        let offset = inside / (x.dtype().bits() / 8);
        copy_view(k.pool, &x, view.shape(), offset, view.strides(), &mut k.outputs[0])
    })
}

/// Bytes of the elements behind `axis`, itself included, and the number of runs before it.
fn runs(shape: &[usize], axis: usize, dtype: DType) -> (usize, usize) {
    let width = dtype.bits() / 8;
    (shape[..axis].iter().product(), shape[axis..].iter().product::<usize>() * width)
}

fn concat(args: &PrepareArgs) -> Result<Option<Prepared>> {
    let Some(op) = args.op::<ops::Concat>().filter(|_| movable(args)) else { return Ok(None) };
    let axis = op.axis;
    bind(args, "any", "concat", none(), move |k| {
        let out = &mut k.outputs[0];
        let axis = normalize_axis(axis, out.shape().len())?;
        let shape = Dims::from_slice(out.shape());
        let (outer, row) = runs(&shape, axis, out.dtype());
        let dtype = out.dtype();
        let parts = k.inputs.iter().flatten().collect::<Vec<_>>();
        let mut total = 0;
        for part in &parts {
            let fits = part.rank() == shape.len()
                && part.dtype() == dtype
                && (0..shape.len()).all(|i| i == axis || part.shape()[i] == shape[i]);
            ensure!(fits, ShapeMismatch, "{part:?} does not join into {dtype}{:?}", &shape[..]);
            total += part.shape()[axis];
        }
        ensure!(total == shape[axis], ShapeMismatch, "the parts give {total} of {}", shape[axis]);
        let to = out.as_bytes_mut()?;
        let mut at = 0;
        for part in parts {
            let (_, run) = runs(part.shape(), axis, dtype);
            if run > 0 {
                let rows = to.chunks_exact_mut(row).zip(part.as_bytes()?.chunks_exact(run));
                rows.take(outer).for_each(|(to, from)| to[at..at + run].copy_from_slice(from));
            }
            at += run;
        }
        Ok(())
    })
}

fn split(args: &PrepareArgs) -> Result<Option<Prepared>> {
    if !movable(args) {
        return Ok(None);
    }
    let Some(axis) = attr_i64(args, "axis") else { return Ok(None) };
    bind(args, "any", "split", none(), move |k| {
        let x = k.input(0)?.clone();
        let axis = normalize_axis(axis, x.rank())?;
        let strides: Strides = contiguous_strides(x.shape());
        let mut start = 0;
        for out in k.outputs.iter_mut() {
            let dims = Dims::from_slice(out.shape());
            let fits = dims.len() == x.rank() && start + dims[axis] <= x.shape()[axis];
            ensure!(fits, ShapeMismatch, "{x:?} does not hold the part {:?}", &dims[..]);
            let offset = start * strides[axis] as usize;
            copy_view(k.pool, &x, &dims, offset, &strides, out)?;
            start += dims[axis];
        }
        ensure!(start == x.shape()[axis], ShapeMismatch, "the parts take {start} of {x:?}");
        Ok(())
    })
}

fn gather(args: &PrepareArgs) -> Result<Option<Prepared>> {
    let Some(op) = args.op::<ops::Gather>() else { return Ok(None) };
    let index = args.dtype(1).is_some_and(|d| matches!(d, DType::I64 | DType::I32));
    if !movable(args) || !index {
        return Ok(None);
    }
    let axis = op.axis;
    bind(args, "any", "gather", none(), move |k| gather_rows(k, axis))
}

/// `y[…before, …index, …after] = x[…before, index, …after]`, whole runs at a time.
fn gather_rows(k: &mut KernelArgs, axis: i64) -> Result<()> {
    let (x, index) = (k.input(0)?.clone(), k.input(1)?.clone());
    let axis = normalize_axis(axis, x.rank())?;
    let extent = x.shape()[axis];
    let want: Vec<usize> = [&x.shape()[..axis], index.shape(), &x.shape()[axis + 1..]].concat();
    let out = &mut k.outputs[0];
    expect_shape("the result", &want, out.shape())?;
    ensure!(x.dtype() == out.dtype(), DTypeMismatch, "{} to {}", x.dtype(), out.dtype());
    let index = deepseek_graph::ops::util::to_i64(&index)?
        .into_iter()
        .map(|i| {
            let at = if i < 0 { i + extent as i64 } else { i };
            usize::try_from(at).ok().filter(|&at| at < extent).ok_or_else(|| {
                err!(InvalidArgument, "index {i} is outside axis {axis} of extent {extent}")
            })
        })
        .collect::<Result<Vec<_>>>()?;
    if out.is_empty() {
        return Ok(());
    }
    let run = x.shape()[axis + 1..].iter().product::<usize>() * (x.dtype().bits() / 8);
    let from = x.as_bytes()?;
    let to = out.as_bytes_mut()?;
    for (block, rows) in to.chunks_exact_mut(run * index.len()).enumerate() {
        let base = block * extent * run;
        for (to, at) in rows.chunks_exact_mut(run).zip(&index) {
            to.copy_from_slice(&from[base + at * run..][..run]);
        }
    }
    Ok(())
}
