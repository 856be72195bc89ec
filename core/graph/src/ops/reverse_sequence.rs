//! Reversing the valid part of padded sequences.

use super::util::{Sink, Source, list_i64};
use crate::{EvalArgs, Fact, InferArgs, Operator, Value, op};
use deepseek_tensor::{Result, ensure};

op! {
    /// The first `lengths[b]` steps of batch entry `b` in reverse order, the others as they
    /// are. Input 1 is `i64[batch]`. (ONNX ReverseSequence-28.)
    ReverseSequence {
        /// Axis of batch entries, 0 or 1.
        batch_axis: i64 = 1,
        /// Axis of steps, the other one of 0 and 1.
        time_axis: i64 = 0
    }
}

impl ReverseSequence {
    fn check(&self, rank: usize) -> Result<()> {
        ensure!(
            matches!((self.batch_axis, self.time_axis), (0, 1) | (1, 0)),
            InvalidArgument,
            "batch_axis {} and time_axis {} must be 0 and 1 in either order",
            self.batch_axis,
            self.time_axis
        );
        ensure!(rank >= 2, ShapeMismatch, "expected [time, batch, ...], got rank {rank}");
        Ok(())
    }
}

impl Operator for ReverseSequence {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(2, 2)?;
        args.dtype(0)?;
        self.check(args.shape(0).map_or(2, <[_]>::len))?;
        Ok(vec![Fact { ty: args.fact(0)?.ty.clone(), known: None }])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let x = args.tensor(0)?;
        self.check(x.rank())?;
        let lengths = list_i64(args.tensor(1)?, "the lengths")?;
        let batch = x.shape()[self.batch_axis as usize];
        let time = x.shape()[self.time_axis as usize];
        ensure!(
            lengths.len() == batch,
            ShapeMismatch,
            "{} lengths for a batch of {batch}",
            lengths.len()
        );
        if let Some(n) = lengths.iter().find(|n| !(0..=time as i64).contains(n)) {
            deepseek_tensor::bail!(InvalidArgument, "length {n} is outside 0 to {time}");
        }
        let (mut sink, source) = (Sink::zeros(x.dtype(), x.shape())?, Source::of(x)?);
        let inner: usize = x.shape()[2..].iter().product();
        for (b, &length) in lengths.iter().enumerate() {
            let n = length as usize;
            for t in 0..time {
                let from = if t < n { n - 1 - t } else { t };
                let place = |t| if self.batch_axis == 0 { b * time + t } else { t * batch + b };
                sink.copy(place(t) * inner, &source, place(from) * inner, inner)?;
            }
        }
        Ok(vec![sink.finish()?.into()])
    }
}
