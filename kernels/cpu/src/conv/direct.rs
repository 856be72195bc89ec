//! Tiles of a convolution over blocked channels: a few output positions of one row times one or two
//! blocks of output channels, in registers over all products.
//!
//! The distance between neighbouring inputs is part of a tile's type, so that every load of an input
//! is one base register and a constant.

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

/// The most output positions of a depthwise tile.
pub(super) const DEPTHWISE_POSITIONS: usize = 8;

/// What is done to sums on their way out: `min(hi, max(lo, sum + bias + residual))`.
#[derive(Copy, Clone)]
pub(super) struct Finish {
    /// Of the first channel of the tile, or null.
    pub bias: *const f32,
    /// Channels that exist from there on.
    pub channels: usize,
    /// Of the first output of the tile, laid out as the outputs are; or null.
    pub residual: *const f32,
    pub lo: f32,
    pub hi: f32,
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
    /// Add to what the outputs hold.
    pub add: bool,
    /// Of the last products of these outputs.
    pub finish: Option<Finish>,
}

/// `R` positions, `V` blocks of channels, inputs at distance `P`.
struct Dense<const R: usize, const V: usize, const P: usize>(Tile);

impl<const R: usize, const V: usize, const P: usize> Kernel for Dense<R, V, P> {
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
        let mut acc = [[s.zero(); V]; R];
        // SAFETY: whoever makes a tile proves that its inputs, weights and outputs exist.
        unsafe {
            if t.add {
                load_tile(s, t.y, t.y_step, &mut acc);
            }
            let (mut xp, mut wp) = (t.x, t.w);
            for plane in 0..t.counts[0] {
                let terms = if plane + 1 == t.counts[0] { t.last_terms } else { t.terms };
                let (mut xr, mut wr) = (xp, wp);
                for _ in 0..t.counts[1] {
                    let (mut xc, mut wc) = (xr, wr);
                    for _ in 0..t.counts[2] {
                        let (mut x, mut w) = (xc, wc);
                        for _ in 0..terms {
                            let mut row = [s.zero(); V];
                            for (v, row) in row.iter_mut().enumerate() {
                                *row = s.load(w.add(v * S::LANES));
                            }
                            for (r, acc) in acc.iter_mut().enumerate() {
                                let x = s.splat(*x.add(r * step));
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
                finish(s, f, t.y_step, &mut acc);
            }
            store_tile(s, t.y, t.y_step, &acc);
        }
    }
}

/// `R` positions of one block of channels that do not mix; inputs at distance `P`.
struct Depthwise<const R: usize, const P: usize>(Tile);

impl<const R: usize, const P: usize> Kernel for Depthwise<R, P> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let t = self.0;
        let step = if P == BLOCK { S::LANES } else { 2 * S::LANES };
        let mut acc = [[s.zero(); 1]; R];
        // SAFETY: whoever makes a tile proves that its inputs, weights and outputs exist.
        unsafe {
            if t.add {
                load_tile(s, t.y, t.y_step, &mut acc);
            }
            let (mut xr, mut wr) = (t.x, t.w);
            for _ in 0..t.counts[1] {
                let (mut x, mut w) = (xr, wr);
                for _ in 0..t.counts[2] {
                    let k = s.load(w);
                    for (r, acc) in acc.iter_mut().enumerate() {
                        acc[0] = s.mul_add(s.load(x.add(r * step)), k, acc[0]);
                    }
                    x = x.wrapping_add(t.x_steps[2]);
                    w = w.wrapping_add(t.w_steps[2]);
                }
                xr = xr.wrapping_add(t.x_steps[1]);
                wr = wr.wrapping_add(t.w_steps[1]);
            }
            if let Some(f) = t.finish {
                finish(s, f, t.y_step, &mut acc);
            }
            store_tile(s, t.y, t.y_step, &acc);
        }
    }
}

/// # Safety
/// `y` reaches the tile.
#[inline(always)]
unsafe fn load_tile<S: Simd, const R: usize, const V: usize>(
    s: S,
    y: *const f32,
    step: usize,
    acc: &mut [[S::F; V]; R],
) {
    for (r, acc) in acc.iter_mut().enumerate() {
        for (v, acc) in acc.iter_mut().enumerate() {
            // SAFETY: passed on to the caller.
            *acc = unsafe { s.load(y.add(v * step + r * S::LANES)) };
        }
    }
}

/// # Safety
/// `y` reaches the tile.
#[inline(always)]
unsafe fn store_tile<S: Simd, const R: usize, const V: usize>(
    s: S,
    y: *mut f32,
    step: usize,
    acc: &[[S::F; V]; R],
) {
    for (r, acc) in acc.iter().enumerate() {
        for (v, acc) in acc.iter().enumerate() {
            // SAFETY: passed on to the caller.
            unsafe { s.store(y.add(v * step + r * S::LANES), *acc) };
        }
    }
}

/// # Safety
/// Bias and residual, if any, reach the tile.
#[inline(always)]
unsafe fn finish<S: Simd, const R: usize, const V: usize>(
    s: S,
    f: Finish,
    step: usize,
    acc: &mut [[S::F; V]; R],
) {
    let (lo, hi) = (s.splat(f.lo), s.splat(f.hi));
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
            for (v, acc) in acc.iter_mut().enumerate() {
                // SAFETY: passed on to the caller.
                *acc = s.add(*acc, unsafe { s.load(f.residual.add(v * step + r * S::LANES)) });
            }
        }
    }
    for acc in acc.iter_mut() {
        for acc in acc.iter_mut() {
            *acc = s.min(hi, s.max(lo, *acc));
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
                Dense::<R, $v, $p>(t)
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

/// Runs a depthwise tile of `n` positions and inputs at `distance`.
///
/// # Safety
/// As for [`run`].
#[inline(always)]
pub(super) unsafe fn run_depthwise<S: Simd>(s: S, n: usize, distance: usize, t: Tile) {
    match distance {
        BLOCK => choose!(s, n, DEPTHWISE_POSITIONS, [1 2 3 4 5 6 7 8], |R| {
            Depthwise::<R, BLOCK>(t)
        }),
        _ => choose!(s, n, DEPTHWISE_POSITIONS, [1 2 3 4 5 6 7 8], |R| {
            Depthwise::<R, TWO_BLOCKS>(t)
        }),
    }
}
