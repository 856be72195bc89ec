//! Sums of quantised tensors.

use crate::Isa;
use crate::gemm::Bytes;
use crate::parallel::{Parallel, Shared, split};
use crate::simd::{Kernel, MAX_LANES, Simd};

const STEP: usize = 32 * 1024;

/// How bytes stand for numbers: `(byte - zero) scale`.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Quantised {
    /// The scale.
    pub scale: f32,
    /// The zero point.
    pub zero: i32,
}

struct Sum<'a> {
    a: Bytes<'a>,
    b: Bytes<'a>,
    a_as: Quantised,
    b_as: Quantised,
    y_as: Quantised,
    range: (i32, i32),
    y: &'a mut [u8],
    from: usize,
}

/// Vector `i..i + n` of `x`.
#[inline(always)]
fn load<S: Simd>(s: S, x: Bytes<'_>, i: usize, n: usize) -> S::I {
    let bytes = &x.raw()[i..i + n];
    let mut copy = [0u8; MAX_LANES];
    let mut p = bytes.as_ptr();
    if n < S::LANES {
        copy[..n].copy_from_slice(bytes);
        p = copy.as_ptr();
    }
    // SAFETY: a vector of bytes of the slice, or of the copy.
    unsafe { if x.signed() { s.load_i8(p.cast()) } else { s.load_u8(p) } }
}

impl Kernel for Sum<'_> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let Sum { a, b, a_as, b_as, y_as, range, y, from } = self;
        let number = |x: S::I, how: Quantised| {
            let x = s.to_float(s.sub_i(x, s.splat_i(how.zero)));
            s.mul(x, s.splat(how.scale / y_as.scale))
        };
        let low = s.splat((range.0 - y_as.zero) as f32);
        let high = s.splat((range.1 - y_as.zero) as f32);
        for (i, y) in y.chunks_mut(S::LANES).enumerate() {
            let (at, n) = (from + i * S::LANES, y.len());
            let sum = s.add(number(load(s, a, at, n), a_as), number(load(s, b, at, n), b_as));
            let q = s.to_int(s.max(s.min(sum, high), low));
            let q = s.add_i(q, s.splat_i(y_as.zero));
            let mut out = [0u8; MAX_LANES];
            // SAFETY: the array has the bytes of every vector, the chunk those of a whole one.
            unsafe {
                if n == S::LANES {
                    s.store_low_bytes(y.as_mut_ptr(), q);
                } else {
                    s.store_low_bytes(out.as_mut_ptr(), q);
                    y.copy_from_slice(&out[..n]);
                }
            }
        }
    }
}

/// `y = saturate(round(a + b) + zero)` of the numbers that the bytes stand for, in units of y's scale,
/// ties to even; `signed` says whether y has a sign.
///
/// # Panics
/// When the lengths differ.
pub fn add_i8(
    isa: Isa,
    par: &dyn Parallel,
    a: (Bytes<'_>, Quantised),
    b: (Bytes<'_>, Quantised),
    y_as: Quantised,
    signed: bool,
    y: &mut [u8],
) {
    let n = y.len();
    assert_eq!((a.0.raw().len(), b.0.raw().len()), (n, n), "add_i8: lengths against {n}");
    let range = if signed { (-128, 127) } else { (0, 255) };
    let y = Shared::new(y);
    split(par, n, STEP, &|from, n| {
        // SAFETY: the ranges of the tasks are disjoint and lie in `y`.
        let y = unsafe { y.part(from, n) };
        let ((a, a_as), (b, b_as)) = (a, b);
        isa.dispatch(Sum { a, b, a_as, b_as, y_as, range, y, from });
    });
}
