//! Convolution over blocked channels (see [`crate::blocked`]): nothing is gathered, each tile reads
//! its inputs where they are.
//!
//! A tile is a few neighbouring outputs of one row. The taps that lie in the input for all of them
//! are one chain of multiply-adds in registers; a tap that at the edge of the image lies in the
//! padding for some of them is added before that, for the others alone. So the order of an output's
//! sum follows from its place in the image and the sizes of the image, of nothing else. Depthwise, a
//! tile is a row, and each output has its taps in order.

use super::direct::{
    BLOCK, Clamp, FLOAT, Finish, Row, TWO_BLOCKS, TWO_FLOATS, Tile, positions, run, run_row,
    run_two,
};
use super::winograd::{self, Grid, POINTS};
use super::{ConvEpilogue, ConvShape};
use crate::blocked::lanes;
use crate::elementwise::{Unary, apply};
use crate::gemm::{Aligned, Panels, SharedFloats};
use crate::parallel::{MAX_SLOTS, Parallel, Shared, Slots, split};
use crate::simd::{Kernel, Simd};
use crate::{Isa, Level};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Tasks that a convolution is cut into if it is large enough,
const TASKS: usize = 32;
/// which is when each has this many multiply-adds.
const TASK_MACS: usize = 1 << 20;
/// Floats of the inputs of one task: they stay in the second-level cache while its output channels
/// pass over them.
const TASK_INPUTS: usize = 1 << 17;

/// Tiles of a panel beyond which its weights are few, or read so often that they need no asking.
const AHEAD_TILES: usize = 32;

/// Where Winograd's algorithm pays: channels of either side, at least and at most, and tiles.
const WINOGRAD_CHANNELS: usize = 32;
const WINOGRAD_MOST_CHANNELS: usize = 256;
const WINOGRAD_TILES: usize = 16;

/// Blocks of output channels in a panel.
fn pair(reads: Reads) -> usize {
    if reads == Reads::Depthwise { 1 } else { 2 }
}

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

impl ConvShape {
    /// Whether [`conv_blocked`] can add to what the output holds: each output is then written once.
    pub fn accumulates(&self) -> bool {
        self.groups == 1
            && self.kernel == [1; 3]
            && self.pad_begin == [0; 3]
            && self.pad_end == [0; 3]
    }

    /// Whether [`BlockedWeights::new`] chooses Winograd's algorithm: for 3 × 3 windows over images of a
    /// known size that give it tiles enough for the weights, which become four times as many. The
    /// batch does not matter.
    pub fn pays_winograd(&self, reads: Reads) -> bool {
        let [_, rows, columns] = self.output();
        let tiles = rows.div_ceil(4) * columns.div_ceil(4);
        let few = self.in_channels.min(self.out_channels) < WINOGRAD_CHANNELS;
        reads == Reads::Blocks
            && self.kernel == [1, 3, 3]
            && self.stride == [1; 3]
            && self.dilation == [1; 3]
            && !few
            && self.in_channels.max(self.out_channels) <= WINOGRAD_MOST_CHANNELS
            && tiles >= WINOGRAD_TILES
            && tiles * 16 * 2 <= rows * columns * 3
    }
}

/// Weights of a blocked convolution, packed once for a level.
#[derive(Clone)]
pub struct BlockedWeights {
    winograd: bool,
    data: Panels,
    level: Level,
    reads: Reads,
    in_channels: usize,
    out_channels: usize,
    kernel: [usize; 3],
}

impl BlockedWeights {
    /// Packs `w`, `[out_channels, in_channels / groups, height, width]`. The batch of `shape` does not
    /// matter; its image size only decides on Winograd's algorithm, and may be 1 × 1 where it is not
    /// known. Two blocks of output channels follow each other as `[plane][tap][term][two blocks]`, a
    /// last block alone as `[plane][tap][term][block]`; for Winograd's algorithm the taps are points,
    /// and come first.
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
        let winograd = shape.pays_winograd(reads);
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
                    if winograd {
                        let points = winograd::points(w).into_iter().enumerate();
                        points.for_each(|(p, w)| {
                            out[(p * each / POINTS + i) * width + o - first] = w
                        });
                        continue;
                    }
                    let (plane, term) = (i / terms, i % terms);
                    for (t, &w) in w.iter().enumerate() {
                        out[((plane * taps + t) * terms + term) * width + o - first] = w;
                    }
                }
            }
        });
        BlockedWeights::over(isa, shape, reads, Panels::Own(data))
    }

    /// What [`BlockedWeights::floats`] gave for weights of this shape at this level, chosen for the same
    /// algorithm; `None` for another number of floats.
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
        let (winograd, level) = (shape.pays_winograd(reads), isa.level());
        BlockedWeights { winograd, data, level, reads, in_channels, out_channels, kernel }
    }

    /// The packed weights, in the order of this level.
    pub fn floats(&self) -> &[f32] {
        self.data.as_slice()
    }

    /// Floats of scratch that [`conv_blocked`] needs when run by `par`, whatever the batch and the size
    /// of the image.
    pub fn scratch(&self, isa: Isa, par: &dyn Parallel) -> usize {
        let lanes = lanes(isa);
        match self.winograd {
            true => {
                Slots::count(par) * Grid::scratch(self.in_channels.next_multiple_of(lanes), lanes)
            }
            false => 0,
        }
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
        Reads::Blocks if shape.pays_winograd(reads) => depth.next_multiple_of(lanes(isa)) * POINTS,
        Reads::Blocks => depth.next_multiple_of(lanes(isa)) * shape.taps(),
    }
}

impl std::fmt::Debug for BlockedWeights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlockedWeights")
            .field("level", &self.level)
            .field("reads", &self.reads)
            .field("winograd", &self.winograd)
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
/// When a length disagrees with `shape`, the weights were packed for another shape or level, or the
/// scratch is shorter than [`BlockedWeights::scratch`].
#[expect(clippy::too_many_arguments, reason = "an input, weights, an output and how to run")]
pub fn conv_blocked(
    isa: Isa,
    par: &dyn Parallel,
    shape: &ConvShape,
    x: &[f32],
    weights: &BlockedWeights,
    epilogue: &ConvEpilogue<'_>,
    y: &mut [f32],
    scratch: &mut [f32],
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
    assert!(
        !epilogue.accumulate || (shape.accumulates() && epilogue.residual.is_none()),
        "conv: {shape:?} adds to what the output holds"
    );
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
    let clamp = Clamp { lo, hi, hard_swish: epilogue.activation == Some(Unary::HardSwish) };
    if weights.winograd {
        let job = winograd::Job {
            shape,
            grid: Grid::new(shape, in_channels),
            in_channels,
            blocks,
            x,
            w: weights.data.as_slice(),
            y: Shared::new(y),
            residual: epilogue.residual,
            bias: epilogue.bias,
            clamp,
            activation,
        };
        return run_winograd(isa, par, &job, scratch);
    }
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
    let panels = blocks.div_ceil(pair(reads));
    let mut job = Job {
        shape: &shape,
        reads,
        in_channels,
        blocks,
        rows,
        columns,
        tiles,
        together,
        panels,
        ahead_step: 0,
        x,
        w: weights.data.as_slice(),
        y: Shared::new(y),
        epilogue: *epilogue,
        clamp,
        activation,
    };
    let cut = Cut::new(&job);
    // While the tiles of a panel are done, the weights of the next arrive.
    let width = pair(reads).min(blocks) * lanes;
    if cut.tile_step <= AHEAD_TILES && panels > 1 {
        job.ahead_step = width.div_ceil(cut.tile_step);
    }
    split(par, cut.tasks(), 1, &|task, _| {
        let (tiles, panels) = cut.part(task);
        isa.dispatch(Task { job: &job, tiles, panels, after: cut.after(task) });
    });
}

/// Blocks of tiles times panels. A thread keeps the transformed inputs of a block while it does panels
/// of it, so the panels of a block follow one another.
fn run_winograd(isa: Isa, par: &dyn Parallel, job: &winograd::Job<'_>, scratch: &mut [f32]) {
    let (lanes, grid, panels) = (lanes(isa), job.grid, job.blocks.div_ceil(2));
    let each = Grid::scratch(job.in_channels, lanes);
    let slots = Slots::new(par, scratch, each);
    // The block whose inputs a slot holds.
    let held = [const { AtomicUsize::new(usize::MAX) }; MAX_SLOTS];
    let threads = par.threads();
    let blocks = grid.tiles.div_ceil(grid.block);
    let macs = grid.block * POINTS * job.in_channels * 2 * lanes;
    let mut step = panels;
    while blocks * panels.div_ceil(step) < 2 * threads && step > 1 && macs * step > 2 * TASK_MACS {
        step = step.div_ceil(2);
    }
    let parts = panels.div_ceil(step);
    split(par, blocks * parts, 1, &|task, _| {
        let (block, part) = (task / parts, task % parts);
        let tiles = block * grid.block..((block + 1) * grid.block).min(grid.tiles);
        let range = part * step..((part + 1) * step).min(panels);
        let after = (part + 1) % parts * step;
        slots.with_index(|slot, work| {
            // The flag of the slot orders these with the work of its last holder.
            if held[slot].swap(block, Ordering::Relaxed) != block {
                isa.dispatch(winograd::Inputs { job, tiles: tiles.clone(), work });
            }
            isa.dispatch(winograd::Outputs { job, tiles, panels: range, after, work });
        });
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
    fn new(job: &Job<'_>) -> Cut {
        let panels = job.panels;
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

    /// The panel that the next task begins with; there may be none.
    fn after(&self, task: usize) -> usize {
        (task + 1) / self.tiles.div_ceil(self.tile_step) * self.panel_step
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
    /// Panels, and how far ahead of its products a tile asks for weights with each of them.
    panels: usize,
    ahead_step: usize,
    x: &'a [f32],
    w: &'a [f32],
    y: Shared<f32>,
    epilogue: ConvEpilogue<'a>,
    clamp: Clamp,
    /// Where the clamp is not all of it.
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
    /// First panel of the task that this thread will probably do next.
    after: usize,
}

impl Kernel for Task<'_> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let job = self.job;
        let (least, wider) = (job.columns / job.tiles, job.columns % job.tiles);
        let lines = job.rows.div_ceil(job.together);
        for panel in self.panels.clone() {
            let line = self.tiles.start / job.tiles;
            let mut tile = self.tiles.start % job.tiles;
            let (mut row, mut image) = (line % lines * job.together, line / lines);
            let mut column = tile * least + tile.min(wider);
            let mut base = job.base(s, panel, self.next(panel));
            let mut line = job.line(&base, image, row);
            for _ in self.tiles.clone() {
                let n = least + usize::from(tile < wider);
                job.tile(s, &mut base, &line, column, n);
                (tile, column) = (tile + 1, column + n);
                if tile == job.tiles {
                    (tile, column, row) = (0, 0, row + job.together);
                    if row >= job.rows {
                        (row, image) = (0, image + 1);
                    }
                    if image < job.shape.batch {
                        line = job.line(&base, image, row);
                    }
                }
            }
        }
    }
}

impl Task<'_> {
    /// The panel whose weights are needed after `panel`, as far as this task can know.
    fn next(&self, panel: usize) -> Option<usize> {
        let next = if panel + 1 < self.panels.end { panel + 1 } else { self.after };
        (next < self.job.panels).then_some(next)
    }
}

/// What the tiles of a panel have in common.
struct Base {
    tile: Tile,
    finish: Finish,
    /// Blocks of channels before the panel, and in it.
    block: usize,
    vectors: usize,
    /// Floats between neighbouring inputs.
    unit: usize,
}

/// What the tiles of a row, or of two, have in common.
struct Line {
    /// First row of the image, and how many.
    row: usize,
    rows: usize,
    /// Start of the row of the input that the first tap reads, and the first output.
    x: usize,
    y: usize,
    /// Rows of the window that lie in the input for all rows.
    down: Range<usize>,
    /// Those for one row only.
    others: [(usize, Range<usize>); 4],
    /// There are none.
    same: bool,
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

    /// What the tiles of a panel have in common; `next` is the panel after it.
    #[inline(always)]
    fn base<S: Simd>(&self, _: S, panel: usize, next: Option<usize>) -> Base {
        let shape = self.shape;
        let [_, height, width] = shape.input;
        let [_, kh, kw] = shape.kernel;
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
        let pair = pair(self.reads);
        let block = panel * pair;
        let vectors = pair.min(self.blocks - block);
        let w_steps = [
            kh * kw * terms * vectors * S::LANES,
            kw * terms * vectors * S::LANES,
            terms * vectors * S::LANES,
        ];
        // The panels before a panel have two blocks each.
        let panel_len = pair * S::LANES * planes * kh * kw * terms;
        let channel = block * S::LANES;
        let ahead = self.w.as_ptr().wrapping_add(next.unwrap_or(panel) * panel_len);
        Base {
            tile: Tile {
                x: self.x.as_ptr(),
                x_steps: [
                    height * width * unit,
                    shape.dilation[1] * width * unit,
                    shape.dilation[2] * unit,
                ],
                w: self.w.as_ptr().wrapping_add(panel * panel_len),
                w_steps,
                counts: [planes, kh, kw],
                terms,
                last_terms,
                y: self.y.ptr(),
                y_step: self.rows * self.columns * S::LANES,
                second: [shape.stride[1] * width * unit, self.columns * S::LANES],
                ahead,
                ahead_step: if next.is_some() { self.ahead_step } else { 0 },
                add: false,
                finish: None,
            },
            finish: Finish {
                bias: self.epilogue.bias.map_or(std::ptr::null(), |b| b[channel..].as_ptr()),
                channels: shape.out_channels - channel,
                residual: std::ptr::null(),
                clamp: self.clamp,
            },
            block,
            vectors,
            unit,
        }
    }

    /// What the tiles of a row, or of two, have in common.
    #[inline(always)]
    fn line(&self, base: &Base, image: usize, row: usize) -> Line {
        let shape = self.shape;
        let source = match self.reads {
            Reads::Depthwise => image * self.blocks + base.block,
            _ => image * self.in_channels / base.unit,
        };
        let rows = self.together.min(self.rows - row);
        let mut down = self.down(row);
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
        Line {
            row,
            rows,
            x: source * shape.input[1],
            y: (image * self.blocks + base.block) * base.tile.y_step,
            down,
            same: others.iter().all(|(_, down)| down.is_empty()),
            others,
        }
    }

    /// Outputs `column..column + n` of a line for a panel of channels.
    #[inline(always)]
    fn tile<S: Simd>(&self, s: S, base: &mut Base, line: &Line, column: usize, n: usize) {
        let shape = self.shape;
        let width = shape.input[2];
        let kw = shape.kernel[2];
        let (step, dilation, pad) = (shape.stride[2], shape.dilation[2], shape.pad_begin[2]);
        let (unit, vectors) = (base.unit, base.vectors);
        let (w, w_steps, x_row) = (base.tile.w, base.tile.w_steps, base.tile.x_steps[1]);
        // Start of the input row that tap `k` of a row of outputs reads.
        let x_of = |row: usize, k: usize| {
            let at =
                (row * shape.stride[1] + k * shape.dilation[1]).wrapping_sub(shape.pad_begin[1]);
            line.x.wrapping_add(at).wrapping_mul(width * unit)
        };
        let y_of = |row: usize| line.y + (row * self.columns + column) * S::LANES;
        let finish = |y: usize| Finish {
            residual: match self.epilogue.residual {
                _ if self.epilogue.accumulate => self.y.ptr().wrapping_add(y).cast_const(),
                Some(r) => r[y..].as_ptr(),
                None => std::ptr::null(),
            },
            ..base.finish
        };
        let mut pass = |p: Pass| {
            let Pass { row, rows, from, n, down, across: taps, add, last } = p;
            let at = ((column + from) * step + taps.start * dilation).wrapping_sub(pad);
            let x = x_of(row, down.start).wrapping_add(at.wrapping_mul(unit));
            let y = y_of(row);
            // Taps of a row that follow one another in memory are the products of one tap.
            let joined = self.reads == Reads::Planes && dilation == 1;
            let (terms, last_terms, columns) = match joined {
                true => (taps.len(), taps.len(), 1),
                false => (base.tile.terms, base.tile.last_terms, taps.len()),
            };
            let empty = taps.is_empty() || down.is_empty();
            let t = Tile {
                x: self.x.as_ptr().wrapping_add(x),
                w: w.wrapping_add(down.start * w_steps[1] + taps.start * w_steps[2]),
                counts: if empty { [0; 3] } else { [base.tile.counts[0], down.len(), columns] },
                terms,
                last_terms,
                y: self.y.ptr().wrapping_add(y + from * S::LANES),
                add,
                finish: last.then(|| finish(y)),
                ..base.tile
            };
            base.tile.ahead = t.ahead.wrapping_add(t.products() * t.ahead_step);
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
        let (row, rows) = (line.row, line.rows);
        if self.reads == Reads::Depthwise {
            let (down, y) = (&line.down, y_of(row));
            let row = Row {
                x: self.x.as_ptr().wrapping_add(x_of(row, down.start)),
                x_row,
                w: w.wrapping_add(down.start * w_steps[1]),
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
            let reach = (column + n - 1) * step + (kw - 1) * dilation;
            let inner = column * step >= pad && reach < width + pad;
            let whole = if inner { 0..kw } else { self.whole(column, n) };
            let simple = inner && line.same;
            if !simple {
                let (down, across) = (0..0, 0..0);
                pass(Pass { row, rows, from: 0, n, down, across, add: false, last: false });
                let parts = line.others.iter().map(|(row, down)| (*row, 1, down, true));
                for (row, rows, down, all) in parts.chain([(row, rows, &line.down, false)]) {
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
                        let (down, across) = (down.clone(), whole.clone());
                        pass(Pass { row, rows, from: 0, n, down, across, add: true, last: false });
                    }
                }
            }
            let (down, add) = (line.down.clone(), !simple);
            pass(Pass { row, rows, from: 0, n, down, across: whole, add, last: true });
        }
        if let Some(op) = self.activation {
            for v in 0..vectors {
                for row in row..row + rows {
                    let y = self.y.ptr().wrapping_add(y_of(row) + v * base.tile.y_step);
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
