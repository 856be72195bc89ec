//! Pixels.

use crate::yuv;
use deepseek_graph::ops::MAX_IMAGE_SIDE;
use deepseek_tensor::{Result, Tensor, bail, ensure, err};

/// An image: RGB, 8 bits a channel, rows from the top. Clones share the pixels.
#[derive(Clone, Debug)]
pub struct Image {
    /// `u8[height, width, 3]`.
    pixels: Tensor,
}

/// How pixels lie in a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PixelLayout {
    /// Three bytes a pixel: red, green, blue.
    Rgb,
    /// Three bytes a pixel: blue, green, red.
    Bgr,
    /// Four bytes a pixel: red, green, blue, alpha, which is dropped.
    Rgba,
    /// One byte a pixel.
    Gray,
    /// A plane of luma, then one of half the width and height with pairs of blue and red differences. BT.601, limited
    /// range, with the bits of OpenCV's `COLOR_YUV2RGB_NV12`.
    Nv12,
    /// A plane of luma, then one each of blue and red differences of half the width and height; otherwise as NV12.
    I420,
}

/// A plane of a raw image: bytes, and how many of them lie between the beginnings of two rows.
#[derive(Clone, Copy, Debug)]
pub struct Plane<'a> {
    /// The bytes; what lies beyond the last row is not looked at.
    pub data: &'a [u8],
    /// Bytes from row to row.
    pub stride: usize,
}

impl PixelLayout {
    /// Every layout.
    pub const ALL: [PixelLayout; 6] = [
        PixelLayout::Rgb,
        PixelLayout::Bgr,
        PixelLayout::Rgba,
        PixelLayout::Gray,
        PixelLayout::Nv12,
        PixelLayout::I420,
    ];

    /// Upper-case name, e.g. `NV12`.
    pub fn name(self) -> &'static str {
        match self {
            PixelLayout::Rgb => "RGB",
            PixelLayout::Bgr => "BGR",
            PixelLayout::Rgba => "RGBA",
            PixelLayout::Gray => "GRAY",
            PixelLayout::Nv12 => "NV12",
            PixelLayout::I420 => "I420",
        }
    }

    /// The layout of this name, in any case.
    ///
    /// # Errors
    /// `InvalidArgument` listing the names.
    pub fn by_name(name: &str) -> Result<Self> {
        PixelLayout::ALL.into_iter().find(|l| l.name().eq_ignore_ascii_case(name)).ok_or_else(
            || {
                let known = PixelLayout::ALL.map(PixelLayout::name).join(", ");
                err!(InvalidArgument, "'{name}' is no layout of pixels; known are {known}")
            },
        )
    }

    /// Bytes of a pixel in the first plane.
    fn bytes(self) -> usize {
        match self {
            PixelLayout::Rgb | PixelLayout::Bgr => 3,
            PixelLayout::Rgba => 4,
            PixelLayout::Gray | PixelLayout::Nv12 | PixelLayout::I420 => 1,
        }
    }

    /// Bytes of a row, and rows, of each plane.
    fn planes(self, width: usize, height: usize) -> Vec<[usize; 2]> {
        let (half_w, half_h) = (width.div_ceil(2), height.div_ceil(2));
        let mut planes = vec![[width * self.bytes(), height]];
        match self {
            PixelLayout::Nv12 => planes.push([2 * half_w, half_h]),
            PixelLayout::I420 => planes.extend([[half_w, half_h]; 2]),
            _ => {}
        }
        planes
    }
}

impl Image {
    /// An image of `width · height` pixels from a buffer in which the planes follow each other, rows `stride` bytes apart;
    /// 0 means without gaps. Chroma rows of I420 are half as far apart.
    ///
    /// # Errors
    /// As [`Image::from_planes`].
    pub fn from_raw(
        layout: PixelLayout,
        width: usize,
        height: usize,
        stride: usize,
        data: &[u8],
    ) -> Result<Self> {
        check_extents(width, height)?;
        let mut rest = data;
        let mut planes = Vec::new();
        for (i, [row, rows]) in layout.planes(width, height).into_iter().enumerate() {
            let stride = match (stride, layout) {
                (0, _) => row,
                (stride, PixelLayout::I420) if i > 0 => stride.div_ceil(2),
                (stride, _) => stride,
            };
            planes.push(Plane { data: rest, stride });
            let bytes = stride.saturating_mul(rows).min(rest.len());
            rest = &rest[bytes..];
        }
        Image::from_planes(layout, width, height, &planes)
    }

    /// An image of `width · height` pixels from its planes: one, two for NV12, three for I420.
    ///
    /// # Errors
    /// `InvalidArgument` for a wrong number of planes, a width or height out of range or odd where chroma is
    /// halved, a stride that is less than a row, or a plane that is too small, naming both sizes.
    pub fn from_planes(
        layout: PixelLayout,
        width: usize,
        height: usize,
        planes: &[Plane],
    ) -> Result<Self> {
        check_extents(width, height)?;
        let name = layout.name();
        let want = layout.planes(width, height);
        ensure!(
            planes.len() == want.len(),
            InvalidArgument,
            "{name} has {} planes, got {}",
            want.len(),
            planes.len()
        );
        ensure!(
            want.len() == 1 || (width.is_multiple_of(2) && height.is_multiple_of(2)),
            InvalidArgument,
            "{name} images have even extents, got {width} × {height}"
        );
        for (i, (plane, [row, rows])) in planes.iter().zip(want).enumerate() {
            ensure!(
                plane.stride >= row,
                InvalidArgument,
                "plane {i} of {name}: {width} pixels take {row} bytes, the stride is {}",
                plane.stride
            );
            let need = plane.stride.checked_mul(rows - 1).and_then(|n| n.checked_add(row));
            ensure!(
                need.is_some_and(|n| plane.data.len() >= n),
                InvalidArgument,
                "plane {i} of {name}: {rows} rows of stride {} need {} bytes, got {}",
                plane.stride,
                need.map_or_else(|| "too many".to_owned(), |n| n.to_string()),
                plane.data.len()
            );
        }
        let mut pixels = buffer(width * height * 3)?;
        match layout {
            PixelLayout::Nv12 => {
                let chroma = |y: usize| &planes[1].data[y / 2 * planes[1].stride..][..width];
                yuv::to_rgb(planes[0], width, &mut pixels, |y, x| {
                    let pair = &chroma(y)[2 * x..];
                    (pair[0], pair[1])
                });
            }
            PixelLayout::I420 => {
                let at = |p: Plane, y: usize, x: usize| p.data[y / 2 * p.stride + x];
                yuv::to_rgb(planes[0], width, &mut pixels, |y, x| {
                    (at(planes[1], y, x), at(planes[2], y, x))
                });
            }
            _ => {
                let n = layout.bytes();
                for (y, out) in pixels.chunks_exact_mut(width * 3).enumerate() {
                    let row = &planes[0].data[y * planes[0].stride..][..width * n];
                    copy_row(layout, row, out);
                }
            }
        }
        Image::new(width, height, pixels)
    }

    /// An image of RGB bytes without gaps.
    pub(crate) fn new(width: usize, height: usize, pixels: Vec<u8>) -> Result<Self> {
        check_extents(width, height)?;
        Ok(Image { pixels: Tensor::from_vec(&[height, width, 3], pixels)? })
    }

    /// Pixels of a row.
    pub fn width(&self) -> usize {
        self.pixels.shape()[1]
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.pixels.shape()[0]
    }

    /// `u8[height, width, 3]`, RGB.
    pub fn tensor(&self) -> &Tensor {
        &self.pixels
    }

    /// RGB bytes, without gaps.
    ///
    /// # Errors
    /// None that an image has; those of [`Tensor::as_slice`].
    pub fn bytes(&self) -> Result<&[u8]> {
        self.pixels.as_slice::<u8>()
    }
}

fn copy_row(layout: PixelLayout, row: &[u8], out: &mut [u8]) {
    match layout {
        PixelLayout::Rgb => out.copy_from_slice(row),
        PixelLayout::Bgr => {
            for (to, from) in out.chunks_exact_mut(3).zip(row.chunks_exact(3)) {
                to.copy_from_slice(&[from[2], from[1], from[0]]);
            }
        }
        PixelLayout::Rgba => {
            for (to, from) in out.chunks_exact_mut(3).zip(row.chunks_exact(4)) {
                to.copy_from_slice(&from[..3]);
            }
        }
        _ => {
            for (to, from) in out.chunks_exact_mut(3).zip(row) {
                to.fill(*from);
            }
        }
    }
}

/// Memory for pixels.
pub(crate) fn buffer(bytes: usize) -> Result<Vec<u8>> {
    let mut v = Vec::new();
    v.try_reserve_exact(bytes)
        .map_err(|_| err!(OutOfMemory, "{bytes} bytes of pixels; use smaller images"))?;
    v.resize(bytes, 0);
    Ok(v)
}

pub(crate) fn check_extents(width: usize, height: usize) -> Result<()> {
    let limit = MAX_IMAGE_SIDE as usize;
    if width == 0 || height == 0 {
        bail!(InvalidArgument, "an image of {width} × {height} has no pixels");
    }
    ensure!(
        width <= limit && height <= limit,
        InvalidArgument,
        "an image of {width} × {height} exceeds {limit} pixels a side"
    );
    Ok(())
}
