//! Elementwise functions of any number of tensors, and [`Clip`], whose bounds are
//! inputs too. Shapes broadcast, element types agree.

use super::arith::infer_broadcast;
use super::util::shape_math::{combine, sound};
use super::util::{Kind, broadcast_shapes_all, cast_from_f64, map, shaped_like, vec_for, zip};
use crate::{Dim, EvalArgs, Fact, InferArgs, Num, Operator, Value, for_dtype, op};
use deepseek_tensor::{DType, Result, Tensor, ensure, num_elements};
use std::cmp::Ordering;

fn infer_variadic(
    args: &InferArgs,
    kind: Kind,
    known: impl Fn(&[&Dim]) -> Option<Dim>,
) -> Result<Vec<Fact>> {
    args.expect_inputs(1, usize::MAX)?;
    let dtype = kind.expect(args, 0)?;
    for i in 1..args.len() {
        args.expect_same_dtype(0, i)?;
    }
    match combine(args, dtype, |v| known(v).and_then(sound)) {
        Some(fact) => Ok(vec![fact]),
        None => Ok(vec![infer_broadcast(args, dtype)?]),
    }
}

/// The greater of two numbers; NaN if either is.
pub(super) fn greater<T: Num>(a: T, b: T) -> T {
    pick(a, b, Ordering::Greater)
}

/// The lesser of two numbers; NaN if either is.
pub(super) fn lesser<T: Num>(a: T, b: T) -> T {
    pick(a, b, Ordering::Less)
}

fn pick<T: Num>(a: T, b: T, first: Ordering) -> T {
    match a.partial_cmp(&b) {
        Some(order) => {
            if order == first {
                a
            } else {
                b
            }
        }
        None => {
            if a.to_f64().is_nan() {
                a
            } else {
                b
            }
        }
    }
}

fn extremum(args: &EvalArgs, first: Ordering) -> Result<Vec<Value>> {
    let mut out = args.tensor(0)?.clone();
    for i in 1..args.len() {
        let next = args.tensor(i)?;
        out = for_dtype!(out.dtype(), T in numeric => {
            zip(&out, next, |x: T, y: T| pick(x, y, first))
        })?;
    }
    Ok(vec![out.into()])
}

op! {
    /// The greatest of the inputs at each place; NaN if one is. (ONNX Max-13.)
    Max {}
}
impl Operator for Max {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        infer_variadic(args, Kind::Number, |v| v.iter().copied().cloned().reduce(|a, b| a.max(&b)))
    }
    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        extremum(args, Ordering::Greater)
    }
}

op! {
    /// The least of the inputs at each place; NaN if one is. (ONNX Min-13.)
    Min {}
}
impl Operator for Min {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        infer_variadic(args, Kind::Number, |v| v.iter().copied().cloned().reduce(|a, b| a.min(&b)))
    }
    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        extremum(args, Ordering::Less)
    }
}

/// The sum of the inputs over `divisor`, in double precision, left to right.
fn sum(args: &EvalArgs, divisor: f64) -> Result<Vec<Value>> {
    let tensors = (0..args.len()).map(|i| args.tensor(i)).collect::<Result<Vec<_>>>()?;
    let dtype = args.tensor(0)?.dtype();
    let shape = broadcast_shapes_all(tensors.iter().map(|t| t.shape()))?;
    let mut total: Vec<f64> = vec_for(&shape)?;
    total.resize(num_elements(&shape)?, 0.0);
    for t in tensors {
        let t = t.broadcast_to(&shape)?;
        for_dtype!(dtype, T in float => {
            for (sum, x) in total.iter_mut().zip(t.iter::<T>()?) {
                *sum += x.to_f64();
            }
        });
    }
    total.iter_mut().for_each(|x| *x /= divisor);
    Ok(vec![cast_from_f64(dtype, &shape, &total)?.into()])
}

op! {
    /// The sum of the inputs at each place. (ONNX Sum-13.)
    Sum {}
}
impl Operator for Sum {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        infer_variadic(args, Kind::Float, |v| Some(Dim::sum(v.iter().copied())))
    }
    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        sum(args, 1.0)
    }
}

op! {
    /// The mean of the inputs at each place. (ONNX Mean-13.)
    Mean {}
}
impl Operator for Mean {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        infer_variadic(args, Kind::Float, |_| None)
    }
    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        sum(args, args.len() as f64)
    }
}

op! {
    /// `min(max(x, low), high)` with the scalar inputs `low` and `high`, either of which
    /// may be absent; where they cross, `high`. (ONNX Clip-13.)
    Clip {}
}

impl Operator for Clip {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(1, 3)?;
        let dtype = Kind::Number.expect(args, 0)?;
        for i in 1..args.len() {
            if args.get(i).is_some() {
                args.expect_same_dtype(0, i)?;
                let one = |d: &Dim| d.as_const().is_none_or(|d| d == 1);
                ensure!(
                    args.shape(i).is_none_or(|s| s.iter().all(one)),
                    ShapeMismatch,
                    "bound {i} must be a scalar; use Min and Max for bounds per element"
                );
            }
        }
        if let Some(fact) = self.known(args, dtype) {
            return Ok(vec![fact]);
        }
        Ok(vec![shaped_like(args, 0, dtype)?])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let x = args.tensor(0)?;
        let out = for_dtype!(x.dtype(), T in numeric => {
            let low = args.opt(1)?.map(Tensor::item::<T>).transpose()?;
            let high = args.opt(2)?.map(Tensor::item::<T>).transpose()?;
            map(x, |x: T| {
                let x = low.map_or(x, |low| greater(x, low));
                high.map_or(x, |high| lesser(x, high))
            })
        })?;
        Ok(vec![out.into()])
    }
}

impl Clip {
    fn known(&self, args: &InferArgs, dtype: DType) -> Option<Fact> {
        let bound = |i: usize| match args.get(i) {
            None => Some(None),
            Some(fact) => super::util::shape_math::contents(fact)?.first().cloned().map(Some),
        };
        let (low, high) = (bound(1)?, bound(2)?);
        let data = InferArgs { inputs: &args.inputs[..1], ..*args };
        combine(&data, dtype, |v| {
            let x = low.as_ref().map_or_else(|| v[0].clone(), |low| v[0].max(low));
            sound(high.as_ref().map_or_else(|| x.clone(), |high| x.min(high)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NoSubgraphs;

    #[test]
    fn nan_wins_over_every_number() {
        for (a, b) in [(f32::NAN, 1.0), (1.0, f32::NAN)] {
            assert!(greater(a, b).is_nan() && lesser(a, b).is_nan());
        }
        assert_eq!((greater(-1i8, 3), lesser(-1i8, 3)), (3, -1));
    }

    #[test]
    fn crossed_bounds_give_the_high_one_and_absent_bounds_nothing() {
        let t = |v: &[i32]| Some(Tensor::from_slice(&[v.len()], v).unwrap().into());
        let one = |v: i32| Some(Tensor::scalar(v).unwrap().into());
        let run = |inputs: &[Option<Value>]| {
            let args = EvalArgs { inputs, outputs: 1, env: &NoSubgraphs };
            Clip {}.eval(&args).unwrap()[0].tensor().unwrap().to_vec::<i32>().unwrap()
        };
        assert_eq!(run(&[t(&[-5, 0, 5]), one(3), one(1)]), [1, 1, 1]);
        assert_eq!(run(&[t(&[-5, 0, 5]), None, one(1)]), [-5, 0, 1]);
    }
}
