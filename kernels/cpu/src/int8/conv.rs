//! Convolution of bytes with channels last.

use crate::conv::ConvShape;
use crate::gemm::units::Left;
use crate::gemm::{ByteMat, ByteOut, Bytes, PackedI8, Zeros, gemm_i8, gemm_i8_scratch, product_i8};
use crate::gemm::{Depthwise, depthwise_i8};
use crate::parallel::Parallel;
use crate::{Isa, Level};

/// Weights of a convolution of bytes with their zero points, packed once.
#[derive(Clone, Debug)]
pub struct ConvI8Weights {
    level: Level,
    /// The sizes that weights have a say in: the others are 1 or 0.
    shape: ConvShape,
    packed: Packed,
}

#[derive(Clone, Debug)]
enum Packed {
    /// A right operand for each group, terms in the order tap, channel.
    Groups(Vec<PackedI8>),
    Depthwise(Depthwise),
}

impl ConvI8Weights {
    /// Packs weights `[out_channels, in_channels / groups, kernel…]`. `shape` says channels, groups and
    /// kernel.
    ///
    /// # Panics
    /// When a length disagrees with the shape, or groups do not divide the channels.
    pub fn new(isa: Isa, shape: &ConvShape, w: Bytes<'_>, zeros: Zeros<'_>) -> Self {
        let ConvShape { groups, in_channels, out_channels, kernel, .. } = *shape;
        assert!(
            groups > 0 && in_channels % groups == 0 && out_channels % groups == 0,
            "conv_i8: {groups} groups of {in_channels} and {out_channels} channels"
        );
        let raw = w.raw();
        assert_eq!(raw.len(), shape.weights_len(), "conv_i8: length of the weights");
        if let Zeros::Cols(z) = zeros {
            assert_eq!(z.len(), out_channels, "conv_i8: zero points against output channels");
        }
        let taps: usize = kernel.iter().product();
        let (each, out) = (in_channels / groups, out_channels / groups);
        let zero = |channel: usize| match zeros {
            Zeros::One(z) => z,
            Zeros::Cols(z) => z[channel],
        };
        let packed = if each == 1 && out == 1 {
            let value = |channel: usize, tap: usize| {
                let byte = raw[channel * taps + tap];
                let value = if w.signed() { i32::from(byte as i8) } else { i32::from(byte) };
                value - zero(channel)
            };
            Packed::Depthwise(Depthwise::new(isa, out_channels, taps, value))
        } else {
            let pack = |g: usize| {
                let k = taps * each;
                let mut rows = vec![0u8; out * k];
                for (j, row) in rows.chunks_exact_mut(k.max(1)).enumerate() {
                    let from = &raw[(g * out + j) * k..][..k];
                    for (c, plane) in from.chunks_exact(taps.max(1)).enumerate() {
                        plane.iter().enumerate().for_each(|(t, &b)| row[t * each + c] = b);
                    }
                }
                // SAFETY: `i8` and `u8` have one layout, in which every pattern is a value.
                let signs = unsafe { std::slice::from_raw_parts(rows.as_ptr().cast(), rows.len()) };
                let data = if w.signed() { Bytes::I8(signs) } else { Bytes::U8(&rows) };
                let zeros: Vec<i32> = (g * out..(g + 1) * out).map(zero).collect();
                let mat = ByteMat { data, row: 1, col: k };
                PackedI8::new(isa, k, out, mat, Zeros::Cols(&zeros))
            };
            Packed::Groups((0..groups).map(pack).collect())
        };
        let shape = ConvShape {
            batch: 1,
            input: [1; 3],
            stride: [1; 3],
            dilation: [1; 3],
            pad_begin: [0; 3],
            pad_end: [0; 3],
            ..*shape
        };
        ConvI8Weights { level: isa.level(), shape, packed }
    }

    /// Bytes of memory held.
    pub fn bytes(&self) -> usize {
        match &self.packed {
            Packed::Groups(g) => g.iter().map(PackedI8::bytes).sum(),
            Packed::Depthwise(d) => d.bytes(),
        }
    }
}

/// Floats of scratch that [`conv_i8`] needs; it does not depend on batch and image.
pub fn conv_i8_scratch(isa: Isa, par: &dyn Parallel, weights: &ConvI8Weights) -> usize {
    match &weights.packed {
        Packed::Groups(g) => gemm_i8_scratch(isa, par, g.first().map_or(0, PackedI8::k)),
        Packed::Depthwise(_) => 0,
    }
}

/// Rows of windows, gathered.
struct Windows<'a> {
    x: &'a [u8],
    shape: &'a ConvShape,
    output: [usize; 3],
    /// Byte that padding reads.
    zero: u8,
    /// First channel and number of channels of the group.
    first: usize,
    each: usize,
}

impl Windows<'_> {
    /// Input position of tap 0 along each axis, and the image.
    fn origin(&self, r: usize) -> (usize, [isize; 3]) {
        let [d, h, w] = self.output;
        let at = [r / (w * h) % d, r / w % h, r % w];
        let s = self.shape;
        let start = [0, 1, 2].map(|i| (at[i] * s.stride[i]) as isize - s.pad_begin[i] as isize);
        (r / (w * h * d), start)
    }

    /// Bytes of the group at an input position.
    fn at(&self, image: usize, [d, h, w]: [usize; 3]) -> usize {
        let [depth, height, width] = self.shape.input;
        (((image * depth + d) * height + h) * width + w) * self.shape.in_channels + self.first
    }
}

/// `start + tap * dilation`, if it lies in the input.
fn inside(start: isize, tap: usize, dilation: usize, extent: usize) -> Option<usize> {
    let at = start + (tap * dilation) as isize;
    usize::try_from(at).ok().filter(|&at| at < extent)
}

impl Left for Windows<'_> {
    fn row<'a>(&'a self, r: usize, work: &'a mut [u8]) -> &'a [u8] {
        let (image, start) = self.origin(r);
        let s = self.shape;
        let [kd, kh, kw] = s.kernel;
        let each = self.each;
        if let [1, 1, 1] = s.kernel {
            let taps = [0, 1, 2].map(|i| inside(start[i], 0, 1, s.input[i]));
            if let [Some(d), Some(h), Some(w)] = taps {
                return &self.x[self.at(image, [d, h, w])..][..each];
            }
        }
        // Neighbouring taps are neighbours in the input.
        let runs = s.dilation[2] == 1 && each == s.in_channels;
        let mut to = work.chunks_exact_mut((kw * each).max(1));
        for d in 0..kd {
            for h in 0..kh {
                let Some(line) = to.next() else { break };
                let (d, h) = (
                    inside(start[0], d, s.dilation[0], s.input[0]),
                    inside(start[1], h, s.dilation[1], s.input[1]),
                );
                let (Some(d), Some(h)) = (d, h) else {
                    line.fill(self.zero);
                    continue;
                };
                if runs {
                    let skip = (-start[2]).clamp(0, kw as isize) as usize;
                    let end = (s.input[2] as isize - start[2]).clamp(0, kw as isize) as usize;
                    let end = end.max(skip);
                    line[..skip * each].fill(self.zero);
                    line[end * each..].fill(self.zero);
                    if end > skip {
                        let first = (start[2] + skip as isize) as usize;
                        let from = &self.x[self.at(image, [d, h, first])..];
                        let n = (end - skip) * each;
                        line[skip * each..end * each].copy_from_slice(&from[..n]);
                    }
                    continue;
                }
                for (w, to) in line.chunks_exact_mut(each).enumerate() {
                    match inside(start[2], w, s.dilation[2], s.input[2]) {
                        Some(w) => {
                            to.copy_from_slice(&self.x[self.at(image, [d, h, w])..][..each]);
                        }
                        None => to.fill(self.zero),
                    }
                }
            }
        }
        work
    }
}

/// Convolution of `x` `[batch, depth, height, width, in_channels]` with the zero point `x_zero`, which
/// padding reads: the sums, with columns for channels, leave as `out` says, in rows of
/// `out_channels`, one for each output position.
///
/// # Panics
/// When the input, the result, one of its parameters or the scratch is shorter than the shape says, or
/// the weights were packed for other channels, another kernel or another level.
#[expect(clippy::too_many_arguments, reason = "two operands, a result and how to run")]
pub fn conv_i8(
    isa: Isa,
    par: &dyn Parallel,
    shape: &ConvShape,
    x: Bytes<'_>,
    x_zero: i32,
    weights: &ConvI8Weights,
    mut out: ByteOut<'_>,
    scratch: &mut [f32],
) {
    let same = ConvShape {
        batch: shape.batch,
        input: shape.input,
        stride: shape.stride,
        dilation: shape.dilation,
        pad_begin: shape.pad_begin,
        pad_end: shape.pad_end,
        ..weights.shape
    };
    assert_eq!(same, *shape, "conv_i8: the shape against that of the weights");
    assert_eq!(weights.level, isa.level(), "conv_i8: weights packed for another level");
    assert_eq!(x.raw().len(), shape.input_len(), "conv_i8: length of the input");
    let output = shape.output();
    let m = shape.batch * output.iter().product::<usize>();
    if m == 0 {
        return;
    }
    let groups = match &weights.packed {
        Packed::Depthwise(d) => {
            return depthwise_i8(isa, par, shape, x, x_zero, d, out);
        }
        Packed::Groups(groups) => groups,
    };
    let (each, cols) = (shape.in_channels / shape.groups, shape.out_channels / shape.groups);
    let plain = shape.kernel == [1; 3]
        && shape.stride == [1; 3]
        && (shape.pad_begin, shape.pad_end) == ([0; 3], [0; 3]);
    for (g, packed) in groups.iter().enumerate() {
        let out = columns(&mut out, g * cols, cols);
        if plain && shape.groups == 1 {
            let a = ByteMat { data: x, row: shape.in_channels, col: 1 };
            gemm_i8(isa, par, m, a, x_zero, packed, out, scratch);
            continue;
        }
        let zero = x_zero as u8;
        let left = Windows { x: x.raw(), shape, output, zero, first: g * each, each };
        product_i8(isa, par, m, &left, x.signed(), x_zero, packed, out, scratch);
    }
}

/// Columns `first..first + n` of a result.
fn columns<'a>(out: &'a mut ByteOut<'_>, first: usize, n: usize) -> ByteOut<'a> {
    fn part<T>(values: &[T], first: usize, n: usize) -> &[T] {
        if values.len() == 1 { values } else { &values[first..first + n] }
    }
    match out {
        ByteOut::I32 { c, row } => ByteOut::I32 { c: &mut c[first..], row: *row },
        ByteOut::F32 { scale, col_scale, bias, activation, c, row } => ByteOut::F32 {
            scale,
            col_scale: part(col_scale, first, n),
            bias: bias.map(|b| &b[first..first + n]),
            activation: *activation,
            c: &mut c[first..],
            row: *row,
        },
        ByteOut::Activated { scale, bias, activation, inverse, zero, signed, c, row } => {
            ByteOut::Activated {
                scale: part(scale, first, n),
                bias: bias.map(|b| &b[first..first + n]),
                activation: *activation,
                inverse: *inverse,
                zero: *zero,
                signed: *signed,
                c: &mut c[first..],
                row: *row,
            }
        }
        ByteOut::U8 { scale, bias, zero, c, row } => ByteOut::U8 {
            scale: part(scale, first, n),
            bias: bias.map(|b| &b[first..first + n]),
            zero: *zero,
            c: &mut c[first..],
            row: *row,
        },
        ByteOut::I8 { scale, bias, zero, c, row } => ByteOut::I8 {
            scale: part(scale, first, n),
            bias: bias.map(|b| &b[first..first + n]),
            zero: *zero,
            c: &mut c[first..],
            row: *row,
        },
    }
}
