//! 8-bit products with 32-bit sums: `C = (A - a_zero) (B - b_zero)`.
//!
//! Differences from the zero points fit 9 bits and a sign, so both operands are packed as 16-bit
//! pairs along K with the zero points taken off, and one instruction multiplies a pair and adds the two
//! products in 32 bits. Nothing saturates: sums are exact up to `K <= 33,025` for the most extreme
//! values, and wrap beyond. Integers do not mind the order, so results are the same at all levels.
//!
//! Panels are those of the `f32` product with a pair in each place: B `[k/2][NR][2]`, A `[k/2][MR][2]`.

use super::{Shape, tile};
use crate::elementwise::reach;
use crate::parallel::{Parallel, Shared, split};
use crate::simd::{Kernel, Simd};
use crate::{Isa, Level};

/// The elements of an 8-bit matrix.
#[derive(Copy, Clone, Debug)]
pub enum Bytes<'a> {
    /// Unsigned.
    U8(&'a [u8]),
    /// Signed.
    I8(&'a [i8]),
}

impl Bytes<'_> {
    fn len(&self) -> usize {
        match self {
            Bytes::U8(d) => d.len(),
            Bytes::I8(d) => d.len(),
        }
    }

    #[inline(always)]
    fn at(&self, i: usize) -> i16 {
        match self {
            Bytes::U8(d) => i16::from(d[i]),
            Bytes::I8(d) => i16::from(d[i]),
        }
    }
}

/// An 8-bit matrix: element `(r, c)` is `data[r * row + c * col]`.
#[derive(Copy, Clone, Debug)]
pub struct ByteMat<'a> {
    /// The elements.
    pub data: Bytes<'a>,
    /// Distance between rows.
    pub row: usize,
    /// Distance between columns.
    pub col: usize,
}

impl ByteMat<'_> {
    fn check(&self, what: &str, rows: usize, cols: usize) {
        let need = reach(&[(rows, self.row), (cols, self.col)]);
        assert!(
            self.data.len() >= need,
            "gemm_i8: {what} holds {} bytes, {rows} x {cols} with strides {}, {} reaches {need}",
            self.data.len(),
            self.row,
            self.col
        );
    }
}

/// Zero points of B.
#[derive(Copy, Clone, Debug)]
pub enum Zeros<'a> {
    /// One for all.
    One(i32),
    /// One for each column; `n` values.
    Cols(&'a [i32]),
}

fn pairs(k: usize) -> usize {
    k.div_ceil(2)
}

/// 16-bit values in the packed form of an `[m, k]` left operand.
pub fn packed_i8_a_len(m: usize, k: usize) -> usize {
    2 * pairs(k) * m
}

/// 16-bit values in the packed form of a `[k, n]` right operand at this level.
pub fn packed_i8_b_len(isa: Isa, k: usize, n: usize) -> usize {
    let nr = tile(isa).1;
    2 * pairs(k) * n.div_ceil(nr) * nr
}

/// A packed 8-bit right operand without its zero point: weights, packed once.
#[derive(Clone)]
pub struct PackedI8 {
    data: Vec<i16>,
    level: Level,
    k: usize,
    n: usize,
}

impl PackedI8 {
    /// Packs the `[k, n]` matrix `b`.
    ///
    /// # Panics
    /// When `b` is too short, a zero point does not fit the type of `b`, or there are not `n` of them.
    pub fn new(
        isa: Isa,
        par: &dyn Parallel,
        k: usize,
        n: usize,
        b: ByteMat<'_>,
        zeros: Zeros<'_>,
    ) -> Self {
        b.check("b", k, n);
        if let Zeros::Cols(z) = zeros {
            assert_eq!(z.len(), n, "gemm_i8: zero points of b against n");
        }
        let nr = tile(isa).1;
        let mut data = vec![0i16; packed_i8_b_len(isa, k, n)];
        let each = 2 * pairs(k) * nr;
        let out = Shared::new(&mut data);
        split(par, n.div_ceil(nr), (64 * 1024usize).div_ceil(each.max(1)), &|first, count| {
            for p in first..first + count {
                // SAFETY: panel `p` lies in `data`, and each task has panels of its own.
                let panel = unsafe { out.part(p * each, each) };
                for j in 0..nr.min(n - p * nr) {
                    let column = p * nr + j;
                    let zero = match zeros {
                        Zeros::One(z) => z,
                        Zeros::Cols(z) => z[column],
                    };
                    let zero = fit(zero);
                    for kk in 0..k {
                        let v = b.data.at(kk * b.row + column * b.col);
                        panel[(kk / 2 * nr + j) * 2 + kk % 2] = v - zero;
                    }
                }
            }
        });
        PackedI8 { data, level: isa.level(), k, n }
    }

    /// Bytes of memory held.
    pub fn bytes(&self) -> usize {
        self.data.len() * 2
    }
}

impl std::fmt::Debug for PackedI8 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PackedI8")
            .field("level", &self.level)
            .field("k", &self.k)
            .field("n", &self.n)
            .finish_non_exhaustive()
    }
}

fn fit(zero: i32) -> i16 {
    assert!((-128..=255).contains(&zero), "gemm_i8: zero point {zero} is not an 8-bit value");
    zero as i16
}

/// 16-bit values of scratch that [`gemm_i8`] needs.
pub fn gemm_i8_scratch(shape: Shape) -> usize {
    packed_i8_a_len(shape.m, shape.k)
}

/// `C = (A - a_zero) (B - b_zero)` (plus what C holds, if `accumulate`) for one product; `c` has rows
/// of `n` without gaps.
///
/// # Panics
/// When an operand, C or the scratch is shorter than the shape says, the batch is not 1, or `b` was
/// packed for other sizes or another level.
#[expect(clippy::too_many_arguments, reason = "three operands, how to run and where to work")]
pub fn gemm_i8(
    isa: Isa,
    par: &dyn Parallel,
    shape: Shape,
    a: ByteMat<'_>,
    a_zero: i32,
    b: &PackedI8,
    accumulate: bool,
    c: &mut [i32],
    scratch: &mut [i16],
) {
    let Shape { batch, m, n, k } = shape;
    assert_eq!(batch, 1, "gemm_i8: one product at a time");
    a.check("a", m, k);
    assert!(
        (b.k, b.n, b.level) == (k, n, isa.level()),
        "gemm_i8: b was packed as {} x {} for {}, used as {k} x {n} at {}",
        b.k,
        b.n,
        b.level,
        isa.level()
    );
    assert_eq!(c.len(), m * n, "gemm_i8: length of c against {m} x {n}");
    let need = gemm_i8_scratch(shape);
    assert!(scratch.len() >= need, "gemm_i8: scratch holds {} values, needs {need}", scratch.len());
    if m == 0 || n == 0 {
        return;
    }
    let (mr, nr) = tile(isa);
    let zero = fit(a_zero);
    let packed = Shared::new(&mut scratch[..need]);
    let depth = pairs(k);
    let panels = m.div_ceil(mr);
    split(par, panels, (64 * 1024usize).div_ceil((mr * k).max(1)), &|first, count| {
        for p in first..first + count {
            let rows = mr.min(m - p * mr);
            // SAFETY: panel `p` starts at `p mr` pairs of `depth`; each task has panels of its own.
            let panel = unsafe { packed.part(2 * depth * p * mr, 2 * depth * rows) };
            for i in 0..rows {
                for kk in 0..k {
                    let v = a.data.at((p * mr + i) * a.row + kk * a.col);
                    panel[(kk / 2 * rows + i) * 2 + kk % 2] = v - zero;
                }
                if k % 2 == 1 {
                    panel[((depth - 1) * rows + i) * 2 + 1] = 0;
                }
            }
        }
    });
    let c = Shared::new(c);
    let step = (1usize << 18).div_ceil((nr * k * m).max(1)).max(1);
    split(par, n.div_ceil(nr), step, &|first, count| {
        isa.dispatch(Columns {
            m,
            n,
            depth,
            a: packed,
            b: &b.data,
            c,
            accumulate,
            panels: first..first + count,
        });
    });
}

struct Columns<'a> {
    m: usize,
    n: usize,
    depth: usize,
    a: Shared<i16>,
    b: &'a [i16],
    c: Shared<i32>,
    accumulate: bool,
    panels: std::ops::Range<usize>,
}

impl Kernel for Columns<'_> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        for jp in self.panels.clone() {
            let j = jp * S::NR;
            let panel = &self.b[2 * self.depth * j..][..2 * self.depth * S::NR];
            let mut i = 0;
            while i < self.m {
                let rows = S::MR.min(self.m - i);
                // SAFETY: A was packed as panels of `MR` rows (the last as wide as it has rows),
                // `depth` pairs deep; C has `m` rows of `n`, of which this task owns this panel.
                unsafe {
                    let t = PairTile {
                        depth: self.depth,
                        a: self.a.ptr().add(2 * self.depth * i).cast_const(),
                        rows,
                        b: panel.as_ptr(),
                        c: self.c.ptr().add(i * self.n + j),
                        ldc: self.n,
                        cols: (self.n - j).min(S::NR),
                        accumulate: self.accumulate,
                    };
                    // Whole tiles two or three rows at a time keep all sums in registers at every
                    // level.
                    let mut r = 0;
                    while r < rows {
                        r += match rows - r {
                            3.. => t.run::<S, 3>(s, r),
                            2 => t.run::<S, 2>(s, r),
                            _ => t.run::<S, 1>(s, r),
                        };
                    }
                }
                i += rows;
            }
        }
    }
}

#[derive(Copy, Clone)]
struct PairTile {
    depth: usize,
    a: *const i16,
    rows: usize,
    b: *const i16,
    c: *mut i32,
    ldc: usize,
    cols: usize,
    accumulate: bool,
}

impl PairTile {
    /// Rows `r..r + R`; returns `R`.
    ///
    /// # Safety
    /// The panels hold `depth` pairs of `rows >= r + R` rows and `NR` columns, C those rows of `cols`.
    #[inline(always)]
    unsafe fn run<S: Simd, const R: usize>(self, s: S, r: usize) -> usize {
        let mut acc = [[s.splat_i(0); 2]; R];
        // SAFETY: as the caller promises; a pair is read as one unaligned 32-bit integer.
        unsafe {
            for kk in 0..self.depth {
                let b = self.b.add(2 * kk * S::NR);
                let b = [s.load_i(b.cast()), s.load_i(b.add(2 * S::LANES).cast())];
                for (i, acc) in acc.iter_mut().enumerate() {
                    let pair =
                        self.a.add(2 * (kk * self.rows + r + i)).cast::<i32>().read_unaligned();
                    let x = s.splat_i(pair);
                    for (acc, b) in acc.iter_mut().zip(b) {
                        *acc = s.add_i(*acc, s.mul_add_pairs(x, b));
                    }
                }
            }
            for (i, acc) in acc.iter().enumerate() {
                let row = self.c.add((r + i) * self.ldc);
                let mut out = [0i32; 2 * crate::simd::MAX_LANES];
                s.store_i(out.as_mut_ptr(), acc[0]);
                s.store_i(out.as_mut_ptr().add(S::LANES), acc[1]);
                for (j, v) in out.iter().enumerate().take(self.cols) {
                    let c = row.add(j);
                    *c = if self.accumulate { (*c).wrapping_add(*v) } else { *v };
                }
            }
        }
        R
    }
}
