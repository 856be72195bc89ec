//! Resampling to another extent, axis by axis.
//!
//! Every mode is separable, so a resize is one pass per axis. A pass has a table:
//! for each output coordinate, the input coordinates it reads and their weights.
//! Nearest reads one element and moves it untouched, whatever its type; linear and
//! cubic compute in double precision.

use super::util::{cast_from_f64, filled, normalize_axes, to_f64, to_i64};
use crate::{Dim, EvalArgs, Fact, InferArgs, Operator, Value, attr_enum, for_dtype, op};
use deepseek_tensor::{DType, Result, Tensor, bail, ensure, num_elements};

attr_enum! {
    /// How [`Resize`] weighs the elements around a coordinate.
    ResizeMode {
        /// One element, chosen by [`NearestMode`].
        Nearest = "nearest",
        /// The two neighbours, by distance.
        Linear = "linear",
        /// The four neighbours, by Keys' cubic convolution.
        Cubic = "cubic",
    }
}

attr_enum! {
    /// Which neighbour [`Resize`] takes as the nearest.
    NearestMode {
        /// The nearer one, the lower one in the middle.
        RoundPreferFloor = "round_prefer_floor",
        /// The nearer one, the upper one in the middle.
        RoundPreferCeil = "round_prefer_ceil",
        /// The lower one.
        Floor = "floor",
        /// The upper one.
        Ceil = "ceil",
    }
}

attr_enum! {
    /// Where output coordinate `o` of [`Resize`] lies in the input. `in` is the input
    /// extent, `out = in · scale` the output extent before rounding.
    ResizeCoordinates {
        /// `(o + 0.5) / scale − 0.5`.
        HalfPixel = "half_pixel",
        /// Half pixel, shifted so that the centres agree although `out` was rounded.
        HalfPixelSymmetric = "half_pixel_symmetric",
        /// Half pixel, but 0 if `out` is 1.
        PytorchHalfPixel = "pytorch_half_pixel",
        /// `(o + 0.5) / scale`, of operator set 11.
        TfHalfPixelForNn = "tf_half_pixel_for_nn",
        /// `o · (in − 1) / (out − 1)`.
        AlignCorners = "align_corners",
        /// `o / scale`.
        Asymmetric = "asymmetric",
        /// Align corners within the region of interest; outside of the input is
        /// `extrapolation_value`.
        TfCropAndResize = "tf_crop_and_resize",
    }
}

attr_enum! {
    /// What the `sizes` of [`Resize`] mean.
    AspectRatioPolicy {
        /// The output extents.
        Stretch = "stretch",
        /// Upper limits: the smallest scale among the axes is that of all.
        NotLarger = "not_larger",
        /// Lower limits: the greatest scale among the axes is that of all.
        NotSmaller = "not_smaller",
    }
}

op! {
    /// x resampled along `axes` (empty is all). Inputs: x; the region of interest
    /// `[starts…, ends…]` as fractions of x, read only by `tf_crop_and_resize`; scales,
    /// with output extents `floor(extent · scale)`; or sizes. One of scales and sizes is
    /// absent or empty. `antialias` stretches the filter when downscaling;
    /// `exclude_outside` drops weights outside of x where else its border repeats.
    /// Integers round to nearest. (ONNX Resize-19; Keys, "Cubic Convolution Interpolation
    /// for Digital Image Processing", 1981.)
    Resize {
        antialias: bool = false,
        axes: Vec<i64> = vec![],
        coordinate_transformation_mode: ResizeCoordinates = ResizeCoordinates::HalfPixel,
        cubic_coeff_a: f32 = -0.75,
        exclude_outside: bool = false,
        extrapolation_value: f32 = 0.0,
        keep_aspect_ratio_policy: AspectRatioPolicy = AspectRatioPolicy::Stretch,
        mode: ResizeMode = ResizeMode::Nearest,
        nearest_mode: NearestMode = NearestMode::RoundPreferFloor,
    }
}

/// One axis to resample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ResizeAxis {
    /// Number of the axis.
    pub axis: usize,
    /// Extent of the input.
    pub input: usize,
    /// Extent of the output.
    pub output: usize,
    /// Output per input extent, before the output was rounded.
    pub scale: f64,
    /// Start and end of the region of interest, as fractions.
    pub roi: (f64, f64),
}

/// The elements that each output coordinate of an axis reads.
#[derive(Clone, Debug, PartialEq)]
pub struct ResizeTable {
    /// Elements read per output coordinate.
    pub taps: usize,
    /// `index[o · taps + t]`: input coordinate of tap `t` of output coordinate `o`.
    pub index: Vec<usize>,
    /// Weights, as `index`.
    pub weight: Vec<f64>,
    /// Output coordinates that `extrapolation_value` fills.
    pub outside: Vec<usize>,
}

impl Operator for Resize {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(1, 4)?;
        let dtype = args.dtype(0)?;
        let Some(x) = args.shape(0) else { return Ok(vec![Fact::unranked(dtype)]) };
        let axes = self.axes(x.len())?;
        let mut shape = x.to_vec();
        let scales = match args.get(2).map(Fact::as_constant) {
            Some(Some(t)) if !t.is_empty() => Some(Some(self.factors(&t, &axes)?)),
            Some(Some(_)) | None => None,
            Some(None) => match args.shape(2) {
                Some([n]) if n.as_const() == Some(0) => None,
                // With sizes beside it, an unknown scales input can only be empty.
                _ if args.get(3).is_some() => None,
                _ => Some(None),
            },
        };
        let stretch = self.keep_aspect_ratio_policy == AspectRatioPolicy::Stretch;
        match (scales, args.dims(3)) {
            (Some(Some(scales)), _) => {
                for (&axis, &scale) in axes.iter().zip(&scales) {
                    shape[axis] = scaled_dim(&x[axis], scale)?
                        .unwrap_or_else(|| args.fresh(&format!("extent{axis}")));
                }
            }
            (None, Some(sizes)) if stretch => {
                ensure!(
                    sizes.len() == axes.len(),
                    ShapeMismatch,
                    "{} sizes for {} axes",
                    sizes.len(),
                    axes.len()
                );
                for (&axis, size) in axes.iter().zip(sizes) {
                    shape[axis] = size;
                }
            }
            (None, sizes) => {
                let extents: Option<Vec<i64>> = axes.iter().map(|&a| x[a].as_const()).collect();
                let sizes =
                    sizes.and_then(|s| s.iter().map(Dim::as_const).collect::<Option<Vec<i64>>>());
                match (extents, sizes) {
                    (Some(extents), Some(sizes)) => {
                        let (_, out) = self.fit(&extents, &sizes)?;
                        for (&axis, out) in axes.iter().zip(out) {
                            shape[axis] = Dim::from(out);
                        }
                    }
                    _ => self.unknown(args, &axes, &mut shape),
                }
            }
            (Some(None), _) => self.unknown(args, &axes, &mut shape),
        }
        Ok(vec![Fact::tensor(dtype, shape)])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let x = args.tensor(0)?;
        let plan = self.plan(x.shape(), args.opt(1)?, args.opt(2)?, args.opt(3)?)?;
        let mut shape = x.shape().to_vec();
        let mut passes = vec![];
        for axis in plan {
            shape[axis.axis] = axis.output;
            num_elements(&shape)?;
            if !axis.is_identity() {
                ensure!(
                    axis.input > 0 || axis.output == 0,
                    ShapeMismatch,
                    "axis {}: no elements to resample to {}",
                    axis.axis,
                    axis.output
                );
                passes.push((axis.axis, self.table(&axis)?));
            }
        }
        let fill = f64::from(self.extrapolation_value);
        let y = match (self.mode, x.dtype()) {
            (ResizeMode::Nearest, DType::String) => {
                ensure!(
                    passes.iter().all(|(_, t)| t.outside.is_empty()),
                    Unsupported,
                    "strings cannot be extrapolated; keep the region of interest inside"
                );
                let data = x.as_strings()?.into_iter().map(str::to_owned).collect();
                let (data, shape) = gather(data, x.shape(), &passes, String::new())?;
                Tensor::from_strings(&shape, data)?
            }
            (ResizeMode::Nearest, DType::Bool) => {
                let (data, shape) = gather(x.to_vec::<bool>()?, x.shape(), &passes, fill != 0.0)?;
                Tensor::from_vec(&shape, data)?
            }
            (ResizeMode::Nearest, dtype) => for_dtype!(dtype, T in numeric => {
                let fill = <T as crate::Num>::from_f64(fill);
                let (data, shape) = gather(x.to_vec::<T>()?, x.shape(), &passes, fill)?;
                Tensor::from_vec(&shape, data)?
            }),
            (_, dtype) => {
                let (mut data, shape) = weigh(to_f64(x)?, x.shape(), &passes, fill)?;
                if !dtype.is_float() {
                    data.iter_mut().for_each(|v| *v = v.round_ties_even());
                }
                cast_from_f64(dtype, &shape, &data)?
            }
        };
        Ok(vec![y.into()])
    }
}

impl Resize {
    /// The axes to resample, with their extents, for an input of shape `shape`.
    ///
    /// # Errors
    /// `InvalidArgument` or `ShapeMismatch` if the other inputs do not fit.
    pub fn plan(
        &self,
        shape: &[usize],
        roi: Option<&Tensor>,
        scales: Option<&Tensor>,
        sizes: Option<&Tensor>,
    ) -> Result<Vec<ResizeAxis>> {
        let axes = self.axes(shape.len())?;
        let present = |t: Option<&Tensor>| t.filter(|t| !t.is_empty()).cloned();
        let extents: Vec<i64> = axes.iter().map(|&a| shape[a] as i64).collect();
        let (scales, outputs) = match (present(scales), present(sizes)) {
            (Some(scales), None) => {
                let scales = self.factors(&scales, &axes)?;
                let outputs = extents.iter().zip(&scales).map(|(&n, &s)| scaled(n, s));
                let outputs = outputs.collect::<Result<Vec<_>>>()?;
                (scales.iter().map(|&s| f64::from(s)).collect(), outputs)
            }
            (None, Some(sizes)) => self.fit(&extents, &to_i64(&sizes)?)?,
            (None, None) if axes.is_empty() => (vec![], vec![]),
            (None, None) => bail!(InvalidArgument, "neither scales nor sizes are given"),
            _ => bail!(InvalidArgument, "both scales and sizes are given; leave one empty"),
        };
        let roi = match (self.coordinate_transformation_mode, present(roi)) {
            (ResizeCoordinates::TfCropAndResize, Some(roi)) => {
                let roi = to_f64(&roi)?;
                ensure!(
                    roi.len() == 2 * axes.len(),
                    ShapeMismatch,
                    "a region of interest of {} numbers for {} axes, which need two each",
                    roi.len(),
                    axes.len()
                );
                (0..axes.len()).map(|i| (roi[i], roi[axes.len() + i])).collect()
            }
            _ => vec![(0.0, 1.0); axes.len()],
        };
        (0..axes.len())
            .map(|i| {
                let Ok(output) = usize::try_from(outputs[i]) else {
                    bail!(InvalidArgument, "axis {} cannot have {} elements", axes[i], outputs[i])
                };
                let input = shape[axes[i]];
                Ok(ResizeAxis { axis: axes[i], input, output, scale: scales[i], roi: roi[i] })
            })
            .collect()
    }

    /// What each output coordinate of `axis` reads. For nearest there is one tap of
    /// weight 1.
    ///
    /// # Errors
    /// `Unsupported` for antialiased nearest, `OutOfMemory`.
    pub fn table(&self, axis: &ResizeAxis) -> Result<ResizeTable> {
        ensure!(
            !(self.antialias && self.mode == ResizeMode::Nearest),
            Unsupported,
            "nearest cannot be antialiased; use linear or cubic"
        );
        // Antialiasing stretches the filter by 1 / scale when downscaling.
        let stretch = if self.antialias { axis.scale.min(1.0) } else { 1.0 };
        let reach = match self.mode {
            ResizeMode::Nearest => 0.5,
            ResizeMode::Linear => 1.0,
            ResizeMode::Cubic => 2.0,
        };
        // Bounded, because an extent and so a scale may come from data.
        let first = (-reach / stretch).floor().max(-1e15) as i64 + 1;
        let taps = if self.mode == ResizeMode::Nearest { 1 } else { (2 - 2 * first) as usize };
        let count = num_elements(&[axis.output, taps])?;
        let mut table = ResizeTable {
            taps,
            index: filled(count, 0)?,
            weight: filled(count, 1.0)?,
            outside: vec![],
        };
        let last = axis.input as i64 - 1;
        let clamp = |i: i64| i.clamp(0, last.max(0)) as usize;
        for o in 0..axis.output {
            let at = self.coordinate(axis, o as f64);
            let crop = self.coordinate_transformation_mode == ResizeCoordinates::TfCropAndResize;
            if crop && !(0.0..=last as f64).contains(&at) {
                table.outside.push(o);
            }
            let index = &mut table.index[o * taps..][..taps];
            if self.mode == ResizeMode::Nearest {
                index[0] = clamp(match self.nearest_mode {
                    NearestMode::RoundPreferFloor => (at - 0.5).ceil(),
                    NearestMode::RoundPreferCeil => (at + 0.5).floor(),
                    NearestMode::Floor => at.floor(),
                    NearestMode::Ceil => at.ceil(),
                } as i64);
                continue;
            }
            // The lower neighbour, counting a whole coordinate as its upper one.
            let base = at.ceil() - 1.0;
            let rest = at - base;
            let weight = &mut table.weight[o * taps..][..taps];
            for t in 0..taps {
                let offset = first + t as i64;
                let i = (base as i64).saturating_add(offset);
                index[t] = clamp(i);
                weight[t] = match self.exclude_outside && !(0..=last).contains(&i) {
                    true => 0.0,
                    false => self.kernel((offset as f64 - rest) * stretch),
                };
            }
            let sum: f64 = weight.iter().sum();
            if (self.exclude_outside || self.antialias) && sum != 0.0 {
                weight.iter_mut().for_each(|w| *w /= sum);
            }
        }
        Ok(table)
    }

    /// The input coordinate of output coordinate `o`.
    fn coordinate(&self, axis: &ResizeAxis, o: f64) -> f64 {
        let (extent, scale) = (axis.input as f64, axis.scale);
        let out = scale * extent;
        let half_pixel = (o + 0.5) / scale - 0.5;
        let at = match self.coordinate_transformation_mode {
            ResizeCoordinates::HalfPixel => half_pixel,
            ResizeCoordinates::HalfPixelSymmetric => {
                extent / 2.0 * (1.0 - axis.output as f64 / out) + half_pixel
            }
            ResizeCoordinates::PytorchHalfPixel if axis.output == 1 => 0.0,
            ResizeCoordinates::PytorchHalfPixel => half_pixel,
            ResizeCoordinates::TfHalfPixelForNn => (o + 0.5) / scale,
            ResizeCoordinates::AlignCorners if out == 1.0 => 0.0,
            ResizeCoordinates::AlignCorners => o * (extent - 1.0) / (out - 1.0),
            ResizeCoordinates::Asymmetric => o / scale,
            ResizeCoordinates::TfCropAndResize => {
                let (start, end) = axis.roi;
                let step = if out == 1.0 { 0.5 } else { o / (out - 1.0) };
                (start + step * (end - start)) * (extent - 1.0)
            }
        };
        // Far outside is all the same, and must not overflow an index.
        at.clamp(-1e15, 1e15)
    }

    /// The interpolation kernel at distance `t`.
    fn kernel(&self, t: f64) -> f64 {
        let (a, t) = (f64::from(self.cubic_coeff_a), t.abs());
        match self.mode {
            ResizeMode::Cubic if t <= 1.0 => ((a + 2.0) * t - (a + 3.0)) * t * t + 1.0,
            ResizeMode::Cubic if t < 2.0 => ((a * t - 5.0 * a) * t + 8.0 * a) * t - 4.0 * a,
            ResizeMode::Cubic => 0.0,
            ResizeMode::Linear | ResizeMode::Nearest => (1.0 - t).max(0.0),
        }
    }

    fn axes(&self, rank: usize) -> Result<Vec<usize>> {
        if self.axes.is_empty() {
            Ok((0..rank).collect())
        } else {
            normalize_axes(&self.axes, rank)
        }
    }

    fn factors(&self, scales: &Tensor, axes: &[usize]) -> Result<Vec<f32>> {
        let scales: Vec<f32> = to_f64(scales)?.into_iter().map(|s| s as f32).collect();
        ensure!(
            scales.len() == axes.len(),
            ShapeMismatch,
            "{} scales for {} axes",
            scales.len(),
            axes.len()
        );
        ensure!(
            scales.iter().all(|s| *s > 0.0 && s.is_finite()),
            InvalidArgument,
            "scales {scales:?} must be positive"
        );
        Ok(scales)
    }

    /// Scales and output extents of axes of the given extents, from the sizes wanted.
    fn fit(&self, extents: &[i64], sizes: &[i64]) -> Result<(Vec<f64>, Vec<i64>)> {
        ensure!(
            sizes.len() == extents.len(),
            ShapeMismatch,
            "{} sizes for {} axes",
            sizes.len(),
            extents.len()
        );
        ensure!(
            sizes.iter().all(|&s| s >= 0),
            InvalidArgument,
            "sizes {sizes:?} must not be negative"
        );
        let scales: Vec<f64> =
            sizes.iter().zip(extents).map(|(&s, &n)| s as f64 / n as f64).collect();
        let common = match self.keep_aspect_ratio_policy {
            AspectRatioPolicy::Stretch => return Ok((scales, sizes.to_vec())),
            AspectRatioPolicy::NotLarger => scales.iter().copied().reduce(f64::min),
            AspectRatioPolicy::NotSmaller => scales.iter().copied().reduce(f64::max),
        };
        let common = common.unwrap_or(1.0);
        let outputs = extents.iter().map(|&n| (common * n as f64 + 0.5).floor() as i64).collect();
        Ok((vec![common; extents.len()], outputs))
    }

    fn unknown(&self, args: &InferArgs, axes: &[usize], shape: &mut [Dim]) {
        for &axis in axes {
            shape[axis] = args.fresh(&format!("extent{axis}"));
        }
    }
}

impl ResizeAxis {
    /// Whether the axis stays as it is.
    pub fn is_identity(&self) -> bool {
        self.input == self.output && (self.scale - 1.0).abs() < 1e-9 && self.roi == (0.0, 1.0)
    }
}

/// `floor(extent · scale)`, multiplied in single precision as exporters expect: with
/// the scale 0.7 of a model, which is a little less, 10 elements become 7.
fn scaled(extent: i64, scale: f32) -> Result<i64> {
    let out = (extent as f32 * scale).floor();
    ensure!(
        out < 9e18,
        ShapeMismatch,
        "an extent of {extent} scaled by {scale} overflows the address space"
    );
    Ok(out as i64)
}

/// [`scaled`] of a symbolic extent; `None` unless the scale is a fraction with a small
/// power of two below, so that the product is exact.
fn scaled_dim(extent: &Dim, scale: f32) -> Result<Option<Dim>> {
    if let Some(n) = extent.as_const() {
        return scaled(n, scale).map(|n| Some(Dim::from(n)));
    }
    Ok((0..=8).map(|bits| 1i64 << bits).find_map(|below| {
        let above = f64::from(scale) * below as f64;
        (above.fract() == 0.0 && above < 65536.0)
            .then(|| (extent * above as i64).floor_div(&Dim::from(below)))
    }))
}

/// Extents before, at and after `axis`.
fn around(shape: &[usize], axis: usize) -> Result<(usize, usize, usize)> {
    Ok((num_elements(&shape[..axis])?, shape[axis], num_elements(&shape[axis + 1..])?))
}

/// Moves elements along every axis that has a table.
fn gather<T: Clone>(
    mut data: Vec<T>,
    shape: &[usize],
    passes: &[(usize, ResizeTable)],
    fill: T,
) -> Result<(Vec<T>, Vec<usize>)> {
    let mut shape = shape.to_vec();
    for (axis, table) in passes {
        let (outer, extent, inner) = around(&shape, *axis)?;
        let mut out = filled(num_elements(&[outer, table.index.len(), inner])?, fill.clone())?;
        let mut outside = filled(table.index.len(), false)?;
        table.outside.iter().for_each(|&o| outside[o] = true);
        for (i, out) in out.chunks_exact_mut(inner.max(1)).enumerate() {
            let (block, o) = (i / table.index.len(), i % table.index.len());
            if !outside[o] {
                let from = (block * extent + table.index[o]) * inner;
                out.clone_from_slice(&data[from..][..inner]);
            }
        }
        shape[*axis] = table.index.len();
        data = out;
    }
    Ok((data, shape))
}

/// Sums weighted elements along every axis that has a table.
fn weigh(
    mut data: Vec<f64>,
    shape: &[usize],
    passes: &[(usize, ResizeTable)],
    fill: f64,
) -> Result<(Vec<f64>, Vec<usize>)> {
    let mut shape = shape.to_vec();
    for (axis, table) in passes {
        let (outer, extent, inner) = around(&shape, *axis)?;
        let count = table.index.len() / table.taps;
        let mut out = filled(num_elements(&[outer, count, inner])?, 0.0)?;
        if !out.is_empty() {
            for (out, data) in
                out.chunks_exact_mut(count * inner).zip(data.chunks_exact(extent * inner))
            {
                for (o, out) in out.chunks_exact_mut(inner).enumerate() {
                    let taps = o * table.taps..(o + 1) * table.taps;
                    for (&i, &w) in table.index[taps.clone()].iter().zip(&table.weight[taps]) {
                        if w != 0.0 {
                            let row = &data[i * inner..][..inner];
                            out.iter_mut().zip(row).for_each(|(o, v)| *o += w * v);
                        }
                    }
                }
                for &o in &table.outside {
                    out[o * inner..][..inner].fill(fill);
                }
            }
        }
        shape[*axis] = count;
        data = out;
    }
    Ok((data, shape))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_rounds_as_asked() {
        // Four outputs over eight inputs at 0.5, 2.5, 4.5, 6.5.
        for (nearest_mode, want) in [
            (NearestMode::RoundPreferFloor, [0, 2, 4, 6]),
            (NearestMode::RoundPreferCeil, [1, 3, 5, 7]),
            (NearestMode::Floor, [0, 2, 4, 6]),
            (NearestMode::Ceil, [1, 3, 5, 7]),
        ] {
            let op = Resize { nearest_mode, ..Default::default() };
            let axis = ResizeAxis { axis: 0, input: 8, output: 4, scale: 0.5, roi: (0.0, 1.0) };
            assert_eq!(op.table(&axis).unwrap().index, want, "{nearest_mode:?}");
        }
    }

    #[test]
    fn symbolic_extents_follow_dyadic_scales() {
        let n = Dim::sym("n");
        for (scale, want) in [
            (2.0, Some(&n * 2)),
            (0.5, Some(n.floor_div(&Dim::from(2i64)))),
            (1.5, Some((&n * 3).floor_div(&Dim::from(2i64)))),
            (0.7, None),
        ] {
            assert_eq!(scaled_dim(&n, scale).unwrap(), want, "{scale}");
        }
        assert_eq!(scaled(10, 0.7).unwrap(), 7);
    }
}
