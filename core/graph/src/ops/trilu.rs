//! Triangles of matrices.

use super::util::{Sink, Source, scalar_i64};
use crate::{EvalArgs, Fact, InferArgs, Operator, Value, op};
use deepseek_tensor::{Result, ensure};

op! {
    /// The upper (lower) triangle of the matrices in the last two axes, zeros elsewhere:
    /// element `[i, j]` stays if `j − i ≥ k` (`≤ k`). Input 1, `k`, is one integer, 0 where
    /// absent. (ONNX Trilu-14.)
    Trilu {
        /// Whether the upper triangle stays.
        upper: bool = true
    }
}

impl Operator for Trilu {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(1, 2)?;
        args.dtype(0)?;
        if let Some(rank) = args.shape(0).map(<[_]>::len) {
            ensure!(rank >= 2, ShapeMismatch, "a triangle needs rank 2 or more, got {rank}");
        }
        Ok(vec![Fact { ty: args.fact(0)?.ty.clone(), known: None }])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let x = args.tensor(0)?;
        let k = match args.opt(1)? {
            Some(t) => scalar_i64(t, "k")?,
            None => 0,
        };
        let [.., rows, columns] = *x.shape() else {
            deepseek_tensor::bail!(
                ShapeMismatch,
                "a triangle needs rank 2 or more, got {}",
                x.rank()
            );
        };
        let (mut sink, source) = (Sink::zeros(x.dtype(), x.shape())?, Source::of(x)?);
        if !x.is_empty() {
            for row in 0..x.len() / columns {
                // First column on the diagonal's right side, diagonal included if upper.
                let edge = ((row % rows) as i64).saturating_add(k);
                let edge = if self.upper { edge } else { edge.saturating_add(1) };
                let edge = edge.clamp(0, columns as i64) as usize;
                let kept = if self.upper { edge..columns } else { 0..edge };
                let at = row * columns + kept.start;
                sink.copy(at, &source, at, kept.len())?;
            }
        }
        Ok(vec![sink.finish()?.into()])
    }
}
