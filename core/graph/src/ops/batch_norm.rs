//! Normalisation with statistics per channel: over the batch, an instance or a group.

use super::util::{cast_from_f64, to_f64};
use crate::{Dim, EvalArgs, Fact, InferArgs, Operator, Value, op};
use deepseek_tensor::{DType, Result, Tensor, ensure, num_elements};

op! {
    /// `y = (x − mean) / √(var + epsilon) · scale + bias`, all per channel. Inputs: x
    /// `[N, C, D1…]` (or `[N]`, one channel), scale, bias, running mean and running
    /// variance, each `[C]`. With `training_mode` the mean and the (biased) variance are
    /// those of x, and outputs 1 and 2 are `running · momentum + current · (1 − momentum)`;
    /// else they are the running ones. (ONNX BatchNormalization-15; Ioffe and Szegedy,
    /// "Batch Normalization", 2015.)
    BatchNormalization { epsilon: f32 = 1e-5, momentum: f32 = 0.9, training_mode: bool = false }
}

op! {
    /// `y = (x − mean) / √(var + epsilon) · scale + bias`, mean and (biased) variance taken
    /// over each plane. Inputs: x `[N, C, D1…]`, scale and bias, each `[C]`. (ONNX
    /// InstanceNormalization-22; Ulyanov et al., "Instance Normalization", 2016.)
    InstanceNormalization { epsilon: f32 = 1e-5 }
}

op! {
    /// `y = (x − mean) / √(var + epsilon) · scale + bias`, mean and (biased) variance taken
    /// over each group of `C / num_groups` neighbouring channels. Inputs: x `[N, C, D1…]`,
    /// scale and bias, each `[C]`, or `[num_groups]` as in operator set 18. Computed in
    /// double precision whatever `stash_type` is. (ONNX GroupNormalization-21; Wu and He,
    /// "Group Normalization", 2018.)
    GroupNormalization { epsilon: f32 = 1e-5, num_groups: i64 = 1, stash_type: DType = DType::F32 }
}

impl Operator for BatchNormalization {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(5, 5)?;
        let y = infer_like_x(args)?;
        if let Some(x) = args.shape(0) {
            let channels = x.get(1).cloned().unwrap_or_else(|| Dim::from(1i64));
            check_parameters(args, 1..5, &[&channels])?;
        }
        let stats = |i| Ok(Fact::maybe_ranked(args.dtype(i)?, args.shape(i).map(<[_]>::to_vec)));
        Ok(vec![y, stats(3)?, stats(4)?])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let x = args.tensor(0)?;
        ensure!(x.rank() > 0, ShapeMismatch, "a scalar has no channels");
        let channels = x.shape().get(1).copied().unwrap_or(1);
        let plane = num_elements(x.shape().get(2..).unwrap_or_default())?;
        let scale = parameter(args, 1, channels)?;
        let bias = parameter(args, 2, channels)?;
        let (mut mean, mut var) = (parameter(args, 3, channels)?, parameter(args, 4, channels)?);
        let mut data = to_f64(x)?;
        let (running_mean, running_var) = (args.tensor(3)?, args.tensor(4)?);
        let mut stats = [running_mean.clone(), running_var.clone()];
        if self.training_mode {
            let momentum = f64::from(self.momentum);
            let channel = |c: usize| {
                data.chunks(plane.max(1)).skip(c).step_by(channels.max(1)).flatten().copied()
            };
            let moments: Vec<_> = (0..channels).map(|c| moments(|| channel(c))).collect();
            let blend = |old: &[f64], new: &dyn Fn(usize) -> f64| -> Vec<f64> {
                let mix = |(c, old): (usize, &f64)| old * momentum + new(c) * (1.0 - momentum);
                old.iter().enumerate().map(mix).collect()
            };
            let blended = [blend(&mean, &|c| moments[c].0), blend(&var, &|c| moments[c].1)];
            for (t, new) in stats.iter_mut().zip(&blended) {
                *t = cast_from_f64(t.dtype(), t.shape(), new)?;
            }
            (mean, var) = moments.into_iter().unzip();
        }
        let factor: Vec<f64> =
            (0..channels).map(|c| scale[c] / (var[c] + f64::from(self.epsilon)).sqrt()).collect();
        for (i, plane) in data.chunks_mut(plane.max(1)).enumerate() {
            let c = i % channels;
            plane.iter_mut().for_each(|v| *v = (*v - mean[c]) * factor[c] + bias[c]);
        }
        let [mean, var] = stats;
        Ok(vec![cast_from_f64(x.dtype(), x.shape(), &data)?.into(), mean.into(), var.into()])
    }
}

impl Operator for InstanceNormalization {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(3, 3)?;
        let y = infer_like_x(args)?;
        if let Some(x) = args.shape(0) {
            check_rank(x.len())?;
            check_parameters(args, 1..3, &[&x[1]])?;
        }
        Ok(vec![y])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let x = args.tensor(0)?;
        check_rank(x.rank())?;
        let channels = x.shape()[1];
        let (scale, bias) = (parameter(args, 1, channels)?, parameter(args, 2, channels)?);
        Ok(vec![grouped(x, channels, &scale, &bias, self.epsilon)?.into()])
    }
}

impl Operator for GroupNormalization {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(3, 3)?;
        let y = infer_like_x(args)?;
        if let Some(x) = args.shape(0) {
            check_rank(x.len())?;
            if let Some(c) = x[1].as_const() {
                self.groups(c.try_into().unwrap_or(0))?;
            }
            check_parameters(args, 1..3, &[&x[1], &Dim::from(self.num_groups)])?;
        }
        Ok(vec![y])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let x = args.tensor(0)?;
        check_rank(x.rank())?;
        let channels = x.shape()[1];
        let groups = self.groups(channels)?;
        let read = |i| -> Result<Vec<f64>> {
            if args.tensor(i)?.shape() == [groups] {
                let of_group = parameter(args, i, groups)?;
                let per_group = channels / groups;
                return Ok((0..channels).map(|c| of_group[c / per_group]).collect());
            }
            parameter(args, i, channels)
        };
        Ok(vec![grouped(x, groups, &read(1)?, &read(2)?, self.epsilon)?.into()])
    }
}

impl GroupNormalization {
    fn groups(&self, channels: usize) -> Result<usize> {
        let groups = usize::try_from(self.num_groups).unwrap_or(0);
        ensure!(
            groups > 0 && channels.is_multiple_of(groups),
            ShapeMismatch,
            "{channels} channels do not divide into {} groups",
            self.num_groups
        );
        Ok(groups)
    }
}

/// x `[N, C, …]` normalised over each of `groups` groups of channels.
fn grouped(x: &Tensor, groups: usize, scale: &[f64], bias: &[f64], epsilon: f32) -> Result<Tensor> {
    let channels = x.shape()[1];
    let plane = num_elements(&x.shape()[2..])?;
    let mut data = to_f64(x)?;
    if data.is_empty() {
        return cast_from_f64(x.dtype(), x.shape(), &data);
    }
    for (i, group) in data.chunks_mut(channels / groups * plane).enumerate() {
        let (mean, var) = moments(|| group.iter().copied());
        let inv = 1.0 / (var + f64::from(epsilon)).sqrt();
        let first = i % groups * (channels / groups);
        for (j, plane) in group.chunks_mut(plane).enumerate() {
            let (scale, bias) = (scale[first + j], bias[first + j]);
            plane.iter_mut().for_each(|v| *v = (*v - mean) * inv * scale + bias);
        }
    }
    cast_from_f64(x.dtype(), x.shape(), &data)
}

/// Mean and biased variance; NaN of nothing.
fn moments<I: Iterator<Item = f64>>(values: impl Fn() -> I) -> (f64, f64) {
    let (sum, n) = values().fold((0.0, 0.0), |(s, n), v| (s + v, n + 1.0));
    let mean = sum / n;
    (mean, values().map(|v| (v - mean) * (v - mean)).sum::<f64>() / n)
}

fn infer_like_x(args: &InferArgs) -> Result<Fact> {
    for i in 0..args.len() {
        let dtype = args.dtype(i)?;
        ensure!(
            dtype.is_float(),
            DTypeMismatch,
            "input {i} must hold floats, got {dtype}; insert a Cast"
        );
    }
    Ok(Fact::maybe_ranked(args.dtype(0)?, args.shape(0).map(<[_]>::to_vec)))
}

fn check_rank(rank: usize) -> Result<()> {
    ensure!(rank >= 2, ShapeMismatch, "expected [batch, channels, spatial axes…], got rank {rank}");
    Ok(())
}

/// Fails if a parameter is certain to be neither of the extents `allowed`.
fn check_parameters(
    args: &InferArgs,
    which: std::ops::Range<usize>,
    allowed: &[&Dim],
) -> Result<()> {
    for i in which {
        let Some(shape) = args.shape(i) else { continue };
        let fits = |d: &&Dim| match (shape.first().and_then(Dim::as_const), d.as_const()) {
            (Some(a), Some(b)) => a == b,
            _ => true,
        };
        ensure!(
            shape.len() == 1 && allowed.iter().any(fits),
            ShapeMismatch,
            "input {i} has the shape {shape:?}, expected one number for each of {} channels",
            allowed[0]
        );
    }
    Ok(())
}

/// Input `i` as one number per channel.
fn parameter(args: &EvalArgs, i: usize, channels: usize) -> Result<Vec<f64>> {
    let t = args.tensor(i)?;
    ensure!(
        t.shape() == [channels],
        ShapeMismatch,
        "input {i} has the shape {:?}, expected one number for each of {channels} channels",
        t.shape()
    );
    to_f64(t)
}
