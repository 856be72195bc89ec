//! Normalisation over the last axes or over given ones: layer, RMS, Lp, mean and variance.

use super::util::{cast_from_f64, filled, map_rows, normalize_axes, normalize_axis, to_f64};
use crate::{Dim, EvalArgs, Fact, InferArgs, Operator, Value, op};
use deepseek_tensor::{DType, Result, Tensor, bail, ensure, num_elements};

op! {
    /// `y = (x − mean) / √(var + epsilon) · scale + bias`, mean and variance taken over the axes
    /// from `axis` to the last. Inputs: `x`, `scale` and optionally `bias`, both broadcastable to
    /// `x`. Outputs: `y` as `x`; the mean and `1/√(var + epsilon)`, of type `stash_type` and of
    /// the shape of `x` with extent 1 from `axis` on. Computed in double precision whatever
    /// `stash_type` is. (ONNX LayerNormalization-17; Ba et al., "Layer Normalization", 2016.)
    LayerNormalization { axis: i64 = -1, epsilon: f32 = 1e-5, stash_type: DType = DType::F32 }
}

impl Operator for LayerNormalization {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(2, 3)?;
        let dtype = float(args.dtype(0)?)?;
        float(self.stash_type).map_err(|e| e.context("stash_type"))?;
        let stats = match args.shape(0) {
            None => None,
            Some(shape) => {
                let axis = normalize_axis(self.axis, shape.len())?;
                for i in 1..args.len() {
                    check_parameter(args, i, shape)?;
                }
                Some((0..shape.len()).map(|i| keep(shape, i, axis)).collect())
            }
        };
        let y = Fact::maybe_ranked(dtype, args.shape(0).map(<[_]>::to_vec));
        let stats = Fact::maybe_ranked(self.stash_type, stats);
        Ok(vec![y, stats.clone(), stats])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let x = args.tensor(0)?;
        let (rows, len) = split(x, self.axis)?;
        let scale = parameter(args.tensor(1)?, x)?;
        let bias = args.opt(2)?.map(|b| parameter(b, x)).transpose()?;
        let mut data = to_f64(x)?;
        let (mut means, mut scales) = (filled(rows, 0.0)?, filled(rows, 0.0)?);
        for r in 0..rows {
            let row = &mut data[r * len..][..len];
            let (mean, var) = moments(row);
            let inv = 1.0 / (var + f64::from(self.epsilon)).sqrt();
            for (i, x) in row.iter_mut().enumerate() {
                *x = (*x - mean) * inv * scale[r * len + i];
            }
            if let Some(bias) = &bias {
                row.iter_mut().zip(&bias[r * len..]).for_each(|(x, b)| *x += b);
            }
            (means[r], scales[r]) = (mean, inv);
        }
        let mut shape = x.shape().to_vec();
        shape[normalize_axis(self.axis, x.rank())?..].fill(1);
        Ok(vec![
            cast_from_f64(x.dtype(), x.shape(), &data)?.into(),
            cast_from_f64(self.stash_type, &shape, &means)?.into(),
            cast_from_f64(self.stash_type, &shape, &scales)?.into(),
        ])
    }
}

op! {
    /// `y = x / √(mean(x²) + epsilon) · scale`, the mean taken over the axes from `axis` to the
    /// last. Inputs: `x` and `scale`, broadcastable to `x`; the output has the shape of `x` and
    /// the element type of `scale`. Computed in double precision whatever `stash_type` is.
    /// (ONNX RMSNormalization-23; Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019.)
    RMSNormalization { axis: i64 = -1, epsilon: f32 = 1e-5, stash_type: DType = DType::F32 }
}

impl Operator for RMSNormalization {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(2, 2)?;
        float(args.dtype(0)?)?;
        float(self.stash_type).map_err(|e| e.context("stash_type"))?;
        let dtype = float(args.dtype(1)?).map_err(|e| e.context("scale"))?;
        if let Some(shape) = args.shape(0) {
            normalize_axis(self.axis, shape.len())?;
            check_parameter(args, 1, shape)?;
        }
        Ok(vec![Fact::maybe_ranked(dtype, args.shape(0).map(<[_]>::to_vec))])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let (x, scale) = (args.tensor(0)?, args.tensor(1)?);
        let (rows, len) = split(x, self.axis)?;
        let factors = parameter(scale, x)?;
        let mut data = to_f64(x)?;
        for r in 0..rows {
            let row = &mut data[r * len..][..len];
            let square = row.iter().map(|x| x * x).sum::<f64>() / len as f64;
            let inv = 1.0 / (square + f64::from(self.epsilon)).sqrt();
            row.iter_mut().zip(&factors[r * len..]).for_each(|(x, s)| *x *= inv * s);
        }
        Ok(vec![cast_from_f64(scale.dtype(), x.shape(), &data)?.into()])
    }
}

op! {
    /// `y = x / ‖x‖ₚ` along `axis`, with `p` 1 or 2; 0 where the norm is 0.
    /// (ONNX LpNormalization-22.)
    LpNormalization { axis: i64 = -1, p: i64 = 2 }
}

impl Operator for LpNormalization {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(1, 1)?;
        let dtype = float(args.dtype(0)?)?;
        ensure!(
            matches!(self.p, 1 | 2),
            Unsupported,
            "p is {}, only the norms 1 and 2 are defined",
            self.p
        );
        if let Some(shape) = args.shape(0) {
            normalize_axis(self.axis, shape.len())?;
        }
        Ok(vec![Fact::maybe_ranked(dtype, args.shape(0).map(<[_]>::to_vec))])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let x = args.tensor(0)?;
        let axis = normalize_axis(self.axis, x.rank())?;
        let y = map_rows(x, &[axis], |row| {
            let norm = match self.p {
                1 => row.iter().map(|x| x.abs()).sum::<f64>(),
                _ => row.iter().map(|x| x * x).sum::<f64>().sqrt(),
            };
            row.iter_mut().for_each(|x| *x = if norm == 0.0 { 0.0 } else { *x / norm });
        })?;
        Ok(vec![y.into()])
    }
}

/// Added to the standard deviation by ONNX's definition of MeanVarianceNormalization.
const MVN_EPSILON: f64 = 1e-9;

op! {
    /// `y = (x − mean) / (√var + 1e-9)`, mean and variance taken over `axes`.
    /// (ONNX MeanVarianceNormalization-13.)
    MeanVarianceNormalization { axes: Vec<i64> = vec![0, 2, 3] }
}

impl Operator for MeanVarianceNormalization {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(1, 1)?;
        let dtype = float(args.dtype(0)?)?;
        if let Some(shape) = args.shape(0) {
            normalize_axes(&self.axes, shape.len())?;
        }
        Ok(vec![Fact::maybe_ranked(dtype, args.shape(0).map(<[_]>::to_vec))])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let x = args.tensor(0)?;
        let axes = normalize_axes(&self.axes, x.rank())?;
        let y = map_rows(x, &axes, |row| {
            let (mean, var) = moments(row);
            let std = var.sqrt() + MVN_EPSILON;
            row.iter_mut().for_each(|x| *x = (*x - mean) / std);
        })?;
        Ok(vec![y.into()])
    }
}

fn float(dtype: DType) -> Result<DType> {
    match dtype {
        DType::F32 | DType::F64 | DType::F16 | DType::BF16 => Ok(dtype),
        _ => bail!(DTypeMismatch, "expected floats of 16 to 64 bits, got {dtype}; insert a Cast"),
    }
}

fn keep(shape: &[Dim], i: usize, axis: usize) -> Dim {
    if i < axis { shape[i].clone() } else { Dim::from(1) }
}

/// Fails if input `i` certainly does not broadcast to `shape`.
fn check_parameter(args: &InferArgs, i: usize, shape: &[Dim]) -> Result<()> {
    let Some(own) = args.shape(i) else { return Ok(()) };
    let fits = own.len() <= shape.len()
        && own.iter().rev().zip(shape.iter().rev()).all(|(p, x)| {
            match (p.as_const(), x.as_const()) {
                (Some(1), _) => true,
                (Some(p), Some(x)) => p == x,
                _ => true,
            }
        });
    ensure!(
        fits,
        ShapeMismatch,
        "input {i} of shape {:?} does not broadcast to the normalised input of shape {shape:?}",
        own
    );
    Ok(())
}

/// Number of rows before `axis` and of elements from it on.
fn split(x: &Tensor, axis: i64) -> Result<(usize, usize)> {
    let axis = normalize_axis(axis, x.rank())?;
    let (outer, inner) = x.shape().split_at(axis);
    Ok((num_elements(outer)?, num_elements(inner)?))
}

/// A scale or bias spread over the shape of `x`.
fn parameter(t: &Tensor, x: &Tensor) -> Result<Vec<f64>> {
    to_f64(&t.broadcast_to(x.shape())?)
}

/// Mean and variance (of the population) of a row.
fn moments(row: &[f64]) -> (f64, f64) {
    let n = row.len() as f64;
    let mean = row.iter().sum::<f64>() / n;
    (mean, row.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / n)
}
