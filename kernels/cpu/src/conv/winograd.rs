//! Winograd's algorithm F(4 × 4, 3 × 3) over blocked channels: 36 products for 16 outputs of a 3 × 3
//! window instead of 144.
//!
//! Lavin and Gray, *Fast Algorithms for Convolutional Neural Networks* (2016), with the points
//! 0, ±1, ±2 and infinity. A tile of 4 × 4 outputs reads 6 × 6 inputs; both are small matrices `D` and
//! `Y = Aᵀ [(G W Gᵀ) ⊙ (Bᵀ D B)] A`, summed over channels between the transforms, which is a matrix
//! product of tiles × channels for each of the 36 points.
//!
//! A task takes a block of tiles: its transformed inputs and the sums of one panel stay in the
//! second-level cache. The sums of an output have one order whatever the batch and the threads.
//!
//! Rounding: the transforms weigh what they read with up to 100 on the way in and 361 on the way out, in
//! sums of magnitudes; the error of an output is some ten times that of the direct sum (the test
//! derives its deviation). An input that is infinite or NaN reaches all outputs of its tile.

use super::ConvShape;
use super::direct::{BLOCK, Clamp, Tile, positions, run};
use crate::elementwise::{Unary, apply};
use crate::parallel::Shared;
use crate::simd::{Kernel, Simd};
use std::ops::Range;

/// Outputs and inputs of a tile in each direction, and points of a tile.
const OUT: usize = 4;
const IN: usize = 6;
pub(super) const POINTS: usize = IN * IN;
/// Floats of the transformed inputs of a block of tiles, unless [`FEW_TILES`] take more.
const BLOCK_INPUTS: usize = 1 << 17;
/// Tiles of a block at least: weights are read once for each block.
const FEW_TILES: usize = 28;

/// `G`: weights to points.
const G: [[f64; 3]; IN] = [
    [1.0 / 4.0, 0.0, 0.0],
    [-1.0 / 6.0, -1.0 / 6.0, -1.0 / 6.0],
    [-1.0 / 6.0, 1.0 / 6.0, -1.0 / 6.0],
    [1.0 / 24.0, 1.0 / 12.0, 1.0 / 6.0],
    [1.0 / 24.0, -1.0 / 12.0, 1.0 / 6.0],
    [0.0, 0.0, 1.0],
];

/// `G w Gᵀ` of a window of 3 × 3.
pub(super) fn points(w: &[f32]) -> [f32; POINTS] {
    let mut out = [0.0; POINTS];
    for (i, row) in G.iter().enumerate() {
        for (j, column) in G.iter().enumerate() {
            let mut sum = 0.0;
            for (ky, a) in row.iter().enumerate() {
                for (kx, b) in column.iter().enumerate() {
                    sum += a * b * f64::from(w[ky * 3 + kx]);
                }
            }
            out[i * IN + j] = sum as f32;
        }
    }
    out
}

/// Tiles of a convolution and how they are cut into blocks.
#[derive(Copy, Clone)]
pub(super) struct Grid {
    /// Tiles of an image, down and across.
    down: usize,
    across: usize,
    /// Tiles in all, and of one block.
    pub tiles: usize,
    pub block: usize,
}

impl Grid {
    pub(super) fn new(shape: &ConvShape, in_channels: usize) -> Grid {
        let [_, rows, columns] = shape.output();
        let (down, across) = (rows.div_ceil(OUT), columns.div_ceil(OUT));
        let tiles = shape.batch * down * across;
        let most = Grid::most(in_channels);
        // Blocks of equal size.
        Grid { down, across, tiles, block: tiles.div_ceil(tiles.div_ceil(most).max(1)).max(1) }
    }

    /// Tiles of a block at most.
    fn most(in_channels: usize) -> usize {
        (BLOCK_INPUTS / (POINTS * in_channels)).clamp(FEW_TILES, 4 * FEW_TILES)
    }

    /// Floats that a task works in.
    pub(super) fn scratch(in_channels: usize, lanes: usize) -> usize {
        let most = Grid::most(in_channels);
        POINTS * (most * in_channels + GAP * lanes) + POINTS * (2 * most + GAP) * lanes
    }
}

/// Vectors between the points of a block: neighbouring points do not fall into one set of the cache.
const GAP: usize = 1;

/// A convolution.
pub(super) struct Job<'a> {
    pub shape: &'a ConvShape,
    pub grid: Grid,
    /// Channels of the input that memory holds, and blocks of output channels.
    pub in_channels: usize,
    pub blocks: usize,
    pub x: &'a [f32],
    /// `[panel][point][channel][two blocks]`, the last panel perhaps of one block.
    pub w: &'a [f32],
    pub y: Shared<f32>,
    pub residual: Option<&'a [f32]>,
    pub bias: Option<&'a [f32]>,
    pub clamp: Clamp,
    pub activation: Option<Unary>,
}

/// Transforms the inputs of some tiles.
pub(super) struct Inputs<'a> {
    pub job: &'a Job<'a>,
    pub tiles: Range<usize>,
    pub work: &'a mut [f32],
}

/// Sums and transforms the outputs of some panels of tiles whose inputs are in `work`.
pub(super) struct Outputs<'a> {
    pub job: &'a Job<'a>,
    pub tiles: Range<usize>,
    pub panels: Range<usize>,
    /// First panel that this thread will probably want later.
    pub after: usize,
    pub work: &'a mut [f32],
}

/// `Bᵀ d`.
#[inline(always)]
fn into_points<S: Simd>(s: S, d: [S::F; IN]) -> [S::F; IN] {
    let [d0, d1, d2, d3, d4, d5] = d;
    let (two, four, five) = (s.splat(2.0), s.splat(4.0), s.splat(-5.0));
    let minus = s.splat(-4.0);
    let (even, odd) = (s.mul_add(d2, minus, d4), s.mul_add(d1, minus, d3));
    let (wide, apart) = (s.sub(d4, d2), s.mul(two, s.sub(d3, d1)));
    [
        s.mul_add(d0, four, s.mul_add(d2, five, d4)),
        s.add(even, odd),
        s.sub(even, odd),
        s.add(wide, apart),
        s.sub(wide, apart),
        s.mul_add(d1, four, s.mul_add(d3, five, d5)),
    ]
}

/// `Aᵀ m`.
#[inline(always)]
fn from_points<S: Simd>(s: S, m: [S::F; IN]) -> [S::F; OUT] {
    let [m0, m1, m2, m3, m4, m5] = m;
    let (near, step) = (s.add(m1, m2), s.sub(m1, m2));
    let (far, stride) = (s.add(m3, m4), s.sub(m3, m4));
    [
        s.add(m0, s.add(near, far)),
        s.mul_add(stride, s.splat(2.0), step),
        s.mul_add(far, s.splat(4.0), near),
        s.add(s.mul_add(stride, s.splat(8.0), step), m5),
    ]
}

/// Columns as rows.
#[inline(always)]
fn turned<S: Simd, const R: usize, const C: usize>(s: S, m: [[S::F; C]; R]) -> [[S::F; R]; C] {
    let mut out = [[s.zero(); R]; C];
    for (i, row) in m.into_iter().enumerate() {
        for (out, v) in out.iter_mut().zip(row) {
            out[i] = v;
        }
    }
    out
}

impl Job<'_> {
    /// Floats from one point to the next, of inputs and of sums of `tiles` tiles.
    fn strides(&self, tiles: usize, lanes: usize) -> (usize, usize) {
        (tiles * self.in_channels + GAP * lanes, (2 * tiles + GAP) * lanes)
    }

    /// Image, row and column of the first output of a tile.
    #[inline(always)]
    fn place(&self, tile: usize) -> (usize, usize, usize) {
        let (line, column) = (tile / self.grid.across, tile % self.grid.across);
        (line / self.grid.down, line % self.grid.down * OUT, column * OUT)
    }
}

impl Kernel for Inputs<'_> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let Inputs { job, tiles, work } = self;
        let [_, height, width] = job.shape.input;
        let (top, left) = (job.shape.pad_begin[1], job.shape.pad_begin[2]);
        let planes = job.in_channels / S::LANES;
        let (stride, _) = job.strides(tiles.len(), S::LANES);
        assert!(work.len() >= POINTS * stride, "winograd: scratch of {} floats", work.len());
        for (t, tile) in tiles.clone().enumerate() {
            let (image, row, column) = job.place(tile);
            // Rows and columns of the tile that lie in the input.
            let rows = top.saturating_sub(row).min(IN)..(height + top).saturating_sub(row).min(IN);
            let columns =
                left.saturating_sub(column).min(IN)..(width + left).saturating_sub(column).min(IN);
            let inner = rows == (0..IN) && columns == (0..IN);
            for plane in 0..planes {
                let start = (image * planes + plane) * height * width;
                let at = |i: usize, j: usize| {
                    let pixel = (row + i).wrapping_sub(top).wrapping_mul(width);
                    let pixel = pixel.wrapping_add(column + j).wrapping_sub(left);
                    job.x.as_ptr().wrapping_add(start.wrapping_add(pixel).wrapping_mul(S::LANES))
                };
                let mut half = [[s.zero(); IN]; IN];
                for (j, half) in half.iter_mut().enumerate() {
                    let mut d = [s.zero(); IN];
                    if inner || columns.contains(&j) {
                        for (i, d) in d.iter_mut().enumerate() {
                            if inner || rows.contains(&i) {
                                // SAFETY: row `row + i - top` and column `column + j - left` of the
                                // plane lie in the input.
                                *d = unsafe { s.load(at(i, j)) };
                            }
                        }
                    }
                    *half = into_points(s, d);
                }
                let to = work.as_mut_ptr().wrapping_add((plane * tiles.len() + t) * S::LANES);
                for (i, d) in turned(s, half).into_iter().enumerate() {
                    for (j, v) in into_points(s, d).into_iter().enumerate() {
                        // SAFETY: there are `POINTS` parts of `stride` floats, each of which has a
                        // vector for each plane and tile.
                        unsafe { s.store(to.wrapping_add((i * IN + j) * stride), v) };
                    }
                }
            }
        }
    }
}

impl Kernel for Outputs<'_> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let Outputs { job, tiles, panels, after, work } = self;
        let n = tiles.len();
        let (x_stride, y_stride) = job.strides(n, S::LANES);
        assert!(
            work.len() >= POINTS * (x_stride + y_stride),
            "winograd: scratch of {} floats",
            work.len()
        );
        let (inputs, sums) = work.split_at_mut(POINTS * x_stride);
        let chunks = n.div_ceil(positions(S::LANES));
        let (least, wider) = (n / chunks, n % chunks);
        let last_terms = (job.shape.in_channels - 1) % S::LANES + 1;
        // Weights of one point of a whole panel, and of a panel.
        let depth = job.in_channels * 2 * S::LANES;
        let panel_len = POINTS * depth;
        for panel in panels.clone() {
            let vectors = 2.min(job.blocks - 2 * panel);
            let next = if panel + 1 < panels.end { panel + 1 } else { after };
            let w = job.w.as_ptr().wrapping_add(panel * panel_len);
            let mut ahead = job.w.as_ptr().wrapping_add(next * panel_len);
            let ahead_step = (vectors * S::LANES).div_ceil(chunks);
            for point in 0..POINTS {
                let mut at = 0;
                for chunk in 0..chunks {
                    let len = least + usize::from(chunk < wider);
                    let t = Tile {
                        x: inputs.as_ptr().wrapping_add(point * x_stride + at * S::LANES),
                        x_steps: [n * S::LANES, 0, 0],
                        w: w.wrapping_add(point * job.in_channels * vectors * S::LANES),
                        w_steps: [S::LANES * vectors * S::LANES, 0, 0],
                        counts: [job.in_channels / S::LANES, 1, 1],
                        terms: S::LANES,
                        last_terms,
                        y: sums.as_mut_ptr().wrapping_add(point * y_stride + at * S::LANES),
                        y_step: n * S::LANES,
                        second: [0; 2],
                        ahead,
                        ahead_step,
                        add: false,
                        finish: None,
                    };
                    ahead = ahead.wrapping_add(t.products() * ahead_step);
                    // SAFETY: part `point` of the inputs has `len` vectors from `at` on in each
                    // plane, that of the sums as many in each of the blocks of the panel, whose
                    // weights start at `w`.
                    unsafe { run(s, len, vectors, BLOCK, t) };
                    at += len;
                }
            }
            for (t, tile) in tiles.clone().enumerate() {
                for v in 0..vectors {
                    let from = sums.as_ptr().wrapping_add((v * n + t) * S::LANES);
                    job.output(s, tile, 2 * panel + v, from, y_stride);
                }
            }
        }
    }
}

impl Job<'_> {
    /// The outputs of a tile in a block of channels from sums at `from`, one point each `stride`.
    #[inline(always)]
    fn output<S: Simd>(&self, s: S, tile: usize, block: usize, from: *const f32, stride: usize) {
        let [_, rows, columns] = self.shape.output();
        let (image, row, column) = self.place(tile);
        let mut half = [[s.zero(); OUT]; IN];
        for (i, half) in half.iter_mut().enumerate() {
            let mut m = [s.zero(); IN];
            for (j, m) in m.iter_mut().enumerate() {
                // SAFETY: each point has a part of `stride` floats with this tile and block in it.
                *m = unsafe { s.load(from.wrapping_add((i * IN + j) * stride)) };
            }
            *half = from_points(s, m);
        }
        let channel = block * S::LANES;
        let left = (self.shape.out_channels - channel).min(S::LANES);
        let bias = match self.bias {
            None => s.zero(),
            // SAFETY: the bias has the channels that exist.
            Some(b) => unsafe { s.load_n(b[channel..].as_ptr(), left) },
        };
        let width = OUT.min(columns - column);
        let mut out = [[s.zero(); OUT]; OUT];
        for (out, m) in out.iter_mut().zip(turned(s, half)) {
            *out = from_points(s, m);
        }
        for (i, out) in turned(s, out).iter().enumerate().take(OUT.min(rows - row)) {
            let at =
                (((image * self.blocks + block) * rows + row + i) * columns + column) * S::LANES;
            for (j, &v) in out.iter().enumerate().take(width) {
                let at = at + j * S::LANES;
                let mut v = s.add(v, bias);
                if let Some(r) = self.residual {
                    // SAFETY: the residual has the length of the output.
                    v = s.add(v, unsafe { s.load(r.as_ptr().wrapping_add(at)) });
                }
                // SAFETY: this output lies in the image, and its tile and block are this task's.
                unsafe { s.store(self.y.ptr().wrapping_add(at), self.clamp.apply(s, v)) };
            }
            if let Some(op) = self.activation {
                let y = self.y.ptr().wrapping_add(at);
                // SAFETY: as above.
                unsafe { apply(s, op, y, y, width * S::LANES) };
            }
        }
    }
}
