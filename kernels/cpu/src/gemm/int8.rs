//! 8-bit products with 32-bit sums: `Σ (a - a_zero) (b - b_zero)`, and the way out of them.
//!
//! The sums are those of exact integers modulo 2³², so they are the same at all levels, whatever the
//! order: no instruction in use saturates. Zero points do not enter the inner loop:
//! `Σ (a - z) (b - y) = Σ a b - z Σ b - y Σ a + k z y`, where the sums of columns of B are made when B is
//! packed, and those of rows of A only if a zero point of B is not 0.
//!
//! Instructions that want A without and B with a sign get operands whose top bits are flipped, which
//! moves values and zero point by 128 alike.
//!
//! The result leaves as the sums, rescaled to `f32`, or requantised to bytes; see [`ByteOut`].

use super::pack::Aligned;
use super::units::{self, Dot, Finish, Left, Product};
use crate::elementwise::{Unary, apply, reach};
use crate::parallel::{Parallel, Shared};
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

impl<'a> Bytes<'a> {
    pub(crate) fn signed(self) -> bool {
        matches!(self, Bytes::I8(_))
    }

    pub(crate) fn raw(self) -> &'a [u8] {
        match self {
            Bytes::U8(d) => d,
            // SAFETY: `i8` and `u8` have one layout, in which every pattern is a value.
            Bytes::I8(d) => unsafe { std::slice::from_raw_parts(d.as_ptr().cast(), d.len()) },
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
            self.data.raw().len() >= need,
            "gemm_i8: {what} holds {} bytes, {rows} x {cols} with strides {}, {} reaches {need}",
            self.data.raw().len(),
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

/// Where the result goes, and what happens on the way; rows are `row` elements apart.
#[derive(Debug)]
pub enum ByteOut<'a> {
    /// The sums.
    I32 {
        /// The result.
        c: &'a mut [i32],
        /// Distance between its rows.
        row: usize,
    },
    /// `activation(sum · (scale[i] · col_scale[j]) + bias[j])`, rounded at each step.
    F32 {
        /// Scale of A: one, or one for each row.
        scale: &'a [f32],
        /// Scale of B: one, or one for each column.
        col_scale: &'a [f32],
        /// One for each column.
        bias: Option<&'a [f32]>,
        /// Applied last.
        activation: Option<Unary>,
        /// The result.
        c: &'a mut [f32],
        /// Distance between its rows.
        row: usize,
    },
    /// `saturate(round((sum + bias[j]) · scale[j]) + zero)`, ties to even; the sum of sum and bias
    /// wraps.
    U8 {
        /// One scale, or one for each column.
        scale: &'a [f32],
        /// One for each column.
        bias: Option<&'a [i32]>,
        /// Zero point of the result.
        zero: u8,
        /// The result.
        c: &'a mut [u8],
        /// Distance between its rows.
        row: usize,
    },
    /// `saturate(round(activation((sum + bias[j]) · scale[j]) · inverse) + zero)`, rounded at each
    /// step, ties to even; the sum of sum and bias wraps. NaN becomes the zero point.
    Activated {
        /// Scale of A times that of B: one, or one for each column.
        scale: &'a [f32],
        /// One for each column.
        bias: Option<&'a [i32]>,
        /// Applied before the result is quantised.
        activation: Unary,
        /// One by the scale of the result.
        inverse: f32,
        /// Zero point of the result.
        zero: i32,
        /// Whether the bytes of the result have a sign.
        signed: bool,
        /// The result.
        c: &'a mut [u8],
        /// Distance between its rows.
        row: usize,
    },
    /// As `U8`, with a sign.
    I8 {
        /// One scale, or one for each column.
        scale: &'a [f32],
        /// One for each column.
        bias: Option<&'a [i32]>,
        /// Zero point of the result.
        zero: i8,
        /// The result.
        c: &'a mut [i8],
        /// Distance between its rows.
        row: usize,
    },
}

/// How a level multiplies bytes.
fn dot(isa: Isa, signed: bool) -> Dot {
    match isa.level() {
        #[cfg(target_arch = "x86_64")]
        Level::AvxVnni => Dot::AvxVnni,
        #[cfg(target_arch = "x86_64")]
        Level::Avx512Vnni | Level::Avx512Bf16 => Dot::Avx512Vnni,
        #[cfg(target_arch = "x86_64")]
        Level::Amx => Dot::AmxBytes { signed },
        _ => Dot::Pairs { signed },
    }
}

/// The `{arch}` part of the names of 8-bit products at this level.
pub fn int8_arch(isa: Isa) -> &'static str {
    match isa.level() {
        Level::Avx512Bf16 => Level::Avx512Vnni.name(),
        level => level.name(),
    }
}

/// Runs `steps` rounds of independent 8-bit multiply-adds in registers and returns how many operations
/// that was: the roof against which a bench states its rates.
pub fn dot_peak_i8(isa: Isa, steps: usize) -> f64 {
    units::peak(isa, dot(isa, false), steps)
}

/// A packed 8-bit right operand with its zero points: weights, packed once.
#[derive(Clone)]
pub struct PackedI8 {
    data: Aligned,
    level: Level,
    k: usize,
    n: usize,
    /// Sum of each (flipped) column, padded to whole panels.
    sums: Vec<i32>,
    /// Zero points (flipped) likewise, unless all are 0.
    zeros: Option<Vec<i32>>,
}

impl PackedI8 {
    /// Packs the `[k, n]` matrix `b`.
    ///
    /// # Panics
    /// When `b` is too short, or there are not `n` zero points.
    pub fn new(isa: Isa, k: usize, n: usize, b: ByteMat<'_>, zeros: Zeros<'_>) -> Self {
        b.check("b", k, n);
        if let Zeros::Cols(z) = zeros {
            assert_eq!(z.len(), n, "gemm_i8: zero points of b against n");
        }
        let dot = dot(isa, false);
        let pairs = matches!(dot, Dot::Pairs { .. });
        let signed = b.data.signed();
        let flip = if pairs || signed { 0u8 } else { 0x80 };
        let signed_now = signed || flip != 0;
        let raw = b.data.raw();
        let value = |byte: u8| if signed_now { i32::from(byte as i8) } else { i32::from(byte) };
        let padded = n.next_multiple_of(dot.tile(isa).1);
        let mut sums = vec![0i32; padded];
        let mut add = |kk: usize, j: usize| {
            sums[j] = sums[j].wrapping_add(value(raw[kk * b.row + j * b.col] ^ flip));
        };
        // In the order of memory.
        if b.col <= b.row {
            (0..k).for_each(|kk| (0..n).for_each(|j| add(kk, j)));
        } else {
            (0..n).for_each(|j| (0..k).for_each(|kk| add(kk, j)));
        }
        let data = units::pack_panels(isa, dot, k, n, |kk, j| {
            let byte = raw[kk * b.row + j * b.col] ^ flip;
            if pairs { u32::from(value(byte) as i16 as u16) } else { byte.into() }
        });
        let moved = if flip == 0 { 0 } else { 128 };
        let zero = |j: usize| match zeros {
            Zeros::One(z) => z - moved,
            Zeros::Cols(z) => z[j] - moved,
        };
        let zeros = (0..n).any(|j| zero(j) != 0).then(|| {
            let mut z: Vec<i32> = (0..n).map(zero).collect();
            z.resize(padded, 0);
            z
        });
        PackedI8 { data, level: isa.level(), k, n, sums, zeros }
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
        let zeros = self.zeros.as_ref().map_or(0, Vec::len);
        4 * (self.data.as_slice().len() + self.sums.len() + zeros)
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

/// Floats of scratch that [`gemm_i8`] needs; it does not depend on the number of rows.
pub fn gemm_i8_scratch(isa: Isa, par: &dyn Parallel, k: usize) -> usize {
    units::scratch(isa, par, dot(isa, false), k)
}

/// Rows of a strided matrix.
struct Rows<'a> {
    mat: ByteMat<'a>,
    k: usize,
}

impl Left for Rows<'_> {
    fn row<'a>(&'a self, r: usize, work: &'a mut [u8]) -> &'a [u8] {
        let raw = &self.mat.data.raw();
        if self.k == 0 {
            return &[];
        }
        let raw = &raw[r * self.mat.row..];
        if self.mat.col == 1 {
            return &raw[..self.k];
        }
        for (kk, to) in work.iter_mut().enumerate() {
            *to = raw[kk * self.mat.col];
        }
        work
    }

    fn direct(&self) -> Option<(*const u8, usize)> {
        (self.mat.col == 1).then(|| (self.mat.data.raw().as_ptr(), self.mat.row))
    }
}

/// The product of `m` rows of `a` with the zero point `a_zero`, by `b`.
///
/// # Panics
/// When an operand, the result, one of its parameters or the scratch is shorter than the sizes say,
/// rows of the result overlap, or `b` was packed for another level.
#[expect(clippy::too_many_arguments, reason = "two operands, a result and how to run")]
pub fn gemm_i8(
    isa: Isa,
    par: &dyn Parallel,
    m: usize,
    a: ByteMat<'_>,
    a_zero: i32,
    b: &PackedI8,
    out: ByteOut<'_>,
    scratch: &mut [f32],
) {
    a.check("a", m, b.k);
    let left = Rows { mat: a, k: b.k };
    product_i8(isa, par, m, &left, a.data.signed(), a_zero, b, out, scratch);
}

/// As [`gemm_i8`], with rows from anywhere.
#[expect(clippy::too_many_arguments, reason = "two operands, a result and how to run")]
pub(crate) fn product_i8(
    isa: Isa,
    par: &dyn Parallel,
    m: usize,
    left: &dyn Left,
    signed: bool,
    a_zero: i32,
    b: &PackedI8,
    out: ByteOut<'_>,
    scratch: &mut [f32],
) {
    assert_eq!(b.level, isa.level(), "gemm_i8: b was packed for another level");
    let (n, k) = (b.n, b.k);
    let dot = dot(isa, signed);
    // Instructions that take A without a sign get it flipped.
    let flips = signed && !matches!(dot, Dot::Pairs { .. }) && isa.level() != Level::Amx;
    let (flip, moved) = if flips { (0x80, 128) } else { (0, 0) };
    let finish = Way::new(m, n, k, a_zero + moved, b, out);
    let data = b.data.as_slice();
    let row_sums = b.zeros.is_some();
    let p = Product { dot, m, n, k, left, b: data, flip, row_sums };
    units::run(isa, par, &p, &finish, scratch);
}

/// The way out of the sums.
pub(super) struct Way<'a> {
    k: usize,
    a_zero: i32,
    sums: &'a [i32],
    zeros: Option<&'a [i32]>,
    to: To<'a>,
    row: usize,
}

/// [`ByteOut`] with the result as a pointer.
enum To<'a> {
    I32(Shared<i32>),
    F32 {
        scale: &'a [f32],
        col_scale: &'a [f32],
        bias: Option<&'a [f32]>,
        activation: Option<Unary>,
        c: Shared<f32>,
    },
    Activated {
        scale: &'a [f32],
        bias: Option<&'a [i32]>,
        activation: Unary,
        inverse: f32,
        zero: i32,
        range: (i32, i32),
        c: Shared<u8>,
    },
    Bytes {
        scale: &'a [f32],
        bias: Option<&'a [i32]>,
        zero: i32,
        range: (i32, i32),
        c: Shared<u8>,
    },
}

impl<'a> Way<'a> {
    fn new(m: usize, n: usize, k: usize, a_zero: i32, b: &'a PackedI8, out: ByteOut<'a>) -> Self {
        let way = Way::of_sums(m, n, &b.sums, out);
        Way { k, a_zero, zeros: b.zeros.as_deref(), ..way }
    }

    /// For sums from which zero points are taken already; `sums` holds a 0 for each column, padded to
    /// whole panels.
    ///
    /// # Panics
    /// When a length disagrees.
    pub(super) fn of_sums(m: usize, n: usize, sums: &'a [i32], out: ByteOut<'a>) -> Self {
        let check = |len: usize, row: usize| {
            let need = reach(&[(m, row), (n, 1)]);
            assert!(row >= n || m < 2, "gemm_i8: rows of {n} overlap, {row} apart");
            assert!(len >= need, "gemm_i8: c holds {len} elements, {m} x {n} reaches {need}");
        };
        let each = |what: &str, len: usize| {
            assert!(len == 1 || len == n, "gemm_i8: {len} {what}, want 1 or {n}");
        };
        let all = |what: &str, len: Option<usize>| {
            assert!(len.is_none_or(|l| l == n), "gemm_i8: {what} does not have {n} values");
        };
        let (to, row) = match out {
            ByteOut::I32 { c, row } => {
                check(c.len(), row);
                (To::I32(Shared::new(c)), row)
            }
            ByteOut::F32 { scale, col_scale, bias, activation, c, row } => {
                check(c.len(), row);
                each("scales", col_scale.len());
                all("bias", bias.map(<[_]>::len));
                let rows = scale.len();
                assert!(rows == 1 || rows == m, "gemm_i8: {rows} scales of rows, want 1 or {m}");
                (To::F32 { scale, col_scale, bias, activation, c: Shared::new(c) }, row)
            }
            ByteOut::Activated { scale, bias, activation, inverse, zero, signed, c, row } => {
                check(c.len(), row);
                each("scales", scale.len());
                all("bias", bias.map(<[_]>::len));
                let range = if signed { (-128, 127) } else { (0, 255) };
                let c = Shared::new(c);
                (To::Activated { scale, bias, activation, inverse, zero, range, c }, row)
            }
            ByteOut::U8 { scale, bias, zero, c, row } => {
                check(c.len(), row);
                each("scales", scale.len());
                all("bias", bias.map(<[_]>::len));
                let (zero, c) = (zero.into(), Shared::new(c));
                (To::Bytes { scale, bias, zero, range: (0, 255), c }, row)
            }
            ByteOut::I8 { scale, bias, zero, c, row } => {
                check(c.len(), row);
                each("scales", scale.len());
                all("bias", bias.map(<[_]>::len));
                let (zero, c) = (zero.into(), Shared::of(c.as_mut_ptr().cast()));
                (To::Bytes { scale, bias, zero, range: (-128, 127), c }, row)
            }
        };
        Way { k: 0, a_zero: 0, sums, zeros: None, to, row }
    }
}

impl Finish for Way<'_> {
    unsafe fn tile(
        &self,
        isa: Isa,
        rows: std::ops::Range<usize>,
        cols: std::ops::Range<usize>,
        sums: *const i32,
        row_sums: *const i32,
    ) {
        isa.dispatch(WayTile { way: self, rows, cols, sums, row_sums });
    }
}

/// One tile on its way; whoever makes one proves what [`Finish::tile`] asks.
pub(super) struct WayTile<'a> {
    pub way: &'a Way<'a>,
    pub rows: std::ops::Range<usize>,
    pub cols: std::ops::Range<usize>,
    pub sums: *const i32,
    pub row_sums: *const i32,
}

impl WayTile<'_> {
    /// What is added to the sums of columns `j..`.
    #[inline(always)]
    fn offset<S: Simd>(&self, s: S, j: usize) -> (S::I, Option<S::I>) {
        let way = self.way;
        // SAFETY: `j` begins a vector inside a panel; sums and zero points are padded to panels.
        unsafe {
            let columns = s.load_i(way.sums[j..].as_ptr());
            let zeros = way.zeros.map(|z| s.load_i(z[j..].as_ptr()));
            let mut offset = s.mul_i(columns, s.splat_i(way.a_zero.wrapping_neg()));
            if let Some(z) = zeros {
                let both = s.splat_i((way.k as i32).wrapping_mul(way.a_zero));
                offset = s.add_i(offset, s.mul_i(z, both));
            }
            (offset, zeros)
        }
    }

    /// Calls `emit(i, x)` with row `i` of the tile for the vector of columns at `v`.
    #[inline(always)]
    fn each<S: Simd>(&self, s: S, v: usize, emit: impl FnMut(usize, S::I)) {
        self.some(s, v, 0..self.rows.len(), emit);
    }

    /// As [`WayTile::each`], for some rows of the tile.
    #[inline(always)]
    fn some<S: Simd>(
        &self,
        s: S,
        v: usize,
        rows: std::ops::Range<usize>,
        mut emit: impl FnMut(usize, S::I),
    ) {
        let (offset, zeros) = self.offset(s, self.cols.start + v);
        for i in rows {
            // SAFETY: the sums have `NR` for each row, and `v + LANES <= NR`; there is one sum for
            // each row.
            unsafe {
                let mut x = s.add_i(s.load_i(self.sums.add(i * S::NR + v)), offset);
                if let Some(z) = zeros {
                    x = s.sub_i(x, s.mul_i(z, s.splat_i(*self.row_sums.add(i))));
                }
                emit(i, x);
            }
        }
    }
}

/// Floats that a tile computes functions of at once.
const WORK: usize = 16 * crate::simd::MAX_LANES;

/// Stores the low bytes of the first `n` lanes.
///
/// # Safety
/// `n` bytes at `to` may be written.
#[inline(always)]
unsafe fn store_bytes<S: Simd>(s: S, to: *mut u8, x: S::I, n: usize) {
    // SAFETY: as the caller promises; fewer than a vector go through a copy.
    unsafe {
        if n == S::LANES {
            s.store_low_bytes(to, x);
        } else {
            let mut bytes = [0u8; crate::simd::MAX_LANES];
            s.store_low_bytes(bytes.as_mut_ptr(), x);
            to.copy_from_nonoverlapping(bytes.as_ptr(), n);
        }
    }
}

/// The `n` numbers for columns `j..`; zeros where there are none.
#[inline(always)]
fn int_columns<S: Simd>(s: S, values: Option<&[i32]>, j: usize, n: usize) -> S::I {
    match values {
        // SAFETY: the slice has `n` numbers from `j` on.
        Some(b) => unsafe { s.as_int(s.load_n(b[j..j + n].as_ptr().cast(), n)) },
        None => s.splat_i(0),
    }
}

/// The `n` numbers for columns `j..`, or one for all.
#[inline(always)]
fn columns<S: Simd>(s: S, values: &[f32], j: usize, n: usize) -> S::F {
    match values {
        [one] => s.splat(*one),
        // SAFETY: the slice has `n` numbers from `j` on.
        _ => unsafe { s.load_n(values[j..j + n].as_ptr(), n) },
    }
}

impl Kernel for WayTile<'_> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let (way, first) = (self.way, self.rows.start * self.way.row);
        for v in [0, S::LANES] {
            let j = self.cols.start + v;
            let n = self.cols.end.saturating_sub(j).min(S::LANES);
            if n == 0 {
                break;
            }
            let at = first + j;
            match &way.to {
                To::I32(c) => self.each(s, v, |i, x| {
                    // SAFETY: row `i` of the result has `n` elements from column `j` on, which no
                    // other task writes.
                    unsafe {
                        let c = c.ptr().add(at + i * way.row).cast::<f32>();
                        s.store_n(c, n, s.as_float(x));
                    }
                }),
                To::F32 { scale, col_scale, bias, c, .. } => {
                    let col_scale = columns(s, col_scale, j, n);
                    let bias = bias.map(|b| columns(s, &b[j..j + n], 0, n));
                    self.each(s, v, |i, x| {
                        let one = if let [one] = scale { *one } else { scale[self.rows.start + i] };
                        let scale = s.mul(s.splat(one), col_scale);
                        let mut y = s.mul(s.to_float(x), scale);
                        if let Some(b) = bias {
                            y = s.add(y, b);
                        }
                        // SAFETY: as above.
                        unsafe {
                            let c = c.ptr().add(at + i * way.row);
                            if n == S::LANES { s.store(c, y) } else { s.store_n(c, n, y) }
                        }
                    });
                }
                To::Activated { scale, bias, activation, inverse, zero, range, c } => {
                    let scale = columns(s, scale, j, n);
                    let bias = int_columns(s, *bias, j, n);
                    let inverse = s.splat(*inverse);
                    let low = s.splat((range.0 - zero) as f32);
                    let high = s.splat((range.1 - zero) as f32);
                    let zero = s.splat_i(*zero);
                    // All rows of the tile in one go: functions are called once for many elements.
                    let mut work = [0f32; WORK];
                    for from in (0..self.rows.len()).step_by(WORK / S::LANES) {
                        let rows = from..(from + WORK / S::LANES).min(self.rows.len());
                        self.some(s, v, rows.clone(), |i, x| {
                            let y = s.mul(s.to_float(s.add_i(x, bias)), scale);
                            // SAFETY: the work holds that many rows of a vector.
                            unsafe { s.store(work.as_mut_ptr().add((i - from) * S::LANES), y) };
                        });
                        let p = work.as_mut_ptr();
                        // SAFETY: that many elements were written.
                        unsafe { apply(s, *activation, p, p, rows.len() * S::LANES) };
                        for i in rows {
                            // SAFETY: as above; row `i` of the result has `n` elements from column
                            // `j` on, which no other task writes.
                            unsafe {
                                let y = s.load(work.as_ptr().add((i - from) * S::LANES));
                                let y = s.mul(y, inverse);
                                let y = s.select(s.unordered(y, y), s.zero(), y);
                                let y = s.to_int(s.max(s.min(y, high), low));
                                let c = c.ptr().add(at + i * way.row);
                                store_bytes(s, c, s.add_i(y, zero), n);
                            }
                        }
                    }
                }
                To::Bytes { scale, bias, zero, range, c } => {
                    let scale = columns(s, scale, j, n);
                    let bias = int_columns(s, *bias, j, n);
                    let low = s.splat((range.0 - zero) as f32);
                    let high = s.splat((range.1 - zero) as f32);
                    let zero = s.splat_i(*zero);
                    self.each(s, v, |i, x| {
                        let y = s.mul(s.to_float(s.add_i(x, bias)), scale);
                        let y = s.to_int(s.max(s.min(y, high), low));
                        let y = s.add_i(y, zero);
                        // SAFETY: as above.
                        unsafe { store_bytes(s, c.ptr().add(at + i * way.row), y, n) };
                    });
                }
            }
        }
        if let To::F32 { activation: Some(op), c, .. } = &way.to {
            for i in 0..self.rows.len() {
                // SAFETY: as above, for all columns of the tile.
                unsafe {
                    let c = c.ptr().add(first + i * way.row + self.cols.start);
                    apply(s, *op, c, c, self.cols.len());
                }
            }
        }
    }
}
