//! Passing a value through: unchanged, or with elements dropped at random.

use super::util::{Kind, Philox, shaped_like, vec_for};
use crate::{EvalArgs, Fact, InferArgs, Known, Num, Operator, Value, for_dtype, op};
use deepseek_tensor::{DType, Result, Tensor, ensure};

op! {
    /// The input, of any type. (ONNX Identity-25.)
    Identity {}
}

impl Operator for Identity {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(1, 1)?;
        Ok(vec![args.fact(0)?.clone()])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        Ok(vec![args.value(0)?.clone()])
    }
}

op! {
    /// In inference the input, and a mask of `true`. With the third input, `training_mode`,
    /// true: `data · mask / (1 − ratio)`, where each element of the mask is false with
    /// probability `ratio` (second input, a scalar in [0, 1), by default 0.5).
    /// (ONNX Dropout-22; Srivastava et al. 2014.)
    Dropout {
        /// Makes the mask repeatable; without it every run draws another.
        seed: Option<i64> = None,
    }
}

impl Operator for Dropout {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(1, 3)?;
        Kind::AnyFloat.expect(args, 0)?;
        if args.get(1).is_some() {
            Kind::AnyFloat.expect(args, 1)?;
        }
        let mut fact = args.fact(0)?.clone();
        if args.get(2).is_some() {
            Kind::Bool.expect(args, 2)?;
            let inference = matches!(
                &args.fact(2)?.known,
                Some(Known::Tensor(t)) if t.item::<bool>().is_ok_and(|training| !training)
            );
            if !inference {
                fact.known = None;
            }
        }
        Ok(vec![fact, shaped_like(args, 0, DType::Bool)?])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let x = args.tensor(0)?;
        let training = args.opt(2)?.map_or(Ok(false), Tensor::item::<bool>)?;
        let ratio = match args.opt(1)? {
            Some(t) => super::util::to_f64(t)?.first().copied().unwrap_or(0.5),
            None => 0.5,
        };
        ensure!(
            (0.0..1.0).contains(&ratio) || !training,
            InvalidArgument,
            "dropout ratio {ratio} is outside [0, 1)"
        );
        let mut mask: Vec<bool> = vec_for(x.shape())?;
        if !training || ratio == 0.0 {
            mask.resize(x.len(), true);
            return Ok(vec![x.clone().into(), Tensor::from_vec(x.shape(), mask)?.into()]);
        }
        let mut random = Philox::new(self.seed.map(|s| s as u64));
        mask.extend((0..x.len()).map(|_| random.uniform() >= ratio));
        let scale = 1.0 / (1.0 - ratio);
        let y = for_dtype!(x.dtype(), T in float => {
            let mut y: Vec<T> = vec_for(x.shape())?;
            let kept = |(x, &keep): (T, &bool)| if keep { x.to_f64() * scale } else { 0.0 };
            y.extend(x.iter::<T>()?.zip(&mask).map(kept).map(T::from_f64));
            Tensor::from_vec(x.shape(), y)
        })?;
        Ok(vec![y.into(), Tensor::from_vec(x.shape(), mask)?.into()])
    }

    fn is_pure(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NoSubgraphs;

    #[test]
    fn training_keeps_the_mean_and_repeats_with_a_seed() {
        let x: Value = Tensor::from_vec(&[10_000], vec![1f32; 10_000]).unwrap().into();
        let ratio: Value = Tensor::scalar(0.25f32).unwrap().into();
        let training: Value = Tensor::scalar(true).unwrap().into();
        let inputs = [Some(x), Some(ratio), Some(training)];
        let args = EvalArgs { inputs: &inputs, outputs: 2, env: &NoSubgraphs };
        let run = || Dropout { seed: Some(3) }.eval(&args).unwrap();
        let y = run()[0].tensor().unwrap().to_vec::<f32>().unwrap();
        let mask = run()[1].tensor().unwrap().to_vec::<bool>().unwrap();
        assert!(y.iter().zip(&mask).all(|(&y, &kept)| y == if kept { 4.0 / 3.0 } else { 0.0 }));
        let dropped = mask.iter().filter(|&&kept| !kept).count() as f64 / 10_000.0;
        // Five standard deviations of the mean of 10,000 draws.
        assert!((dropped - 0.25).abs() < 5.0 * (0.25 * 0.75 / 10_000f64).sqrt());
    }
}
