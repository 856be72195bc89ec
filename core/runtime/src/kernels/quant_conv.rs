//! Convolution and pooling of bytes with channels last, one to three spatial axes.

use super::attention::Threads;
use super::conv::spatial;
use super::none;
use super::quant::{
    Requantise, bind_bytes, bytes, is_bytes, scale, scales, signs, single, unary, zero_point, zeros,
};
use crate::registry::{KernelArgs, KernelDef, PrepareArgs, Prepared};
use deepseek_graph::ops::util::Window;
use deepseek_graph::{Fact, ops};
use deepseek_kernels_cpu::conv::ConvShape;
use deepseek_kernels_cpu::gemm::{ByteOut, Zeros};
use deepseek_kernels_cpu::int8::{ConvI8Weights, conv_i8, conv_i8_scratch, max_pool_i8};
use deepseek_kernels_cpu::pool::PoolShape;
use deepseek_tensor::{DType, Result, Tensor, ensure};

pub(super) static KERNELS: &[KernelDef] = &[
    KernelDef { op: "ConvInteger", prepare: integer },
    KernelDef { op: "ConvIntegerToFloat", prepare: to_float },
    KernelDef { op: "QLinearConv", prepare: requantised },
    KernelDef { op: "MaxPool", prepare: max_pool },
];

/// A convolution whose weights are packed.
struct Bound {
    shape: ConvShape,
    weights: ConvI8Weights,
    kernel: Vec<usize>,
}

impl Bound {
    /// Of inputs `x`, `w` and the zero points of `w`.
    fn new(args: &PrepareArgs, group: i64, [w, w_zero]: [usize; 2]) -> Result<Option<Bound>> {
        let (Some(x), Some(w)) = (args.input(0).and_then(Fact::rank), args.constant(w)) else {
            return Ok(None);
        };
        let groups = usize::try_from(group).unwrap_or(0);
        let rank = w.rank();
        let fits = is_bytes(args.dtype(0)) && is_bytes(Some(w.dtype()));
        if !fits || !(3..=5).contains(&rank) || x != rank || groups == 0 || w.is_empty() {
            return Ok(None);
        }
        let (out_channels, each) = (w.shape()[0], w.shape()[1]);
        if out_channels % groups != 0 {
            return Ok(None);
        }
        let Some(zeros) = zeros(args, w_zero, out_channels)? else { return Ok(None) };
        let kernel = w.shape()[2..].to_vec();
        let shape = ConvShape {
            batch: 1,
            in_channels: each * groups,
            out_channels,
            groups,
            input: [1; 3],
            kernel: spatial(kernel.iter().copied(), 1),
            stride: [1; 3],
            dilation: [1; 3],
            pad_begin: [0; 3],
            pad_end: [0; 3],
        };
        let w = w.to_contiguous()?;
        let weights = ConvI8Weights::new(args.isa, &shape, bytes(&w)?, Zeros::Cols(&zeros));
        Ok(Some(Bound { shape, weights, kernel }))
    }

    fn scratch(&self, args: &PrepareArgs) -> usize {
        conv_i8_scratch(args.isa, &Threads(args.threads), &self.weights)
    }

    /// The sizes for this input; checks those of the output.
    fn resolve(&self, k: &KernelArgs, x: &Tensor, window: &Window) -> Result<ConvShape> {
        let rank = self.kernel.len() + 2;
        ensure!(
            x.rank() == rank && x.shape()[rank - 1] == self.shape.in_channels,
            ShapeMismatch,
            "input {:?} against weights for {} channels and {} spatial axes",
            x.shape(),
            self.shape.in_channels,
            self.kernel.len()
        );
        let axes = window.resolve(&x.shape()[1..rank - 1], &self.kernel)?;
        let shape = ConvShape {
            batch: x.shape()[0],
            input: spatial(x.shape()[1..rank - 1].iter().copied(), 1),
            stride: spatial(axes.iter().map(|a| a.stride), 1),
            dilation: spatial(axes.iter().map(|a| a.dilation), 1),
            pad_begin: spatial(axes.iter().map(|a| a.pad_begin), 0),
            pad_end: spatial(axes.iter().map(|a| a.pad_end), 0),
            ..self.shape
        };
        let want = [x.shape()[0]]
            .into_iter()
            .chain(axes.iter().map(|a| a.output))
            .chain([shape.out_channels]);
        super::expect_shape("the result", &want.collect::<Vec<_>>(), k.outputs[0].shape())?;
        ensure!(
            shape.output() == spatial(axes.iter().map(|a| a.output), 1),
            ShapeMismatch,
            "the window of {:?} does not fit the padded input {:?}",
            self.kernel,
            x.shape()
        );
        Ok(shape)
    }
}

fn integer(args: &PrepareArgs) -> Result<Option<Prepared>> {
    let Some(op) = args.op::<ops::ConvInteger>().filter(|op| op.channels_last).cloned() else {
        return Ok(None);
    };
    if !single(args, 2) {
        return Ok(None);
    }
    let Some(bound) = Bound::new(args, op.group, [1, 3])? else { return Ok(None) };
    let dtypes = format!("{}s32", signs(args, 0, 1));
    bind_bytes(args, &dtypes, "conv", bound.scratch(args), move |k| {
        let x = k.input(0)?.clone();
        let shape = bound.resolve(k, &x, &op.window())?;
        let zero = zero_point(k.opt(2))?;
        let c = k.outputs[0].as_slice_mut::<i32>()?;
        let out = ByteOut::I32 { c, row: shape.out_channels };
        let (isa, pool, scratch) = (k.isa, k.pool, &mut *k.scratch);
        conv_i8(isa, pool, &shape, bytes(&x)?, zero, &bound.weights, out, scratch);
        Ok(())
    })
}

fn to_float(args: &PrepareArgs) -> Result<Option<Prepared>> {
    let Some(op) = args.op::<ops::ConvIntegerToFloat>().filter(|op| op.channels_last).cloned()
    else {
        return Ok(None);
    };
    if !single(args, 2) || !single(args, 4) {
        return Ok(None);
    }
    let Some(activation) = unary(op.activation.as_ref()) else { return Ok(None) };
    let Some(bound) = Bound::new(args, op.group, [1, 5])? else { return Ok(None) };
    let channels = bound.shape.out_channels;
    let Some(col_scale) = scales(args, 3, channels)? else { return Ok(None) };
    let dtypes = format!("{}f32", signs(args, 0, 1));
    bind_bytes(args, &dtypes, "conv", bound.scratch(args), move |k| {
        let x = k.input(0)?.clone();
        let shape = bound.resolve(k, &x, &op.window())?;
        let (scale, zero) = ([scale(k.input(2)?)?], zero_point(k.opt(4))?);
        let bias = k.opt(6).cloned();
        if let Some(b) = &bias {
            super::expect_shape("the bias", b.shape(), &[channels])?;
        }
        let bias = bias.as_ref().map(super::floats).transpose()?;
        let c = k.outputs[0].as_slice_mut::<f32>()?;
        let (scale, col_scale) = (&scale[..], &col_scale[..]);
        let out = ByteOut::F32 { scale, col_scale, bias, activation, c, row: channels };
        let (isa, pool, scratch) = (k.isa, k.pool, &mut *k.scratch);
        conv_i8(isa, pool, &shape, bytes(&x)?, zero, &bound.weights, out, scratch);
        Ok(())
    })
}

fn requantised(args: &PrepareArgs) -> Result<Option<Prepared>> {
    let Some(op) = args.op::<ops::QLinearConv>().filter(|op| op.channels_last).cloned() else {
        return Ok(None);
    };
    if !single(args, 2) {
        return Ok(None);
    }
    let Some(bound) = Bound::new(args, op.group, [3, 5])? else { return Ok(None) };
    let channels = bound.shape.out_channels;
    let way = Requantise::new(args, [1, 4, 6, 7, 8], channels, op.activation.as_ref())?;
    let Some(way) = way else { return Ok(None) };
    let dtypes = format!("{}{}", signs(args, 0, 3), way.name());
    bind_bytes(args, &dtypes, "conv", bound.scratch(args), move |k| {
        let x = k.input(0)?.clone();
        let shape = bound.resolve(k, &x, &op.window())?;
        let zero = zero_point(k.opt(2))?;
        let out = way.out(&mut k.outputs[0], shape.out_channels)?;
        let (isa, pool, scratch) = (k.isa, k.pool, &mut *k.scratch);
        conv_i8(isa, pool, &shape, bytes(&x)?, zero, &bound.weights, out, scratch);
        Ok(())
    })
}

fn max_pool(args: &PrepareArgs) -> Result<Option<Prepared>> {
    let Some(op) = args.op::<ops::MaxPool>().filter(|op| op.channels_last).cloned() else {
        return Ok(None);
    };
    let kernel = op.kernel_shape.iter().map(|&k| usize::try_from(k).ok());
    let Some(kernel) = kernel.collect::<Option<Vec<usize>>>() else { return Ok(None) };
    let rank = args.input(0).and_then(Fact::rank);
    if !is_bytes(args.dtype(0)) || rank != Some(kernel.len() + 2) || kernel.contains(&0) {
        return Ok(None);
    }
    if !(1..=3).contains(&kernel.len()) {
        return Ok(None);
    }
    let dtypes = if args.dtype(0) == Some(DType::I8) { "s8" } else { "u8" };
    super::bind(args, dtypes, "pool", none(), move |k| {
        let x = k.input(0)?.clone();
        let rank = kernel.len() + 2;
        ensure!(x.rank() == rank, ShapeMismatch, "pooling {:?}", x.shape());
        let axes = op.window().resolve(&x.shape()[1..rank - 1], &kernel)?;
        let (images, channels) = (x.shape()[0], x.shape()[rank - 1]);
        let want = [images].into_iter().chain(axes.iter().map(|a| a.output)).chain([channels]);
        super::expect_shape("the result", &want.collect::<Vec<_>>(), k.outputs[0].shape())?;
        let shape = PoolShape {
            planes: images,
            input: spatial(x.shape()[1..rank - 1].iter().copied(), 1),
            kernel: spatial(kernel.iter().copied(), 1),
            stride: spatial(axes.iter().map(|a| a.stride), 1),
            dilation: spatial(axes.iter().map(|a| a.dilation), 1),
            pad_begin: spatial(axes.iter().map(|a| a.pad_begin), 0),
            pad_end: spatial(axes.iter().map(|a| a.pad_end), 0),
            output: spatial(axes.iter().map(|a| a.output), 1),
        };
        let y = k.outputs[0].as_bytes_mut()?;
        max_pool_i8(k.isa, k.pool, &shape, channels, bytes(&x)?, y);
        Ok(())
    })
}
