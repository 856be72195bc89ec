//! Matrix products: `C = act(alpha A B + bias + residual)`, batched, in `f32`; products of bytes and of
//! bf16 with packed weights.
//!
//! # Idea
//!
//! The blocking is that of Goto and van de Geijn, *Anatomy of High-Performance Matrix
//! Multiplication*, 2008: A and B are copied into panels that the micro-kernel reads front to back,
//! and the micro-kernel keeps an `MR × NR` tile of C in registers while it walks along K. Since
//! operands are copied anyway, any row and column stride costs the same: a transpose is a swap of
//! strides.
//!
//! | level | tile `MR × NR` |
//! |---|---|
//! | scalar | 4 × 8 |
//! | avx2 | 6 × 16 |
//! | avx512 | 12 × 32 |
//!
//! # Order of summation
//!
//! K is cut into blocks of `KC`, a constant. Within a block an element of C is one chain of
//! multiply-adds from zero, in the order of K; the block's sum is then added to C. Nothing else
//! enters: neither M, N, the batch, the tiling, nor the number of threads. So a row computed alone
//! (a matrix-vector product) has the bits it has in any batch, whether operands were prepacked or
//! not. Error against exact arithmetic: at most `(min(K, KC) + K / KC + 2) eps sum |a||b|`.
//!
//! ```
//! use deepseek_kernels_cpu::{Isa, Serial, gemm::*};
//! let isa = Isa::best();
//! // [2, 3] x [3, 2], B given transposed as [n, k].
//! let a = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
//! let b_t = [1.0, 0.0, 0.0, 0.0, 1.0, 1.0];
//! let shape = Shape { batch: 1, m: 2, n: 2, k: 3 };
//! let packed = PackedB::new(isa, &Serial, 3, 2, Mat::transposed(&b_t, 3));
//! let mut scratch = vec![0.0; gemm_scratch(isa, &Serial, shape, false, true)];
//! let mut c = [0.0; 4];
//! gemm(isa, &Serial, shape, Lhs::Strided(Mat::dense(&a, 3)), Rhs::Packed(packed.view()),
//!     Out::dense(&mut c, 2), &Epilogue::default(), &mut scratch);
//! assert_eq!(c, [1.0, 5.0, 4.0, 11.0]);
//! ```

mod bf16;
mod driver;
mod f64;
mod int8;
mod int8_depthwise;
pub(crate) mod micro;
mod pack;
pub(crate) mod units;

pub use bf16::{PackedBf16, bf16_arch, dot_peak_bf16, gemm_bf16, gemm_bf16_scratch};

pub use driver::{CHUNK, a_block, gemm, gemm_scratch};
pub use f64::{Mat64, gemm_f64};
pub(crate) use int8::product_i8;
pub use int8::{
    ByteMat, ByteOut, Bytes, PackedI8, Zeros, dot_peak_i8, gemm_i8, gemm_i8_scratch, int8_arch,
};
pub(crate) use int8_depthwise::{Depthwise, depthwise_i8};
pub(crate) use pack::{Aligned, Panels};
pub use pack::{
    PackedA, PackedARef, PackedB, PackedBRef, SharedFloats, pack_a_into, pack_b_into, packed_a_len,
    packed_b_len,
};

use crate::elementwise::Unary;

/// K is summed in blocks of this many terms; see the module comment.
pub const KC: usize = 256;

/// The sizes of a product: `batch` times `[m, k] × [k, n]`.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// How many products.
    pub batch: usize,
    /// Rows of A and C.
    pub m: usize,
    /// Columns of B and C.
    pub n: usize,
    /// Columns of A, rows of B.
    pub k: usize,
}

/// A matrix, or a batch of them: element `(b, r, c)` is `data[b * batch + r * row + c * col]`.
#[derive(Copy, Clone, Debug)]
pub struct Mat<'a> {
    /// The elements.
    pub data: &'a [f32],
    /// Distance between rows.
    pub row: usize,
    /// Distance between columns.
    pub col: usize,
    /// Distance between matrices of the batch; 0 uses one matrix for all.
    pub batch: usize,
}

impl<'a> Mat<'a> {
    /// One row-major matrix with `cols` columns and no gaps.
    pub fn dense(data: &'a [f32], cols: usize) -> Self {
        Mat { data, row: cols, col: 1, batch: 0 }
    }

    /// The transpose of a row-major matrix with `cols` columns: a `[cols, …]` matrix.
    pub fn transposed(data: &'a [f32], cols: usize) -> Self {
        Mat { data, row: 1, col: cols, batch: 0 }
    }

    /// The same matrix repeated every `stride` elements.
    pub fn batched(self, stride: usize) -> Self {
        Mat { batch: stride, ..self }
    }

    pub(crate) fn check(&self, what: &str, batch: usize, rows: usize, cols: usize) {
        let dims = [(batch, self.batch), (rows, self.row), (cols, self.col)];
        let need = crate::elementwise::reach(&dims);
        assert!(
            self.data.len() >= need,
            "gemm: {what} holds {} floats, {batch} of {rows} x {cols} with strides {}, {}, {} reach {need}",
            self.data.len(),
            self.batch,
            self.row,
            self.col
        );
    }
}

/// The left operand, `[m, k]`.
#[derive(Copy, Clone, Debug)]
pub enum Lhs<'a> {
    /// Copied into panels on the way.
    Strided(Mat<'a>),
    /// Copied into panels beforehand; one matrix for the whole batch.
    Packed(PackedARef<'a>),
}

/// The right operand, `[k, n]`.
#[derive(Copy, Clone, Debug)]
pub enum Rhs<'a> {
    /// Copied into panels on the way.
    Strided(Mat<'a>),
    /// Copied into panels beforehand; one matrix for the whole batch.
    Packed(PackedBRef<'a>),
}

/// The result, `[m, n]` with contiguous columns.
#[derive(Debug)]
pub struct Out<'a> {
    /// The elements.
    pub data: &'a mut [f32],
    /// Distance between rows, at least `n` when there is more than one row.
    pub row: usize,
    /// Distance between matrices of the batch, at least one matrix when there is more than one.
    pub batch: usize,
}

impl<'a> Out<'a> {
    /// One row-major matrix with `cols` columns and no gaps.
    pub fn dense(data: &'a mut [f32], cols: usize) -> Self {
        Out { data, row: cols, batch: 0 }
    }

    /// Row-major matrices with `rows × cols` elements, one after the other.
    pub fn batched(data: &'a mut [f32], rows: usize, cols: usize) -> Self {
        Out { data, row: cols, batch: rows * cols }
    }
}

/// What is added to every row or column.
#[derive(Copy, Clone, Debug, Default)]
pub enum Bias<'a> {
    /// Nothing.
    #[default]
    None,
    /// `bias[c]` to column `c`: `n` values, the same for the whole batch.
    Cols(&'a [f32]),
    /// `bias[r]` to row `r`: `m` values, the same for the whole batch.
    Rows(&'a [f32]),
}

/// What happens to the product on its way to C:
/// `C = activation(alpha A B + (accumulate ? C : 0) + bias + residual)`.
#[derive(Copy, Clone, Debug)]
pub struct Epilogue<'a> {
    /// Factor of the product.
    pub alpha: f32,
    /// Add to what C holds instead of overwriting it.
    pub accumulate: bool,
    /// Added per row or column.
    pub bias: Bias<'a>,
    /// Added per element; columns contiguous (`col == 1`).
    pub residual: Option<Mat<'a>>,
    /// Applied last.
    pub activation: Option<Unary>,
}

impl Default for Epilogue<'_> {
    fn default() -> Self {
        Epilogue {
            alpha: 1.0,
            accumulate: false,
            bias: Bias::None,
            residual: None,
            activation: None,
        }
    }
}

/// Rows and columns of the micro-kernel's tile at a level: `(MR, NR)`.
pub fn tile(isa: crate::Isa) -> (usize, usize) {
    struct Tile;
    impl crate::simd::Kernel for Tile {
        type Output = (usize, usize);
        #[inline(always)]
        fn call<S: crate::simd::Simd>(self, _: S) -> (usize, usize) {
            (S::MR, S::NR)
        }
    }
    isa.dispatch(Tile)
}

/// Runs `steps` rounds of independent multiply-adds in registers and returns how many floating
/// point operations that was: the roof against which a bench states its rates.
pub fn fma_peak(isa: crate::Isa, steps: usize) -> f64 {
    struct Peak(usize);
    impl crate::simd::Kernel for Peak {
        type Output = f64;
        #[inline(always)]
        fn call<S: crate::simd::Simd>(self, s: S) -> f64 {
            const CHAINS: usize = 10;
            let mut acc = [s.zero(); CHAINS];
            let (x, y) = (s.splat(std::hint::black_box(0.5)), s.splat(std::hint::black_box(1.0)));
            for _ in 0..self.0 {
                for a in &mut acc {
                    *a = s.mul_add(x, *a, y);
                }
            }
            let sum = acc.into_iter().fold(s.zero(), |a, b| s.add(a, b));
            std::hint::black_box(s.sum_lanes(sum));
            (2 * CHAINS * S::LANES * self.0) as f64
        }
    }
    isa.dispatch(Peak(steps))
}
