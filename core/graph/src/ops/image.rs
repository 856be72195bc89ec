//! Images as pixels: resampled, placed on a canvas, made into tensors.
//!
//! An image is `u8[height, width, channels]`, row by row from the top left. Beside it goes a *placement*,
//! `f32[6]`: `[scale_x, scale_y, offset_x, offset_y, width, height]`. A point `(x, y)` of the first image, which
//! had `width · height` pixels, lies at `(x · scale_x + offset_x, y · scale_y + offset_y)` in this one; what is found
//! in the last image is so brought back to the first.
//!
//! Resampling is defined by the bits that a named library gives, because models are trained on those bits.

use super::image_decoder::PixelFormat;
use super::util::filled;
use crate::{Dim, EvalArgs, Fact, InferArgs, Operator, Value, attr_enum, op};
use deepseek_tensor::{DType, Result, Tensor, bail, ensure, num_elements};

attr_enum! {
    /// Whose bits [`ImageResize`] gives.
    ImageFilter {
        /// `cv2.resize` with `INTER_LINEAR`: two neighbours in each direction, 11-bit weights. Not antialiased.
        OpencvLinear = "opencv_linear",
        /// `Image.resize` of Pillow 13 with `BILINEAR`: a triangle as wide as the scale, 22-bit weights, which
        /// torchvision's `Resize` uses for images. Each pass rounds to bytes, so their order tells: rows come first where
        /// more than twice as many of them go as of columns, else columns (found by comparison; older versions always
        /// begin with columns).
        PillowBilinear = "pillow_bilinear",
    }
}

attr_enum! {
    /// What the extents of [`ImageResize`] mean.
    ImageFit {
        /// Both are reached; the aspect changes.
        Stretch = "stretch",
        /// The whole image, its aspect kept, in the middle of a canvas of these extents.
        Letterbox = "letterbox",
        /// The shorter side gets `shortest` pixels, the other one follows the aspect; of this, `height · width` pixels
        /// around the middle, as [`ImageCrop`] takes them, or all where these are 0.
        Shortest = "shortest",
    }
}

op! {
    /// The image at another size. Inputs: image, its placement (where absent, it is the first one). Outputs:
    /// image, placement.
    ImageResize {
        height: i64 = 0,
        width: i64 = 0,
        shortest: i64 = 0,
        fit: ImageFit = ImageFit::Stretch,
        filter: ImageFilter = ImageFilter::OpencvLinear,
        /// Value of the pixels around a letterboxed image.
        fill: i64 = 114
    }
}

op! {
    /// `height · width` pixels around the middle of the image; where it is smaller, pixels of `fill` surround it.
    /// A margin that is not even is split as torchvision's `CenterCrop` does: what is cut rounds half to even, what is
    /// added has the lesser half at the top left. Inputs and outputs as [`ImageResize`].
    ImageCrop { height: i64 = 0, width: i64 = 0, fill: i64 = 0 }
}

op! {
    /// The image with pixels of `fill` around it. Inputs and outputs as [`ImageResize`].
    ImagePad { left: i64 = 0, top: i64 = 0, right: i64 = 0, bottom: i64 = 0, fill: i64 = 0 }
}

op! {
    /// `(pixel · scale − mean[c]) / std[c]` as `f32[1, channels, height, width]`, of an image in RGB or with one
    /// channel. A scale that is the nearest number to `1 / n` divides by `n`, as frameworks do; every step rounds
    /// to `f32`. Empty `mean` and `std` are zeros and ones.
    ImageToTensor {
        scale: f32 = 1.0,
        mean: Vec<f32> = vec![],
        std: Vec<f32> = vec![],
        /// Channels of the result; grayscale of RGB is `(19595 R + 38470 G + 7471 B + 2^15) >> 16` (ITU-R BT.601, as
        /// Pillow's `L`).
        color: PixelFormat = PixelFormat::Rgb,
        /// Whether the result is `[1, height, width, channels]`.
        channels_last: bool = false
    }
}

/// Most channels of an image.
const MAX_CHANNELS: i64 = 4;

/// Greatest side of an image, in pixels.
pub const MAX_IMAGE_SIDE: i64 = 1 << 16;

/// Where an image comes to lie on a canvas.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ImageWindow {
    /// Height and width of the image after resampling.
    pub size: [usize; 2],
    /// Row and column of its top left pixel on the canvas; negative where it is cut.
    pub offset: [i64; 2],
    /// Height and width of the canvas.
    pub canvas: [usize; 2],
}

/// For each coordinate of a resampled axis the coordinates that it reads, and their weights.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageTable {
    /// Coordinates read for each output.
    pub taps: usize,
    /// `index[o · taps + t]`: coordinate of tap `t` of output `o`.
    pub index: Vec<u32>,
    /// Fixed-point weights, as `index`.
    pub weight: Vec<i32>,
}

impl ImageWindow {
    /// The part of the canvas that the image covers: rows from, to, columns from, to.
    pub fn covered(&self) -> [usize; 4] {
        let range = |i: usize| {
            let end = self.offset[i] + self.size[i] as i64;
            let limit = self.canvas[i] as i64;
            let from = self.offset[i].clamp(0, limit);
            [from as usize, end.clamp(from, limit) as usize]
        };
        let ([top, bottom], [left, right]) = (range(0), range(1));
        [top, bottom, left, right]
    }

    /// The placement on the canvas of an image whose own is `before`, and which had `from` pixels.
    pub fn place(&self, before: Option<[f32; 6]>, from: [usize; 2]) -> [f32; 6] {
        let [h, w] = from.map(|n| n as f32);
        let [sx, sy, ox, oy, w0, h0] = before.unwrap_or([1.0, 1.0, 0.0, 0.0, w, h]);
        let gain = |i: usize| (self.size[i] as f64 / from[i] as f64) as f32;
        let [gy, gx] = [gain(0), gain(1)];
        let [dy, dx] = self.offset.map(|o| o as f32);
        [sx * gx, sy * gy, ox * gx + dx, oy * gy + dy, w0, h0]
    }
}

impl ImageResize {
    /// Where an image of `from` = `[height, width]` pixels goes.
    ///
    /// # Errors
    /// `InvalidArgument` if it has no pixels, or an extent that is asked for is out of range.
    pub fn window(&self, from: [usize; 2]) -> Result<ImageWindow> {
        expect_pixels(from)?;
        let [h, w] = from.map(|n| n as f64);
        match self.fit {
            ImageFit::Stretch => {
                let size = self.extents()?;
                Ok(ImageWindow { size, offset: [0, 0], canvas: size })
            }
            ImageFit::Shortest => {
                let side = expect_side("shortest", self.shortest)?;
                let other = |long: f64, short: f64| {
                    expect_side("the longer side", (side as f64 * long / short) as i64)
                };
                let size = if w <= h { [other(h, w)?, side] } else { [side, other(w, h)?] };
                match self.is_cut() {
                    true => Ok(centred(size, self.extents()?)),
                    false => Ok(ImageWindow { size, offset: [0, 0], canvas: size }),
                }
            }
            ImageFit::Letterbox => {
                let canvas = self.extents()?;
                let ratio = (canvas[0] as f64 / h).min(canvas[1] as f64 / w);
                let fit = |n: f64| ((n * ratio).round_ties_even() as usize).max(1);
                let size = [fit(h), fit(w)];
                let offset = [0, 1].map(|i| {
                    let margin = canvas[i] as f64 - size[i] as f64;
                    (margin / 2.0 - 0.1).round_ties_even() as i64
                });
                Ok(ImageWindow { size, offset, canvas })
            }
        }
    }

    fn extents(&self) -> Result<[usize; 2]> {
        Ok([expect_side("height", self.height)?, expect_side("width", self.width)?])
    }

    /// Whether only the middle is wanted.
    fn is_cut(&self) -> bool {
        self.height != 0 || self.width != 0
    }

    /// What coordinate of an axis of `to` reads of one of `from`; `vertical` tells which of the two passes it is.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn table(&self, from: usize, to: usize, vertical: bool) -> Result<ImageTable> {
        match self.filter {
            ImageFilter::OpencvLinear => opencv_linear(from, to, vertical),
            ImageFilter::PillowBilinear => pillow_bilinear(from, to),
        }
    }

    /// Whether the rows of an image of `from` = `[height, width]` are resampled before its columns.
    pub fn rows_first(&self, from: [usize; 2], to: [usize; 2]) -> bool {
        let gone = |i: usize| from[i] as i64 - to[i] as i64;
        self.filter == ImageFilter::PillowBilinear && gone(0) > 0 && gone(0) > 2 * gone(1)
    }

    /// Whether pixels are means of four, which OpenCV takes for linear at half the size.
    pub fn is_halving(&self, from: [usize; 2], to: [usize; 2]) -> bool {
        self.filter == ImageFilter::OpencvLinear && from == to.map(|n| 2 * n)
    }
}

fn opencv_linear(from: usize, to: usize, vertical: bool) -> Result<ImageTable> {
    let (mut index, mut weight) = (filled(2 * to, 0u32)?, filled(2 * to, 0i32)?);
    let scale = 1.0 / (to as f64 / from as f64);
    let last = from as i64 - 1;
    for o in 0..to {
        let at = ((o as f64 + 0.5) * scale - 0.5) as f32;
        let mut lower = at.floor() as i64;
        let mut rest = at - at.floor();
        // Only columns have no second neighbour at the border; rows weigh the border twice.
        if !vertical && !(0..last).contains(&lower) {
            (lower, rest) = (lower.clamp(0, last), 0.0);
        }
        for (t, part) in [1.0 - rest, rest].into_iter().enumerate() {
            index[2 * o + t] = (lower + t as i64).clamp(0, last) as u32;
            weight[2 * o + t] = (part * 2048.0).round_ties_even() as i32;
        }
    }
    Ok(ImageTable { taps: 2, index, weight })
}

fn pillow_bilinear(from: usize, to: usize) -> Result<ImageTable> {
    let scale = from as f64 / to as f64;
    let support = scale.max(1.0);
    let taps = support.ceil() as usize * 2 + 1;
    let count = num_elements(&[to, taps])?;
    let (mut index, mut weight) = (filled(count, 0u32)?, filled(count, 0i32)?);
    let mut parts = filled(taps, 0.0f64)?;
    for o in 0..to {
        let centre = (o as f64 + 0.5) * scale;
        let first = ((centre - support + 0.5) as i64).max(0);
        let end = ((centre + support + 0.5) as i64).min(from as i64);
        let n = ((end - first).max(0) as usize).min(taps);
        for (t, part) in parts[..n].iter_mut().enumerate() {
            let x = ((t as i64 + first) as f64 - centre + 0.5) * (1.0 / support);
            *part = (1.0 - x.abs()).max(0.0);
        }
        let sum: f64 = parts[..n].iter().sum();
        for t in 0..taps {
            index[o * taps + t] = (first + t as i64).clamp(0, from as i64 - 1) as u32;
            if t < n {
                let part = if sum != 0.0 { parts[t] / sum } else { parts[t] };
                weight[o * taps + t] = (0.5 + part * f64::from(1 << PILLOW_BITS)) as i32;
            }
        }
    }
    Ok(ImageTable { taps, index, weight })
}

/// Fraction bits of Pillow's weights.
pub const PILLOW_BITS: u32 = 22;

impl ImageCrop {
    /// Where an image of `from` = `[height, width]` pixels goes.
    ///
    /// # Errors
    /// As [`ImageResize::window`].
    pub fn window(&self, from: [usize; 2]) -> Result<ImageWindow> {
        expect_pixels(from)?;
        let canvas = [expect_side("height", self.height)?, expect_side("width", self.width)?];
        Ok(centred(from, canvas))
    }
}

/// The middle of an image on a canvas, see [`ImageCrop`].
fn centred(size: [usize; 2], canvas: [usize; 2]) -> ImageWindow {
    let offset = [0, 1].map(|i| {
        let margin = canvas[i] as i64 - size[i] as i64;
        if margin >= 0 { margin / 2 } else { (margin as f64 / 2.0).round_ties_even() as i64 }
    });
    ImageWindow { size, offset, canvas }
}

impl ImagePad {
    /// Where an image of `from` = `[height, width]` pixels goes.
    ///
    /// # Errors
    /// `InvalidArgument` for a negative or too large margin, as [`ImageResize::window`].
    pub fn window(&self, from: [usize; 2]) -> Result<ImageWindow> {
        expect_pixels(from)?;
        let sides = [
            ("left", self.left),
            ("top", self.top),
            ("right", self.right),
            ("bottom", self.bottom),
        ];
        for (name, n) in sides {
            ensure!(
                (0..=MAX_IMAGE_SIDE).contains(&n),
                InvalidArgument,
                "{name} is {n}, expected 0 to {MAX_IMAGE_SIDE} pixels"
            );
        }
        let height = expect_side("the height", from[0] as i64 + self.top + self.bottom)?;
        let width = expect_side("the width", from[1] as i64 + self.left + self.right)?;
        Ok(ImageWindow { size: from, offset: [self.top, self.left], canvas: [height, width] })
    }
}

fn expect_side(name: &str, n: i64) -> Result<usize> {
    ensure!(
        (1..=MAX_IMAGE_SIDE).contains(&n),
        InvalidArgument,
        "{name} is {n}, expected 1 to {MAX_IMAGE_SIDE} pixels"
    );
    Ok(n as usize)
}

fn expect_pixels(from: [usize; 2]) -> Result<()> {
    let [h, w] = from;
    ensure!(h > 0 && w > 0, InvalidArgument, "an image of {w} × {h} has no pixels");
    Ok(())
}

fn expect_fill(fill: i64) -> Result<u8> {
    u8::try_from(fill).or_else(|_| bail!(InvalidArgument, "fill is {fill}, expected 0 to 255"))
}

/// Extents of an image and its element type, checked.
fn image_dims<'a>(args: &InferArgs<'a>) -> Result<Option<&'a [Dim]>> {
    let dtype = args.dtype(0)?;
    ensure!(dtype == DType::U8, DTypeMismatch, "an image is u8, got {dtype}");
    let Some(s) = args.shape(0) else { return Ok(None) };
    let fits = |d: &Dim| d.as_const().is_none_or(|c| (1..=MAX_CHANNELS).contains(&c));
    ensure!(
        s.len() == 3 && fits(&s[2]),
        ShapeMismatch,
        "an image is [height, width, channels] with 1 to {MAX_CHANNELS} channels, got rank {}",
        s.len()
    );
    Ok(Some(s))
}

/// Facts of a moved image on a canvas of `extents`, and of its placement.
fn moved(args: &InferArgs, extents: Option<[Dim; 2]>) -> Result<Vec<Fact>> {
    args.expect_inputs(1, 2)?;
    let channels = image_dims(args)?.map_or_else(|| args.fresh("channels"), |s| s[2].clone());
    if args.get(1).is_some() {
        ensure!(args.dtype(1)? == DType::F32, DTypeMismatch, "a placement is f32[6]");
        let rank = args.shape(1).map_or(1, <[_]>::len);
        ensure!(rank == 1, ShapeMismatch, "a placement is f32[6], got rank {rank}");
    }
    let [h, w] = extents.unwrap_or_else(|| [args.fresh("height"), args.fresh("width")]);
    Ok(vec![Fact::tensor(DType::U8, [h, w, channels]), Fact::tensor(DType::F32, [Dim::from(6i64)])])
}

/// Constant height and width of the input, where known.
fn known(args: &InferArgs) -> Option<[usize; 2]> {
    let s = args.shape(0)?;
    let side = |i: usize| usize::try_from(s.get(i)?.as_const()?).ok();
    Some([side(0)?, side(1)?])
}

/// Pixels of an image: elements, height, width, channels.
fn pixels<'a>(args: &'a EvalArgs) -> Result<(&'a Tensor, [usize; 3])> {
    let x = args.tensor(0)?;
    match *x.shape() {
        [h, w, c] if (1..=MAX_CHANNELS as usize).contains(&c) => Ok((x, [h, w, c])),
        _ => bail!(ShapeMismatch, "an image is [height, width, channels], got {:?}", x.shape()),
    }
}

/// The six numbers of a placement.
///
/// # Errors
/// `ShapeMismatch` if there are not six.
pub fn placement(t: &Tensor) -> Result<[f32; 6]> {
    let v = t.to_vec::<f32>()?;
    match <[f32; 6]>::try_from(v) {
        Ok(p) => Ok(p),
        Err(v) => bail!(ShapeMismatch, "a placement has 6 numbers, got {}", v.len()),
    }
}

/// Puts `image`, of the window's size, on its canvas.
fn on_canvas(
    args: &EvalArgs,
    from: [usize; 2],
    window: &ImageWindow,
    channels: usize,
    fill: u8,
    image: &[u8],
) -> Result<Vec<Value>> {
    let [height, width] = window.canvas;
    let shape = [height, width, channels];
    let mut out = filled(num_elements(&shape)?, fill)?;
    let [top, bottom, left, right] = window.covered();
    for y in top..bottom {
        let row = (y as i64 - window.offset[0]) as usize;
        let col = (left as i64 - window.offset[1]) as usize;
        let n = (right - left) * channels;
        let from = &image[(row * window.size[1] + col) * channels..][..n];
        out[(y * width + left) * channels..][..n].copy_from_slice(from);
    }
    let before = args.opt(1)?.map(placement).transpose()?;
    let place = window.place(before, from);
    Ok(vec![Tensor::from_vec(&shape, out)?.into(), Tensor::from_slice(&[6], &place)?.into()])
}

impl Operator for ImageResize {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        expect_fill(self.fill)?;
        let extents = match (self.fit, known(args)) {
            (ImageFit::Shortest, Some(from)) => Some(self.window(from)?.canvas),
            (ImageFit::Shortest, None) => {
                expect_side("shortest", self.shortest)?;
                self.is_cut().then(|| self.extents()).transpose()?
            }
            _ => Some(self.extents()?),
        };
        moved(args, extents.map(|e| e.map(Dim::from)))
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let (x, [h, w, c]) = pixels(args)?;
        let fill = expect_fill(self.fill)?;
        let window = self.window([h, w])?;
        let image = self.resample(&x.to_vec::<u8>()?, [h, w], c, window.size)?;
        on_canvas(args, [h, w], &window, c, fill, &image)
    }
}

impl ImageResize {
    /// The pixels `x` at another size.
    fn resample(&self, x: &[u8], from: [usize; 2], c: usize, to: [usize; 2]) -> Result<Vec<u8>> {
        if from == to {
            return Ok(x.to_vec());
        }
        let ([h, w], [oh, ow]) = (from, to);
        let mut out = filled(num_elements(&[oh, ow, c])?, 0u8)?;
        if self.is_halving(from, to) {
            for (i, out) in out.iter_mut().enumerate() {
                let (y, xx, ch) = (i / c / ow, i / c % ow, i % c);
                let at =
                    |dy: usize, dx: usize| u32::from(x[((2 * y + dy) * w + 2 * xx + dx) * c + ch]);
                *out = ((at(0, 0) + at(0, 1) + at(1, 0) + at(1, 1) + 2) >> 2) as u8;
            }
            return Ok(out);
        }
        let (cols, rows) = (self.table(w, ow, false)?, self.table(h, oh, true)?);
        let sum = |table: &ImageTable, o: usize, read: &dyn Fn(usize) -> i32| -> i64 {
            let taps = o * table.taps..(o + 1) * table.taps;
            let terms = table.index[taps.clone()].iter().zip(&table.weight[taps]);
            terms.map(|(&i, &w)| i64::from(w) * i64::from(read(i as usize))).sum()
        };
        if self.filter == ImageFilter::PillowBilinear {
            let round =
                |s: i64| ((s + (1 << (PILLOW_BITS - 1))) >> PILLOW_BITS).clamp(0, 255) as u8;
            let across = |x: &[u8], h: usize| -> Result<Vec<u8>> {
                let mut out = filled(num_elements(&[h, ow, c])?, 0u8)?;
                for (i, out) in out.iter_mut().enumerate() {
                    let (y, o, ch) = (i / c / ow, i / c % ow, i % c);
                    *out = round(sum(&cols, o, &|i| i32::from(x[(y * w + i) * c + ch])));
                }
                Ok(out)
            };
            let down = |x: &[u8], n: usize| -> Result<Vec<u8>> {
                let mut out = filled(num_elements(&[oh, n])?, 0u8)?;
                for (i, out) in out.iter_mut().enumerate() {
                    *out = round(sum(&rows, i / n, &|y| i32::from(x[y * n + i % n])));
                }
                Ok(out)
            };
            return match self.rows_first(from, to) {
                true => across(&down(x, w * c)?, oh),
                false => down(&across(x, h)?, ow * c),
            };
        }
        let mut wide = filled(num_elements(&[h, ow, c])?, 0i64)?;
        for (i, wide) in wide.iter_mut().enumerate() {
            let (y, o, ch) = (i / c / ow, i / c % ow, i % c);
            *wide = sum(&cols, o, &|i| i32::from(x[(y * w + i) * c + ch]));
        }
        for (i, out) in out.iter_mut().enumerate() {
            let (o, i) = (i / (ow * c), i % (ow * c));
            let term = |t: usize| {
                let (y, w) = (rows.index[2 * o + t] as usize, rows.weight[2 * o + t]);
                (i64::from(w) * (wide[y * ow * c + i] >> 4)) >> 16
            };
            *out = ((term(0) + term(1) + 2) >> 2).clamp(0, 255) as u8;
        }
        Ok(out)
    }
}

impl Operator for ImageCrop {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        expect_fill(self.fill)?;
        let extents = [expect_side("height", self.height)?, expect_side("width", self.width)?];
        moved(args, Some(extents.map(Dim::from)))
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let (x, [h, w, c]) = pixels(args)?;
        let window = self.window([h, w])?;
        on_canvas(args, [h, w], &window, c, expect_fill(self.fill)?, &x.to_vec::<u8>()?)
    }
}

impl Operator for ImagePad {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        expect_fill(self.fill)?;
        self.window(known(args).unwrap_or([1, 1]))?;
        let extents = image_dims(args)?
            .map(|s| [&s[0] + (self.top + self.bottom), &s[1] + (self.left + self.right)]);
        moved(args, extents)
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let (x, [h, w, c]) = pixels(args)?;
        let window = self.window([h, w])?;
        on_canvas(args, [h, w], &window, c, expect_fill(self.fill)?, &x.to_vec::<u8>()?)
    }
}

impl ImageToTensor {
    /// Channels of the result for an image of `channels`.
    ///
    /// # Errors
    /// `ShapeMismatch` for an image that is neither grey nor RGB, or of which colours are wanted that it lacks.
    pub fn channels(&self, channels: usize) -> Result<usize> {
        match (self.color, channels) {
            (PixelFormat::Grayscale, 1 | 3) => Ok(1),
            (_, 3) => Ok(3),
            (color, n) => bail!(
                ShapeMismatch,
                "an image of {n} channels cannot become {color:?}; give 3 channels, RGB"
            ),
        }
    }

    /// What each pixel value of each channel of the result becomes.
    ///
    /// # Errors
    /// `InvalidArgument` if `mean` or `std` have another number of channels or `std` has a zero, or a number is
    /// not finite.
    pub fn values(&self, channels: usize) -> Result<Vec<[f32; 256]>> {
        for (name, list) in [("mean", &self.mean), ("std", &self.std)] {
            ensure!(
                list.is_empty() || list.len() == channels,
                InvalidArgument,
                "{name} has {} numbers for {channels} channels",
                list.len()
            );
            ensure!(
                list.iter().all(|x| x.is_finite()) && (name == "mean" || !list.contains(&0.0)),
                InvalidArgument,
                "{name} is {list:?}; give finite numbers, and no zero in std"
            );
        }
        ensure!(self.scale.is_finite(), InvalidArgument, "scale is {}", self.scale);
        let divisor = (1.0 / f64::from(self.scale)).round();
        let divides = divisor != 0.0 && (1.0 / divisor) as f32 == self.scale;
        let value = |c: usize, x: usize| {
            let x = x as f32;
            let x = if divides { x / divisor as f32 } else { x * self.scale };
            let x = if self.mean.is_empty() { x } else { x - self.mean[c] };
            if self.std.is_empty() { x } else { x / self.std[c] }
        };
        Ok((0..channels).map(|c| std::array::from_fn(|x| value(c, x))).collect())
    }
}

/// Luma of a pixel.
pub fn luma(rgb: &[u8]) -> u8 {
    let [r, g, b] = [rgb[0], rgb[1], rgb[2]].map(u32::from);
    ((19595 * r + 38470 * g + 7471 * b + (1 << 15)) >> 16) as u8
}

impl Operator for ImageToTensor {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(1, 1)?;
        let Some(s) = image_dims(args)? else { return Ok(vec![Fact::unranked(DType::F32)]) };
        let channels = match s[2].as_const() {
            Some(c) => {
                let channels = self.channels(c as usize)?;
                self.values(channels)?;
                Dim::from(channels)
            }
            None => args.fresh("channels"),
        };
        let [one, h, w] = [Dim::from(1i64), s[0].clone(), s[1].clone()];
        let shape = if self.channels_last { [one, h, w, channels] } else { [one, channels, h, w] };
        Ok(vec![Fact::tensor(DType::F32, shape)])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let (x, [h, w, from]) = pixels(args)?;
        let c = self.channels(from)?;
        let values = self.values(c)?;
        let x = x.to_vec::<u8>()?;
        let mut out = filled(num_elements(&[c, h, w])?, 0.0f32)?;
        for (p, pixel) in x.chunks_exact(from).enumerate() {
            for (ch, values) in values.iter().enumerate() {
                let v = match self.color {
                    PixelFormat::Grayscale if from == 3 => luma(pixel),
                    PixelFormat::Bgr => pixel[2 - ch],
                    _ => pixel[ch],
                };
                let at = if self.channels_last { p * c + ch } else { ch * h * w + p };
                out[at] = values[usize::from(v)];
            }
        }
        let shape = if self.channels_last { [1, h, w, c] } else { [1, c, h, w] };
        Ok(vec![Tensor::from_vec(&shape, out)?.into()])
    }
}
