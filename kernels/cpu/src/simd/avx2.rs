//! AVX2 + FMA + F16C: vectors of eight floats.

use std::arch::x86_64::*;

use super::{Kernel, MAX_LANES, Simd};

/// Proof that this processor has AVX2, FMA and F16C.
#[derive(Copy, Clone)]
pub(crate) struct Avx2(());

impl Avx2 {
    /// Asks the processor.
    pub(crate) fn new() -> Option<Self> {
        let has = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        has.then_some(Avx2(()))
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn enter<K: Kernel>(token: Avx2, kernel: K) -> K::Output {
    kernel.call(token)
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline(never)]
fn enter_outlined<K: Kernel>(token: Avx2, kernel: K) -> K::Output {
    kernel.call(token)
}

/// Declares safe methods whose body is one intrinsic.
macro_rules! intrinsics {
    ($(fn $name:ident($($arg:ident: $ty:ty),*) -> $ret:ty { $body:expr })*) => {
        $(
            #[inline(always)]
            fn $name(self, $($arg: $ty),*) -> $ret {
                // SAFETY: the token proves that the processor has the instructions.
                unsafe { $body }
            }
        )*
    };
}

/// Ones then zeros: reading eight from `8 - n` gives a mask of the first `n` lanes.
static FIRST: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];

impl Avx2 {
    #[inline(always)]
    fn first(self, n: usize) -> __m256i {
        debug_assert!(n <= 8);
        // SAFETY: the token proves the instruction; `n <= 8`, so eight integers are readable.
        unsafe { _mm256_loadu_si256(FIRST.as_ptr().add(8 - n.min(8)).cast()) }
    }
}

impl Simd for Avx2 {
    const LANES: usize = 8;
    const MR: usize = 6;
    type F = __m256;
    type I = __m256i;
    type M = __m256;

    #[inline]
    fn vectorize<K: Kernel>(self, kernel: K) -> K::Output {
        // SAFETY: the token proves that the processor has the instructions `enter` enables.
        unsafe { enter(self, kernel) }
    }
    #[inline(always)]
    fn outline<K: Kernel>(self, kernel: K) -> K::Output {
        // SAFETY: the token proves that the processor has the instructions.
        unsafe { enter_outlined(self, kernel) }
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> __m256 {
        // SAFETY: the token proves the instruction, the caller the eight readable floats.
        unsafe { _mm256_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: __m256) {
        // SAFETY: the token proves the instruction, the caller the eight writable floats.
        unsafe { _mm256_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn load_n(self, p: *const f32, n: usize) -> __m256 {
        // SAFETY: the token proves the instruction; lanes beyond `n` are masked and not read.
        unsafe { _mm256_maskload_ps(p, self.first(n)) }
    }
    #[inline(always)]
    unsafe fn store_n(self, p: *mut f32, n: usize, v: __m256) {
        // A masked store costs many times a plain one on some processors.
        // SAFETY: the token proves the instructions; lanes beyond `n` are masked and not written.
        unsafe {
            if n >= 8 { _mm256_storeu_ps(p, v) } else { _mm256_maskstore_ps(p, self.first(n), v) }
        }
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const u16) -> __m256 {
        // SAFETY: the token proves the instruction, the caller the eight readable values.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(p.cast())) }
    }
    #[inline(always)]
    unsafe fn store_f16(self, p: *mut u16, v: __m256) {
        // SAFETY: the token proves the instruction, the caller the eight writable values.
        unsafe { _mm_storeu_si128(p.cast(), _mm256_cvtps_ph::<{ _MM_FROUND_TO_NEAREST_INT }>(v)) }
    }
    #[inline(always)]
    unsafe fn load_u8(self, p: *const u8) -> __m256i {
        // SAFETY: the token proves the instruction, the caller the eight readable bytes.
        unsafe { _mm256_cvtepu8_epi32(_mm_loadl_epi64(p.cast())) }
    }
    #[inline(always)]
    unsafe fn load_i8(self, p: *const i8) -> __m256i {
        // SAFETY: the token proves the instruction, the caller the eight readable bytes.
        unsafe { _mm256_cvtepi8_epi32(_mm_loadl_epi64(p.cast())) }
    }
    #[inline(always)]
    unsafe fn store_low_bytes(self, p: *mut u8, v: __m256i) {
        // SAFETY: the token proves the instructions, the caller the eight writable bytes.
        unsafe {
            let pick = _mm256_setr_epi8(
                0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, //
                0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
            );
            let halves = _mm256_shuffle_epi8(v, pick);
            let (low, high) =
                (_mm256_castsi256_si128(halves), _mm256_extracti128_si256::<1>(halves));
            _mm_storel_epi64(p.cast(), _mm_unpacklo_epi32(low, high));
        }
    }
    #[inline(always)]
    fn prefetch(self, p: *const f32) {
        // SAFETY: a prefetch has no effect that a program could see, wherever it points.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
    #[inline(always)]
    fn prefetch_l2(self, p: *const f32) {
        // SAFETY: a prefetch has no effect that a program could see, wherever it points.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
    }
    #[inline(always)]
    unsafe fn transpose(self, src: impl Fn(usize) -> *const f32) -> [__m256; MAX_LANES] {
        // SAFETY: the token proves the instructions, the caller eight floats at each of the eight
        // sources.
        unsafe {
            // Half `h` of `r[i]` holds columns `4 q ..` of row `4 h + i`. Loops, not closures: what a
            // closure calls is not compiled for this level.
            let mut out = [_mm256_setzero_ps(); MAX_LANES];
            for (q, out) in out[..8].chunks_exact_mut(4).enumerate() {
                let mut r = [_mm256_setzero_ps(); 4];
                for (i, r) in r.iter_mut().enumerate() {
                    let low = _mm256_castps128_ps256(_mm_loadu_ps(src(i).add(4 * q)));
                    *r = _mm256_insertf128_ps::<1>(low, _mm_loadu_ps(src(4 + i).add(4 * q)));
                }
                let (a, b) = (_mm256_unpacklo_ps(r[0], r[1]), _mm256_unpackhi_ps(r[0], r[1]));
                let (c, d) = (_mm256_unpacklo_ps(r[2], r[3]), _mm256_unpackhi_ps(r[2], r[3]));
                out[0] = _mm256_shuffle_ps::<0b01_00_01_00>(a, c);
                out[1] = _mm256_shuffle_ps::<0b11_10_11_10>(a, c);
                out[2] = _mm256_shuffle_ps::<0b01_00_01_00>(b, d);
                out[3] = _mm256_shuffle_ps::<0b11_10_11_10>(b, d);
            }
            out
        }
    }

    intrinsics! {
        fn splat(x: f32) -> __m256 { _mm256_set1_ps(x) }
        fn zero() -> __m256 { _mm256_setzero_ps() }
        fn add(a: __m256, b: __m256) -> __m256 { _mm256_add_ps(a, b) }
        fn sub(a: __m256, b: __m256) -> __m256 { _mm256_sub_ps(a, b) }
        fn mul(a: __m256, b: __m256) -> __m256 { _mm256_mul_ps(a, b) }
        fn div(a: __m256, b: __m256) -> __m256 { _mm256_div_ps(a, b) }
        fn mul_add(a: __m256, b: __m256, c: __m256) -> __m256 { _mm256_fmadd_ps(a, b, c) }
        fn min(a: __m256, b: __m256) -> __m256 { _mm256_min_ps(a, b) }
        fn max(a: __m256, b: __m256) -> __m256 { _mm256_max_ps(a, b) }
        fn sqrt(a: __m256) -> __m256 { _mm256_sqrt_ps(a) }
        fn floor(a: __m256) -> __m256 { _mm256_floor_ps(a) }
        fn ceil(a: __m256) -> __m256 { _mm256_ceil_ps(a) }
        fn round_even(a: __m256) -> __m256 {
            _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a)
        }
        fn lt(a: __m256, b: __m256) -> __m256 { _mm256_cmp_ps::<_CMP_LT_OQ>(a, b) }
        fn le(a: __m256, b: __m256) -> __m256 { _mm256_cmp_ps::<_CMP_LE_OQ>(a, b) }
        fn eq(a: __m256, b: __m256) -> __m256 { _mm256_cmp_ps::<_CMP_EQ_OQ>(a, b) }
        fn unordered(a: __m256, b: __m256) -> __m256 { _mm256_cmp_ps::<_CMP_UNORD_Q>(a, b) }
        fn select(m: __m256, a: __m256, b: __m256) -> __m256 { _mm256_blendv_ps(b, a, m) }
        fn zero_where_lt(x: __m256, limit: __m256, a: __m256) -> __m256 {
            _mm256_and_ps(_mm256_cmp_ps::<_CMP_NLT_UQ>(x, limit), a)
        }
        fn any(m: __m256) -> bool { _mm256_movemask_ps(m) != 0 }
        fn mul_add_pairs(a: __m256i, b: __m256i) -> __m256i { _mm256_madd_epi16(a, b) }
        fn even_lanes(a: __m256, b: __m256) -> __m256 {
            _mm256_castpd_ps(_mm256_permute4x64_pd::<0b11_01_10_00>(_mm256_castps_pd(
                _mm256_shuffle_ps::<0b10_00_10_00>(a, b),
            )))
        }
        fn interleave(a: __m256, b: __m256) -> (__m256, __m256) {{
            let (low, high) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
            (
                _mm256_permute2f128_ps::<0x20>(low, high),
                _mm256_permute2f128_ps::<0x31>(low, high),
            )
        }}
        fn splat_i(x: i32) -> __m256i { _mm256_set1_epi32(x) }
        fn as_int(a: __m256) -> __m256i { _mm256_castps_si256(a) }
        fn as_float(a: __m256i) -> __m256 { _mm256_castsi256_ps(a) }
        fn to_int(a: __m256) -> __m256i { _mm256_cvtps_epi32(a) }
        fn to_float(a: __m256i) -> __m256 { _mm256_cvtepi32_ps(a) }
        fn add_i(a: __m256i, b: __m256i) -> __m256i { _mm256_add_epi32(a, b) }
        fn sub_i(a: __m256i, b: __m256i) -> __m256i { _mm256_sub_epi32(a, b) }
        fn mul_i(a: __m256i, b: __m256i) -> __m256i { _mm256_mullo_epi32(a, b) }
        fn and_i(a: __m256i, b: __m256i) -> __m256i { _mm256_and_si256(a, b) }
        fn or_i(a: __m256i, b: __m256i) -> __m256i { _mm256_or_si256(a, b) }
        fn xor_i(a: __m256i, b: __m256i) -> __m256i { _mm256_xor_si256(a, b) }
        fn eq_i(a: __m256i, b: __m256i) -> __m256 {
            _mm256_castsi256_ps(_mm256_cmpeq_epi32(a, b))
        }
    }
    #[inline(always)]
    fn shl_i<const BITS: i32>(self, a: __m256i) -> __m256i {
        // SAFETY: the token proves the instruction.
        unsafe { _mm256_slli_epi32::<BITS>(a) }
    }
    #[inline(always)]
    fn shr_i<const BITS: i32>(self, a: __m256i) -> __m256i {
        // SAFETY: the token proves the instruction.
        unsafe { _mm256_srai_epi32::<BITS>(a) }
    }
}
