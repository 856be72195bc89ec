//! Random tensors. Each run draws from a stream of its own unless a seed is given;
//! a seed makes every run give the same numbers.

use super::util::{Kind, Philox, cast_from_f64, shaped_like, to_f64, usize_dims, vec_for};
use crate::{Dim, EvalArgs, Fact, InferArgs, Num, Operator, Value, for_dtype, op};
use deepseek_tensor::{DType, Result, Tensor, ensure, err};

/// A tensor of a float type, `next` for every element.
fn fill(dtype: DType, shape: &[usize], mut next: impl FnMut() -> f64) -> Result<Vec<Value>> {
    let out = for_dtype!(dtype, T in float => {
        let mut out: Vec<T> = vec_for(shape)?;
        let n = deepseek_tensor::num_elements(shape)?;
        out.extend((0..n).map(|_| T::from_f64(next())));
        Tensor::from_vec(shape, out)
    })?;
    Ok(vec![out.into()])
}

/// The shape rule of an operator without inputs.
fn infer_shape(dtype: DType, shape: &[i64]) -> Result<Vec<Fact>> {
    expect_float(dtype)?;
    let shape = usize_dims(shape)?;
    Ok(vec![Fact::tensor(dtype, shape.into_iter().map(Dim::from).collect::<Vec<_>>())])
}

/// The shape rule of an operator that takes its shape, and maybe its type, from its input.
fn infer_like(args: &InferArgs, dtype: Option<DType>) -> Result<Vec<Fact>> {
    args.expect_inputs(1, 1)?;
    let dtype = dtype.map_or_else(|| args.dtype(0), Ok)?;
    expect_float(dtype)?;
    Ok(vec![shaped_like(args, 0, dtype)?])
}

fn expect_float(dtype: DType) -> Result<()> {
    ensure!(
        Kind::Float.admits(dtype),
        DTypeMismatch,
        "random numbers of type {dtype}; set dtype to f32, f16, bf16 or f64"
    );
    Ok(())
}

/// `next` for [`fill`], normally distributed.
fn normal(seed: Option<f32>, mean: f32, scale: f32) -> impl FnMut() -> f64 {
    let mut random = Philox::from_float(seed);
    move || f64::from(mean) + f64::from(scale) * random.normal()
}

/// `next` for [`fill`], uniformly distributed over `[low, high)`.
fn uniform(seed: Option<f32>, low: f32, high: f32) -> impl FnMut() -> f64 {
    let mut random = Philox::from_float(seed);
    move || f64::from(low) + (f64::from(high) - f64::from(low)) * random.uniform()
}

op! {
    /// Numbers from the normal distribution. (ONNX RandomNormal-22.)
    RandomNormal {
        /// Element type, a float.
        dtype: DType = DType::F32,
        /// Centre.
        mean: f32 = 0.0,
        /// Standard deviation.
        scale: f32 = 1.0,
        /// Makes runs repeatable.
        seed: Option<f32> = None,
        /// Result shape.
        shape: Vec<i64> = Vec::new(),
    }
}

impl Operator for RandomNormal {
    fn infer(&self, _: &InferArgs) -> Result<Vec<Fact>> {
        infer_shape(self.dtype, &self.shape)
    }
    fn eval(&self, _: &EvalArgs) -> Result<Vec<Value>> {
        fill(self.dtype, &usize_dims(&self.shape)?, normal(self.seed, self.mean, self.scale))
    }
    fn is_pure(&self) -> bool {
        false
    }
}

op! {
    /// Numbers from the normal distribution, of the input's shape. (ONNX RandomNormalLike-22.)
    RandomNormalLike {
        /// Element type, a float; by default the input's.
        dtype: Option<DType> = None,
        /// Centre.
        mean: f32 = 0.0,
        /// Standard deviation.
        scale: f32 = 1.0,
        /// Makes runs repeatable.
        seed: Option<f32> = None,
    }
}

impl Operator for RandomNormalLike {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        infer_like(args, self.dtype)
    }
    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let like = args.tensor(0)?;
        let dtype = self.dtype.unwrap_or(like.dtype());
        fill(dtype, like.shape(), normal(self.seed, self.mean, self.scale))
    }
    fn is_pure(&self) -> bool {
        false
    }
}

op! {
    /// Numbers from the uniform distribution over `[low, high)`. (ONNX RandomUniform-22.)
    RandomUniform {
        /// Element type, a float.
        dtype: DType = DType::F32,
        /// Upper end.
        high: f32 = 1.0,
        /// Lower end.
        low: f32 = 0.0,
        /// Makes runs repeatable.
        seed: Option<f32> = None,
        /// Result shape.
        shape: Vec<i64> = Vec::new(),
    }
}

impl Operator for RandomUniform {
    fn infer(&self, _: &InferArgs) -> Result<Vec<Fact>> {
        infer_shape(self.dtype, &self.shape)
    }
    fn eval(&self, _: &EvalArgs) -> Result<Vec<Value>> {
        fill(self.dtype, &usize_dims(&self.shape)?, uniform(self.seed, self.low, self.high))
    }
    fn is_pure(&self) -> bool {
        false
    }
}

op! {
    /// Numbers from the uniform distribution over `[low, high)`, of the input's shape.
    /// (ONNX RandomUniformLike-22.)
    RandomUniformLike {
        /// Element type, a float; by default the input's.
        dtype: Option<DType> = None,
        /// Upper end.
        high: f32 = 1.0,
        /// Lower end.
        low: f32 = 0.0,
        /// Makes runs repeatable.
        seed: Option<f32> = None,
    }
}

impl Operator for RandomUniformLike {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        infer_like(args, self.dtype)
    }
    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let like = args.tensor(0)?;
        let dtype = self.dtype.unwrap_or(like.dtype());
        fill(dtype, like.shape(), uniform(self.seed, self.low, self.high))
    }
    fn is_pure(&self) -> bool {
        false
    }
}

op! {
    /// 1 with the probability that the input gives, else 0, of the input's shape.
    /// (ONNX Bernoulli-22.)
    Bernoulli {
        /// Element type, a number or bool; by default the input's.
        dtype: Option<DType> = None,
        /// Makes runs repeatable.
        seed: Option<f32> = None,
    }
}

impl Operator for Bernoulli {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(1, 1)?;
        let dtype = self.dtype.unwrap_or(Kind::Float.expect(args, 0)?);
        ensure!(Kind::Fixed.admits(dtype), DTypeMismatch, "cannot draw 0 and 1 as {dtype}");
        Ok(vec![shaped_like(args, 0, dtype)?])
    }
    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let p = args.tensor(0)?;
        let mut random = Philox::from_float(self.seed);
        let draws = to_f64(p)?
            .into_iter()
            .map(|p| {
                ensure!(
                    (0.0..=1.0).contains(&p),
                    InvalidArgument,
                    "{p} is not a probability; it must lie in [0, 1]"
                );
                Ok(f64::from(random.uniform() < p))
            })
            .collect::<Result<Vec<_>>>()?;
        let dtype = self.dtype.unwrap_or(p.dtype());
        Ok(vec![cast_from_f64(dtype, p.shape(), &draws)?.into()])
    }
    fn is_pure(&self) -> bool {
        false
    }
}

op! {
    /// Classes drawn with replacement: the input `[batch, classes]` holds logarithms of
    /// unnormalised probabilities, the result `[batch, sample_size]` class numbers.
    /// (ONNX Multinomial-22.)
    Multinomial {
        /// Element type, i32 or i64.
        dtype: DType = DType::I32,
        /// Draws per row.
        sample_size: i64 = 1,
        /// Makes runs repeatable.
        seed: Option<f32> = None,
    }
}

impl Multinomial {
    fn samples(&self) -> Result<usize> {
        ensure!(
            matches!(self.dtype, DType::I32 | DType::I64),
            DTypeMismatch,
            "class numbers of type {}; set dtype to i32 or i64",
            self.dtype
        );
        usize::try_from(self.sample_size)
            .map_err(|_| err!(InvalidArgument, "sample_size {} is negative", self.sample_size))
    }
}

impl Operator for Multinomial {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(1, 1)?;
        Kind::Float.expect(args, 0)?;
        let batch = match args.shape(0) {
            Some([batch, _]) => batch.clone(),
            Some(other) => {
                let rank = other.len();
                return Err(err!(ShapeMismatch, "expected [batch, classes], got rank {rank}"));
            }
            None => args.fresh("batch"),
        };
        Ok(vec![Fact::tensor(self.dtype, vec![batch, Dim::from(self.samples()?)])])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let logits = args.tensor(0)?;
        let &[batch, classes] = logits.shape() else {
            return Err(err!(ShapeMismatch, "expected [batch, classes], got {logits:?}"));
        };
        let shape = [batch, self.samples()?];
        let mut out: Vec<f64> = vec_for(&shape)?;
        ensure!(classes > 0 || batch == 0, ShapeMismatch, "there are no classes to draw from");
        let mut random = Philox::from_float(self.seed);
        for row in to_f64(logits)?.chunks_exact(classes.max(1)) {
            let greatest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let mut total = 0.0;
            let cumulative: Vec<f64> = row
                .iter()
                .map(|x| {
                    total += (x - greatest).exp();
                    total
                })
                .collect();
            ensure!(total.is_finite(), InvalidArgument, "the log-probabilities have no finite sum");
            out.extend((0..shape[1]).map(|_| {
                let at = random.uniform() * total;
                cumulative.partition_point(|&c| c <= at).min(classes - 1) as f64
            }));
        }
        Ok(vec![cast_from_f64(self.dtype, &shape, &out)?.into()])
    }

    fn is_pure(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NoSubgraphs;

    fn run(op: &dyn Operator, inputs: &[Option<Value>]) -> Result<Tensor> {
        op.eval(&EvalArgs { inputs, outputs: 1, env: &NoSubgraphs })?[0].tensor().cloned()
    }

    #[test]
    fn classes_come_up_as_often_as_their_probabilities_say() {
        let p = [0.5f64, 0.0, 0.3, 0.2];
        let logits = p.map(|p| (p.ln() + 7.0) as f32);
        let x: Value = Tensor::from_slice(&[1, 4], &logits).unwrap().into();
        let op = Multinomial { sample_size: 20_000, seed: Some(1.0), ..Default::default() };
        let got = run(&op, &[Some(x)]).unwrap().to_vec::<i32>().unwrap();
        for (class, p) in p.iter().enumerate() {
            let share = got.iter().filter(|&&c| c == class as i32).count() as f64 / 20_000.0;
            assert!(
                (share - p).abs() <= 5.0 * (p * (1.0 - p) / 20_000.0).sqrt(),
                "{class} {share}"
            );
        }
    }

    #[test]
    fn bernoulli_refuses_what_is_no_probability_and_keeps_certainties() {
        let x = |v: [f32; 2]| [Some(Tensor::from_slice(&[2], &v).unwrap().into())];
        let op = Bernoulli { dtype: Some(DType::Bool), seed: None };
        assert_eq!(run(&op, &x([0.0, 1.0])).unwrap().to_vec::<bool>().unwrap(), [false, true]);
        for bad in [[0.5, 1.5], [-0.1, 0.0], [f32::NAN, 0.0]] {
            assert!(run(&op, &x(bad)).is_err());
        }
    }

    #[test]
    fn uniform_numbers_stay_in_their_range() {
        let op = RandomUniform { shape: vec![1000], low: -2.0, high: 3.0, ..Default::default() };
        let got = run(&op, &[]).unwrap().to_vec::<f32>().unwrap();
        assert!(got.iter().all(|x| (-2.0..=3.0).contains(x)));
        let bad = RandomUniform { shape: vec![-1], ..Default::default() };
        assert!(run(&bad, &[]).is_err());
    }
}
