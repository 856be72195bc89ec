//! Losses over class scores.

use super::conv::expect_floats;
use super::util::{cast_from_f64, filled, to_f64, to_i64};
use crate::{Dim, EvalArgs, Fact, InferArgs, Operator, Value, attr_enum, op};
use deepseek_tensor::{Result, Tensor, ensure, num_elements};

attr_enum! {
    /// How a loss combines the samples.
    LossReduction {
        /// Not at all: one loss per sample.
        None = "none",
        /// Their sum.
        Sum = "sum",
        /// Their sum over the sum of their weights.
        Mean = "mean",
    }
}

op! {
    /// `−x[n, t, …] · weight[t]` where `t = target[n, …]` is the class of the sample. Inputs:
    /// log-probabilities x `[N, C, D1…]`, targets `[N, D1…]` in `0..C`, weights `[C]`
    /// (optional, all 1). A target equal to `ignore_index` weighs nothing. The output is a
    /// scalar, or as the targets without `reduction`. (ONNX NegativeLogLikelihoodLoss-22.)
    NegativeLogLikelihoodLoss {
        ignore_index: Option<i64> = None,
        reduction: LossReduction = LossReduction::Mean,
    }
}

op! {
    /// [`NegativeLogLikelihoodLoss`] of the log-softmax of scores `[N, C, D1…]` over their
    /// classes; the second output is that log-softmax. (ONNX SoftmaxCrossEntropyLoss-13.)
    SoftmaxCrossEntropyLoss {
        ignore_index: Option<i64> = None,
        reduction: LossReduction = LossReduction::Mean,
    }
}

impl Operator for NegativeLogLikelihoodLoss {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        infer_loss(args, self.reduction)
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let x = args.tensor(0)?;
        Ok(vec![loss(&to_f64(x)?, args, self.ignore_index, self.reduction)?.into()])
    }
}

impl Operator for SoftmaxCrossEntropyLoss {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        let mut facts = infer_loss(args, self.reduction)?;
        let dtype = args.dtype(0)?;
        facts.push(Fact::maybe_ranked(dtype, args.shape(0).map(<[_]>::to_vec)));
        Ok(facts)
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let x = args.tensor(0)?;
        ensure!(x.rank() >= 2, ShapeMismatch, "expected [batch, classes, …], got {:?}", x.shape());
        let (classes, inner) = (x.shape()[1], num_elements(&x.shape()[2..])?);
        let mut data = to_f64(x)?;
        let sample = num_elements(&x.shape()[1..])?;
        for first in (0..data.len()).step_by(sample.max(1)) {
            for i in first..first + inner {
                let at = |c: usize| i + c * inner;
                let top = (0..classes).map(|c| data[at(c)]).fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = (0..classes).map(|c| (data[at(c)] - top).exp()).sum();
                let shift = top + sum.ln();
                (0..classes).for_each(|c| data[at(c)] -= shift);
            }
        }
        let log_prob = cast_from_f64(x.dtype(), x.shape(), &data)?;
        let loss = loss(&data, args, self.ignore_index, self.reduction)?;
        Ok(vec![loss.into(), log_prob.into()])
    }
}

fn infer_loss(args: &InferArgs, reduction: LossReduction) -> Result<Vec<Fact>> {
    args.expect_inputs(2, 3)?;
    let dtype = expect_floats(args, &[0, 2])?;
    let target = args.dtype(1)?;
    ensure!(target.is_int(), DTypeMismatch, "targets must be integers, got {target}");
    if let (Some(x), Some(t)) = (args.shape(0), args.shape(1)) {
        let fits = |(a, b): (&Dim, &Dim)| match (a.as_const(), b.as_const()) {
            (Some(a), Some(b)) => a == b,
            _ => true,
        };
        ensure!(
            x.len() >= 2
                && t.len() + 1 == x.len()
                && fits((&x[0], &t[0]))
                && x[2..].iter().zip(&t[1..]).all(fits),
            ShapeMismatch,
            "scores {x:?} and targets {t:?} do not fit; expected [N, C, D1…] and [N, D1…]"
        );
    }
    if reduction != LossReduction::None {
        return Ok(vec![Fact::tensor(dtype, [])]);
    }
    let shape = args.shape(1).map(<[_]>::to_vec).or_else(|| {
        let x = args.shape(0).filter(|x| x.len() >= 2)?;
        Some(x[..1].iter().chain(&x[2..]).cloned().collect())
    });
    Ok(vec![Fact::maybe_ranked(dtype, shape)])
}

/// The loss of log-probabilities `x`, in the shape of input 0, against inputs 1 and 2.
fn loss(
    x: &[f64],
    args: &EvalArgs,
    ignore_index: Option<i64>,
    reduction: LossReduction,
) -> Result<Tensor> {
    let (scores, target) = (args.tensor(0)?, args.tensor(1)?);
    let s = scores.shape();
    let fits = s.len() >= 2
        && target.rank() + 1 == s.len()
        && target.shape()[0] == s[0]
        && target.shape()[1..] == s[2..];
    ensure!(
        fits,
        ShapeMismatch,
        "scores {s:?} and targets {:?} do not fit; expected [N, C, D1…] and [N, D1…]",
        target.shape()
    );
    let (classes, inner) = (s[1], num_elements(&s[2..])?);
    let weights = match args.opt(2)? {
        Some(w) => {
            ensure!(
                w.shape() == [classes],
                ShapeMismatch,
                "weights of shape {:?} do not fit {classes} classes",
                w.shape()
            );
            to_f64(w)?
        }
        None => filled(classes, 1.0)?,
    };
    let mut losses = filled(target.len(), 0.0)?;
    let mut total = 0.0;
    for (i, &t) in to_i64(target)?.iter().enumerate() {
        if Some(t) == ignore_index {
            continue;
        }
        let class = usize::try_from(t).ok().filter(|&t| t < classes);
        let Some(class) = class else {
            deepseek_tensor::bail!(
                InvalidArgument,
                "target {t} of sample {i} is none of the {classes} classes; set ignore_index to skip it"
            )
        };
        losses[i] = -x[(i / inner * classes + class) * inner + i % inner] * weights[class];
        total += weights[class];
    }
    let sum = losses.iter().sum::<f64>();
    match reduction {
        LossReduction::None => cast_from_f64(scores.dtype(), target.shape(), &losses),
        LossReduction::Sum => cast_from_f64(scores.dtype(), &[], &[sum]),
        LossReduction::Mean => cast_from_f64(scores.dtype(), &[], &[sum / total]),
    }
}
