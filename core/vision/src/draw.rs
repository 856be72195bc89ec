//! Results drawn over an image.
//!
//! Boxes get a colour a class and a label with the class and its score; key points are dots. Pictures are for people: what
//! programs need is in [`Prediction`].

use crate::image::Image;
use crate::pipeline::Prediction;
use deepseek_tensor::{Result, err};
use font8x8::legacy::BASIC_LEGACY;

/// Side of a character, in dots.
const GLYPH: usize = 8;

/// Colours that stay apart for most eyes (Okabe and Ito).
const COLORS: [[u8; 3]; 7] = [
    [230, 159, 0],
    [86, 180, 233],
    [0, 158, 115],
    [240, 228, 66],
    [0, 114, 178],
    [213, 94, 0],
    [204, 121, 167],
];

/// Pixels that are drawn on.
struct Canvas {
    width: usize,
    height: usize,
    pixels: Vec<u8>,
}

impl Canvas {
    /// Fills the pixels from `(x0, y0)` up to `(x1, y1)`, as far as they lie on the image.
    fn fill(&mut self, [x0, y0, x1, y1]: [i64; 4], color: [u8; 3]) {
        let clamp = |v: i64, n: usize| v.clamp(0, n as i64) as usize;
        let (x0, x1) = (clamp(x0, self.width), clamp(x1, self.width));
        for y in clamp(y0, self.height)..clamp(y1, self.height) {
            for x in x0..x1 {
                self.pixels[(y * self.width + x) * 3..][..3].copy_from_slice(&color);
            }
        }
    }

    fn frame(&mut self, [x0, y0, x1, y1]: [i64; 4], line: i64, color: [u8; 3]) {
        self.fill([x0, y0, x1, y0 + line], color);
        self.fill([x0, y1 - line, x1, y1], color);
        self.fill([x0, y0, x0 + line, y1], color);
        self.fill([x1 - line, y0, x1, y1], color);
    }

    /// Writes a line of text on a ground of `color`, its top left at `(x, y)`.
    fn label(&mut self, text: &str, x: i64, y: i64, dot: i64, color: [u8; 3]) {
        let glyph = GLYPH as i64 * dot;
        let width = text.chars().count() as i64 * glyph;
        self.fill([x, y, x + width + 2 * dot, y + glyph + 2 * dot], color);
        let light = u32::from(color[0]) * 3 + u32::from(color[1]) * 6 + u32::from(color[2]);
        let ink = if light > 1280 { [0; 3] } else { [255; 3] };
        for (i, c) in text.chars().enumerate() {
            let shape = BASIC_LEGACY.get(c as usize).unwrap_or(&BASIC_LEGACY[usize::from(b'?')]);
            for (row, bits) in shape.iter().enumerate() {
                for col in (0..GLYPH).filter(|col| bits >> col & 1 == 1) {
                    let left = x + dot + i as i64 * glyph + col as i64 * dot;
                    let top = y + dot + row as i64 * dot;
                    self.fill([left, top, left + dot, top + dot], ink);
                }
            }
        }
    }
}

/// The image with what was found in it. `labels` names classes by number; where there is none, the number stands.
///
/// # Errors
/// `OutOfMemory`.
pub fn overlay(image: &Image, found: &Prediction, labels: &[String]) -> Result<Image> {
    let (width, height) = (image.width(), image.height());
    let mut canvas = Canvas { width, height, pixels: image.bytes()?.to_vec() };
    let dot = (width.min(height) as i64 / 480).max(1);
    let line = (width.min(height) as i64 / 240).max(1);
    let name = |class: usize| labels.get(class).cloned().unwrap_or_else(|| class.to_string());
    let text = |class: usize, score: f32| format!("{} {score:.2}", name(class));
    // The best last, on top.
    for d in found.detections.iter().rev() {
        let color = COLORS[d.class % COLORS.len()];
        let [x0, y0, x1, y1] = d.corners.map(|v| v.round() as i64);
        canvas.frame([x0, y0, x1, y1], line, color);
        let tall = (GLYPH as i64 + 2) * dot;
        let y = if y0 >= tall { y0 - tall } else { y0 };
        canvas.label(&text(d.class, d.score), x0, y, dot, color);
        for p in d.keypoints.iter().filter(|p| p.get(2).is_none_or(|&seen| seen > 0.5)) {
            let (x, y, r) = (p[0].round() as i64, p[1].round() as i64, 2 * line);
            canvas.fill([x - r, y - r, x + r, y + r], color);
        }
    }
    for (i, c) in found.classes.iter().enumerate() {
        let y = i as i64 * (GLYPH as i64 + 3) * dot;
        canvas.label(&text(c.class, c.score), 0, y, dot, COLORS[c.class % COLORS.len()]);
    }
    Image::new(width, height, canvas.pixels)
}

/// The image as a PNG file.
///
/// # Errors
/// `OutOfMemory` if the encoder fails.
pub fn to_png(image: &Image) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    let failed = |e: png::EncodingError| err!(OutOfMemory, "cannot encode the PNG file: {e}");
    let mut encoder = png::Encoder::new(&mut out, image.width() as u32, image.height() as u32);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::Fast);
    let mut writer = encoder.write_header().map_err(failed)?;
    writer.write_image_data(image.bytes()?).map_err(failed)?;
    writer.finish().map_err(failed)?;
    Ok(out)
}
