//! Between `f32` and the 16-bit formats, and copies of strided tensors.

use half::{bf16, f16};

use crate::Isa;
use crate::parallel::{Parallel, Shared, split};
use crate::simd::{Kernel, MAX_LANES, Simd};

const STEP: usize = 64 * 1024;

struct HalfToFloat<'a>(&'a [f16], &'a mut [f32]);

impl Kernel for HalfToFloat<'_> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let HalfToFloat(x, y) = self;
        for (x, y) in x.chunks(S::LANES).zip(y.chunks_mut(S::LANES)) {
            // SAFETY: both chunks have the same length, at most `LANES`; short ones go through a
            // padded copy. `f16` has the layout of `u16`.
            unsafe {
                if x.len() == S::LANES {
                    s.store(y.as_mut_ptr(), s.load_f16(x.as_ptr().cast()));
                } else {
                    let mut pad = [f16::ZERO; MAX_LANES];
                    pad[..x.len()].copy_from_slice(x);
                    s.store_n(y.as_mut_ptr(), y.len(), s.load_f16(pad.as_ptr().cast()));
                }
            }
        }
    }
}

struct FloatToHalf<'a>(&'a [f32], &'a mut [f16]);

impl Kernel for FloatToHalf<'_> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let FloatToHalf(x, y) = self;
        for (x, y) in x.chunks(S::LANES).zip(y.chunks_mut(S::LANES)) {
            // SAFETY: as for the other direction.
            unsafe {
                let v = s.load_n(x.as_ptr(), x.len());
                if y.len() == S::LANES {
                    s.store_f16(y.as_mut_ptr().cast(), v);
                } else {
                    let mut pad = [f16::ZERO; MAX_LANES];
                    s.store_f16(pad.as_mut_ptr().cast(), v);
                    y.copy_from_slice(&pad[..y.len()]);
                }
            }
        }
    }
}

struct BrainToFloat<'a>(&'a [bf16], &'a mut [f32]);

impl Kernel for BrainToFloat<'_> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, _: S) {
        for (x, y) in self.0.iter().zip(self.1) {
            *y = f32::from_bits(u32::from(x.to_bits()) << 16);
        }
    }
}

struct FloatToBrain<'a>(&'a [f32], &'a mut [bf16]);

impl Kernel for FloatToBrain<'_> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, _: S) {
        for (x, y) in self.0.iter().zip(self.1) {
            let bits = x.to_bits();
            // Adding half of what is cut off, or a little less where the kept part is even, rounds
            // to nearest with ties to even; a NaN keeps its sign and becomes quiet.
            let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
            let quiet = bits | 0x0040_0000;
            let bits = if bits & 0x7fff_ffff > 0x7f80_0000 { quiet } else { rounded };
            *y = bf16::from_bits((bits >> 16) as u16);
        }
    }
}

struct Round<'a>(&'a [f32], &'a mut [f32]);

impl Kernel for Round<'_> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, _: S) {
        for (x, y) in self.0.iter().zip(self.1) {
            let bits = x.to_bits();
            let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
            let quiet = bits | 0x0040_0000;
            let bits = if bits & 0x7fff_ffff > 0x7f80_0000 { quiet } else { rounded };
            *y = f32::from_bits(bits & 0xffff_0000);
        }
    }
}

macro_rules! conversions {
    ($($(#[$doc:meta])* $name:ident: $from:ty => $to:ty, $kernel:ident;)*) => {
        $(
            $(#[$doc])*
            ///
            /// # Panics
            /// When the lengths differ.
            pub fn $name(isa: Isa, par: &dyn Parallel, x: &[$from], y: &mut [$to]) {
                assert_eq!(x.len(), y.len(), concat!(stringify!($name), ": lengths differ"));
                let out = Shared::new(y);
                split(par, x.len(), STEP, &|start, n| {
                    // SAFETY: the ranges of the tasks are disjoint and lie in `y`.
                    let y = unsafe { out.part(start, n) };
                    isa.dispatch($kernel(&x[start..start + n], y));
                });
            }
        )*
    };
}

conversions! {
    /// Widens binary16, exactly.
    f16_to_f32: f16 => f32, HalfToFloat;
    /// Rounds to binary16, ties to even; too large becomes infinite.
    f32_to_f16: f32 => f16, FloatToHalf;
    /// Widens bfloat16, exactly.
    bf16_to_f32: bf16 => f32, BrainToFloat;
    /// Rounds to bfloat16, ties to even; too large becomes infinite.
    f32_to_bf16: f32 => bf16, FloatToBrain;
    /// The nearest numbers of bfloat16, ties to even; too large becomes infinite.
    round_to_bf16: f32 => f32, Round;
}

/// The most dimensions of a strided copy.
pub const MAX_DIMS: usize = 8;

/// Copies a strided tensor into one without gaps: `dst[i0, i1, …] = src[offset + i0 s0 + i1 s1 + …]`
/// in row-major order of `dims`. Strides may be zero (repeat) or negative (reverse); a transpose is a
/// permutation of strides, and is copied in blocks that fit the first-level cache.
///
/// # Panics
/// When there are more than [`MAX_DIMS`] dimensions, as many strides as dimensions are not given, an
/// index falls outside `src`, or `dst` has another length than the product of `dims`.
pub fn copy_strided<T: Copy + Send + Sync>(
    par: &dyn Parallel,
    dims: &[usize],
    src: &[T],
    offset: usize,
    strides: &[isize],
    dst: &mut [T],
) {
    let rank = dims.len();
    assert!(rank <= MAX_DIMS, "copy_strided: {rank} dimensions, at most {MAX_DIMS}");
    assert_eq!(strides.len(), rank, "copy_strided: strides against dimensions");
    let total: usize = dims.iter().product();
    assert_eq!(dst.len(), total, "copy_strided: destination length against dimensions {dims:?}");
    if total == 0 {
        return;
    }
    let (mut low, mut high) = (offset as i128, offset as i128);
    for (&n, &s) in dims.iter().zip(strides) {
        let span = (n - 1) as i128 * s as i128;
        if span < 0 { low += span } else { high += span }
    }
    assert!(
        low >= 0 && high < src.len() as i128,
        "copy_strided: indices {low}..={high} outside a source of {}",
        src.len()
    );
    let view = View::merged(dims, strides);
    let out = Shared::new(dst);
    let from = Shared::read(src);
    let (rows, cols, tail) = view.plane();
    let planes: usize = view.dims[..tail].iter().product();
    // Bands of rows: one task copies a band of one plane.
    let band = (STEP / cols.max(1)).clamp(1, rows);
    let bands = rows.div_ceil(band);
    split(par, planes * bands, STEP.div_ceil(band * cols), &|start, n| {
        for t in start..start + n {
            let (plane, r0) = (t / bands, t % bands * band);
            let count = band.min(rows - r0);
            let base = offset as isize + view.origin(plane, tail);
            // SAFETY: every index the view makes was checked against `src`; bands of `dst` are
            // disjoint.
            unsafe {
                view.copy_band(
                    from.ptr().offset(base),
                    out.ptr().add(plane * rows * cols),
                    r0,
                    count,
                    tail,
                )
            };
        }
    });
}

/// Dimensions and strides with neighbours merged where they are one run, of rank at least 1.
struct View {
    dims: [usize; MAX_DIMS],
    strides: [isize; MAX_DIMS],
    rank: usize,
}

impl View {
    fn merged(dims: &[usize], strides: &[isize]) -> View {
        let mut v = View { dims: [1; MAX_DIMS], strides: [0; MAX_DIMS], rank: 0 };
        for (&n, &s) in dims.iter().zip(strides) {
            if n == 1 {
                continue;
            }
            let last = v.rank.wrapping_sub(1);
            if v.rank > 0 && v.strides[last] == s * n as isize {
                v.dims[last] *= n;
                v.strides[last] = s;
            } else {
                v.dims[v.rank] = n;
                v.strides[v.rank] = s;
                v.rank += 1;
            }
        }
        v.rank = v.rank.max(1);
        v
    }

    /// The last two dimensions, and how many dimensions come before them.
    fn plane(&self) -> (usize, usize, usize) {
        match self.rank {
            1 => (1, self.dims[0], 0),
            r => (self.dims[r - 2], self.dims[r - 1], r - 2),
        }
    }

    /// Offset of a plane by its number.
    fn origin(&self, plane: usize, tail: usize) -> isize {
        let (mut rest, mut at) = (plane, 0);
        for d in (0..tail).rev() {
            at += (rest % self.dims[d]) as isize * self.strides[d];
            rest /= self.dims[d];
        }
        at
    }

    /// Copies `count` rows from row `r0` of a plane.
    ///
    /// # Safety
    /// `src` is the plane's origin in a source that holds every index of it, `dst` its place in a
    /// destination that holds it all.
    unsafe fn copy_band<T: Copy>(
        &self,
        src: *const T,
        dst: *mut T,
        r0: usize,
        count: usize,
        tail: usize,
    ) {
        const TILE: usize = 16;
        let (_, cols, _) = self.plane();
        let row = if self.rank == 1 { 0 } else { self.strides[tail] };
        let col = self.strides[self.rank - 1];
        // SAFETY: rows `r0..r0 + count` and all columns lie in the plane.
        unsafe {
            if col == 1 {
                for r in r0..r0 + count {
                    std::ptr::copy_nonoverlapping(
                        src.offset(r as isize * row),
                        dst.add(r * cols),
                        cols,
                    );
                }
                return;
            }
            for i0 in (r0..r0 + count).step_by(TILE) {
                for j0 in (0..cols).step_by(TILE) {
                    for i in i0..(i0 + TILE).min(r0 + count) {
                        let from = src.offset(i as isize * row);
                        let to = dst.add(i * cols);
                        for j in j0..(j0 + TILE).min(cols) {
                            *to.add(j) = *from.offset(j as isize * col);
                        }
                    }
                }
            }
        }
    }
}
