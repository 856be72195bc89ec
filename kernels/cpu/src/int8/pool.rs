//! The greatest byte under a window, channels last.

use crate::Isa;
use crate::gemm::Bytes;
use crate::parallel::{Parallel, Shared, split};
use crate::pool::PoolShape;
use crate::simd::{Kernel, Simd};

struct Position<'a, T> {
    x: &'a [T],
    shape: &'a PoolShape,
    channels: usize,
    r: usize,
    least: T,
    y: &'a mut [T],
}

impl<T: Copy + Ord> Kernel for Position<'_, T> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, _: S) {
        let Position { x, shape, channels, r, least, y } = self;
        let [d, h, w] = shape.output;
        let (image, at) = (r / (w * h * d), [r / (w * h) % d, r / w % h, r % w]);
        y.fill(least);
        let [kd, kh, kw] = shape.kernel;
        for tap in 0..kd * kh * kw {
            let tap = [tap / (kw * kh), tap / kw % kh, tap % kw];
            let mut offset = image;
            let mut inside = true;
            for i in 0..3 {
                let p = at[i] * shape.stride[i] + tap[i] * shape.dilation[i];
                let p = p.wrapping_sub(shape.pad_begin[i]);
                inside &= p < shape.input[i];
                offset = offset.wrapping_mul(shape.input[i]).wrapping_add(p);
            }
            if inside {
                let from = &x[offset * channels..][..channels];
                y.iter_mut().zip(from).for_each(|(y, x)| *y = (*y).max(*x));
            }
        }
    }
}

fn run<T: Copy + Ord + Send + Sync>(
    isa: Isa,
    par: &dyn Parallel,
    shape: &PoolShape,
    channels: usize,
    x: &[T],
    least: T,
    y: &mut [T],
) {
    let positions = shape.planes * shape.output.iter().product::<usize>();
    let inputs = shape.planes * shape.input.iter().product::<usize>();
    assert_eq!(x.len(), inputs * channels, "max_pool_i8: length of the input");
    assert_eq!(y.len(), positions * channels, "max_pool_i8: length of the output");
    let taps: usize = shape.kernel.iter().product();
    let out = Shared::new(y);
    split(par, positions, (1usize << 17).div_ceil((taps * channels).max(1)), &|first, n| {
        for r in first..first + n {
            // SAFETY: each task has positions of its own, all of which lie in `y`.
            let y = unsafe { out.part(r * channels, channels) };
            isa.dispatch(Position { x, shape, channels, r, least, y });
        }
    });
}

/// Greatest byte under the window of `[planes, depth, height, width, channels]`; `planes` of the shape
/// counts images. Padding never wins; a window of nothing but padding gives the least byte. `y` holds
/// bytes of the kind of `x`.
///
/// # Panics
/// When a length disagrees with the shape.
pub fn max_pool_i8(
    isa: Isa,
    par: &dyn Parallel,
    shape: &PoolShape,
    channels: usize,
    x: Bytes<'_>,
    y: &mut [u8],
) {
    match x {
        Bytes::U8(x) => run(isa, par, shape, channels, x, 0, y),
        Bytes::I8(x) => {
            // SAFETY: `i8` and `u8` have one layout, in which every pattern is a value.
            let y = unsafe { std::slice::from_raw_parts_mut(y.as_mut_ptr().cast(), y.len()) };
            run(isa, par, shape, channels, x, i8::MIN, y);
        }
    }
}
