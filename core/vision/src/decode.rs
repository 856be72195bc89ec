//! Image files to pixels.
//!
//! The bytes of a file come from anywhere. What an image will take is read from its header and held against [`Limits`]
//! before memory is asked for; a file that ends early is an error, not half an image.

use crate::exif;
use crate::image::{Image, buffer};
use deepseek_tensor::{Result, bail, ensure, err};
use std::io::Cursor;
use std::path::Path;
use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;

/// What an image file may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Greatest width and height, in pixels.
    pub max_side: usize,
    /// Most pixels; decoding takes about 3 bytes for each, and up to 12 for progressive JPEG.
    pub max_pixels: usize,
    /// Largest file, in bytes.
    pub max_file_bytes: u64,
}

impl Default for Limits {
    /// 32,767 pixels a side, 2^26 (67 million) pixels, 256 MiB.
    fn default() -> Self {
        Limits { max_side: 32_767, max_pixels: 1 << 26, max_file_bytes: 256 << 20 }
    }
}

impl Limits {
    fn check(&self, width: usize, height: usize) -> Result<()> {
        ensure!(width > 0 && height > 0, InvalidFile, "an image of {width} × {height} is empty");
        ensure!(
            width <= self.max_side && height <= self.max_side,
            InvalidFile,
            "an image of {width} × {height} exceeds the limit of {} pixels a side",
            self.max_side
        );
        ensure!(
            width.saturating_mul(height) <= self.max_pixels,
            InvalidFile,
            "an image of {width} × {height} exceeds the limit of {} pixels",
            self.max_pixels
        );
        Ok(())
    }

    fn options(&self) -> DecoderOptions {
        DecoderOptions::default()
            .set_max_width(self.max_side)
            .set_max_height(self.max_side)
            .set_strict_mode(true)
    }
}

impl Image {
    /// Reads a JPEG, PNG, WebP or BMP file. Pixels are turned as its Exif orientation says; transparency is dropped.
    ///
    /// # Errors
    /// `Io` naming the path; otherwise as [`Image::decode`].
    pub fn open(path: impl AsRef<Path>, limits: &Limits) -> Result<Image> {
        let path = path.as_ref();
        let io = |e: std::io::Error| {
            err!(Io, "cannot read '{}': {e}; check the path and its permissions", path.display())
        };
        let bytes = std::fs::metadata(path).map_err(io)?.len();
        ensure!(
            bytes <= limits.max_file_bytes,
            InvalidFile,
            "{}: {bytes} bytes exceed the limit of {}",
            path.display(),
            limits.max_file_bytes
        );
        let bytes = std::fs::read(path).map_err(io)?;
        Image::decode(&bytes, limits).map_err(|e| e.context(path.display()))
    }

    /// As [`Image::open`], from the bytes of a file. The format is told by its first bytes.
    ///
    /// # Errors
    /// `Unsupported` for another format; `InvalidFile` for a damaged or truncated file, an image without pixels, or one
    /// that exceeds `limits`, naming both sides; `OutOfMemory`.
    pub fn decode(bytes: &[u8], limits: &Limits) -> Result<Image> {
        ensure!(
            bytes.len() as u64 <= limits.max_file_bytes,
            InvalidFile,
            "{} bytes exceed the limit of {}",
            bytes.len(),
            limits.max_file_bytes
        );
        let (name, decoded) = match bytes {
            [0xff, 0xd8, ..] => ("JPEG", jpeg(bytes, limits)),
            [0x89, b'P', b'N', b'G', ..] => ("PNG", png(bytes, limits)),
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => {
                ("WebP", webp(bytes, limits))
            }
            [b'B', b'M', ..] => ("BMP", bmp(bytes, limits)),
            [] => bail!(InvalidFile, "the image file is empty"),
            _ => bail!(
                Unsupported,
                "the bytes are no JPEG, PNG, WebP or BMP file; convert the image to one of these"
            ),
        };
        decoded.map_err(|e| e.context(name))
    }
}

fn damaged(e: impl std::fmt::Debug) -> deepseek_tensor::Error {
    err!(InvalidFile, "the file is damaged or truncated: {e:?}")
}

fn jpeg(bytes: &[u8], limits: &Limits) -> Result<Image> {
    let options = limits.options().jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = zune_jpeg::JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    // The frame header first: the decoder's own limits do not name both sides.
    if let Some((width, height)) = jpeg_extents(bytes) {
        limits.check(width, height)?;
    }
    decoder.decode_headers().map_err(damaged)?;
    let (width, height) = decoder.dimensions().ok_or_else(|| damaged("no frame"))?;
    limits.check(width, height)?;
    let need = decoder.output_buffer_size().ok_or_else(|| damaged("no frame"))?;
    ensure!(need == width * height * 3, InvalidFile, "{need} bytes of {width} × {height} pixels");
    // A scan that stops early leaves the rest as it was; the end marker says that nothing is missing.
    ensure!(
        bytes.windows(2).rev().take(1 << 16).any(|w| w == [0xff, 0xd9]),
        InvalidFile,
        "the file is truncated: there is no end marker"
    );
    let mut pixels = buffer(need)?;
    decoder.decode_into(&mut pixels).map_err(damaged)?;
    let orientation = decoder.exif().map_or(1, |e| exif::orientation(e));
    let (width, height, pixels) = exif::upright(orientation, width, height, pixels)?;
    Image::new(width, height, pixels)
}

/// Width and height in the first frame header.
fn jpeg_extents(bytes: &[u8]) -> Option<(usize, usize)> {
    let short =
        |at: usize| Some(usize::from(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?)));
    let mut at = 2;
    loop {
        match (bytes.get(at)?, *bytes.get(at + 1)?) {
            (0xff, 0xff) => at += 1,
            (0xff, 0xc4 | 0xc8 | 0xcc | 0xd0..=0xd9) => at += 2 + short(at + 2)?,
            (0xff, 0xc0..=0xcf) => return Some((short(at + 7)?, short(at + 5)?)),
            (0xff, _) => at += 2 + short(at + 2)?,
            _ => return None,
        }
    }
}

fn png(bytes: &[u8], limits: &Limits) -> Result<Image> {
    let mut decoder = png::Decoder::new(Cursor::new(bytes));
    let bound = limits.max_pixels.saturating_mul(8).saturating_add(1 << 24);
    decoder.set_limits(png::Limits { bytes: bound });
    decoder.set_transformations(png::Transformations::EXPAND | png::Transformations::STRIP_16);
    let header = decoder.read_header_info().map_err(damaged)?;
    let (width, height) = (header.width as usize, header.height as usize);
    limits.check(width, height)?;
    let mut reader = decoder.read_info().map_err(damaged)?;
    let need = reader.output_buffer_size().ok_or_else(|| damaged("size"))?;
    let mut raw = buffer(need)?;
    let frame = reader.next_frame(&mut raw).map_err(damaged)?;
    ensure!(
        (frame.width as usize, frame.height as usize) == (width, height),
        Unsupported,
        "an animation whose first frame is a part of the image; save it as a still"
    );
    let orientation = reader.info().exif_metadata.as_ref().map_or(1, |e| exif::orientation(e));
    let pixels = match reader.output_color_type() {
        (png::ColorType::Rgb, _) => raw,
        (png::ColorType::Rgba, _) => spread(&raw, 4, width * height, |p| [p[0], p[1], p[2]])?,
        (png::ColorType::Grayscale, _) => spread(&raw, 1, width * height, |p| [p[0]; 3])?,
        (png::ColorType::GrayscaleAlpha, _) => spread(&raw, 2, width * height, |p| [p[0]; 3])?,
        (png::ColorType::Indexed, _) => bail!(InvalidFile, "a palette that could not be applied"),
    };
    let (width, height, pixels) = exif::upright(orientation, width, height, pixels)?;
    Image::new(width, height, pixels)
}

fn webp(bytes: &[u8], limits: &Limits) -> Result<Image> {
    let mut decoder = image_webp::WebPDecoder::new(Cursor::new(bytes)).map_err(damaged)?;
    let (width, height) = decoder.dimensions();
    let (width, height) = (width as usize, height as usize);
    limits.check(width, height)?;
    decoder.set_memory_limit(limits.max_pixels.saturating_mul(16).saturating_add(1 << 24));
    ensure!(!decoder.is_animated(), Unsupported, "an animation; save its frames as stills");
    let channels = if decoder.has_alpha() { 4 } else { 3 };
    let need = decoder.output_buffer_size().ok_or_else(|| damaged("size"))?;
    let mut raw = buffer(need)?;
    decoder.read_image(&mut raw).map_err(damaged)?;
    let orientation =
        decoder.exif_metadata().map_err(damaged)?.map_or(1, |e| exif::orientation(&e));
    let pixels = match channels {
        3 => raw,
        _ => spread(&raw, 4, width * height, |p| [p[0], p[1], p[2]])?,
    };
    let (width, height, pixels) = exif::upright(orientation, width, height, pixels)?;
    Image::new(width, height, pixels)
}

fn bmp(bytes: &[u8], limits: &Limits) -> Result<Image> {
    let mut decoder = zune_bmp::BmpDecoder::new_with_options(ZCursor::new(bytes), limits.options());
    if let Some((width, height)) = bmp_extents(bytes) {
        limits.check(width, height)?;
    }
    decoder.decode_headers().map_err(damaged)?;
    let (width, height) = decoder.dimensions().ok_or_else(|| damaged("no header"))?;
    limits.check(width, height)?;
    let need = decoder.output_buf_size().ok_or_else(|| damaged("size"))?;
    let space = decoder.colorspace().ok_or_else(|| damaged("no colours"))?;
    let mut raw = buffer(need)?;
    decoder.decode_into(&mut raw).map_err(damaged)?;
    let n = width * height;
    let pixels = match space {
        ColorSpace::RGB => raw,
        ColorSpace::RGBA => spread(&raw, 4, n, |p| [p[0], p[1], p[2]])?,
        ColorSpace::Luma => spread(&raw, 1, n, |p| [p[0]; 3])?,
        other => bail!(Unsupported, "pixels of the kind {other:?}; save the image as RGB"),
    };
    Image::new(width, height, pixels)
}

/// Width and height in the header, whatever its version.
fn bmp_extents(bytes: &[u8]) -> Option<(usize, usize)> {
    let word = |at: usize| {
        let b: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
        Some(i32::from_le_bytes(b).unsigned_abs() as usize)
    };
    // The version of 1985 has shorts.
    (word(14)? > 12).then_some((word(18)?, word(22)?))
}

/// Pixels of `from` bytes to RGB.
fn spread(
    raw: &[u8],
    from: usize,
    pixels: usize,
    rgb: impl Fn(&[u8]) -> [u8; 3],
) -> Result<Vec<u8>> {
    ensure!(
        raw.len() == from * pixels,
        InvalidFile,
        "{} bytes for {pixels} pixels of {from} bytes",
        raw.len()
    );
    let mut out = buffer(3 * pixels)?;
    for (to, pixel) in out.chunks_exact_mut(3).zip(raw.chunks_exact(from)) {
        to.copy_from_slice(&rgb(pixel));
    }
    Ok(out)
}
