//! Convolution over blocked channels with operands rounded to bf16 and sums in `f32`.
//!
//! A task takes a band of output rows. It rounds the inputs that they read to bf16 once, into *lines*
//! of 32 channels (see [`crate::gemm`]), one for each pixel with its padding:
//! `[phase][pair of blocks][row][column]`, a phase being every `stride`-th row and column. So whatever the
//! stride, the inputs of neighbouring outputs are neighbouring lines for every tap, and the micro-kernels of
//! products read them where they are, a table of offsets leading from tap to tap. Outputs run through the
//! whole band at once; what lies in the padding columns between its rows is computed and dropped.
//!
//! A first layer of up to four channels reads planes: they become pixels of four numbers, of which
//! eight, the taps of a row of the window, are a line. Lines of neighbouring outputs overlap.
//!
//! The order of a sum follows from the weights alone: blocks of channels, then taps, then channels.

use super::{ConvEpilogue, ConvShape};
use crate::blocked::lanes;
use crate::elementwise::{Unary, apply};
use crate::gemm::Aligned;
use crate::gemm::round_pair;
use crate::gemm::units::{self, Dot, LINE, LINE_UNITS, Panel, pack_panels, panels_len};
use crate::parallel::{Parallel, Shared, Slots};
use crate::simd::{Kernel, Simd};
use crate::{Isa, Level};
use half::bf16;
use std::ops::Range;

/// Bytes of lines that a task rounds at a time, if one row of outputs does not need more.
const BAND_BYTES: usize = 512 << 10;
/// Multiply-adds below which a task is not worth handing out.
const TASK_MACS: usize = 1 << 21;
/// Tasks for each of several threads, so that they end together.
const TASKS_EACH: usize = 6;
/// Channels of a line, and of a pixel of planes.
const CHANNELS: usize = 32;
const PIXEL: usize = 4;
/// Taps of a line of planes.
const TAPS: usize = CHANNELS / PIXEL;
/// Outputs below which a band is not cut further.
const FEW: usize = 128;
/// Lines beyond the last that tiles may read.
const SLACK: usize = 2 * LINE_UNITS;

/// Weights of a convolution in bf16, packed once for a level that multiplies bf16.
#[derive(Clone)]
pub struct Bf16Weights {
    data: Aligned,
    level: Level,
    planes: bool,
    in_channels: usize,
    out_channels: usize,
    kernel: [usize; 3],
}

/// The instruction for a convolution of these sizes, if there is one; `planes` says that the input is not
/// blocked.
fn dot(isa: Isa, shape: &ConvShape, planes: bool) -> Option<Dot> {
    let flat = shape.input[0] == 1 && shape.kernel[0] == 1 && shape.groups == 1;
    let pads = shape.pad_begin[0] == 0 && shape.pad_end[0] == 0;
    let window = !shape.kernel.contains(&0) && shape.stride[1..].iter().all(|&s| s <= 2);
    if !flat || !pads || !window || shape.in_channels == 0 {
        return None;
    }
    match isa.level() {
        #[cfg(target_arch = "x86_64")]
        Level::Amx => {
            let pixels = shape.in_channels <= PIXEL && shape.kernel[2] <= TAPS;
            (!planes || pixels && shape.dilation[2] == 1).then_some(Dot::AmxBf16)
        }
        #[cfg(target_arch = "x86_64")]
        Level::Avx512Bf16 => (!planes).then_some(Dot::Avx512Bf16),
        _ => None,
    }
}

/// Whether [`conv_bf16`] takes a convolution of these sizes at this level; `planes` says that the input is
/// not blocked.
pub fn conv_bf16_takes(isa: Isa, shape: &ConvShape, planes: bool) -> bool {
    dot(isa, shape, planes).is_some()
}

impl Bf16Weights {
    /// Packs `w`, `[out_channels, in_channels, height, width]`; batch and image size of `shape` do not
    /// matter.
    ///
    /// # Panics
    /// When `w` has another length, or [`conv_bf16_takes`] says no.
    pub fn new(
        isa: Isa,
        par: &dyn Parallel,
        shape: &ConvShape,
        planes: bool,
        w: &[bf16],
    ) -> Bf16Weights {
        shape.check();
        assert_eq!(w.len(), shape.weights_len(), "conv: weights length against {shape:?}");
        let dot = dot(isa, shape, planes);
        let dot = dot.unwrap_or_else(|| panic!("conv: no products of bf16 for {shape:?}"));
        let (taps, channels) = (shape.taps(), shape.in_channels);
        let geometry = Geometry::new(shape, planes);
        let [_, _, kw] = shape.kernel;
        let data =
            pack_panels(isa, par, dot, geometry.lines * CHANNELS, shape.out_channels, |k, j| {
                let (line, term) = (k / CHANNELS, k % CHANNELS);
                let (channel, tap) = match planes {
                    true if term / PIXEL < kw => (term % PIXEL, line * kw + term / PIXEL),
                    true => (channels, 0),
                    // A unit has a channel of each block.
                    false => {
                        let channel = term % 2 * (CHANNELS / 2) + term / 2;
                        (line / taps * CHANNELS + channel, line % taps)
                    }
                };
                match channel < channels {
                    true => u32::from(w[(j * channels + channel) * taps + tap].to_bits()),
                    false => 0,
                }
            });
        Bf16Weights {
            data,
            level: isa.level(),
            planes,
            in_channels: channels,
            out_channels: shape.out_channels,
            kernel: shape.kernel,
        }
    }
}

impl std::fmt::Debug for Bf16Weights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bf16Weights")
            .field("level", &self.level)
            .field("in_channels", &self.in_channels)
            .field("out_channels", &self.out_channels)
            .field("kernel", &self.kernel)
            .finish_non_exhaustive()
    }
}

/// How the inputs of a band lie in scratch.
#[derive(Copy, Clone)]
struct Geometry {
    planes: bool,
    /// Phases along height and width.
    phases: [usize; 2],
    /// Pairs of blocks of channels.
    pairs: usize,
    /// Lines that an output multiplies.
    lines: usize,
    /// Rows of a phase that one output row reads beyond its first.
    more: usize,
    /// Bytes of a row of a phase, and between inputs of neighbouring outputs.
    row: usize,
    step: usize,
    /// Outputs of a row, those to be dropped included.
    columns: usize,
}

impl Geometry {
    fn new(shape: &ConvShape, planes: bool) -> Geometry {
        let ([_, kh, kw], [_, dh, dw]) = (shape.kernel, shape.dilation);
        let [_, sh, sw] = shape.stride;
        let width = shape.input[2] + shape.pad_begin[2] + shape.pad_end[2];
        if planes {
            // Whole vectors of pixels are written, and a line is read at the last.
            let row = (width + TAPS).next_multiple_of(16) * PIXEL * 2;
            return Geometry {
                planes,
                phases: [1, 1],
                pairs: 1,
                lines: kh,
                more: (kh - 1) * dh,
                row,
                step: sw * PIXEL * 2,
                columns: shape.output()[2],
            };
        }
        let pairs = shape.in_channels.div_ceil(CHANNELS);
        let columns = width.div_ceil(sw);
        Geometry {
            planes,
            phases: [sh.min((kh - 1) * dh + 1), sw.min((kw - 1) * dw + 1)],
            pairs,
            lines: pairs * kh * kw,
            more: (kh - 1) * dh / sh,
            row: columns * LINE,
            step: LINE,
            columns,
        }
    }

    /// Rows of a phase that `rows` outputs read.
    fn rows(&self, shape: &ConvShape, rows: usize) -> usize {
        match self.planes {
            true => (rows - 1) * shape.stride[1] + 1 + self.more,
            false => rows + self.more,
        }
    }

    /// Bytes of the inputs of `rows` outputs.
    fn bytes(&self, shape: &ConvShape, rows: usize) -> usize {
        let phases = self.phases[0] * self.phases[1];
        phases * self.pairs * self.rows(shape, rows) * self.row + SLACK * LINE
    }

    /// Rows of outputs of a task, at most.
    fn band(&self, shape: &ConvShape, rows: usize) -> usize {
        let (one, two) = (self.bytes(shape, 1), self.bytes(shape, 2));
        let more = BAND_BYTES.saturating_sub(one) / (two - one).max(1);
        (1 + more).min(rows)
    }
}

/// Floats of scratch that [`conv_bf16`] needs for this image when run by `par`.
pub fn conv_bf16_scratch(isa: Isa, par: &dyn Parallel, shape: &ConvShape, planes: bool) -> usize {
    let [_, rows, columns] = shape.output();
    match dot(isa, shape, planes) {
        Some(dot) if rows > 0 && columns > 0 => {
            let geometry = Geometry::new(shape, planes);
            let bytes = geometry.bytes(shape, geometry.band(shape, rows));
            table(&geometry) + Slots::count(par) * (bytes / 4 + sums(isa, dot)) + LINE / 4
        }
        _ => 0,
    }
}

/// An upper bound of [`conv_bf16_scratch`] for images of any size: so many floats, and so many for each
/// column of the padded input.
pub fn conv_bf16_scratch_bound(
    isa: Isa,
    par: &dyn Parallel,
    shape: &ConvShape,
    planes: bool,
) -> (usize, usize) {
    let Some(dot) = dot(isa, shape, planes) else { return (0, 0) };
    let narrow = ConvShape { input: [1; 3], pad_begin: [0; 3], pad_end: [0; 3], ..*shape };
    let geometry = Geometry::new(&narrow, planes);
    // A row of outputs has as many bytes a column as a phase has, and some columns more.
    let phases = geometry.phases[0] * geometry.phases[1] * geometry.pairs;
    let rows = geometry.rows(shape, 1);
    let column = if planes { PIXEL * 2 } else { LINE };
    let fixed = BAND_BYTES + SLACK * LINE + phases * rows * (16 + TAPS) * column;
    let slots = Slots::count(par);
    let fixed = table(&geometry) + slots * (fixed / 4 + sums(isa, dot)) + LINE / 4;
    (fixed, slots * (phases * rows * column / 4))
}

/// Floats of the table of offsets.
fn table(geometry: &Geometry) -> usize {
    let word = size_of::<usize>() / size_of::<f32>();
    (word * geometry.lines).next_multiple_of(LINE / 4)
}

/// Floats of the sums of a task.
fn sums(isa: Isa, dot: Dot) -> usize {
    let (mr, nr) = dot.tile(isa);
    units::sums(mr, nr)
}

/// `y = activation(x * w + bias + residual)`, `x` and `w` rounded to bf16; `y` and the residual have
/// blocked channels, `x` too unless the weights were packed for planes.
///
/// # Panics
/// When a length disagrees with `shape`, the scratch is shorter than [`conv_bf16_scratch`] says, or the
/// weights were packed for another shape or level.
#[expect(clippy::too_many_arguments, reason = "an input, weights, an output and how to run")]
pub fn conv_bf16(
    isa: Isa,
    par: &dyn Parallel,
    shape: &ConvShape,
    x: &[f32],
    weights: &Bf16Weights,
    epilogue: &ConvEpilogue<'_>,
    y: &mut [f32],
    scratch: &mut [f32],
) {
    shape.check();
    let lanes = lanes(isa);
    let planes = weights.planes;
    let packed = (weights.level, weights.in_channels, weights.out_channels, weights.kernel);
    let wanted = (isa.level(), shape.in_channels, shape.out_channels, shape.kernel);
    assert!(packed == wanted, "conv: weights were packed for {packed:?}, used as {wanted:?}");
    let dot = dot(isa, shape, planes);
    let dot = dot.unwrap_or_else(|| panic!("conv: no products of bf16 for {shape:?}"));
    let plane_in: usize = shape.input.iter().product();
    let [_, rows, columns] = shape.output();
    let in_channels = match planes {
        true => shape.in_channels,
        false => shape.in_channels.next_multiple_of(lanes),
    };
    let blocks = shape.out_channels.div_ceil(lanes);
    assert_eq!(x.len(), shape.batch * in_channels * plane_in, "conv: input against {shape:?}");
    let len = shape.batch * blocks * lanes * rows * columns;
    assert_eq!(y.len(), len, "conv: output against {shape:?}");
    if let Some(b) = epilogue.bias {
        assert_eq!(b.len(), shape.out_channels, "conv: bias length against output channels");
    }
    if let Some(r) = epilogue.residual {
        assert_eq!(r.len(), len, "conv: residual length against output length");
    }
    if y.is_empty() {
        return;
    }
    let need = conv_bf16_scratch(isa, par, shape, planes);
    assert!(scratch.len() >= need, "conv: scratch holds {} floats, needs {need}", scratch.len());
    let geometry = Geometry::new(shape, planes);
    let units = dot.units(geometry.lines * CHANNELS);
    debug_assert_eq!(units, geometry.lines * LINE_UNITS, "lines are whole");
    assert!(
        weights.data.as_slice().len()
            >= panels_len(isa, dot, geometry.lines * CHANNELS, shape.out_channels),
        "conv: weights are shorter than their panels"
    );
    // Bands of rows and ranges of panels. How they are cut does not change a result.
    let most = geometry.band(shape, rows);
    let panels = shape.out_channels.div_ceil(2 * lanes);
    let macs = shape.output_len().saturating_mul(shape.terms());
    let want = match par.threads() {
        1 => 1,
        threads => (macs / TASK_MACS).clamp(1, TASKS_EACH * threads),
    };
    let (mut band, mut some) = (most, panels);
    let count =
        |band: usize, some: usize| shape.batch * rows.div_ceil(band) * panels.div_ceil(some);
    while count(band, some) < want {
        // Whichever is read again by more tasks should be the smaller.
        let heavy = 4 * weights.data.as_slice().len() > geometry.bytes(shape, band);
        let narrow = band * columns <= 2 * FEW;
        if some > 1 && (heavy || narrow) {
            some = some.div_ceil(2);
        } else if band > 1 && !narrow {
            band = band.div_ceil(2);
        } else {
            break;
        }
    }
    let bands = rows.div_ceil(band);
    band = rows.div_ceil(bands);
    let at = scratch.as_ptr().align_offset(LINE).min(LINE / 4);
    let (offsets, rest) = scratch[at..].split_at_mut(table(&geometry));
    let offsets = Shared::new(offsets).ptr().cast::<usize>();
    let band_rows = geometry.rows(shape, band);
    for line in 0..geometry.lines {
        // SAFETY: this part of the scratch begins at a line of the cache and has a word for each.
        unsafe { offsets.add(line).write(offset(shape, &geometry, band_rows, line)) };
    }
    let bytes = geometry.bytes(shape, band);
    let slots = Slots::new(par, rest, bytes / 4 + sums(isa, dot));
    let (lo, hi, activation) = match epilogue.activation {
        None => (f32::NEG_INFINITY, f32::INFINITY, None),
        Some(Unary::Relu) => (0.0, f32::INFINITY, None),
        Some(Unary::Clip { lo, hi }) => (lo, hi, None),
        other => (f32::NEG_INFINITY, f32::INFINITY, other),
    };
    let job = Job {
        isa,
        dot,
        shape,
        geometry,
        offsets: Shared::of(offsets),
        band_rows,
        in_channels,
        blocks,
        x,
        w: weights.data.as_slice(),
        y: Shared::new(y),
        bias: epilogue.bias,
        residual: epilogue.residual,
        lo,
        hi,
        activation,
    };
    let across = shape.batch * bands;
    let body = |task: usize| {
        let (part, from) = (task % across, task / across * some);
        let (image, first) = (part / bands, part % bands * band);
        let rows = first..rows.min(first + band);
        slots.with(|floats| {
            let (lines, sums) = floats.split_at_mut(bytes / 4);
            let (lines, sums) = (Shared::new(lines).ptr().cast(), Shared::new(sums).ptr().cast());
            // SAFETY: the scratch has room for the inputs of a band and the sums of a block of outputs;
            // tasks own different rows or channels of the result.
            unsafe { job.run(image, rows, from..panels.min(from + some), lines, sums) };
        });
    };
    match count(band, some) {
        1 => body(0),
        tasks => par.run(tasks, &body),
    }
}

/// Where line `line` of the first output is.
fn offset(shape: &ConvShape, geometry: &Geometry, band_rows: usize, line: usize) -> usize {
    let ([_, kh, kw], [_, dh, dw], [_, sh, sw]) = (shape.kernel, shape.dilation, shape.stride);
    if geometry.planes {
        return line * dh * geometry.row;
    }
    let (pair, tap) = (line / (kh * kw), line % (kh * kw));
    let (h, w) = (tap / kw * dh, tap % kw * dw);
    let phase = h % sh * geometry.phases[1] + w % sw;
    ((phase * geometry.pairs + pair) * band_rows + h / sh) * geometry.row + w / sw * LINE
}

struct Job<'a> {
    isa: Isa,
    dot: Dot,
    shape: &'a ConvShape,
    geometry: Geometry,
    offsets: Shared<usize>,
    /// Rows of a phase in a band.
    band_rows: usize,
    /// Channels of the input that memory holds.
    in_channels: usize,
    /// Blocks of output channels.
    blocks: usize,
    x: &'a [f32],
    w: &'a [f32],
    y: Shared<f32>,
    bias: Option<&'a [f32]>,
    residual: Option<&'a [f32]>,
    lo: f32,
    hi: f32,
    activation: Option<Unary>,
}

impl Job<'_> {
    /// Outputs `rows` of an image, of some panels of channels.
    ///
    /// # Safety
    /// `lines` has room for the inputs of a band, `sums` for those of a block of outputs; no other task
    /// writes these outputs.
    unsafe fn run(
        &self,
        image: usize,
        rows: Range<usize>,
        panels: Range<usize>,
        lines: *mut u8,
        sums: *mut i32,
    ) {
        let Geometry { columns, step, row, planes, .. } = self.geometry;
        let (isa, dot) = (self.isa, self.dot);
        isa.dispatch(Round { job: self, image, first: rows.start, rows: rows.len(), to: lines });
        let _tiles = dot.configure(isa);
        let (_, nr) = dot.tile(isa);
        let units = self.geometry.lines * LINE_UNITS;
        // Of planes, each row of outputs has tiles of its own.
        let whole = if planes { columns.next_multiple_of(LINE_UNITS) } else { columns };
        let outputs = match planes {
            true => rows.len() * whole,
            false => (rows.len() - 1) * columns + self.shape.output()[2],
        };
        let at = |p: usize| {
            let from = match planes {
                true => p / whole * self.shape.stride[1] * row + p % whole * step,
                false => p * step,
            };
            lines.cast_const().wrapping_add(from)
        };
        for panel in panels {
            let b = self.w[panel * nr * units..][..nr * units].as_ptr().cast();
            let offsets = self.offsets.ptr().cast_const();
            let kernel = Panel { isa, dot, offsets, a_row: step, b, units, sums };
            let first = rows.start;
            // SAFETY: tiles read the lines of a band and what follows it in the scratch.
            unsafe {
                kernel.run(
                    outputs,
                    |i| [at(i), at(i + LINE_UNITS)],
                    |i, n, sums| {
                        let (positions, sums) = (i..i + n, sums.cast());
                        let way = Way { job: self, image, first, panel, whole, positions, sums };
                        isa.dispatch(way);
                    },
                );
            }
        }
    }
}

/// Rounds the inputs of `rows` rows of outputs from row `first` on. Whoever makes one proves that `to` has
/// room for them.
struct Round<'a> {
    job: &'a Job<'a>,
    image: usize,
    first: usize,
    rows: usize,
    to: *mut u8,
}

impl Kernel for Round<'_> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        match self.job.geometry.planes {
            true => self.planes(s),
            false => self.blocks(s),
        }
    }
}

impl Round<'_> {
    #[inline(always)]
    fn blocks<S: Simd>(&self, s: S) {
        let Job { shape, geometry, band_rows, in_channels, x, .. } = self.job;
        let [_, height, width] = shape.input;
        let ([_, sh, sw], [_, top, left]) = (shape.stride, shape.pad_begin);
        let image = &x[self.image * in_channels * height * width..];
        let blocks = in_channels / S::LANES;
        let wanted = geometry.rows(shape, self.rows);
        for phase in 0..geometry.phases[0] * geometry.phases[1] {
            let (ph, pw) = (phase / geometry.phases[1], phase % geometry.phases[1]);
            // Columns of the phase that are in the image: `q sw + pw - left` in `0..width`.
            let from = left.saturating_sub(pw).div_ceil(sw).min(geometry.columns);
            let to = (width + left).saturating_sub(pw).div_ceil(sw).clamp(from, geometry.columns);
            for pair in 0..geometry.pairs {
                for r in 0..wanted {
                    let line = (phase * geometry.pairs + pair) * band_rows + r;
                    let line = self.to.wrapping_add(line * geometry.row);
                    let h = ((self.first + r) * sh + ph).wrapping_sub(top);
                    let (from, to) = if h < height { (from, to) } else { (0, 0) };
                    // SAFETY: the row has a line for each column; those of the image are read from blocks
                    // that exist.
                    unsafe {
                        zero_lines(s, line, 0..from);
                        zero_lines(s, line, to..geometry.columns);
                        if from == to {
                            continue;
                        }
                        let source = |block: usize| {
                            let at = (block * height + h) * width + from * sw + pw - left;
                            image.as_ptr().wrapping_add(at * S::LANES)
                        };
                        let channels = |block: usize| {
                            shape.in_channels.saturating_sub(block * S::LANES).min(S::LANES)
                        };
                        let (low, high) = (2 * pair, 2 * pair + 1);
                        let second = if high < blocks { source(high) } else { source(low) };
                        let counts = [channels(low), channels(high)];
                        let to = (line.wrapping_add(from * LINE), to - from);
                        pairs(s, [source(low), second], counts, sw * S::LANES, to);
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn planes<S: Simd>(&self, s: S) {
        let Job { shape, geometry, x, .. } = self.job;
        let [_, height, width] = shape.input;
        let ([_, sh, _], [_, top, left]) = (shape.stride, shape.pad_begin);
        let image = &x[self.image * shape.in_channels * height * width..];
        for r in 0..geometry.rows(shape, self.rows) {
            let row = self.to.wrapping_add(r * geometry.row);
            // SAFETY: the row has whole vectors of pixels; it begins at a line of the cache.
            let row = unsafe {
                std::slice::from_raw_parts_mut(
                    row.cast::<[u16; PIXEL]>(),
                    geometry.row / (2 * PIXEL),
                )
            };
            let h = (self.first * sh + r).wrapping_sub(top);
            let inside = if h < height { width } else { 0 };
            let pixels = left.min(row.len())..(left + inside).min(row.len());
            row[..pixels.start].fill([0; PIXEL]);
            row[pixels.end..].fill([0; PIXEL]);
            for c in 0..PIXEL {
                if c < shape.in_channels && inside > 0 {
                    let plane = &image[(c * height + h) * width..][..width];
                    for (to, &v) in row[pixels.clone()].iter_mut().zip(plane) {
                        to[c] = bf16_bits(v);
                    }
                } else {
                    row[pixels.clone()].iter_mut().for_each(|to| to[c] = 0);
                }
            }
        }
        let end = geometry.rows(shape, self.rows) * geometry.row;
        // SAFETY: the band ends with lines that tiles may read, which hold zeros where a tap is read that
        // has no weight.
        unsafe { zero_lines(s, self.to.wrapping_add(end), 0..SLACK) };
    }
}

/// The nearest bf16, ties to even; a NaN becomes quiet.
#[inline(always)]
fn bf16_bits(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
    let bits = if bits & 0x7fff_ffff > 0x7f80_0000 { bits | 0x0040_0000 } else { rounded };
    (bits >> 16) as u16
}

/// # Safety
/// The range of lines from `p` on is writable.
#[inline(always)]
unsafe fn zero_lines<S: Simd>(s: S, p: *mut u8, range: Range<usize>) {
    for line in range {
        for v in 0..LINE / 4 / S::LANES {
            // SAFETY: a line has `LINE` bytes.
            unsafe { s.store(p.add(line * LINE + 4 * v * S::LANES).cast(), s.zero()) };
        }
    }
}

/// Writes `n` lines of 32 channels of two blocks, of which `counts` channels exist; pixels are `step`
/// floats apart.
///
/// Unit `u` of a line holds channel `u` of the first block and channel `u` of the second.
///
/// # Safety
/// Both sources have `n` pixels, of whole blocks; `n` lines are writable. Vectors have 16 lanes.
#[inline(always)]
unsafe fn pairs<S: Simd>(
    s: S,
    [first, second]: [*const f32; 2],
    counts: [usize; 2],
    step: usize,
    (to, n): (*mut u8, usize),
) {
    debug_assert_eq!(S::LANES, CHANNELS / 2, "levels that multiply bf16 have vectors of 16 floats");
    let whole = counts == [S::LANES; 2];
    for i in 0..n {
        // SAFETY: as the caller promises.
        unsafe {
            let (a, b) = (first.add(i * step), second.add(i * step));
            let (a, b) = match whole {
                true => (s.load(a), s.load(b)),
                false => (s.load_n(a, counts[0]), s.load_n(b, counts[1])),
            };
            s.store_i(to.add(i * LINE).cast(), round_pair(s, a, b));
        }
    }
}

/// Positions of a panel on their way out. Whoever makes one proves that `sums` has `NR` for each and that
/// no other task writes them.
struct Way<'a> {
    job: &'a Job<'a>,
    image: usize,
    first: usize,
    panel: usize,
    /// Positions of a row of outputs, those to be dropped included.
    whole: usize,
    positions: Range<usize>,
    sums: *const f32,
}

impl Kernel for Way<'_> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let Way { job, image, first, panel, whole, positions, sums } = self;
        let [_, height, width] = job.shape.output();
        let (lo, hi) = (s.splat(job.lo), s.splat(job.hi));
        let mut p = positions.start;
        while p < positions.end {
            let (row, column) = (p / whole, p % whole);
            let end = positions.end.min((row + 1) * whole);
            let n = width.min(column + end - p).saturating_sub(column);
            for half in 0..2 {
                let block = 2 * panel + half;
                if block >= job.blocks || n == 0 {
                    break;
                }
                let channels = (job.shape.out_channels - block * S::LANES).min(S::LANES);
                let at = ((image * job.blocks + block) * height + first + row) * width + column;
                let at = at * S::LANES;
                // SAFETY: the run of outputs lies in a row of the result; the bias has the channels.
                unsafe {
                    let y = job.y.ptr().add(at);
                    let bias = match job.bias {
                        Some(b) => s.load_n(b[block * S::LANES..].as_ptr(), channels),
                        None => s.zero(),
                    };
                    let from = sums.add((p - positions.start) * S::NR + half * S::LANES);
                    for i in 0..n {
                        let mut v = s.add(s.load(from.add(i * S::NR)), bias);
                        if let Some(r) = job.residual {
                            v = s.add(v, s.load(r.as_ptr().add(at + i * S::LANES)));
                        }
                        s.store(y.add(i * S::LANES), s.max(lo, s.min(hi, v)));
                    }
                    if let Some(op) = job.activation {
                        apply(s, op, y, y, n * S::LANES);
                    }
                }
            }
            p = end;
        }
    }
}
