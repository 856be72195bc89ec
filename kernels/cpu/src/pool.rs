//! Pooling windows of `[planes, depth, height, width]`; one and two dimensions are three with
//! leading ones. A global pool is a reduction over the plane: see [`crate::reduce`].

use crate::Isa;
use crate::parallel::{Parallel, Shared, split};
use crate::simd::{Kernel, Simd};

/// The sizes of a pooling; spatial arrays are depth, height, width.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct PoolShape {
    /// Batch times channels.
    pub planes: usize,
    /// Size of the input.
    pub input: [usize; 3],
    /// Taps of the window, at least 1.
    pub kernel: [usize; 3],
    /// Step of the window between outputs, at least 1.
    pub stride: [usize; 3],
    /// Distance between taps, at least 1.
    pub dilation: [usize; 3],
    /// Padding before the input.
    pub pad_begin: [usize; 3],
    /// Padding after the input; counts only where padding is averaged in.
    pub pad_end: [usize; 3],
    /// Size of the output: the caller decides how a last, partial window rounds.
    pub output: [usize; 3],
}

impl PoolShape {
    fn check(&self, x: usize, y: usize) {
        assert_eq!(
            x,
            self.planes * self.input.iter().product::<usize>(),
            "pool: input length against {self:?}"
        );
        assert_eq!(
            y,
            self.planes * self.output.iter().product::<usize>(),
            "pool: output length against {self:?}"
        );
        let all = self.kernel.iter().chain(&self.stride).chain(&self.dilation);
        assert!(
            all.clone().all(|&v| v > 0),
            "pool: kernel, stride and dilation must be positive: {self:?}"
        );
    }

    /// Input index of tap `k` of output `o`; beyond the input when it falls into the padding.
    #[inline(always)]
    fn tap(&self, d: usize, o: usize, k: usize) -> usize {
        (o * self.stride[d] + k * self.dilation[d]).wrapping_sub(self.pad_begin[d])
    }

    /// Outputs along the width for which tap `k` lies in the input.
    #[inline(always)]
    fn columns(&self, k: usize) -> std::ops::Range<usize> {
        let (step, shift, pad) = (self.stride[2], k * self.dilation[2], self.pad_begin[2]);
        let low = pad.saturating_sub(shift).div_ceil(step);
        let high = (self.input[2] + pad).saturating_sub(shift).div_ceil(step).min(self.output[2]);
        low..high.max(low)
    }

    fn step(&self) -> usize {
        let work = self.output.iter().chain(&self.kernel).product::<usize>();
        (64 * 1024usize).div_ceil(work.max(1))
    }
}

/// What a window gives.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Pool {
    /// The largest value of the window inside the input; NaN if any is; `-inf` if there is none.
    Max,
    /// The mean of the window.
    Average {
        /// Count padding (as zeros) instead of the inputs alone. Parts of the window beyond the
        /// padding never count.
        count_padding: bool,
    },
}

/// Pools every window.
///
/// # Panics
/// When a length disagrees with `shape`.
pub fn pool(isa: Isa, par: &dyn Parallel, op: Pool, shape: &PoolShape, x: &[f32], y: &mut [f32]) {
    shape.check(x.len(), y.len());
    if y.is_empty() {
        return;
    }
    let (plane_in, plane_out) =
        (shape.input.iter().product::<usize>(), shape.output.iter().product::<usize>());
    let y = Shared::new(y);
    split(par, shape.planes, shape.step(), &|start, n| {
        for p in start..start + n {
            let x = &x[p * plane_in..(p + 1) * plane_in];
            // SAFETY: each task has planes of its own.
            let y = unsafe { y.part(p * plane_out, plane_out) };
            isa.dispatch(Plane { op, shape, x, y });
        }
    });
}

struct Plane<'a> {
    op: Pool,
    shape: &'a PoolShape,
    x: &'a [f32],
    y: &'a mut [f32],
}

impl Kernel for Plane<'_> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let Plane { op, shape, x, y } = self;
        let [id, ih, iw] = shape.input;
        let [_, oh, ow] = shape.output;
        let step = shape.stride[2];
        y.fill(if op == Pool::Max { f32::NEG_INFINITY } else { 0.0 });
        for (row, y) in y.chunks_exact_mut(ow).enumerate() {
            let (oz, oy) = (row / oh, row % oh);
            for kz in 0..shape.kernel[0] {
                for ky in 0..shape.kernel[1] {
                    let (iz, iy) = (shape.tap(0, oz, kz), shape.tap(1, oy, ky));
                    if iz >= id || iy >= ih {
                        continue;
                    }
                    let line = &x[(iz * ih + iy) * iw..][..iw];
                    for kx in 0..shape.kernel[2] {
                        let columns = shape.columns(kx);
                        if columns.is_empty() {
                            continue;
                        }
                        let from = &line[shape.tap(2, columns.start, kx)..];
                        let to = &mut y[columns];
                        match (op, step) {
                            (Pool::Max, 1) => join::<S, true>(s, &from[..to.len()], to),
                            (Pool::Average { .. }, 1) => join::<S, false>(s, &from[..to.len()], to),
                            (Pool::Max, _) => {
                                for (to, &v) in to.iter_mut().zip(from.iter().step_by(step)) {
                                    // A NaN is taken, and kept because nothing is larger.
                                    *to = if v > *to || v.is_nan() { v } else { *to };
                                }
                            }
                            (Pool::Average { .. }, _) => {
                                for (to, &v) in to.iter_mut().zip(from.iter().step_by(step)) {
                                    *to += v;
                                }
                            }
                        }
                    }
                }
            }
            if let Pool::Average { count_padding } = op {
                // Taps of the window that count, in each dimension.
                let taps = |d: usize, o: usize| {
                    let (before, after) =
                        if count_padding { (shape.pad_begin[d], shape.pad_end[d]) } else { (0, 0) };
                    let from = shape.pad_begin[d] - before;
                    let to = shape.pad_begin[d] + shape.input[d] + after;
                    let at = |k: usize| o * shape.stride[d] + k * shape.dilation[d];
                    (0..shape.kernel[d]).filter(|&k| (from..to).contains(&at(k))).count()
                };
                let rows = taps(0, oz) * taps(1, oy);
                for (ox, y) in y.iter_mut().enumerate() {
                    let count = rows * taps(2, ox);
                    *y = if count == 0 { 0.0 } else { *y / count as f32 };
                }
            }
        }
    }
}

/// `to = max(to, from)` or `to + from`.
#[inline(always)]
fn join<S: Simd, const MAX: bool>(s: S, from: &[f32], to: &mut [f32]) {
    let mut i = 0;
    while i < to.len() {
        let n = S::LANES.min(to.len() - i);
        // SAFETY: the caller gives slices of one length, and `i + n` is at most that.
        unsafe {
            let (a, b) = (s.load_n(to.as_ptr().add(i), n), s.load_n(from.as_ptr().add(i), n));
            s.store_n(to.as_mut_ptr().add(i), n, if MAX { s.max_nan(a, b) } else { s.add(a, b) });
        }
        i += n;
    }
}

/// As [`pool`] with [`Pool::Max`], and where each came from: `index` is the flat position in the
/// whole of `x` of the first largest value in row-major order of the window, -1 where the window lies
/// in the padding alone.
///
/// # Panics
/// When a length disagrees with `shape`.
pub fn max_pool_indices(
    par: &dyn Parallel,
    shape: &PoolShape,
    x: &[f32],
    y: &mut [f32],
    index: &mut [i64],
) {
    shape.check(x.len(), y.len());
    assert_eq!(index.len(), y.len(), "pool: index length against output length");
    let (plane_in, plane_out) =
        (shape.input.iter().product::<usize>(), shape.output.iter().product::<usize>());
    let [id, ih, iw] = shape.input;
    let [_, oh, ow] = shape.output;
    let (y, index) = (Shared::new(y), Shared::new(index));
    split(par, shape.planes, shape.step(), &|start, n| {
        for p in start..start + n {
            // SAFETY: each task has planes of its own.
            let (y, index) =
                unsafe { (y.part(p * plane_out, plane_out), index.part(p * plane_out, plane_out)) };
            for (o, (y, index)) in y.iter_mut().zip(index).enumerate() {
                let (oz, oy, ox) = (o / ow / oh, o / ow % oh, o % ow);
                (*y, *index) = (f32::NEG_INFINITY, -1);
                for kz in 0..shape.kernel[0] {
                    for ky in 0..shape.kernel[1] {
                        for kx in 0..shape.kernel[2] {
                            let (iz, iy, ix) =
                                (shape.tap(0, oz, kz), shape.tap(1, oy, ky), shape.tap(2, ox, kx));
                            if iz >= id || iy >= ih || ix >= iw {
                                continue;
                            }
                            let at = p * plane_in + (iz * ih + iy) * iw + ix;
                            let v = x[at];
                            if *index < 0 || v > *y || (v.is_nan() && !y.is_nan()) {
                                (*y, *index) = (v, at as i64);
                            }
                        }
                    }
                }
            }
        }
    });
}
