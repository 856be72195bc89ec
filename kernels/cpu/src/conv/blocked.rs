//! Convolution over blocked channels (see [`crate::blocked`]): nothing is gathered, each tile reads
//! its inputs where they are.
//!
//! A tile is a few neighbouring outputs of one row. The taps that lie in the input for all of them
//! are one chain of multiply-adds in registers; a tap that at the edge of the image lies in the
//! padding for some of them is added before that, for the others alone. So the order of an output's
//! sum follows from its place in the image and the sizes of the image, of nothing else. Depthwise, a
//! tile is a row, and each output has its taps in order.

use super::direct::{
    BLOCK, FLOAT, Finish, Row, TWO_BLOCKS, TWO_FLOATS, Tile, positions, run, run_row, run_two,
};
use super::{ConvEpilogue, ConvShape};
use crate::blocked::lanes;
use crate::elementwise::{Unary, apply};
use crate::gemm::{Aligned, Panels, SharedFloats};
use crate::parallel::{Parallel, Shared, split};
use crate::simd::{Kernel, Simd};
use crate::{Isa, Level};
use std::ops::Range;

/// Tasks that a convolution is cut into if it is large enough,
const TASKS: usize = 32;
/// which is when each has this many multiply-adds.
const TASK_MACS: usize = 1 << 20;
/// Floats of the inputs of one task: they stay in the second-level cache while its output channels
/// pass over them.
const TASK_INPUTS: usize = 1 << 17;

/// How a blocked convolution reads its input.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Reads {
    /// Planes without blocks, `[batch, channels, height, width]`: a first layer of few channels.
    Planes,
    /// Blocks of channels.
    Blocks,
    /// Blocks of channels, each its own group.
    Depthwise,
}

impl ConvShape {
    /// Whether [`conv_blocked`] takes a convolution of these sizes; `planes` says that the input is
    /// not blocked.
    pub fn reads_blocked(&self, planes: bool) -> Option<Reads> {
        let flat = self.input[0] == 1 && self.kernel[0] == 1 && self.pad_begin[0] == 0;
        if !flat || self.pad_end[0] != 0 || self.stride[2] > 2 || self.kernel.contains(&0) {
            return None;
        }
        match (self.groups, planes) {
            (1, true) => Some(Reads::Planes),
            (1, false) => Some(Reads::Blocks),
            (g, false) if g == self.in_channels && g == self.out_channels => Some(Reads::Depthwise),
            _ => None,
        }
    }
}

/// Weights of a blocked convolution, packed once for a level.
#[derive(Clone)]
pub struct BlockedWeights {
    data: Panels,
    level: Level,
    reads: Reads,
    in_channels: usize,
    out_channels: usize,
    kernel: [usize; 3],
}

impl BlockedWeights {
    /// Packs `w`, `[out_channels, in_channels / groups, height, width]`; batch and image size of
    /// `shape` do not matter. Two blocks of output channels follow each other as `[plane][tap][term]
    /// [two blocks]`, a last block alone as `[plane][tap][term][block]`.
    ///
    /// # Panics
    /// When `w` has another length, or `shape` is none that is read as `reads`.
    pub fn new(
        isa: Isa,
        par: &dyn Parallel,
        shape: &ConvShape,
        reads: Reads,
        w: &[f32],
    ) -> BlockedWeights {
        let each = per_channel(isa, shape, reads);
        assert_eq!(w.len(), shape.weights_len(), "conv: weights length against {shape:?}");
        let (lanes, taps) = (lanes(isa), shape.taps());
        let depth = shape.in_channels / shape.groups;
        let terms = if reads == Reads::Blocks { lanes } else { 1 };
        let mut data = Aligned::zeroed(shape.out_channels.next_multiple_of(lanes) * each);
        let width = if reads == Reads::Depthwise { lanes } else { 2 * lanes };
        let out = Shared::new(data.as_mut_slice());
        let (len, total) = (width * each, data.as_slice().len());
        split(par, total.div_ceil(len.max(1)), 1, &|panel, _| {
            let start = panel * len;
            // SAFETY: each task has a panel of its own; the last may be narrower.
            let out = unsafe { out.part(start, len.min(total - start)) };
            let width = out.len() / each.max(1);
            let first = panel * len / each.max(1);
            for o in first..(first + width).min(shape.out_channels) {
                let w = &w[o * depth * taps..(o + 1) * depth * taps];
                for (i, w) in w.chunks_exact(taps).enumerate() {
                    let (plane, term) = (i / terms, i % terms);
                    for (t, &w) in w.iter().enumerate() {
                        out[((plane * taps + t) * terms + term) * width + o - first] = w;
                    }
                }
            }
        });
        BlockedWeights::over(isa, shape, reads, Panels::Own(data))
    }

    /// What [`BlockedWeights::floats`] gave for weights of this shape at this level; `None` for another
    /// number of floats.
    ///
    /// # Panics
    /// When `shape` is none that is read as `reads`.
    pub fn shared(isa: Isa, shape: &ConvShape, reads: Reads, data: SharedFloats) -> Option<Self> {
        let each = per_channel(isa, shape, reads);
        let data = Panels::shared(data, shape.out_channels.next_multiple_of(lanes(isa)) * each)?;
        Some(BlockedWeights::over(isa, shape, reads, data))
    }

    fn over(isa: Isa, shape: &ConvShape, reads: Reads, data: Panels) -> Self {
        let ConvShape { in_channels, out_channels, kernel, .. } = *shape;
        BlockedWeights { data, level: isa.level(), reads, in_channels, out_channels, kernel }
    }

    /// The packed weights, in the order of this level.
    pub fn floats(&self) -> &[f32] {
        self.data.as_slice()
    }

    /// How the convolution reads its input.
    pub fn reads(&self) -> Reads {
        self.reads
    }
}

/// Floats of one output channel, missing inputs of the last block included.
///
/// # Panics
/// When `shape` is none that is read as `reads`.
fn per_channel(isa: Isa, shape: &ConvShape, reads: Reads) -> usize {
    shape.check();
    assert_eq!(
        shape.reads_blocked(reads == Reads::Planes),
        Some(reads),
        "conv: {shape:?} is not read as {reads:?}"
    );
    let depth = shape.in_channels / shape.groups;
    match reads {
        Reads::Planes | Reads::Depthwise => depth * shape.taps(),
        Reads::Blocks => depth.next_multiple_of(lanes(isa)) * shape.taps(),
    }
}

impl std::fmt::Debug for BlockedWeights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlockedWeights")
            .field("level", &self.level)
            .field("reads", &self.reads)
            .field("in_channels", &self.in_channels)
            .field("out_channels", &self.out_channels)
            .field("kernel", &self.kernel)
            .finish_non_exhaustive()
    }
}

/// `y = activation(x * w + bias + residual)`, all but the bias blocked; `x` is planes if the weights
/// were packed for that. Channels of the last block that do not exist hold numbers of no meaning.
///
/// # Panics
/// When a length disagrees with `shape`, or the weights were packed for another shape or level.
pub fn conv_blocked(
    isa: Isa,
    par: &dyn Parallel,
    shape: &ConvShape,
    x: &[f32],
    weights: &BlockedWeights,
    epilogue: &ConvEpilogue<'_>,
    y: &mut [f32],
) {
    shape.check();
    let lanes = lanes(isa);
    let reads = weights.reads;
    let packed = (weights.level, weights.in_channels, weights.out_channels, weights.kernel);
    let wanted = (isa.level(), shape.in_channels, shape.out_channels, shape.kernel);
    assert!(packed == wanted, "conv: weights were packed for {packed:?}, used as {wanted:?}");
    assert_eq!(
        shape.reads_blocked(reads == Reads::Planes),
        Some(reads),
        "conv: {shape:?} with weights packed for {reads:?}"
    );
    let in_channels = match reads {
        Reads::Planes => shape.in_channels,
        _ => shape.in_channels.next_multiple_of(lanes),
    };
    let plane_in: usize = shape.input.iter().product();
    let blocks = shape.out_channels.div_ceil(lanes);
    let plane_out: usize = shape.output().iter().product();
    assert_eq!(x.len(), shape.batch * in_channels * plane_in, "conv: input against {shape:?}");
    assert_eq!(y.len(), shape.batch * blocks * lanes * plane_out, "conv: output against {shape:?}");
    if let Some(b) = epilogue.bias {
        assert_eq!(b.len(), shape.out_channels, "conv: bias length against output channels");
    }
    if let Some(r) = epilogue.residual {
        assert_eq!(r.len(), y.len(), "conv: residual length against output length");
    }
    if y.is_empty() {
        return;
    }
    let (lo, hi, activation) = match epilogue.activation {
        None => (f32::NEG_INFINITY, f32::INFINITY, None),
        Some(Unary::Relu) => (0.0, f32::INFINITY, None),
        Some(Unary::Clip { lo, hi }) => (lo, hi, None),
        Some(Unary::HardSwish) => (f32::NEG_INFINITY, f32::INFINITY, None),
        other => (f32::NEG_INFINITY, f32::INFINITY, other),
    };
    let shape = shape.flattened();
    let [_, rows, columns] = shape.output();
    let most = match reads {
        Reads::Depthwise => columns,
        _ => positions(lanes),
    };
    let tiles = columns.div_ceil(most);
    // Of narrow rows, a tile takes two.
    let together = match reads {
        Reads::Blocks if columns <= most / 2 && rows > 1 => 2,
        _ => 1,
    };
    let panels = if reads == Reads::Depthwise { blocks } else { blocks.div_ceil(2) };
    let job = Job {
        shape: &shape,
        reads,
        in_channels,
        blocks,
        rows,
        columns,
        tiles,
        together,
        x,
        w: weights.data.as_slice(),
        y: Shared::new(y),
        epilogue: *epilogue,
        lo,
        hi,
        hard_swish: epilogue.activation == Some(Unary::HardSwish),
        activation,
    };
    let cut = Cut::new(&job, panels);
    split(par, cut.tasks(), 1, &|task, _| {
        let (tiles, panels) = cut.part(task);
        isa.dispatch(Task { job: &job, tiles, panels });
    });
}

/// All tiles times all panels (two blocks of output channels), cut into tasks.
struct Cut {
    tiles: usize,
    panels: usize,
    tile_step: usize,
    panel_step: usize,
}

impl Cut {
    fn new(job: &Job<'_>, panels: usize) -> Cut {
        let tiles = job.shape.batch * job.rows.div_ceil(job.together) * job.tiles;
        let inputs = (job.x.len() / tiles).max(1);
        let macs = job.y_len() / tiles * job.shape.terms();
        let (mut tile_step, mut panel_step) = ((TASK_INPUTS / inputs).clamp(1, tiles), panels);
        let count = |t: usize, p: usize| tiles.div_ceil(t) * panels.div_ceil(p);
        while count(tile_step, panel_step) < TASKS
            && macs * tile_step / panels * panel_step > 2 * TASK_MACS
        {
            let heavy = job.w.len() >= job.x.len() || tile_step == 1;
            if panel_step > 1 && heavy {
                panel_step = panel_step.div_ceil(2);
            } else if tile_step > 1 {
                tile_step = tile_step.div_ceil(2);
            } else {
                break;
            }
        }
        Cut { tiles, panels, tile_step, panel_step }
    }

    fn tasks(&self) -> usize {
        self.tiles.div_ceil(self.tile_step) * self.panels.div_ceil(self.panel_step)
    }

    /// Tiles and panels of a task.
    fn part(&self, task: usize) -> (Range<usize>, Range<usize>) {
        let across = self.tiles.div_ceil(self.tile_step);
        let (t, p) = (task % across * self.tile_step, task / across * self.panel_step);
        (t..(t + self.tile_step).min(self.tiles), p..(p + self.panel_step).min(self.panels))
    }
}

/// A convolution; one of 1 × 1 windows has all positions in one row.
struct Job<'a> {
    shape: &'a ConvShape,
    reads: Reads,
    /// Channels of the input that memory holds.
    in_channels: usize,
    /// Blocks of output channels.
    blocks: usize,
    /// Sizes of the output, and tiles of a row.
    rows: usize,
    columns: usize,
    tiles: usize,
    /// Rows of a tile.
    together: usize,
    x: &'a [f32],
    w: &'a [f32],
    y: Shared<f32>,
    epilogue: ConvEpilogue<'a>,
    lo: f32,
    hi: f32,
    hard_swish: bool,
    /// Where it is none of these.
    activation: Option<Unary>,
}

impl Job<'_> {
    /// Outputs, without those of channels that do not exist.
    fn y_len(&self) -> usize {
        self.shape.batch * self.shape.out_channels * self.rows * self.columns
    }
}

/// Some tiles of some panels.
struct Task<'a> {
    job: &'a Job<'a>,
    tiles: Range<usize>,
    panels: Range<usize>,
}

impl Kernel for Task<'_> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let job = self.job;
        let (least, wider) = (job.columns / job.tiles, job.columns % job.tiles);
        for panel in self.panels.clone() {
            let mut at = self.tiles.start;
            let (mut tile, row) = (at % job.tiles, at / job.tiles);
            let lines = job.rows.div_ceil(job.together);
            let (mut row, mut image) = (row % lines * job.together, row / lines);
            let mut column = tile * least + tile.min(wider);
            while at < self.tiles.end {
                let n = least + usize::from(tile < wider);
                job.tile(s, panel, image, row, column, n);
                (at, tile, column) = (at + 1, tile + 1, column + n);
                if tile == job.tiles {
                    (tile, column, row) = (0, 0, row + job.together);
                    if row >= job.rows {
                        (row, image) = (0, image + 1);
                    }
                }
            }
        }
    }
}

/// Part of a tile: which rows and columns of it, and which taps.
struct Pass {
    /// First row, and how many.
    row: usize,
    rows: usize,
    /// First column of the tile, and how many.
    from: usize,
    n: usize,
    down: Range<usize>,
    across: Range<usize>,
    add: bool,
    last: bool,
}

impl Job<'_> {
    /// Rows of the window that lie in the input for a row of outputs.
    #[inline(always)]
    fn down(&self, row: usize) -> Range<usize> {
        let shape = self.shape;
        let (top, step, taps) = (row * shape.stride[1], shape.dilation[1], shape.kernel[1]);
        let pad = shape.pad_begin[1];
        let first = pad.saturating_sub(top).div_ceil(step).min(taps);
        let end = (shape.input[1] + pad).saturating_sub(top).div_ceil(step).min(taps);
        first..end.max(first)
    }

    /// Outputs `column..column + n` of a row of an image, or of two, for a panel of channels.
    #[inline(always)]
    fn tile<S: Simd>(&self, s: S, panel: usize, image: usize, row: usize, column: usize, n: usize) {
        let shape = self.shape;
        let [_, height, width] = shape.input;
        let [_, kh, kw] = shape.kernel;
        let (step, dilation, pad) = (shape.stride[2], shape.dilation[2], shape.pad_begin[2]);
        let (unit, terms, last_terms) = match self.reads {
            Reads::Planes => (1, 1, 1),
            Reads::Blocks => (S::LANES, S::LANES, (shape.in_channels - 1) % S::LANES + 1),
            Reads::Depthwise => (S::LANES, 1, 1),
        };
        let planes = match self.reads {
            Reads::Planes => shape.in_channels,
            Reads::Blocks => self.in_channels / S::LANES,
            Reads::Depthwise => 1,
        };
        let pair = if self.reads == Reads::Depthwise { 1 } else { 2 };
        let block = panel * pair;
        let vectors = pair.min(self.blocks - block);
        let source = match self.reads {
            Reads::Depthwise => image * self.blocks + block,
            _ => image * self.in_channels / unit,
        };
        // Start of the input row that tap `k` of a row of outputs reads.
        let line = |row: usize, k: usize| {
            let at =
                (row * shape.stride[1] + k * shape.dilation[1]).wrapping_sub(shape.pad_begin[1]);
            (source * height).wrapping_add(at).wrapping_mul(width * unit)
        };
        let w_steps = [
            kh * kw * terms * vectors * S::LANES,
            kw * terms * vectors * S::LANES,
            terms * vectors * S::LANES,
        ];
        // The panels before this one have two blocks each.
        let w = block * S::LANES * planes * kh * kw * terms;
        let plane_out = self.rows * self.columns * S::LANES;
        let y_of = |row: usize| {
            (image * self.blocks + block) * plane_out + (row * self.columns + column) * S::LANES
        };
        let epilogue = &self.epilogue;
        let channel = block * S::LANES;
        let finish = |y: usize| Finish {
            bias: epilogue.bias.map_or(std::ptr::null(), |b| b[channel..].as_ptr()),
            channels: shape.out_channels - channel,
            residual: epilogue.residual.map_or(std::ptr::null(), |r| r[y..].as_ptr()),
            lo: self.lo,
            hi: self.hi,
            hard_swish: self.hard_swish,
        };
        let x_row = shape.dilation[1] * width * unit;
        let pass = |p: Pass| {
            let Pass { row, rows, from, n, down, across: taps, add, last } = p;
            let at = ((column + from) * step + taps.start * dilation).wrapping_sub(pad);
            let x = line(row, down.start).wrapping_add(at.wrapping_mul(unit));
            let y = y_of(row);
            // Taps of a row that follow one another in memory are the products of one tap.
            let joined = self.reads == Reads::Planes && dilation == 1;
            let (terms, last_terms, columns) = match joined {
                true => (taps.len(), taps.len(), 1),
                false => (terms, last_terms, taps.len()),
            };
            let empty = taps.is_empty() || down.is_empty();
            let t = Tile {
                x: self.x.as_ptr().wrapping_add(x),
                x_steps: [height * width * unit, x_row, dilation * unit],
                w: self
                    .w
                    .as_ptr()
                    .wrapping_add(w + down.start * w_steps[1] + taps.start * w_steps[2]),
                w_steps,
                counts: if empty { [0; 3] } else { [planes, down.len(), columns] },
                terms,
                last_terms,
                y: self.y.ptr().wrapping_add(y + from * S::LANES),
                y_step: plane_out,
                second: [shape.stride[1] * width * unit, self.columns * S::LANES],
                add,
                finish: last.then(|| finish(y)),
            };
            // SAFETY: the lengths were checked against the sizes. Rows `down` and columns `taps` of
            // the window lie in the input for outputs `from..from + n` of these rows, so every input
            // that is read exists; there are `vectors` blocks of weights from `w` on; the outputs
            // belong to this task alone, and bias and residual, which start where they do, have
            // their sizes.
            unsafe {
                match (self.reads, step) {
                    (Reads::Blocks, 1) if rows == 2 => run_two(s, n, vectors, BLOCK, t),
                    (Reads::Blocks, _) if rows == 2 => run_two(s, n, vectors, TWO_BLOCKS, t),
                    (Reads::Blocks, 1) => run(s, n, vectors, BLOCK, t),
                    (Reads::Blocks, _) => run(s, n, vectors, TWO_BLOCKS, t),
                    (_, 1) => run(s, n, vectors, FLOAT, t),
                    (_, _) => run(s, n, vectors, TWO_FLOATS, t),
                }
            }
        };
        let rows = self.together.min(self.rows - row);
        let mut down = self.down(row);
        if self.reads == Reads::Depthwise {
            let y = y_of(row);
            let row = Row {
                x: self.x.as_ptr().wrapping_add(line(row, down.start)),
                x_row,
                w: self.w.as_ptr().wrapping_add(w + down.start * w_steps[1]),
                rows: down.len(),
                taps: kw,
                width,
                pad,
                dilation,
                y: self.y.ptr().wrapping_add(y),
                columns: n,
                finish: finish(y),
            };
            // SAFETY: as above; a tile is a row here, and each output reads the taps that lie in it.
            unsafe { run_row(s, step, row) };
        } else {
            // Rows of the window that lie in the input for one of two rows of outputs only.
            let mut others = [(row, 0..0), (row, 0..0), (row + 1, 0..0), (row + 1, 0..0)];
            if rows == 2 {
                let (first, second) = (down, self.down(row + 1));
                down = first.start.max(second.start)..first.end.min(second.end);
                if down.is_empty() {
                    down = first.end..first.end;
                    others[0].1 = first;
                    others[2].1 = second;
                } else {
                    others[0].1 = first.start..down.start;
                    others[1].1 = down.end..first.end;
                    others[2].1 = second.start..down.start;
                    others[3].1 = down.end..second.end;
                }
            }
            let reach = (column + n - 1) * step + (kw - 1) * dilation;
            let inner = column * step >= pad && reach < width + pad;
            let whole = if inner { 0..kw } else { self.whole(column, n) };
            let simple = inner && others.iter().all(|(_, down)| down.is_empty());
            if !simple {
                let (down_none, across) = (0..0, 0..0);
                pass(Pass {
                    row,
                    rows,
                    from: 0,
                    n,
                    down: down_none,
                    across,
                    add: false,
                    last: false,
                });
                let parts = others.into_iter().map(|(row, down)| (row, 1, down, true));
                for (row, rows, down, all) in parts.chain([(row, rows, down.clone(), false)]) {
                    if down.is_empty() {
                        continue;
                    }
                    for k in (0..kw).filter(|k| !whole.contains(k)) {
                        let part = self.inside(k, column, n);
                        if !part.is_empty() {
                            pass(Pass {
                                row,
                                rows,
                                from: part.start,
                                n: part.len(),
                                down: down.clone(),
                                across: k..k + 1,
                                add: true,
                                last: false,
                            });
                        }
                    }
                    if all && !whole.is_empty() {
                        let across = whole.clone();
                        pass(Pass { row, rows, from: 0, n, down, across, add: true, last: false });
                    }
                }
            }
            let add = !simple;
            pass(Pass { row, rows, from: 0, n, down, across: whole, add, last: true });
        }
        if let Some(op) = self.activation {
            for v in 0..vectors {
                for row in row..row + rows {
                    let y = self.y.ptr().wrapping_add(y_of(row) + v * plane_out);
                    // SAFETY: these are the outputs of the tile, which is this task's.
                    unsafe { apply(s, op, y, y, n * S::LANES) };
                }
            }
        }
    }

    /// Outputs of `column..column + n`, counted from there, for which tap `k` of a row lies in the
    /// input.
    #[inline(always)]
    fn inside(&self, k: usize, column: usize, n: usize) -> Range<usize> {
        let shape = self.shape;
        let (step, shift, pad) = (shape.stride[2], k * shape.dilation[2], shape.pad_begin[2]);
        let low = pad.saturating_sub(shift).div_ceil(step).max(column);
        let high = (shape.input[2] + pad).saturating_sub(shift).div_ceil(step);
        low - column..high.min(column + n).saturating_sub(column)
    }

    /// Taps of a row that lie in the input for all of these outputs: they follow one another.
    #[inline(always)]
    fn whole(&self, column: usize, n: usize) -> Range<usize> {
        let kw = self.shape.kernel[2];
        let all = |k: &usize| self.inside(*k, column, n) == (0..n);
        let first = (0..kw).find(all).unwrap_or(kw);
        let end = (first..kw).find(|k| !all(k)).unwrap_or(kw);
        if first < end { first..end } else { 0..0 }
    }
}
