//! Tiles of a convolution over blocked channels: a few output positions of one row times one or two
//! blocks of output channels, in registers over all products.
//!
//! The distance between neighbouring inputs is part of a tile's type, so that every load of an input
//! is one base register and a constant.

use crate::elementwise::{HardSwish, Map};
use crate::simd::{Kernel, Simd};

/// Distance of the inputs of neighbouring outputs, as a type: a block, two blocks (stride 2), one
/// float or two floats (planes without blocks).
pub(super) const BLOCK: usize = 0;
pub(super) const TWO_BLOCKS: usize = 1;
pub(super) const FLOAT: usize = 2;
pub(super) const TWO_FLOATS: usize = 3;

/// The most output positions of a tile at a level with `lanes` lanes: with two blocks of channels
/// the sums, a row of weights and an input fill the vector registers.
pub(super) const fn positions(lanes: usize) -> usize {
    match lanes {
        16 => 14,
        8 => 6,
        _ => 4,
    }
}

/// What is done to sums on their way out: `min(hi, max(lo, sum + bias + residual))`, and then, if it
/// is asked for, [`HardSwish`](crate::elementwise::Unary::HardSwish).
#[derive(Copy, Clone)]
pub(super) struct Finish {
    /// Of the first channel of the tile, or null.
    pub bias: *const f32,
    /// Channels that exist from there on.
    pub channels: usize,
    /// Of the first output of the tile, laid out as the outputs are; or null.
    pub residual: *const f32,
    pub clamp: Clamp,
}

/// The last steps of [`Finish`].
#[derive(Copy, Clone)]
pub(super) struct Clamp {
    pub lo: f32,
    pub hi: f32,
    pub hard_swish: bool,
}

impl Clamp {
    /// Of a sum with bias and residual.
    #[inline(always)]
    pub(super) fn apply<S: Simd>(self, s: S, v: S::F) -> S::F {
        let v = s.min(s.splat(self.hi), s.max(s.splat(self.lo), v));
        if self.hard_swish { HardSwish {}.map(s, v) } else { v }
    }
}

/// Products for a tile of outputs: `planes × rows × cols` taps of `terms` products.
#[derive(Copy, Clone)]
pub(super) struct Tile {
    /// Input of the first output at the first tap, and steps to the next plane (a block of
    /// channels), row and column of the window.
    pub x: *const f32,
    pub x_steps: [usize; 3],
    /// Weights of the first tap, and the same steps.
    pub w: *const f32,
    pub w_steps: [usize; 3],
    pub counts: [usize; 3],
    /// Products of one tap, and of one tap of the last plane.
    pub terms: usize,
    pub last_terms: usize,
    /// First output, and the distance to the next block of channels.
    pub y: *mut f32,
    pub y_step: usize,
    /// Distance to the input and to the output of the second row, for tiles of two.
    pub second: [usize; 2],
    /// Weights that are needed later, asked for step by step as the products go. Asking for memory
    /// that does not exist is harmless and slow.
    pub ahead: *const f32,
    pub ahead_step: usize,
    /// Add to what the outputs hold.
    pub add: bool,
    /// Of the last products of these outputs.
    pub finish: Option<Finish>,
}

impl Tile {
    /// Products of one output.
    pub(super) fn products(&self) -> usize {
        let taps = self.counts[1] * self.counts[2];
        taps * (self.counts[0].saturating_sub(1) * self.terms)
            + if self.counts[0] > 0 { taps * self.last_terms } else { 0 }
    }
}

/// `N` positions in rows of `R` (one row or two), `V` blocks of channels, inputs at distance `P`.
///
/// The sums are one flat array that only loops of constant length touch: so they stay in registers.
struct Dense<const N: usize, const R: usize, const V: usize, const P: usize>(Tile);

impl<const N: usize, const R: usize, const V: usize, const P: usize> Kernel for Dense<N, R, V, P> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let t = self.0;
        let step = match P {
            BLOCK => S::LANES,
            TWO_BLOCKS => 2 * S::LANES,
            FLOAT => 1,
            _ => 2,
        };
        let mut acc = [[s.zero(); V]; N];
        // SAFETY: whoever makes a tile proves that its inputs, weights and outputs exist.
        unsafe {
            if t.add {
                load_tile::<S, N, R, V>(s, t.y, t.second[1], t.y_step, &mut acc);
            }
            if let Some(f) = t.finish {
                ask::<S, N, R, V>(s, t.y, t.second[1], t.y_step);
                if !f.residual.is_null() {
                    ask::<S, N, R, V>(s, f.residual, t.second[1], t.y_step);
                }
            }
            let (mut xp, mut wp, mut ahead) = (t.x, t.w, t.ahead);
            for plane in 0..t.counts[0] {
                let terms = if plane + 1 == t.counts[0] { t.last_terms } else { t.terms };
                let (mut xr, mut wr) = (xp, wp);
                for _ in 0..t.counts[1] {
                    let (mut xc, mut wc) = (xr, wr);
                    for _ in 0..t.counts[2] {
                        let (mut x, mut w) = (xc, wc);
                        for _ in 0..terms {
                            s.prefetch_l2(ahead);
                            ahead = ahead.wrapping_add(t.ahead_step);
                            let mut row = [s.zero(); V];
                            for (v, row) in row.iter_mut().enumerate() {
                                *row = s.load(w.add(v * S::LANES));
                            }
                            let second = x.wrapping_add(t.second[0]);
                            for (r, acc) in acc.iter_mut().enumerate() {
                                let x = if r < R { x } else { second };
                                let x = s.splat(*x.add(r % R * step));
                                for (acc, &w) in acc.iter_mut().zip(&row) {
                                    *acc = s.mul_add(x, w, *acc);
                                }
                            }
                            x = x.wrapping_add(1);
                            w = w.wrapping_add(V * S::LANES);
                        }
                        xc = xc.wrapping_add(t.x_steps[2]);
                        wc = wc.wrapping_add(t.w_steps[2]);
                    }
                    xr = xr.wrapping_add(t.x_steps[1]);
                    wr = wr.wrapping_add(t.w_steps[1]);
                }
                xp = xp.wrapping_add(t.x_steps[0]);
                wp = wp.wrapping_add(t.w_steps[0]);
            }
            if let Some(f) = t.finish {
                finish::<S, N, R, V>(s, f, t.second[1], t.y_step, &mut acc);
            }
            store_tile::<S, N, R, V>(s, t.y, t.second[1], t.y_step, &acc);
        }
    }
}

/// A row of outputs of one block of channels that do not mix.
#[derive(Copy, Clone)]
pub(super) struct Row {
    /// Start of the first input row that a tap reads, and the distance to the next.
    pub x: *const f32,
    pub x_row: usize,
    /// Weights of the first tap that reads that row, a block for each tap.
    pub w: *const f32,
    /// Rows of taps that lie in the input, and taps of a row.
    pub rows: usize,
    pub taps: usize,
    pub width: usize,
    pub pad: usize,
    pub dilation: usize,
    pub y: *mut f32,
    pub columns: usize,
    pub finish: Finish,
}

/// A row; neighbouring outputs read inputs at distance `STRIDE`.
struct DepthwiseRow<const STRIDE: usize>(Row);

impl<const STRIDE: usize> Kernel for DepthwiseRow<STRIDE> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let t = self.0;
        // Outputs all of whose taps lie in the input.
        let first = t.pad.div_ceil(STRIDE).min(t.columns);
        let reach = (t.width + t.pad).saturating_sub((t.taps - 1) * t.dilation);
        let end = reach.div_ceil(STRIDE).clamp(first, t.columns);
        let mut at = 0;
        while at < t.columns {
            // SAFETY: whoever makes a row proves that its inputs, weights and outputs exist; the taps
            // are those that lie in the input for these outputs.
            at += unsafe {
                match end.saturating_sub(at) {
                    _ if at < first => self.edge(s, at),
                    0 => self.edge(s, at),
                    8.. => self.span::<S, 8>(s, at, 0, t.taps),
                    4.. => self.span::<S, 4>(s, at, 0, t.taps),
                    2.. => self.span::<S, 2>(s, at, 0, t.taps),
                    _ => self.span::<S, 1>(s, at, 0, t.taps),
                }
            };
        }
    }
}

impl<const STRIDE: usize> DepthwiseRow<STRIDE> {
    /// One output that reads padding.
    ///
    /// # Safety
    /// The row exists, and the output is one of it.
    #[inline(always)]
    unsafe fn edge<S: Simd>(&self, s: S, at: usize) -> usize {
        let t = &self.0;
        let left = at * STRIDE;
        let first = t.pad.saturating_sub(left).div_ceil(t.dilation).min(t.taps);
        let end = (t.width + t.pad).saturating_sub(left).div_ceil(t.dilation).min(t.taps);
        // SAFETY: passed on to the caller; these taps lie in the input.
        unsafe { self.span::<S, 1>(s, at, first, end.max(first)) }
    }

    /// `R` outputs from column `at` on, over taps `first..end` of each row of the window.
    ///
    /// # Safety
    /// The row exists, the outputs are of it, and these taps lie in the input for all of them.
    #[inline(always)]
    unsafe fn span<S: Simd, const R: usize>(
        &self,
        s: S,
        at: usize,
        first: usize,
        end: usize,
    ) -> usize {
        let t = &self.0;
        let column = (at * STRIDE + first * t.dilation).wrapping_sub(t.pad);
        let mut xr = t.x.wrapping_add(column.wrapping_mul(S::LANES));
        let mut wr = t.w.wrapping_add(first * S::LANES);
        let mut acc = [[s.zero(); 1]; R];
        // SAFETY: passed on to the caller.
        unsafe {
            for _ in 0..t.rows {
                let (mut x, mut w) = (xr, wr);
                for _ in first..end {
                    let k = s.load(w);
                    for (r, acc) in acc.iter_mut().enumerate() {
                        acc[0] = s.mul_add(s.load(x.add(r * STRIDE * S::LANES)), k, acc[0]);
                    }
                    x = x.wrapping_add(t.dilation * S::LANES);
                    w = w.wrapping_add(S::LANES);
                }
                xr = xr.wrapping_add(t.x_row);
                wr = wr.wrapping_add(t.taps * S::LANES);
            }
            let mut f = t.finish;
            if !f.residual.is_null() {
                f.residual = f.residual.add(at * S::LANES);
            }
            finish::<S, R, R, 1>(s, f, 0, 0, &mut acc);
            store_tile::<S, R, R, 1>(s, t.y.add(at * S::LANES), 0, 0, &acc);
        }
        R
    }
}

/// Asks for the lines of a tile, so that they arrive while its products are summed.
#[inline(always)]
fn ask<S: Simd, const N: usize, const R: usize, const V: usize>(
    s: S,
    y: *const f32,
    row: usize,
    step: usize,
) {
    for r in 0..N {
        let y = y.wrapping_add(r / R * row + r % R * S::LANES);
        for v in 0..V {
            s.prefetch(y.wrapping_add(v * step));
        }
    }
}

/// # Safety
/// `y` reaches the tile, its second row at a distance of `row`, if there is one.
#[inline(always)]
unsafe fn load_tile<S: Simd, const N: usize, const R: usize, const V: usize>(
    s: S,
    y: *const f32,
    row: usize,
    step: usize,
    acc: &mut [[S::F; V]; N],
) {
    for (r, acc) in acc.iter_mut().enumerate() {
        let y = y.wrapping_add(r / R * row + r % R * S::LANES);
        for (v, acc) in acc.iter_mut().enumerate() {
            // SAFETY: passed on to the caller.
            *acc = unsafe { s.load(y.add(v * step)) };
        }
    }
}

/// # Safety
/// As for [`load_tile`].
#[inline(always)]
unsafe fn store_tile<S: Simd, const N: usize, const R: usize, const V: usize>(
    s: S,
    y: *mut f32,
    row: usize,
    step: usize,
    acc: &[[S::F; V]; N],
) {
    for (r, acc) in acc.iter().enumerate() {
        let y = y.wrapping_add(r / R * row + r % R * S::LANES);
        for (v, acc) in acc.iter().enumerate() {
            // SAFETY: passed on to the caller.
            unsafe { s.store(y.add(v * step), *acc) };
        }
    }
}

/// # Safety
/// Bias and residual, if any, reach the tile.
#[inline(always)]
unsafe fn finish<S: Simd, const N: usize, const R: usize, const V: usize>(
    s: S,
    f: Finish,
    row: usize,
    step: usize,
    acc: &mut [[S::F; V]; N],
) {
    if !f.bias.is_null() {
        let mut bias = [s.zero(); V];
        for (v, bias) in bias.iter_mut().enumerate() {
            let left = f.channels.saturating_sub(v * S::LANES).min(S::LANES);
            // SAFETY: the bias has the channels that exist.
            *bias = unsafe { s.load_n(f.bias.add(v * S::LANES), left) };
        }
        for acc in acc.iter_mut() {
            for (acc, bias) in acc.iter_mut().zip(&bias) {
                *acc = s.add(*acc, *bias);
            }
        }
    }
    if !f.residual.is_null() {
        for (r, acc) in acc.iter_mut().enumerate() {
            let residual = f.residual.wrapping_add(r / R * row + r % R * S::LANES);
            for (v, acc) in acc.iter_mut().enumerate() {
                // SAFETY: passed on to the caller.
                *acc = s.add(*acc, unsafe { s.load(residual.add(v * step)) });
            }
        }
    }
    for acc in acc.iter_mut() {
        for acc in acc.iter_mut() {
            *acc = f.clamp.apply(s, *acc);
        }
    }
}

macro_rules! choose {
    ($s:ident, $n:ident, $most:expr, [$($r:literal)*], |$R:ident| $kernel:expr) => {
        match $n {
            $($r if $r <= $most => {
                const $R: usize = $r;
                $s.outline($kernel)
            })*
            _ => unreachable!("a tile has between 1 and {} positions", $most),
        }
    };
}

/// Runs a tile of `n` positions, `blocks` (one or two) blocks of channels and inputs at `distance`.
///
/// # Safety
/// The inputs, weights and outputs of the tile exist, as do its bias and residual.
#[inline(always)]
pub(super) unsafe fn run<S: Simd>(s: S, n: usize, blocks: usize, distance: usize, t: Tile) {
    macro_rules! dense {
        ($v:literal, $p:ident) => {
            choose!(s, n, positions(S::LANES), [1 2 3 4 5 6 7 8 9 10 11 12 13 14], |R| {
                Dense::<R, R, $v, $p>(t)
            })
        };
    }
    match (blocks, distance) {
        (1, BLOCK) => dense!(1, BLOCK),
        (1, TWO_BLOCKS) => dense!(1, TWO_BLOCKS),
        (1, FLOAT) => dense!(1, FLOAT),
        (1, _) => dense!(1, TWO_FLOATS),
        (_, BLOCK) => dense!(2, BLOCK),
        (_, TWO_BLOCKS) => dense!(2, TWO_BLOCKS),
        (_, FLOAT) => dense!(2, FLOAT),
        (_, _) => dense!(2, TWO_FLOATS),
    }
}

/// As [`run`], for two rows of up to half of the positions and inputs at the distance of blocks.
///
/// # Safety
/// As for [`run`].
#[inline(always)]
pub(super) unsafe fn run_two<S: Simd>(s: S, n: usize, blocks: usize, distance: usize, t: Tile) {
    macro_rules! dense {
        ($v:literal, $p:ident) => {
            choose!(s, n, positions(S::LANES) / 2, [1 2 3 4 5 6 7], |R| {
                Dense::<{ 2 * R }, R, $v, $p>(t)
            })
        };
    }
    match (blocks, distance) {
        (1, BLOCK) => dense!(1, BLOCK),
        (1, _) => dense!(1, TWO_BLOCKS),
        (_, BLOCK) => dense!(2, BLOCK),
        (_, _) => dense!(2, TWO_BLOCKS),
    }
}

/// Runs a depthwise row of stride 1 or 2.
///
/// # Safety
/// The inputs, weights and outputs of the row exist, as do its bias and residual.
#[inline(always)]
pub(super) unsafe fn run_row<S: Simd>(s: S, stride: usize, row: Row) {
    match stride {
        1 => s.outline(DepthwiseRow::<1>(row)),
        _ => s.outline(DepthwiseRow::<2>(row)),
    }
}
