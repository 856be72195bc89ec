//! Pooling over regions of interest.

use super::conv::expect_floats;
use super::util::{cast_from_f64, filled, to_f64, to_i64};
use crate::{Dim, EvalArgs, Fact, InferArgs, Operator, Value, attr_enum, op};
use deepseek_tensor::{Result, Tensor, ensure, num_elements};

op! {
    /// Greatest element in each cell of a grid over each region. x is `[N, C, H, W]`,
    /// rois are `[R, 5]` rows `(image, x1, y1, x2, y2)` in input coordinates that
    /// `spatial_scale` maps to x, y is `[R, C, pooled_shape…]`. Corners round to whole
    /// elements and are inclusive; an empty cell is 0. Floats. (ONNX MaxRoiPool-22;
    /// Girshick, "Fast R-CNN", 2015.)
    MaxRoiPool { pooled_shape: Vec<i64> = vec![], spatial_scale: f32 = 1.0 }
}

attr_enum! {
    /// How [`RoiAlign`] pools the samples of a cell.
    RoiAlignMode {
        /// Their mean.
        Avg = "avg",
        /// The greatest weighted neighbour of all samples.
        Max = "max",
    }
}

attr_enum! {
    /// Where [`RoiAlign`] puts the centre of an element.
    RoiAlignCoordinates {
        /// At `i + 0.5`: regions shift by −0.5.
        HalfPixel = "half_pixel",
        /// At `i`: regions do not shift, and are at least 1×1.
        OutputHalfPixel = "output_half_pixel",
    }
}

op! {
    /// Bilinear samples pooled in each cell of a grid over each region. x is
    /// `[N, C, H, W]`, rois are `[R, 4]` rows `(x1, y1, x2, y2)`, batch indices are
    /// `i64[R]`, y is `[R, C, output_height, output_width]`. A cell has
    /// `sampling_ratio²` samples, or with 0 about one per element. Floats. (ONNX
    /// RoiAlign-22; He et al., "Mask R-CNN", 2017.)
    RoiAlign {
        coordinate_transformation_mode: RoiAlignCoordinates = RoiAlignCoordinates::HalfPixel,
        mode: RoiAlignMode = RoiAlignMode::Avg,
        output_height: i64 = 1,
        output_width: i64 = 1,
        sampling_ratio: i64 = 0,
        spatial_scale: f32 = 1.0,
    }
}

/// Most samples that a region may have along one axis.
const SAMPLE_LIMIT: f64 = (1 << 24) as f64;

impl Operator for MaxRoiPool {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(2, 2)?;
        let dtype = expect_floats(args, &[0, 1])?;
        let grid = self.grid()?;
        let (Some(x), Some(rois)) = (args.shape(0), args.shape(1)) else {
            return Ok(vec![Fact::unranked(dtype)]);
        };
        check_ranks(x, rois, 5)?;
        Ok(vec![Fact::tensor(dtype, roi_dims(x, rois, grid))])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let (x, rois) = (args.tensor(0)?, args.tensor(1)?);
        let (images, regions) = (Images::new(x)?, regions(rois, 5)?);
        let [rows, columns] = self.grid()?;
        let shape = [rois.shape()[0], images.channels, rows, columns];
        let mut y = filled(num_elements(&shape)?, 0.0)?;
        let scale = f64::from(self.spatial_scale);
        for (r, region) in regions.chunks_exact(5).enumerate() {
            args.env.check()?;
            let image = images.index(region[0] as i64)?;
            let corner = |i: usize| (region[i] * scale).round().clamp(-1e9, 1e9);
            let down = cells(corner(2), corner(4), rows, images.height);
            let right = cells(corner(1), corner(3), columns, images.width);
            for c in 0..images.channels {
                let plane = images.plane(image, c);
                for (i, h) in down.iter().enumerate() {
                    for (j, w) in right.iter().enumerate() {
                        let cell = h.clone().flat_map(|h| &plane[h * images.width..][w.clone()]);
                        let top = cell.copied().reduce(f64::max).unwrap_or(0.0);
                        y[((r * images.channels + c) * rows + i) * columns + j] = top;
                    }
                }
            }
        }
        Ok(vec![cast_from_f64(x.dtype(), &shape, &y)?.into()])
    }
}

impl MaxRoiPool {
    fn grid(&self) -> Result<[usize; 2]> {
        match self.pooled_shape[..] {
            [h, w] => Ok([extent("pooled_shape", h)?, extent("pooled_shape", w)?]),
            _ => deepseek_tensor::bail!(
                InvalidGraph,
                "pooled_shape must be [height, width], got {:?}",
                self.pooled_shape
            ),
        }
    }
}

/// The elements of each of `count` cells between two inclusive corners.
fn cells(first: f64, last: f64, count: usize, extent: usize) -> Vec<std::ops::Range<usize>> {
    let step = (last - first + 1.0).max(1.0) / count as f64;
    let clip = |v: f64| (v + first).clamp(0.0, extent as f64) as usize;
    (0..count)
        .map(|i| {
            let start = clip((i as f64 * step).floor());
            start..clip(((i + 1) as f64 * step).ceil()).max(start)
        })
        .collect()
}

impl Operator for RoiAlign {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(3, 3)?;
        let dtype = expect_floats(args, &[0, 1])?;
        let grid = self.grid()?;
        let (Some(x), Some(rois)) = (args.shape(0), args.shape(1)) else {
            return Ok(vec![Fact::unranked(dtype)]);
        };
        check_ranks(x, rois, 4)?;
        Ok(vec![Fact::tensor(dtype, roi_dims(x, rois, grid))])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let (x, rois) = (args.tensor(0)?, args.tensor(1)?);
        let (images, regions) = (Images::new(x)?, regions(rois, 4)?);
        let batch = to_i64(args.tensor(2)?)?;
        ensure!(
            batch.len() == rois.shape()[0],
            ShapeMismatch,
            "{} regions have {} batch indices; each needs one",
            rois.shape()[0],
            batch.len()
        );
        let [rows, columns] = self.grid()?;
        let shape = [batch.len(), images.channels, rows, columns];
        let mut y = filled(num_elements(&shape)?, 0.0)?;
        for (r, region) in regions.chunks_exact(4).enumerate() {
            args.env.check()?;
            let image = images.index(batch[r])?;
            let down = self.samples(region[1], region[3], rows, images.height)?;
            let right = self.samples(region[0], region[2], columns, images.width)?;
            for c in 0..images.channels {
                let plane = images.plane(image, c);
                for i in 0..rows {
                    for j in 0..columns {
                        y[((r * images.channels + c) * rows + i) * columns + j] =
                            self.pool(plane, images.width, down.cell(i), right.cell(j));
                    }
                }
            }
        }
        Ok(vec![cast_from_f64(x.dtype(), &shape, &y)?.into()])
    }
}

impl RoiAlign {
    fn grid(&self) -> Result<[usize; 2]> {
        Ok([
            extent("output_height", self.output_height)?,
            extent("output_width", self.output_width)?,
        ])
    }

    /// The samples along one axis of `cells` cells between two corners.
    fn samples(&self, first: f64, last: f64, cells: usize, extent: usize) -> Result<Samples> {
        let (shift, least) = match self.coordinate_transformation_mode {
            RoiAlignCoordinates::HalfPixel => (0.5, f64::NEG_INFINITY),
            RoiAlignCoordinates::OutputHalfPixel => (0.0, 1.0),
        };
        let scale = f64::from(self.spatial_scale);
        let start = first * scale - shift;
        let cell = (last * scale - shift - start).max(least) / cells as f64;
        let wanted = if self.sampling_ratio > 0 { self.sampling_ratio as f64 } else { cell.ceil() };
        ensure!(
            wanted * cells as f64 <= SAMPLE_LIMIT && start.is_finite(),
            InvalidArgument,
            "a region from {first} to {last} wants {wanted} samples in each of {cells} cells along an axis of {extent} elements, the limit is {SAMPLE_LIMIT} in all; check its coordinates and spatial_scale {scale}"
        );
        let per_cell = wanted.max(0.0) as usize;
        let points = (0..cells * per_cell)
            .map(|i| {
                let (i, s) = (i / per_cell, i % per_cell);
                let at = start + i as f64 * cell + (s as f64 + 0.5) * cell / per_cell as f64;
                Point::new(at, extent)
            })
            .collect();
        Ok(Samples { per_cell, points })
    }

    /// One cell of one plane.
    fn pool(&self, plane: &[f64], width: usize, down: &[Point], right: &[Point]) -> f64 {
        let corners = |h: &Point, w: &Point| {
            let at = |i: usize, j: usize| {
                let weight = h.weight[i] * w.weight[j];
                // A sample outside has no weight, not even on NaN.
                if weight == 0.0 { 0.0 } else { weight * plane[h.index[i] * width + w.index[j]] }
            };
            [at(0, 0), at(0, 1), at(1, 0), at(1, 1)]
        };
        let values = down.iter().flat_map(|h| right.iter().map(move |w| (h, w)));
        match self.mode {
            RoiAlignMode::Avg => {
                let sum: f64 = values.flat_map(|(h, w)| corners(h, w)).sum();
                sum / (down.len() * right.len()).max(1) as f64
            }
            RoiAlignMode::Max => {
                values.flat_map(|(h, w)| corners(h, w)).reduce(f64::max).unwrap_or(0.0)
            }
        }
    }
}

/// The samples along one axis, cell by cell.
struct Samples {
    per_cell: usize,
    points: Vec<Point>,
}

impl Samples {
    fn cell(&self, i: usize) -> &[Point] {
        &self.points[i * self.per_cell..][..self.per_cell]
    }
}

/// A coordinate as its two neighbours and their weights.
struct Point {
    index: [usize; 2],
    weight: [f64; 2],
}

impl Point {
    /// Coordinates up to one element outside count as the border, beyond as nothing.
    fn new(at: f64, extent: usize) -> Self {
        if !(-1.0..=extent as f64).contains(&at) || extent == 0 {
            return Point { index: [0, 0], weight: [0.0, 0.0] };
        }
        let at = at.clamp(0.0, (extent - 1) as f64);
        let low = at as usize;
        let rest = at - low as f64;
        Point { index: [low, (low + 1).min(extent - 1)], weight: [1.0 - rest, rest] }
    }
}

/// Planes of `[N, C, H, W]`.
struct Images {
    data: Vec<f64>,
    count: usize,
    channels: usize,
    height: usize,
    width: usize,
}

impl Images {
    fn new(x: &Tensor) -> Result<Self> {
        let &[count, channels, height, width] = x.shape() else {
            deepseek_tensor::bail!(
                ShapeMismatch,
                "regions are pooled from [batch, channels, height, width], got {:?}",
                x.shape()
            );
        };
        num_elements(&x.shape()[2..])?;
        Ok(Images { data: to_f64(x)?, count, channels, height, width })
    }

    fn index(&self, image: i64) -> Result<usize> {
        ensure!(
            (0..self.count as i64).contains(&image),
            InvalidArgument,
            "a region lies in image {image} of a batch of {}",
            self.count
        );
        Ok(image as usize)
    }

    fn plane(&self, image: usize, channel: usize) -> &[f64] {
        let plane = self.height * self.width;
        &self.data[(image * self.channels + channel) * plane..][..plane]
    }
}

fn regions(rois: &Tensor, columns: usize) -> Result<Vec<f64>> {
    ensure!(
        rois.rank() == 2 && rois.shape()[1] == columns,
        ShapeMismatch,
        "regions must be [count, {columns}], got {:?}",
        rois.shape()
    );
    to_f64(rois)
}

fn check_ranks(x: &[Dim], rois: &[Dim], columns: i64) -> Result<()> {
    ensure!(
        x.len() == 4 && rois.len() == 2 && rois[1].as_const().is_none_or(|c| c == columns),
        ShapeMismatch,
        "expected [batch, channels, height, width] and regions [count, {columns}], got {x:?} and {rois:?}"
    );
    Ok(())
}

fn roi_dims(x: &[Dim], rois: &[Dim], grid: [usize; 2]) -> Vec<Dim> {
    vec![rois[0].clone(), x[1].clone(), Dim::from(grid[0]), Dim::from(grid[1])]
}

fn extent(name: &str, v: i64) -> Result<usize> {
    ensure!((1..=1 << 20).contains(&v), InvalidGraph, "{name} must be 1 to 2^20, got {v}");
    Ok(v as usize)
}
