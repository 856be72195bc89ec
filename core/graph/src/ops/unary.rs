//! Functions of one number: elementary functions of floats, and the few that
//! integers have too. The result has the input's shape and element type; floats of
//! every width are computed in double precision and rounded once.

use super::util::shape_math::{combine, is_size, sound};
use super::util::special::{erf, sigmoid, softplus};
use super::util::{Kind, map, map_float, shaped_like, to_f64};
use crate::{Dim, EvalArgs, Fact, InferArgs, Num, Operator, Value, for_dtype, op};
use deepseek_tensor::{DType, Result, Tensor};

/// Declares operators `y = f(x)` on floats, where the body sees the operator and the element in
/// double precision.
macro_rules! float_ops {
    ($($(#[$doc:meta])* $name:ident { $($attrs:tt)* } => $f:expr;)*) => {$(
        $crate::op! { $(#[$doc])* $name { $($attrs)* } }
        impl $crate::Operator for $name {
            fn infer(&self, args: &$crate::InferArgs) -> Result<Vec<$crate::Fact>> {
                args.expect_inputs(1, 1)?;
                let dtype = Kind::Float.expect(args, 0)?;
                Ok(vec![shaped_like(args, 0, dtype)?])
            }
            fn eval(&self, args: &$crate::EvalArgs) -> Result<Vec<$crate::Value>> {
                let f: fn(&Self, f64) -> f64 = $f;
                Ok(vec![map_float(args.tensor(0)?, &|x| f(self, x))?.into()])
            }
        }
    )*};
}
pub(super) use float_ops;

float_ops! {
    /// `cos⁻¹ x` in radians, NaN outside [−1, 1]. (ONNX Acos-22.)
    Acos {} => |_, x| x.acos();
    /// `cosh⁻¹ x`, NaN below 1. (ONNX Acosh-22.)
    Acosh {} => |_, x| x.acosh();
    /// `sin⁻¹ x` in radians, NaN outside [−1, 1]. (ONNX Asin-22.)
    Asin {} => |_, x| x.asin();
    /// `sinh⁻¹ x`. (ONNX Asinh-22.)
    Asinh {} => |_, x| x.asinh();
    /// `tan⁻¹ x` in radians. (ONNX Atan-22.)
    Atan {} => |_, x| x.atan();
    /// `tanh⁻¹ x`, NaN outside [−1, 1]. (ONNX Atanh-22.)
    Atanh {} => |_, x| x.atanh();
    /// `cos x`, x in radians. (ONNX Cos-22.)
    Cos {} => |_, x| x.cos();
    /// `cosh x`. (ONNX Cosh-22.)
    Cosh {} => |_, x| x.cosh();
    /// The error function `2/√π ∫₀ˣ e^(−t²) dt`. (ONNX Erf-13, floats.)
    Erf {} => |_, x| erf(x);
    /// `eˣ`. (ONNX Exp-13.)
    Exp {} => |_, x| x.exp();
    /// `ln x`, NaN below 0. (ONNX Log-13.)
    Log {} => |_, x| x.ln();
    /// `1/x`. (ONNX Reciprocal-13.)
    Reciprocal {} => |_, x| x.recip();
    /// `1/(1 + e^(−x))`. (ONNX Sigmoid-13.)
    Sigmoid {} => |_, x| sigmoid(x);
    /// `sin x`, x in radians. (ONNX Sin-22.)
    Sin {} => |_, x| x.sin();
    /// `sinh x`. (ONNX Sinh-22.)
    Sinh {} => |_, x| x.sinh();
    /// `ln(1 + eˣ)`. (ONNX Softplus-22.)
    Softplus {} => |_, x| softplus(x);
    /// `x/(1 + |x|)`. (ONNX Softsign-22.)
    Softsign {} => |_, x| x / (1.0 + x.abs());
    /// `√x`, NaN below 0. (ONNX Sqrt-13.)
    Sqrt {} => |_, x| x.sqrt();
    /// `tan x`, x in radians. (ONNX Tan-22.)
    Tan {} => |_, x| x.tan();
    /// `tanh x`. (ONNX Tanh-13.)
    Tanh {} => |_, x| x.tanh();
}

/// Declares operators that round floats to integers. Contents that are integers
/// already, as in shape arithmetic, stay known.
macro_rules! rounding_ops {
    ($($(#[$doc:meta])* $name:ident => $f:expr;)*) => {$(
        op! { $(#[$doc])* $name {} }
        impl Operator for $name {
            fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
                args.expect_inputs(1, 1)?;
                let dtype = Kind::Float.expect(args, 0)?;
                if let Some(known) = combine(args, dtype, |v| Some(v[0].clone())) {
                    return Ok(vec![known]);
                }
                Ok(vec![shaped_like(args, 0, dtype)?])
            }
            fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
                let f: fn(f64) -> f64 = $f;
                Ok(vec![map_float(args.tensor(0)?, &f)?.into()])
            }
        }
    )*};
}

rounding_ops! {
    /// `⌈x⌉`. (ONNX Ceil-13.)
    Ceil => f64::ceil;
    /// `⌊x⌋`. (ONNX Floor-13.)
    Floor => f64::floor;
    /// The nearest integer, halves to even. (ONNX Round-22.)
    Round => f64::round_ties_even;
}

/// The shape rule of a function of numbers whose effect on formulas is `known`.
pub(super) fn infer_number(
    args: &InferArgs,
    known: impl Fn(&Dim) -> Option<Dim>,
) -> Result<Vec<Fact>> {
    args.expect_inputs(1, 1)?;
    let dtype = Kind::Number.expect(args, 0)?;
    if let Some(known) = combine(args, dtype, |v| known(v[0])) {
        return Ok(vec![known]);
    }
    Ok(vec![shaped_like(args, 0, dtype)?])
}

/// `float` of the elements of a float tensor, `int` of those of an integer tensor; `int` sees
/// values as `i128`, which holds every integer type, and its result wraps to the type.
fn map_number(
    t: &Tensor,
    float: &dyn Fn(f64) -> f64,
    int: &dyn Fn(i128) -> i128,
) -> Result<Vec<Value>> {
    let out = if t.dtype().is_float() {
        map_float(t, float)?
    } else {
        for_dtype!(t.dtype(), T in int => map(t, |x: T| int(i128::from(x)) as T))?
    };
    Ok(vec![out.into()])
}

op! {
    /// `|x|`; the least signed integer, which has no opposite, stays. (ONNX Abs-13.)
    Abs {}
}
impl Operator for Abs {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        infer_number(args, |d| is_size(d).then(|| d.clone()))
    }
    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        map_number(args.tensor(0)?, &f64::abs, &i128::abs)
    }
}

op! {
    /// `−x`; integers wrap. (ONNX Neg-13.)
    Neg {}
}
impl Operator for Neg {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        infer_number(args, |d| sound(-d))
    }
    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        map_number(args.tensor(0)?, &|x| -x, &|x| -x)
    }
}

op! {
    /// 1, −1 or 0 for positive, negative and zero; NaN for NaN. (ONNX Sign-13.)
    Sign {}
}
impl Operator for Sign {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        infer_number(args, |_| None)
    }
    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let float = |x: f64| if x == 0.0 || x.is_nan() { x } else { x.signum() };
        map_number(args.tensor(0)?, &float, &i128::signum)
    }
}

op! {
    /// `max(x, 0)`; NaN stays. (ONNX Relu-14.)
    Relu {}
}
impl Operator for Relu {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        infer_number(args, |d| sound(d.max(&Dim::from(0i64))))
    }
    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        map_number(args.tensor(0)?, &|x| if x < 0.0 { 0.0 } else { x }, &|x| x.max(0))
    }
}

op! {
    /// Whether x is infinite: `bool` of the input's shape. (ONNX IsInf-20.)
    IsInf {
        /// Count −∞.
        detect_negative: bool = true,
        /// Count +∞.
        detect_positive: bool = true,
    }
}
impl Operator for IsInf {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        infer_predicate(args)
    }
    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let (negative, positive) = (self.detect_negative, self.detect_positive);
        predicate(args.tensor(0)?, &|x| {
            x.is_infinite() && if x < 0.0 { negative } else { positive }
        })
    }
}

op! {
    /// Whether x is NaN: `bool` of the input's shape. (ONNX IsNaN-20.)
    IsNaN {}
}
impl Operator for IsNaN {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        infer_predicate(args)
    }
    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        predicate(args.tensor(0)?, &f64::is_nan)
    }
}

fn infer_predicate(args: &InferArgs) -> Result<Vec<Fact>> {
    args.expect_inputs(1, 1)?;
    Kind::AnyFloat.expect(args, 0)?;
    Ok(vec![shaped_like(args, 0, DType::Bool)?])
}

fn predicate(t: &Tensor, f: &dyn Fn(f64) -> bool) -> Result<Vec<Value>> {
    let out = if t.dtype().is_float8() {
        Tensor::from_vec(t.shape(), to_f64(t)?.into_iter().map(f).collect())?
    } else {
        for_dtype!(t.dtype(), T in float => map(t, |x: T| f(x.to_f64())))?
    };
    Ok(vec![out.into()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NoSubgraphs;
    use half::f16;

    fn run(op: &dyn Operator, t: Tensor) -> Tensor {
        let inputs = [Some(t.into())];
        let args = EvalArgs { inputs: &inputs, outputs: 1, env: &NoSubgraphs };
        op.eval(&args).unwrap()[0].tensor().unwrap().clone()
    }

    #[test]
    fn edges_of_floats_and_integers() {
        struct Case(&'static dyn Operator, Tensor, Tensor);
        let f = |v: &[f32]| Tensor::from_slice(&[v.len()], v).unwrap();
        let i = |v: &[i8]| Tensor::from_slice(&[v.len()], v).unwrap();
        let u = |v: &[u64]| Tensor::from_slice(&[v.len()], v).unwrap();
        let b = |v: &[bool]| Tensor::from_slice(&[v.len()], v).unwrap();
        const INF: f32 = f32::INFINITY;
        for Case(op, x, want) in [
            Case(&Round {}, f(&[0.5, 1.5, -2.5, -0.4]), f(&[0.0, 2.0, -2.0, -0.0])),
            Case(&Abs {}, i(&[-128, -1, 5]), i(&[-128, 1, 5])),
            Case(&Neg {}, i(&[-128, -1, 5]), i(&[-128, 1, -5])),
            Case(&Neg {}, u(&[1, u64::MAX]), u(&[u64::MAX, 1])),
            Case(&Sign {}, u(&[0, u64::MAX]), u(&[0, 1])),
            Case(&Sign {}, f(&[-0.5, 0.0, INF]), f(&[-1.0, 0.0, 1.0])),
            Case(&Relu {}, i(&[-3, 3]), i(&[0, 3])),
            Case(&IsNaN {}, f(&[f32::NAN, 1.0]), b(&[true, false])),
            Case(
                &IsInf { detect_negative: false, detect_positive: true },
                f(&[INF, -INF, 0.0]),
                b(&[true, false, false]),
            ),
        ] {
            let got = run(op, x);
            assert!(crate::same_tensor(&got, &want), "{op:?}: {got:?}");
        }
    }

    #[test]
    fn narrow_floats_round_once() {
        let x: Vec<f16> = (-40..40).map(|i| f16::from_f32(i as f32 / 8.0)).collect();
        let got = run(&Tanh {}, Tensor::from_slice(&[80], &x).unwrap());
        for (x, y) in x.iter().zip(got.to_vec::<f16>().unwrap()) {
            assert_eq!(y, f16::from_f64(x.to_f64().tanh()));
        }
    }
}
