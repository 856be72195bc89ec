//! Pooling over a sliding window, and over whole planes.
//!
//! Window pooling walks the window tap by tap, as convolution does: each tap folds
//! one input row into an output row.

use super::util::{
    AutoPad, Window, WindowAxis, cast_from_f64, channels_as_planes, channels_second,
    channels_to_back, filled, for_each_row, live_taps, planes_as_channels, pool_kernel, to_dims,
    to_f64,
};
use crate::{Dim, EvalArgs, Fact, InferArgs, Num, Operator, Value, for_dtype, op};
use deepseek_tensor::{DType, Result, Tensor, bail, ensure, num_elements};
use std::cmp::Ordering;

op! {
    /// Greatest element under the window: x is `[N, C, D1…]`, y is `[N, C, O1…]`.
    /// Padding never wins; NaN always does; the first of equal elements is taken. A
    /// window entirely in padding yields the least value and index −1. The second
    /// output holds, as `i64`, the index of each winner in x as a flat array, with the
    /// spatial axes in column-major order if `storage_order` is 1. With `channels_last`, x is
    /// `[N, D1…, C]`, y likewise, and there is no second output. (ONNX MaxPool-22.)
    MaxPool {
        auto_pad: AutoPad = AutoPad::NotSet,
        ceil_mode: bool = false,
        channels_last: bool = false,
        dilations: Vec<i64> = vec![],
        kernel_shape: Vec<i64> = vec![],
        pads: Vec<i64> = vec![],
        storage_order: bool = false,
        strides: Vec<i64> = vec![],
    }
}

op! {
    /// Mean of the elements under the window: x is `[N, C, D1…]`, y is `[N, C, O1…]`.
    /// Padding counts as zeros with `count_include_pad`, else not at all; what a
    /// `ceil_mode` window reads beyond the padding never counts; a mean of nothing is
    /// 0. Floats. (ONNX AveragePool-22.)
    AveragePool {
        auto_pad: AutoPad = AutoPad::NotSet,
        ceil_mode: bool = false,
        count_include_pad: bool = false,
        dilations: Vec<i64> = vec![],
        kernel_shape: Vec<i64> = vec![],
        pads: Vec<i64> = vec![],
        strides: Vec<i64> = vec![],
    }
}

op! {
    /// `(Σ |x|^p)^(1/p)` under the window: x is `[N, C, D1…]`, y is `[N, C, O1…]`.
    /// Floats. (ONNX LpPool-22.)
    LpPool {
        auto_pad: AutoPad = AutoPad::NotSet,
        ceil_mode: bool = false,
        dilations: Vec<i64> = vec![],
        kernel_shape: Vec<i64> = vec![],
        p: i64 = 2,
        pads: Vec<i64> = vec![],
        strides: Vec<i64> = vec![],
    }
}

op! {
    /// Mean of every plane: x is `[N, C, D1…]`, y is `[N, C, 1…]`. Floats.
    /// (ONNX GlobalAveragePool-22.)
    GlobalAveragePool {}
}

op! {
    /// Greatest element of every plane, NaN if there is one: x is `[N, C, D1…]`, y is
    /// `[N, C, 1…]`. Floats. (ONNX GlobalMaxPool-22.)
    GlobalMaxPool {}
}

op! {
    /// `(Σ |x|^p)^(1/p)` of every plane: x is `[N, C, D1…]`, y is `[N, C, 1…]`. Floats.
    /// (ONNX GlobalLpPool-22.)
    GlobalLpPool { p: i64 = 2 }
}

macro_rules! window_of {
    ($($op:ident),*) => {$(impl $op {
        /// The window of this pooling.
        pub fn window(&self) -> Window<'_> {
            Window {
                strides: &self.strides,
                dilations: &self.dilations,
                pads: &self.pads,
                auto_pad: self.auto_pad,
                ceil_mode: self.ceil_mode,
            }
        }
    })*};
}
window_of!(MaxPool, AveragePool, LpPool);

impl Operator for MaxPool {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(1, 1)?;
        if self.channels_last {
            let x = args.shape(0).map(|s| channels_second(s, true));
            let y = pool_dims(&self.window(), &self.kernel_shape, x.as_deref())?;
            return Ok(vec![Fact::maybe_ranked(
                args.dtype(0)?,
                y.map(|y| channels_to_back(y, true)),
            )]);
        }
        let shape = pool_dims(&self.window(), &self.kernel_shape, args.shape(0))?;
        Ok(vec![
            Fact::maybe_ranked(args.dtype(0)?, shape.clone()),
            Fact::maybe_ranked(DType::I64, shape),
        ])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let x = &channels_as_planes(args.tensor(0)?, self.channels_last)?;
        let planes = Planes::new(&self.window(), &self.kernel_shape, x)?;
        let mut winners = filled(num_elements(&planes.shape)?, -1i64)?;
        let y = for_dtype!(x.dtype(), T in numeric => {
            let mut y = filled(winners.len(), T::from_f64(f64::NEG_INFINITY))?;
            max_pool(&planes, &x.to_vec::<T>()?, &mut y, &mut winners);
            Tensor::from_vec(&planes.shape, y)?
        });
        if self.channels_last {
            return Ok(vec![planes_as_channels(y, true)?.into()]);
        }
        if self.storage_order {
            let plane = planes.input;
            for w in winners.iter_mut().filter(|w| **w >= 0) {
                let (first, at) = (*w as usize / plane * plane, *w as usize % plane);
                *w = (first + column_major(&planes.axes, at)) as i64;
            }
        }
        Ok(vec![y.into(), Tensor::from_vec(&planes.shape, winners)?.into()])
    }
}

impl Operator for AveragePool {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        infer_float_pool(&self.window(), &self.kernel_shape, args)
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let x = args.tensor(0)?;
        let planes = Planes::new(&self.window(), &self.kernel_shape, x)?;
        let mut y = planes.sum(&to_f64(x)?)?;
        if !y.is_empty() {
            let mut counts = vec![1.0];
            for axis in &planes.axes {
                let count = |o| match self.count_include_pad {
                    true => axis.padded_taps(o) as f64,
                    false => axis.taps(o).len() as f64,
                };
                counts = counts
                    .iter()
                    .flat_map(|n| (0..axis.output).map(move |o| n * count(o)))
                    .collect();
            }
            for plane in y.chunks_exact_mut(planes.output) {
                plane.iter_mut().zip(&counts).for_each(|(y, &n)| *y /= n.max(1.0));
            }
        }
        Ok(vec![cast_from_f64(x.dtype(), &planes.shape, &y)?.into()])
    }
}

impl Operator for LpPool {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        check_power(self.p)?;
        infer_float_pool(&self.window(), &self.kernel_shape, args)
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let (x, p) = (args.tensor(0)?, check_power(self.p)?);
        let planes = Planes::new(&self.window(), &self.kernel_shape, x)?;
        let powers: Vec<f64> = to_f64(x)?.iter().map(|v| v.abs().powf(p)).collect();
        let mut y = planes.sum(&powers)?;
        y.iter_mut().for_each(|v| *v = v.powf(1.0 / p));
        Ok(vec![cast_from_f64(x.dtype(), &planes.shape, &y)?.into()])
    }
}

macro_rules! global_pool {
    ($($op:ident, |$self:ident, $plane:ident| $body:expr);* $(;)?) => {$(impl Operator for $op {
        fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
            args.expect_inputs(1, 1)?;
            let dtype = expect_float(args.dtype(0)?)?;
            let Some(x) = args.shape(0) else { return Ok(vec![Fact::unranked(dtype)]) };
            check_rank(x.len())?;
            let mut shape = x.to_vec();
            shape[2..].fill(Dim::from(1i64));
            Ok(vec![Fact::tensor(dtype, shape)])
        }

        fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
            let $self = self;
            global_pool(args.tensor(0)?, |$plane: &[f64]| $body)
        }
    })*};
}
global_pool! {
    GlobalAveragePool, |_s, plane| Ok(plane.iter().sum::<f64>() / plane.len() as f64);
    GlobalMaxPool, |_s, plane| {
        Ok(plane.iter().fold(f64::NEG_INFINITY, |a, &b| if b > a || b.is_nan() { b } else { a }))
    };
    GlobalLpPool, |s, plane| {
        let p = check_power(s.p)?;
        Ok(plane.iter().map(|v| v.abs().powf(p)).sum::<f64>().powf(1.0 / p))
    };
}

fn global_pool(x: &Tensor, f: impl Fn(&[f64]) -> Result<f64>) -> Result<Vec<Value>> {
    check_rank(x.rank())?;
    let mut shape = x.shape().to_vec();
    let plane = num_elements(&shape[2..])?;
    shape[2..].fill(1);
    let planes = num_elements(&shape)?;
    let x_data = to_f64(x)?;
    let mut y = filled(planes, 0.0)?;
    for (i, y) in y.iter_mut().enumerate() {
        *y = f(&x_data[i * plane..][..plane])?;
    }
    Ok(vec![cast_from_f64(x.dtype(), &shape, &y)?.into()])
}

fn check_power(p: i64) -> Result<f64> {
    ensure!(p >= 1, InvalidGraph, "p must be at least 1, got {p}");
    Ok(p as f64)
}

fn check_rank(rank: usize) -> Result<()> {
    ensure!(
        rank >= 3,
        ShapeMismatch,
        "pooling takes [batch, channels, spatial axes…], got rank {rank}"
    );
    Ok(())
}

fn expect_float(dtype: DType) -> Result<DType> {
    if !dtype.is_float() {
        bail!(DTypeMismatch, "expected floats, got {dtype}; insert a Cast");
    }
    Ok(dtype)
}

fn infer_float_pool(window: &Window, kernel: &[i64], args: &InferArgs) -> Result<Vec<Fact>> {
    args.expect_inputs(1, 1)?;
    let dtype = expect_float(args.dtype(0)?)?;
    Ok(vec![Fact::maybe_ranked(dtype, pool_dims(window, kernel, args.shape(0))?)])
}

fn pool_dims(window: &Window, kernel: &[i64], x: Option<&[Dim]>) -> Result<Option<Vec<Dim>>> {
    let kernel = to_dims(&pool_kernel(kernel)?);
    let Some(x) = x else { return Ok(None) };
    check_rank(x.len())?;
    let mut shape = x[..2].to_vec();
    shape.extend(window.output_dims(&x[2..], &kernel)?);
    Ok(Some(shape))
}

/// The concrete extents of a pooling; every plane has the same window.
struct Planes {
    axes: Vec<WindowAxis>,
    /// Shape of the output.
    shape: Vec<usize>,
    /// Elements of one input plane.
    input: usize,
    /// Elements of one output plane.
    output: usize,
}

impl Planes {
    fn new(window: &Window, kernel: &[i64], x: &Tensor) -> Result<Self> {
        check_rank(x.rank())?;
        let axes = window.resolve(&x.shape()[2..], &pool_kernel(kernel)?)?;
        let shape: Vec<usize> =
            x.shape()[..2].iter().copied().chain(axes.iter().map(|a| a.output)).collect();
        num_elements(&shape)?;
        // A batch or channel extent of 0 would hide an overflow of the plane.
        let output = num_elements(&shape[2..])?;
        let input = num_elements(&x.shape()[2..])?;
        Ok(Planes { axes, shape, input, output })
    }

    /// Sum of the elements of `x` under every window.
    fn sum(&self, x: &[f64]) -> Result<Vec<f64>> {
        let mut y = filled(num_elements(&self.shape)?, 0.0)?;
        if y.is_empty() {
            return Ok(y);
        }
        let taps = live_taps(&self.axes);
        for (i, y) in y.chunks_exact_mut(self.output).enumerate() {
            let x = &x[i * self.input..][..self.input];
            for (tap, _) in &taps {
                for_each_row(&self.axes, tap, &mut |r| r.accumulate(y, x, |y, x| y + x));
            }
        }
        Ok(y)
    }
}

/// `y` holds the least value and `winners` −1 at first.
fn max_pool<T: Num>(planes: &Planes, x: &[T], y: &mut [T], winners: &mut [i64]) {
    if y.is_empty() {
        return;
    }
    let taps = live_taps(&planes.axes);
    let outputs = y.chunks_exact_mut(planes.output).zip(winners.chunks_exact_mut(planes.output));
    for (i, (y, winners)) in outputs.enumerate() {
        let first = i * planes.input;
        let x = &x[first..][..planes.input];
        for (tap, _) in &taps {
            for_each_row(&planes.axes, tap, &mut |r| {
                for j in 0..r.len {
                    let (o, at) = (r.output + j, r.input + j * r.step);
                    let wins = match x[at].partial_cmp(&y[o]) {
                        Some(order) => order == Ordering::Greater,
                        // One of them is NaN; the first NaN stays.
                        None => y[o].partial_cmp(&y[o]).is_some(),
                    };
                    if wins || winners[o] < 0 {
                        y[o] = x[at];
                        winners[o] = (first + at) as i64;
                    }
                }
            });
        }
    }
}

/// The column-major index, within a plane, of the element at row-major `at`.
fn column_major(axes: &[WindowAxis], mut at: usize) -> usize {
    let mut step: usize = axes.iter().map(|a| a.input).product();
    let mut out = 0;
    for axis in axes.iter().rev() {
        step /= axis.input;
        out += at % axis.input * step;
        at /= axis.input;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NoSubgraphs;

    fn run(op: &dyn Operator, shape: &[usize], x: &[f32]) -> Vec<Tensor> {
        let inputs = [Some(Tensor::from_slice(shape, x).unwrap().into())];
        let args = EvalArgs { inputs: &inputs, outputs: 2, env: &NoSubgraphs };
        op.eval(&args).unwrap().iter().map(|v| v.tensor().unwrap().clone()).collect()
    }

    #[test]
    fn nan_wins_and_ties_take_the_first() {
        let op = MaxPool { kernel_shape: vec![3], ..Default::default() };
        let got = run(&op, &[1, 1, 5], &[2.0, 2.0, 1.0, f32::NAN, 9.0]);
        assert_eq!(got[1].to_vec::<i64>().unwrap(), [0, 3, 3]);
        assert!(got[0].to_vec::<f32>().unwrap()[2].is_nan());
    }

    #[test]
    fn indices_in_column_major_order() {
        let op = MaxPool { kernel_shape: vec![2, 2], storage_order: true, ..Default::default() };
        let got = run(&op, &[1, 2, 2, 3], &[0., 1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11.]);
        assert_eq!(got[1].to_vec::<i64>().unwrap(), [3, 5, 9, 11]);
    }

    #[test]
    fn overhang_of_ceil_mode_never_counts() {
        for (count_include_pad, want) in [(false, [1.5, 3.5, 5.0]), (true, [1.5, 3.5, 5.0])] {
            let op = AveragePool {
                kernel_shape: vec![2],
                strides: vec![2],
                ceil_mode: true,
                count_include_pad,
                ..Default::default()
            };
            let got = run(&op, &[1, 1, 5], &[1.0, 2.0, 3.0, 4.0, 5.0]);
            assert_eq!(got[0].to_vec::<f32>().unwrap(), want, "{count_include_pad}");
        }
    }
}
