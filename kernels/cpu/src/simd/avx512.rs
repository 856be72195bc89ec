//! AVX-512 F, BW, VL, DQ over AVX2, FMA and F16C: vectors of sixteen floats, masks in registers.

use std::arch::x86_64::*;

use super::{Kernel, MAX_LANES, Simd};

/// Proof that this processor has AVX-512 F, BW, VL and DQ besides AVX2, FMA and F16C.
#[derive(Copy, Clone)]
pub(crate) struct Avx512(());

impl Avx512 {
    /// Asks the processor.
    pub(crate) fn new() -> Option<Self> {
        let has = super::Avx2::new().is_some()
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq");
        has.then_some(Avx512(()))
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
#[inline]
fn enter<K: Kernel>(token: Avx512, kernel: K) -> K::Output {
    kernel.call(token)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
#[inline(never)]
fn enter_outlined<K: Kernel>(token: Avx512, kernel: K) -> K::Output {
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

/// A mask of the first `n <= 16` lanes.
#[inline(always)]
fn first(n: usize) -> __mmask16 {
    debug_assert!(n <= 16);
    ((1u32 << n.min(16)) - 1) as u16
}

impl Simd for Avx512 {
    const LANES: usize = 16;
    const MR: usize = 12;
    type F = __m512;
    type I = __m512i;
    type M = __mmask16;

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
    unsafe fn load(self, p: *const f32) -> __m512 {
        // SAFETY: the token proves the instruction, the caller the sixteen readable floats.
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: __m512) {
        // SAFETY: the token proves the instruction, the caller the sixteen writable floats.
        unsafe { _mm512_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn load_n(self, p: *const f32, n: usize) -> __m512 {
        // SAFETY: the token proves the instruction; lanes beyond `n` are masked and not read.
        unsafe { _mm512_maskz_loadu_ps(first(n), p) }
    }
    #[inline(always)]
    unsafe fn store_n(self, p: *mut f32, n: usize, v: __m512) {
        // SAFETY: the token proves the instruction; lanes beyond `n` are masked and not written.
        unsafe { _mm512_mask_storeu_ps(p, first(n), v) }
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const u16) -> __m512 {
        // SAFETY: the token proves the instruction, the caller the sixteen readable values.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
    }
    #[inline(always)]
    unsafe fn store_f16(self, p: *mut u16, v: __m512) {
        // SAFETY: the token proves the instruction, the caller the sixteen writable values.
        unsafe {
            _mm256_storeu_si256(p.cast(), _mm512_cvtps_ph::<{ _MM_FROUND_TO_NEAREST_INT }>(v))
        }
    }
    #[inline(always)]
    unsafe fn load_u8(self, p: *const u8) -> __m512i {
        // SAFETY: the token proves the instruction, the caller the sixteen readable bytes.
        unsafe { _mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast())) }
    }
    #[inline(always)]
    unsafe fn load_i8(self, p: *const i8) -> __m512i {
        // SAFETY: the token proves the instruction, the caller the sixteen readable bytes.
        unsafe { _mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast())) }
    }
    #[inline(always)]
    unsafe fn store_low_bytes(self, p: *mut u8, v: __m512i) {
        // SAFETY: the token proves the instruction, the caller the sixteen writable bytes.
        unsafe { _mm_storeu_si128(p.cast(), _mm512_cvtepi32_epi8(v)) }
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
    unsafe fn transpose(self, src: impl Fn(usize) -> *const f32) -> [__m512; MAX_LANES] {
        // SAFETY: the token proves the instructions, the caller sixteen floats at each of the
        // sixteen sources.
        unsafe {
            let mut out = [_mm512_setzero_ps(); MAX_LANES];
            for (q, out) in out.chunks_exact_mut(4).enumerate() {
                // Quarter `l` of `r[i]` holds columns `4 q ..` of row `4 l + i`: quarters are
                // inserted as they are loaded, which keeps the one port that shuffles free.
                // Loops, not closures: what a closure calls is not compiled for this level.
                let mut r = [_mm512_setzero_ps(); 4];
                for (i, r) in r.iter_mut().enumerate() {
                    let at = 4 * q;
                    *r = _mm512_castps128_ps512(_mm_loadu_ps(src(i).add(at)));
                    *r = _mm512_insertf32x4::<1>(*r, _mm_loadu_ps(src(4 + i).add(at)));
                    *r = _mm512_insertf32x4::<2>(*r, _mm_loadu_ps(src(8 + i).add(at)));
                    *r = _mm512_insertf32x4::<3>(*r, _mm_loadu_ps(src(12 + i).add(at)));
                }
                let (a, b) = (_mm512_unpacklo_ps(r[0], r[1]), _mm512_unpackhi_ps(r[0], r[1]));
                let (c, d) = (_mm512_unpacklo_ps(r[2], r[3]), _mm512_unpackhi_ps(r[2], r[3]));
                out[0] = _mm512_shuffle_ps::<0b01_00_01_00>(a, c);
                out[1] = _mm512_shuffle_ps::<0b11_10_11_10>(a, c);
                out[2] = _mm512_shuffle_ps::<0b01_00_01_00>(b, d);
                out[3] = _mm512_shuffle_ps::<0b11_10_11_10>(b, d);
            }
            out
        }
    }

    intrinsics! {
        fn mul_pow2(a: __m512, n: __m512) -> __m512 { _mm512_scalef_ps(a, n) }
        fn splat(x: f32) -> __m512 { _mm512_set1_ps(x) }
        fn zero() -> __m512 { _mm512_setzero_ps() }
        fn add(a: __m512, b: __m512) -> __m512 { _mm512_add_ps(a, b) }
        fn sub(a: __m512, b: __m512) -> __m512 { _mm512_sub_ps(a, b) }
        fn mul(a: __m512, b: __m512) -> __m512 { _mm512_mul_ps(a, b) }
        fn div(a: __m512, b: __m512) -> __m512 { _mm512_div_ps(a, b) }
        fn mul_add(a: __m512, b: __m512, c: __m512) -> __m512 { _mm512_fmadd_ps(a, b, c) }
        fn min(a: __m512, b: __m512) -> __m512 { _mm512_min_ps(a, b) }
        fn max(a: __m512, b: __m512) -> __m512 { _mm512_max_ps(a, b) }
        fn sqrt(a: __m512) -> __m512 { _mm512_sqrt_ps(a) }
        fn floor(a: __m512) -> __m512 {
            _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC }>(a)
        }
        fn ceil(a: __m512) -> __m512 {
            _mm512_roundscale_ps::<{ _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC }>(a)
        }
        fn round_even(a: __m512) -> __m512 {
            _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a)
        }
        fn lt(a: __m512, b: __m512) -> __mmask16 { _mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b) }
        fn le(a: __m512, b: __m512) -> __mmask16 { _mm512_cmp_ps_mask::<_CMP_LE_OQ>(a, b) }
        fn eq(a: __m512, b: __m512) -> __mmask16 { _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(a, b) }
        fn unordered(a: __m512, b: __m512) -> __mmask16 {
            _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(a, b)
        }
        fn zero_where_lt(x: __m512, limit: __m512, a: __m512) -> __m512 {
            _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_NLT_UQ>(x, limit), a)
        }
        fn select(m: __mmask16, a: __m512, b: __m512) -> __m512 { _mm512_mask_blend_ps(m, b, a) }
        fn mul_add_pairs(a: __m512i, b: __m512i) -> __m512i { _mm512_madd_epi16(a, b) }
        fn even_lanes(a: __m512, b: __m512) -> __m512 {
            _mm512_permutex2var_ps(
                a,
                _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30),
                b,
            )
        }
        fn interleave(a: __m512, b: __m512) -> (__m512, __m512) {{
            let low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
            let high =
                _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
            (_mm512_permutex2var_ps(a, low, b), _mm512_permutex2var_ps(a, high, b))
        }}
        fn splat_i(x: i32) -> __m512i { _mm512_set1_epi32(x) }
        fn as_int(a: __m512) -> __m512i { _mm512_castps_si512(a) }
        fn as_float(a: __m512i) -> __m512 { _mm512_castsi512_ps(a) }
        fn to_int(a: __m512) -> __m512i { _mm512_cvtps_epi32(a) }
        fn to_float(a: __m512i) -> __m512 { _mm512_cvtepi32_ps(a) }
        fn add_i(a: __m512i, b: __m512i) -> __m512i { _mm512_add_epi32(a, b) }
        fn sub_i(a: __m512i, b: __m512i) -> __m512i { _mm512_sub_epi32(a, b) }
        fn mul_i(a: __m512i, b: __m512i) -> __m512i { _mm512_mullo_epi32(a, b) }
        fn and_i(a: __m512i, b: __m512i) -> __m512i { _mm512_and_si512(a, b) }
        fn or_i(a: __m512i, b: __m512i) -> __m512i { _mm512_or_si512(a, b) }
        fn xor_i(a: __m512i, b: __m512i) -> __m512i { _mm512_xor_si512(a, b) }
        fn eq_i(a: __m512i, b: __m512i) -> __mmask16 { _mm512_cmpeq_epi32_mask(a, b) }
    }
    #[inline(always)]
    fn any(self, m: __mmask16) -> bool {
        m != 0
    }
    #[inline(always)]
    fn shl_i<const BITS: i32>(self, a: __m512i) -> __m512i {
        // SAFETY: the token proves the instruction; `BITS` is in 0..32 for every caller.
        unsafe { _mm512_sll_epi32(a, _mm_cvtsi32_si128(BITS)) }
    }
    #[inline(always)]
    fn shr_i<const BITS: i32>(self, a: __m512i) -> __m512i {
        // SAFETY: the token proves the instruction; `BITS` is in 0..32 for every caller.
        unsafe { _mm512_sra_epi32(a, _mm_cvtsi32_si128(BITS)) }
    }
}
