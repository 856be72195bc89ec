//! Small operators on feature tables.

use super::util::{map, shaped_like, to_i64, vec_for};
use crate::{Dim, EvalArgs, Fact, InferArgs, Num, Operator, Value, for_dtype, op};
use deepseek_tensor::{DType, Result, Tensor, ensure};

op! {
    /// Elements of the last axis chosen by indices: `z[…, j] = x[…, y[j]]`. A vector x counts as
    /// one row, so the result has rank 2 or more. (ONNX ai.onnx.ml ArrayFeatureExtractor-1.)
    ArrayFeatureExtractor {}
}

impl Operator for ArrayFeatureExtractor {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(2, 2)?;
        let (dtype, index) = (args.dtype(0)?, args.dtype(1)?);
        ensure!(index == DType::I64, DTypeMismatch, "indices must be i64, are {index}");
        let shape = match (args.shape(0), args.shape(1)) {
            (Some(x), Some(y)) => {
                ensure!(!x.is_empty(), ShapeMismatch, "a scalar has no features to choose from");
                let lead =
                    if x.len() == 1 { vec![Dim::from(1i64)] } else { x[..x.len() - 1].into() };
                Some(lead.into_iter().chain([Dim::product(y)]).collect())
            }
            _ => None,
        };
        Ok(vec![Fact::maybe_ranked(dtype, shape)])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let x = args.tensor(0)?;
        ensure!(x.rank() > 0, ShapeMismatch, "a scalar has no features to choose from");
        let width = x.shape()[x.rank() - 1];
        let indices = to_i64(args.tensor(1)?)?
            .into_iter()
            .map(|i| {
                ensure!(
                    (0..width as i64).contains(&i),
                    InvalidArgument,
                    "index {i} is outside the last axis of shape {:?}",
                    x.shape()
                );
                Ok(i as usize)
            })
            .collect::<Result<Vec<_>>>()?;
        let lead = if x.rank() == 1 { &[1][..] } else { &x.shape()[..x.rank() - 1] };
        let shape: Vec<usize> = lead.iter().copied().chain([indices.len()]).collect();
        let rows: usize = lead.iter().product();
        if x.dtype() == DType::String {
            let data = x.as_strings()?;
            let mut out: Vec<String> = vec_for(&shape)?;
            for r in 0..rows {
                out.extend(indices.iter().map(|&i| data[r * width + i].to_owned()));
            }
            return Ok(vec![Tensor::from_strings(&shape, out)?.into()]);
        }
        let out = for_dtype!(x.dtype(), T in fixed => {
            let data = x.to_vec::<T>()?;
            let mut out: Vec<T> = vec_for(&shape)?;
            for r in 0..rows {
                out.extend(indices.iter().map(|&i| data[r * width + i]));
            }
            Tensor::from_vec(&shape, out)
        })?;
        Ok(vec![out.into()])
    }
}

op! {
    /// 1 above the threshold, else 0. (ONNX ai.onnx.ml Binarizer-1.)
    Binarizer {
        /// What an element must exceed.
        threshold: f32 = 0.0,
    }
}

impl Operator for Binarizer {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(1, 1)?;
        let dtype = super::util::Kind::Number.expect(args, 0)?;
        Ok(vec![shaped_like(args, 0, dtype)?])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let (x, threshold) = (args.tensor(0)?, f64::from(self.threshold));
        let out = for_dtype!(x.dtype(), T in numeric => {
            map(x, |x: T| if x.to_f64() > threshold { T::ONE } else { T::ZERO })
        })?;
        Ok(vec![out.into()])
    }
}
