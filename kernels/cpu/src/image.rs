//! Images of bytes: resampling with the bits of a named library, and pixels to planes of floats.
//!
//! An image is `[height, width, channels]` with one to four channels. What a resampled coordinate reads, and with
//! which fixed-point weights, comes in [`Taps`]; how sums are rounded is [`Order`]. Work is cut into bands of rows of
//! the result. Arithmetic is in integers, so every level gives the same bits.

use crate::Isa;
use crate::parallel::{Parallel, Shared, split};
use crate::simd::{Kernel, Simd};

/// Rows of a band: enough to use a resampled row more than once.
const BAND: usize = 16;

/// Pixels that go through both passes together, so that what lies between them stays in the first cache.
const CHUNK: usize = 256;

/// Most channels of an image.
pub const MAX_CHANNELS: usize = 4;

/// Coordinates that each coordinate of a resampled axis reads, and their weights.
#[derive(Copy, Clone)]
pub struct Taps<'a> {
    /// Coordinates read for each.
    pub taps: usize,
    /// `index[o · taps + t]`: tap `t` of coordinate `o`.
    pub index: &'a [u32],
    /// As `index`.
    pub weight: &'a [i32],
}

impl<'a> Taps<'a> {
    fn of(self, o: usize) -> (&'a [u32], &'a [i32]) {
        let at = o * self.taps;
        (&self.index[at..at + self.taps], &self.weight[at..at + self.taps])
    }

    fn check(self, from: usize, to: usize) {
        let n = to * self.taps;
        assert!(
            self.index.len() == n && self.weight.len() == n,
            "{} indices and {} weights for {to} coordinates of {} taps",
            self.index.len(),
            self.weight.len(),
            self.taps
        );
        let last = self.index.iter().copied().max().unwrap_or(0) as usize;
        assert!(to == 0 || last < from, "coordinate {last} of an axis of {from}");
    }
}

/// How the sums of both passes become bytes.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Two taps with weights that sum to 2^11; rows meet as `((w0·(a >> 4)) >> 16) + ((w1·(b >> 4)) >> 16)`, of which a
    /// quarter is rounded (OpenCV's linear interpolation of bytes).
    Opencv,
    /// Weights that sum to 2^22; each pass rounds to bytes, the one along rows comes first (Pillow).
    ColumnsFirst,
    /// As `ColumnsFirst`, the pass along columns first.
    RowsFirst,
}

/// A resampled image on a canvas.
#[derive(Copy, Clone, Debug)]
pub struct Canvas {
    /// Height and width of what is written.
    pub size: [usize; 2],
    /// Rows from, to and columns from, to that the image covers.
    pub covered: [usize; 4],
    /// Row and column of the image's top left on the canvas; negative where it is cut.
    pub offset: [i64; 2],
    /// Bytes around the image.
    pub fill: u8,
}

impl Canvas {
    /// Writes a row: `image` gets its covered part and the row of the image.
    fn row(&self, y: usize, c: usize, out: &mut [u8], image: impl FnOnce(&mut [u8], usize)) {
        let [top, bottom, left, right] = self.covered;
        if !(top..bottom).contains(&y) {
            return out.fill(self.fill);
        }
        out[..left * c].fill(self.fill);
        out[right * c..].fill(self.fill);
        image(&mut out[left * c..right * c], (y as i64 - self.offset[0]) as usize);
    }

    /// First column of the image that is seen.
    fn first_col(&self) -> usize {
        (self.covered[2] as i64 - self.offset[1]) as usize
    }

    fn check(&self, out: &[u8], c: usize, size: [usize; 2]) {
        let [top, bottom, left, right] = self.covered;
        let [h, w] = self.size;
        assert!((1..=MAX_CHANNELS).contains(&c), "{c} channels");
        assert_eq!(out.len(), h * w * c, "bytes of the canvas");
        assert!(top <= bottom && bottom <= h && left <= right && right <= w, "{self:?}");
        let inside = |from: usize, to: usize, offset: i64, n: usize| {
            from == to || (from as i64 >= offset && to as i64 - offset <= n as i64)
        };
        assert!(
            inside(top, bottom, self.offset[0], size[0])
                && inside(left, right, self.offset[1], size[1]),
            "{self:?} of an image of {size:?}"
        );
    }
}

/// Places the image `x` of `size` and `c` channels on a canvas as it is.
pub fn place(
    par: &dyn Parallel,
    x: &[u8],
    size: [usize; 2],
    c: usize,
    canvas: &Canvas,
    out: &mut [u8],
) {
    canvas.check(out, c, size);
    assert_eq!(x.len(), size[0] * size[1] * c, "bytes of the image");
    bands(par, canvas, c, out, &|rows, out| {
        for (y, out) in rows.zip(out.chunks_exact_mut(canvas.size[1] * c)) {
            canvas.row(y, c, out, |to, y| {
                let at = (y * size[1] + canvas.first_col()) * c;
                to.copy_from_slice(&x[at..at + to.len()]);
            });
        }
    });
}

/// Places the image `x`, each of whose pixels is the mean of four of `from`, on a canvas.
pub fn halve(
    isa: Isa,
    par: &dyn Parallel,
    x: &[u8],
    from: [usize; 2],
    c: usize,
    canvas: &Canvas,
    out: &mut [u8],
) {
    canvas.check(out, c, from.map(|n| n / 2));
    assert_eq!(x.len(), from[0] * from[1] * c, "bytes of the image");
    bands(par, canvas, c, out, &|rows, out| {
        for (y, out) in rows.zip(out.chunks_exact_mut(canvas.size[1] * c)) {
            canvas.row(y, c, out, |to, y| {
                let row = |i: usize| &x[(2 * y + i) * from[1] * c..][2 * canvas.first_col() * c..];
                let (upper, lower) = (&row(0)[..2 * to.len()], &row(1)[..2 * to.len()]);
                match c {
                    1 => isa.dispatch(Halve::<1> { upper, lower, to }),
                    2 => isa.dispatch(Halve::<2> { upper, lower, to }),
                    3 => isa.dispatch(Halve::<3> { upper, lower, to }),
                    _ => isa.dispatch(Halve::<4> { upper, lower, to }),
                }
            });
        }
    });
}

struct Halve<'a, const C: usize> {
    upper: &'a [u8],
    lower: &'a [u8],
    to: &'a mut [u8],
}

impl<const C: usize> Kernel for Halve<'_, C> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, _: S) {
        let pairs = self.upper.chunks_exact(2 * C).zip(self.lower.chunks_exact(2 * C));
        for (to, (a, b)) in self.to.chunks_exact_mut(C).zip(pairs) {
            for ch in 0..C {
                let sum = u32::from(a[ch]) + u32::from(a[C + ch]);
                let sum = sum + u32::from(b[ch]) + u32::from(b[C + ch]);
                to[ch] = ((sum + 2) >> 2) as u8;
            }
        }
    }
}

/// Bytes of scratch that [`resample`] needs for an image of `from` pixels of which `seen` are seen after it.
pub const fn resample_scratch(order: Order, from: [usize; 2], seen: [usize; 2], c: usize) -> usize {
    match order {
        Order::Opencv => 0,
        Order::ColumnsFirst => from[0] * seen[1] * c,
        Order::RowsFirst => seen[0] * from[1] * c,
    }
}

/// Resamples the image `x` of `from` pixels with `c` channels and places it on a canvas. `cols` and `rows`
/// are the taps of the whole resampled image; what is not seen is not computed.
#[expect(clippy::too_many_arguments, reason = "an image, two axes, a canvas")]
pub fn resample(
    isa: Isa,
    par: &dyn Parallel,
    order: Order,
    x: &[u8],
    from: [usize; 2],
    c: usize,
    cols: Taps,
    rows: Taps,
    canvas: &Canvas,
    out: &mut [u8],
    scratch: &mut [u8],
) {
    let size = [rows.index.len() / rows.taps.max(1), cols.index.len() / cols.taps.max(1)];
    canvas.check(out, c, size);
    assert_eq!(x.len(), from[0] * from[1] * c, "bytes of the image");
    rows.check(from[0], size[0]);
    cols.check(from[1], size[1]);
    let job = Job { x, from, c, cols, rows, canvas };
    match order {
        Order::Opencv => {
            assert!(cols.taps == 2 && rows.taps == 2, "linear interpolation has two taps");
            bands(par, canvas, c, out, &|band, out| match c {
                1 => isa.dispatch(Linear::<1> { job: &job, band, out }),
                2 => isa.dispatch(Linear::<2> { job: &job, band, out }),
                3 => isa.dispatch(Linear::<3> { job: &job, band, out }),
                _ => isa.dispatch(Linear::<4> { job: &job, band, out }),
            });
        }
        Order::ColumnsFirst => columns_first(isa, par, &job, out, scratch),
        Order::RowsFirst => rows_first(isa, par, &job, out, scratch),
    }
}

struct Job<'a> {
    x: &'a [u8],
    from: [usize; 2],
    c: usize,
    cols: Taps<'a>,
    rows: Taps<'a>,
    canvas: &'a Canvas,
}

/// A band of rows by linear interpolation.
struct Linear<'a, const C: usize> {
    job: &'a Job<'a>,
    band: std::ops::Range<usize>,
    out: &'a mut [u8],
}

impl<const C: usize> Kernel for Linear<'_, C> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, _: S) {
        let Linear { job, band, out } = self;
        let canvas = job.canvas;
        let width = canvas.size[1] * C;
        for (y, out) in band.clone().zip(out.chunks_exact_mut(width)) {
            canvas.row(y, C, out, |_, _| {});
        }
        let [top, bottom, left, right] = canvas.covered;
        let band_rows = band.start.max(top)..band.end.min(bottom);
        let mut buffers = [[0i32; CHUNK * MAX_CHANNELS]; 2];
        for start in (left..right).step_by(CHUNK) {
            let n = CHUNK.min(right - start);
            let first = (start as i64 - canvas.offset[1]) as usize;
            // Rows of the source that the buffers hold.
            let mut held = [usize::MAX; 2];
            for y in band_rows.clone() {
                let (index, weight) = job.rows.of((y as i64 - canvas.offset[0]) as usize);
                let want = [index[0] as usize, index[1] as usize];
                if held[1] == want[0] && held[0] != want[0] {
                    buffers.swap(0, 1);
                    held.swap(0, 1);
                }
                for i in 0..2 {
                    if held[i] != want[i] {
                        let row = &job.x[want[i] * job.from[1] * C..][..job.from[1] * C];
                        across::<C>(row, job.cols, first, &mut buffers[i][..n * C]);
                        held[i] = want[i];
                    }
                }
                let to = &mut out[(y - band.start) * width + start * C..][..n * C];
                let [upper, lower] = &buffers;
                let (w0, w1) = (weight[0], weight[1]);
                for ((to, a), b) in to.iter_mut().zip(&upper[..n * C]).zip(&lower[..n * C]) {
                    let sum = ((w0 * (a >> 4)) >> 16) + ((w1 * (b >> 4)) >> 16);
                    *to = ((sum + 2) >> 2).clamp(0, 255) as u8;
                }
            }
        }
    }
}

/// The weighted sums along a row, from column `first` of the result on.
#[inline(always)]
fn across<const C: usize>(row: &[u8], cols: Taps, first: usize, to: &mut [i32]) {
    let n = to.len() / C;
    let taps = cols.index[2 * first..][..2 * n].chunks_exact(2);
    let weights = cols.weight[2 * first..][..2 * n].chunks_exact(2);
    for ((to, i), w) in to.chunks_exact_mut(C).zip(taps).zip(weights) {
        let (a, b) = (i[0] as usize * C, i[1] as usize * C);
        let (a, b) = (&row[a..a + C], &row[b..b + C]);
        for ch in 0..C {
            to[ch] = i32::from(a[ch]) * w[0] + i32::from(b[ch]) * w[1];
        }
    }
}

/// Both passes with weights of 22 bits, along columns first.
fn rows_first(isa: Isa, par: &dyn Parallel, job: &Job, out: &mut [u8], scratch: &mut [u8]) {
    let (canvas, c) = (job.canvas, job.c);
    let [top, bottom, ..] = canvas.covered;
    let n = job.from[1] * c;
    assert!(scratch.len() >= (bottom - top) * n, "scratch of {} bytes", scratch.len());
    let tall = Shared::new(scratch);
    split(par, bottom - top, BAND, &|start, count| {
        // SAFETY: each task has rows of its own, inside of the scratch by the assertion.
        let tall = unsafe { tall.part(start * n, count * n) };
        for (y, to) in (top + start..).zip(tall.chunks_exact_mut(n)) {
            let (index, weight) = job.rows.of((y as i64 - canvas.offset[0]) as usize);
            isa.dispatch(Down { wide: job.x, from: 0, index, weight, to });
        }
    });
    // SAFETY: all tasks that write have ended; only reads follow.
    let tall: &[u8] = unsafe { tall.part(0, (bottom - top) * n) };
    bands(par, canvas, c, out, &|rows, out| {
        for (y, out) in rows.zip(out.chunks_exact_mut(canvas.size[1] * c)) {
            canvas.row(y, c, out, |to, _| {
                across22(isa, &tall[(y - top) * n..][..n], job.cols, canvas.first_col(), c, to);
            });
        }
    });
}

/// A row with weights of 22 bits, from column `first` of the result on.
fn across22(isa: Isa, row: &[u8], cols: Taps, first: usize, c: usize, to: &mut [u8]) {
    match c {
        1 => isa.dispatch(Across::<1> { row, cols, first, to }),
        2 => isa.dispatch(Across::<2> { row, cols, first, to }),
        3 => isa.dispatch(Across::<3> { row, cols, first, to }),
        _ => isa.dispatch(Across::<4> { row, cols, first, to }),
    }
}

/// Both passes with weights of 22 bits, along rows first.
fn columns_first(isa: Isa, par: &dyn Parallel, job: &Job, out: &mut [u8], scratch: &mut [u8]) {
    let (canvas, c) = (job.canvas, job.c);
    let [top, bottom, left, right] = canvas.covered;
    let n = (right - left) * c;
    let row_of = |y: usize| (y as i64 - canvas.offset[0]) as usize;
    let taps = job.rows.taps;
    // Rows of the source that are seen.
    let seen = &job.rows.index[row_of(top.min(bottom)).min(job.rows.index.len() / taps) * taps..];
    let seen = &seen[..(bottom - top) * taps];
    let from = seen.iter().copied().min().unwrap_or(0) as usize;
    let to = seen.iter().copied().max().map_or(from, |y| y as usize + 1);
    assert!(scratch.len() >= (to - from) * n, "scratch of {} bytes", scratch.len());
    let wide = Shared::new(scratch);
    split(par, to - from, BAND, &|start, count| {
        // SAFETY: each task has rows of its own, inside of the scratch by the assertion.
        let wide = unsafe { wide.part(start * n, count * n) };
        for (y, to) in (from + start..).zip(wide.chunks_exact_mut(n.max(1))) {
            let row = &job.x[y * job.from[1] * c..][..job.from[1] * c];
            across22(isa, row, job.cols, canvas.first_col(), c, to);
        }
    });
    // SAFETY: all tasks that write have ended; only reads follow.
    let wide: &[u8] = unsafe { wide.part(0, (to - from) * n) };
    bands(par, canvas, c, out, &|rows, out| {
        for (y, out) in rows.zip(out.chunks_exact_mut(canvas.size[1] * c)) {
            canvas.row(y, c, out, |to, y| {
                let (index, weight) = job.rows.of(y);
                isa.dispatch(Down { wide, from, index, weight, to });
            });
        }
    });
}

/// Rounds a sum of weighted bytes.
#[inline(always)]
fn round22(sum: i32) -> u8 {
    ((sum + (1 << 21)) >> 22).clamp(0, 255) as u8
}

struct Across<'a, const C: usize> {
    row: &'a [u8],
    cols: Taps<'a>,
    first: usize,
    to: &'a mut [u8],
}

impl<const C: usize> Kernel for Across<'_, C> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, _: S) {
        for (o, to) in self.to.chunks_exact_mut(C).enumerate() {
            let (index, weight) = self.cols.of(self.first + o);
            let mut sum = [0i32; C];
            for (&i, &w) in index.iter().zip(weight) {
                let pixel = &self.row[i as usize * C..][..C];
                for ch in 0..C {
                    sum[ch] += w * i32::from(pixel[ch]);
                }
            }
            to.copy_from_slice(&sum.map(round22));
        }
    }
}

struct Down<'a> {
    wide: &'a [u8],
    from: usize,
    index: &'a [u32],
    weight: &'a [i32],
    to: &'a mut [u8],
}

impl Kernel for Down<'_> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, _: S) {
        let n = self.to.len();
        let mut start = 0;
        let mut sums = [0i32; CHUNK];
        for to in self.to.chunks_mut(CHUNK) {
            let sums = &mut sums[..to.len()];
            sums.fill(0);
            for (&i, &w) in self.index.iter().zip(self.weight).filter(|(_, w)| **w != 0) {
                let row = &self.wide[(i as usize - self.from) * n + start..][..sums.len()];
                for (sum, &x) in sums.iter_mut().zip(row) {
                    *sum += w * i32::from(x);
                }
            }
            for (to, &sum) in to.iter_mut().zip(&*sums) {
                *to = round22(sum);
            }
            start += to.len();
        }
    }
}

/// Runs `body` on bands of rows of the canvas and their bytes.
fn bands(
    par: &dyn Parallel,
    canvas: &Canvas,
    c: usize,
    out: &mut [u8],
    body: &(dyn Fn(std::ops::Range<usize>, &mut [u8]) + Sync),
) {
    let width = canvas.size[1] * c;
    let out = Shared::new(out);
    split(par, canvas.size[0], BAND, &|start, n| {
        // SAFETY: each task has rows of its own; `Canvas::check` has compared the length.
        let out = unsafe { out.part(start * width, n * width) };
        body(start..start + n, out);
    });
}

/// Which byte of a pixel a channel of floats is made of.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Channel {
    /// The byte of this number.
    Byte(usize),
    /// `(19595 R + 38470 G + 7471 B + 2^15) >> 16` of the first three.
    Luma,
}

/// Makes floats of `pixels` pixels of `c` bytes: channel `k` is `channels[k]`, looked up in `values[k]`. Channels are planes,
/// or lie together if `channels_last`.
#[expect(clippy::too_many_arguments, reason = "pixels, channels, floats")]
pub fn to_floats(
    isa: Isa,
    par: &dyn Parallel,
    x: &[u8],
    c: usize,
    channels: &[Channel],
    values: &[[f32; 256]],
    channels_last: bool,
    out: &mut [f32],
) {
    let k = channels.len();
    let pixels = x.len() / c;
    assert_eq!(pixels * c, x.len(), "bytes of pixels of {c}");
    assert_eq!(out.len(), pixels * k, "floats of the result");
    assert_eq!(values.len(), k, "tables of values");
    let needs = channels.iter().map(|ch| if let Channel::Byte(i) = ch { i + 1 } else { 3 });
    assert!(needs.max().unwrap_or(0) <= c, "{channels:?} of pixels of {c} bytes");
    let out = Shared::new(out);
    split(par, pixels, 1 << 14, &|start, n| {
        let x = &x[start * c..(start + n) * c];
        for (j, (&channel, values)) in channels.iter().zip(values).enumerate() {
            let (at, step) = match channels_last {
                true => (start * k + j, k),
                false => (j * pixels + start, 1),
            };
            let len = if n == 0 { 0 } else { (n - 1) * step + 1 };
            // SAFETY: the last element written is below `pixels · k`; tasks have pixels of their own, and in a task one
            // channel is written after the other.
            let to = unsafe { out.part(at, len) };
            isa.dispatch(Lookup { x, c, channel, values, to, step });
        }
    });
}

struct Lookup<'a> {
    x: &'a [u8],
    c: usize,
    channel: Channel,
    values: &'a [f32; 256],
    to: &'a mut [f32],
    step: usize,
}

impl Kernel for Lookup<'_> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, _: S) {
        let Lookup { x, c, channel, values, to, step } = self;
        let to = to.iter_mut().step_by(step);
        match channel {
            Channel::Byte(i) if c == 3 => {
                for (to, pixel) in to.zip(x.chunks_exact(3)) {
                    *to = values[usize::from(pixel[i])];
                }
            }
            Channel::Byte(i) => {
                for (to, pixel) in to.zip(x.chunks_exact(c)) {
                    *to = values[usize::from(pixel[i])];
                }
            }
            Channel::Luma => {
                for (to, pixel) in to.zip(x.chunks_exact(c)) {
                    let [r, g, b] = [pixel[0], pixel[1], pixel[2]].map(u32::from);
                    let v = (19595 * r + 38470 * g + 7471 * b + (1 << 15)) >> 16;
                    *to = values[v as usize & 255];
                }
            }
        }
    }
}
