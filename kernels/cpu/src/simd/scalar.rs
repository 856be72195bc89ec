//! The level every target has: arrays of four floats, which compilers map to whatever is there.

use super::{Kernel, MAX_LANES, Simd};

/// Proof of nothing; plain Rust.
#[derive(Copy, Clone)]
pub(crate) struct Scalar;

const N: usize = 4;
type F = [f32; N];
type I = [i32; N];
type M = [bool; N];

#[inline(always)]
fn each<A: Copy, B: Copy, C>(a: [A; N], b: [B; N], f: impl Fn(A, B) -> C) -> [C; N] {
    [f(a[0], b[0]), f(a[1], b[1]), f(a[2], b[2]), f(a[3], b[3])]
}

impl Simd for Scalar {
    const LANES: usize = N;
    const MR: usize = 4;
    type F = F;
    type I = I;
    type M = M;

    #[inline]
    fn vectorize<K: Kernel>(self, kernel: K) -> K::Output {
        kernel.call(self)
    }
    #[inline(never)]
    fn outline<K: Kernel>(self, kernel: K) -> K::Output {
        kernel.call(self)
    }
    #[inline(always)]
    fn splat(self, x: f32) -> F {
        [x; N]
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> F {
        // SAFETY: the caller promises four readable floats; no alignment is assumed.
        unsafe { p.cast::<F>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: F) {
        // SAFETY: the caller promises four writable floats; no alignment is assumed.
        unsafe { p.cast::<F>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn load_n(self, p: *const f32, n: usize) -> F {
        let mut out = [0.0; N];
        for (i, o) in out.iter_mut().enumerate().take(n) {
            // SAFETY: the caller promises `n` readable floats and `i < n`.
            *o = unsafe { *p.add(i) };
        }
        out
    }
    #[inline(always)]
    unsafe fn store_n(self, p: *mut f32, n: usize, v: F) {
        for (i, x) in v.iter().enumerate().take(n) {
            // SAFETY: the caller promises `n` writable floats and `i < n`.
            unsafe { *p.add(i) = *x };
        }
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const u16) -> F {
        // SAFETY: the caller promises four readable values; no alignment is assumed.
        let h = unsafe { p.cast::<[u16; N]>().read_unaligned() };
        h.map(|b| half::f16::from_bits(b).to_f32())
    }
    #[inline(always)]
    unsafe fn store_f16(self, p: *mut u16, v: F) {
        let h = v.map(|x| half::f16::from_f32(x).to_bits());
        // SAFETY: the caller promises four writable values; no alignment is assumed.
        unsafe { p.cast::<[u16; N]>().write_unaligned(h) }
    }
    #[inline(always)]
    unsafe fn load_u8(self, p: *const u8) -> I {
        // SAFETY: the caller promises four readable bytes.
        unsafe { p.cast::<[u8; N]>().read() }.map(i32::from)
    }
    #[inline(always)]
    unsafe fn load_i8(self, p: *const i8) -> I {
        // SAFETY: the caller promises four readable bytes.
        unsafe { p.cast::<[i8; N]>().read() }.map(i32::from)
    }
    #[inline(always)]
    unsafe fn store_low_bytes(self, p: *mut u8, v: I) {
        // SAFETY: the caller promises four writable bytes.
        unsafe { p.cast::<[u8; N]>().write(v.map(|x| x as u8)) }
    }
    #[inline(always)]
    unsafe fn transpose(self, src: impl Fn(usize) -> *const f32) -> [F; MAX_LANES] {
        // SAFETY: the caller promises four floats at each of the four sources.
        let rows = [0, 1, 2, 3].map(|i| unsafe { self.load(src(i)) });
        std::array::from_fn(|j| if j < N { rows.map(|row| row[j]) } else { [0.0; N] })
    }
    #[inline(always)]
    fn add(self, a: F, b: F) -> F {
        each(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: F, b: F) -> F {
        each(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: F, b: F) -> F {
        each(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: F, b: F) -> F {
        each(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn mul_add(self, a: F, b: F, c: F) -> F {
        self.add(self.mul(a, b), c)
    }
    #[inline(always)]
    fn min(self, a: F, b: F) -> F {
        each(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn max(self, a: F, b: F) -> F {
        each(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn sqrt(self, a: F) -> F {
        a.map(f32::sqrt)
    }
    #[inline(always)]
    fn floor(self, a: F) -> F {
        a.map(f32::floor)
    }
    #[inline(always)]
    fn ceil(self, a: F) -> F {
        a.map(f32::ceil)
    }
    #[inline(always)]
    fn round_even(self, a: F) -> F {
        // Adding and taking away 1.5 * 2^23 leaves no fraction bits below that magnitude.
        a.map(|x| {
            if x.abs() < 4_194_304.0 {
                ((x + 12_582_912.0) - 12_582_912.0).copysign(x)
            } else {
                x.round_ties_even()
            }
        })
    }
    #[inline(always)]
    fn lt(self, a: F, b: F) -> M {
        each(a, b, |a, b| a < b)
    }
    #[inline(always)]
    fn le(self, a: F, b: F) -> M {
        each(a, b, |a, b| a <= b)
    }
    #[inline(always)]
    fn eq(self, a: F, b: F) -> M {
        each(a, b, |a, b| a == b)
    }
    #[inline(always)]
    fn unordered(self, a: F, b: F) -> M {
        each(a, b, |a, b| a.is_nan() | b.is_nan())
    }
    #[inline(always)]
    fn select(self, m: M, a: F, b: F) -> F {
        let mut out = b;
        for i in 0..N {
            if m[i] {
                out[i] = a[i];
            }
        }
        out
    }
    #[inline(always)]
    fn any(self, m: M) -> bool {
        m.into_iter().any(|b| b)
    }
    #[inline(always)]
    fn splat_i(self, x: i32) -> I {
        [x; N]
    }
    #[inline(always)]
    fn even_lanes(self, a: F, b: F) -> F {
        [a[0], a[2], b[0], b[2]]
    }
    #[inline(always)]
    fn interleave(self, a: F, b: F) -> (F, F) {
        ([a[0], b[0], a[1], b[1]], [a[2], b[2], a[3], b[3]])
    }
    #[inline(always)]
    fn mul_add_pairs(self, a: I, b: I) -> I {
        each(a, b, |a, b| {
            let low = i32::from(a as i16).wrapping_mul(i32::from(b as i16));
            let high = (a >> 16).wrapping_mul(b >> 16);
            low.wrapping_add(high)
        })
    }
    #[inline(always)]
    fn as_int(self, a: F) -> I {
        a.map(|x| x.to_bits().cast_signed())
    }
    #[inline(always)]
    fn as_float(self, a: I) -> F {
        a.map(|x| f32::from_bits(x.cast_unsigned()))
    }
    #[inline(always)]
    fn to_int(self, a: F) -> I {
        self.round_even(a).map(|x| x as i32)
    }
    #[inline(always)]
    fn to_float(self, a: I) -> F {
        a.map(|x| x as f32)
    }
    #[inline(always)]
    fn add_i(self, a: I, b: I) -> I {
        each(a, b, i32::wrapping_add)
    }
    #[inline(always)]
    fn sub_i(self, a: I, b: I) -> I {
        each(a, b, i32::wrapping_sub)
    }
    #[inline(always)]
    fn mul_i(self, a: I, b: I) -> I {
        each(a, b, i32::wrapping_mul)
    }
    #[inline(always)]
    fn and_i(self, a: I, b: I) -> I {
        each(a, b, |a, b| a & b)
    }
    #[inline(always)]
    fn or_i(self, a: I, b: I) -> I {
        each(a, b, |a, b| a | b)
    }
    #[inline(always)]
    fn xor_i(self, a: I, b: I) -> I {
        each(a, b, |a, b| a ^ b)
    }
    #[inline(always)]
    fn shl_i<const BITS: i32>(self, a: I) -> I {
        a.map(|x| x << BITS)
    }
    #[inline(always)]
    fn shr_i<const BITS: i32>(self, a: I) -> I {
        a.map(|x| x >> BITS)
    }
    #[inline(always)]
    fn eq_i(self, a: I, b: I) -> M {
        each(a, b, |a, b| a == b)
    }
}
