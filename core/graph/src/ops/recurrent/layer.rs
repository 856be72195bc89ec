//! The walk over sequences and directions that all recurrent layers share.

use super::Direction;
use super::activation::Activation;
use crate::ops::util::{cast_from_f64, filled, to_f64, to_i64};
use crate::{Dim, EvalArgs, Fact, InferArgs, Value};
use deepseek_tensor::{DType, Result, Tensor, bail, ensure, err, num_elements};

/// What one kind of layer is: its numbers and its attributes.
pub(super) struct Layer<'a> {
    /// Gates, each with `hidden` rows in the weights.
    pub(super) gates: usize,
    /// 2 if there is a cell state beside the hidden state.
    pub(super) states: usize,
    /// Most inputs the operator takes.
    pub(super) inputs: usize,
    /// Activations of one direction where the attribute names none.
    pub(super) defaults: &'a [&'a str],
    pub(super) alpha: &'a [f32],
    pub(super) beta: &'a [f32],
    pub(super) activations: &'a [String],
    pub(super) clip: Option<f32>,
    pub(super) direction: Direction,
    pub(super) hidden_size: Option<i64>,
    pub(super) batch_first: bool,
}

/// One step of the recurrence.
pub(super) trait Cell {
    /// Replaces the hidden state `h` (and the cell state `c`, empty where there is none) by the
    /// next one.
    fn step(&self, step: &Step, h: &mut [f64], c: &mut [f64]);
}

/// The weights of one direction and the input of one step.
pub(super) struct Step<'a> {
    weights: &'a Weights,
    hidden: usize,
    gates: usize,
    x: &'a [f64],
}

/// Weights of one direction.
struct Weights {
    /// `[gates · hidden, input]`.
    w: Vec<f64>,
    /// `[gates · hidden, hidden]`.
    r: Vec<f64>,
    /// `[2 · gates · hidden]`, those of `w` first.
    b: Vec<f64>,
    /// `[3 · hidden]`.
    p: Vec<f64>,
    activations: Vec<Activation>,
    clip: f64,
}

impl Step<'_> {
    /// Row `i` of gate `gate` of the input weights, times the input.
    pub(super) fn input(&self, gate: usize, i: usize) -> f64 {
        dot(&self.weights.w, gate * self.hidden + i, self.x)
    }

    /// Row `i` of gate `gate` of the recurrent weights, times `h`.
    pub(super) fn recur(&self, gate: usize, i: usize, h: &[f64]) -> f64 {
        dot(&self.weights.r, gate * self.hidden + i, h)
    }

    pub(super) fn input_bias(&self, gate: usize, i: usize) -> f64 {
        self.weights.b[gate * self.hidden + i]
    }

    pub(super) fn recurrent_bias(&self, gate: usize, i: usize) -> f64 {
        self.weights.b[(self.gates + gate) * self.hidden + i]
    }

    /// Both biases.
    pub(super) fn bias(&self, gate: usize, i: usize) -> f64 {
        self.input_bias(gate, i) + self.recurrent_bias(gate, i)
    }

    /// Peephole weight of gate `gate`.
    pub(super) fn peephole(&self, gate: usize, i: usize) -> f64 {
        self.weights.p[gate * self.hidden + i]
    }

    /// Activation number `which` of the clipped `x`.
    pub(super) fn act(&self, which: usize, x: f64) -> f64 {
        let clip = self.weights.clip;
        self.weights.activations[which].apply(x.max(-clip).min(clip))
    }
}

fn dot(matrix: &[f64], row: usize, x: &[f64]) -> f64 {
    matrix[row * x.len()..][..x.len()].iter().zip(x).map(|(a, b)| a * b).sum()
}

impl Layer<'_> {
    fn dirs(&self) -> usize {
        if self.direction == Direction::Bidirectional { 2 } else { 1 }
    }

    pub(super) fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(3, self.inputs)?;
        let dtype = args.expect_same_dtype(0, 1)?;
        args.expect_same_dtype(0, 2)?;
        ensure!(dtype.is_float(), DTypeMismatch, "expected floats, got {dtype}; insert a Cast");
        if args.get(4).is_some() {
            let lens = args.dtype(4)?;
            ensure!(lens == DType::I32, DTypeMismatch, "sequence_lens must be i32, got {lens}");
        }
        self.activations()?;
        if let Some(r) = args.shape(2) {
            ensure!(r.len() == 3, ShapeMismatch, "R needs rank 3, got shape {r:?}");
        }
        let hidden = match (args.shape(2), self.hidden_size) {
            (Some([.., h]), _) => h.clone(),
            (_, Some(h)) => Dim::from(h),
            _ => args.fresh("hidden"),
        };
        let (seq, batch) = match (args.shape(0), self.batch_first) {
            (Some([seq, batch, _]), false) | (Some([batch, seq, _]), true) => {
                (seq.clone(), batch.clone())
            }
            (None, _) => (args.fresh("seq"), args.fresh("batch")),
            (Some(x), _) => {
                bail!(ShapeMismatch, "x needs rank 3, got shape {x:?}")
            }
        };
        let dirs = Dim::from(self.dirs());
        let (all, last) = if self.batch_first {
            (vec![batch.clone(), seq, dirs.clone(), hidden.clone()], [batch, dirs, hidden])
        } else {
            (vec![seq, dirs.clone(), batch.clone(), hidden.clone()], [dirs, batch, hidden])
        };
        let mut out = vec![Fact::tensor(dtype, all)];
        out.extend((0..self.states).map(|_| Fact::tensor(dtype, last.clone())));
        Ok(out)
    }

    /// Activations of each direction.
    fn activations(&self) -> Result<Vec<Vec<Activation>>> {
        let n = self.defaults.len();
        let names: Vec<&str> = match self.activations {
            [] => self.defaults.to_vec(),
            names => names.iter().map(String::as_str).collect(),
        };
        ensure!(
            names.len() >= n,
            InvalidGraph,
            "expected {} activations, {n} for each direction, got {}",
            n * self.dirs(),
            names.len()
        );
        let mut alpha = self.alpha.iter().map(|&a| f64::from(a));
        let mut beta = self.beta.iter().map(|&b| f64::from(b));
        let parsed = names
            .iter()
            .map(|name| Activation::parse(name, &mut alpha, &mut beta))
            .collect::<Result<Vec<_>>>()?;
        // One direction's worth of names serves both.
        let of = |dir: usize| parsed.get(dir * n..(dir + 1) * n).unwrap_or(&parsed[..n]).to_vec();
        Ok((0..self.dirs()).map(of).collect())
    }

    pub(super) fn run(&self, args: &EvalArgs, cell: &impl Cell) -> Result<Vec<Value>> {
        let (x, r) = (args.tensor(0)?, args.tensor(2)?);
        let dtype = x.dtype();
        ensure!(x.rank() == 3, ShapeMismatch, "x needs rank 3, got shape {:?}", x.shape());
        ensure!(r.rank() == 3, ShapeMismatch, "R needs rank 3, got shape {:?}", r.shape());
        let (dirs, gates, hidden) = (self.dirs(), self.gates, r.shape()[2]);
        ensure!(
            self.hidden_size.is_none_or(|h| h == hidden as i64),
            ShapeMismatch,
            "hidden_size is {}, R has {hidden} columns",
            self.hidden_size.unwrap_or_default()
        );
        let time_first =
            |t: &Tensor| if self.batch_first { t.permute(&[1, 0, 2]) } else { Ok(t.clone()) };
        let x = time_first(x)?;
        let &[seq, batch, input] = x.shape() else { bail!(Internal, "the rank was checked") };
        let rows = gates * hidden;
        let w = weights(Some(args.tensor(1)?), "W", &[dirs, rows, input])?;
        let r = weights(Some(r), "R", &[dirs, rows, hidden])?;
        let b = weights(args.opt(3)?, "B", &[dirs, 2 * rows])?;
        let p = weights(args.opt(7)?, "P", &[dirs, 3 * hidden])?;
        let state = |i: usize, name: &str| -> Result<Vec<f64>> {
            let t = args.opt(i)?.map(time_first).transpose()?;
            weights(t.as_ref(), name, &[dirs, batch, hidden])
        };
        let mut h = state(5, "initial_h")?;
        let mut c = if self.states > 1 { state(6, "initial_c")? } else { Vec::new() };
        let lens = lengths(args.opt(4)?, seq, batch)?;
        let activations = self.activations()?;
        let x = to_f64(&x)?;
        let mut y = filled(num_elements(&[seq, dirs, batch, hidden])?, 0.0)?;
        let part = |v: &[f64], dir: usize| {
            let n = v.len() / dirs;
            v[dir * n..(dir + 1) * n].to_vec()
        };
        for (dir, activations) in activations.into_iter().enumerate() {
            let weights = Weights {
                w: part(&w, dir),
                r: part(&r, dir),
                b: part(&b, dir),
                p: part(&p, dir),
                activations,
                clip: self.clip.map_or(f64::INFINITY, f64::from),
            };
            let backward = self.direction == Direction::Reverse || dir == 1;
            for (i, &len) in lens.iter().enumerate() {
                let at = (dir * batch + i) * hidden;
                let h = &mut h[at..at + hidden];
                let c = if c.is_empty() { &mut [][..] } else { &mut c[at..at + hidden] };
                for t in 0..len {
                    let t = if backward { len - 1 - t } else { t };
                    let x = &x[(t * batch + i) * input..][..input];
                    cell.step(&Step { weights: &weights, hidden, gates, x }, h, c);
                    y[((t * dirs + dir) * batch + i) * hidden..][..hidden].copy_from_slice(h);
                }
                args.env.check()?;
            }
        }
        let mut y = cast_from_f64(dtype, &[seq, dirs, batch, hidden], &y)?;
        if self.batch_first {
            y = y.permute(&[2, 0, 1, 3])?.to_contiguous()?;
        }
        let mut out = vec![y.into()];
        for state in [h, c].iter().take(self.states) {
            let t = cast_from_f64(dtype, &[dirs, batch, hidden], state)?;
            out.push(time_first(&t)?.to_contiguous()?.into());
        }
        Ok(out)
    }
}

/// The elements of a weight or state of the given shape; zeros if it is absent.
fn weights(t: Option<&Tensor>, name: &str, shape: &[usize]) -> Result<Vec<f64>> {
    let Some(t) = t else { return filled(num_elements(shape)?, 0.0) };
    ensure!(
        t.shape() == shape,
        ShapeMismatch,
        "{name} must have shape {shape:?}, got {:?}",
        t.shape()
    );
    to_f64(t)
}

/// Length of each sequence of the batch.
fn lengths(t: Option<&Tensor>, seq: usize, batch: usize) -> Result<Vec<usize>> {
    let Some(t) = t else { return filled(batch, seq) };
    ensure!(
        t.shape() == [batch],
        ShapeMismatch,
        "sequence_lens must have shape [{batch}], got {:?}",
        t.shape()
    );
    to_i64(t)?
        .into_iter()
        .map(|n| {
            usize::try_from(n).ok().filter(|&n| n <= seq).ok_or_else(|| {
                err!(InvalidArgument, "a sequence of length {n} does not fit in {seq} steps")
            })
        })
        .collect()
}
