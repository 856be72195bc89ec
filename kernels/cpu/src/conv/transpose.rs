//! Transposed convolution: each input scatters its product with the window into the output.
//!
//! For every output channel, one product `[taps, channels] × [channels, positions]` gives what each
//! input position contributes at each tap; adding the rows to the output where their tap falls
//! finishes it. The input is packed once per group of an image and shared by all output channels.

use super::ConvEpilogue;
use crate::gemm::micro::{BiasPtr, Finish, finish};
use crate::gemm::{
    Aligned, Epilogue, Lhs, Mat, Out, PackedARef, PackedBRef, Rhs, Shape, gemm, pack_a_into,
    pack_b_into, packed_a_len, packed_b_len,
};
use crate::parallel::{Parallel, Serial, Shared, Slots};
use crate::simd::{Kernel, Simd};
use crate::{Isa, Level};

/// The sizes of a transposed convolution; spatial arrays are depth, height, width.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct ConvTransposeShape {
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
    /// Distance of neighbouring inputs in the output, at least 1.
    pub stride: [usize; 3],
    /// Distance between taps, at least 1.
    pub dilation: [usize; 3],
    /// Outputs cut off at the beginning.
    pub pad_begin: [usize; 3],
    /// Size of the output, normally
    /// `(input - 1) stride + dilation (kernel - 1) + 1 - pad_begin - pad_end + output_padding`.
    pub output: [usize; 3],
}

impl ConvTransposeShape {
    fn taps(&self) -> usize {
        self.kernel.iter().product()
    }

    fn depth(&self) -> usize {
        self.in_channels / self.groups
    }

    fn each(&self) -> usize {
        self.out_channels / self.groups
    }

    fn check(&self) {
        assert!(
            self.groups > 0
                && self.in_channels.is_multiple_of(self.groups)
                && self.out_channels.is_multiple_of(self.groups),
            "conv_transpose: {} groups do not divide {} input and {} output channels",
            self.groups,
            self.in_channels,
            self.out_channels
        );
        assert!(
            self.stride.iter().chain(&self.dilation).all(|&v| v > 0),
            "conv_transpose: stride {:?} and dilation {:?} must be positive",
            self.stride,
            self.dilation
        );
    }
}

/// Weights of a transposed convolution, packed once for a level.
#[derive(Clone)]
pub struct ConvTransposeWeights {
    data: Aligned,
    level: Level,
    /// Output channels, taps, input channels of a group.
    sizes: [usize; 3],
}

impl ConvTransposeWeights {
    /// Packs `w`, `[in_channels, out_channels / groups, kernel…]`.
    ///
    /// # Panics
    /// When `w` has another length.
    pub fn new(isa: Isa, par: &dyn Parallel, shape: &ConvTransposeShape, w: &[f32]) -> Self {
        shape.check();
        let (taps, depth, each) = (shape.taps(), shape.depth(), shape.each());
        assert_eq!(
            w.len(),
            shape.in_channels * each * taps,
            "conv_transpose: weights length against {shape:?}"
        );
        let len = packed_a_len(taps, depth);
        let mut data = Aligned::zeroed(shape.out_channels * len);
        if len > 0 {
            for (o, part) in data.as_mut_slice().chunks_exact_mut(len).enumerate() {
                // Element (tap, channel) of output channel `o` of its group.
                let first = (o / each * depth * each + o % each) * taps;
                let mat = Mat { data: &w[first..], row: 1, col: each * taps, batch: 0 };
                pack_a_into(isa, par, taps, depth, mat, part);
            }
        }
        ConvTransposeWeights { data, level: isa.level(), sizes: [shape.out_channels, taps, depth] }
    }
}

impl std::fmt::Debug for ConvTransposeWeights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConvTransposeWeights")
            .field("level", &self.level)
            .field("sizes", &self.sizes)
            .finish_non_exhaustive()
    }
}

fn shared_len(isa: Isa, shape: &ConvTransposeShape) -> usize {
    packed_b_len(isa, shape.depth(), shape.input.iter().product())
}

fn slot_len(shape: &ConvTransposeShape) -> usize {
    shape.taps() * shape.input.iter().product::<usize>()
}

/// Floats of scratch that [`conv_transpose`] needs when run by `par`.
pub fn conv_transpose_scratch(isa: Isa, par: &dyn Parallel, shape: &ConvTransposeShape) -> usize {
    shape.check();
    shared_len(isa, shape) + Slots::count(par) * slot_len(shape)
}

/// `y = activation(xᵀ * w + bias + residual)`, `y` being `[batch, out_channels, output…]`.
///
/// # Panics
/// When a length disagrees with `shape`, or the weights were packed for another shape or level.
#[expect(clippy::too_many_arguments, reason = "an input, weights, an output and how to run")]
pub fn conv_transpose(
    isa: Isa,
    par: &dyn Parallel,
    shape: &ConvTransposeShape,
    x: &[f32],
    weights: &ConvTransposeWeights,
    epilogue: &ConvEpilogue<'_>,
    y: &mut [f32],
    scratch: &mut [f32],
) {
    shape.check();
    let positions: usize = shape.input.iter().product();
    let plane: usize = shape.output.iter().product();
    let (taps, depth, each) = (shape.taps(), shape.depth(), shape.each());
    assert_eq!(
        x.len(),
        shape.batch * shape.in_channels * positions,
        "conv_transpose: input length against {shape:?}"
    );
    assert_eq!(
        y.len(),
        shape.batch * shape.out_channels * plane,
        "conv_transpose: output length against {shape:?}"
    );
    let (packed, wanted) =
        ((weights.level, weights.sizes), (isa.level(), [shape.out_channels, taps, depth]));
    assert!(
        packed == wanted,
        "conv_transpose: weights were packed for {packed:?}, used as {wanted:?}"
    );
    epilogue.check(shape.out_channels, y.len());
    let shared = shared_len(isa, shape);
    let needs = conv_transpose_scratch(isa, par, shape);
    assert!(
        scratch.len() >= needs,
        "conv_transpose: scratch holds {} floats, needs {needs}",
        scratch.len()
    );
    if y.is_empty() {
        return;
    }
    let (panels, slots) = scratch.split_at_mut(shared);
    let slots = Slots::new(par, slots, slot_len(shape));
    let y = Shared::new(y);
    let len = packed_a_len(taps, depth);
    for item in 0..shape.batch * shape.groups {
        let x = &x[item * depth * positions..(item + 1) * depth * positions];
        pack_b_into(isa, par, depth, positions, Mat::dense(x, positions), panels);
        let b = PackedBRef::from_packed(isa, panels, depth, positions);
        par.run(each, &|o| {
            let channel = item % shape.groups * each + o;
            let at = (item * each + o) * plane;
            // SAFETY: each task has an output plane of its own.
            let y = unsafe { y.part(at, plane) };
            slots.with(|columns| {
                let columns = &mut columns[..taps * positions];
                let a = PackedARef::from_packed(
                    isa,
                    &weights.data.as_slice()[channel * len..],
                    taps,
                    depth,
                );
                let product = Shape { batch: 1, m: taps, n: positions, k: depth };
                let out = Out::dense(columns, positions);
                gemm(
                    isa,
                    &Serial,
                    product,
                    Lhs::Packed(a),
                    Rhs::Packed(b),
                    out,
                    &Epilogue::default(),
                    &mut [],
                );
                let finish = Finish {
                    bias: epilogue.bias.map_or(BiasPtr::None, |b| BiasPtr::Rows(&b[channel])),
                    residual: epilogue.residual.map_or(std::ptr::null(), |r| r[at..].as_ptr()),
                    residual_row: plane,
                    activation: epilogue.activation,
                };
                isa.dispatch(Scatter { shape, columns, y, finish });
            });
        });
    }
}

/// Adds each tap's row to the output plane where the tap falls.
struct Scatter<'a> {
    shape: &'a ConvTransposeShape,
    columns: &'a [f32],
    y: &'a mut [f32],
    finish: Finish,
}

impl Kernel for Scatter<'_> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let Scatter { shape, columns, y, finish: f } = self;
        y.fill(0.0);
        let [id, ih, iw] = shape.input;
        let [od, oh, ow] = shape.output;
        let [_, kh, kw] = shape.kernel;
        let place = |d: usize, i: usize, k: usize| {
            (i * shape.stride[d] + k * shape.dilation[d]).wrapping_sub(shape.pad_begin[d])
        };
        for (tap, columns) in columns.chunks_exact((id * ih * iw).max(1)).enumerate() {
            let (kz, ky, kx) = (tap / (kh * kw), tap / kw % kh, tap % kw);
            for (line, columns) in columns.chunks_exact(iw.max(1)).enumerate() {
                let (oz, oy) = (place(0, line / ih, kz), place(1, line % ih, ky));
                // A place before the output wrapped around and is beyond it now.
                if oz >= od || oy >= oh {
                    continue;
                }
                let y = &mut y[(oz * oh + oy) * ow..][..ow];
                let (step, shift, pad) =
                    (shape.stride[2], kx * shape.dilation[2], shape.pad_begin[2]);
                let low = pad.saturating_sub(shift).div_ceil(step);
                let high = (ow + pad).saturating_sub(shift).div_ceil(step).min(iw);
                if low >= high {
                    continue;
                }
                let to = y[low * step + shift - pad..].iter_mut().step_by(step);
                for (to, from) in to.zip(&columns[low..high]) {
                    *to += *from;
                }
            }
        }
        if !f.is_noop() {
            let n = y.len();
            // SAFETY: the plane is one row of `n`; bias and residual were made for it.
            unsafe { finish(s, f, y.as_mut_ptr(), n, 0, 0, 1, n) };
        }
    }
}
