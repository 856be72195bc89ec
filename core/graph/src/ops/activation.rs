//! Activation functions of one float, and the two-input [`PRelu`] and [`SwiGLU`].

use super::unary::float_ops;
use super::util::special::{gelu, gelu_tanh, sigmoid, softplus};
use super::util::{Kind, broadcast_dims, map, map_float, shaped_like, zip};
use crate::{Dim, EvalArgs, Fact, InferArgs, Num, Operator, Value, attr_enum, for_dtype, op};
use deepseek_tensor::{Result, broadcast_shapes, ensure};

attr_enum! {
    /// How [`Gelu`] computes the distribution function of the normal.
    GeluApproximation {
        /// Exactly, by the error function.
        None = "none",
        /// By a hyperbolic tangent.
        Tanh = "tanh",
    }
}

float_ops! {
    /// `max(0, x) + min(0, α (e^(x/α) − 1))`. (ONNX Celu-28; Barron 2017.)
    Celu { alpha: f32 = 1.0 } => |op, x| {
        let alpha = f64::from(op.alpha);
        x.max(0.0) + (alpha * (x / alpha).exp_m1()).min(0.0) + if x.is_nan() { x } else { 0.0 }
    };
    /// `x` above 0, else `α (eˣ − 1)`. (ONNX Elu-22; Clevert et al. 2015.)
    Elu { alpha: f32 = 1.0 } => |op, x| {
        if x < 0.0 { f64::from(op.alpha) * x.exp_m1() } else { x }
    };
    /// `x Φ(x)`, Φ the distribution function of the standard normal, exact or by
    /// `½ (1 + tanh(√(2/π) (x + 0.044715 x³)))`. (ONNX Gelu-20; Hendrycks and Gimpel 2016.)
    Gelu { approximate: GeluApproximation = GeluApproximation::None } => |op, x| {
        match op.approximate {
            GeluApproximation::None => gelu(x),
            GeluApproximation::Tanh => gelu_tanh(x),
        }
    };
    /// `max(0, min(1, αx + β))`. (ONNX HardSigmoid-22.)
    HardSigmoid { alpha: f32 = 0.2, beta: f32 = 0.5 } => |op, x| {
        (f64::from(op.alpha) * x + f64::from(op.beta)).clamp(0.0, 1.0)
    };
    /// `x max(0, min(1, x/6 + ½))`. (ONNX HardSwish-22; Howard et al. 2019.)
    HardSwish {} => |_, x| x * (x / 6.0 + 0.5).clamp(0.0, 1.0);
    /// `x` from 0 up, else `αx`. (ONNX LeakyRelu-16.)
    LeakyRelu { alpha: f32 = 0.01 } => |op, x| if x < 0.0 { f64::from(op.alpha) * x } else { x };
    /// `x tanh(ln(1 + eˣ))`. (ONNX Mish-22; Misra 2019.)
    Mish {} => |_, x| x * softplus(x).tanh();
    /// `γx` above 0, else `γα (eˣ − 1)`. (ONNX Selu-22; Klambauer et al. 2017.)
    Selu { alpha: f32 = 1.673_263_2, gamma: f32 = 1.050_701 } => |op, x| {
        f64::from(op.gamma) * if x > 0.0 { x } else { f64::from(op.alpha) * x.exp_m1() }
    };
    /// `x σ(αx)`, σ the logistic function. (ONNX Swish-24; Ramachandran et al. 2017.)
    Swish { alpha: f32 = 1.0 } => |op, x| x * sigmoid(f64::from(op.alpha) * x);
    /// `x` above `α`, else 0. (ONNX ThresholdedRelu-22.)
    ThresholdedRelu { alpha: f32 = 1.0 } => |op, x| if x > f64::from(op.alpha) { x } else { 0.0 };
}

op! {
    /// `x + bias` below −lambd, `x − bias` above lambd, 0 between; integers truncate
    /// toward zero. (ONNX Shrink-9.)
    Shrink { bias: f32 = 0.0, lambd: f32 = 0.5 }
}

impl Operator for Shrink {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(1, 1)?;
        let dtype = Kind::Number.expect(args, 0)?;
        Ok(vec![shaped_like(args, 0, dtype)?])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let t = args.tensor(0)?;
        let (bias, lambd) = (f64::from(self.bias), f64::from(self.lambd));
        let f = |x: f64| match x {
            x if x < -lambd => x + bias,
            x if x > lambd => x - bias,
            _ => 0.0,
        };
        let out = if t.dtype().is_float() {
            map_float(t, &f)?
        } else {
            for_dtype!(t.dtype(), T in int => map(t, |x: T| T::from_f64(f(x.to_f64()))))?
        };
        Ok(vec![out.into()])
    }
}

op! {
    /// `x` from 0 up, else `slope · x`; the slope broadcasts to x, integers wrap.
    /// (ONNX PRelu-16; He et al. 2015.)
    PRelu {}
}

impl Operator for PRelu {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(2, 2)?;
        Kind::Number.expect(args, 0)?;
        let dtype = args.expect_same_dtype(0, 1)?;
        if let (Some(x), Some(slope)) = (args.shape(0), args.shape(1)) {
            let both = broadcast_dims(x, slope)?;
            ensure!(
                both.len() == x.len(),
                ShapeMismatch,
                "the slope has rank {}, the input only {}; the slope must broadcast to the input",
                slope.len(),
                x.len()
            );
        }
        Ok(vec![shaped_like(args, 0, dtype)?])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let (x, slope) = (args.tensor(0)?, args.tensor(1)?);
        ensure!(
            broadcast_shapes(x.shape(), slope.shape())?.as_slice() == x.shape(),
            ShapeMismatch,
            "the slope's shape {:?} does not broadcast to the input's {:?}",
            slope.shape(),
            x.shape()
        );
        let out = for_dtype!(x.dtype(), T in numeric => zip(x, slope, prelu::<T>))?;
        Ok(vec![out.into()])
    }
}

fn prelu<T: Num>(x: T, slope: T) -> T {
    if x < T::ZERO { slope.mul(x) } else { x }
}

op! {
    /// `swish(a) · b` with `swish(a) = a σ(αa)`, σ the logistic function; a and b have one
    /// shape. (ONNX SwiGLU-28; Shazeer 2020.)
    SwiGLU { alpha: f32 = 1.0 }
}

impl Operator for SwiGLU {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(2, 2)?;
        Kind::Float.expect(args, 0)?;
        let dtype = args.expect_same_dtype(0, 1)?;
        if let (Some(a), Some(b)) = (args.shape(0), args.shape(1)) {
            let differ = |(x, y): (&Dim, &Dim)| matches!((x.as_const(), y.as_const()), (Some(x), Some(y)) if x != y);
            ensure!(
                a.len() == b.len() && !a.iter().zip(b).any(differ),
                ShapeMismatch,
                "gate {} and value {} must have one shape",
                args.fact(0)?,
                args.fact(1)?
            );
        }
        Ok(vec![shaped_like(args, 0, dtype)?])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let (a, b) = (args.tensor(0)?, args.tensor(1)?);
        ensure!(
            a.shape() == b.shape(),
            ShapeMismatch,
            "gate {a:?} and value {b:?} must have one shape"
        );
        let alpha = f64::from(self.alpha);
        let out = for_dtype!(a.dtype(), T in float => {
            zip(a, b, |a: T, b: T| {
                let a = a.to_f64();
                T::from_f64(a * sigmoid(alpha * a) * b.to_f64())
            })
        })?;
        Ok(vec![out.into()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NoSubgraphs;
    use deepseek_tensor::Tensor;

    fn run(op: &dyn Operator, inputs: &[&Tensor]) -> Result<Tensor> {
        let inputs: Vec<_> = inputs.iter().map(|&t| Some(t.clone().into())).collect();
        let args = EvalArgs { inputs: &inputs, outputs: 1, env: &NoSubgraphs };
        op.eval(&args)?[0].tensor().cloned()
    }

    #[test]
    fn far_from_zero_activations_reach_their_limits() {
        const BIG: f32 = 1e30;
        let x = Tensor::from_slice(&[3], &[-BIG, 0.0, BIG]).unwrap();
        for (op, want) in [
            (&Celu::default() as &dyn Operator, [-1.0, 0.0, BIG]),
            (&Elu { alpha: 2.0 }, [-2.0, 0.0, BIG]),
            (&Gelu::default(), [0.0, 0.0, BIG]),
            (&Gelu { approximate: GeluApproximation::Tanh }, [0.0, 0.0, BIG]),
            (&HardSigmoid::default(), [0.0, 0.5, 1.0]),
            (&HardSwish {}, [0.0, 0.0, BIG]),
            (&LeakyRelu { alpha: 0.5 }, [-BIG / 2.0, 0.0, BIG]),
            (&Mish {}, [0.0, 0.0, BIG]),
            (&Swish::default(), [0.0, 0.0, BIG]),
            (&ThresholdedRelu::default(), [0.0, 0.0, BIG]),
        ] {
            let got = run(op, &[&x]).unwrap().to_vec::<f32>().unwrap();
            assert_eq!(got, want, "{op:?}");
        }
        let nan = Tensor::from_slice(&[1], &[f32::NAN]).unwrap();
        for op in [&Celu::default() as &dyn Operator, &Gelu::default(), &HardSigmoid::default()] {
            assert!(run(op, &[&nan]).unwrap().item::<f32>().unwrap().is_nan(), "{op:?}");
        }
    }

    #[test]
    fn a_slope_must_broadcast_to_the_input_and_not_beyond() {
        let x = Tensor::from_slice(&[2], &[-2i32, 3]).unwrap();
        let slope = Tensor::from_slice(&[1], &[5i32]).unwrap();
        assert_eq!(run(&PRelu {}, &[&x, &slope]).unwrap().to_vec::<i32>().unwrap(), [-10, 3]);
        let wide = Tensor::zeros(x.dtype(), &[2, 2]).unwrap();
        assert!(run(&PRelu {}, &[&x, &wide]).is_err());
    }
}
