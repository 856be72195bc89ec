//! Micro-kernels that keep their sums in vector registers.

use super::{LINE_UNITS, Tile};
use crate::Isa;
use crate::simd::{Kernel, Simd};
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// Units of each line, of `units` in all.
#[inline(always)]
fn lines(units: usize) -> impl Iterator<Item = usize> {
    (0..units).step_by(LINE_UNITS).map(move |from| LINE_UNITS.min(units - from))
}

struct Pairs(Tile);

impl Pairs {
    /// # Safety
    /// A reaches its lines for `R` rows, B `units` of `NR`, the sums `R` rows of `NR`.
    #[inline(always)]
    unsafe fn rows<S: Simd, const R: usize>(&self, s: S) {
        let t = self.0;
        let mut acc = [[s.splat_i(0); 2]; R];
        let mut b = t.b.cast::<i32>();
        // SAFETY: as the caller promises.
        unsafe {
            for (line, units) in lines(t.units).enumerate() {
                let a = t.a[0].add(*t.offsets.add(line)).cast::<i32>();
                for u in 0..units {
                    let x = [s.load_i(b), s.load_i(b.add(S::LANES))];
                    for (i, acc) in acc.iter_mut().enumerate() {
                        let pair = s.splat_i(a.add(i * LINE_UNITS + u).read());
                        for (acc, x) in acc.iter_mut().zip(x) {
                            *acc = s.add_i(*acc, s.mul_add_pairs(pair, x));
                        }
                    }
                    b = b.add(S::NR);
                }
            }
            for (i, acc) in acc.iter().enumerate() {
                for (v, x) in acc.iter().enumerate() {
                    s.store_i(t.c.add(i * S::NR + v * S::LANES), *x);
                }
            }
        }
    }
}

impl Kernel for Pairs {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        // SAFETY: `pairs` has the caller's promise; panels are `MR` wide and the sums have `MR`
        // rows whatever `rows` is.
        unsafe {
            match (self.0.rows, S::LANES == 16) {
                (1, false) => self.rows::<S, 1>(s),
                (2, false) => self.rows::<S, 2>(s),
                (_, false) => self.rows::<S, 4>(s),
                (1, true) => self.rows::<S, 1>(s),
                (2, true) => self.rows::<S, 2>(s),
                (3..=4, true) => self.rows::<S, 4>(s),
                (5..=8, true) => self.rows::<S, 8>(s),
                (_, true) => self.rows::<S, 12>(s),
            }
        }
    }
}

/// Pairs of 16-bit integers.
///
/// # Safety
/// The pointers reach what the tile says.
pub(super) unsafe fn pairs(isa: Isa, t: Tile) {
    isa.dispatch(Pairs(t));
}

/// See [`super::peak`].
pub(super) fn pairs_peak(isa: Isa, steps: usize) -> f64 {
    struct Peak(usize);
    impl Kernel for Peak {
        type Output = f64;
        #[inline(always)]
        fn call<S: Simd>(self, s: S) -> f64 {
            let mut acc = [s.splat_i(0); 10];
            let x = s.splat_i(std::hint::black_box(0x10001));
            for _ in 0..self.0 {
                for a in &mut acc {
                    // The compiler must not see that the products repeat.
                    *a = s.add_i(*a, s.mul_add_pairs(*a, x));
                }
            }
            let sum = acc.into_iter().fold(s.splat_i(0), |a, b| s.add_i(a, b));
            std::hint::black_box(s.to_array(s.as_float(sum)));
            (2 * 2 * 10 * S::LANES * self.0) as f64
        }
    }
    isa.dispatch(Peak(steps))
}

/// A micro-kernel of `$mr` rows and two vectors of `$lanes`, and its peak.
#[cfg(target_arch = "x86_64")]
macro_rules! dot_kernel {
    (
        $run:ident, $rows:ident, $peak:ident, $features:literal, $lanes:literal, $mr:literal,
        [$($r:literal),*], $terms:literal, $zero:expr, $load:ident, $splat:expr, $store:ident,
        $dot:expr
    ) => {
        #[target_feature(enable = $features)]
        unsafe fn $rows<const R: usize>(t: Tile) {
            let mut acc = [[$zero; 2]; R];
            let mut b = t.b.cast::<i32>();
            // SAFETY: the caller promises the lines of `R` rows, `units` of `NR` and `R` rows of sums.
            unsafe {
                for (line, units) in lines(t.units).enumerate() {
                    let a = t.a[0].add(*t.offsets.add(line)).cast::<i32>();
                    for u in 0..units {
                        let x = [$load(b.cast()), $load(b.add($lanes).cast())];
                        for (i, acc) in acc.iter_mut().enumerate() {
                            let unit = $splat(a.add(i * LINE_UNITS + u).read());
                            for (acc, x) in acc.iter_mut().zip(x) {
                                *acc = $dot(*acc, unit, x);
                            }
                        }
                        b = b.add(2 * $lanes);
                    }
                }
                for (i, acc) in acc.iter().enumerate() {
                    for (v, x) in acc.iter().enumerate() {
                        $store(t.c.add(i * 2 * $lanes + v * $lanes).cast(), *x);
                    }
                }
            }
        }

        /// # Safety
        /// The processor has the instructions, and the pointers reach what the tile says.
        pub(super) unsafe fn $run(t: Tile) {
            // SAFETY: as the caller promises; panels and sums have `MR` rows whatever `rows` is.
            unsafe {
                match t.rows {
                    $(..=$r => $rows::<$r>(t),)*
                    _ => $rows::<$mr>(t),
                }
            }
        }

        /// # Safety
        /// The processor has the instructions.
        #[target_feature(enable = $features)]
        pub(super) unsafe fn $peak(steps: usize) -> f64 {
            let mut acc = [$zero; 12];
            // SAFETY: loads from an array of the size of a vector; the instructions exist.
            unsafe {
                let x = [std::hint::black_box(0x0101_0101); 16];
                let (unit, x) = ($splat(x[0]), $load(x.as_ptr().cast()));
                for _ in 0..steps {
                    for acc in &mut acc {
                        *acc = $dot(*acc, unit, x);
                    }
                    std::hint::black_box(());
                }
                let mut out = [0i32; 16];
                for acc in acc {
                    $store(out.as_mut_ptr().cast(), acc);
                    std::hint::black_box(&out);
                }
            }
            (2 * $terms * 12 * $lanes * steps) as f64
        }
    };
}

#[cfg(target_arch = "x86_64")]
dot_kernel!(
    avx_vnni,
    avx_vnni_rows,
    avx_vnni_peak,
    "avx2,avxvnni",
    8,
    6,
    [1, 2, 4],
    4,
    _mm256_setzero_si256(),
    _mm256_loadu_si256,
    |x| _mm256_set1_epi32(x),
    _mm256_storeu_si256,
    |c, a, b| _mm256_dpbusd_avx_epi32(c, a, b)
);
#[cfg(target_arch = "x86_64")]
dot_kernel!(
    avx512_vnni,
    avx512_vnni_rows,
    avx512_vnni_peak,
    "avx512f,avx512bw,avx512vl,avx512vnni",
    16,
    12,
    [1, 2, 4, 8],
    4,
    _mm512_setzero_si512(),
    _mm512_loadu_si512,
    |x| _mm512_set1_epi32(x),
    _mm512_storeu_si512,
    |c, a, b| _mm512_dpbusd_epi32(c, a, b)
);
#[cfg(target_arch = "x86_64")]
dot_kernel!(
    avx512_bf16,
    avx512_bf16_rows,
    avx512_bf16_peak,
    "avx512f,avx512bw,avx512vl,avx512bf16",
    16,
    12,
    [1, 2, 4, 8],
    2,
    _mm512_setzero_ps(),
    _mm512_loadu_si512,
    |x| std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(x)),
    _mm512_storeu_ps,
    |c, a, b| _mm512_dpbf16_ps(c, a, std::mem::transmute::<__m512i, __m512bh>(b))
);
