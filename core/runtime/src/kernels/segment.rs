//! Operators over packed sequences, in `f32`: the kernels of the operators on one sequence, run on
//! each. So a sequence has the bits that it has alone.

use super::gemm::scratch_bound;
use super::{bind, expect_shape, floats, none};
use crate::registry::{KernelArgs, KernelDef, PrepareArgs, Prepared};
use deepseek_graph::Fact;
use deepseek_graph::ops::{self, SegmentReduction};
use deepseek_kernels_cpu::gemm::{self, Epilogue, Lhs, Mat, Out, Rhs, Shape};
use deepseek_kernels_cpu::reduce::{Reduce, reduce};
use deepseek_tensor::{DType, Result, ensure};
use std::ops::Range;

pub(super) static KERNELS: &[KernelDef] = &[
    KernelDef { op: "SegmentReduce", prepare: segment_reduce },
    KernelDef { op: "SegmentMatMul", prepare: segment_matmul },
    KernelDef { op: "SegmentGather", prepare: segment_gather },
    KernelDef { op: "SegmentPositions", prepare: |a| numbers(a, |_, place| place) },
    KernelDef { op: "SegmentIds", prepare: |a| numbers(a, |sequence, _| sequence) },
];

/// Rows of each sequence that input `i` lists for `tokens` rows.
pub(super) fn segments(k: &KernelArgs, i: usize, tokens: usize) -> Result<Vec<Range<usize>>> {
    ops::segments(k.input(i)?, tokens)
}

fn segment_reduce(args: &PrepareArgs) -> Result<Option<Prepared>> {
    let Some(op) = args.op::<ops::SegmentReduce>() else { return Ok(None) };
    if args.dtype(0) != Some(DType::F32) || args.input(0).and_then(Fact::rank).is_none_or(|r| r < 1)
    {
        return Ok(None);
    }
    let how = match op.reduction {
        SegmentReduction::Sum => Reduce::Sum,
        SegmentReduction::Mean => Reduce::Mean,
        SegmentReduction::Max => Reduce::Max,
        SegmentReduction::Min => Reduce::Min,
    };
    bind(args, "f32", "segment-reduce", none(), move |k| {
        let x = k.input(0)?.clone();
        let segments = segments(k, 1, x.shape()[0])?;
        let inner: usize = x.shape()[1..].iter().product();
        let want = [&[segments.len()], &x.shape()[1..]].concat();
        expect_shape("the result", &want, k.outputs[0].shape())?;
        if inner == 0 {
            return Ok(());
        }
        let x = floats(&x)?;
        let (isa, pool) = (k.isa, k.pool);
        let y = k.outputs[0].as_slice_mut::<f32>()?;
        for (rows, y) in segments.iter().zip(y.chunks_exact_mut(inner)) {
            let x = &x[rows.start * inner..rows.end * inner];
            reduce(isa, pool, how, 1, rows.len(), inner, x, y);
        }
        Ok(())
    })
}

fn segment_matmul(args: &PrepareArgs) -> Result<Option<Prepared>> {
    let dims = |i: usize| args.input(i).and_then(Fact::shape);
    let f32s = args.dtype(0) == Some(DType::F32) && args.dtype(1) == Some(DType::F32);
    let (Some([tokens, m]), Some([_, n]), true) = (dims(0), dims(1), f32s) else {
        return Ok(None);
    };
    let scratch = scratch_bound(args, &[], m, tokens, Some(n));
    bind(args, "f32", "segment-gemm", scratch, |k| {
        let (a, b) = (k.input(0)?.clone(), k.input(1)?.clone());
        ensure!(
            a.rank() == 2 && b.rank() == 2 && a.shape()[0] == b.shape()[0],
            ShapeMismatch,
            "operands {:?} and {:?} are not two matrices of one number of rows",
            a.shape(),
            b.shape()
        );
        let segments = segments(k, 2, a.shape()[0])?;
        let (m, n) = (a.shape()[1], b.shape()[1]);
        expect_shape("the result", &[segments.len(), m, n], k.outputs[0].shape())?;
        if m * n == 0 {
            return Ok(());
        }
        let (x, y) = (floats(&a)?, floats(&b)?);
        let (isa, pool, scratch) = (k.isa, k.pool, &mut *k.scratch);
        let out = k.outputs[0].as_slice_mut::<f32>()?;
        for (rows, out) in segments.iter().zip(out.chunks_exact_mut(m * n)) {
            let shape = Shape { batch: 1, m, n, k: rows.len() };
            let a = Mat::transposed(&x[rows.start * m..rows.end * m], m);
            let b = Mat::dense(&y[rows.start * n..rows.end * n], n);
            let (a, b, c) = (Lhs::Strided(a), Rhs::Strided(b), Out::dense(out, n));
            gemm::gemm(isa, pool, shape, a, b, c, &Epilogue::default(), scratch);
        }
        Ok(())
    })
}

fn segment_gather(args: &PrepareArgs) -> Result<Option<Prepared>> {
    let movable = args.dtype(0).is_some_and(|d| !d.is_packed() && d != DType::String);
    if !movable || args.input(0).and_then(Fact::rank).is_none_or(|r| r < 1) {
        return Ok(None);
    }
    bind(args, "any", "segment-gather", none(), |k| {
        let x = k.input(0)?.clone();
        let rows = ops::segment_rows(k.input(1)?, k.input(2)?, x.shape()[0])?;
        let want = [&[rows.len()], &x.shape()[1..]].concat();
        let out = &mut k.outputs[0];
        expect_shape("the result", &want, out.shape())?;
        ensure!(x.dtype() == out.dtype(), DTypeMismatch, "{} to {}", x.dtype(), out.dtype());
        let run = x.shape()[1..].iter().product::<usize>() * (x.dtype().bits() / 8);
        if run == 0 {
            return Ok(());
        }
        let from = x.as_bytes()?;
        for (&row, to) in rows.iter().zip(out.as_bytes_mut()?.chunks_exact_mut(run)) {
            to.copy_from_slice(&from[row * run..][..run]);
        }
        Ok(())
    })
}

/// One integer for each row of input 1, of its sequence and its place there.
fn numbers(args: &PrepareArgs, f: fn(i64, i64) -> i64) -> Result<Option<Prepared>> {
    bind(args, "i64", "segment-numbers", none(), move |k| {
        let tokens = k.input(1)?.shape().first().copied().unwrap_or(0);
        let segments = segments(k, 0, tokens)?;
        expect_shape("the result", &[tokens], k.outputs[0].shape())?;
        let out = k.outputs[0].as_slice_mut::<i64>()?;
        for (sequence, rows) in segments.into_iter().enumerate() {
            for (place, to) in out[rows].iter_mut().enumerate() {
                *to = f(sequence as i64, place as i64);
            }
        }
        Ok(())
    })
}
