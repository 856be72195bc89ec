//! What a tensor's extents are, as data.

use super::util::with_contents;
use crate::{Dim, EvalArgs, Fact, InferArgs, Operator, Value, op};
use deepseek_tensor::{DType, Result, Tensor};

op! {
    /// Extents of axes `start` to `end` (exclusive) of the input, `i64[n]`. Positions
    /// may be negative and are clamped to the rank. (ONNX Shape-25.)
    Shape {
        /// First axis.
        start: i64 = 0,
        /// One past the last axis; the rank where absent.
        end: Option<i64> = None
    }
}

impl Shape {
    fn range(&self, rank: usize) -> std::ops::Range<usize> {
        let r = rank as i64;
        let clamp = |x: i64| (if x < 0 { x.saturating_add(r) } else { x }).clamp(0, r) as usize;
        let (start, end) = (clamp(self.start), clamp(self.end.unwrap_or(r)));
        start..end.max(start)
    }
}

impl Operator for Shape {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(1, 1)?;
        args.dtype(0)?;
        Ok(vec![match args.shape(0) {
            Some(s) => Fact::dims(DType::I64, s[self.range(s.len())].to_vec(), false),
            None => Fact::tensor(DType::I64, [args.fresh("rank")]),
        }])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let x = args.tensor(0)?;
        let dims: Vec<i64> = x.shape()[self.range(x.rank())].iter().map(|&d| d as i64).collect();
        Ok(vec![Tensor::from_vec(&[dims.len()], dims)?.into()])
    }
}

op! {
    /// Number of elements of the input, an `i64` scalar. (ONNX Size-25.)
    Size {}
}

impl Operator for Size {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(1, 1)?;
        args.dtype(0)?;
        let fact = Fact::tensor(DType::I64, []);
        Ok(vec![with_contents(fact, args.shape(0).map(|s| vec![Dim::product(s)]))])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        Ok(vec![Tensor::scalar(args.tensor(0)?.len() as i64)?.into()])
    }
}
