//! Reductions of `[outer, len, inner]` over the middle, to `[outer, inner]`.
//!
//! Rows (`inner == 1`) are folded by four vectors of running results, in blocks whose results are
//! folded in turn, so that rounding errors of sums grow with the number of blocks and not with the
//! length; columns (`inner > 1`) are folded in the same blocks, a vector of neighbours at a time. The
//! order is a function of `len` alone.

use crate::Isa;
use crate::parallel::{Parallel, Shared, split};
use crate::simd::{Kernel, MAX_LANES, Simd};

/// What to reduce to.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Reduce {
    /// The sum; 0 of nothing.
    Sum,
    /// The sum over the length; NaN of nothing.
    Mean,
    /// The largest; NaN if any is; `-inf` of nothing.
    Max,
    /// The smallest; NaN if any is; `+inf` of nothing.
    Min,
    /// The sum of squares; 0 of nothing.
    SumSquares,
    /// The sum of magnitudes; 0 of nothing.
    SumAbs,
    /// The product; 1 of nothing.
    Product,
}

/// A way to fold: `init`, then `join(acc, lift(x))`.
pub(crate) trait Fold: Copy + Sync {
    /// The result of nothing, and of joining two such.
    const INIT: f32;
    /// A value whose `lift` leaves any accumulator as it is.
    fn filler(self) -> f32 {
        Self::INIT
    }
    fn lift<S: Simd>(self, s: S, x: S::F) -> S::F;
    fn join<S: Simd>(self, s: S, a: S::F, b: S::F) -> S::F;
}

macro_rules! folds {
    ($($name:ident ($init:expr) |$s:ident, $x:ident| $lift:expr, |$a:ident, $b:ident| $join:expr;)*) => {
        $(
            #[derive(Copy, Clone)]
            pub(crate) struct $name;
            impl Fold for $name {
                const INIT: f32 = $init;
                #[inline(always)]
                fn lift<S: Simd>(self, $s: S, $x: S::F) -> S::F {
                    let _ = $s;
                    $lift
                }
                #[inline(always)]
                fn join<S: Simd>(self, $s: S, $a: S::F, $b: S::F) -> S::F { $join }
            }
        )*
    };
}

folds! {
    SumFold (0.0) |s, x| x, |a, b| s.add(a, b);
    MaxFold (f32::NEG_INFINITY) |s, x| x, |a, b| s.max_nan(a, b);
    MinFold (f32::INFINITY) |s, x| x, |a, b| s.min_nan(a, b);
    SquareFold (0.0) |s, x| s.mul(x, x), |a, b| s.add(a, b);
    AbsFold (0.0) |s, x| s.abs(x), |a, b| s.add(a, b);
    ProductFold (1.0) |s, x| x, |a, b| s.mul(a, b);
}

/// Sum of `(x - mean)^2`.
#[derive(Copy, Clone)]
pub(crate) struct DeviationFold(pub f32);

impl Fold for DeviationFold {
    const INIT: f32 = 0.0;
    fn filler(self) -> f32 {
        self.0
    }
    #[inline(always)]
    fn lift<S: Simd>(self, s: S, x: S::F) -> S::F {
        let d = s.sub(x, s.splat(self.0));
        s.mul(d, d)
    }
    #[inline(always)]
    fn join<S: Simd>(self, s: S, a: S::F, b: S::F) -> S::F {
        s.add(a, b)
    }
}

/// Vectors of one running result within a block.
const BLOCK: usize = 64;

/// Folds `n` floats at `x`.
///
/// # Safety
/// `n` floats are readable at `x`.
#[inline(always)]
pub(crate) unsafe fn fold_row<S: Simd, F: Fold>(s: S, f: F, x: *const f32, n: usize) -> f32 {
    let init = s.splat(F::INIT);
    let mut total = init;
    let mut i = 0;
    while i < n {
        let end = n.min(i + 4 * BLOCK * S::LANES);
        let mut acc = [init; 4];
        // SAFETY: all reads are below `end <= n`.
        unsafe {
            while i + 4 * S::LANES <= end {
                for (v, a) in acc.iter_mut().enumerate() {
                    *a = f.join(s, *a, f.lift(s, s.load(x.add(i + v * S::LANES))));
                }
                i += 4 * S::LANES;
            }
            for a in &mut acc {
                let left = end - i;
                if left >= S::LANES {
                    *a = f.join(s, *a, f.lift(s, s.load(x.add(i))));
                    i += S::LANES;
                } else if left > 0 {
                    let mut last = [f.filler(); MAX_LANES];
                    for (k, l) in last.iter_mut().enumerate().take(left) {
                        *l = *x.add(i + k);
                    }
                    *a = f.join(s, *a, f.lift(s, s.load(last.as_ptr())));
                    i = end;
                }
            }
        }
        let block = f.join(s, f.join(s, acc[0], acc[1]), f.join(s, acc[2], acc[3]));
        total = f.join(s, total, block);
    }
    // Fold the lanes as a tree: each half against the other.
    let mut lanes = s.to_array(total);
    let mut width = S::LANES;
    while width > 1 {
        width /= 2;
        for i in 0..width {
            let joined = f.join(s, s.splat(lanes[i]), s.splat(lanes[i + width]));
            lanes[i] = s.to_array(joined)[0];
        }
    }
    lanes[0]
}

/// Folds `len` rows, `stride` apart, of the first `n <= LANES` columns at `x`.
///
/// # Safety
/// `n` floats are readable at each of the `len` rows.
#[inline(always)]
pub(crate) unsafe fn fold_cols<S: Simd, F: Fold>(
    s: S,
    f: F,
    x: *const f32,
    len: usize,
    stride: usize,
    n: usize,
) -> S::F {
    let init = s.splat(F::INIT);
    let mut total = init;
    let mut k = 0;
    while k < len {
        let end = len.min(k + 4 * BLOCK);
        let mut acc = init;
        while k < end {
            // SAFETY: row `k < len` has `n` floats; lanes beyond are zero and never stored.
            let v = unsafe {
                let p = x.add(k * stride);
                if n == S::LANES { s.load(p) } else { s.load_n(p, n) }
            };
            acc = f.join(s, acc, f.lift(s, v));
            k += 1;
        }
        total = f.join(s, total, acc);
    }
    total
}

struct Run<F> {
    f: F,
    x: *const f32,
    y: *mut f32,
    len: usize,
    inner: usize,
    outer: std::ops::Range<usize>,
    divide: bool,
}

impl<F: Fold> Kernel for Run<F> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let Run { f, x, y, len, inner, outer, divide } = self;
        let count = len as f32;
        for o in outer {
            // SAFETY: `reduce` checked that `x` holds `outer * len * inner` floats and `y`
            // `outer * inner`.
            unsafe {
                let (x, y) = (x.add(o * len * inner), y.add(o * inner));
                if inner == 1 {
                    let v = fold_row(s, f, x, len);
                    *y = if divide { v / count } else { v };
                } else {
                    let mut i = 0;
                    while i < inner {
                        let n = S::LANES.min(inner - i);
                        let v = fold_cols(s, f, x.add(i), len, inner, n);
                        let v = if divide { s.div(v, s.splat(count)) } else { v };
                        s.store_n(y.add(i), n, v);
                        i += n;
                    }
                }
            }
        }
    }
}

/// Elements one task reads.
pub(crate) const STEP: usize = 32 * 1024;

/// `y[o, i] = op(x[o, 0, i], …, x[o, len - 1, i])`; all without gaps.
///
/// # Panics
/// When `x` is not `outer len inner` or `y` not `outer inner` long.
#[expect(clippy::too_many_arguments, reason = "an input, its shape and an output")]
pub fn reduce(
    isa: Isa,
    par: &dyn Parallel,
    op: Reduce,
    outer: usize,
    len: usize,
    inner: usize,
    x: &[f32],
    y: &mut [f32],
) {
    assert_eq!(
        x.len(),
        outer * len * inner,
        "reduce: input length against {outer} x {len} x {inner}"
    );
    assert_eq!(y.len(), outer * inner, "reduce: output length against {outer} x {inner}");
    struct Args<'a> {
        isa: Isa,
        par: &'a dyn Parallel,
        outer: usize,
        len: usize,
        inner: usize,
        x: Shared<f32>,
        y: Shared<f32>,
    }
    fn with<F: Fold>(a: Args<'_>, f: F, divide: bool) {
        let Args { isa, par, outer, len, inner, x, y } = a;
        split(par, outer, STEP.div_ceil((len * inner).max(1)), &|start, n| {
            let (x, y) = (x.ptr().cast_const(), y.ptr());
            isa.dispatch(Run { f, x, y, len, inner, outer: start..start + n, divide });
        });
    }
    let args = Args { isa, par, outer, len, inner, x: Shared::read(x), y: Shared::new(y) };
    match op {
        Reduce::Sum => with(args, SumFold, false),
        Reduce::Mean => with(args, SumFold, true),
        Reduce::Max => with(args, MaxFold, false),
        Reduce::Min => with(args, MinFold, false),
        Reduce::SumSquares => with(args, SquareFold, false),
        Reduce::SumAbs => with(args, AbsFold, false),
        Reduce::Product => with(args, ProductFold, false),
    }
}

/// Which of several equal extremes an arg reduction names, and which extreme.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Arg {
    /// The smallest instead of the largest.
    pub min: bool,
    /// The last of equal values instead of the first.
    pub last: bool,
}

/// `y[o, i]` = the index in `0..len` of the extreme of `x[o, ·, i]`. A NaN counts as more extreme
/// than any number, the first (or last) of several wins.
///
/// # Panics
/// When `len` is 0 and there are outputs, `x` is not `outer len inner` or `y` not `outer inner` long.
#[expect(clippy::too_many_arguments, reason = "an input, its shape and an output")]
pub fn arg_reduce(
    isa: Isa,
    par: &dyn Parallel,
    arg: Arg,
    outer: usize,
    len: usize,
    inner: usize,
    x: &[f32],
    y: &mut [i64],
) {
    assert_eq!(
        x.len(),
        outer * len * inner,
        "arg_reduce: input length against {outer} x {len} x {inner}"
    );
    assert_eq!(y.len(), outer * inner, "arg_reduce: output length against {outer} x {inner}");
    assert!(len > 0 || y.is_empty(), "arg_reduce: no extreme among no values");
    let out = Shared::new(y);
    split(par, outer, STEP.div_ceil((len * inner).max(1)), &|start, n| {
        for o in start..start + n {
            let x = &x[o * len * inner..(o + 1) * len * inner];
            // SAFETY: `o < outer`; each task has outer indices of its own.
            let y = unsafe { out.part(o * inner, inner) };
            if inner == 1 {
                y[0] = isa.dispatch(ArgRow { arg, x }) as i64;
                continue;
            }
            for (i, y) in y.iter_mut().enumerate() {
                let column = (0..len).map(|k| x[k * inner + i]);
                let best = column.clone().fold(None, |best, v| Some(extreme(arg, best, v)));
                *y = position(arg, column, best.unwrap_or(0.0)) as i64;
            }
        }
    });
}

/// The more extreme of two, NaN above all.
fn extreme(arg: Arg, best: Option<f32>, v: f32) -> f32 {
    match best {
        None => v,
        Some(b) if b.is_nan() => b,
        Some(b) if v.is_nan() || (if arg.min { v < b } else { v > b }) => v,
        Some(b) => b,
    }
}

/// The first or last index of `best`.
fn position(
    arg: Arg,
    values: impl DoubleEndedIterator<Item = f32> + ExactSizeIterator,
    best: f32,
) -> usize {
    let mut values = values;
    let is = |v: f32| v == best || (v.is_nan() && best.is_nan());
    let found = if arg.last { values.rposition(is) } else { values.position(is) };
    found.unwrap_or(0)
}

struct ArgRow<'a> {
    arg: Arg,
    x: &'a [f32],
}

impl Kernel for ArgRow<'_> {
    type Output = usize;
    #[inline(always)]
    fn call<S: Simd>(self, s: S) -> usize {
        let ArgRow { arg, x } = self;
        // SAFETY: the pointer and the length are those of the slice.
        let best = unsafe {
            if arg.min {
                fold_row(s, MinFold, x.as_ptr(), x.len())
            } else {
                fold_row(s, MaxFold, x.as_ptr(), x.len())
            }
        };
        position(arg, x.iter().copied(), best)
    }
}
