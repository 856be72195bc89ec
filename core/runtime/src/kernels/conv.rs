//! Convolution and pooling in `f32`, one to three spatial axes.

use super::attention::Threads;
use super::elementwise::function;
use super::gemm::pixels;
use super::narrow::Rounding;
use super::{all_f32, bind, expect_shape, floats, none, widened};
use crate::registry::{KernelArgs, KernelDef, PrepareArgs, Prepared};
use deepseek_graph::ops::util::{Window, WindowAxis};
use deepseek_graph::{Dim, Fact, ops};
use deepseek_kernels_cpu::Serial;
use deepseek_kernels_cpu::conv::{
    ConvEpilogue, ConvShape, ConvTransposeShape, ConvTransposeWeights, ConvWeights, conv,
    conv_scratch, conv_transpose,
};
use deepseek_kernels_cpu::elementwise::Unary;
use deepseek_kernels_cpu::gemm::{packed_b_len, tile};
use deepseek_kernels_cpu::pool::{Pool, PoolShape, pool};
use deepseek_kernels_cpu::reduce::{Reduce, reduce};
use deepseek_tensor::{Result, Tensor, ensure};

pub(super) static KERNELS: &[KernelDef] = &[
    KernelDef { op: "Conv", prepare: plain },
    KernelDef { op: "ConvTranspose", prepare: transposed },
    KernelDef { op: "FusedConv", prepare: fused },
    KernelDef { op: "MaxPool", prepare: max_pool },
    KernelDef { op: "AveragePool", prepare: average_pool },
    KernelDef { op: "GlobalAveragePool", prepare: |a| global(a, Reduce::Mean) },
    KernelDef { op: "GlobalMaxPool", prepare: |a| global(a, Reduce::Max) },
];

/// Sizes for which scratch no longer grows: more blocks than any machine runs at once.
const MANY: usize = 4096;

/// The kernel treats batches up to this size and images up to this many panels of
/// columns as few and small.
const FEW_IMAGES: usize = 16;
const FEW_PANELS: usize = 64;

/// Kernel arrays are depth, height, width; missing leading axes have `fill`.
pub(super) fn spatial(values: impl ExactSizeIterator<Item = usize>, fill: usize) -> [usize; 3] {
    let mut out = [fill; 3];
    let lead = 3usize.saturating_sub(values.len());
    for (to, v) in out[lead..].iter_mut().zip(values) {
        *to = v;
    }
    out
}

fn plain(args: &PrepareArgs) -> Result<Option<Prepared>> {
    match args.op::<ops::Conv>() {
        Some(op) => convolution(args, op, None),
        None => Ok(None),
    }
}

fn fused(args: &PrepareArgs) -> Result<Option<Prepared>> {
    let Some(op) = args.op::<ops::FusedConv>() else { return Ok(None) };
    match &op.activation {
        None => convolution(args, &op.conv(), None),
        Some(f) => match function(f) {
            Some(unary) => convolution(args, &op.conv(), Some(unary)),
            None => Ok(None),
        },
    }
}

/// Bias and residual are inputs 2 and 3.
fn convolution(
    args: &PrepareArgs,
    op: &ops::Conv,
    activation: Option<Unary>,
) -> Result<Option<Prepared>> {
    let (Some(x), Some(w)) = (args.input(0).and_then(Fact::shape), args.constant(1)) else {
        return Ok(None);
    };
    let groups = usize::try_from(op.group).unwrap_or(0);
    let rank = w.rank();
    let Some(rounding) = Rounding::of(args) else { return Ok(None) };
    if !(3..=5).contains(&rank) || x.len() != rank || groups == 0 {
        return Ok(None);
    }
    let (out_channels, each) = (w.shape()[0], w.shape()[1]);
    let kernel = &w.shape()[2..];
    // Degenerate weights are the reference's: it has the full set of checks.
    if w.is_empty() || out_channels % groups != 0 {
        return Ok(None);
    }
    let pixel = |d: &Dim| d.as_const() == Some(1);
    let point = w.shape()[2..].iter().all(|&k| k == 1) && op.pads.iter().all(|&p| p == 0);
    if groups == 1 && point && x[2..].iter().all(pixel) && x[1].as_const() == Some(each as i64) {
        return pixels(args, w, activation);
    }
    let step = |v: &[i64]| -> Option<[usize; 3]> {
        let v: Option<Vec<usize>> = v.iter().map(|&s| usize::try_from(s).ok()).collect();
        let v = v.filter(|v| v.iter().all(|&s| s > 0) && (v.is_empty() || v.len() == rank - 2))?;
        Some(spatial(v.into_iter(), 1))
    };
    let (Some(stride), Some(dilation)) = (step(&op.strides), step(&op.dilations)) else {
        return Ok(None);
    };
    let mut shape = ConvShape {
        batch: MANY,
        in_channels: each * groups,
        out_channels,
        groups,
        input: spatial(kernel.iter().map(|&k| k.saturating_mul(MANY)), 1),
        kernel: spatial(kernel.iter().copied(), 1),
        stride,
        dilation,
        pad_begin: [0; 3],
        pad_end: [0; 3],
    };
    let scratch = if each == 1 && groups > 1 {
        depthwise_scratch(args, &shape, &x[2..], op)
    } else {
        shape.input = shape.input.map(|n| n.min(MANY * 8));
        implicit_scratch(args, &shape, &x[2..], op, kernel)?
    };
    let scratch = &scratch + &rounding.scratch(x);
    let w = widened(args, &w.to_contiguous()?)?;
    let weights = ConvWeights::new(args.isa, &Serial, &shape, floats(&w)?);
    let op = op.clone();
    let kernel = kernel.to_vec();
    bind(args, rounding.dtypes(), "conv", scratch, move |k| {
        let (x, bias) = (k.input(0)?.clone(), k.opt(2).cloned());
        ensure!(
            x.rank() == kernel.len() + 2 && x.shape()[1] == shape.in_channels,
            ShapeMismatch,
            "input {:?} against weights for {} channels and {} spatial axes",
            x.shape(),
            shape.in_channels,
            kernel.len()
        );
        let axes = op.window().resolve(&x.shape()[2..], &kernel)?;
        let shape = ConvShape {
            batch: x.shape()[0],
            input: spatial(x.shape()[2..].iter().copied(), 1),
            pad_begin: spatial(axes.iter().map(|a| a.pad_begin), 0),
            pad_end: spatial(axes.iter().map(|a| a.pad_end), 0),
            ..shape
        };
        expect_output(k, &x, shape.out_channels, &axes)?;
        ensure!(
            shape.output() == spatial(axes.iter().map(|a| a.output), 1),
            ShapeMismatch,
            "the window of {kernel:?} does not fit the padded input {:?}",
            x.shape()
        );
        let bias = bias.as_ref().map(|b| {
            ensure!(
                b.len() == shape.out_channels,
                ShapeMismatch,
                "bias {:?} for {} output channels",
                b.shape(),
                shape.out_channels
            );
            floats(b)
        });
        let residual = k.opt(3).cloned();
        if let Some(r) = &residual {
            expect_shape("the residual", r.shape(), k.outputs[0].shape())?;
        }
        let residual = residual.as_ref().map(floats).transpose()?;
        let epilogue =
            ConvEpilogue { bias: bias.transpose()?, residual, activation, ..Default::default() };
        let (isa, pool) = (k.isa, k.pool);
        let (x, scratch) = rounding.input(isa, pool, floats(&x)?, k.scratch);
        let y = k.outputs[0].as_slice_mut::<f32>()?;
        if !y.is_empty() {
            conv(isa, pool, &shape, x, &weights, &epilogue, y, scratch);
        }
        Ok(())
    })
}

/// `[N, C, …]` with weights `[C, M/group, …]`; the axes of the window are those of the convolution
/// being transposed, so their inputs are this operator's outputs.
fn transposed(args: &PrepareArgs) -> Result<Option<Prepared>> {
    let (Some(op), Some(x), Some(w)) =
        (args.op::<ops::ConvTranspose>(), args.input(0).and_then(Fact::shape), args.constant(1))
    else {
        return Ok(None);
    };
    let (rank, groups) = (w.rank(), usize::try_from(op.group).unwrap_or(0));
    if !all_f32(args) || !(3..=5).contains(&rank) || x.len() != rank || groups == 0 {
        return Ok(None);
    }
    let (in_channels, each) = (w.shape()[0], w.shape()[1]);
    let kernel = w.shape()[2..].to_vec();
    if w.is_empty() || in_channels % groups != 0 {
        return Ok(None);
    }
    let fixed = ConvTransposeShape {
        batch: 1,
        in_channels,
        out_channels: each * groups,
        groups,
        input: [1; 3],
        kernel: spatial(kernel.iter().copied(), 1),
        stride: [1; 3],
        dilation: [1; 3],
        pad_begin: [0; 3],
        output: [1; 3],
    };
    let w = w.to_contiguous()?;
    let weights = ConvTransposeWeights::new(args.isa, &Serial, &fixed, floats(&w)?);
    // The input of a group in panels, and for each thread a plane of every tap.
    let (depth, taps) = (in_channels / groups, kernel.iter().product::<usize>());
    let positions = Dim::product(&x[2..]);
    let panels = &(&positions + tile(args.isa).1 as i64) * depth as i64;
    let scratch = &panels + &(&positions * (args.threads.max(1) * taps) as i64);
    let op = op.clone();
    bind(args, "f32", "conv-transpose", scratch, move |k| {
        let (x, bias) = (k.input(0)?.clone(), k.opt(2).cloned());
        ensure!(
            x.rank() == kernel.len() + 2 && x.shape()[1] == in_channels,
            ShapeMismatch,
            "input {:?} against weights for {in_channels} channels and {} spatial axes",
            x.shape(),
            kernel.len()
        );
        let axes = op.window().resolve(&x.shape()[2..], &kernel)?;
        let shape = ConvTransposeShape {
            batch: x.shape()[0],
            input: spatial(x.shape()[2..].iter().copied(), 1),
            stride: spatial(axes.iter().map(|a| a.stride), 1),
            dilation: spatial(axes.iter().map(|a| a.dilation), 1),
            pad_begin: spatial(axes.iter().map(|a| a.pad_begin), 0),
            output: spatial(axes.iter().map(|a| a.input), 1),
            ..fixed
        };
        let want: Vec<usize> = [x.shape()[0], shape.out_channels]
            .into_iter()
            .chain(axes.iter().map(|a| a.input))
            .collect();
        expect_shape("the result", &want, k.outputs[0].shape())?;
        if let Some(b) = &bias {
            expect_shape("the bias", b.shape(), &[shape.out_channels])?;
        }
        let bias = bias.as_ref().map(floats).transpose()?;
        let epilogue = ConvEpilogue { bias, ..ConvEpilogue::default() };
        let (isa, pool, scratch) = (k.isa, k.pool, &mut *k.scratch);
        let y = k.outputs[0].as_slice_mut::<f32>()?;
        conv_transpose(isa, pool, &shape, floats(&x)?, &weights, &epilogue, y, scratch);
        Ok(())
    })
}

fn expect_output(k: &KernelArgs, x: &Tensor, channels: usize, axes: &[WindowAxis]) -> Result<()> {
    let want: Vec<usize> =
        [x.shape()[0], channels].into_iter().chain(axes.iter().map(|a| a.output)).collect();
    expect_shape("the result", &want, k.outputs[0].shape())
}

/// The kernel gathers blocks of columns, or, for few small images, all columns of one.
fn implicit_scratch(
    args: &PrepareArgs,
    shape: &ConvShape,
    input: &[Dim],
    op: &ops::Conv,
    kernel: &[usize],
) -> Result<Dim> {
    let threads = Threads(args.threads);
    let blocks = conv_scratch(args.isa, &threads, shape);
    let fixed: Option<Vec<usize>> =
        input.iter().map(|d| usize::try_from(d.as_const()?).ok()).collect();
    let few = match fixed.filter(|f| !f.contains(&0)) {
        Some(size) => {
            let axes = op.window().resolve(&size, kernel)?;
            let at = |batch: usize| ConvShape {
                batch,
                input: spatial(size.iter().copied(), 1),
                pad_begin: spatial(axes.iter().map(|a| a.pad_begin), 0),
                pad_end: spatial(axes.iter().map(|a| a.pad_end), 0),
                ..*shape
            };
            let sizes = (1..=FEW_IMAGES).map(|b| conv_scratch(args.isa, &threads, &at(b)));
            sizes.max().unwrap_or(0)
        }
        // Small images of unknown size: all that counts as few fits this many panels.
        None => {
            let terms = shape.in_channels / shape.groups * shape.kernel.iter().product::<usize>();
            packed_b_len(args.isa, terms, FEW_PANELS * tile(args.isa).1)
        }
    };
    Ok(Dim::from(blocks.max(few)))
}

/// The depthwise kernel keeps a padded plane for each thread.
fn depthwise_scratch(args: &PrepareArgs, shape: &ConvShape, input: &[Dim], op: &ops::Conv) -> Dim {
    let width = &input[input.len() - 1];
    let window = shape.dilation[2] * shape.kernel[2];
    let pads: i64 = op.pads.iter().map(|p| p.saturating_abs()).sum::<i64>().max(window as i64);
    let lanes = 64;
    let row = width + (pads + (shape.stride[2] * (window + lanes + 1)) as i64);
    &(&Dim::product(&input[..input.len() - 1]) * &row) * args.threads as i64
}

fn max_pool(args: &PrepareArgs) -> Result<Option<Prepared>> {
    let Some(op) = args.op::<ops::MaxPool>().filter(|op| !op.channels_last).cloned() else {
        return Ok(None);
    };
    if args.node.outputs.len() > 1 {
        return Ok(None);
    }
    let kernel = op.kernel_shape.clone();
    pooling(args, kernel, Pool::Max, move |x, kernel| {
        Window {
            strides: &op.strides,
            dilations: &op.dilations,
            pads: &op.pads,
            auto_pad: op.auto_pad,
            ceil_mode: op.ceil_mode,
        }
        .resolve(x, kernel)
    })
}

fn average_pool(args: &PrepareArgs) -> Result<Option<Prepared>> {
    let Some(op) = args.op::<ops::AveragePool>().cloned() else { return Ok(None) };
    let kernel = op.kernel_shape.clone();
    let how = Pool::Average { count_padding: op.count_include_pad };
    pooling(args, kernel, how, move |x, kernel| {
        Window {
            strides: &op.strides,
            dilations: &op.dilations,
            pads: &op.pads,
            auto_pad: op.auto_pad,
            ceil_mode: op.ceil_mode,
        }
        .resolve(x, kernel)
    })
}

fn pooling(
    args: &PrepareArgs,
    kernel: Vec<i64>,
    how: Pool,
    resolve: impl Fn(&[usize], &[usize]) -> Result<Vec<WindowAxis>> + Send + Sync + 'static,
) -> Result<Option<Prepared>> {
    let kernel: Vec<usize> = kernel.iter().filter_map(|&k| usize::try_from(k).ok()).collect();
    let rank = args.input(0).and_then(Fact::rank);
    if !all_f32(args)
        || !(1..=3).contains(&kernel.len())
        || rank != Some(kernel.len() + 2)
        || kernel.contains(&0)
    {
        return Ok(None);
    }
    bind(args, "f32", "pool", none(), move |k| {
        let x = k.input(0)?.clone();
        ensure!(x.rank() == kernel.len() + 2, ShapeMismatch, "pooling {:?}", x.shape());
        let axes = resolve(&x.shape()[2..], &kernel)?;
        expect_output(k, &x, x.shape()[1], &axes)?;
        let shape = PoolShape {
            planes: x.shape()[0] * x.shape()[1],
            input: spatial(x.shape()[2..].iter().copied(), 1),
            kernel: spatial(kernel.iter().copied(), 1),
            stride: spatial(axes.iter().map(|a| a.stride), 1),
            dilation: spatial(axes.iter().map(|a| a.dilation), 1),
            pad_begin: spatial(axes.iter().map(|a| a.pad_begin), 0),
            pad_end: spatial(axes.iter().map(|a| a.pad_end), 0),
            output: spatial(axes.iter().map(|a| a.output), 1),
        };
        let y = k.outputs[0].as_slice_mut::<f32>()?;
        if !y.is_empty() {
            pool(k.isa, k.pool, how, &shape, floats(&x)?, y);
        }
        Ok(())
    })
}

fn global(args: &PrepareArgs, how: Reduce) -> Result<Option<Prepared>> {
    if !all_f32(args) || args.input(0).and_then(Fact::rank).is_none_or(|r| r < 3) {
        return Ok(None);
    }
    bind(args, "f32", "global-pool", none(), move |k| {
        let x = k.input(0)?.clone();
        let (outer, len) = x.shape().split_at(2);
        let (outer, len) = (outer.iter().product(), len.iter().product());
        let y = k.outputs[0].as_slice_mut::<f32>()?;
        ensure!(y.len() == outer, ShapeMismatch, "{outer} planes for {} results", y.len());
        reduce(k.isa, k.pool, how, outer, len, 1, floats(&x)?, y);
        Ok(())
    })
}
