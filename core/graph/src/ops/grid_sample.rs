//! Sampling at given places, and the affine grid of places.

use super::util::{cast_from_f64, filled, to_dims, to_f64, to_i64, usize_dims};
use crate::{Dim, EvalArgs, Fact, InferArgs, Operator, Value, attr_enum, op};
use deepseek_tensor::{DType, Result, ensure, num_elements};

attr_enum! {
    /// How [`GridSample`] weighs the elements around a place.
    GridSampleMode {
        /// The two neighbours along every axis, by distance.
        Linear = "linear",
        /// The nearest element, the even one in the middle.
        Nearest = "nearest",
        /// The four neighbours along every axis, by cubic convolution with a = −0.75.
        Cubic = "cubic",
    }
}

attr_enum! {
    /// What [`GridSample`] reads outside of the input.
    GridSamplePadding {
        /// Zeros.
        Zeros = "zeros",
        /// The nearest border element.
        Border = "border",
        /// The element mirrored at the border.
        Reflection = "reflection",
    }
}

op! {
    /// `y[n, c, o…] = x[n, c, grid[n, o…]]` with interpolation. x is `[N, C, D1…Dr]`, grid
    /// is `[N, O1…Or, r]` and holds places as coordinates from −1 to 1, last spatial axis
    /// first, y is `[N, C, O1…Or]`. −1 and 1 are the centres of the outermost elements with
    /// `align_corners`, else their outer edges. (ONNX GridSample-22; Jaderberg et al.,
    /// "Spatial Transformer Networks", 2015.)
    GridSample {
        align_corners: bool = false,
        mode: GridSampleMode = GridSampleMode::Linear,
        padding_mode: GridSamplePadding = GridSamplePadding::Zeros,
    }
}

op! {
    /// The grid of places that an affine map gives: `grid[n, o…] = theta[n] · (p, 1)`, where
    /// p is the place of output `o` from −1 to 1, last spatial axis first. theta is
    /// `[N, 2, 3]` or `[N, 3, 4]`; the second input is the output size `[N, C, (D,) H, W]`;
    /// grid is `[N, (D,) H, W, 2 or 3]`. (ONNX AffineGrid-20.)
    AffineGrid { align_corners: bool = false }
}

/// Most spatial axes to sample in: a sample reads up to `4^axes` elements.
const MAX_SPATIAL_RANK: usize = 6;

impl Operator for GridSample {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(2, 2)?;
        let (dtype, grid_dtype) = (args.dtype(0)?, args.dtype(1)?);
        ensure!(
            grid_dtype.is_float(),
            DTypeMismatch,
            "a grid must hold floats, got {grid_dtype}; insert a Cast"
        );
        let (Some(x), Some(grid)) = (args.shape(0), args.shape(1)) else {
            return Ok(vec![Fact::unranked(dtype)]);
        };
        Ok(vec![Fact::tensor(dtype, self.dims(x, grid)?)])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let (x, grid) = (args.tensor(0)?, args.tensor(1)?);
        self.dims(&to_dims(x.shape()), &to_dims(grid.shape()))?;
        let (batch, channels, spatial) = (x.shape()[0], x.shape()[1], &x.shape()[2..]);
        let rank = spatial.len();
        let places = &grid.shape()[1..grid.rank() - 1];
        let shape: Vec<usize> = [batch, channels].iter().chain(places).copied().collect();
        let count = num_elements(places)?;
        let mut y = filled(num_elements(&shape)?, 0.0)?;
        let plane = num_elements(spatial)?;
        ensure!(
            plane > 0 || y.is_empty(),
            ShapeMismatch,
            "there is nothing to sample in an input of shape {:?}",
            x.shape()
        );
        // Places are exact halves more often than chance has it, so the arithmetic up to
        // the choice of neighbours is that of the grid's own precision.
        let double = grid.dtype() == DType::F64;
        let (x_data, grid_data) = (to_f64(x)?, to_f64(grid)?);
        let axes: Vec<Axis> = spatial.iter().map(|&n| Axis::new(self, n, double)).collect();
        let mut taps = Vec::new();
        for (i, place) in grid_data.chunks_exact(rank).enumerate() {
            if count == 0 || channels == 0 {
                break;
            }
            taps.clear();
            taps.push((0, 1.0));
            for (axis, &at) in axes.iter().zip(place.iter().rev()) {
                let near = axis.neighbours(at);
                taps = taps
                    .iter()
                    .flat_map(|&(index, weight)| {
                        near.iter().map(move |&(j, w)| (index * axis.extent + j, weight * w))
                    })
                    .collect();
            }
            let (n, o) = (i / count, i % count);
            for c in n * channels..(n + 1) * channels {
                let x = &x_data[c * plane..][..plane];
                y[c * count + o] = taps.iter().map(|&(j, w)| w * x[j]).sum();
            }
        }
        Ok(vec![cast_from_f64(x.dtype(), &shape, &y)?.into()])
    }
}

impl GridSample {
    fn dims(&self, x: &[Dim], grid: &[Dim]) -> Result<Vec<Dim>> {
        let rank = x.len().saturating_sub(2);
        ensure!(
            rank <= MAX_SPATIAL_RANK,
            Unsupported,
            "sampling in {rank} spatial axes; at most {MAX_SPATIAL_RANK} are supported"
        );
        ensure!(
            rank >= 1 && grid.len() == x.len(),
            ShapeMismatch,
            "an input of shape {x:?} and a grid of shape {grid:?} do not fit; expected [N, C, D1…Dr] and [N, O1…Or, r]"
        );
        let fits = |a: &Dim, b: i64| a.as_const().is_none_or(|a| a == b);
        ensure!(
            fits(&grid[rank + 1], rank as i64) && x[0].as_const().is_none_or(|n| fits(&grid[0], n)),
            ShapeMismatch,
            "a grid of shape {grid:?} does not fit an input of {rank} spatial axes and batch {}",
            x[0]
        );
        Ok(x[..2].iter().chain(&grid[1..=rank]).cloned().collect())
    }
}

/// One spatial axis to sample along.
struct Axis {
    extent: usize,
    align_corners: bool,
    mode: GridSampleMode,
    padding: GridSamplePadding,
    double: bool,
}

impl Axis {
    fn new(op: &GridSample, extent: usize, double: bool) -> Self {
        let (align_corners, mode, padding) = (op.align_corners, op.mode, op.padding_mode);
        Axis { extent, align_corners, mode, padding, double }
    }

    /// The elements that normalised coordinate `at` reads, with their weights.
    fn neighbours(&self, at: f64) -> Vec<(usize, f64)> {
        let mut at = if self.double { self.place(at) } else { self.place_f32(at as f32) };
        if self.mode == GridSampleMode::Nearest {
            at = at.round_ties_even();
        }
        let last = self.extent as f64 - 1.0;
        let (low, high) = if self.align_corners { (0.0, last) } else { (-0.5, last + 0.5) };
        if !(low..=high).contains(&at) {
            match self.padding {
                GridSamplePadding::Zeros => {}
                GridSamplePadding::Border => at = at.clamp(0.0, last),
                GridSamplePadding::Reflection => at = reflect(at, low, high),
            }
        }
        // Beyond all padding one place is as good as another, and fits an integer.
        let at = at.clamp(-1e9, 1e15);
        let base = at.floor();
        let t = at - base;
        let weights: &[(i64, f64)] = match self.mode {
            GridSampleMode::Nearest => &[(0, 1.0)],
            GridSampleMode::Linear => &[(0, 1.0 - t), (1, t)],
            GridSampleMode::Cubic => {
                &[(-1, cubic(t + 1.0)), (0, cubic(t)), (1, cubic(1.0 - t)), (2, cubic(2.0 - t))]
            }
        };
        weights
            .iter()
            .filter_map(|&(offset, weight)| {
                let i = base as i64 + offset;
                let inside = (0..self.extent as i64).contains(&i);
                let i = match self.padding {
                    _ if inside => i,
                    GridSamplePadding::Zeros => return None,
                    GridSamplePadding::Border => i.clamp(0, last as i64),
                    GridSamplePadding::Reflection => {
                        (reflect(i as f64, low, high) as i64).clamp(0, last as i64)
                    }
                };
                Some((i as usize, weight))
            })
            .collect()
    }

    /// From −1…1 to element coordinates.
    fn place(&self, at: f64) -> f64 {
        let extent = self.extent as f64;
        match self.align_corners {
            true => (at + 1.0) / 2.0 * (extent - 1.0),
            false => ((at + 1.0) * extent - 1.0) / 2.0,
        }
    }

    fn place_f32(&self, at: f32) -> f64 {
        let extent = self.extent as f32;
        f64::from(match self.align_corners {
            true => (at + 1.0) / 2.0 * (extent - 1.0),
            false => ((at + 1.0) * extent - 1.0) / 2.0,
        })
    }
}

/// `at` mirrored at `low` and `high` until it lies between them.
fn reflect(at: f64, low: f64, high: f64) -> f64 {
    let range = high - low;
    if range <= 0.0 || !at.is_finite() {
        return low;
    }
    let rest = (at - low).rem_euclid(2.0 * range);
    low + if rest > range { 2.0 * range - rest } else { rest }
}

/// Keys' cubic kernel with a = −0.75 at distance `t` from 0 to 2.
fn cubic(t: f64) -> f64 {
    const A: f64 = -0.75;
    match t <= 1.0 {
        true => ((A + 2.0) * t - (A + 3.0)) * t * t + 1.0,
        false => ((A * t - 5.0 * A) * t + 8.0 * A) * t - 4.0 * A,
    }
}

impl Operator for AffineGrid {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(2, 2)?;
        let dtype = super::conv::expect_floats(args, &[0])?;
        let rank = match (args.dims(1), args.shape(0)) {
            (Some(size), _) => Some(size.len()),
            (None, Some([_, rows, _])) => rows.as_const().map(|r| r as usize + 2),
            _ => None,
        };
        let Some(rank @ (4 | 5)) = rank else { return Ok(vec![Fact::unranked(dtype)]) };
        let size = args
            .dims(1)
            .unwrap_or_else(|| (0..rank).map(|i| args.fresh(&format!("extent{i}"))).collect());
        let mut shape = vec![size[0].clone()];
        shape.extend_from_slice(&size[2..]);
        shape.push(Dim::from(rank - 2));
        Ok(vec![Fact::tensor(dtype, shape)])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let theta = args.tensor(0)?;
        let size = usize_dims(&to_i64(args.tensor(1)?)?)?;
        let rank = size.len().saturating_sub(2);
        ensure!(
            matches!(rank, 2 | 3) && theta.shape() == [size[0], rank, rank + 1],
            ShapeMismatch,
            "an affine map of shape {:?} does not fit the size {size:?}; expected [N, 2, 3] and [N, C, H, W] or [N, 3, 4] and [N, C, D, H, W]",
            theta.shape()
        );
        let spatial = &size[2..];
        let mut shape = vec![size[0]];
        shape.extend_from_slice(spatial);
        shape.push(rank);
        let mut grid = filled(num_elements(&shape)?, 0.0)?;
        let count = num_elements(spatial)?;
        let maps = to_f64(theta)?;
        let place = |i: usize, n: usize| match self.align_corners {
            true if n == 1 => -1.0,
            true => 2.0 * i as f64 / (n - 1) as f64 - 1.0,
            false => (2.0 * i as f64 + 1.0) / n as f64 - 1.0,
        };
        for (i, out) in grid.chunks_exact_mut(rank).enumerate() {
            let map = &maps[i / count * rank * (rank + 1)..][..rank * (rank + 1)];
            let mut rest = i % count;
            // Last spatial axis first, and 1 for the translation.
            let mut point = [1.0; 4];
            for (p, &n) in point.iter_mut().zip(spatial.iter().rev()) {
                *p = place(rest % n, n);
                rest /= n;
            }
            for (o, row) in out.iter_mut().zip(map.chunks_exact(rank + 1)) {
                *o = (0..rank).map(|j| row[j] * point[j]).sum::<f64>() + row[rank];
            }
        }
        Ok(vec![cast_from_f64(theta.dtype(), &shape, &grid)?.into()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reflection_stays_between_the_borders() {
        for (at, want) in [(-3.5, 1.5), (0.25, 0.25), (1.5, 0.5), (4.25, 0.25)] {
            // −3.5 mirrors at −1 to 1.5, then at 1 to 0.5: the example of the specification.
            let (low, want) = if at == -3.5 { (-1.0, 0.5) } else { (0.0, want) };
            assert_eq!(reflect(at, low, 1.0), want, "{at}");
        }
        assert_eq!(reflect(f64::INFINITY, 0.0, 1.0), 0.0);
        assert_eq!(reflect(7.0, 0.0, 0.0), 0.0);
    }
}
