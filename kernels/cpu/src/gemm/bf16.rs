//! Products of operands rounded to bf16, with `f32` sums.
//!
//! Both operands are rounded to nearest, ties to even: B when it is packed, A on its way into the
//! product. Products of bf16 are exact in `f32`; what differs between levels is the order in which they
//! are added, and that the instructions treat subnormal numbers as zero:
//!
//! | level | sum of an element |
//! |---|---|
//! | `avx512bf16`, `amx` | one chain along K in steps of two products |
//! | others | as [`gemm`](super::gemm) adds `f32` |
//!
//! So against exact sums of the rounded operands, an element is off by at most
//! `(k + 2) eps Σ |a||b|`, `eps` that of `f32`. The order depends on K alone: neither on the number
//! of rows nor on threads.

use super::driver::{gemm, gemm_scratch};
use super::pack::{Aligned, PackedB};
use super::units::{self, Dot, Finish, Left, Product};
use super::{Bias, Epilogue, Lhs, Mat, Out, Rhs, Shape};
use crate::convert::{bf16_to_f32, f32_to_bf16};
use crate::elementwise::{apply, reach};
use crate::parallel::{Parallel, Serial, Shared};
use crate::simd::{Kernel, Simd};
use crate::{Isa, Level};
use half::bf16;

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
        let data = match dot(isa) {
            Some(dot) => Packed::Units(units::pack_panels(isa, dot, k, n, |kk, j| {
                u32::from(bf16::from_f32(b.data[kk * b.row + j * b.col]).to_bits())
            })),
            None => {
                let round =
                    |i: usize| bf16::from_f32(b.data[i / n * b.row + i % n * b.col]).to_f32();
                let rounded: Vec<f32> = (0..k * n).map(round).collect();
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
        Some(dot) => units::scratch(isa, par, dot, k),
        None => {
            let shape = Shape { batch: 1, m: ROUND_ROWS, n, k };
            // One row of 16-bit numbers, the rounded rows, the product.
            k.div_ceil(2) + ROUND_ROWS * k + gemm_scratch(isa, par, shape, false, true)
        }
    }
}

/// Rows of `f32` rounded to bf16.
struct Rounded<'a> {
    isa: Isa,
    mat: Mat<'a>,
    k: usize,
}

impl Left for Rounded<'_> {
    fn row<'a>(&'a self, r: usize, work: &'a mut [u8]) -> &'a [u8] {
        let k = self.k;
        // SAFETY: the scratch row has two bytes for each element and begins at a float; any pattern
        // is a bf16.
        let row = unsafe { std::slice::from_raw_parts_mut(work.as_mut_ptr().cast::<bf16>(), k) };
        let at = r * self.mat.row;
        if self.mat.col == 1 {
            f32_to_bf16(self.isa, &Serial, &self.mat.data[at..at + k], row);
        } else {
            for (kk, to) in row.iter_mut().enumerate() {
                *to = bf16::from_f32(self.mat.data[at + kk * self.mat.col]);
            }
        }
        work
    }
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
            let (data, row) = (data.as_slice(), c.row);
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
            // SAFETY: as many bytes as half of `k` floats have, at least two for each element.
            let half =
                unsafe { std::slice::from_raw_parts_mut(half.as_mut_ptr().cast::<u8>(), 2 * k) };
            for first in (0..m).step_by(ROUND_ROWS) {
                let rows = ROUND_ROWS.min(m - first);
                for i in 0..rows {
                    let row = left.row(first + i, half);
                    // SAFETY: a row of `k` bf16 that begins at a float.
                    let row = unsafe { std::slice::from_raw_parts(row.as_ptr().cast::<bf16>(), k) };
                    bf16_to_f32(isa, &Serial, row, &mut rounded[i * k..(i + 1) * k]);
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
