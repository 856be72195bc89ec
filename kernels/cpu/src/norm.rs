//! Normalisation: layer, root-mean-square, group (and instance), and the per-channel affine form
//! that batch normalisation takes at inference.
//!
//! Mean and variance are taken in two passes over data that is in cache by then: the variance is the
//! mean of squared deviations from the rounded mean, which does not cancel.

use crate::Isa;
use crate::elementwise::{Unary, apply};
use crate::parallel::{Parallel, Shared, split};
use crate::reduce::{DeviationFold, STEP, SquareFold, SumFold, fold_row};
use crate::simd::{Kernel, Simd};

/// How each row of a normalisation is centred.
#[derive(Copy, Clone, PartialEq, Eq)]
enum Centre {
    Mean,
    Zero,
}

/// Statistics that the caller wants to keep, one of each per row; empty slices keep nothing.
#[derive(Debug, Default)]
pub struct Stats<'a> {
    /// Mean of each row (not written by [`rms_norm`]).
    pub mean: &'a mut [f32],
    /// `1 / sqrt(variance + eps)` of each row (of the mean square for [`rms_norm`]).
    pub inv_std: &'a mut [f32],
}

/// `y = (x - mean) / sqrt(variance + eps) * scale + bias` for each row of `[rows, cols]`
/// (Ba, Kiros and Hinton, 2016). `scale` and `bias` have `cols` values where present.
///
/// # Panics
/// When a length disagrees with `rows`, `cols`.
#[expect(clippy::too_many_arguments, reason = "an input, its shape, its weights and an output")]
pub fn layer_norm(
    isa: Isa,
    par: &dyn Parallel,
    rows: usize,
    cols: usize,
    x: &[f32],
    scale: Option<&[f32]>,
    bias: Option<&[f32]>,
    eps: f32,
    y: &mut [f32],
    stats: Stats<'_>,
) {
    assert_eq!(x.len(), rows * cols, "norm: input length against {rows} rows of {cols}");
    assert_eq!(y.len(), x.len(), "norm: output length against input length");
    let (x, y) = (Shared::read(x), Shared::new(y));
    norm_rows(isa, par, Centre::Mean, (rows, cols), x, scale, bias, eps, y, stats);
}

/// [`layer_norm`] of `x` into itself.
///
/// # Panics
/// When a length disagrees with `rows`, `cols`.
#[expect(clippy::too_many_arguments, reason = "a tensor, its shape and its weights")]
pub fn layer_norm_inplace(
    isa: Isa,
    par: &dyn Parallel,
    rows: usize,
    cols: usize,
    x: &mut [f32],
    scale: Option<&[f32]>,
    bias: Option<&[f32]>,
    eps: f32,
) {
    assert_eq!(x.len(), rows * cols, "norm: length against {rows} rows of {cols}");
    let x = Shared::new(x);
    norm_rows(isa, par, Centre::Mean, (rows, cols), x, scale, bias, eps, x, Stats::default());
}

/// `y = x / sqrt(mean(x^2) + eps) * scale` for each row of `[rows, cols]` (Zhang and Sennrich, 2019).
///
/// # Panics
/// When a length disagrees with `rows`, `cols`.
#[expect(clippy::too_many_arguments, reason = "an input, its shape, its weights and an output")]
pub fn rms_norm(
    isa: Isa,
    par: &dyn Parallel,
    rows: usize,
    cols: usize,
    x: &[f32],
    scale: Option<&[f32]>,
    eps: f32,
    y: &mut [f32],
    stats: Stats<'_>,
) {
    assert_eq!(x.len(), rows * cols, "norm: input length against {rows} rows of {cols}");
    assert_eq!(y.len(), x.len(), "norm: output length against input length");
    let (x, y) = (Shared::read(x), Shared::new(y));
    norm_rows(isa, par, Centre::Zero, (rows, cols), x, scale, None, eps, y, stats);
}

/// [`rms_norm`] of `x` into itself.
///
/// # Panics
/// When a length disagrees with `rows`, `cols`.
pub fn rms_norm_inplace(
    isa: Isa,
    par: &dyn Parallel,
    rows: usize,
    cols: usize,
    x: &mut [f32],
    scale: Option<&[f32]>,
    eps: f32,
) {
    assert_eq!(x.len(), rows * cols, "norm: length against {rows} rows of {cols}");
    let x = Shared::new(x);
    norm_rows(isa, par, Centre::Zero, (rows, cols), x, scale, None, eps, x, Stats::default());
}

/// `x` and `y` point to `rows * cols` floats, and may be the same.
#[expect(clippy::too_many_arguments, reason = "an input, its shape, its weights and an output")]
fn norm_rows(
    isa: Isa,
    par: &dyn Parallel,
    centre: Centre,
    (rows, cols): (usize, usize),
    x: Shared<f32>,
    scale: Option<&[f32]>,
    bias: Option<&[f32]>,
    eps: f32,
    y: Shared<f32>,
    stats: Stats<'_>,
) {
    for (name, v) in [("scale", scale), ("bias", bias)] {
        assert!(v.is_none_or(|v| v.len() == cols), "norm: {name} does not have {cols} values");
    }
    for (name, v) in [("mean", &stats.mean), ("inv_std", &stats.inv_std)] {
        assert!(v.is_empty() || v.len() == rows, "norm: {name} does not have {rows} values");
    }
    let keep = |v: &mut [f32]| (!v.is_empty()).then(|| Shared::new(v));
    let (mean_out, inv_out) = (keep(stats.mean), keep(stats.inv_std));
    split(par, rows, STEP.div_ceil(cols.max(1)), &|start, n| {
        for r in start..start + n {
            // SAFETY: `r < rows`, and both reach `rows * cols` floats; each task has rows of its own.
            let (x, y) = unsafe { (x.ptr().cast_const().add(r * cols), y.ptr().add(r * cols)) };
            let (mean, inv) = isa.dispatch(NormRow { centre, x, n: cols, scale, bias, eps, y });
            // SAFETY: kept statistics have `rows` values, and row `r` is this task's.
            unsafe {
                if let Some(p) = mean_out.filter(|_| centre == Centre::Mean) {
                    *p.ptr().add(r) = mean;
                }
                if let Some(p) = inv_out {
                    *p.ptr().add(r) = inv;
                }
            }
        }
    });
}

/// The mean (0 when not centred) and `1 / sqrt(variance + eps)` of `len` floats at `x`.
///
/// # Safety
/// `x` reaches `len` floats.
#[inline(always)]
unsafe fn statistics<S: Simd>(
    s: S,
    centre: Centre,
    x: *const f32,
    len: usize,
    eps: f32,
) -> (f32, f32) {
    let n = len as f32;
    // SAFETY: passed on to the caller.
    unsafe {
        match centre {
            Centre::Mean => {
                let mean = fold_row(s, SumFold, x, len) / n;
                let var = fold_row(s, DeviationFold(mean), x, len) / n;
                (mean, 1.0 / (var + eps).sqrt())
            }
            Centre::Zero => {
                let var = fold_row(s, SquareFold, x, len) / n;
                (0.0, 1.0 / (var + eps).sqrt())
            }
        }
    }
}

/// One row of `n` floats; `x == y` is allowed.
struct NormRow<'a> {
    centre: Centre,
    x: *const f32,
    n: usize,
    scale: Option<&'a [f32]>,
    bias: Option<&'a [f32]>,
    eps: f32,
    y: *mut f32,
}

impl Kernel for NormRow<'_> {
    type Output = (f32, f32);
    #[inline(always)]
    fn call<S: Simd>(self, s: S) -> (f32, f32) {
        let NormRow { centre, x, n: len, scale, bias, eps, y } = self;
        // SAFETY: `norm_rows` points `x` and `y` at rows of `len` floats.
        let (mean, inv) = unsafe { statistics(s, centre, x, len, eps) };
        let (m, k) = (s.splat(mean), s.splat(inv));
        let mut i = 0;
        while i < len {
            let n = S::LANES.min(len - i);
            // SAFETY: `i + n` is at most the length of the row, and `norm_rows` checked that the
            // weights have it too. A lane is read before it is written.
            unsafe {
                let mut v = s.mul(s.sub(s.load_n(x.add(i), n), m), k);
                if let Some(w) = scale {
                    v = s.mul(v, s.load_n(w.as_ptr().add(i), n));
                }
                if let Some(b) = bias {
                    v = s.add(v, s.load_n(b.as_ptr().add(i), n));
                }
                s.store_n(y.add(i), n, v);
            }
            i += n;
        }
        (mean, inv)
    }
}

/// `y = (x - mean) / sqrt(variance + eps) * scale + bias` where the statistics are those of each of
/// `groups` runs of channels (Wu and He, 2018); `x` is `[batch, channels, spatial]`, `scale` and
/// `bias` have `channels` values. With `groups == channels` this is instance normalisation.
///
/// # Panics
/// When `groups` does not divide `channels`, or a length disagrees.
#[expect(clippy::too_many_arguments, reason = "an input, its shape, its weights and an output")]
pub fn group_norm(
    isa: Isa,
    par: &dyn Parallel,
    (batch, channels, spatial): (usize, usize, usize),
    groups: usize,
    x: &[f32],
    scale: Option<&[f32]>,
    bias: Option<&[f32]>,
    eps: f32,
    y: &mut [f32],
) {
    assert_eq!(
        x.len(),
        batch * channels * spatial,
        "group_norm: input length against {batch} x {channels} x {spatial}"
    );
    assert_eq!(y.len(), x.len(), "group_norm: output length against input length");
    assert!(
        groups > 0 && channels.is_multiple_of(groups),
        "group_norm: {groups} groups do not divide {channels} channels"
    );
    for (name, v) in [("scale", scale), ("bias", bias)] {
        assert!(
            v.is_none_or(|v| v.len() == channels),
            "group_norm: {name} does not have {channels} values"
        );
    }
    let each = channels / groups;
    let run = each * spatial;
    let y = Shared::new(y);
    split(par, batch * groups, STEP.div_ceil(run.max(1)), &|start, n| {
        for g in start..start + n {
            let x = &x[g * run..(g + 1) * run];
            // SAFETY: `g < batch * groups`; each task has groups of its own.
            let y = unsafe { y.part(g * run, run) };
            isa.dispatch(GroupRun { x, scale, bias, eps, y, first: g % groups * each, spatial });
        }
    });
}

struct GroupRun<'a> {
    x: &'a [f32],
    scale: Option<&'a [f32]>,
    bias: Option<&'a [f32]>,
    eps: f32,
    y: &'a mut [f32],
    first: usize,
    spatial: usize,
}

impl Kernel for GroupRun<'_> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let GroupRun { x, scale, bias, eps, y, first, spatial } = self;
        if x.is_empty() {
            return;
        }
        // SAFETY: the pointer and the length are those of the slice.
        let (mean, inv) = unsafe { statistics(s, Centre::Mean, x.as_ptr(), x.len(), eps) };
        for (c, (x, y)) in x.chunks(spatial).zip(y.chunks_mut(spatial)).enumerate() {
            let k = inv * scale.map_or(1.0, |v| v[first + c]);
            let b = bias.map_or(0.0, |v| v[first + c]);
            // (x - mean) k + b rather than x k + (b - mean k), which cancels.
            let mut i = 0;
            while i < x.len() {
                let n = S::LANES.min(x.len() - i);
                // SAFETY: `i + n` is at most the length of both chunks.
                unsafe {
                    let d = s.sub(s.load_n(x.as_ptr().add(i), n), s.splat(mean));
                    s.store_n(y.as_mut_ptr().add(i), n, s.mul_add(d, s.splat(k), s.splat(b)));
                }
                i += n;
            }
        }
    }
}

/// The per-channel factors of batch normalisation at inference (Ioffe and Szegedy, 2015):
/// `scale[c] = gamma[c] / sqrt(var[c] + eps)`, `shift[c] = beta[c] - mean[c] scale[c]`.
///
/// # Panics
/// When the lengths differ.
pub fn fold_batch_norm(
    [gamma, beta, mean, var]: [&[f32]; 4],
    eps: f32,
    scale: &mut [f32],
    shift: &mut [f32],
) {
    let n = scale.len();
    for v in [gamma, beta, mean, var, &*shift] {
        assert_eq!(v.len(), n, "fold_batch_norm: lengths differ");
    }
    for c in 0..n {
        let k = f64::from(gamma[c]) / (f64::from(var[c]) + f64::from(eps)).sqrt();
        scale[c] = k as f32;
        shift[c] = (f64::from(beta[c]) - f64::from(mean[c]) * k) as f32;
    }
}

/// `y[b, c, i] = activation(x[b, c, i] * scale[c] + shift[c])` over `[batch, channels, spatial]`.
///
/// # Panics
/// When a length disagrees.
#[expect(clippy::too_many_arguments, reason = "an input, its shape, its weights and an output")]
pub fn channel_affine(
    isa: Isa,
    par: &dyn Parallel,
    (batch, channels, spatial): (usize, usize, usize),
    x: &[f32],
    scale: &[f32],
    shift: &[f32],
    activation: Option<Unary>,
    y: &mut [f32],
) {
    assert_eq!(
        x.len(),
        batch * channels * spatial,
        "channel_affine: input length against {batch} x {channels} x {spatial}"
    );
    assert_eq!(y.len(), x.len(), "channel_affine: output length against input length");
    assert_eq!(scale.len(), channels, "channel_affine: scale length against channels");
    assert_eq!(shift.len(), channels, "channel_affine: shift length against channels");
    let y = Shared::new(y);
    split(par, batch * channels, STEP.div_ceil(spatial.max(1)), &|start, n| {
        for r in start..start + n {
            let x = &x[r * spatial..(r + 1) * spatial];
            // SAFETY: `r < batch * channels`; each task has rows of its own.
            let y = unsafe { y.part(r * spatial, spatial) };
            let c = r % channels;
            isa.dispatch(AffineRow { x, scale: scale[c], shift: shift[c], activation, y });
        }
    });
}

struct AffineRow<'a> {
    x: &'a [f32],
    scale: f32,
    shift: f32,
    activation: Option<Unary>,
    y: &'a mut [f32],
}

impl Kernel for AffineRow<'_> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let AffineRow { x, scale, shift, activation, y } = self;
        let (k, b) = (s.splat(scale), s.splat(shift));
        let mut i = 0;
        while i < x.len() {
            let n = S::LANES.min(x.len() - i);
            // SAFETY: `i + n` is at most the length of both rows.
            unsafe {
                let v = s.load_n(x.as_ptr().add(i), n);
                s.store_n(y.as_mut_ptr().add(i), n, s.mul_add(v, k, b));
            }
            i += n;
        }
        if let Some(op) = activation {
            let (p, n) = (y.as_mut_ptr(), y.len());
            // SAFETY: one row of the length of `y`.
            unsafe { apply(s, op, p, p, n) };
        }
    }
}
