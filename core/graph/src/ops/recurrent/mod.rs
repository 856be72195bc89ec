//! Recurrent layers: RNN, GRU, LSTM.
//!
//! The three share everything but the cell: layouts, directions, sequence lengths, initial states,
//! activations and clipping live in [`layer`], which walks each sequence of each direction and asks
//! a [`Cell`] for the next state. Gates are computed in double precision and rounded once, in the
//! outputs.

mod activation;
mod layer;

use crate::{EvalArgs, Fact, InferArgs, Operator, Value, attr_enum, op};
use deepseek_tensor::Result;
use layer::{Cell, Layer, Step};

attr_enum! {
    /// The order in which a recurrent layer reads a sequence.
    Direction {
        /// First to last.
        Forward = "forward",
        /// Last to first.
        Reverse = "reverse",
        /// Both, with weights of their own.
        Bidirectional = "bidirectional",
    }
}

op! {
    /// `h_t = f(W·x_t + R·h_{t−1} + Wb + Rb)`.
    ///
    /// Inputs, with `dirs` 2 if bidirectional, else 1: `x` `[seq, batch, input]`, `W`
    /// `[dirs, hidden, input]`, `R` `[dirs, hidden, hidden]`, and optionally `B` `[dirs, 2·hidden]`
    /// (`Wb`, `Rb`), the `i32[batch]` lengths of the sequences, the first state
    /// `[dirs, batch, hidden]`. Outputs: all states `[seq, dirs, batch, hidden]`, zero beyond a
    /// sequence's length; the last states `[dirs, batch, hidden]`. With `layout` true (1) `batch`
    /// comes first in `x`, in both outputs and in the first state.
    ///
    /// `activations` names one function per direction; `activation_alpha` and `activation_beta`
    /// are consumed in order by those that have such a parameter; `clip` bounds their inputs.
    /// (ONNX RNN-22.)
    RNN {
        activation_alpha: Vec<f32> = Vec::new(),
        activation_beta: Vec<f32> = Vec::new(),
        activations: Vec<String> = Vec::new(),
        clip: Option<f32> = None,
        direction: Direction = Direction::Forward,
        hidden_size: Option<i64> = None,
        layout: bool = false,
    }
}

op! {
    /// `h_t = (1 − z)·n + z·h_{t−1}` with the gates `z = f(W_z·x_t + R_z·h_{t−1} + b_z)`,
    /// `r = f(W_r·x_t + R_r·h_{t−1} + b_r)` and `n = g(W_h·x_t + R_h·(r·h_{t−1}) + Rb_h + Wb_h)`,
    /// or, with `linear_before_reset`, `n = g(W_h·x_t + r·(R_h·h_{t−1} + Rb_h) + Wb_h)`.
    ///
    /// Inputs and outputs are those of [`RNN`], with the rows of `W`, `R` and `B` for the gates
    /// `z`, `r`, `h` in this order (`B` `[dirs, 6·hidden]`: all `Wb`, then all `Rb`).
    /// `activations` names `f` and `g` (default Sigmoid, Tanh) for each direction. (ONNX GRU-22;
    /// Cho et al., 2014.)
    GRU {
        activation_alpha: Vec<f32> = Vec::new(),
        activation_beta: Vec<f32> = Vec::new(),
        activations: Vec<String> = Vec::new(),
        clip: Option<f32> = None,
        direction: Direction = Direction::Forward,
        hidden_size: Option<i64> = None,
        layout: bool = false,
        linear_before_reset: bool = false,
    }
}

op! {
    /// `c_t = f·c_{t−1} + i·g(…)`, `h_t = o·h(c_t)`, with the gates
    /// `i = f(W_i·x_t + R_i·h_{t−1} + P_i·c_{t−1} + b_i)`, `f` likewise (`1 − i` with
    /// `input_forget`) and `o = f(W_o·x_t + R_o·h_{t−1} + P_o·c_t + b_o)`.
    ///
    /// Inputs 0 to 5 are those of [`RNN`], with the rows of `W`, `R` and `B` for the gates `i`,
    /// `o`, `f`, `c` in this order (`B` `[dirs, 8·hidden]`: all `Wb`, then all `Rb`); 6 is the
    /// first cell state, shaped as the first state, and 7 the peephole weights
    /// `[dirs, 3·hidden]` of `i`, `o`, `f`. Outputs are those of [`RNN`] and the last cell state.
    /// `activations` names `f`, `g` and `h` (default Sigmoid, Tanh, Tanh) for each direction.
    /// (ONNX LSTM-22; Hochreiter and Schmidhuber, 1997; Gers and Schmidhuber, 2000.)
    LSTM {
        activation_alpha: Vec<f32> = Vec::new(),
        activation_beta: Vec<f32> = Vec::new(),
        activations: Vec<String> = Vec::new(),
        clip: Option<f32> = None,
        direction: Direction = Direction::Forward,
        hidden_size: Option<i64> = None,
        input_forget: bool = false,
        layout: bool = false,
    }
}

macro_rules! recurrent {
    ($($name:ident: $gates:literal gates, $inputs:literal inputs, $states:literal states,
       [$($default:literal),*];)*) => {$(
        impl $name {
            fn layer(&self) -> Layer<'_> {
                Layer {
                    gates: $gates,
                    states: $states,
                    inputs: $inputs,
                    defaults: &[$($default),*],
                    alpha: &self.activation_alpha,
                    beta: &self.activation_beta,
                    activations: &self.activations,
                    clip: self.clip,
                    direction: self.direction,
                    hidden_size: self.hidden_size,
                    batch_first: self.layout,
                }
            }
        }
        impl Operator for $name {
            fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
                self.layer().infer(args)
            }
            fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
                self.layer().run(args, self)
            }
        }
    )*};
}

recurrent! {
    RNN: 1 gates, 6 inputs, 1 states, ["Tanh"];
    GRU: 3 gates, 6 inputs, 1 states, ["Sigmoid", "Tanh"];
    LSTM: 4 gates, 8 inputs, 2 states, ["Sigmoid", "Tanh", "Tanh"];
}

impl Cell for RNN {
    fn step(&self, s: &Step, h: &mut [f64], _: &mut [f64]) {
        let next: Vec<f64> = (0..h.len())
            .map(|i| s.act(0, s.input(0, i) + s.recur(0, i, h) + s.bias(0, i)))
            .collect();
        h.copy_from_slice(&next);
    }
}

impl Cell for GRU {
    fn step(&self, s: &Step, h: &mut [f64], _: &mut [f64]) {
        let gate = |g: usize| -> Vec<f64> {
            (0..h.len())
                .map(|i| s.act(0, s.input(g, i) + s.recur(g, i, h) + s.bias(g, i)))
                .collect()
        };
        let (z, r) = (gate(0), gate(1));
        let reset: Vec<f64> = r.iter().zip(&*h).map(|(r, h)| r * h).collect();
        let next: Vec<f64> = (0..h.len())
            .map(|i| {
                let recurrent = if self.linear_before_reset {
                    r[i] * (s.recur(2, i, h) + s.recurrent_bias(2, i))
                } else {
                    s.recur(2, i, &reset) + s.recurrent_bias(2, i)
                };
                let n = s.act(1, s.input(2, i) + recurrent + s.input_bias(2, i));
                (1.0 - z[i]) * n + z[i] * h[i]
            })
            .collect();
        h.copy_from_slice(&next);
    }
}

impl Cell for LSTM {
    fn step(&self, s: &Step, h: &mut [f64], c: &mut [f64]) {
        let linear = |g: usize, i: usize| s.input(g, i) + s.recur(g, i, h) + s.bias(g, i);
        let next: Vec<f64> = (0..h.len())
            .map(|k| {
                let i = s.act(0, linear(0, k) + s.peephole(0, k) * c[k]);
                let f = if self.input_forget {
                    1.0 - i
                } else {
                    s.act(0, linear(2, k) + s.peephole(2, k) * c[k])
                };
                c[k] = f * c[k] + i * s.act(1, linear(3, k));
                let o = s.act(0, linear(1, k) + s.peephole(1, k) * c[k]);
                o * s.act(2, c[k])
            })
            .collect();
        h.copy_from_slice(&next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NoSubgraphs;
    use deepseek_tensor::{DType, Tensor};

    fn run(op: &impl Operator, outputs: usize, inputs: &[Option<Tensor>]) -> Vec<Vec<f32>> {
        let inputs: Vec<_> = inputs.iter().map(|t| t.clone().map(Value::from)).collect();
        let args = EvalArgs { inputs: &inputs, outputs, env: &NoSubgraphs };
        let out = op.eval(&args).unwrap();
        out.iter().map(|v| v.tensor().unwrap().to_vec().unwrap()).collect()
    }

    fn t(shape: &[usize], data: &[f32]) -> Option<Tensor> {
        Some(Tensor::from_slice(shape, data).unwrap())
    }

    /// A layer that adds its input to its state, so outputs are running sums.
    fn sum(direction: Direction, layout: bool) -> RNN {
        let activations = vec!["Affine".to_owned(); 2];
        RNN { direction, layout, activations, ..RNN::default() }
    }

    #[test]
    fn directions_lengths_and_layouts() {
        let x = t(&[3, 2, 1], &[1.0, 10.0, 2.0, 20.0, 3.0, 30.0]);
        let one = |dirs| t(&[dirs, 1, 1], &vec![1.0; dirs]);
        let lens = Some(Tensor::from_slice(&[2], &[3, 2]).unwrap());
        let y = run(
            &sum(Direction::Forward, false),
            2,
            &[x.clone(), one(1), one(1), None, lens.clone()],
        );
        assert_eq!(y[0], [1.0, 10.0, 3.0, 30.0, 6.0, 0.0]);
        assert_eq!(y[1], [6.0, 30.0]);
        let y = run(
            &sum(Direction::Reverse, false),
            2,
            &[x.clone(), one(1), one(1), None, lens.clone()],
        );
        assert_eq!(y[0], [6.0, 30.0, 5.0, 20.0, 3.0, 0.0]);
        let y =
            run(&sum(Direction::Bidirectional, false), 2, &[x, one(2), one(2), None, lens.clone()]);
        assert_eq!(y[0], [1.0, 10.0, 6.0, 30.0, 3.0, 30.0, 5.0, 20.0, 6.0, 0.0, 3.0, 0.0]);
        assert_eq!(y[1], [6.0, 30.0, 6.0, 30.0]);
        let x = t(&[2, 3, 1], &[1.0, 2.0, 3.0, 10.0, 20.0, 30.0]);
        let first = t(&[2, 1, 1], &[100.0, 0.0]);
        let y = run(&sum(Direction::Forward, true), 2, &[x, one(1), one(1), None, lens, first]);
        assert_eq!(y[0], [101.0, 103.0, 106.0, 10.0, 30.0, 0.0]);
        assert_eq!(y[1], [106.0, 30.0]);
    }

    #[test]
    fn clip_bounds_what_activations_see() {
        let op = RNN { clip: Some(4.0), ..sum(Direction::Forward, false) };
        let one = t(&[1, 1, 1], &[1.0]);
        let y = run(&op, 1, &[t(&[3, 1, 1], &[1.0, 2.0, 3.0]), one.clone(), one]);
        assert_eq!(y[0], [1.0, 3.0, 4.0]);
    }

    #[test]
    fn coupled_gates_and_peepholes() {
        let names = ["Affine", "Affine", "Affine"].map(String::from).to_vec();
        let op = LSTM { activations: names, input_forget: true, ..LSTM::default() };
        // All weights 0; the biases make i = 0.25, o = 1, c~ = 8; a peephole adds c to o.
        let zero = |n| t(&[1, 4, n], &vec![0.0; 4 * n]);
        let b = t(&[1, 8], &[0.25, 1.0, 9.0, 8.0, 0.0, 0.0, 0.0, 0.0]);
        let cell = t(&[1, 1, 1], &[4.0]);
        let p = t(&[1, 3], &[0.0, 1.0, 0.0]);
        let x = t(&[1, 1, 1], &[1.0]);
        let y = run(&op, 3, &[x, zero(1), zero(1), b, None, None, cell, p]);
        // c = 0.75·4 + 0.25·8 = 5, h = (1 + 5)·5.
        assert_eq!((y[1][0], y[2][0]), (30.0, 5.0));
    }

    #[test]
    fn bad_weights_say_which() {
        let x = t(&[1, 1, 2], &[1.0, 1.0]);
        let inputs =
            [x, t(&[1, 3, 2], &[0.0; 6]), t(&[1, 2, 2], &[0.0; 4])].map(|t| t.map(Value::from));
        let args = EvalArgs { inputs: &inputs, outputs: 1, env: &NoSubgraphs };
        let e = RNN::default().eval(&args).unwrap_err();
        assert!(e.message().contains("W must have shape [1, 2, 2], got [1, 3, 2]"), "{e}");
        assert_eq!(inputs[0].as_ref().unwrap().tensor().unwrap().dtype(), DType::F32);
    }
}
