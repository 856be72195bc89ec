//! Comparison and truth: results are `bool`, shapes broadcast. Outcomes that are the
//! same for every size a symbol may take are known: exporters guard shape arithmetic
//! with comparisons such as `extent < 0`.

use super::arith::infer_broadcast;
use super::util::shape_math::decide;
use super::util::{Kind, broadcast_shapes_all, map, vec_for, zip};
use crate::{EvalArgs, Fact, InferArgs, Known, Operator, Value, for_dtype, op};
use deepseek_tensor::{DType, Result, Tensor};
use std::cmp::Ordering;

fn infer_comparison(
    args: &InferArgs,
    kind: Kind,
    holds: impl Fn(Ordering) -> bool,
) -> Result<Vec<Fact>> {
    args.expect_inputs(2, 2)?;
    kind.expect(args, 0)?;
    args.expect_same_dtype(0, 1)?;
    match decide(args, holds) {
        Some(fact) => Ok(vec![fact]),
        None => Ok(vec![infer_broadcast(args, DType::Bool)?]),
    }
}

/// Declares comparisons of numbers; NaN compares false.
macro_rules! comparisons {
    ($($(#[$doc:meta])* $name:ident => $op:tt, $holds:expr;)*) => {$(
        op! { $(#[$doc])* $name {} }
        impl Operator for $name {
            fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
                infer_comparison(args, Kind::Number, $holds)
            }
            fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
                let (a, b) = (args.tensor(0)?, args.tensor(1)?);
                let out = for_dtype!(a.dtype(), T in numeric => zip(a, b, |x: T, y: T| x $op y))?;
                Ok(vec![out.into()])
            }
        }
    )*};
}

comparisons! {
    /// `a > b`. (ONNX Greater-13.)
    Greater => >, Ordering::is_gt;
    /// `a ≥ b`. (ONNX GreaterOrEqual-16.)
    GreaterOrEqual => >=, Ordering::is_ge;
    /// `a < b`. (ONNX Less-13.)
    Less => <, Ordering::is_lt;
    /// `a ≤ b`. (ONNX LessOrEqual-16.)
    LessOrEqual => <=, Ordering::is_le;
}

op! {
    /// `a = b`, of numbers, truth values or strings; NaN equals nothing. (ONNX Equal-19.)
    Equal {}
}
impl Operator for Equal {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        infer_comparison(args, Kind::Comparable, Ordering::is_eq)
    }
    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let (a, b) = (args.tensor(0)?, args.tensor(1)?);
        if a.dtype() != DType::String {
            let out = for_dtype!(a.dtype(), T in fixed => zip(a, b, |x: T, y: T| x == y))?;
            return Ok(vec![out.into()]);
        }
        let shape = broadcast_shapes_all([a.shape(), b.shape()])?;
        let mut out = vec_for(&shape)?;
        let (a, b) = (a.broadcast_to(&shape)?, b.broadcast_to(&shape)?);
        out.extend(a.as_strings()?.iter().zip(b.as_strings()?).map(|(x, y)| *x == y));
        Ok(vec![Tensor::from_vec(&shape, out)?.into()])
    }
}

/// The shape rule of a connective. `absorbing` is the operand that settles the result
/// alone, so that it is known although the other operand is not.
fn infer_connective(args: &InferArgs, absorbing: Option<bool>) -> Result<Vec<Fact>> {
    args.expect_inputs(2, 2)?;
    Kind::Bool.expect(args, 0)?;
    args.expect_same_dtype(0, 1)?;
    let mut fact = infer_broadcast(args, DType::Bool)?;
    if let Some(absorbing) = absorbing {
        fact.known = absorb(args, &fact, absorbing).map(Known::Tensor);
    }
    Ok(vec![fact])
}

/// The result, if it is small and one operand consists of `absorbing` alone.
fn absorb(args: &InferArgs, out: &Fact, absorbing: bool) -> Option<Tensor> {
    const MAX: usize = 4096;
    let settled = |i: usize| match args.get(i)?.known.as_ref()? {
        Known::Tensor(t) if !t.is_empty() && t.len() <= MAX => {
            Some(t.iter::<bool>().ok()?.all(|x| x == absorbing))
        }
        _ => None,
    };
    if settled(0) != Some(true) && settled(1) != Some(true) {
        return None;
    }
    let extents = out.shape()?.iter().map(|d| usize::try_from(d.as_const()?).ok());
    let shape = extents.collect::<Option<Vec<_>>>()?;
    let n = deepseek_tensor::num_elements(&shape).ok().filter(|&n| n <= MAX)?;
    Tensor::from_vec(&shape, vec![absorbing; n]).ok()
}

/// Declares connectives of truth values.
macro_rules! connectives {
    ($($(#[$doc:meta])* $name:ident => $op:tt, $absorbing:expr;)*) => {$(
        op! { $(#[$doc])* $name {} }
        impl Operator for $name {
            fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
                infer_connective(args, $absorbing)
            }
            fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
                let (a, b) = (args.tensor(0)?, args.tensor(1)?);
                Ok(vec![zip(a, b, |x: bool, y: bool| x $op y)?.into()])
            }
        }
    )*};
}

connectives! {
    /// `a ∧ b`. (ONNX And-7.)
    And => &, Some(false);
    /// `a ∨ b`. (ONNX Or-7.)
    Or => |, Some(true);
    /// `a ≠ b`, of truth values. (ONNX Xor-7.)
    Xor => ^, None;
}

op! {
    /// `¬x`. (ONNX Not-1.)
    Not {}
}
impl Operator for Not {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(1, 1)?;
        Kind::Bool.expect(args, 0)?;
        Ok(vec![super::util::shaped_like(args, 0, DType::Bool)?])
    }
    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        Ok(vec![map(args.tensor(0)?, |x: bool| !x)?.into()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Dim, ops};

    fn infer(op: &dyn Operator, a: &Fact, b: &Fact) -> Fact {
        let inputs = [Some(a), Some(b)];
        op.infer(&InferArgs { node: "t", inputs: &inputs, outputs: 1 }).unwrap().remove(0)
    }

    #[test]
    fn comparisons_that_hold_for_every_size_are_known() {
        let n = Dim::sym("n");
        let fact = Fact::dims(DType::I64, vec![n.clone(), Dim::from(3i64)], false);
        let of = |x: i64| Fact::constant(Tensor::scalar(x).unwrap());
        let known = |f: Fact| f.as_constant().map(|t| t.to_vec::<bool>().unwrap());
        assert_eq!(known(infer(&ops::Equal {}, &fact, &of(-1))), Some(vec![false, false]));
        assert_eq!(known(infer(&ops::Less {}, &fact, &of(0))), Some(vec![false, false]));
        assert_eq!(known(infer(&ops::GreaterOrEqual {}, &fact, &of(0))), Some(vec![true, true]));
        assert_eq!(known(infer(&ops::Equal {}, &fact, &of(3))), None);
    }

    #[test]
    fn one_operand_can_settle_a_connective() {
        let unknown = Fact::tensor(DType::Bool, [Dim::from(2i64)]);
        let no = Fact::constant(Tensor::scalar(false).unwrap());
        let known = |f: Fact| f.as_constant().map(|t| t.to_vec::<bool>().unwrap());
        assert_eq!(known(infer(&ops::And {}, &unknown, &no)), Some(vec![false, false]));
        assert_eq!(known(infer(&ops::Or {}, &unknown, &no)), None);
        assert_eq!(known(infer(&ops::Xor {}, &unknown, &no)), None);
    }
}
