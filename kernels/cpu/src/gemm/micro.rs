//! The micro-kernel: a tile of C in registers, one walk along K.

use crate::elementwise::{Map, Same, Unary, Visit};
use crate::simd::{Kernel, Simd};

/// The product of `R` rows of A and `P` panels of B (of `V` vectors each) over `kc` terms, from
/// zero, in the order of K. A's element `(i, k)` is `a[i * ars + k * aks]`; row `k` of panel `p` of
/// B is at `b[p * bps + k * bks]`.
///
/// # Safety
/// The pointers reach `R × kc` and `P × kc × V LANES` floats at those strides.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "two strided operands")]
pub(crate) unsafe fn micro<S: Simd, const R: usize, const V: usize, const P: usize>(
    s: S,
    kc: usize,
    a: *const f32,
    ars: usize,
    aks: usize,
    b: *const f32,
    bks: usize,
    bps: usize,
) -> [[[S::F; V]; P]; R] {
    // SAFETY: passed on to the caller.
    unsafe { micro_ahead::<S, R, V, P, false>(s, kc, a, ars, aks, b, bks, bps, a, 0) }
}

/// As [`micro`], and with each term the line at `ahead` is fetched into the cache if `AHEAD`.
///
/// # Safety
/// As for [`micro`]; `ahead` may point anywhere.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "two strided operands and what comes next")]
unsafe fn micro_ahead<
    S: Simd,
    const R: usize,
    const V: usize,
    const P: usize,
    const AHEAD: bool,
>(
    s: S,
    kc: usize,
    mut a: *const f32,
    ars: usize,
    aks: usize,
    mut b: *const f32,
    bks: usize,
    bps: usize,
    mut ahead: *const f32,
    ahead_step: usize,
) -> [[[S::F; V]; P]; R] {
    let mut acc = [[[s.zero(); V]; P]; R];
    for _ in 0..kc {
        // SAFETY: after `k < kc` steps both pointers are at term `k`, which the caller promised.
        unsafe {
            if AHEAD {
                s.prefetch(ahead);
                ahead = ahead.wrapping_add(ahead_step);
            }
            let mut row = [[s.zero(); V]; P];
            for (p, row) in row.iter_mut().enumerate() {
                for (v, x) in row.iter_mut().enumerate() {
                    *x = s.load(b.add(p * bps + v * S::LANES));
                }
            }
            for (i, acc) in acc.iter_mut().enumerate() {
                let x = s.splat(*a.add(i * ars));
                for p in 0..P {
                    for v in 0..V {
                        acc[p][v] = s.mul_add(x, row[p][v], acc[p][v]);
                    }
                }
            }
            a = a.wrapping_add(aks);
            b = b.wrapping_add(bks);
        }
    }
    acc
}

/// One tile (or `P` tiles side by side) of `C = alpha A B (+ C)`, panels in, C out.
#[derive(Copy, Clone)]
pub(crate) struct Tile {
    pub kc: usize,
    /// A panel of as many rows as the tile, at the first term.
    pub a: *const f32,
    /// A panel of B at the first term.
    pub b: *const f32,
    /// Distance to the next panel of B.
    pub bps: usize,
    /// What to fetch into the cache meanwhile, and how many floats on with each term. May point
    /// anywhere; where B is if there is nothing.
    pub ahead: *const f32,
    pub ahead_step: usize,
    pub c: *mut f32,
    pub ldc: usize,
    /// Columns of C that exist from here on; what goes beyond the tile is ignored.
    pub cols: usize,
    pub alpha: f32,
    pub add: bool,
}

struct TileKernel<const R: usize, const P: usize>(Tile);

impl<const R: usize, const P: usize> Kernel for TileKernel<R, P> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let t = self.0;
        // SAFETY: whoever runs a `Tile` proves that its panels have `kc` terms and that C has `R`
        // rows of `cols` columns; columns beyond are not touched.
        unsafe {
            // Tiles of several panels read more of B than the cache could fetch ahead.
            let acc = if P == 1 {
                let (next, step) = (t.ahead, t.ahead_step);
                micro_ahead::<S, R, 2, P, true>(s, t.kc, t.a, 1, R, t.b, S::NR, t.bps, next, step)
            } else {
                micro::<S, R, 2, P>(s, t.kc, t.a, 1, R, t.b, S::NR, t.bps)
            };
            let alpha = s.splat(t.alpha);
            if t.cols >= P * S::NR {
                for (i, row) in acc.iter().enumerate() {
                    for (p, panel) in row.iter().enumerate() {
                        for (v, x) in panel.iter().enumerate() {
                            let c = t.c.add(i * t.ldc + p * S::NR + v * S::LANES);
                            let x = s.mul(alpha, *x);
                            s.store(c, if t.add { s.add(s.load(c), x) } else { x });
                        }
                    }
                }
            } else {
                for (i, row) in acc.iter().enumerate() {
                    for (p, panel) in row.iter().enumerate() {
                        for (v, x) in panel.iter().enumerate() {
                            let at = p * S::NR + v * S::LANES;
                            let n = t.cols.saturating_sub(at).min(S::LANES);
                            if n == 0 {
                                continue;
                            }
                            let c = t.c.add(i * t.ldc + at);
                            let x = s.mul(alpha, *x);
                            s.store_n(c, n, if t.add { s.add(s.load_n(c, n), x) } else { x });
                        }
                    }
                }
            }
        }
    }
}

/// Panels of B that a tile of `rows` rows takes at once: few rows leave registers free, and
/// independent chains hide the latency of the multiply-add.
#[inline(always)]
pub(crate) fn panels_at_once(rows: usize) -> usize {
    match rows {
        1 => 4,
        2 | 3 => 2,
        _ => 1,
    }
}

/// Runs a tile of `rows <= MR` rows and [`panels_at_once`]`(rows)` panels, or one if `single`.
///
/// # Safety
/// The panels have `kc` terms (all of the panels taken at once), and C has `rows` rows of `cols`
/// columns at `ldc`.
#[inline(always)]
pub(crate) unsafe fn run_tile<S: Simd>(s: S, rows: usize, single: bool, t: Tile) {
    debug_assert!(rows <= S::MR);
    match (rows, single) {
        (1, false) => s.outline(TileKernel::<1, 4>(t)),
        (2, false) => s.outline(TileKernel::<2, 2>(t)),
        (3, false) => s.outline(TileKernel::<3, 2>(t)),
        (1, true) => s.outline(TileKernel::<1, 1>(t)),
        (2, true) => s.outline(TileKernel::<2, 1>(t)),
        (3, true) => s.outline(TileKernel::<3, 1>(t)),
        (4, _) => s.outline(TileKernel::<4, 1>(t)),
        (5, _) if S::MR > 4 => s.outline(TileKernel::<5, 1>(t)),
        (6, _) if S::MR > 4 => s.outline(TileKernel::<6, 1>(t)),
        (7, _) if S::MR > 6 => s.outline(TileKernel::<7, 1>(t)),
        (8, _) if S::MR > 6 => s.outline(TileKernel::<8, 1>(t)),
        (9, _) if S::MR > 6 => s.outline(TileKernel::<9, 1>(t)),
        (10, _) if S::MR > 6 => s.outline(TileKernel::<10, 1>(t)),
        (11, _) if S::MR > 6 => s.outline(TileKernel::<11, 1>(t)),
        (12, _) if S::MR > 6 => s.outline(TileKernel::<12, 1>(t)),
        _ => unreachable!("a tile has between 1 and MR rows"),
    }
}

/// What is added per row or column, as pointers at the origin of C.
#[derive(Copy, Clone)]
pub(crate) enum BiasPtr {
    None,
    Cols(*const f32),
    Rows(*const f32),
}

/// The epilogue of a matrix, as pointers at its origin.
#[derive(Copy, Clone)]
pub(crate) struct Finish {
    pub bias: BiasPtr,
    pub residual: *const f32,
    pub residual_row: usize,
    pub activation: Option<Unary>,
}

impl Finish {
    #[inline(always)]
    pub(crate) fn is_noop(&self) -> bool {
        matches!(self.bias, BiasPtr::None) && self.residual.is_null() && self.activation.is_none()
    }
}

/// `to = activation(from (+ old) + bias + residual)`, each a pointer at the tile and the distance of its
/// rows, with the activation as a type.
#[derive(Copy, Clone)]
struct FinishRows<F> {
    f: Finish,
    map: F,
    from: (*const f32, usize),
    old: Option<(*const f32, usize)>,
    to: (*mut f32, usize),
    i: usize,
    j: usize,
    rows: usize,
    cols: usize,
}

impl<F: Map> Kernel for FinishRows<F> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        for r in 0..self.rows {
            let mut at = 0;
            // SAFETY: whoever makes this proves that the tiles, the bias and the residual reach rows
            // `i..i + rows` and columns `j..j + cols`.
            unsafe {
                // Masked loads wait for earlier stores to end: whole vectors do without.
                while at + S::LANES <= self.cols {
                    self.vector::<S, true>(s, r, at);
                    at += S::LANES;
                }
                if at < self.cols {
                    self.vector::<S, false>(s, r, at);
                }
            }
        }
    }
}

impl<F: Map> FinishRows<F> {
    /// Up to a vector of row `r` from column `at` on; a whole one if `WHOLE`.
    ///
    /// # Safety
    /// The tiles, the bias and the residual reach it.
    #[inline(always)]
    unsafe fn vector<S: Simd, const WHOLE: bool>(&self, s: S, r: usize, at: usize) {
        let FinishRows { f, map, from, old, to, i, j, cols, .. } = *self;
        let n = cols - at;
        // SAFETY: passed on to the caller.
        unsafe {
            let load = |p: *const f32| if WHOLE { s.load(p) } else { s.load_n(p, n) };
            let mut x = load(from.0.add(r * from.1 + at));
            if let Some((c, ldc)) = old {
                x = s.add(load(c.add(r * ldc + at)), x);
            }
            match f.bias {
                BiasPtr::None => {}
                BiasPtr::Cols(b) => x = s.add(x, load(b.add(j + at))),
                BiasPtr::Rows(b) => x = s.add(x, s.splat(*b.add(i + r))),
            }
            if !f.residual.is_null() {
                x = s.add(x, load(f.residual.add((i + r) * f.residual_row + j + at)));
            }
            let (p, x) = (to.0.add(r * to.1 + at), map.map(s, x));
            if WHOLE {
                s.store(p, x);
            } else {
                s.store_n(p, n, x);
            }
        }
    }

    #[inline(always)]
    fn with<G>(self, map: G) -> FinishRows<G> {
        let FinishRows { f, from, old, to, i, j, rows, cols, .. } = self;
        FinishRows { f, map, from, old, to, i, j, rows, cols }
    }
}

impl FinishRows<Same> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        struct Choose<S>(S, FinishRows<Same>);
        impl<S: Simd> Visit for Choose<S> {
            fn visit<F: Map>(self, map: F) {
                self.0.outline(self.1.with(map));
            }
        }
        match self.f.activation {
            None => s.outline(self),
            Some(op) => op.visit(Choose(s, self)),
        }
    }
}

/// Applies the epilogue to the tile of C at row `i`, column `j`; `c` points at the tile.
///
/// # Safety
/// `c` reaches `rows` rows of `cols` floats at `ldc`, and the bias and the residual reach the rows
/// `i..i + rows` and columns `j..j + cols` they are made for.
#[expect(clippy::too_many_arguments, reason = "a tile and where it lies")]
pub(crate) unsafe fn finish<S: Simd>(
    s: S,
    f: Finish,
    c: *mut f32,
    ldc: usize,
    i: usize,
    j: usize,
    rows: usize,
    cols: usize,
) {
    let (from, to) = ((c.cast_const(), ldc), (c, ldc));
    FinishRows { f, map: Same, from, old: None, to, i, j, rows, cols }.run(s);
}

/// Floats of the largest tile: rows times columns, or those of [`panels_at_once`].
pub(crate) const MAX_TILE: usize = 12 * 2 * crate::simd::MAX_LANES;

/// A tile that is on its way to C: with an epilogue, C is written once, at the end.
#[repr(align(64))]
pub(crate) struct Finishing(pub [f32; MAX_TILE]);

/// Runs a tile as [`run_tile`] does and applies the epilogue: `i` and `j` are the row and column of the
/// tile, `work` is any memory.
///
/// # Safety
/// As for [`run_tile`] and [`finish`].
#[inline(always)]
pub(crate) unsafe fn run_finished_tile<S: Simd>(
    s: S,
    rows: usize,
    single: bool,
    t: Tile,
    f: Finish,
    (i, j): (usize, usize),
    work: &mut Finishing,
) {
    let width = if single { S::NR } else { panels_at_once(rows) * S::NR };
    let cols = t.cols.min(width);
    let tile = work.0.as_mut_ptr();
    // SAFETY: a tile has at most `MAX_TILE` floats; the rest is passed on to the caller.
    unsafe {
        run_tile(s, rows, single, Tile { c: tile, ldc: width, cols: width, add: false, ..t });
        let (from, to) = ((tile.cast_const(), width), (t.c, t.ldc));
        let old = t.add.then_some((t.c.cast_const(), t.ldc));
        FinishRows { f, map: Same, from, old, to, i, j, rows, cols }.run(s);
    }
}
