//! Products and convolutions with weights in bf16, by which operands rounded to bf16 are multiplied.
//!
//! Where the processor has no such products, operands are rounded and multiplied in `f32`. Weights in
//! `f16` are widened when they are packed, by the kernels of `f32`. Weights of 4 and 8 bits with scales for
//! groups of terms stay as they are.

use super::attention::Threads;
use super::blocked::Convolution;
use super::gemm::{Finish, expect_len, rows_cols};
use super::{FnKernel, expect_shape, f32_but_weights, floats, none};
use crate::registry::{KernelArgs, KernelDef, PrepareArgs, Prepared};
use deepseek_graph::{Dim, Fact, ops};
use deepseek_kernels_cpu::conv::{
    Bf16Weights, ConvEpilogue, conv_bf16, conv_bf16_scratch_bound, conv_bf16_takes,
};
use deepseek_kernels_cpu::convert::round_to_bf16;
use deepseek_kernels_cpu::gemm::{
    Mat, Out, PackedBf16, PackedGroups, bf16_arch, gemm_bf16, gemm_bf16_scratch, gemm_grouped,
};
use deepseek_kernels_cpu::{Isa, Parallel};
use deepseek_tensor::{DType, Result, Tensor, ensure};
use half::bf16;

pub(super) static KERNELS: &[KernelDef] = &[KernelDef { op: "MatMulNBits", prepare: grouped }];

/// A product by constant weights of a few bits; the bias is input 4.
fn grouped(args: &PrepareArgs) -> Result<Option<Prepared>> {
    let (Some(op), Some(q), Some(scales)) =
        (args.op::<ops::MatMulNBits>(), args.constant(1), args.constant(2))
    else {
        return Ok(None);
    };
    let zeros = args.constant(3);
    let constant = zeros.is_some() == args.input(3).is_some();
    let f32s =
        [0, 2, 4].into_iter().all(|i| args.input(i).is_none() || args.dtype(i) == Some(DType::F32));
    let rank = args.input(0).and_then(Fact::rank);
    if !constant || !f32s || rank.is_none_or(|r| r < 2) {
        return Ok(None);
    }
    let q = q.to_contiguous()?;
    let w = op.weights(&q)?;
    let (scales, zeros) =
        (ops::MatMulNBits::scales(&w, scales)?, ops::MatMulNBits::zeros(&w, zeros)?);
    let at = |g: usize, n: usize| n * w.groups + g;
    let packed = PackedGroups::new(
        args.isa,
        (w.k, w.n),
        (w.bits, w.group),
        |k, n| w.integer(k, n),
        |g, n| scales[at(g, n)],
        |g, n| zeros[at(g, n)],
    );
    let dtypes = if w.bits == 4 { "f32u4f32" } else { "f32u8f32" };
    super::bind(args, dtypes, "gemm-grouped", none(), move |k| {
        let (m, depth) = rows_cols(k.input(0)?);
        let (want, n) = (packed.k(), packed.n());
        ensure!(depth == want, ShapeMismatch, "cannot multiply {depth} columns by {want} rows");
        expect_len(k, m * n)?;
        let (a, bias) = (k.input(0)?.clone(), k.opt(4).cloned());
        if let Some(b) = &bias {
            expect_shape("the bias", b.shape(), &[n])?;
        }
        let bias = bias.as_ref().map(floats).transpose()?;
        let c = Out::dense(k.outputs[0].as_slice_mut()?, n);
        gemm_grouped(k.isa, k.pool, m, Mat::dense(floats(&a)?, depth), &packed, bias, c);
        Ok(())
    })
}

/// What the kernels of `f32` do with an operand before they multiply it.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Rounding {
    /// Nothing: weights are `f32`, or `f16`, which is widened.
    None,
    /// It is rounded to bf16, as weights are.
    Bf16,
}

impl Rounding {
    /// Of input 0 for the weights of input 1, if everything else is `f32`.
    pub(super) fn of(args: &PrepareArgs) -> Option<Rounding> {
        match args.dtype(1)? {
            DType::BF16 => is_bf16(args).then_some(Rounding::Bf16),
            _ => f32_but_weights(args).then_some(Rounding::None),
        }
    }

    /// The types in the name of a kernel.
    pub(super) fn dtypes(self) -> &'static str {
        match self {
            Rounding::None => "f32",
            Rounding::Bf16 => "bf16-as-f32",
        }
    }

    /// Floats of scratch for an operand of these extents.
    pub(super) fn scratch(self, extents: &[Dim]) -> Dim {
        match self {
            Rounding::None => Dim::from(0i64),
            Rounding::Bf16 => &Dim::product(extents) + LINE as i64,
        }
    }

    /// The operand as it is multiplied, and the rest of the scratch.
    pub(super) fn input<'a>(
        self,
        isa: Isa,
        pool: &dyn Parallel,
        x: &'a [f32],
        scratch: &'a mut [f32],
    ) -> (&'a [f32], &'a mut [f32]) {
        match self {
            Rounding::None => (x, scratch),
            Rounding::Bf16 => {
                let (part, rest) = scratch.split_at_mut(x.len().next_multiple_of(LINE));
                let part = &mut part[..x.len()];
                round_to_bf16(isa, pool, x, part);
                (part, rest)
            }
        }
    }
}

/// Floats of a line of the cache.
const LINE: usize = 16;

/// Whether the weights, input 1, are bf16 and everything else `f32`.
fn is_bf16(args: &PrepareArgs) -> bool {
    let inputs = (0..args.node.inputs.len()).filter(|i| *i != 1).filter_map(|i| args.input(i));
    let outputs = (0..args.node.outputs.len()).filter_map(|i| args.output(i));
    inputs.chain(outputs).all(|f| f.dtype().is_ok_and(|d| d == DType::F32))
        && args.dtype(1) == Some(DType::BF16)
}

/// Binds a kernel that multiplies bf16, under the name of the instruction that it uses.
fn bind(
    args: &PrepareArgs,
    variant: &str,
    scratch: Dim,
    run: impl Fn(&mut KernelArgs) -> Result<()> + Send + Sync + 'static,
) -> Result<Option<Prepared>> {
    Ok(Some(Prepared {
        name: format!("{}-bf16-{variant}", bf16_arch(args.isa)),
        scratch_bytes: &scratch * size_of::<f32>() as i64,
        kernel: Box::new(FnKernel(run, &[])),
    }))
}

/// A product by a constant matrix of bf16; bias and residual are inputs 2 and 3.
pub(super) fn product(args: &PrepareArgs, finish: Finish) -> Result<Option<Prepared>> {
    let (Some(a), Some(w)) = (args.input(0).and_then(Fact::shape), args.constant(1)) else {
        return Ok(None);
    };
    if !is_bf16(args) || a.len() < 2 || w.rank() != 2 {
        return Ok(None);
    }
    let packed = Packed::new(args, w, finish)?;
    bind(args, "gemm-packed", packed.scratch(args), move |k| {
        let (m, ka) = rows_cols(k.input(0)?);
        packed.run(k, m, ka)
    })
}

/// As [`product`], of images of one pixel by weights `[n, k]`.
pub(super) fn pixels(args: &PrepareArgs, w: &Tensor, finish: Finish) -> Result<Option<Prepared>> {
    let packed = Packed::new(args, w, finish)?;
    bind(args, "conv-pixels", packed.scratch(args), move |k| {
        let x = k.input(0)?;
        let m = x.shape()[0];
        packed.run(k, m, x.len() / m.max(1))
    })
}

/// A packed right operand and what else a product does.
struct Packed {
    weights: std::sync::Arc<PackedBf16>,
    finish: Finish,
}

impl Packed {
    fn new(args: &PrepareArgs, w: &Tensor, finish: Finish) -> Result<Packed> {
        let form = if finish.trans_b { "gemm-bf16-transposed" } else { "gemm-bf16" };
        let weights = args.pack(w, form, |w| {
            let (rows, cols) = (w.shape()[0], w.shape()[1]);
            let (sizes, steps) = match finish.trans_b {
                true => ((cols, rows), (1, cols)),
                false => ((rows, cols), (cols, 1)),
            };
            Ok(PackedBf16::narrow(args.isa, args.pool, sizes, w.as_slice::<bf16>()?, steps))
        })?;
        Ok(Packed { weights, finish })
    }

    fn scratch(&self, args: &PrepareArgs) -> Dim {
        let (k, n) = (self.weights.k(), self.weights.n());
        Dim::from(gemm_bf16_scratch(args.isa, &Threads(args.threads), k, n))
    }

    /// The product of input 0 as `m` rows of `ka`.
    fn run(&self, k: &mut KernelArgs, m: usize, ka: usize) -> Result<()> {
        let (depth, n) = (self.weights.k(), self.weights.n());
        ensure!(ka == depth, ShapeMismatch, "cannot multiply {ka} columns by {depth} rows");
        expect_len(k, m * n)?;
        let (a, bias, residual) = (k.input(0)?.clone(), k.opt(2).cloned(), k.opt(3).cloned());
        let epilogue = self.finish.epilogue(bias.as_ref(), residual.as_ref(), m, n)?;
        let (a, isa, pool) = (Mat::dense(floats(&a)?, depth), k.isa, k.pool);
        let c = Out::dense(k.outputs[0].as_slice_mut()?, n);
        gemm_bf16(isa, pool, m, a, &self.weights, c, &epilogue, k.scratch);
        Ok(())
    }
}

/// A convolution of blocked channels, where the processor multiplies bf16.
pub(super) fn blocked(
    args: &PrepareArgs,
    conv: &Convolution,
    w: &Tensor,
) -> Result<Option<Prepared>> {
    let planes = conv.planes;
    if !is_bf16(args) || !conv_bf16_takes(args.isa, &conv.shape, planes) {
        return Ok(None);
    }
    let Some([_, _, _, width, ..]) = args.input(0).and_then(Fact::shape) else { return Ok(None) };
    let shape = conv.shape;
    let form = format!("conv-bf16-{planes}-{:?}", shape.stride);
    let weights = args.pack(w, &form, |w| {
        Ok(Bf16Weights::new(args.isa, args.pool, &shape, planes, w.as_slice::<bf16>()?))
    })?;
    let (fixed, each) = conv_bf16_scratch_bound(args.isa, &Threads(args.threads), &shape, planes);
    let scratch = &(&(width + conv.padding() as i64) * each as i64) + fixed as i64;
    let conv = conv.clone();
    bind(args, "conv-blocked", scratch, move |k| {
        let shape = conv.sizes(k)?;
        let (x, bias, residual) = (k.input(0)?.clone(), k.opt(2).cloned(), k.opt(3).cloned());
        let bias = bias.as_ref().map(floats).transpose()?;
        let residual = residual.as_ref().map(floats).transpose()?;
        let epilogue =
            ConvEpilogue { bias, residual, activation: conv.activation, ..Default::default() };
        let (isa, pool, scratch) = (k.isa, k.pool, &mut *k.scratch);
        let y = k.outputs[0].as_slice_mut::<f32>()?;
        conv_bf16(isa, pool, &shape, floats(&x)?, &weights, &epilogue, y, scratch);
        Ok(())
    })
}
