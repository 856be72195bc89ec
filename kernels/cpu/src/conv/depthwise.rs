//! One input channel per group: a direct kernel.
//!
//! A plane's rows are first copied with their padding, and for a stride `s` dealt into `s` rows by
//! column modulo `s`; then every tap of every output reads a contiguous vector, whatever the stride,
//! and a vector of outputs stays in registers over all taps.

use super::{ConvEpilogue, ConvShape, copy_run};
use crate::Isa;
use crate::gemm::micro::{BiasPtr, Finish, finish};
use crate::parallel::{Parallel, Shared, Slots, split};
use crate::simd::{Kernel, MAX_LANES, Simd};

/// Multiply-adds of one task.
const TASK_MACS: usize = 1 << 17;

/// Floats of one dealt row of one phase, with room for the last vector.
fn phase_len(shape: &ConvShape) -> usize {
    let reach = shape.dilation[2] * (shape.kernel[2] - 1) / shape.stride[2];
    shape.output()[2] + reach + MAX_LANES
}

fn slot_len(shape: &ConvShape) -> usize {
    if shape.output().contains(&0) {
        return 0;
    }
    shape.input[0] * shape.input[1] * shape.stride[2] * phase_len(shape)
}

pub(super) fn scratch(par: &dyn Parallel, shape: &ConvShape) -> usize {
    Slots::count(par) * slot_len(shape)
}

/// Lengths were checked by the caller.
#[expect(clippy::too_many_arguments, reason = "an input, weights, an output and how to run")]
pub(super) fn run(
    isa: Isa,
    par: &dyn Parallel,
    shape: &ConvShape,
    x: &[f32],
    w: &[f32],
    epilogue: &ConvEpilogue<'_>,
    y: &mut [f32],
    scratch: &mut [f32],
) {
    let slots = Slots::new(par, scratch, slot_len(shape));
    let each = shape.out_channels / shape.groups;
    let (plane_in, plane_out) =
        (shape.input.iter().product::<usize>(), shape.output().iter().product::<usize>());
    let taps = shape.taps();
    let y = Shared::new(y);
    let step = TASK_MACS.div_ceil((plane_out * taps * each).max(1));
    split(par, shape.batch * shape.in_channels, step, &|start, count| {
        slots.with(|work| {
            for p in start..start + count {
                let x = &x[p * plane_in..(p + 1) * plane_in];
                isa.dispatch(Deal { shape, x, out: work });
                for o in p * each..(p + 1) * each {
                    let c = o % shape.out_channels;
                    // SAFETY: output plane `o` belongs to input plane `p`, which is this task's.
                    let y = unsafe { y.part(o * plane_out, plane_out) };
                    let finish = Finish {
                        bias: epilogue.bias.map_or(BiasPtr::None, |b| BiasPtr::Rows(&b[c])),
                        residual: epilogue
                            .residual
                            .map_or(std::ptr::null(), |r| r[o * plane_out..].as_ptr()),
                        residual_row: plane_out,
                        activation: epilogue.activation,
                    };
                    let w = &w[c * taps..(c + 1) * taps];
                    isa.dispatch(Plane { shape, rows: work, w, y, finish });
                }
            }
        });
    });
}

/// `out[row][phase][i]` is the padded input row at column `i stride + phase`.
struct Deal<'a> {
    shape: &'a ConvShape,
    x: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Deal<'_> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let Deal { shape, x, out } = self;
        let (len, step, pad, iw) =
            (phase_len(shape), shape.stride[2], shape.pad_begin[2], shape.input[2]);
        if iw == 0 {
            out.fill(0.0);
            return;
        }
        for (line, out) in x.chunks_exact(iw).zip(out.chunks_exact_mut(step * len)) {
            for (phase, out) in out.chunks_exact_mut(len).enumerate() {
                // Columns `i step + phase - pad` in `0..iw`.
                let low = pad.saturating_sub(phase).div_ceil(step).min(len);
                let high = (iw + pad).saturating_sub(phase).div_ceil(step).clamp(low, len);
                out[..low].fill(0.0);
                out[high..].fill(0.0);
                let out = &mut out[low..high];
                if out.is_empty() {
                    continue;
                }
                let from = &line[low * step + phase - pad..];
                let n = out.len();
                // SAFETY: columns `low..high` read `from[0], from[step], …` within the line.
                unsafe { copy_run(s, from, step, out, 0, n) };
            }
        }
    }
}

struct Plane<'a> {
    shape: &'a ConvShape,
    rows: &'a [f32],
    w: &'a [f32],
    y: &'a mut [f32],
    finish: Finish,
}

impl Kernel for Plane<'_> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let Plane { shape, rows, w, y, finish: f } = self;
        let [_, oh, ow] = shape.output();
        for (row, y) in y.chunks_exact_mut(ow).enumerate() {
            let at = [row / oh, row % oh];
            // Several vectors of outputs at a time: their chains hide each other's latency.
            let mut ox = 0;
            while ox < ow {
                let left = (ow - ox).div_ceil(S::LANES);
                ox += match left {
                    4.. => span::<S, 4>(s, shape, rows, w, at, ox, y),
                    2.. => span::<S, 2>(s, shape, rows, w, at, ox, y),
                    _ => span::<S, 1>(s, shape, rows, w, at, ox, y),
                };
            }
        }
        if !f.is_noop() {
            let n = y.len();
            // SAFETY: the plane is one row of `n`; bias and residual were made for it.
            unsafe { finish(s, f, y.as_mut_ptr(), n, 0, 0, 1, n) };
        }
    }
}

/// `V` vectors of outputs from column `ox` of the row at depth and height `at`; returns how many
/// columns that is.
#[inline(always)]
fn span<S: Simd, const V: usize>(
    s: S,
    shape: &ConvShape,
    rows: &[f32],
    w: &[f32],
    at: [usize; 2],
    ox: usize,
    y: &mut [f32],
) -> usize {
    let [id, ih, _] = shape.input;
    let [kd, kh, kw] = shape.kernel;
    let (len, step) = (phase_len(shape), shape.stride[2]);
    let tap = |d: usize, k: usize| {
        (at[d] * shape.stride[d] + k * shape.dilation[d]).wrapping_sub(shape.pad_begin[d])
    };
    let mut acc = [s.zero(); V];
    for kz in 0..kd {
        for ky in 0..kh {
            let (iz, iy) = (tap(0, kz), tap(1, ky));
            if iz >= id || iy >= ih {
                continue;
            }
            let line = &rows[(iz * ih + iy) * step * len..][..step * len];
            let w = &w[(kz * kh + ky) * kw..][..kw];
            let (mut phase, mut column) = (0, ox);
            for &k in w {
                let from = &line[phase * len + column..][..V * S::LANES];
                let k = s.splat(k);
                for (v, acc) in acc.iter_mut().enumerate() {
                    // SAFETY: `from` has `V LANES` floats.
                    let x = unsafe { s.load(from.as_ptr().add(v * S::LANES)) };
                    *acc = s.mul_add(x, k, *acc);
                }
                phase += shape.dilation[2];
                while phase >= step {
                    phase -= step;
                    column += 1;
                }
            }
        }
    }
    for (v, acc) in acc.iter().enumerate() {
        let to = &mut y[ox + v * S::LANES..];
        // SAFETY: as many lanes as `to` has are stored.
        unsafe { s.store_n(to.as_mut_ptr(), to.len().min(S::LANES), *acc) };
    }
    V * S::LANES
}
