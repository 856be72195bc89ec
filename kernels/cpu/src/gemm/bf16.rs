//! Products of operands rounded to bf16, with `f32` sums.
//!
//! Both operands are rounded to nearest, ties to even: B when it is packed, A on its way into the
//! product. Products of bf16 are exact in `f32`; what differs between levels is the order in which they
//! are added, and that the instructions treat subnormal numbers as zero:
//!
//! | level | sum of an element |
//! |---|---|
//! | `avx512bf16`, `amx` | one chain of pairs of products: of blocks of 32 terms, of terms `t` and `t + 16` |
//! | others | as [`gemm`](super::gemm) adds `f32` |
//!
//! So against exact sums of the rounded operands, an element is off by at most
//! `(k + 2) eps Σ |a||b|`, `eps` that of `f32`. The order depends on K alone: neither on the number
//! of rows nor on threads.

use super::driver::{gemm, gemm_scratch};
use super::pack::{Aligned, PackedB};
use super::units::{self, Dot, Finish, LINE, Left, Product};
use super::{Bias, Epilogue, Lhs, Mat, Out, Rhs, Shape};
use crate::convert::{bf16_to_f32, f32_to_bf16};
use crate::elementwise::{apply, reach};
use crate::parallel::{Parallel, Serial, Shared};
use crate::simd::{Kernel, Simd};
use crate::{Isa, Level};
use half::bf16;

/// Terms of a line of the cache, of which a unit holds one of each half.
const TERMS: usize = 32;
/// Rows that are rounded at a time where products are those of `f32`.
const ROUND_ROWS: usize = 64;

fn dot(isa: Isa) -> Option<Dot> {
    match isa.level() {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512Bf16 => Some(Dot::Avx512Bf16),
        #[cfg(target_arch = "x86_64")]
        Level::Amx => Some(Dot::AmxBf16),
        _ => None,
    }
}

/// The `{arch}` part of the names of bf16 products at this level.
pub fn bf16_arch(isa: Isa) -> &'static str {
    match isa.level() {
        level @ (Level::Avx512Bf16 | Level::Amx) => level.name(),
        level => level.vector().name(),
    }
}

/// Runs `steps` rounds of independent bf16 multiply-adds in registers and returns how many floating
/// point operations that was; those of `f32` where there are none.
pub fn dot_peak_bf16(isa: Isa, steps: usize) -> f64 {
    match dot(isa) {
        Some(dot) => units::peak(isa, dot, steps),
        None => super::fma_peak(isa, steps),
    }
}

#[derive(Clone)]
enum Packed {
    Units(Aligned),
    Floats(PackedB),
}

/// A right operand rounded to bf16 and packed: weights, packed once.
#[derive(Clone)]
pub struct PackedBf16 {
    data: Packed,
    level: Level,
    k: usize,
    n: usize,
}

impl PackedBf16 {
    /// Rounds and packs the `[k, n]` matrix `b`.
    ///
    /// # Panics
    /// When `b` is too short.
    pub fn new(isa: Isa, par: &dyn Parallel, k: usize, n: usize, b: Mat<'_>) -> Self {
        b.check("b", 1, k, n);
        PackedBf16::of(isa, par, k, n, |kk, j| bf16::from_f32(b.data[kk * b.row + j * b.col]))
    }

    /// Packs the `[k, n]` matrix whose element `(r, c)` is `data[r * row + c * col]`.
    ///
    /// # Panics
    /// When `data` is too short.
    pub fn narrow(
        isa: Isa,
        par: &dyn Parallel,
        (k, n): (usize, usize),
        data: &[bf16],
        (row, col): (usize, usize),
    ) -> Self {
        let need = reach(&[(k, row), (n, col)]);
        assert!(data.len() >= need, "gemm_bf16: b holds {} elements, needs {need}", data.len());
        PackedBf16::of(isa, par, k, n, |kk, j| data[kk * row + j * col])
    }

    fn of(
        isa: Isa,
        par: &dyn Parallel,
        k: usize,
        n: usize,
        at: impl Fn(usize, usize) -> bf16 + Sync,
    ) -> Self {
        let data = match dot(isa) {
            Some(dot) => Packed::Units(units::pack_panels(isa, par, dot, whole(k), n, |kk, j| {
                let term = kk % TERMS;
                let kk = kk / TERMS * TERMS + term % 2 * (TERMS / 2) + term / 2;
                if kk < k { at(kk, j).to_bits().into() } else { 0 }
            })),
            None => {
                let rounded: Vec<f32> = (0..k * n).map(|i| at(i / n, i % n).to_f32()).collect();
                Packed::Floats(PackedB::new(isa, par, k, n, Mat::dense(&rounded, n)))
            }
        };
        PackedBf16 { data, level: isa.level(), k, n }
    }

    /// Rows.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Columns.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Bytes of memory held.
    pub fn bytes(&self) -> usize {
        match &self.data {
            Packed::Units(d) => 4 * d.as_slice().len(),
            Packed::Floats(p) => p.bytes(),
        }
    }
}

impl std::fmt::Debug for PackedBf16 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PackedBf16")
            .field("level", &self.level)
            .field("k", &self.k)
            .field("n", &self.n)
            .finish_non_exhaustive()
    }
}

/// Floats of scratch that [`gemm_bf16`] needs; it does not depend on the number of rows.
pub fn gemm_bf16_scratch(isa: Isa, par: &dyn Parallel, k: usize, n: usize) -> usize {
    match dot(isa) {
        Some(dot) => units::scratch(isa, par, dot, whole(k)),
        None => {
            let shape = Shape { batch: 1, m: ROUND_ROWS, n, k };
            // One row of 16-bit numbers, the rounded rows, the product.
            k.div_ceil(2) + ROUND_ROWS * k + gemm_scratch(isa, par, shape, false, true)
        }
    }
}

/// Terms with those that fill the last line.
fn whole(k: usize) -> usize {
    k.next_multiple_of(TERMS)
}

/// Rows of `f32` rounded to bf16.
struct Rounded<'a> {
    isa: Isa,
    mat: Mat<'a>,
    k: usize,
}

impl Rounded<'_> {
    /// Row `r` as bf16.
    fn row(&self, r: usize, row: &mut [bf16]) {
        let at = r * self.mat.row;
        if self.mat.col == 1 {
            f32_to_bf16(self.isa, &Serial, &self.mat.data[at..at + self.k], row);
        } else {
            for (kk, to) in row.iter_mut().enumerate() {
                *to = bf16::from_f32(self.mat.data[at + kk * self.mat.col]);
            }
        }
    }
}

impl Left for Rounded<'_> {
    fn row<'a>(&'a self, r: usize, work: &'a mut [u8]) -> &'a [u8] {
        // As lines, one after the other.
        // SAFETY: the work is as long as the terms of whole lines.
        unsafe { self.lines(r, work.as_mut_ptr(), LINE) };
        work
    }

    unsafe fn lines(&self, r: usize, to: *mut u8, step: usize) -> bool {
        self.isa.dispatch(RoundRow { mat: self.mat, k: self.k, r, to, step });
        true
    }
}

/// A row on its way into lines; whoever makes one proves what [`Left::lines`] asks.
struct RoundRow<'a> {
    mat: Mat<'a>,
    k: usize,
    r: usize,
    to: *mut u8,
    step: usize,
}

impl Kernel for RoundRow<'_> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let RoundRow { mat, k, r, to, step } = self;
        let row = &mat.data[r * mat.row..];
        let mut gathered = [0.0f32; TERMS];
        for (line, first) in (0..k).step_by(TERMS).enumerate() {
            let n = TERMS.min(k - first);
            let from = if mat.col == 1 {
                row[first..first + n].as_ptr()
            } else {
                for (kk, to) in gathered.iter_mut().enumerate().take(n) {
                    *to = row[(first + kk) * mat.col];
                }
                gathered.as_ptr()
            };
            for v in (0..TERMS / 2).step_by(S::LANES) {
                // SAFETY: `n` floats lie at `from`, and a line of 16 units at `to`.
                unsafe {
                    let part = |first: usize| {
                        (from.wrapping_add(first), n.saturating_sub(first).min(S::LANES))
                    };
                    let ((a, na), (b, nb)) = (part(v), part(TERMS / 2 + v));
                    let (a, b) = match n == TERMS {
                        true => (s.load(a), s.load(b)),
                        false => (s.load_n(a, na), s.load_n(b, nb)),
                    };
                    let to = to.wrapping_add(line * step).cast::<i32>();
                    s.store_i(to.add(v), round_pair(s, a, b));
                }
            }
        }
    }
}

/// Lanes of `a`, rounded to bf16, in the lower and those of `b` in the upper half: ties to even; a NaN becomes
/// quiet.
#[inline(always)]
pub(crate) fn round_pair<S: Simd>(s: S, a: S::F, b: S::F) -> S::I {
    let (a, b) = (rounded(s, a), rounded(s, b));
    s.or_i(s.and_i(s.shr_i::<16>(a), s.splat_i(0xffff)), s.and_i(b, s.splat_i(-0x10000)))
}

/// Lanes rounded to bf16 in their upper halves; the lower ones have no meaning.
#[inline(always)]
fn rounded<S: Simd>(s: S, x: S::F) -> S::I {
    let bits = s.as_int(x);
    let odd = s.and_i(s.shr_i::<16>(bits), s.splat_i(1));
    let up = s.add_i(bits, s.add_i(odd, s.splat_i(0x7fff)));
    let quiet = s.or_i(bits, s.splat_i(0x0040_0000));
    s.as_int(s.select(s.unordered(x, x), s.as_float(quiet), s.as_float(up)))
}

/// `C = activation(alpha A B + bias + residual)` for one product of `m` rows, A and B rounded to bf16.
/// The epilogue must overwrite C; its bias goes by column.
///
/// # Panics
/// When an operand, C or the scratch is shorter than the sizes say, rows of C overlap, the epilogue
/// accumulates or has a bias by row, or `b` was packed for another level.
#[expect(clippy::too_many_arguments, reason = "three operands, how to run and where to work")]
pub fn gemm_bf16(
    isa: Isa,
    par: &dyn Parallel,
    m: usize,
    a: Mat<'_>,
    b: &PackedBf16,
    c: Out<'_>,
    epilogue: &Epilogue<'_>,
    scratch: &mut [f32],
) {
    let (k, n) = (b.k, b.n);
    assert_eq!(b.level, isa.level(), "gemm_bf16: b was packed for another level");
    assert!(!epilogue.accumulate, "gemm_bf16: overwrites C");
    let bias = match epilogue.bias {
        Bias::None => None,
        Bias::Cols(b) => Some(b),
        Bias::Rows(_) => panic!("gemm_bf16: a bias by row"),
    };
    a.check("a", 1, m, k);
    if let Some(r) = epilogue.residual {
        r.check("residual", 1, m, n);
        assert_eq!(r.col, 1, "gemm_bf16: columns of the residual");
    }
    assert!(bias.is_none_or(|b| b.len() >= n), "gemm_bf16: bias against {n} columns");
    let need = reach(&[(m, c.row), (n, 1)]);
    assert!(c.data.len() >= need, "gemm_bf16: c holds {} floats, needs {need}", c.data.len());
    assert!(c.row >= n || m < 2, "gemm_bf16: rows of {n} overlap, {} apart", c.row);
    match (&b.data, dot(isa)) {
        (Packed::Units(data), Some(dot)) => {
            let left = Rounded { isa, mat: a, k };
            let (data, row, k) = (data.as_slice(), c.row, whole(k));
            let p = Product { dot, m, n, k, left: &left, b: data, flip: 0, row_sums: false };
            let way = Way {
                alpha: epilogue.alpha,
                bias,
                residual: epilogue.residual,
                epilogue,
                c: Shared::new(c.data),
                row,
            };
            units::run(isa, par, &p, &way, scratch);
        }
        (Packed::Floats(data), _) => {
            let (half, rest) = scratch.split_at_mut(k.div_ceil(2));
            let (rounded, rest) = rest.split_at_mut(ROUND_ROWS * k);
            let left = Rounded { isa, mat: a, k };
            // SAFETY: half of `k` floats have two bytes for each of `k` elements; any pattern is a bf16.
            let half =
                unsafe { std::slice::from_raw_parts_mut(half.as_mut_ptr().cast::<bf16>(), k) };
            for first in (0..m).step_by(ROUND_ROWS) {
                let rows = ROUND_ROWS.min(m - first);
                for i in 0..rows {
                    left.row(first + i, half);
                    bf16_to_f32(isa, &Serial, half, &mut rounded[i * k..(i + 1) * k]);
                }
                let residual =
                    epilogue.residual.map(|r| Mat { data: &r.data[first * r.row..], ..r });
                let epilogue = Epilogue { residual, ..*epilogue };
                let shape = Shape { batch: 1, m: rows, n, k };
                let to = Out { data: &mut c.data[first * c.row..], row: c.row, batch: 0 };
                let a = Lhs::Strided(Mat::dense(rounded, k));
                gemm(isa, par, shape, a, Rhs::Packed(data.view()), to, &epilogue, rest);
            }
        }
        _ => unreachable!("the level that packed the operand decides its form"),
    }
}

/// The way out of the sums.
struct Way<'a> {
    alpha: f32,
    bias: Option<&'a [f32]>,
    residual: Option<Mat<'a>>,
    epilogue: &'a Epilogue<'a>,
    c: Shared<f32>,
    row: usize,
}

impl Finish for Way<'_> {
    unsafe fn tile(
        &self,
        isa: Isa,
        rows: std::ops::Range<usize>,
        cols: std::ops::Range<usize>,
        sums: *const i32,
        _row_sums: *const i32,
    ) {
        isa.dispatch(WayTile { way: self, rows, cols, sums: sums.cast() });
    }
}

/// One tile on its way; whoever makes one proves what [`Finish::tile`] asks.
struct WayTile<'a> {
    way: &'a Way<'a>,
    rows: std::ops::Range<usize>,
    cols: std::ops::Range<usize>,
    sums: *const f32,
}

impl Kernel for WayTile<'_> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let WayTile { way, rows, cols, sums } = self;
        let alpha = s.splat(way.alpha);
        for (i, r) in rows.enumerate() {
            // SAFETY: the sums have `NR` for each row, C and residual this row of these columns,
            // which no other task writes.
            unsafe {
                let c = way.c.ptr().add(r * way.row + cols.start);
                for v in (0..cols.len()).step_by(S::LANES) {
                    let n = (cols.len() - v).min(S::LANES);
                    let mut y = s.mul(s.load(sums.add(i * S::NR + v)), alpha);
                    if let Some(b) = way.bias {
                        y = s.add(y, s.load_n(b.as_ptr().add(cols.start + v), n));
                    }
                    if let Some(m) = way.residual {
                        let at = m.data.as_ptr().add(r * m.row + cols.start + v);
                        y = s.add(y, s.load_n(at, n));
                    }
                    s.store_n(c.add(v), n, y);
                }
                if let Some(op) = way.epilogue.activation {
                    apply(s, op, c, c, cols.len());
                }
            }
        }
    }
}
