//! Indices to indicator vectors.

use super::util::{Sink, Source, normalize_axis, to_f64, to_i64};
use crate::{EvalArgs, Fact, InferArgs, Operator, Value, op};
use deepseek_tensor::{Result, Tensor, ensure, num_elements};

op! {
    /// `y[…, d, …] = values[1]` where `d` is the index at that place, `values[0]` elsewhere;
    /// the new axis has `depth` elements. Inputs: indices, depth (one number), values
    /// (`[off, on]`). Indices from −depth on count from the end; others select nothing.
    /// (ONNX OneHot-28.)
    OneHot {
        /// Position of the new axis in the result.
        axis: i64 = -1
    }
}

/// Numbers as integers; floats are truncated.
fn integers(t: &Tensor) -> Result<Vec<i64>> {
    if t.dtype().is_float() {
        Ok(to_f64(t)?.into_iter().map(|x| x as i64).collect())
    } else {
        to_i64(t)
    }
}

impl Operator for OneHot {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(3, 3)?;
        let dtype = args.dtype(2)?;
        let Some(s) = args.shape(0) else { return Ok(vec![Fact::unranked(dtype)]) };
        let axis = normalize_axis(self.axis, s.len() + 1)?;
        let constant = || integers(&args.get(1)?.as_constant()?).ok();
        let depth = match args.dims(1).as_deref() {
            Some([d]) => d.clone(),
            _ => match constant().as_deref() {
                Some([d]) => (*d).into(),
                _ => args.fresh("depth"),
            },
        };
        let mut out = s.to_vec();
        out.insert(axis, depth);
        Ok(vec![Fact::tensor(dtype, out)])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let (indices, depth, values) = (args.tensor(0)?, args.tensor(1)?, args.tensor(2)?);
        let axis = normalize_axis(self.axis, indices.rank() + 1)?;
        let depth = match integers(depth)?[..] {
            [d] if d >= 0 => d as usize,
            _ => deepseek_tensor::bail!(
                InvalidArgument,
                "depth must be one number of at least 0, got shape {:?}",
                depth.shape()
            ),
        };
        ensure!(
            values.len() == 2,
            ShapeMismatch,
            "values must be [off, on], got shape {:?}",
            values.shape()
        );
        let mut shape = indices.shape().to_vec();
        shape.insert(axis, depth);
        num_elements(&shape)?;
        let source = Source::of(values)?;
        let mut sink = Sink::filled(&shape, &source, 0)?;
        let inner: usize = indices.shape()[axis..].iter().product();
        let n = depth as i64;
        for (i, index) in integers(indices)?.into_iter().enumerate() {
            let at = if index < 0 { index.saturating_add(n) } else { index };
            if (0..n).contains(&at) {
                let place = (i / inner * depth + at as usize) * inner + i % inner;
                sink.copy(place, &source, 1, 1)?;
            }
        }
        Ok(vec![sink.finish()?.into()])
    }
}
