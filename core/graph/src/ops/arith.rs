//! Arithmetic of two tensors: shapes broadcast, element types agree (the exponent
//! of [`Pow`] excepted), integers wrap and divide toward zero. Small integer
//! results stay known as formulas; see [`contents`](super::util::shape_math).

use super::util::shape_math::{combine, div_exact, div_trunc, is_size, sound};
use super::util::{Kind, broadcast_all, cast_from_f64, cast_from_i64, to_f64, to_i64, zip};
use crate::{Dim, EvalArgs, Fact, InferArgs, Num, Operator, Value, for_dtype, op};
use deepseek_tensor::{DType, Result, Tensor, ensure};

/// The shape rule of a binary operator whose result has type `dtype`.
pub(super) fn infer_broadcast(args: &InferArgs, dtype: DType) -> Result<Fact> {
    let shapes = (0..args.len()).map(|i| args.shape(i));
    Ok(Fact::maybe_ranked(dtype, broadcast_all(shapes)?))
}

fn infer_arith(
    args: &InferArgs,
    known: impl Fn(DType, &Dim, &Dim) -> Option<Dim>,
) -> Result<Vec<Fact>> {
    args.expect_inputs(2, 2)?;
    Kind::Number.expect(args, 0)?;
    let dtype = args.expect_same_dtype(0, 1)?;
    let known = combine(args, dtype, |v| known(dtype, v[0], v[1]).and_then(sound));
    match known {
        Some(fact) => Ok(vec![fact]),
        None => Ok(vec![infer_broadcast(args, dtype)?]),
    }
}

op! {
    /// `a + b`. (ONNX Add-14.)
    Add {}
}
impl Operator for Add {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        infer_arith(args, |_, a, b| Some(a + b))
    }
    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let (a, b) = (args.tensor(0)?, args.tensor(1)?);
        let out = for_dtype!(a.dtype(), T in numeric => zip(a, b, <T as Num>::add))?;
        Ok(vec![out.into()])
    }
}

op! {
    /// `a − b`. (ONNX Sub-14.)
    Sub {}
}
impl Operator for Sub {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        infer_arith(args, |_, a, b| Some(a - b))
    }
    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let (a, b) = (args.tensor(0)?, args.tensor(1)?);
        let out = for_dtype!(a.dtype(), T in numeric => zip(a, b, <T as Num>::sub))?;
        Ok(vec![out.into()])
    }
}

op! {
    /// `a · b`. (ONNX Mul-14.)
    Mul {}
}
impl Operator for Mul {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        infer_arith(args, |_, a, b| Some(a * b))
    }
    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let (a, b) = (args.tensor(0)?, args.tensor(1)?);
        let out = for_dtype!(a.dtype(), T in numeric => zip(a, b, <T as Num>::mul))?;
        Ok(vec![out.into()])
    }
}

op! {
    /// `a / b`; integers divide toward zero, and a zero divisor is an error.
    /// (ONNX Div-14.)
    Div {}
}
impl Operator for Div {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        infer_arith(
            args,
            |dtype, a, b| {
                if dtype.is_float() { div_exact(a, b) } else { div_trunc(a, b) }
            },
        )
    }
    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let (a, b) = (args.tensor(0)?, args.tensor(1)?);
        let out = if a.dtype().is_float() {
            for_dtype!(a.dtype(), T in float => {
                zip(a, b, |x: T, y: T| T::from_f64(x.to_f64() / y.to_f64()))
            })?
        } else {
            expect_no_zero(b)?;
            for_dtype!(a.dtype(), T in int => zip(a, b, T::wrapping_div))?
        };
        Ok(vec![out.into()])
    }
}

op! {
    /// The remainder of `a / b`. Without `fmod` the quotient rounds toward −∞ and the
    /// result has the sign of b; with it the quotient rounds toward zero and the result has
    /// the sign of a. An integer modulo zero is an error. (ONNX Mod-28.)
    Mod { fmod: bool = false }
}
impl Operator for Mod {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        infer_arith(args, |_, a, b| {
            let nonzero = b.as_const() != Some(0);
            (nonzero && (!self.fmod || is_size(a) && is_size(b))).then(|| a.rem(b))
        })
    }
    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let (a, b) = (args.tensor(0)?, args.tensor(1)?);
        let fmod = self.fmod;
        let out = if a.dtype().is_float() {
            let f = |x: f64, y: f64| if fmod { x % y } else { float_mod(x, y) };
            for_dtype!(a.dtype(), T in float => {
                zip(a, b, |x: T, y: T| T::from_f64(f(x.to_f64(), y.to_f64())))
            })?
        } else {
            expect_no_zero(b)?;
            for_dtype!(a.dtype(), T in int => zip(a, b, |x: T, y: T| {
                let rest = x.wrapping_rem(y);
                if fmod { rest } else { with_sign_of(y, rest) }
            }))?
        };
        Ok(vec![out.into()])
    }
}

/// The remainder of a truncated division by `divisor` as that of a floor division.
fn with_sign_of<T: Num>(divisor: T, rest: T) -> T {
    let apart = (rest < T::ZERO) != (divisor < T::ZERO);
    if rest != T::ZERO && apart { rest.add(divisor) } else { rest }
}

/// `x − ⌊x/y⌋ y`; an exact zero has the sign of y.
fn float_mod(x: f64, y: f64) -> f64 {
    let rest = x % y;
    if rest == 0.0 {
        0f64.copysign(y)
    } else if (rest < 0.0) != (y < 0.0) {
        rest + y
    } else {
        rest
    }
}

fn expect_no_zero(divisor: &Tensor) -> Result<()> {
    let zero = for_dtype!(divisor.dtype(), T in int => divisor.iter::<T>()?.any(|y| y == 0));
    ensure!(!zero, InvalidArgument, "integer division by zero; divide floats to get infinity");
    Ok(())
}

op! {
    /// `aᵇ`, of a's element type; b may have another. Integers to integer powers wrap;
    /// an integer to a negative or float power is computed as a float and truncated
    /// toward zero. (ONNX Pow-15.)
    Pow {}
}
impl Operator for Pow {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(2, 2)?;
        let dtype = Kind::Number.expect(args, 0)?;
        Kind::Number.expect(args, 1)?;
        Ok(vec![infer_broadcast(args, dtype)?])
    }
    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let (a, b) = (args.tensor(0)?, args.tensor(1)?);
        let out = if a.dtype().is_int() && b.dtype() == DType::U64 {
            for_dtype!(a.dtype(), T in int => zip(a, b, wrapping_pow::<T>))?
        } else if a.dtype().is_int() && b.dtype().is_int() {
            let b = cast_from_i64(DType::I64, b.shape(), &to_i64(b)?)?;
            for_dtype!(a.dtype(), T in int => zip(a, &b, |x: T, y: i64| {
                match u64::try_from(y) {
                    Ok(y) => wrapping_pow(x, y),
                    Err(_) => T::from_f64((x as f64).powf(y as f64)),
                }
            }))?
        } else {
            let b = cast_from_f64(DType::F64, b.shape(), &to_f64(b)?)?;
            for_dtype!(a.dtype(), T in numeric => {
                zip(a, &b, |x: T, y: f64| T::from_f64(x.to_f64().powf(y)))
            })?
        };
        Ok(vec![out.into()])
    }
}

/// `baseⁿ` modulo the width of `T`, by squaring.
fn wrapping_pow<T: Num>(mut base: T, mut n: u64) -> T {
    let mut power = T::ONE;
    while n > 0 {
        if n & 1 == 1 {
            power = power.mul(base);
        }
        base = base.mul(base);
        n >>= 1;
    }
    power
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{NoSubgraphs, ops};

    fn run(op: &dyn Operator, a: Tensor, b: Tensor) -> Result<Tensor> {
        let inputs = [Some(a.into()), Some(b.into())];
        let args = EvalArgs { inputs: &inputs, outputs: 1, env: &NoSubgraphs };
        op.eval(&args)?[0].tensor().cloned()
    }

    #[test]
    fn integers_follow_the_specification_at_the_edges() {
        struct Case(&'static dyn Operator, &'static [i8], &'static [i8], &'static [i8]);
        for Case(op, a, b, want) in [
            Case(&Div {}, &[7, -7, -128], &[-2, 2, -1], &[-3, -3, -128]),
            Case(&Mod { fmod: false }, &[7, -7, -7, -128], &[-3, 3, -3, -1], &[-2, 2, -1, 0]),
            Case(&Mod { fmod: true }, &[7, -7, -7, -128], &[-3, 3, -3, -1], &[1, -1, -1, 0]),
            Case(&Add {}, &[127], &[1], &[-128]),
            Case(&Pow {}, &[2, -2, 3, 2, 1], &[7, 3, 0, -1, -9], &[-128, -8, 1, 0, 1]),
        ] {
            let t = |v: &[i8]| Tensor::from_slice(&[v.len()], v).unwrap();
            assert_eq!(run(op, t(a), t(b)).unwrap().to_vec::<i8>().unwrap(), want, "{op:?}");
        }
        let zero = Tensor::from_slice(&[1], &[0i64]).unwrap();
        assert!(run(&Div {}, zero.clone(), zero.clone()).is_err());
        assert!(run(&Mod::default(), zero.clone(), zero).is_err());
    }

    #[test]
    fn float_modulo_at_zeros_and_infinities() {
        const INF: f64 = f64::INFINITY;
        for (x, y, want) in [
            (0.0, -3.0, -0.0),
            (-0.0, 3.0, 0.0),
            (-1.0, INF, INF),
            (1.0, INF, 1.0),
            (INF, 2.0, f64::NAN),
            (2.0, 0.0, f64::NAN),
            (-5.5, 2.0, 0.5),
        ] {
            let got = float_mod(x, y);
            assert!(
                got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(),
                "{x} {y} {got}"
            );
        }
    }

    #[test]
    fn arithmetic_on_extents_stays_known() {
        let n = Dim::sym("n");
        let fact = Fact::dims(DType::I64, vec![n.clone(), &n * 2], false);
        let three = Fact::constant(Tensor::scalar(3i64).unwrap());
        let facts = [Some(&fact), Some(&three)];
        let args = InferArgs { node: "t", inputs: &facts, outputs: 1 };
        let known = |op: &dyn Operator| op.infer(&args).unwrap()[0].as_dims().unwrap();
        assert_eq!(known(&ops::Add {}), [&n + 3, &n * 2 + 3]);
        assert_eq!(known(&ops::Mul {}), [&n * 3, &n * 6]);
        assert_eq!(known(&ops::Div {})[0], n.floor_div(&Dim::from(3i64)));
        assert_eq!(known(&ops::Mod { fmod: true })[0], n.rem(&Dim::from(3i64)));
    }
}
