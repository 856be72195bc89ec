//! Operators on blocked channels, in `f32`.

use super::conv::spatial;
use super::elementwise::function;
use super::narrow::{self, Rounding};
use super::{all_f32, bind, bind_in_place, expect_shape, floats, none, widened};
use crate::blocked::ops;
use crate::registry::{KernelArgs, KernelDef, PrepareArgs, Prepared};
use deepseek_graph::ops::Conv;
use deepseek_graph::ops::util::{AutoPad, Window};
use deepseek_graph::{Dim, Fact};
use deepseek_kernels_cpu::blocked::{
    BlockedShape, from_blocked, lanes, mean_blocked, pool_blocked, repeat_blocked, scale_blocked,
    to_blocked,
};
use deepseek_kernels_cpu::conv::{BlockedWeights, ConvEpilogue, ConvShape, conv_blocked};
use deepseek_kernels_cpu::elementwise::Unary;
use deepseek_kernels_cpu::pool::{Pool, PoolShape};
use deepseek_tensor::{Result, ensure};

pub(super) static KERNELS: &[KernelDef] = &[
    KernelDef { op: "BlockedConv", prepare: convolution },
    KernelDef { op: "BlockedMean", prepare: mean },
    KernelDef { op: "BlockedPool", prepare: pooling },
    KernelDef { op: "BlockedRepeat", prepare: repeat },
    KernelDef { op: "BlockedScale", prepare: scale },
    KernelDef { op: "FromBlocked", prepare: from },
    KernelDef { op: "ToBlocked", prepare: to },
];

/// Sizes of an image of shape `[N, C, H, W]`.
fn sizes(plain: &[usize]) -> Result<BlockedShape> {
    ensure!(plain.len() == 4, ShapeMismatch, "an image of shape {plain:?}");
    Ok(BlockedShape { batch: plain[0], channels: plain[1], plane: plain[2] * plain[3] })
}

/// The shape of a plain image with blocked channels.
fn blocked(plain: &[usize], lanes: usize) -> [usize; 5] {
    [plain[0], plain[1].div_ceil(lanes), plain[2], plain[3], lanes]
}

fn to(args: &PrepareArgs) -> Result<Option<Prepared>> {
    let lanes = lanes(args.isa);
    if !all_f32(args) || args.op::<ops::ToBlocked>().is_none_or(|op| op.lanes != lanes as i64) {
        return Ok(None);
    }
    bind(args, "f32", "to-blocked", none(), move |k| {
        let x = k.input(0)?.clone();
        let shape = sizes(x.shape())?;
        expect_shape("the result", &blocked(x.shape(), lanes), k.outputs[0].shape())?;
        to_blocked(k.isa, k.pool, &shape, floats(&x)?, k.outputs[0].as_slice_mut()?);
        Ok(())
    })
}

fn from(args: &PrepareArgs) -> Result<Option<Prepared>> {
    let lanes = lanes(args.isa);
    if !all_f32(args) || args.op::<ops::FromBlocked>().is_none() {
        return Ok(None);
    }
    bind(args, "f32", "from-blocked", none(), move |k| {
        let x = k.input(0)?.clone();
        let shape = sizes(k.outputs[0].shape())?;
        expect_shape("the input", x.shape(), &blocked(k.outputs[0].shape(), lanes))?;
        from_blocked(k.isa, k.pool, &shape, floats(&x)?, k.outputs[0].as_slice_mut()?);
        Ok(())
    })
}

/// A convolution of blocked channels as a node says it.
#[derive(Clone)]
pub(super) struct Convolution {
    op: Conv,
    pub(super) planes: bool,
    pub(super) activation: Option<Unary>,
    /// Without the sizes of the image and its padding.
    pub(super) shape: ConvShape,
    lanes: usize,
}

impl Convolution {
    fn of(args: &PrepareArgs) -> Option<Self> {
        let (op, w) = (args.op::<ops::BlockedConv>()?, args.constant(1)?);
        let lanes = lanes(args.isa);
        let activation = op.activation.as_ref().map(function);
        let groups = usize::try_from(op.group).ok()?;
        if op.lanes != lanes as i64 || activation == Some(None) || groups == 0 {
            return None;
        }
        let step = |v: &[i64]| spatial(v.iter().map(|&s| usize::try_from(s).unwrap_or(0)), 1);
        let kernel = &w.shape()[2..];
        let shape = ConvShape {
            groups,
            stride: step(&op.strides),
            dilation: step(&op.dilations),
            ..ConvShape::d2(1, w.shape()[1] * groups, w.shape()[0], [1, 1], [kernel[0], kernel[1]])
        };
        let (activation, planes) = (activation.flatten(), op.planes);
        Some(Convolution { op: op.conv(), planes, activation, shape, lanes })
    }

    /// The sizes of an image of input 0, if they are known.
    fn of_known_image(&self, args: &PrepareArgs) -> Option<ConvShape> {
        let image = args.input(0)?.shape()?;
        let extent = |d: &Dim| d.as_const().and_then(|d| usize::try_from(d).ok());
        let image: Vec<usize> = image.iter().skip(2).take(2).map(extent).collect::<Option<_>>()?;
        let axes = self.op.window().resolve(&image, &self.shape.kernel[1..]).ok()?;
        Some(ConvShape {
            input: spatial(image.iter().copied(), 1),
            pad_begin: spatial(axes.iter().map(|a| a.pad_begin), 0),
            pad_end: spatial(axes.iter().map(|a| a.pad_end), 0),
            ..self.shape
        })
    }

    /// Whether each output is written once, so that it may take the place of its residual.
    fn writes_once(&self) -> bool {
        let point = self.shape.kernel == [1; 3] && self.op.pads.iter().all(|&p| p == 0);
        point && self.op.auto_pad == AutoPad::NotSet && self.shape.groups == 1 && !self.planes
    }

    /// Columns that padding adds, at most.
    pub(super) fn padding(&self) -> usize {
        let pads: i64 = self.op.pads.iter().map(|p| p.saturating_abs()).sum();
        usize::try_from(pads).unwrap_or(0).max(self.shape.dilation[2] * self.shape.kernel[2])
    }

    /// The sizes of a run. Checks those of the input, the output, bias and residual (inputs 2 and 3).
    pub(super) fn sizes(&self, k: &KernelArgs) -> Result<ConvShape> {
        let (x, shape) = (k.input(0)?, &self.shape);
        ensure!(x.rank() >= 4, ShapeMismatch, "a convolution of {:?}", x.shape());
        let image = [x.shape()[0], shape.in_channels, x.shape()[2], x.shape()[3]];
        match self.planes {
            true => expect_shape("the input", x.shape(), &image)?,
            false => expect_shape("the input", x.shape(), &blocked(&image, self.lanes))?,
        }
        let axes = self.op.window().resolve(&image[2..], &shape.kernel[1..])?;
        let shape = ConvShape {
            batch: image[0],
            input: spatial(image[2..].iter().copied(), 1),
            pad_begin: spatial(axes.iter().map(|a| a.pad_begin), 0),
            pad_end: spatial(axes.iter().map(|a| a.pad_end), 0),
            ..*shape
        };
        let result = [image[0], shape.out_channels, axes[0].output, axes[1].output];
        expect_shape("the result", &blocked(&result, self.lanes), k.outputs[0].shape())?;
        ensure!(
            shape.output() == [1, axes[0].output, axes[1].output],
            ShapeMismatch,
            "the window of {:?} does not fit the padded input {image:?}",
            &shape.kernel[1..]
        );
        if let Some(b) = k.opt(2) {
            expect_shape("the bias", b.shape(), &[shape.out_channels])?;
        }
        if let Some(r) = k.opt(3) {
            expect_shape("the residual", r.shape(), k.outputs[0].shape())?;
        }
        Ok(shape)
    }
}

/// Bias and residual are inputs 2 and 3.
fn convolution(args: &PrepareArgs) -> Result<Option<Prepared>> {
    let (Some(conv), Some(w)) = (Convolution::of(args), args.constant(1)) else {
        return Ok(None);
    };
    let Some(rounding) = Rounding::of(args) else { return Ok(None) };
    if let Some(kernel) = narrow::blocked(args, &conv, w)? {
        return Ok(Some(kernel));
    }
    let (shape, planes) = (conv.shape, conv.planes);
    let Some(reads) = shape.reads_blocked(planes) else { return Ok(None) };
    // The weights are packed for images of this size, if it is known; rounded ones for none, as products
    // of rounded numbers are what is asked for.
    let known = match rounding {
        Rounding::None => conv.of_known_image(args).unwrap_or(shape),
        Rounding::Bf16 => shape,
    };
    let winograd = known.pays_winograd(reads);
    let restore = |floats| BlockedWeights::shared(args.isa, &known, reads, floats);
    let form = match winograd {
        true => "conv-winograd-blocked".to_owned(),
        false => format!("conv-blocked-{reads:?}"),
    };
    let weights = args.pack_stored(w, &form, restore, |w| {
        let w = widened(args, w)?;
        Ok(BlockedWeights::new(args.isa, args.pool, &known, reads, floats(&w)?))
    })?;
    let variant = match shape.groups {
        1 if winograd => "conv-winograd-blocked",
        1 => "conv-blocked",
        _ => "conv-depthwise-blocked",
    };
    let rounded = rounding.scratch(args.input(0).and_then(Fact::shape).unwrap_or_default());
    let scratch = &rounded + weights.scratch(args.isa, args.pool) as i64;
    let once = conv.writes_once() && scratch.as_const() == Some(0);
    let run = move |k: &mut KernelArgs| {
        let shape = conv.sizes(k)?;
        let (x, bias, residual) = (k.input(0)?.clone(), k.opt(2).cloned(), k.opt(3).cloned());
        let bias = bias.as_ref().map(floats).transpose()?;
        let residual = residual.as_ref().map(floats).transpose()?;
        let accumulate = k.in_place == Some(3);
        let epilogue = ConvEpilogue { bias, residual, accumulate, activation: conv.activation };
        let (isa, pool) = (k.isa, k.pool);
        let (x, scratch) = rounding.input(isa, pool, floats(&x)?, k.scratch);
        let y = k.outputs[0].as_slice_mut::<f32>()?;
        conv_blocked(isa, pool, &shape, x, &weights, &epilogue, y, scratch);
        Ok(())
    };
    if once {
        bind_in_place(args, rounding.dtypes(), variant, &[3], run)
    } else {
        bind(args, rounding.dtypes(), variant, scratch, run)
    }
}

fn pooling(args: &PrepareArgs) -> Result<Option<Prepared>> {
    let Some(op) = args.op::<ops::BlockedPool>().cloned() else { return Ok(None) };
    let kernel: Vec<usize> =
        op.kernel_shape.iter().filter_map(|&k| usize::try_from(k).ok()).collect();
    if !all_f32(args) || kernel.len() != 2 || kernel.contains(&0) {
        return Ok(None);
    }
    let how = match op.average {
        true => Pool::Average { count_padding: op.count_include_pad },
        false => Pool::Max,
    };
    bind(args, "f32", "pool-blocked", none(), move |k| {
        let x = k.input(0)?.clone();
        ensure!(x.rank() == 5, ShapeMismatch, "pooling {:?}", x.shape());
        let window = Window {
            strides: &op.strides,
            dilations: &op.dilations,
            pads: &op.pads,
            auto_pad: op.auto_pad,
            ceil_mode: op.ceil_mode,
        };
        let axes = window.resolve(&x.shape()[2..4], &kernel)?;
        let [n, blocks, h, w, lanes] = [0, 1, 2, 3, 4].map(|i| x.shape()[i]);
        let result = [n, blocks, axes[0].output, axes[1].output, lanes];
        expect_shape("the result", &result, k.outputs[0].shape())?;
        let shape = PoolShape {
            planes: n * blocks,
            input: [1, h, w],
            kernel: spatial(kernel.iter().copied(), 1),
            stride: spatial(axes.iter().map(|a| a.stride), 1),
            dilation: spatial(axes.iter().map(|a| a.dilation), 1),
            pad_begin: spatial(axes.iter().map(|a| a.pad_begin), 0),
            pad_end: spatial(axes.iter().map(|a| a.pad_end), 0),
            output: spatial(axes.iter().map(|a| a.output), 1),
        };
        let (isa, pool) = (k.isa, k.pool);
        pool_blocked(isa, pool, how, &shape, floats(&x)?, k.outputs[0].as_slice_mut()?);
        Ok(())
    })
}

fn mean(args: &PrepareArgs) -> Result<Option<Prepared>> {
    let Some(channels) = args.op::<ops::BlockedMean>().map(|op| op.channels) else {
        return Ok(None);
    };
    let channels = usize::try_from(channels).unwrap_or(0);
    if !all_f32(args) || channels == 0 {
        return Ok(None);
    }
    let lanes = lanes(args.isa);
    bind(args, "f32", "global-pool-blocked", none(), move |k| {
        let x = k.input(0)?.clone();
        ensure!(x.rank() == 5, ShapeMismatch, "pooling {:?}", x.shape());
        let image = [x.shape()[0], channels, x.shape()[2], x.shape()[3]];
        expect_shape("the input", x.shape(), &blocked(&image, lanes))?;
        expect_shape("the result", &[image[0], channels, 1, 1], k.outputs[0].shape())?;
        let y = k.outputs[0].as_slice_mut()?;
        mean_blocked(k.isa, k.pool, &sizes(&image)?, floats(&x)?, y);
        Ok(())
    })
}

fn scale(args: &PrepareArgs) -> Result<Option<Prepared>> {
    if !all_f32(args) || args.op::<ops::BlockedScale>().is_none() {
        return Ok(None);
    }
    let lanes = lanes(args.isa);
    bind_in_place(args, "f32", "scale-blocked", &[0], move |k| {
        let x = if k.in_place == Some(0) { None } else { Some(k.input(0)?.clone()) };
        let scale = k.input(1)?.clone();
        ensure!(scale.rank() == 4, ShapeMismatch, "factors of shape {:?}", scale.shape());
        let y = &mut k.outputs[0];
        let image = match *y.shape() {
            [n, _, h, w, _] => [n, scale.shape()[1], h, w],
            _ => [0; 4],
        };
        expect_shape("the factors", scale.shape(), &[image[0], image[1], 1, 1])?;
        expect_shape("the result", y.shape(), &blocked(&image, lanes))?;
        if let Some(x) = &x {
            expect_shape("the input", x.shape(), y.shape())?;
        }
        let x = x.as_ref().map(floats).transpose()?;
        let y = y.as_slice_mut()?;
        scale_blocked(k.isa, k.pool, &sizes(&image)?, x, floats(&scale)?, y);
        Ok(())
    })
}

fn repeat(args: &PrepareArgs) -> Result<Option<Prepared>> {
    let Some(op) = args.op::<ops::BlockedRepeat>() else { return Ok(None) };
    if !all_f32(args) {
        return Ok(None);
    }
    let times = op.factors()?;
    let lanes = lanes(args.isa);
    bind(args, "f32", "repeat-blocked", none(), move |k| {
        let x = k.input(0)?.clone();
        ensure!(x.rank() == 5, ShapeMismatch, "repeating pixels of {:?}", x.shape());
        let [n, blocks, h, w] = [0, 1, 2, 3].map(|i| x.shape()[i]);
        let result = [n, blocks, h * times[0], w * times[1], lanes];
        expect_shape("the result", &result, k.outputs[0].shape())?;
        let y = k.outputs[0].as_slice_mut()?;
        repeat_blocked(k.isa, k.pool, n * blocks, [h, w], times, floats(&x)?, y);
        Ok(())
    })
}
