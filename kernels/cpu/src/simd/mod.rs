//! The vector vocabulary every kernel is written in.
//!
//! A [`Simd`] value is a capability token: holding one proves that its instructions exist, which is
//! why the arithmetic methods are safe. Kernels are structs that implement [`Kernel`]; the token's
//! [`vectorize`](Simd::vectorize) compiles the kernel inside a function that enables the
//! instructions, and everything in between is `#[inline(always)]` so that it ends up in there.
//!
//! The semantics are the same at every level except that `mul_add` rounds once above scalar and
//! twice at scalar, and that the number of lanes differs.

mod scalar;
pub(crate) use scalar::Scalar;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
pub(crate) mod matrix;
#[cfg(target_arch = "x86_64")]
pub(crate) use {avx2::Avx2, avx512::Avx512};

/// A computation that can be compiled for any level. `call` must be `#[inline(always)]`.
pub(crate) trait Kernel {
    type Output;
    fn call<S: Simd>(self, s: S) -> Self::Output;
}

/// Vectors of `LANES` floats (`F`), 32-bit integers (`I`) and masks (`M`) of one level.
pub(crate) trait Simd: Copy + Send + Sync + 'static {
    const LANES: usize;
    /// Rows of the matrix micro-kernel; its columns are two vectors.
    const MR: usize;
    /// Columns of the matrix micro-kernel.
    const NR: usize = 2 * Self::LANES;

    type F: Copy;
    type I: Copy;
    type M: Copy;

    /// Runs `kernel` compiled for this level.
    fn vectorize<K: Kernel>(self, kernel: K) -> K::Output;
    /// As [`vectorize`](Simd::vectorize), in a function of its own with all registers to itself.
    fn outline<K: Kernel>(self, kernel: K) -> K::Output;

    fn splat(self, x: f32) -> Self::F;
    #[inline(always)]
    fn zero(self) -> Self::F {
        self.splat(0.0)
    }

    /// # Safety
    /// `LANES` floats are readable at `p`.
    unsafe fn load(self, p: *const f32) -> Self::F;
    /// # Safety
    /// `LANES` floats are writable at `p`.
    unsafe fn store(self, p: *mut f32, v: Self::F);
    /// The first `n <= LANES` floats; the other lanes are zero.
    /// # Safety
    /// `n` floats are readable at `p`; memory after them is not touched.
    unsafe fn load_n(self, p: *const f32, n: usize) -> Self::F;
    /// Stores the first `n <= LANES` lanes.
    /// # Safety
    /// `n` floats are writable at `p`; memory after them is not touched.
    unsafe fn store_n(self, p: *mut f32, n: usize, v: Self::F);
    /// `LANES` binary16 values, widened exactly.
    /// # Safety
    /// `LANES` values are readable at `p`.
    unsafe fn load_f16(self, p: *const u16) -> Self::F;
    /// Rounded to binary16, ties to even.
    /// # Safety
    /// `LANES` values are writable at `p`.
    unsafe fn store_f16(self, p: *mut u16, v: Self::F);

    /// Asks for the line of the cache that holds `p`, which may point anywhere.
    #[inline(always)]
    fn prefetch(self, _p: *const f32) {}
    /// As [`prefetch`](Simd::prefetch), into the second level only: for what is read much later.
    #[inline(always)]
    fn prefetch_l2(self, _p: *const f32) {}
    /// Transposes a square of `LANES` rows: float `j` of `src(i)` is lane `i` of vector `j`; vectors
    /// from `LANES` on are zero.
    /// # Safety
    /// `LANES` floats are readable at each `src(i)`, `i < LANES`.
    unsafe fn transpose(self, src: impl Fn(usize) -> *const f32) -> [Self::F; MAX_LANES];

    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`; see the module comment for its rounding.
    fn mul_add(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `if a < b { a } else { b }`: the second operand when either is NaN.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// `if a > b { a } else { b }`: the second operand when either is NaN.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a` times two to the power of `n`, for integers `n` and results that are normal numbers.
    #[inline(always)]
    fn mul_pow2(self, a: Self::F, n: Self::F) -> Self::F {
        self.as_float(self.add_i(self.as_int(a), self.shl_i::<23>(self.to_int(n))))
    }
    fn sqrt(self, a: Self::F) -> Self::F;
    fn floor(self, a: Self::F) -> Self::F;
    fn ceil(self, a: Self::F) -> Self::F;
    fn round_even(self, a: Self::F) -> Self::F;

    fn lt(self, a: Self::F, b: Self::F) -> Self::M;
    fn le(self, a: Self::F, b: Self::F) -> Self::M;
    fn eq(self, a: Self::F, b: Self::F) -> Self::M;
    /// Lanes where either operand is NaN.
    fn unordered(self, a: Self::F, b: Self::F) -> Self::M;
    /// `m ? a : b`.
    fn select(self, m: Self::M, a: Self::F, b: Self::F) -> Self::F;
    fn any(self, m: Self::M) -> bool;
    /// `x < limit ? 0 : a`.
    #[inline(always)]
    fn zero_where_lt(self, x: Self::F, limit: Self::F, a: Self::F) -> Self::F {
        self.select(self.lt(x, limit), self.zero(), a)
    }
    /// Lanes 0, 2, 4, … of `a`, then those of `b`.
    fn even_lanes(self, a: Self::F, b: Self::F) -> Self::F;
    /// Lanes of `a` and `b` in turns: those of the first half of both, then those of the second.
    fn interleave(self, a: Self::F, b: Self::F) -> (Self::F, Self::F);

    fn splat_i(self, x: i32) -> Self::I;
    /// # Safety
    /// `LANES` integers are readable at `p`.
    #[inline(always)]
    unsafe fn load_i(self, p: *const i32) -> Self::I {
        // SAFETY: passed on to the caller; a lane of either type has 32 bits.
        self.as_int(unsafe { self.load(p.cast()) })
    }
    /// Bytes as integers from 0 to 255.
    /// # Safety
    /// `LANES` bytes are readable at `p`.
    unsafe fn load_u8(self, p: *const u8) -> Self::I;
    /// Bytes as integers from -128 to 127.
    /// # Safety
    /// `LANES` bytes are readable at `p`.
    unsafe fn load_i8(self, p: *const i8) -> Self::I;
    /// The low byte of each lane.
    /// # Safety
    /// `LANES` bytes are writable at `p`.
    unsafe fn store_low_bytes(self, p: *mut u8, v: Self::I);
    /// # Safety
    /// `LANES` integers are writable at `p`.
    #[inline(always)]
    unsafe fn store_i(self, p: *mut i32, v: Self::I) {
        // SAFETY: passed on to the caller; a lane of either type has 32 bits.
        unsafe { self.store(p.cast(), self.as_float(v)) }
    }
    /// Each lane as two signed 16-bit numbers: the sum of their products.
    fn mul_add_pairs(self, a: Self::I, b: Self::I) -> Self::I;
    fn as_int(self, a: Self::F) -> Self::I;
    fn as_float(self, a: Self::I) -> Self::F;
    /// Nearest integer, ties to even; unspecified where it does not fit.
    fn to_int(self, a: Self::F) -> Self::I;
    fn to_float(self, a: Self::I) -> Self::F;
    fn add_i(self, a: Self::I, b: Self::I) -> Self::I;
    fn sub_i(self, a: Self::I, b: Self::I) -> Self::I;
    /// The low 32 bits of the products.
    fn mul_i(self, a: Self::I, b: Self::I) -> Self::I;
    fn and_i(self, a: Self::I, b: Self::I) -> Self::I;
    fn or_i(self, a: Self::I, b: Self::I) -> Self::I;
    fn xor_i(self, a: Self::I, b: Self::I) -> Self::I;
    fn shl_i<const BITS: i32>(self, a: Self::I) -> Self::I;
    /// Arithmetic shift right.
    fn shr_i<const BITS: i32>(self, a: Self::I) -> Self::I;
    fn eq_i(self, a: Self::I, b: Self::I) -> Self::M;

    #[inline(always)]
    fn neg(self, a: Self::F) -> Self::F {
        self.as_float(self.xor_i(self.as_int(a), self.splat_i(i32::MIN)))
    }
    #[inline(always)]
    fn abs(self, a: Self::F) -> Self::F {
        self.as_float(self.and_i(self.as_int(a), self.splat_i(i32::MAX)))
    }
    /// The magnitude of `a` with the sign of `b`.
    #[inline(always)]
    fn copysign(self, a: Self::F, b: Self::F) -> Self::F {
        let sign = self.and_i(self.as_int(b), self.splat_i(i32::MIN));
        self.as_float(self.or_i(self.as_int(self.abs(a)), sign))
    }
    /// Minimum that is NaN where either operand is NaN.
    #[inline(always)]
    fn min_nan(self, a: Self::F, b: Self::F) -> Self::F {
        self.select(self.unordered(a, b), self.add(a, b), self.min(a, b))
    }
    /// Maximum that is NaN where either operand is NaN.
    #[inline(always)]
    fn max_nan(self, a: Self::F, b: Self::F) -> Self::F {
        self.select(self.unordered(a, b), self.add(a, b), self.max(a, b))
    }
    /// The lanes in order; lanes from `LANES` on are not written.
    #[inline(always)]
    fn to_array(self, a: Self::F) -> [f32; MAX_LANES] {
        let mut out = [0.0; MAX_LANES];
        // SAFETY: every level has at most `MAX_LANES` lanes.
        unsafe { self.store(out.as_mut_ptr(), a) };
        out
    }
    /// The sum of the lanes, added pairwise in a fixed tree.
    #[inline(always)]
    fn sum_lanes(self, a: Self::F) -> f32 {
        let mut v = self.to_array(a);
        let mut n = Self::LANES;
        while n > 1 {
            n /= 2;
            for i in 0..n {
                v[i] += v[i + n];
            }
        }
        v[0]
    }
}

/// The most lanes of any level.
pub(crate) const MAX_LANES: usize = 16;
