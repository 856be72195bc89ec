//! Convolution of `[batch, channels, depth, height, width]`, groups, strides, dilation, padding.
//!
//! # Idea
//!
//! A convolution is a matrix product: weights `[out_channels, channels × taps]` times the input with
//! every output position's window as a column. The columns are never stored: each task gathers a
//! `KC`-deep piece of them straight into the panels the micro-kernel reads (Chetlur et al., *cuDNN*,
//! 2014, call it implicit). Weights are packed once, as the left operand. A 1 × 1 convolution is the
//! same with nothing to gather. When each group has one input channel there is no product to speak
//! of, and a direct kernel keeps a row of outputs in registers over all taps instead.
//!
//! One and two dimensions are three with leading ones: see [`ConvShape::d1`] and [`ConvShape::d2`].
//!
//! Padding is read as zero. The result is `activation(x * w + bias + residual)`. The chain of an
//! output is the product's (see [`crate::gemm`]), over channels, then taps in row-major order; it does
//! not depend on the batch or the size of the image.

mod bf16;
mod blocked;
mod depthwise;
mod direct;
mod implicit;
mod transpose;
mod winograd;

pub use bf16::{
    Bf16Weights, conv_bf16, conv_bf16_scratch, conv_bf16_scratch_bound, conv_bf16_takes,
};
pub use blocked::{BlockedWeights, Reads, conv_blocked};
pub use transpose::{
    ConvTransposeShape, ConvTransposeWeights, conv_transpose, conv_transpose_scratch,
};

use crate::elementwise::Unary;
use crate::gemm::{Mat, pack_a_into, packed_a_len};
use crate::parallel::Parallel;
use crate::simd::Simd;
use crate::{Isa, Level};

/// The sizes of a convolution; spatial arrays are depth, height, width.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct ConvShape {
    /// How many images.
    pub batch: usize,
    /// Channels of the input.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Groups of channels that do not mix; divides both.
    pub groups: usize,
    /// Size of the input.
    pub input: [usize; 3],
    /// Taps of the window.
    pub kernel: [usize; 3],
    /// Step of the window between outputs, at least 1.
    pub stride: [usize; 3],
    /// Distance between taps, at least 1.
    pub dilation: [usize; 3],
    /// Zeros before the input.
    pub pad_begin: [usize; 3],
    /// Zeros after the input.
    pub pad_end: [usize; 3],
}

impl ConvShape {
    /// A dense two-dimensional convolution of `[batch, in, h, w]` with `out` filters, without padding.
    pub fn d2(
        batch: usize,
        in_channels: usize,
        out_channels: usize,
        [h, w]: [usize; 2],
        [kh, kw]: [usize; 2],
    ) -> Self {
        ConvShape {
            batch,
            in_channels,
            out_channels,
            groups: 1,
            input: [1, h, w],
            kernel: [1, kh, kw],
            stride: [1; 3],
            dilation: [1; 3],
            pad_begin: [0; 3],
            pad_end: [0; 3],
        }
    }

    /// A dense one-dimensional convolution of `[batch, in, w]` with `out` filters, without padding.
    pub fn d1(batch: usize, in_channels: usize, out_channels: usize, w: usize, kw: usize) -> Self {
        ConvShape::d2(batch, in_channels, out_channels, [1, w], [1, kw])
    }

    /// Size of the output; zero where the window does not fit.
    pub fn output(&self) -> [usize; 3] {
        [0, 1, 2].map(|d| {
            let window = self.dilation[d] * self.kernel[d].saturating_sub(1) + 1;
            let padded = self.input[d] + self.pad_begin[d] + self.pad_end[d];
            if padded < window || self.kernel[d] == 0 {
                0
            } else {
                (padded - window) / self.stride[d] + 1
            }
        })
    }

    /// Elements of the input.
    pub fn input_len(&self) -> usize {
        self.batch * self.in_channels * self.input.iter().product::<usize>()
    }

    /// Elements of the weights `[out_channels, in_channels / groups, kernel…]`.
    pub fn weights_len(&self) -> usize {
        self.out_channels * self.terms()
    }

    /// Elements of the output.
    pub fn output_len(&self) -> usize {
        self.batch * self.out_channels * self.output().iter().product::<usize>()
    }

    fn taps(&self) -> usize {
        self.kernel.iter().product()
    }

    /// Products in one output.
    fn terms(&self) -> usize {
        self.in_channels / self.groups * self.taps()
    }

    fn is_depthwise(&self) -> bool {
        self.in_channels == self.groups && self.out_channels / self.groups <= 4
    }

    fn check(&self) {
        assert!(
            self.groups > 0
                && self.in_channels.is_multiple_of(self.groups)
                && self.out_channels.is_multiple_of(self.groups),
            "conv: {} groups do not divide {} input and {} output channels",
            self.groups,
            self.in_channels,
            self.out_channels
        );
        assert!(
            self.stride.iter().chain(&self.dilation).all(|&v| v > 0),
            "conv: stride {:?} and dilation {:?} must be positive",
            self.stride,
            self.dilation
        );
    }

    /// The same convolution with spatial dimensions merged where the window is a single point.
    fn flattened(mut self) -> Self {
        let point = self.kernel == [1; 3] && self.stride == [1; 3];
        if point && self.pad_begin == [0; 3] && self.pad_end == [0; 3] {
            self.input = [1, 1, self.input.iter().product()];
        }
        self
    }
}

/// Weights of a convolution, packed once for a level.
#[derive(Clone)]
pub struct ConvWeights {
    data: crate::gemm::Aligned,
    level: Level,
    out_channels: usize,
    terms: usize,
    groups: usize,
    depthwise: bool,
}

impl ConvWeights {
    /// Packs `w`, `[out_channels, in_channels / groups, kernel…]`; batch and image size of `shape`
    /// do not matter.
    ///
    /// # Panics
    /// When `w` has another length.
    pub fn new(isa: Isa, par: &dyn Parallel, shape: &ConvShape, w: &[f32]) -> Self {
        shape.check();
        assert_eq!(w.len(), shape.weights_len(), "conv: weights length against {shape:?}");
        let (terms, each) = (shape.terms(), shape.out_channels / shape.groups);
        let mut data = crate::gemm::Aligned::zeroed(w.len());
        let depthwise = shape.is_depthwise();
        if depthwise {
            data.as_mut_slice().copy_from_slice(w);
        } else {
            let len = packed_a_len(each, terms);
            for g in 0..shape.groups {
                let part = &mut data.as_mut_slice()[g * len..(g + 1) * len];
                pack_a_into(
                    isa,
                    par,
                    each,
                    terms,
                    Mat::dense(&w[g * len..(g + 1) * len], terms),
                    part,
                );
            }
        }
        ConvWeights {
            data,
            level: isa.level(),
            out_channels: shape.out_channels,
            terms,
            groups: shape.groups,
            depthwise,
        }
    }
}

impl std::fmt::Debug for ConvWeights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConvWeights")
            .field("level", &self.level)
            .field("out_channels", &self.out_channels)
            .field("terms", &self.terms)
            .field("groups", &self.groups)
            .finish_non_exhaustive()
    }
}

/// What happens to the result: `activation(x * w + bias + residual)`.
#[derive(Copy, Clone, Debug, Default)]
pub struct ConvEpilogue<'a> {
    /// One value per output channel.
    pub bias: Option<&'a [f32]>,
    /// A tensor of the shape of the output.
    pub residual: Option<&'a [f32]>,
    /// The output holds the residual; for [`conv_blocked`] where
    /// [`accumulates`](ConvShape::accumulates) says so.
    pub accumulate: bool,
    /// Applied last.
    pub activation: Option<Unary>,
}

impl ConvEpilogue<'_> {
    fn check(&self, channels: usize, output: usize) {
        assert!(!self.accumulate, "conv: only blocked convolutions add to what the output holds");
        if let Some(b) = self.bias {
            assert_eq!(b.len(), channels, "conv: bias length against output channels");
        }
        if let Some(r) = self.residual {
            assert_eq!(r.len(), output, "conv: residual length against output length");
        }
    }
}

/// Floats of scratch that [`conv`] needs when run by `par`.
pub fn conv_scratch(isa: Isa, par: &dyn Parallel, shape: &ConvShape) -> usize {
    shape.check();
    if shape.is_depthwise() {
        depthwise::scratch(par, shape)
    } else {
        implicit::scratch(isa, par, &shape.flattened())
    }
}

/// `y = activation(x * w + bias + residual)`; see the [module](self) for layouts.
///
/// # Panics
/// When a length disagrees with `shape`, or the weights were packed for another shape or level.
#[expect(clippy::too_many_arguments, reason = "an input, weights, an output and how to run")]
pub fn conv(
    isa: Isa,
    par: &dyn Parallel,
    shape: &ConvShape,
    x: &[f32],
    weights: &ConvWeights,
    epilogue: &ConvEpilogue<'_>,
    y: &mut [f32],
    scratch: &mut [f32],
) {
    shape.check();
    assert_eq!(x.len(), shape.input_len(), "conv: input length against {shape:?}");
    assert_eq!(y.len(), shape.output_len(), "conv: output length against {shape:?}");
    let packed =
        (weights.level, weights.out_channels, weights.terms, weights.groups, weights.depthwise);
    let wanted =
        (isa.level(), shape.out_channels, shape.terms(), shape.groups, shape.is_depthwise());
    assert!(packed == wanted, "conv: weights were packed for {packed:?}, used as {wanted:?}");
    epilogue.check(shape.out_channels, y.len());
    if y.is_empty() {
        return;
    }
    if weights.depthwise {
        depthwise::run(isa, par, shape, x, weights.data.as_slice(), epilogue, y, scratch);
    } else {
        implicit::run(
            isa,
            par,
            &shape.flattened(),
            x,
            weights.data.as_slice(),
            epilogue,
            y,
            scratch,
        );
    }
}

/// `out[at + i] = from[i * step]` for `i < n`. Whole vectors may put zeros after those, where the
/// panel is still to be filled (rows are cleared and filled from left to right).
///
/// # Safety
/// `from` has more than `(n - 1) * step` floats, `out` at least `at + n`, and `n > 0`.
#[inline(always)]
unsafe fn copy_run<S: Simd>(s: S, from: &[f32], step: usize, out: &mut [f32], at: usize, n: usize) {
    let mut i = 0;
    while i < n {
        let left = S::LANES.min(n - i);
        let room = out.len() - at - i >= S::LANES;
        // SAFETY: vectors are read whole only where `from` has them and written whole only where
        // `out` has room; the rest is masked or goes one by one below `n`.
        unsafe {
            let to = out.as_mut_ptr().add(at + i);
            let source = from.as_ptr().add(i * step);
            if step == 1 {
                let v = s.load_n(source, left);
                if room { s.store(to, v) } else { s.store_n(to, left, v) }
            } else if step == 2 && left == S::LANES && from.len() - 2 * i >= 2 * S::LANES {
                s.store(to, s.even_lanes(s.load(source), s.load(source.add(S::LANES))));
            } else {
                for k in 0..left {
                    *to.add(k) = *source.add(k * step);
                }
            }
        }
        i += left;
    }
}
