//! Choosing element by element between two tensors.

use super::arith::infer_broadcast;
use super::util::shape_math::{carries, contents};
use super::util::{Kind, Sink, Source, broadcast_shapes_all, through_views, vec_for};
use crate::{Dim, EvalArgs, Fact, InferArgs, Known, Operator, Value, for_dtype, op};
use deepseek_tensor::{DType, Result, Tensor};

op! {
    /// `x` where the condition (`bool`) holds, else `y`; the three broadcast, x and y have one
    /// element type, any. (ONNX Where-16.)
    Where {}
}

/// Most elements that are followed as formulas.
const MAX_CONTENTS: usize = 4096;

impl Operator for Where {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(3, 3)?;
        Kind::Bool.expect(args, 0)?;
        let dtype = args.expect_same_dtype(1, 2)?;
        match known(args, dtype) {
            Some(fact) => Ok(vec![fact]),
            None => Ok(vec![infer_broadcast(args, dtype)?]),
        }
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let (condition, x, y) = (args.tensor(0)?, args.tensor(1)?, args.tensor(2)?);
        let shape = broadcast_shapes_all([condition.shape(), x.shape(), y.shape()])?;
        let condition = condition.broadcast_to(&shape)?;
        let conditions = condition.iter::<bool>()?;
        let dtype = x.dtype();
        if !Kind::Fixed.admits(dtype) {
            let wide = |t: &Tensor| Source::of(&through_views(t, |t| t.broadcast_to(&shape))?);
            let (mut sink, x, y) = (Sink::zeros(dtype, &shape)?, wide(x)?, wide(y)?);
            for (i, holds) in conditions.enumerate() {
                sink.copy(i, if holds { &x } else { &y }, i, 1)?;
            }
            return Ok(vec![sink.finish()?.into()]);
        }
        let (x, y) = (x.broadcast_to(&shape)?, y.broadcast_to(&shape)?);
        let out = for_dtype!(dtype, T in fixed => {
            let mut out: Vec<T> = vec_for(&shape)?;
            let pairs = x.iter::<T>()?.zip(y.iter::<T>()?);
            out.extend(conditions.zip(pairs).map(|(holds, (x, y))| if holds { x } else { y }));
            Tensor::from_vec(&shape, out)
        })?;
        Ok(vec![out.into()])
    }
}

/// The chosen formulas, where the condition is a constant or both sides agree.
fn known(args: &InferArgs, dtype: DType) -> Option<Fact> {
    let constant = |i: usize| args.get(i).is_some_and(|f| f.as_constant().is_some());
    if !carries(dtype) || (0..3).all(constant) {
        return None;
    }
    let (x, y) = (contents(args.get(1)?)?, contents(args.get(2)?)?);
    let holds = conditions(args.get(0)?)?;
    let lens = [holds.len(), x.len(), y.len()];
    let n = if lens.contains(&0) { 0 } else { *lens.iter().max()? };
    if lens.iter().any(|&len| len != 1 && len != n) {
        return None;
    }
    let out = (0..n)
        .map(|i| {
            let (x, y) = (&x[i % x.len()], &y[i % y.len()]);
            match holds[i % holds.len()] {
                Some(true) => Some(x.clone()),
                Some(false) => Some(y.clone()),
                None => (x == y).then(|| x.clone()),
            }
        })
        .collect::<Option<Vec<_>>>()?;
    let scalar = (0..3).all(|i| args.get(i).and_then(Fact::rank) == Some(0));
    Some(Fact::dims(dtype, out, scalar))
}

/// The elements of a condition of rank 0 or 1, as far as they are known.
fn conditions(fact: &Fact) -> Option<Vec<Option<bool>>> {
    let shape = fact.shape().filter(|s| s.len() <= 1)?;
    if let Some(Known::Tensor(t)) = &fact.known {
        return (t.len() <= MAX_CONTENTS)
            .then(|| Some(t.iter::<bool>().ok()?.map(Some).collect()))?;
    }
    let n = shape.first().map_or(Some(1), Dim::as_const)?;
    Some(vec![None; usize::try_from(n).ok().filter(|&n| n <= MAX_CONTENTS)?])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NoSubgraphs;

    #[test]
    fn all_element_kinds_are_chosen_and_broadcast() {
        let c: Value = Tensor::from_slice(&[2, 1], &[true, false]).unwrap().into();
        let run = |x: Tensor, y: Tensor| {
            let inputs = [Some(c.clone()), Some(x.into()), Some(y.into())];
            let args = EvalArgs { inputs: &inputs, outputs: 1, env: &NoSubgraphs };
            Where {}.eval(&args).unwrap()[0].tensor().unwrap().clone()
        };
        let text = |v: &[&str]| {
            Tensor::from_strings(&[v.len()], v.iter().map(|s| s.to_string()).collect()).unwrap()
        };
        let got = run(text(&["a", "b"]), text(&["c"]));
        assert_eq!(got.as_strings().unwrap(), ["a", "b", "c", "c"]);
        let narrow = |b: u8| Tensor::from_bytes(DType::F8E5M2, &[1], &[b]).unwrap();
        let got = run(narrow(3), narrow(4));
        assert_eq!((got.dtype(), got.as_bytes().unwrap()), (DType::F8E5M2, &[3u8, 4][..]));
        let packed = |b: u8| Tensor::from_unpacked(DType::U4, &[1], &[b]).unwrap();
        assert_eq!(run(packed(3), packed(4)).unpack().unwrap().to_vec::<u8>().unwrap(), [3, 4]);
    }

    #[test]
    fn a_decided_condition_keeps_formulas() {
        let n = Dim::sym("n");
        let condition = Fact::constant(Tensor::from_slice(&[2], &[false, true]).unwrap());
        let x = Fact::dims(DType::I64, vec![n.clone(), Dim::from(2i64)], false);
        let one = Fact::constant(Tensor::scalar(1i64).unwrap());
        let infer = |inputs: [&Fact; 3]| {
            let inputs = inputs.map(Some);
            let args = InferArgs { node: "t", inputs: &inputs, outputs: 1 };
            Where {}.infer(&args).unwrap()[0].as_dims()
        };
        assert_eq!(infer([&condition, &one, &x]), Some(vec![n, Dim::from(1i64)]));
        let open = Fact::tensor(DType::Bool, [Dim::from(2i64)]);
        assert_eq!(infer([&open, &one, &x]), None);
        assert_eq!(infer([&open, &x, &x]), x.as_dims());
    }
}
