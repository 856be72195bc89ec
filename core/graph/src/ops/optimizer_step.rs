//! One step of an optimiser over any number of tensors. Inputs are the rate `r`
//! (a scalar), the number `t` of steps done (i64), then for `n` tensors all values x, all
//! gradients g, and all of each kind of state; outputs are all new values, then all new
//! states in the same order. Computed in double precision, rounded once.

use super::util::{Kind, cast_from_f64, shaped_like, to_f64};
use crate::{EvalArgs, Fact, InferArgs, Operator, Value, attr_enum, op};
use deepseek_tensor::{DType, Result, ensure};

/// The shape rule for `states` kinds of state.
fn infer_step(args: &InferArgs, states: usize) -> Result<Vec<Fact>> {
    let n = tensors(args.len(), states)?;
    for i in [0].into_iter().chain(2..args.len()) {
        Kind::Float.expect(args, i)?;
    }
    let count = args.dtype(1)?;
    ensure!(count == DType::I64, DTypeMismatch, "the step count must be i64, is {count}");
    let old = (2..2 + n).chain(2 + 2 * n..args.len());
    old.map(|i| shaped_like(args, i, args.dtype(i)?)).collect()
}

fn tensors(inputs: usize, states: usize) -> Result<usize> {
    let each = states + 2;
    let rest = inputs.saturating_sub(2);
    ensure!(
        rest > 0 && rest.is_multiple_of(each),
        InvalidGraph,
        "expected 2 inputs and {each} for each tensor, got {inputs}"
    );
    Ok(rest / each)
}

/// Applies `update(r, t, x, g, states)` to every element; it changes x and the states in
/// place.
fn step<const STATES: usize>(
    args: &EvalArgs,
    update: impl Fn(f64, i64, &mut f64, f64, &mut [f64; STATES]),
) -> Result<Vec<Value>> {
    let n = tensors(args.len(), STATES)?;
    let scalar = |i: usize| {
        let t = args.tensor(i)?;
        ensure!(t.len() == 1, ShapeMismatch, "input {i} must be a scalar, is {t:?}");
        Ok(t)
    };
    let (rate, count) = (to_f64(scalar(0)?)?[0], scalar(1)?.item::<i64>()?);
    let mut out: Vec<Option<Value>> = vec![None; n * (STATES + 1)];
    for k in 0..n {
        let x = args.tensor(2 + k)?;
        let input = |kind: usize| {
            let t = args.tensor(2 + kind * n + k)?;
            ensure!(
                t.shape() == x.shape(),
                ShapeMismatch,
                "input {} has shape {:?}, the tensor it belongs to {:?}",
                2 + kind * n + k,
                t.shape(),
                x.shape()
            );
            to_f64(t)
        };
        let (mut values, gradients) = (to_f64(x)?, input(1)?);
        let mut states: Vec<Vec<f64>> = (0..STATES).map(|s| input(2 + s)).collect::<Result<_>>()?;
        for (i, (x, &g)) in values.iter_mut().zip(&gradients).enumerate() {
            let mut state: [f64; STATES] = std::array::from_fn(|s| states[s][i]);
            update(rate, count, x, g, &mut state);
            states.iter_mut().zip(state).for_each(|(all, new)| all[i] = new);
        }
        out[k] = Some(cast_from_f64(x.dtype(), x.shape(), &values)?.into());
        for (s, state) in states.iter().enumerate() {
            let dtype = args.tensor(2 + (2 + s) * n + k)?.dtype();
            out[(s + 1) * n + k] = Some(cast_from_f64(dtype, x.shape(), state)?.into());
        }
    }
    Ok(out.into_iter().flatten().collect())
}

op! {
    /// AdaGrad with state h: `g += norm_coefficient·x; h += g²;
    /// x −= r/(1 + t·decay_factor) · g/(√h + ε)`. (ONNX ai.onnx.preview.training Adagrad-1;
    /// Duchi et al. 2011.)
    Adagrad {
        /// How fast the rate falls with the step count.
        decay_factor: f32 = 0.0,
        /// Keeps the divisor from zero.
        epsilon: f32 = 1e-6,
        /// Coefficient of the regulariser `½‖x‖²`.
        norm_coefficient: f32 = 0.0,
    }
}

impl Operator for Adagrad {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        infer_step(args, 1)
    }
    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let [decay, epsilon, norm] =
            [self.decay_factor, self.epsilon, self.norm_coefficient].map(f64::from);
        step(args, |r, t, x, g, [h]| {
            let g = g + norm * *x;
            *h += g * g;
            *x -= r / (1.0 + t as f64 * decay) * g / (h.sqrt() + epsilon);
        })
    }
}

op! {
    /// Adam with states v and h: `g += norm_coefficient·x; v = αv + (1−α)g; h = βh + (1−β)g²;
    /// x −= r·√(1−βᵗ)/(1−αᵗ) · v/(√h + ε)`, where the correction is left out at t = 0; then
    /// `x *= 1 − norm_coefficient_post`. (ONNX ai.onnx.preview.training Adam-1; Kingma and Ba
    /// 2014.)
    Adam {
        /// Decay of the mean gradient.
        alpha: f32 = 0.9,
        /// Decay of the mean squared gradient.
        beta: f32 = 0.999,
        /// Keeps the divisor from zero.
        epsilon: f32 = 1e-6,
        /// Coefficient of the regulariser `½‖x‖²`.
        norm_coefficient: f32 = 0.0,
        /// How much the new value shrinks.
        norm_coefficient_post: f32 = 0.0,
    }
}

impl Operator for Adam {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        infer_step(args, 2)
    }
    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let [alpha, beta, epsilon] = [self.alpha, self.beta, self.epsilon].map(f64::from);
        let [norm, post] = [self.norm_coefficient, self.norm_coefficient_post].map(f64::from);
        step(args, |r, t, x, g, [v, h]| {
            let g = g + norm * *x;
            *v = alpha * *v + (1.0 - alpha) * g;
            *h = beta * *h + (1.0 - beta) * g * g;
            let t = t as f64;
            let correction = (1.0 - beta.powf(t)).sqrt() / (1.0 - alpha.powf(t));
            let r = if t > 0.0 { r * correction } else { r };
            *x = (1.0 - post) * (*x - r * *v / (h.sqrt() + epsilon));
        })
    }
}

attr_enum! {
    /// Where [`Momentum`] takes its direction from.
    MomentumMode {
        /// From the momentum.
        Standard = "standard",
        /// From the gradient and the decayed momentum (Nesterov).
        Nesterov = "nesterov",
    }
}

op! {
    /// Gradient descent with momentum v: `g += norm_coefficient·x; v = αv + βg` (β = 1 at t = 0),
    /// then `x −= r·v`, or `x −= r·(g + αv)` after Nesterov. (ONNX ai.onnx.preview.training
    /// Momentum-1.)
    Momentum {
        /// Decay of the momentum.
        alpha: f32 = 0.9,
        /// Weight of the gradient.
        beta: f32 = 1.0,
        /// Where the direction comes from.
        mode: MomentumMode = MomentumMode::Standard,
        /// Coefficient of the regulariser `½‖x‖²`.
        norm_coefficient: f32 = 0.0,
    }
}

impl Operator for Momentum {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        infer_step(args, 1)
    }
    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let [alpha, beta, norm] = [self.alpha, self.beta, self.norm_coefficient].map(f64::from);
        step(args, |r, t, x, g, [v]| {
            let g = g + norm * *x;
            *v = alpha * *v + if t > 0 { beta * g } else { g };
            *x -= r * match self.mode {
                MomentumMode::Standard => *v,
                MomentumMode::Nesterov => g + alpha * *v,
            };
        })
    }
}
