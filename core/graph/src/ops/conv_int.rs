//! Convolution of 8-bit integers, exact in 32 bits and requantised.

use super::Pointwise;
use super::conv::{Geometry, conv_dims};
use super::fused_matmul::{expect_unary, finish};
use super::util::{
    AutoPad, Window, channels_as_planes, channels_second, channels_to_back, filled,
    planes_as_channels, to_f64, to_i64,
};
use crate::{EvalArgs, Fact, InferArgs, Operator, Value, op};
use deepseek_tensor::{DType, Result, Tensor, ensure, err, num_elements};

op! {
    /// `y = Σ (x − x_zero_point) · (w − w_zero_point)` over the window of
    /// [`Conv`](super::Conv), in `i32`, wrapping. x and w are `i8` or `u8`; padding
    /// counts as the zero point. `x_zero_point` is one number, `w_zero_point` one or
    /// one per output channel; both are optional. With `channels_last`, x and y are
    /// `[N, …, C]`; w stays `[M, C/group, …]`. (ONNX ConvInteger-10.)
    ConvInteger {
        auto_pad: AutoPad = AutoPad::NotSet,
        dilations: Vec<i64> = vec![],
        group: i64 = 1,
        kernel_shape: Vec<i64> = vec![],
        pads: Vec<i64> = vec![],
        strides: Vec<i64> = vec![],
        channels_last: bool = false,
    }
}

op! {
    /// [`ConvInteger`] plus an `i32` bias, requantised:
    /// `y = saturate(round(acc · x_scale · w_scale / y_scale) + y_zero_point)`, ties to
    /// even. Inputs: x, x_scale, x_zero_point, w, w_scale, w_zero_point, y_scale,
    /// y_zero_point, bias (optional); `w_scale` and `w_zero_point` are one number or
    /// one per output channel. With an activation, which is applied before the division by
    /// `y_scale`, steps are in `f32`. With `channels_last`, x and y are `[N, …, C]`.
    /// (ONNX QLinearConv-10, with an activation.)
    QLinearConv {
        auto_pad: AutoPad = AutoPad::NotSet,
        dilations: Vec<i64> = vec![],
        group: i64 = 1,
        kernel_shape: Vec<i64> = vec![],
        pads: Vec<i64> = vec![],
        strides: Vec<i64> = vec![],
        channels_last: bool = false,
        activation: Option<Pointwise> = None,
    }
}

op! {
    /// [`ConvInteger`] as `f32`: `activation(acc · (x_scale · w_scale) + bias)`, rounded after each
    /// step. Inputs: x, w, x_scale, w_scale, and optionally x_zero_point, w_zero_point and bias;
    /// `w_scale` and `w_zero_point` are one number or one per output channel, the bias is one per
    /// output channel. With `channels_last`, x and y are `[N, …, C]`.
    ConvIntegerToFloat {
        auto_pad: AutoPad = AutoPad::NotSet,
        dilations: Vec<i64> = vec![],
        group: i64 = 1,
        kernel_shape: Vec<i64> = vec![],
        pads: Vec<i64> = vec![],
        strides: Vec<i64> = vec![],
        channels_last: bool = false,
        activation: Option<Pointwise> = None,
    }
}

macro_rules! window_of {
    ($($op:ident),*) => {$(impl $op {
        /// The window of this convolution.
        pub fn window(&self) -> Window<'_> {
            Window {
                strides: &self.strides,
                dilations: &self.dilations,
                pads: &self.pads,
                auto_pad: self.auto_pad,
                ceil_mode: false,
            }
        }
    })*};
}
window_of!(ConvInteger, ConvIntegerToFloat, QLinearConv);

impl Operator for ConvInteger {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(2, 4)?;
        for i in [0, 1] {
            expect_bytes(args, i)?;
        }
        let (Some(x), Some(w)) = (args.shape(0), args.shape(1)) else {
            return Ok(vec![Fact::unranked(DType::I32)]);
        };
        let x = channels_second(x, self.channels_last);
        let shape = conv_dims(&self.window(), &self.kernel_shape, self.group, &x, w)?;
        Ok(vec![Fact::tensor(DType::I32, channels_to_back(shape, self.channels_last))])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let (x, w) = (&channels_as_planes(args.tensor(0)?, self.channels_last)?, args.tensor(1)?);
        let geometry =
            Geometry::new(&self.window(), &self.kernel_shape, self.group, x.shape(), w.shape())?;
        let out = accumulate(&geometry, (x, args.opt(2)?), (w, args.opt(3)?), None)?;
        let out = Tensor::from_vec(&geometry.shape, out)?;
        Ok(vec![planes_as_channels(out, self.channels_last)?.into()])
    }
}

impl Operator for ConvIntegerToFloat {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(4, 7)?;
        expect_unary(self.activation.as_ref())?;
        for i in [0, 1] {
            expect_bytes(args, i)?;
        }
        for i in [2, 3, 6].into_iter().filter(|&i| args.get(i).is_some()) {
            let dtype = args.dtype(i)?;
            ensure!(dtype == DType::F32, DTypeMismatch, "input {i} must be f32, got {dtype}");
        }
        let (Some(x), Some(w)) = (args.shape(0), args.shape(1)) else {
            return Ok(vec![Fact::unranked(DType::F32)]);
        };
        let x = channels_second(x, self.channels_last);
        let shape = conv_dims(&self.window(), &self.kernel_shape, self.group, &x, w)?;
        Ok(vec![Fact::tensor(DType::F32, channels_to_back(shape, self.channels_last))])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let (x, w) = (&channels_as_planes(args.tensor(0)?, self.channels_last)?, args.tensor(1)?);
        let geometry =
            Geometry::new(&self.window(), &self.kernel_shape, self.group, x.shape(), w.shape())?;
        let acc = accumulate(&geometry, (x, args.opt(4)?), (w, args.opt(5)?), None)?;
        let channels = geometry.shape[1];
        let x_scale = one(args.tensor(2)?.to_vec::<f32>()?, "x_scale")?;
        let w_scale = per_channel(args.tensor(3)?.to_vec::<f32>()?, channels, "w_scale")?;
        let bias = match args.opt(6)? {
            Some(b) => Some(per_channel(b.to_vec::<f32>()?, channels, "the bias")?),
            None => None,
        };
        let plane = num_elements(&geometry.shape[2..])?.max(1);
        let out = acc.iter().enumerate().map(|(i, &a)| {
            let c = i / plane % channels;
            let y = a as f32 * (x_scale * w_scale[c]);
            bias.as_ref().map_or(y, |b| y + b[c])
        });
        let out = Tensor::from_vec(&geometry.shape, out.collect::<Vec<f32>>())?;
        let out = finish(out, None, self.activation.as_ref())?;
        Ok(vec![planes_as_channels(out, self.channels_last)?.into()])
    }
}

impl Operator for QLinearConv {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(8, 9)?;
        expect_unary(self.activation.as_ref())?;
        for i in [0, 3, 7] {
            expect_bytes(args, i)?;
        }
        let dtype = args.dtype(7)?;
        let (Some(x), Some(w)) = (args.shape(0), args.shape(3)) else {
            return Ok(vec![Fact::unranked(dtype)]);
        };
        let x = channels_second(x, self.channels_last);
        let shape = conv_dims(&self.window(), &self.kernel_shape, self.group, &x, w)?;
        Ok(vec![Fact::tensor(dtype, channels_to_back(shape, self.channels_last))])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let (x, w) = (&channels_as_planes(args.tensor(0)?, self.channels_last)?, args.tensor(3)?);
        let geometry =
            Geometry::new(&self.window(), &self.kernel_shape, self.group, x.shape(), w.shape())?;
        let acc = accumulate(
            &geometry,
            (x, Some(args.tensor(2)?)),
            (w, Some(args.tensor(5)?)),
            args.opt(8)?,
        )?;
        let channels = geometry.shape[1];
        let x_scale = one(to_f64(args.tensor(1)?)?, "x_scale")?;
        let w_scale = per_channel(to_f64(args.tensor(4)?)?, channels, "w_scale")?;
        let y_scale = one(to_f64(args.tensor(6)?)?, "y_scale")?;
        let zero = args.tensor(7)?;
        let zero_point = one(to_i64(zero)?, "y_zero_point")? as f64;
        let plane = num_elements(&geometry.shape[2..])?.max(1);
        let shape = &geometry.shape;
        let scaled: Vec<f64> = match &self.activation {
            None => {
                let scaled = acc.iter().enumerate().map(|(i, &a)| {
                    let scale = x_scale * w_scale[i / plane % channels] / y_scale;
                    (f64::from(a) * scale).round_ties_even() + zero_point
                });
                scaled.collect()
            }
            Some(_) => {
                let sums = acc.iter().enumerate().map(|(i, &a)| {
                    a as f32 * (x_scale as f32 * w_scale[i / plane % channels] as f32)
                });
                let sums = Tensor::from_vec(shape, sums.collect::<Vec<f32>>())?;
                let y = finish(sums, None, self.activation.as_ref())?;
                let inverse = 1.0 / y_scale as f32;
                let y = y.to_vec::<f32>()?.into_iter();
                y.map(|y| f64::from((y * inverse).round_ties_even()) + zero_point).collect()
            }
        };
        let scaled = scaled.into_iter();
        // A cast from float to integer saturates.
        let out = match zero.dtype() {
            DType::I8 => Tensor::from_vec(shape, scaled.map(|v| v as i8).collect())?,
            _ => Tensor::from_vec(shape, scaled.map(|v| v as u8).collect())?,
        };
        Ok(vec![planes_as_channels(out, self.channels_last)?.into()])
    }
}

fn expect_bytes(args: &InferArgs, i: usize) -> Result<()> {
    let dtype = args.dtype(i)?;
    ensure!(
        matches!(dtype, DType::I8 | DType::U8),
        DTypeMismatch,
        "input {i} must be i8 or u8, got {dtype}; insert a QuantizeLinear"
    );
    Ok(())
}

/// The convolution of operands with their zero points taken off, plus the bias.
fn accumulate(
    geometry: &Geometry,
    (x, x_zero): (&Tensor, Option<&Tensor>),
    (w, w_zero): (&Tensor, Option<&Tensor>),
    bias: Option<&Tensor>,
) -> Result<Vec<i32>> {
    let channels = geometry.shape[1];
    let typed = |t: Option<&Tensor>, dtype: DType, what: &str| match t.map(Tensor::dtype) {
        Some(got) if got != dtype => {
            Err(err!(DTypeMismatch, "{what} must be {dtype} here, got {got}"))
        }
        _ => Ok(()),
    };
    typed(x_zero, x.dtype(), "x_zero_point")?;
    typed(w_zero, w.dtype(), "w_zero_point")?;
    typed(bias, DType::I32, "the bias")?;
    let x_zero = match x_zero {
        Some(z) => one(to_i64(z)?, "x_zero_point")?,
        None => 0,
    };
    let w_zero = match w_zero {
        Some(z) => per_channel(to_i64(z)?, channels, "w_zero_point")?,
        None => filled(channels, 0)?,
    };
    let filter = num_elements(&w.shape()[1..])?.max(1);
    let x: Vec<i32> = to_i64(x)?.into_iter().map(|v| (v - x_zero) as i32).collect();
    let w: Vec<i32> =
        to_i64(w)?.into_iter().enumerate().map(|(i, v)| (v - w_zero[i / filter]) as i32).collect();
    let mut out = filled(num_elements(&geometry.shape)?, 0i32)?;
    if let Some(b) = bias {
        let b = per_channel(to_i64(b)?, channels, "the bias")?;
        let plane = num_elements(&geometry.shape[2..])?.max(1);
        for (i, o) in out.iter_mut().enumerate() {
            *o = b[i / plane % channels] as i32;
        }
    }
    geometry.convolve(&x, &w, &mut out, |acc, a, b| acc.wrapping_add(a.wrapping_mul(b)));
    Ok(out)
}

fn one<T: Copy>(values: Vec<T>, what: &str) -> Result<T> {
    ensure!(
        values.len() == 1,
        ShapeMismatch,
        "{what} must be one number, got {} of them",
        values.len()
    );
    Ok(values[0])
}

fn per_channel<T: Clone>(values: Vec<T>, channels: usize, what: &str) -> Result<Vec<T>> {
    match values.len() {
        1 => filled(channels, values[0].clone()),
        n => {
            ensure!(
                n == channels,
                ShapeMismatch,
                "{what} must be one number or one per output channel ({channels}), got {n}"
            );
            Ok(values)
        }
    }
}
