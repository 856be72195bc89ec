//! Luma and colour differences to RGB.
//!
//! ITU-R BT.601, limited range, in fixed point of 20 bits as OpenCV computes it (`COLOR_YUV2RGB_NV12` and relatives): four
//! pixels share a pair of differences, nothing is interpolated.

use crate::image::Plane;

const BITS: u32 = 20;
const HALF: i32 = 1 << (BITS - 1);
/// 255 / 219, and what the differences add to red, green and blue, times 2^20.
const LUMA: i32 = 1_220_542;
const RED_V: i32 = 1_673_527;
const GREEN_V: i32 = -852_492;
const GREEN_U: i32 = -409_993;
const BLUE_U: i32 = 2_116_026;

/// Fills `out`, rows of `width` RGB pixels; `chroma(y, x)` gives the differences (U, V) of pixel `(2x, y)`.
pub(crate) fn to_rgb(
    luma: Plane,
    width: usize,
    out: &mut [u8],
    chroma: impl Fn(usize, usize) -> (u8, u8),
) {
    for (y, out) in out.chunks_exact_mut(3 * width).enumerate() {
        let row = &luma.data[y * luma.stride..][..width];
        for (x, (luma, out)) in row.chunks(2).zip(out.chunks_mut(6)).enumerate() {
            let (u, v) = chroma(y, x);
            let (u, v) = (i32::from(u) - 128, i32::from(v) - 128);
            let add = [RED_V * v, GREEN_V * v + GREEN_U * u, BLUE_U * u].map(|a| a + HALF);
            for (luma, out) in luma.iter().zip(out.chunks_exact_mut(3)) {
                let base = (i32::from(*luma) - 16).max(0) * LUMA;
                for (out, add) in out.iter_mut().zip(add) {
                    *out = ((base + add) >> BITS).clamp(0, 255) as u8;
                }
            }
        }
    }
}
