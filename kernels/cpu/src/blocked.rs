//! Blocked channels: the layout of images between convolutions.
//!
//! `[batch, channels, height, width]` becomes `[batch, blocks, height, width, lanes]`, a block being
//! as many channels as a vector has [`lanes`]. So what a convolution multiplies lies together, for
//! its inputs as for its outputs, and neighbouring pixels follow one another. If the channels do not
//! fill the last block, the rest of it holds numbers of no meaning, which no kernel lets into others.

use crate::Isa;
use crate::parallel::{Parallel, Shared, split};
use crate::pool::{Pool, PoolShape};
use crate::simd::{Kernel, Simd};

/// Floats of one task.
const STEP: usize = 1 << 15;

/// Channels of a block: the lanes of a vector at this level.
pub fn lanes(isa: Isa) -> usize {
    struct Lanes;
    impl Kernel for Lanes {
        type Output = usize;
        #[inline(always)]
        fn call<S: Simd>(self, _: S) -> usize {
            S::LANES
        }
    }
    isa.dispatch(Lanes)
}

/// The sizes of an image: `plane` is height times width.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct BlockedShape {
    /// How many images.
    pub batch: usize,
    /// Channels that exist.
    pub channels: usize,
    /// Pixels.
    pub plane: usize,
}

impl BlockedShape {
    fn blocks(&self, lanes: usize) -> usize {
        self.channels.div_ceil(lanes)
    }

    fn check(&self, lanes: usize, plain: Option<usize>, blocked: usize) {
        if let Some(plain) = plain {
            assert_eq!(plain, self.batch * self.channels * self.plane, "plain length: {self:?}");
        }
        let want = self.batch * self.blocks(lanes) * lanes * self.plane;
        assert_eq!(blocked, want, "blocked length against {self:?}");
    }

    /// Pixels of a task that moves blocks.
    fn step(&self, lanes: usize) -> usize {
        (STEP / lanes).next_multiple_of(lanes)
    }
}

/// Blocks the channels of `x`, `[batch, channels, plane]`; the rest of the last block is zero.
///
/// # Panics
/// When a length disagrees with `shape`.
pub fn to_blocked(isa: Isa, par: &dyn Parallel, shape: &BlockedShape, x: &[f32], y: &mut [f32]) {
    let lanes = lanes(isa);
    shape.check(lanes, Some(x.len()), y.len());
    let y = Shared::new(y);
    each_block(par, shape, lanes, &|image, block, from, n| {
        let first = block * lanes;
        let channels = lanes.min(shape.channels - first);
        let x = &x[(image * shape.channels + first) * shape.plane..][..channels * shape.plane];
        // SAFETY: each task has blocks of pixels of its own.
        let y = unsafe {
            y.part(((image * shape.blocks(lanes) + block) * shape.plane + from) * lanes, n * lanes)
        };
        isa.dispatch(Interleave { x, plane: shape.plane, from, channels, y });
    });
}

/// The channels of blocked `x` as `[batch, channels, plane]`.
///
/// # Panics
/// When a length disagrees with `shape`.
pub fn from_blocked(isa: Isa, par: &dyn Parallel, shape: &BlockedShape, x: &[f32], y: &mut [f32]) {
    let lanes = lanes(isa);
    shape.check(lanes, Some(y.len()), x.len());
    let y = Shared::new(y);
    each_block(par, shape, lanes, &|image, block, from, n| {
        let first = block * lanes;
        let channels = lanes.min(shape.channels - first);
        let at = (image * shape.blocks(lanes) + block) * shape.plane + from;
        isa.dispatch(Separate {
            x: &x[at * lanes..][..n * lanes],
            y: y.ptr().wrapping_add((image * shape.channels + first) * shape.plane + from),
            plane: shape.plane,
            channels,
        });
    });
}

/// Runs `body(image, block, first pixel, pixels)` for parts of all blocks.
fn each_block(
    par: &dyn Parallel,
    shape: &BlockedShape,
    lanes: usize,
    body: &(dyn Fn(usize, usize, usize, usize) + Sync),
) {
    let step = shape.step(lanes).min(shape.plane.max(1));
    let parts = shape.plane.div_ceil(step);
    let blocks = shape.batch * shape.blocks(lanes);
    let together = (STEP / (step * lanes)).max(1);
    split(par, blocks * parts, together, &|first, count| {
        for task in first..first + count {
            let (item, from) = (task / parts, task % parts * step);
            let (image, block) = (item / shape.blocks(lanes), item % shape.blocks(lanes));
            body(image, block, from, step.min(shape.plane - from));
        }
    });
}

/// Pixels of up to a block of planes, one after the other.
struct Interleave<'a> {
    x: &'a [f32],
    plane: usize,
    from: usize,
    channels: usize,
    y: &'a mut [f32],
}

impl Kernel for Interleave<'_> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let n = self.y.len() / S::LANES;
        let mut p = 0;
        while p + S::LANES <= n && self.channels == S::LANES {
            // SAFETY: each plane has `LANES` pixels from `from + p` on, and so has the result.
            unsafe {
                let at = |c: usize| self.x.as_ptr().add(c * self.plane + self.from + p);
                let rows = s.transpose(at);
                for (i, row) in rows.iter().take(S::LANES).enumerate() {
                    s.store(self.y.as_mut_ptr().add((p + i) * S::LANES), *row);
                }
            }
            p += S::LANES;
        }
        for (i, pixel) in self.y.chunks_exact_mut(S::LANES).enumerate().skip(p) {
            for (c, value) in pixel.iter_mut().enumerate() {
                *value = match c < self.channels {
                    true => self.x[c * self.plane + self.from + i],
                    false => 0.0,
                };
            }
        }
    }
}

/// Pixels of a block as up to `LANES` planes.
struct Separate<'a> {
    x: &'a [f32],
    y: *mut f32,
    plane: usize,
    channels: usize,
}

impl Kernel for Separate<'_> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let n = self.x.len() / S::LANES;
        let mut p = 0;
        while p + S::LANES <= n {
            // SAFETY: the block has `LANES` pixels from `p` on, and so have the planes of the result,
            // of which this task owns these pixels.
            unsafe {
                let rows = s.transpose(|i| self.x.as_ptr().add((p + i) * S::LANES));
                for (c, row) in rows.iter().take(self.channels.min(S::LANES)).enumerate() {
                    s.store(self.y.add(c * self.plane + p), *row);
                }
            }
            p += S::LANES;
        }
        for p in p..n {
            for c in 0..self.channels {
                // SAFETY: as above.
                unsafe { *self.y.add(c * self.plane + p) = self.x[p * S::LANES + c] };
            }
        }
    }
}

/// Pools every window of blocked `x`; `shape.planes` counts batch times blocks, depth is 1.
///
/// # Panics
/// When a length disagrees with `shape`, or it has a depth.
pub fn pool_blocked(
    isa: Isa,
    par: &dyn Parallel,
    op: Pool,
    shape: &PoolShape,
    x: &[f32],
    y: &mut [f32],
) {
    let lanes = lanes(isa);
    let [_, rows, columns] = shape.output;
    let plane_in = shape.input.iter().product::<usize>() * lanes;
    assert!(
        shape.input[0] == 1 && shape.kernel[0] == 1 && shape.output[0] == 1,
        "pool: {shape:?} has a depth"
    );
    assert_eq!(x.len(), shape.planes * plane_in, "pool: input length against {shape:?}");
    assert_eq!(
        y.len(),
        shape.planes * rows * columns * lanes,
        "pool: output length against {shape:?}"
    );
    let line = columns * lanes;
    let y = Shared::new(y);
    let work = line * shape.kernel.iter().product::<usize>();
    split(par, shape.planes * rows, STEP.div_ceil(work.max(1)), &|first, count| {
        for at in first..first + count {
            let (plane, row) = (at / rows, at % rows);
            // SAFETY: each task has rows of its own.
            let y = unsafe { y.part(at * line, line) };
            let x = &x[plane * plane_in..][..plane_in];
            isa.dispatch(PoolRow { op, shape, x, row, y });
        }
    });
}

/// One row of one block.
struct PoolRow<'a> {
    op: Pool,
    shape: &'a PoolShape,
    x: &'a [f32],
    row: usize,
    y: &'a mut [f32],
}

impl Kernel for PoolRow<'_> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let PoolRow { op, shape, x, row, y } = self;
        let [_, height, width] = shape.input;
        // Taps in the input, and taps in the input or its padding.
        let taps = |d: usize, at: usize, size: usize| {
            let (top, pad, step) = (at * shape.stride[d], shape.pad_begin[d], shape.dilation[d]);
            let first = pad.saturating_sub(top).div_ceil(step).min(shape.kernel[d]);
            let upto = |n: usize| n.saturating_sub(top).div_ceil(step).min(shape.kernel[d]);
            (first..upto(size + pad).max(first), upto(size + pad + shape.pad_end[d]))
        };
        let (down, all_down) = taps(1, row, height);
        for (column, y) in y.chunks_exact_mut(S::LANES).enumerate() {
            let (across, all_across) = taps(2, column, width);
            let start = |d: usize, at: usize, k: usize| {
                (at * shape.stride[d] + k * shape.dilation[d]).wrapping_sub(shape.pad_begin[d])
            };
            let mut acc = match op {
                Pool::Max => s.splat(f32::NEG_INFINITY),
                Pool::Average { .. } => s.zero(),
            };
            for ky in down.clone() {
                for kx in across.clone() {
                    let at = start(1, row, ky) * width + start(2, column, kx);
                    let pixel = &x[at * S::LANES..][..S::LANES];
                    // SAFETY: a pixel has `LANES` floats.
                    let v = unsafe { s.load(pixel.as_ptr()) };
                    acc = match op {
                        Pool::Max => s.max_nan(acc, v),
                        Pool::Average { .. } => s.add(acc, v),
                    };
                }
            }
            if let Pool::Average { count_padding } = op {
                let count = match count_padding {
                    true => all_down * all_across,
                    false => down.len() * across.len(),
                };
                // A mean of nothing is 0.
                acc = s.div(acc, s.splat(count.max(1) as f32));
            }
            // SAFETY: as above.
            unsafe { s.store(y.as_mut_ptr(), acc) };
        }
    }
}

/// The mean of every plane of blocked `x`, as `[batch, channels]`.
///
/// # Panics
/// When a length disagrees with `shape`.
pub fn mean_blocked(isa: Isa, par: &dyn Parallel, shape: &BlockedShape, x: &[f32], y: &mut [f32]) {
    let lanes = lanes(isa);
    shape.check(lanes, None, x.len());
    assert_eq!(y.len(), shape.batch * shape.channels, "means against {shape:?}");
    let (y, blocks) = (Shared::new(y), shape.blocks(lanes));
    let each = shape.plane * lanes;
    split(par, shape.batch * blocks, STEP.div_ceil(each.max(1)), &|first, count| {
        for item in first..first + count {
            let (image, block) = (item / blocks, item % blocks);
            let n = lanes.min(shape.channels - block * lanes);
            // SAFETY: each task has blocks of its own.
            let y = unsafe { y.part(image * shape.channels + block * lanes, n) };
            isa.dispatch(Mean { x: &x[item * each..][..each], y });
        }
    });
}

struct Mean<'a> {
    x: &'a [f32],
    y: &'a mut [f32],
}

impl Kernel for Mean<'_> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        // Four sums side by side; pixel `p` is in sum `p % 4`.
        let mut acc = [s.zero(); 4];
        let mut four = self.x.chunks_exact(4 * S::LANES);
        for pixels in &mut four {
            for (v, acc) in acc.iter_mut().enumerate() {
                // SAFETY: the piece has four pixels.
                *acc = s.add(*acc, unsafe { s.load(pixels.as_ptr().add(v * S::LANES)) });
            }
        }
        for (pixel, acc) in four.remainder().chunks_exact(S::LANES).zip(&mut acc) {
            // SAFETY: a pixel has `LANES` floats.
            *acc = s.add(*acc, unsafe { s.load(pixel.as_ptr()) });
        }
        let sum = s.add(s.add(acc[0], acc[1]), s.add(acc[2], acc[3]));
        let mean = s.div(sum, s.splat((self.x.len() / S::LANES) as f32));
        // SAFETY: `y` has at most a block.
        unsafe { s.store_n(self.y.as_mut_ptr(), self.y.len().min(S::LANES), mean) };
    }
}

/// Each channel of blocked `x` times its factor of `scale`, `[batch, channels]`.
///
/// # Panics
/// When a length disagrees with `shape`.
pub fn scale_blocked(
    isa: Isa,
    par: &dyn Parallel,
    shape: &BlockedShape,
    x: Option<&[f32]>,
    scale: &[f32],
    y: &mut [f32],
) {
    let lanes = lanes(isa);
    shape.check(lanes, None, y.len());
    if let Some(x) = x {
        shape.check(lanes, None, x.len());
    }
    assert_eq!(scale.len(), shape.batch * shape.channels, "factors against {shape:?}");
    let blocks = shape.blocks(lanes);
    let y = Shared::new(y);
    each_block(par, shape, lanes, &|image, block, from, n| {
        let at = ((image * blocks + block) * shape.plane + from) * lanes;
        // SAFETY: each task has blocks of pixels of its own.
        let y = unsafe { y.part(at, n * lanes) };
        let channels = lanes.min(shape.channels - block * lanes);
        let scale = &scale[image * shape.channels + block * lanes..][..channels];
        isa.dispatch(Scale { x: x.map(|x| &x[at..][..n * lanes]), scale, y });
    });
}

/// `y = x scale`, or `y *= scale`.
struct Scale<'a> {
    x: Option<&'a [f32]>,
    scale: &'a [f32],
    y: &'a mut [f32],
}

impl Kernel for Scale<'_> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let from = self.x.map_or(self.y.as_ptr(), <[f32]>::as_ptr);
        // SAFETY: there is at most a block of factors; pixels have `LANES` floats, and `x`, if it is
        // not `y` itself, has as many as `y`.
        unsafe {
            let scale = s.load_n(self.scale.as_ptr(), self.scale.len().min(S::LANES));
            let to = self.y.as_mut_ptr();
            for p in 0..self.y.len() / S::LANES {
                s.store(to.add(p * S::LANES), s.mul(s.load(from.add(p * S::LANES)), scale));
            }
        }
    }
}

/// Repeats every pixel of `planes` blocks of `[height, width]` `times` along both axes.
///
/// # Panics
/// When a length disagrees with the sizes.
pub fn repeat_blocked(
    isa: Isa,
    par: &dyn Parallel,
    planes: usize,
    [height, width]: [usize; 2],
    times: [usize; 2],
    x: &[f32],
    y: &mut [f32],
) {
    let lanes = lanes(isa);
    let (row, wide) = (width * lanes, width * times[1] * lanes);
    assert_eq!(x.len(), planes * height * row, "repeat: input of {planes} {height} x {width}");
    assert_eq!(y.len(), planes * height * times[0] * wide, "repeat: output, {times:?} times");
    let y = Shared::new(y);
    let each = times[0] * wide;
    split(par, planes * height, STEP.div_ceil(each.max(1)), &|first, count| {
        for at in first..first + count {
            // SAFETY: each task has rows of its own.
            let y = unsafe { y.part(at * each, each) };
            let (top, others) = y.split_at_mut(wide);
            let x = x[at * row..][..row].chunks_exact(lanes);
            for (pixel, to) in x.zip(top.chunks_exact_mut(times[1] * lanes)) {
                to.chunks_exact_mut(lanes).for_each(|to| to.copy_from_slice(pixel));
            }
            others.chunks_exact_mut(wide.max(1)).for_each(|to| to.copy_from_slice(top));
        }
    });
}
