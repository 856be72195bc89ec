//! Convolution of bytes where each group has one channel in and one out, channels last: no product to
//! speak of, but the same way out. Two taps go at a time as a pair of 16-bit integers, with the zero
//! point taken off the input, so taps in the padding count 0.

use super::int8::{ByteOut, Bytes, Way, WayTile};
use crate::Isa;
use crate::conv::ConvShape;
use crate::gemm::tile;
use crate::parallel::{Parallel, split};
use crate::simd::{Kernel, MAX_LANES, Simd};

/// Output positions whose sums are kept before they leave.
const POSITIONS: usize = 16;

/// Weights `[pairs of taps][channels]`, channels padded to whole panels.
#[derive(Clone, Debug)]
pub(crate) struct Depthwise {
    pairs: Vec<u32>,
    channels: usize,
    padded: usize,
    /// No sums of columns: zero points are taken off both operands.
    zeros: Vec<i32>,
}

impl Depthwise {
    /// `value(channel, tap)` is a weight less its zero point.
    pub(crate) fn new(
        isa: Isa,
        channels: usize,
        taps: usize,
        value: impl Fn(usize, usize) -> i32,
    ) -> Self {
        let padded = channels.next_multiple_of(tile(isa).1);
        let mut pairs = vec![0u32; taps.div_ceil(2) * padded];
        for (p, row) in pairs.chunks_exact_mut(padded.max(1)).enumerate() {
            for (c, pair) in row.iter_mut().enumerate().take(channels) {
                let at = |tap: usize| if tap < taps { value(c, tap) as u16 } else { 0 };
                *pair = u32::from(at(2 * p)) | u32::from(at(2 * p + 1)) << 16;
            }
        }
        Depthwise { pairs, channels, padded, zeros: vec![0; padded] }
    }

    pub(crate) fn bytes(&self) -> usize {
        4 * (self.pairs.len() + self.zeros.len())
    }
}

/// See [`conv_i8`](crate::int8::conv_i8), which checks what goes in.
pub(crate) fn depthwise_i8(
    isa: Isa,
    par: &dyn Parallel,
    shape: &ConvShape,
    x: Bytes<'_>,
    x_zero: i32,
    weights: &Depthwise,
    out: ByteOut<'_>,
) {
    let output = shape.output();
    let m = shape.batch * output.iter().product::<usize>();
    let way = Way::of_sums(m, weights.channels, &weights.zeros, out);
    let taps: usize = shape.kernel.iter().product();
    let step = (1usize << 17).div_ceil((taps * weights.channels).max(1)).max(POSITIONS);
    split(par, m, step, &|first, n| {
        for from in (first..first + n).step_by(POSITIONS) {
            let rows = from..(from + POSITIONS).min(first + n);
            isa.dispatch(Positions { shape, output, x, x_zero, weights, way: &way, rows });
        }
    });
}

struct Positions<'a> {
    shape: &'a ConvShape,
    output: [usize; 3],
    x: Bytes<'a>,
    x_zero: i32,
    weights: &'a Depthwise,
    way: &'a Way<'a>,
    rows: std::ops::Range<usize>,
}

impl Positions<'_> {
    /// First byte of the channels under tap `t` of output position `r`, unless it is padding.
    #[inline(always)]
    fn tap(&self, r: usize, t: usize) -> Option<usize> {
        let (s, [d, h, w]) = (self.shape, self.output);
        let (at, image) = ([r / (w * h) % d, r / w % h, r % w], r / (w * h * d));
        let [_, kh, kw] = s.kernel;
        let tap = [t / (kw * kh), t / kw % kh, t % kw];
        let mut offset = image;
        for i in 0..3 {
            let p = (at[i] * s.stride[i] + tap[i] * s.dilation[i]).wrapping_sub(s.pad_begin[i]);
            if p >= s.input[i] {
                return None;
            }
            offset = offset * s.input[i] + p;
        }
        Some(offset * s.in_channels)
    }
}

impl Kernel for Positions<'_> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        const TAPS: usize = 64;
        let w = self.weights;
        let taps: usize = self.shape.kernel.iter().product();
        let mut sums = [0i32; POSITIONS * 2 * MAX_LANES];
        let zero = s.splat_i(self.x_zero);
        let low = s.splat_i(0xffff);
        let mut at = [[None; TAPS]; POSITIONS];
        // Windows of many taps go in parts.
        for j in (0..w.channels).step_by(S::NR) {
            let cols = j..(j + S::NR).min(w.channels);
            sums.fill(0);
            for part in (0..taps).step_by(TAPS) {
                let count = TAPS.min(taps - part);
                if j == 0 || taps > TAPS {
                    for (at, r) in at.iter_mut().zip(self.rows.clone()) {
                        for (t, at) in at[..count].iter_mut().enumerate() {
                            *at = self.tap(r, part + t);
                        }
                    }
                }
                for (i, at) in at.iter().enumerate().take(self.rows.len()) {
                    for v in [0, S::LANES] {
                        let n = cols.end.saturating_sub(j + v).min(S::LANES);
                        if n == 0 {
                            break;
                        }
                        // SAFETY: positions inside the image have all channels; the sums have
                        // `NR` for each position and the weights whole panels.
                        unsafe {
                            let to = sums.as_mut_ptr().add(i * S::NR + v);
                            let mut acc = s.load_i(to);
                            for p in 0..count.div_ceil(2) {
                                let pair = &at[2 * p..count.min(2 * p + 2)];
                                let mut x = s.splat_i(0);
                                if let Some(first) = pair[0] {
                                    let b = self.bytes(s, first + j + v, n);
                                    x = s.and_i(s.sub_i(b, zero), low);
                                }
                                if let [_, Some(second)] = pair {
                                    let b = self.bytes(s, second + j + v, n);
                                    x = s.or_i(x, s.shl_i::<16>(s.sub_i(b, zero)));
                                }
                                let row = &w.pairs[(part / 2 + p) * w.padded + j + v..];
                                let y = s.load_i(row.as_ptr().cast());
                                acc = s.add_i(acc, s.mul_add_pairs(x, y));
                            }
                            s.store_i(to, acc);
                        }
                    }
                }
            }
            let tile = WayTile {
                way: self.way,
                rows: self.rows.clone(),
                cols,
                sums: sums.as_ptr(),
                row_sums: sums.as_ptr(),
            };
            tile.call(s);
        }
    }
}

impl Positions<'_> {
    /// `n` bytes from `at` on.
    ///
    /// # Safety
    /// The input has them.
    #[inline(always)]
    unsafe fn bytes<S: Simd>(&self, s: S, at: usize, n: usize) -> S::I {
        let from = self.x.raw().as_ptr();
        // SAFETY: as the caller promises; fewer than a vector go through a copy.
        unsafe {
            let mut copy = [0u8; MAX_LANES];
            let mut p = from.add(at);
            if n < S::LANES {
                copy.as_mut_ptr().copy_from_nonoverlapping(p, n);
                p = copy.as_ptr();
            }
            if self.x.signed() { s.load_i8(p.cast()) } else { s.load_u8(p) }
        }
    }
}
