//! Images of bytes.

use super::{bind, expect_shape, none};
use crate::registry::{KernelArgs, KernelDef, PrepareArgs, Prepared};
use deepseek_graph::ops::{self, ImageFilter, ImageTable, ImageWindow, PixelFormat};
use deepseek_graph::{Dim, Fact};
use deepseek_kernels_cpu::image::{
    Canvas, Channel, Order, Taps, halve, place, resample, resample_scratch, to_floats,
};
use deepseek_tensor::{DType, Result, Tensor, err};

pub(super) static KERNELS: &[KernelDef] = &[
    KernelDef { op: "ImageResize", prepare: resize },
    KernelDef { op: "ImageCrop", prepare: crop },
    KernelDef { op: "ImagePad", prepare: pad },
    KernelDef { op: "ImageToTensor", prepare: tensor },
];

/// Whether input 0 is an image.
fn is_image(args: &PrepareArgs) -> bool {
    args.dtype(0) == Some(DType::U8) && args.input(0).and_then(Fact::rank) == Some(3)
}

/// Height and width of an image, and its channels.
fn extents(x: &Tensor) -> Result<([usize; 2], usize)> {
    match *x.shape() {
        [h, w, c] if (1..=4).contains(&c) => Ok(([h, w], c)),
        _ => Err(err!(ShapeMismatch, "an image is [height, width, channels], got {:?}", x.shape())),
    }
}

fn taps(table: &ImageTable) -> Taps<'_> {
    Taps { taps: table.taps, index: &table.index, weight: &table.weight }
}

/// The canvas of a window; writes where the image is placed.
fn canvas(
    k: &mut KernelArgs,
    window: &ImageWindow,
    from: [usize; 2],
    c: usize,
    fill: i64,
) -> Result<Canvas> {
    let [h, w] = window.canvas;
    expect_shape("the result", &[h, w, c], k.outputs[0].shape())?;
    if let Some(output) = k.outputs.get_mut(1).filter(|o| o.len() == 6) {
        let before = k.inputs.get(1).and_then(Option::as_ref).map(ops::placement).transpose()?;
        output.as_slice_mut::<f32>()?.copy_from_slice(&window.place(before, from));
    }
    let fill = fill.clamp(0, 255) as u8;
    Ok(Canvas { size: window.canvas, covered: window.covered(), offset: window.offset, fill })
}

fn resize(args: &PrepareArgs) -> Result<Option<Prepared>> {
    let Some(op) = args.op::<ops::ImageResize>().filter(|_| is_image(args)) else {
        return Ok(None);
    };
    let (from, to) = (args.input(0).and_then(Fact::shape), args.output(0).and_then(Fact::shape));
    let (scratch, name) = match (op.filter, from, to) {
        (ImageFilter::OpencvLinear, ..) => (none(), "resize-opencv"),
        (ImageFilter::PillowBilinear, Some(from), Some(to)) => {
            // One of the two orders, which the extents of the image decide.
            let wide = Dim::product([&from[0], &to[1], &to[2]]);
            let tall = Dim::product([&to[0], &from[1], &to[2]]);
            (Dim::sum([wide, tall]).ceil_div(&Dim::from(size_of::<f32>())), "resize-pillow")
        }
        _ => return Ok(None),
    };
    let op = op.clone();
    bind(args, "u8", name, scratch, move |k| {
        let x = k.input(0)?.clone();
        let (from, c) = extents(&x)?;
        let window = op.window(from)?;
        let canvas = canvas(k, &window, from, c, op.fill)?;
        let (isa, pool) = (k.isa, k.pool);
        let (x, out) = (x.as_slice::<u8>()?, k.outputs[0].as_slice_mut::<u8>()?);
        if window.size == from {
            place(pool, x, from, c, &canvas, out);
        } else if op.is_halving(from, window.size) {
            halve(isa, pool, x, from, c, &canvas, out);
        } else {
            let cols = op.table(from[1], window.size[1], false)?;
            let rows = op.table(from[0], window.size[0], true)?;
            // SAFETY: any bytes are bytes, and one float is four of them.
            let (_, scratch, _) = unsafe { k.scratch.align_to_mut::<u8>() };
            let order = match op.filter {
                ImageFilter::OpencvLinear => Order::Opencv,
                _ if op.rows_first(from, window.size) => Order::RowsFirst,
                _ => Order::ColumnsFirst,
            };
            let [top, bottom, left, right] = canvas.covered;
            let seen = [bottom - top, right - left];
            debug_assert!(scratch.len() >= resample_scratch(order, from, seen, c));
            let (cols, rows) = (taps(&cols), taps(&rows));
            resample(isa, pool, order, x, from, c, cols, rows, &canvas, out, scratch);
        }
        Ok(())
    })
}

fn crop(args: &PrepareArgs) -> Result<Option<Prepared>> {
    let Some(op) = args.op::<ops::ImageCrop>().filter(|_| is_image(args)) else { return Ok(None) };
    let op = op.clone();
    bind(args, "u8", "crop", none(), move |k| placed(k, |from| op.window(from), op.fill))
}

fn pad(args: &PrepareArgs) -> Result<Option<Prepared>> {
    let Some(op) = args.op::<ops::ImagePad>().filter(|_| is_image(args)) else { return Ok(None) };
    let op = op.clone();
    bind(args, "u8", "pad", none(), move |k| placed(k, |from| op.window(from), op.fill))
}

fn placed(
    k: &mut KernelArgs,
    window: impl Fn([usize; 2]) -> Result<ImageWindow>,
    fill: i64,
) -> Result<()> {
    let x = k.input(0)?.clone();
    let (from, c) = extents(&x)?;
    let canvas = canvas(k, &window(from)?, from, c, fill)?;
    place(k.pool, x.as_slice::<u8>()?, from, c, &canvas, k.outputs[0].as_slice_mut::<u8>()?);
    Ok(())
}

fn tensor(args: &PrepareArgs) -> Result<Option<Prepared>> {
    let Some(op) = args.op::<ops::ImageToTensor>().filter(|_| is_image(args)) else {
        return Ok(None);
    };
    let Some(from) = args.input(0).and_then(Fact::shape).and_then(|s| s[2].as_const()) else {
        return Ok(None);
    };
    let (from, last) = (from as usize, op.channels_last);
    let count = op.channels(from)?;
    let values = op.values(count)?;
    let channels: Vec<Channel> = match op.color {
        PixelFormat::Grayscale if from == 3 => vec![Channel::Luma],
        PixelFormat::Bgr => (0..count).rev().map(Channel::Byte).collect(),
        _ => (0..count).map(Channel::Byte).collect(),
    };
    bind(args, "u8f32", "pixels", none(), move |k| {
        let x = k.input(0)?.clone();
        let ([h, w], c) = extents(&x)?;
        let n = channels.len();
        let want = if last { [1, h, w, n] } else { [1, n, h, w] };
        expect_shape("the result", &want, k.outputs[0].shape())?;
        let (isa, pool) = (k.isa, k.pool);
        let out = k.outputs[0].as_slice_mut::<f32>()?;
        to_floats(isa, pool, x.as_slice::<u8>()?, c, &channels, &values, last, out);
        Ok(())
    })
}
