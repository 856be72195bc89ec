//! The two products of attention, `K Qᵀ` and `Vᵀ P`, on panels `[…][lane]`.

use super::task::Rows;
use crate::gemm::micro::micro;
use crate::simd::{Kernel, Simd};

/// Floats of a line of the cache.
const LINE: usize = 16;

/// Adds to each accumulator the product of `R` rows of A and one panel of B over `terms`, as
/// [`micro`] does from zero.
///
/// # Safety
/// As for [`micro`].
#[inline(always)]
unsafe fn add_terms<S: Simd, const R: usize, const V: usize>(
    s: S,
    acc: &mut [[[S::F; V]; 1]; R],
    terms: std::ops::Range<usize>,
    (a, row, col): (*const f32, usize, usize),
    b: *const f32,
) {
    for k in terms {
        // SAFETY: the caller promises that both pointers reach term `k`.
        unsafe {
            let mut panel = [s.zero(); V];
            for (v, x) in panel.iter_mut().enumerate() {
                *x = s.load(b.add((k * V + v) * S::LANES));
            }
            for (i, [acc]) in acc.iter_mut().enumerate() {
                let x = s.splat(*a.add(i * row + k * col));
                for v in 0..V {
                    acc[v] = s.mul_add(x, panel[v], acc[v]);
                }
            }
        }
    }
}

/// Work that is done some rows at a time.
trait ByRows<S: Simd> {
    /// # Safety
    /// Rows `i..i + R` exist.
    unsafe fn rows<const R: usize>(&mut self, s: S, i: usize);
}

/// Does `n` rows, as many at a time as registers hold accumulators for.
///
/// # Safety
/// Rows `0..n` exist.
#[inline(always)]
unsafe fn by_rows<S: Simd, const V: usize>(s: S, n: usize, work: &mut impl ByRows<S>) {
    // One vector to a row leaves registers for twice the rows.
    let most = if V == 1 { 2 * S::MR } else { S::MR };
    let mut i = 0;
    // SAFETY: each step is within what is left.
    unsafe {
        // Thirteen rows at a time where that leaves none over: few rows are short of chains.
        while most == 12 && (1..=(n - i) / 13).contains(&((n - i) % 12)) {
            work.rows::<13>(s, i);
            i += 13;
        }
        while most >= 12 && n - i >= 12 {
            work.rows::<12>(s, i);
            i += 12;
        }
        while most >= 8 && n - i >= 8 {
            work.rows::<8>(s, i);
            i += 8;
        }
        while (6..12).contains(&most) && n - i >= 6 {
            work.rows::<6>(s, i);
            i += 6;
        }
        while n - i >= 4 {
            work.rows::<4>(s, i);
            i += 4;
        }
        if n - i >= 2 {
            work.rows::<2>(s, i);
            i += 2;
        }
        if n > i {
            work.rows::<1>(s, i);
        }
    }
}

/// `scores[key][lane] = sum_d k[key][d] queries[d][lane]` and the largest of each lane among the first
/// `plain` keys, which may miss NaN. Whoever makes one proves that the pointers reach that.
#[derive(Copy, Clone)]
pub(super) struct Scores<const V: usize> {
    pub keys: usize,
    pub plain: usize,
    pub dim: usize,
    pub k: Rows,
    /// Keys to fetch into the cache meanwhile, as many, unless null.
    pub ahead: Rows,
    pub queries: *const f32,
    pub scores: *mut f32,
    /// Out: `[lane]`.
    pub max: *mut f32,
}

struct ScoreRows<S: Simd, const V: usize>(Scores<V>, [S::F; V]);

impl<S: Simd, const V: usize> ByRows<S> for ScoreRows<S, V> {
    #[inline(always)]
    unsafe fn rows<const R: usize>(&mut self, s: S, i: usize) {
        let (t, width) = (self.0, V * S::LANES);
        // SAFETY: whoever made this proves `dim` columns of each key and lanes of each query.
        unsafe {
            let k = t.k.at.add(i * t.k.row);
            let acc = if t.ahead.at.is_null() {
                micro::<S, R, V, 1>(s, t.dim, k, t.k.row, t.k.col, t.queries, width, 0)
            } else {
                let mut acc = [[[s.zero(); V]; 1]; R];
                for d in (0..t.dim).step_by(LINE) {
                    for r in 0..R {
                        s.prefetch_l2(t.ahead.element(i + r, d));
                    }
                    let terms = d..(d + LINE).min(t.dim);
                    add_terms(s, &mut acc, terms, (k, t.k.row, t.k.col), t.queries);
                }
                acc
            };
            for (r, [row]) in acc.iter().enumerate() {
                for (v, x) in row.iter().enumerate() {
                    s.store(t.scores.add((i + r) * width + v * S::LANES), *x);
                    if i + R <= t.plain || i + r < t.plain {
                        self.1[v] = s.max(self.1[v], *x);
                    }
                }
            }
        }
    }
}

impl<const V: usize> Kernel for Scores<V> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let mut rows = ScoreRows(self, [s.splat(f32::NEG_INFINITY); V]);
        // SAFETY: the pointers reach `keys` rows and one row of largest scores.
        unsafe {
            by_rows::<S, V>(s, self.keys, &mut rows);
            for (v, m) in rows.1.into_iter().enumerate() {
                s.store(self.max.add(v * S::LANES), m);
            }
        }
    }
}

/// `results[d][lane] = results[d][lane] correction[lane] + sum_key v[key][d] scores[key][lane]`, without
/// the correction where it is null. Whoever makes one proves that the pointers reach that.
#[derive(Copy, Clone)]
pub(super) struct Values<const V: usize> {
    pub keys: usize,
    pub dim: usize,
    pub v: Rows,
    /// Values to fetch into the cache meanwhile, as many, unless null.
    pub ahead: Rows,
    pub scores: *const f32,
    pub results: *mut f32,
    pub correction: *const f32,
}

impl<S: Simd, const V: usize> ByRows<S> for Values<V> {
    #[inline(always)]
    unsafe fn rows<const R: usize>(&mut self, s: S, i: usize) {
        let width = V * S::LANES;
        // SAFETY: whoever made this proves `keys` rows of V and of the lanes.
        unsafe {
            let v = self.v.at.add(i * self.v.col);
            let (col, row) = (self.v.col, self.v.row);
            let acc = if self.ahead.at.is_null() {
                micro::<S, R, V, 1>(s, self.keys, v, col, row, self.scores, width, 0)
            } else {
                let mut acc = [[[s.zero(); V]; 1]; R];
                for k in 0..self.keys {
                    s.prefetch_l2(self.ahead.element(k, i));
                    add_terms(s, &mut acc, k..k + 1, (v, col, row), self.scores);
                }
                acc
            };
            for (r, [row]) in acc.iter().enumerate() {
                for (v, x) in row.iter().enumerate() {
                    let at = v * S::LANES;
                    let c = self.results.add((i + r) * width + at);
                    let x = if self.correction.is_null() {
                        s.add(s.load(c), *x)
                    } else {
                        s.mul_add(s.load(c), s.load(self.correction.add(at)), *x)
                    };
                    s.store(c, x);
                }
            }
        }
    }
}

impl<const V: usize> Kernel for Values<V> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(mut self, s: S) {
        // SAFETY: the pointers reach `dim` rows of the results.
        unsafe { by_rows::<S, V>(s, self.dim, &mut self) };
    }
}
