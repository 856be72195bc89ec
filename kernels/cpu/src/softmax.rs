//! Softmax and its logarithm over the middle of `[outer, len, inner]`.
//!
//! The largest value is taken away first, so nothing overflows. A slice that is `-inf` everywhere
//! has no softmax and gives NaN, as the formula says; attention, which means "nothing to look at"
//! by it, has its own rule (see [`crate::attention`]).

use crate::Isa;
use crate::math;
use crate::parallel::{Parallel, Shared, split};
use crate::reduce::{MaxFold, STEP, fold_cols, fold_row};
use crate::simd::{Kernel, Simd};

/// `y = softmax(x)` along `len`, or its natural logarithm.
///
/// # Panics
/// When either length is not `outer len inner`.
#[expect(clippy::too_many_arguments, reason = "an input, its shape and an output")]
pub fn softmax(
    isa: Isa,
    par: &dyn Parallel,
    log: bool,
    outer: usize,
    len: usize,
    inner: usize,
    x: &[f32],
    y: &mut [f32],
) {
    assert_eq!(
        x.len(),
        outer * len * inner,
        "softmax: input length against {outer} x {len} x {inner}"
    );
    assert_eq!(y.len(), x.len(), "softmax: output length against input length");
    run(isa, par, log, (outer, len, inner), Shared::read(x), Shared::new(y));
}

/// `x = softmax(x)`; see [`softmax`].
///
/// # Panics
/// When the length is not `outer len inner`.
pub fn softmax_inplace(
    isa: Isa,
    par: &dyn Parallel,
    log: bool,
    outer: usize,
    len: usize,
    inner: usize,
    x: &mut [f32],
) {
    assert_eq!(x.len(), outer * len * inner, "softmax: length against {outer} x {len} x {inner}");
    let x = Shared::new(x);
    run(isa, par, log, (outer, len, inner), x, x);
}

fn run(
    isa: Isa,
    par: &dyn Parallel,
    log: bool,
    (outer, len, inner): (usize, usize, usize),
    x: Shared<f32>,
    y: Shared<f32>,
) {
    if len == 0 || inner == 0 {
        return;
    }
    split(par, outer, (STEP / 4).div_ceil(len * inner), &|start, n| {
        for o in start..start + n {
            // SAFETY: `o < outer`, so both pointers have `len * inner` floats from there, which no
            // other task touches.
            let (x, y) = unsafe {
                (x.ptr().cast_const().add(o * len * inner), y.ptr().add(o * len * inner))
            };
            if inner == 1 {
                isa.dispatch(Row { log, x, y, n: len });
            } else {
                isa.dispatch(Cols { log, x, y, len, inner });
            }
        }
    });
}

/// One contiguous row; `x == y` is allowed.
struct Row {
    log: bool,
    x: *const f32,
    y: *mut f32,
    n: usize,
}

/// `y[i] = exp(x[i] - max)` unless `log`; returns the sum of those.
#[inline(always)]
unsafe fn exp_sum<S: Simd>(s: S, x: *const f32, y: *mut f32, n: usize, max: f32, log: bool) -> f32 {
    let max = s.splat(max);
    let mut acc = [s.zero(); 2];
    let mut i = 0;
    let mut turn = 0;
    while i < n {
        let lanes = S::LANES.min(n - i);
        // SAFETY: the caller promises `n` floats at both; lanes beyond are masked.
        unsafe {
            let mut e = if lanes == S::LANES {
                math::exp(s, s.sub(s.load(x.add(i)), max))
            } else {
                math::exp(s, s.sub(s.load_n(x.add(i), lanes), max))
            };
            if lanes < S::LANES {
                // Lanes beyond the row must not count.
                let mut e_lanes = s.to_array(e);
                e_lanes[lanes..].fill(0.0);
                e = s.load(e_lanes.as_ptr());
            }
            if !log {
                s.store_n(y.add(i), lanes, e);
            }
            acc[turn] = s.add(acc[turn], e);
        }
        turn ^= 1;
        i += lanes;
    }
    s.sum_lanes(s.add(acc[0], acc[1]))
}

impl Kernel for Row {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let Row { log, x, y, n } = self;
        // SAFETY: whoever makes a `Row` proves `n` floats at both pointers.
        unsafe {
            let max = fold_row(s, MaxFold, x, n);
            let sum = exp_sum(s, x, y, n, max, log);
            let (from, shift, by) = if log {
                (x, max, s.to_array(math::log(s, s.splat(sum)))[0])
            } else {
                (y.cast_const(), 0.0, sum)
            };
            let (shift, by) = (s.splat(shift), s.splat(by));
            let mut i = 0;
            while i < n {
                let lanes = S::LANES.min(n - i);
                let v = s.load_n(from.add(i), lanes);
                let v = if log { s.sub(s.sub(v, shift), by) } else { s.div(v, by) };
                s.store_n(y.add(i), lanes, v);
                i += lanes;
            }
        }
    }
}

/// All columns of one `[len, inner]` slab; `x == y` is allowed.
struct Cols {
    log: bool,
    x: *const f32,
    y: *mut f32,
    len: usize,
    inner: usize,
}

impl Kernel for Cols {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let Cols { log, x, y, len, inner } = self;
        let mut i = 0;
        while i < inner {
            let n = S::LANES.min(inner - i);
            // SAFETY: whoever makes a `Cols` proves `len * inner` floats at both pointers; columns
            // `i..i + n` exist in every row.
            unsafe {
                let (x, y) = (x.add(i), y.add(i));
                let max = fold_cols(s, MaxFold, x, len, inner, n);
                let mut sum = s.zero();
                for k in 0..len {
                    let e = math::exp(s, s.sub(s.load_n(x.add(k * inner), n), max));
                    if !log {
                        s.store_n(y.add(k * inner), n, e);
                    }
                    sum = s.add(sum, e);
                }
                let by = if log { math::log(s, sum) } else { sum };
                for k in 0..len {
                    let v = if log {
                        s.sub(s.sub(s.load_n(x.add(k * inner), n), max), by)
                    } else {
                        s.div(s.load_n(y.add(k * inner), n), by)
                    };
                    s.store_n(y.add(k * inner), n, v);
                }
            }
            i += n;
        }
    }
}
