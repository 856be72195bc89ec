//! Products in double precision: plain loops over blocks that the compiler vectorises.
//!
//! Graphs rarely hold doubles; this keeps them correct and not slow. Each element is one chain over
//! K in order, whatever the shape or the number of threads.

use crate::Isa;
use crate::elementwise::reach;
use crate::parallel::{Parallel, Shared, split};
use crate::simd::{Kernel, Simd};

use super::Shape;

/// A double-precision matrix or batch: element `(b, r, c)` is `data[b * batch + r * row + c * col]`.
#[derive(Copy, Clone, Debug)]
pub struct Mat64<'a> {
    /// The elements.
    pub data: &'a [f64],
    /// Distance between rows.
    pub row: usize,
    /// Distance between columns.
    pub col: usize,
    /// Distance between matrices of the batch; 0 uses one matrix for all.
    pub batch: usize,
}

/// `C = alpha A B (+ C if accumulate)`; `c` is `batch` row-major `[m, n]` without gaps.
///
/// # Panics
/// When an operand is shorter than the shape says, or C has another length.
#[expect(clippy::too_many_arguments, reason = "three operands and how to run")]
pub fn gemm_f64(
    isa: Isa,
    par: &dyn Parallel,
    shape: Shape,
    a: Mat64<'_>,
    b: Mat64<'_>,
    alpha: f64,
    accumulate: bool,
    c: &mut [f64],
) {
    let Shape { batch, m, n, k } = shape;
    for (what, mat, rows, cols) in [("a", a, m, k), ("b", b, k, n)] {
        let need = reach(&[(batch, mat.batch), (rows, mat.row), (cols, mat.col)]);
        assert!(
            mat.data.len() >= need,
            "gemm_f64: {what} holds {} values, {shape:?} reaches {need}",
            mat.data.len()
        );
    }
    assert_eq!(c.len(), batch * m * n, "gemm_f64: length of c against {shape:?}");
    if c.is_empty() {
        return;
    }
    let out = Shared::new(c);
    let tiles = m.div_ceil(ROWS);
    split(
        par,
        batch * tiles,
        (1usize << 17).div_ceil((ROWS * n * k).max(1)).max(1),
        &|first, count| {
            for t in first..first + count {
                let (item, r0) = (t / tiles, t % tiles * ROWS);
                let rows = ROWS.min(m - r0);
                // SAFETY: the rows lie in C, and each task has rows of its own.
                let c = unsafe { out.part((item * m + r0) * n, rows * n) };
                let a =
                    Mat64 { data: &a.data[(item * a.batch + r0 * a.row).min(a.data.len())..], ..a };
                let b = Mat64 { data: &b.data[(item * b.batch).min(b.data.len())..], ..b };
                isa.dispatch(Band { rows, n, k, a, b, alpha, accumulate, c });
            }
        },
    );
}

const ROWS: usize = 4;
const COLS: usize = 8;

struct Band<'a> {
    rows: usize,
    n: usize,
    k: usize,
    a: Mat64<'a>,
    b: Mat64<'a>,
    alpha: f64,
    accumulate: bool,
    c: &'a mut [f64],
}

impl Kernel for Band<'_> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, _: S) {
        let Band { rows, n, k, a, b, alpha, accumulate, c } = self;
        for j0 in (0..n).step_by(COLS) {
            let cols = COLS.min(n - j0);
            let mut acc = [[0.0f64; COLS]; ROWS];
            for kk in 0..k {
                let mut row = [0.0f64; COLS];
                if b.col == 1 {
                    row[..cols].copy_from_slice(&b.data[kk * b.row + j0..][..cols]);
                } else {
                    for (j, x) in row.iter_mut().enumerate().take(cols) {
                        *x = b.data[kk * b.row + (j0 + j) * b.col];
                    }
                }
                for (i, acc) in acc.iter_mut().enumerate().take(rows) {
                    let x = a.data[i * a.row + kk * a.col];
                    for (acc, b) in acc.iter_mut().zip(row) {
                        *acc += x * b;
                    }
                }
            }
            for (i, acc) in acc.iter().enumerate().take(rows) {
                for (c, v) in c[i * n + j0..][..cols].iter_mut().zip(acc) {
                    *c = alpha * v + if accumulate { *c } else { 0.0 };
                }
            }
        }
    }
}
