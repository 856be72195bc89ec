//! Tensors made from a shape or a range.

use super::util::{Kind, cast_from_f64, to_f64, to_i64, usize_dims, vec_for};
use crate::{Bounds, Dim, EvalArgs, Fact, InferArgs, Num, Operator, Value, for_dtype, op};
use deepseek_tensor::{DType, Result, Tensor, ensure, err, num_elements};

op! {
    /// A tensor whose shape is the input (i64, rank 1), filled with one value. (ONNX
    /// ConstantOfShape-25.)
    ConstantOfShape {
        /// The value, a tensor of one element; without it 0 as f32.
        value: Option<Tensor> = None,
    }
}

impl ConstantOfShape {
    fn dtype(&self) -> Result<DType> {
        let Some(value) = &self.value else { return Ok(DType::F32) };
        ensure!(
            value.len() == 1,
            InvalidGraph,
            "attribute 'value' must have one element, has shape {:?}",
            value.shape()
        );
        Ok(value.dtype())
    }
}

impl Operator for ConstantOfShape {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(1, 1)?;
        let dtype = self.dtype()?;
        let given = args.dtype(0)?;
        ensure!(given == DType::I64, DTypeMismatch, "the shape must be i64, is {given}");
        if let Some(dims) = args.dims(0) {
            if let Some(d) = dims.iter().filter_map(Dim::as_const).find(|&d| d < 0) {
                return Err(err!(ShapeMismatch, "the shape has a negative extent {d}"));
            }
            return Ok(vec![Fact::tensor(dtype, dims)]);
        }
        // The rank is the length of the shape.
        let rank = args.shape(0).and_then(|s| s.first()?.as_const());
        let shape = rank
            .filter(|&r| (0..=deepseek_tensor::MAX_RANK as i64).contains(&r))
            .map(|r| (0..r).map(|i| args.fresh(&format!("extent{i}"))).collect());
        Ok(vec![Fact::maybe_ranked(dtype, shape)])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let dtype = self.dtype()?;
        let shape = usize_dims(&to_i64(args.tensor(0)?)?)?;
        let n = num_elements(&shape)?;
        let Some(value) = &self.value else {
            return Ok(vec![Tensor::zeros(dtype, &shape)?.into()]);
        };
        if dtype.is_packed() {
            // All patterns of a packed element fit a byte; `from_unpacked` takes them raw.
            let raw = value.unpack()?.to_contiguous()?;
            let mut elements: Vec<u8> = vec_for(&shape)?;
            elements.resize(n, raw.as_bytes()?[0]);
            return Ok(vec![Tensor::from_unpacked(dtype, &shape, &elements)?.into()]);
        }
        let filled = value.reshape(&[])?.broadcast_to(&shape)?.to_contiguous()?;
        Ok(vec![filled.into()])
    }
}

op! {
    /// A matrix of the input's shape with ones on the diagonal `k` (above the main one where
    /// positive) and zeros elsewhere. (ONNX EyeLike-22.)
    EyeLike {
        /// Element type, by default the input's.
        dtype: Option<DType> = None,
        /// Diagonal: elements `[i, i + k]` are one.
        k: i64 = 0,
    }
}

impl Operator for EyeLike {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(1, 1)?;
        let dtype = self.dtype.unwrap_or(args.dtype(0)?);
        let shape = match args.shape(0) {
            Some(shape) => {
                ensure!(
                    shape.len() == 2,
                    ShapeMismatch,
                    "expected a matrix, got rank {}",
                    shape.len()
                );
                shape.to_vec()
            }
            None => vec![args.fresh("rows"), args.fresh("columns")],
        };
        Ok(vec![Fact::tensor(dtype, shape)])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let like = args.tensor(0)?;
        let &[rows, columns] = like.shape() else {
            return Err(err!(ShapeMismatch, "expected a matrix, got rank {}", like.rank()));
        };
        let dtype = self.dtype.unwrap_or(like.dtype());
        let mut out: Vec<f64> = vec_for(&[rows, columns])?;
        for i in 0..rows as i64 {
            out.extend((0..columns as i64).map(|j| f64::from(i.checked_add(self.k) == Some(j))));
        }
        Ok(vec![cast_from_f64(dtype, &[rows, columns], &out)?.into()])
    }
}

op! {
    /// `start, start + delta, …` below `limit` (above it for a negative delta): the three
    /// inputs, scalars of one type; the result has `max(0, ⌈(limit − start)/delta⌉)` elements.
    /// Half-precision sequences are computed in double precision and rounded once each.
    /// (ONNX Range-27.)
    Range {
        /// Type in which 16-bit floats should be computed. Double precision is used throughout,
        /// which is at least as exact.
        stash_type: DType = DType::F32,
    }
}

impl Operator for Range {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(3, 3)?;
        let dtype = Kind::Number.expect(args, 0)?;
        args.expect_same_dtype(0, 1)?;
        args.expect_same_dtype(0, 2)?;
        let scalar = |i: usize| super::util::shape_math::contents(args.get(i)?)?.first().cloned();
        let count = match (scalar(0), scalar(1), scalar(2)) {
            (Some(start), Some(limit), Some(delta)) => length(&start, &limit, &delta),
            _ => None,
        };
        Ok(vec![Fact::tensor(dtype, vec![count.unwrap_or_else(|| args.fresh("length"))])])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let inputs = [args.tensor(0)?, args.tensor(1)?, args.tensor(2)?];
        let dtype = inputs[0].dtype();
        for (i, t) in inputs.iter().enumerate() {
            ensure!(t.len() == 1, ShapeMismatch, "input {i} must be a scalar, is {t:?}");
            ensure!(t.dtype() == dtype, DTypeMismatch, "inputs of type {dtype} and {}", t.dtype());
        }
        let out = if dtype.is_float() {
            let [start, limit, delta] = inputs.map(|t| to_f64(t).map(|v| v[0]));
            let (start, delta) = (start?, delta?);
            let count = ((limit? - start) / delta).ceil();
            ensure!(
                count.is_finite() || count == f64::NEG_INFINITY,
                InvalidArgument,
                "a range from {start} in steps of {delta} does not end"
            );
            let count = [count.max(0.0) as usize];
            let mut out: Vec<f64> = vec_for(&count)?;
            out.extend((0..count[0]).map(|i| start + i as f64 * delta));
            cast_from_f64(dtype, &count, &out)?
        } else {
            for_dtype!(dtype, T in int => {
                let [start, limit, delta] = [0, 1, 2].map(|i| inputs[i].item::<T>());
                let (start, limit, delta) = (start?, limit?, delta?);
                ensure!(delta != 0, InvalidArgument, "a range from {start} in steps of 0 does not end");
                let (span, step) = (i128::from(limit) - i128::from(start), i128::from(delta));
                let steps = span / step + i128::from(span % step != 0);
                let count = if (span > 0) == (step > 0) { steps.max(0) } else { 0 };
                let count = [usize::try_from(count).unwrap_or(usize::MAX)];
                let mut out: Vec<T> = vec_for(&count)?;
                let mut next = start;
                for _ in 0..count[0] {
                    out.push(next);
                    next = next.add(delta);
                }
                Tensor::from_vec(&count, out)
            })?
        };
        Ok(vec![out.into()])
    }
}

/// `max(0, ⌈(limit − start)/delta⌉)` for a delta whose sign is known.
fn length(start: &Dim, limit: &Dim, delta: &Dim) -> Option<Dim> {
    let bounds = Bounds::default();
    let zero = Dim::from(0i64);
    let count = if zero.always_lt(delta, &bounds) {
        (limit - start).ceil_div(delta)
    } else if delta.always_lt(&zero, &bounds) {
        (start - limit).ceil_div(&-delta)
    } else {
        return None;
    };
    super::util::shape_math::sound(count.max(&zero))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NoSubgraphs;

    fn run(op: &dyn Operator, inputs: &[Option<Value>]) -> Result<Tensor> {
        op.eval(&EvalArgs { inputs, outputs: 1, env: &NoSubgraphs })?[0].tensor().cloned()
    }

    fn scalars<const N: usize>(v: [i64; N]) -> [Option<Value>; N] {
        v.map(|x| Some(Tensor::scalar(x).unwrap().into()))
    }

    #[test]
    fn ranges_end_before_the_limit_in_both_directions() {
        for (given, want) in [
            ([3, 9, 3], &[3, 6][..]),
            ([10, 4, -2], &[10, 8, 6]),
            ([0, 5, 2], &[0, 2, 4]),
            ([5, 0, 2], &[]),
            ([0, 0, 1], &[]),
            ([i64::MAX - 1, i64::MAX, 5], &[i64::MAX - 1]),
        ] {
            let got = run(&Range::default(), &scalars(given)).unwrap();
            assert_eq!(got.to_vec::<i64>().unwrap(), want, "{given:?}");
        }
        assert!(run(&Range::default(), &scalars([0, 1, 0])).is_err());
        assert!(run(&Range::default(), &scalars([i64::MIN, i64::MAX, 1])).is_err());
        let f = [0f32, f32::INFINITY, 1.0].map(|x| Some(Tensor::scalar(x).unwrap().into()));
        assert!(run(&Range::default(), &f).is_err());
    }

    #[test]
    fn the_length_of_a_symbolic_range_is_a_formula() {
        let n = Dim::sym("n");
        let limit = Fact::dims(DType::I64, vec![n.clone()], true);
        let of = |x: i64| Fact::constant(Tensor::scalar(x).unwrap());
        let (start, one, two) = (of(0), of(1), of(2));
        let infer = |delta: &Fact| {
            let inputs = [Some(&start), Some(&limit), Some(delta)];
            let args = InferArgs { node: "t", inputs: &inputs, outputs: 1 };
            Range::default().infer(&args).unwrap()[0].shape().unwrap()[0].clone()
        };
        assert_eq!(infer(&one), n);
        assert_eq!(infer(&two), n.ceil_div(&Dim::from(2i64)));
    }

    #[test]
    fn constants_of_every_storage_fill_a_shape() {
        let shape: Value = Tensor::from_slice(&[2], &[2i64, 3]).unwrap().into();
        let narrow = Tensor::from_unpacked(DType::U4, &[1], &[9]).unwrap();
        let got = run(&ConstantOfShape { value: Some(narrow) }, &[Some(shape.clone())]).unwrap();
        assert_eq!(got.unpack().unwrap().to_vec::<u8>().unwrap(), [9; 6]);
        let text = Tensor::from_strings(&[1], vec!["a".into()]).unwrap();
        let got = run(&ConstantOfShape { value: Some(text) }, &[Some(shape)]).unwrap();
        assert_eq!(got.as_strings().unwrap(), ["a"; 6]);
        let huge: Value = Tensor::from_slice(&[2], &[1i64 << 40, 1 << 40]).unwrap().into();
        assert!(run(&ConstantOfShape { value: None }, &[Some(huge)]).is_err());
    }

    #[test]
    fn diagonals_may_lie_outside() {
        let x: Value = Tensor::zeros(DType::I32, &[2, 3]).unwrap().into();
        for (k, want) in [(0, [1, 0, 0, 0, 1, 0]), (-1, [0, 0, 0, 1, 0, 0]), (9, [0; 6])] {
            let got = run(&EyeLike { dtype: None, k }, &[Some(x.clone())]).unwrap();
            assert_eq!(got.to_vec::<i32>().unwrap(), want, "{k}");
        }
    }
}
