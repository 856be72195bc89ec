//! Scores to exponentials, on panels `[key][lane]`. Scores are in units of `log2 e`: the exponential
//! of a score is two to its power.

use std::f32::consts::LOG2_E;

use super::task::{Lanes, MAX_WIDTH};
use super::{AttentionOptions, Mask};
use crate::math;
use crate::simd::{Kernel, Simd};

/// How far a score may rise above what exponentials are taken against before sums are rescaled: they
/// stay below `2^8` times the keys seen.
const RISE: f32 = 8.0;

/// What queries are multiplied with, so that their products with keys are scores, or where those are
/// capped, the argument of the hyperbolic tangent.
pub(super) fn unit(options: &AttentionOptions<'_>) -> f32 {
    match options.softcap {
        Some(cap) => options.scale / cap,
        None => options.scale * LOG2_E,
    }
}

/// Caps, biases and hides scores; gives whether any lane sees any of these keys.
pub(super) struct Visible<'a, const V: usize> {
    pub options: &'a AttentionOptions<'a>,
    pub lanes: &'a Lanes,
    pub j0: usize,
    pub keys: usize,
    /// `[key][lane]`, in and out.
    pub scores: *mut f32,
    /// The largest score of each lane, in and out.
    pub max: *mut f32,
}

impl<const V: usize> Kernel for Visible<'_, V> {
    type Output = bool;
    #[inline(always)]
    fn call<S: Simd>(self, s: S) -> bool {
        let Visible { options, lanes, j0, keys, scores, max } = self;
        let width = V * S::LANES;
        let hidden = s.splat(f32::NEG_INFINITY);
        let mut seen = false;
        // SAFETY: the panel's scores are `keys` by `width`, `max` is one row; the mask was checked to
        // reach every key of every row, and lanes without a row read that of another.
        unsafe {
            let mut largest = [hidden; V];
            let by_position = options.band.is_some() || lanes.high[0] < (j0 + keys) as f32;
            let mut bias = [0.0f32; MAX_WIDTH];
            for jj in 0..keys {
                let j = j0 + jj;
                let position = s.splat(j as f32);
                match options.mask {
                    Mask::None => {}
                    Mask::Add(m, st) if lanes.shared => {
                        bias[..width].fill(*m.get_unchecked(lanes.mask[0] + j * st[3]));
                    }
                    Mask::Add(m, st) => {
                        for (bias, row) in bias.iter_mut().zip(lanes.mask).take(width) {
                            *bias = *m.get_unchecked(row + j * st[3]);
                        }
                    }
                    Mask::Keep(m, st) => {
                        for (bias, row) in bias.iter_mut().zip(lanes.mask).take(width) {
                            let keep = *m.get_unchecked(row + j * st[3]);
                            *bias = if keep { 0.0 } else { f32::NEG_INFINITY };
                        }
                    }
                }
                for (v, largest) in largest.iter_mut().enumerate() {
                    let at = v * S::LANES;
                    let p = scores.add(jj * width + at);
                    let mut x = s.load(p);
                    if let Some(cap) = options.softcap {
                        x = s.mul(s.splat(cap * LOG2_E), math::tanh(s, x));
                    }
                    if !matches!(options.mask, Mask::None) {
                        // The lowest number is often meant as minus infinity, but rows that have
                        // nothing else are the mean of their values: it must stay a number.
                        let b = s.load(bias.as_ptr().add(at));
                        let scaled = s.max(s.splat(f32::MIN), s.mul(b, s.splat(LOG2_E)));
                        x = s.add(x, s.select(s.eq(b, hidden), hidden, scaled));
                    }
                    if by_position {
                        let low = s.load(lanes.low.as_ptr().add(at));
                        let high = s.load(lanes.high.as_ptr().add(at));
                        x = s.select(s.lt(position, high), x, hidden);
                        x = s.select(s.le(low, position), x, hidden);
                    }
                    s.store(p, x);
                    seen |= s.any(s.unordered(x, x));
                    *largest = s.max(*largest, x);
                }
            }
            for (v, m) in largest.into_iter().enumerate() {
                seen |= s.any(s.lt(hidden, m));
                let max = max.add(v * S::LANES);
                s.store(max, s.max(s.load(max), m));
            }
        }
        seen
    }
}

/// Scores to exponentials and their sums. Exponentials of a lane are taken against a score that
/// follows the largest one in steps of at least [`RISE`]; gives whether it moved for any lane, and
/// then what earlier results are to be multiplied with.
pub(super) struct Exponentials<const V: usize> {
    pub keys: usize,
    /// `[key][lane]`: scores in, exponentials out.
    pub scores: *mut f32,
    /// The largest score of each lane.
    pub max: *const f32,
    /// `[2][lane]`: what exponentials are taken against, and their sum.
    pub state: *mut f32,
    /// Out, `[lane]`.
    pub correction: *mut f32,
}

impl<const V: usize> Kernel for Exponentials<V> {
    type Output = bool;
    #[inline(always)]
    fn call<S: Simd>(self, s: S) -> bool {
        let Exponentials { keys, scores, max, state, correction } = self;
        let width = V * S::LANES;
        let hidden = s.splat(f32::NEG_INFINITY);
        let mut moved = false;
        // SAFETY: the panel's scores are `keys` by `width`, the other arrays one row of lanes, two
        // for the state.
        unsafe {
            let mut base = [s.zero(); V];
            let mut sum = [s.zero(); V];
            for v in 0..V {
                let at = v * S::LANES;
                let (old, max) = (s.load(state.add(at)), s.load(max.add(at)));
                let rises = s.lt(s.add(old, s.splat(RISE)), max);
                moved |= s.any(rises);
                let new = s.select(rises, max, old);
                s.store(state.add(at), new);
                // A lane that has seen nothing yet subtracts zero, so that its exponentials are
                // zero and not NaN.
                base[v] = s.select(s.eq(new, hidden), s.zero(), new);
                let c = math::exp2_unit(s, s.sub(old, base[v]));
                s.store(correction.add(at), c);
                sum[v] = s.mul(s.load(state.add(width + at)), c);
            }
            let mut added = [s.zero(); V];
            for jj in 0..keys {
                for v in 0..V {
                    let p = scores.add(jj * width + v * S::LANES);
                    let e = math::exp2_unit(s, s.sub(s.load(p), base[v]));
                    s.store(p, e);
                    added[v] = s.add(added[v], e);
                }
            }
            for v in 0..V {
                s.store(state.add(width + v * S::LANES), s.add(sum[v], added[v]));
            }
        }
        moved
    }
}
