//! Sequence operators that carry a fixed-size state instead of a growing cache.

use super::util::{cast_from_f64, filled, to_f64};
use crate::{Dim, EvalArgs, Fact, InferArgs, Operator, Value, attr_enum, op};
use deepseek_tensor::{DType, Result, Tensor, bail, ensure, num_elements};

attr_enum! {
    /// How [`LinearAttention`] changes its state at each step.
    UpdateRule {
        /// `S += k ⊗ v`.
        Linear = "linear",
        /// `S = eᵍ·S + k ⊗ v`.
        Gated = "gated",
        /// `S += β·k ⊗ (v − Sᵀk)`.
        Delta = "delta",
        /// Decay first, then the delta rule on the decayed state.
        GatedDelta = "gated_delta",
    }
}

op! {
    /// `o_t = scale · q_tᵀ S_t`, where the state `S` `[k_dim, v_dim]` of each key head changes by
    /// `update_rule` at every step.
    ///
    /// Inputs: `q` `[batch, seq, q_heads·k_dim]`, `k` `[batch, seq, kv_heads·k_dim]`, `v`
    /// `[batch, seq, kv_heads·v_dim]`, the state before the first step
    /// `[batch, kv_heads, k_dim, v_dim]` (absent: 0), the decay `g` `[batch, seq, kv_heads·k_dim]`
    /// or `[batch, seq, kv_heads]` (gated rules only), the rate `β` `[batch, seq, kv_heads]` or
    /// `[batch, seq, 1]` (delta rules only). Outputs: `o` `[batch, seq, q_heads·v_dim]` and the
    /// state after the last step, of the type of the state before (absent: of `q`). Query head `h`
    /// reads the state of key head `h / (q_heads/kv_heads)`. `scale` 0 means `1/√k_dim`;
    /// `chunk_size` is a hint to fast kernels. (ONNX LinearAttention-27; Yang et al., "Gated Delta
    /// Networks", 2024.)
    LinearAttention {
        chunk_size: i64 = 64,
        kv_num_heads: i64 = 0,
        q_num_heads: i64 = 0,
        scale: f32 = 0.0,
        update_rule: UpdateRule = UpdateRule::GatedDelta,
    }
}

impl Operator for LinearAttention {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(3, 6)?;
        let dtype = args.expect_same_dtype(0, 1)?;
        args.expect_same_dtype(0, 2)?;
        ensure!(dtype.is_float(), DTypeMismatch, "expected floats, got {dtype}; insert a Cast");
        self.check(args.get(4).is_some(), args.get(5).is_some())?;
        let state = if args.get(3).is_some() { args.dtype(3)? } else { dtype };
        let (Some(q), Some(v)) = (args.shape(0), args.shape(2)) else {
            return Ok(vec![Fact::unranked(dtype), Fact::unranked(state)]);
        };
        let ([b, t, hq], [_, _, hv]) = (q, v) else {
            bail!(ShapeMismatch, "q, k and v need rank 3, got shapes {q:?} and {v:?}")
        };
        let (q_heads, kv_heads) = (Dim::from(self.q_num_heads), Dim::from(self.kv_num_heads));
        let (k_dim, v_dim) = (hq.floor_div(&q_heads), hv.floor_div(&kv_heads));
        Ok(vec![
            Fact::tensor(dtype, [b.clone(), t.clone(), q_heads * &v_dim]),
            Fact::tensor(state, [b.clone(), kv_heads, k_dim, v_dim]),
        ])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let (decay, beta) = (args.opt(4)?, args.opt(5)?);
        self.check(decay.is_some(), beta.is_some())?;
        let (q_heads, heads) = (self.q_num_heads as usize, self.kv_num_heads as usize);
        let q = Packed::new(args.tensor(0)?, q_heads, "q")?;
        let k = Packed::new(args.tensor(1)?, heads, "k")?;
        let v = Packed::new(args.tensor(2)?, heads, "v")?;
        let (batch, seq, k_dim, v_dim) = (q.batch, q.seq, k.dim, v.dim);
        let same = |p: &Packed| p.batch == batch && p.seq == seq;
        ensure!(
            same(&k) && same(&v) && q.dim == k_dim,
            ShapeMismatch,
            "q, k and v disagree: batch and steps [{batch}, {seq}], [{}, {}], [{}, {}]; head sizes of q {} and k {k_dim}",
            k.batch,
            k.seq,
            v.batch,
            v.seq,
            q.dim
        );
        let decay = decay.map(|g| Gate::new(g, [batch, seq, heads], k_dim, "decay")).transpose()?;
        let beta = beta.map(|b| Gate::new(b, [batch, seq, heads], 1, "beta")).transpose()?;
        let shape = [batch, heads, k_dim, v_dim];
        let dtype = args.tensor(0)?.dtype();
        let (state_dtype, mut state) = match args.opt(3)? {
            None => (dtype, filled(num_elements(&shape)?, 0.0)?),
            Some(t) => {
                ensure!(
                    t.shape() == shape,
                    ShapeMismatch,
                    "past_state must have shape {shape:?}, got {:?}",
                    t.shape()
                );
                (t.dtype(), to_f64(t)?)
            }
        };
        let scale = match self.scale {
            0.0 => 1.0 / (k_dim as f64).sqrt(),
            s => f64::from(s),
        };
        let group = q_heads / heads;
        let mut out = filled(num_elements(&[batch, seq, q_heads, v_dim])?, 0.0)?;
        let mut change = filled(v_dim, 0.0)?;
        for at in 0..num_elements(&[batch, heads])? {
            let (b, h) = (at / heads, at % heads);
            let state = &mut state[at * k_dim * v_dim..][..k_dim * v_dim];
            for t in 0..seq {
                let (key, value) = (k.row(b, t, h), v.row(b, t, h));
                if let Some(decay) = &decay {
                    for i in 0..k_dim {
                        let factor = decay.at(b, t, h, i).exp();
                        state[i * v_dim..][..v_dim].iter_mut().for_each(|s| *s *= factor);
                    }
                }
                change.copy_from_slice(value);
                if let Some(beta) = &beta {
                    for (i, k) in key.iter().enumerate() {
                        let row = &state[i * v_dim..][..v_dim];
                        change.iter_mut().zip(row).for_each(|(c, s)| *c -= k * s);
                    }
                    let rate = beta.at(b, t, h, 0);
                    change.iter_mut().for_each(|c| *c *= rate);
                }
                for (i, k) in key.iter().enumerate() {
                    let row = &mut state[i * v_dim..][..v_dim];
                    row.iter_mut().zip(&change).for_each(|(s, c)| *s += k * c);
                }
                for query in h * group..(h + 1) * group {
                    let o = &mut out[((b * seq + t) * q_heads + query) * v_dim..][..v_dim];
                    for (i, q) in q.row(b, t, query).iter().enumerate() {
                        let row = &state[i * v_dim..][..v_dim];
                        o.iter_mut().zip(row).for_each(|(o, s)| *o += scale * q * s);
                    }
                }
            }
        }
        Ok(vec![
            cast_from_f64(dtype, &[batch, seq, q_heads * v_dim], &out)?.into(),
            cast_from_f64(state_dtype, &shape, &state)?.into(),
        ])
    }
}

impl LinearAttention {
    /// Checks the head counts and which gates are there.
    fn check(&self, decay: bool, beta: bool) -> Result<()> {
        let (q, kv) = (self.q_num_heads, self.kv_num_heads);
        ensure!(
            q > 0 && kv > 0 && q % kv == 0,
            InvalidGraph,
            "q_num_heads = {q} must be a positive multiple of kv_num_heads = {kv}"
        );
        let rule = self.update_rule;
        let gated = matches!(rule, UpdateRule::Gated | UpdateRule::GatedDelta);
        let delta = matches!(rule, UpdateRule::Delta | UpdateRule::GatedDelta);
        for (what, wanted, given) in [("decay", gated, decay), ("beta", delta, beta)] {
            ensure!(
                wanted == given,
                InvalidGraph,
                "update rule {rule:?} {} the input {what}",
                if wanted { "needs" } else { "does not take" }
            );
        }
        Ok(())
    }
}

/// An operand `[batch, seq, heads·dim]` as doubles.
struct Packed {
    batch: usize,
    seq: usize,
    heads: usize,
    dim: usize,
    data: Vec<f64>,
}

impl Packed {
    fn new(t: &Tensor, heads: usize, what: &str) -> Result<Self> {
        let &[batch, seq, hidden] = t.shape() else {
            bail!(ShapeMismatch, "{what} needs rank 3, got shape {:?}", t.shape())
        };
        ensure!(
            hidden.is_multiple_of(heads) && hidden > 0,
            ShapeMismatch,
            "{what}: hidden size {hidden} is not a multiple of {heads} heads"
        );
        Ok(Packed { batch, seq, heads, dim: hidden / heads, data: to_f64(t)? })
    }

    fn row(&self, b: usize, t: usize, h: usize) -> &[f64] {
        &self.data[((b * self.seq + t) * self.heads + h) * self.dim..][..self.dim]
    }
}

/// A decay or rate: one number per step and head, with or without one per element.
struct Gate {
    packed: Packed,
}

impl Gate {
    /// Reads `[batch, seq, heads·dim]`, `[batch, seq, heads]` or, for a rate, `[batch, seq, 1]`.
    fn new(t: &Tensor, [batch, seq, heads]: [usize; 3], dim: usize, what: &str) -> Result<Self> {
        let last = t.shape().last().copied().unwrap_or(0);
        let own_heads = if last == 1 && dim == 1 { 1 } else { heads };
        ensure!(
            t.rank() == 3
                && t.shape()[..2] == [batch, seq]
                && (last == own_heads || last == heads * dim),
            ShapeMismatch,
            "{what} must have shape [{batch}, {seq}, {heads}] or [{batch}, {seq}, {}], got {:?}",
            if dim == 1 { 1 } else { heads * dim },
            t.shape()
        );
        Ok(Gate { packed: Packed::new(t, own_heads, what)? })
    }

    fn at(&self, b: usize, t: usize, h: usize, i: usize) -> f64 {
        let p = &self.packed;
        let row = p.row(b, t, h.min(p.heads - 1));
        row[i.min(row.len() - 1)]
    }
}

attr_enum! {
    /// What [`CausalConvWithState`] applies to its result.
    ConvActivation {
        /// Nothing.
        None = "none",
        /// `x · sigmoid(x)`.
        Silu = "silu",
        /// The same under its other name.
        Swish = "swish",
    }
}

op! {
    /// `y[b, c, t] = activation(bias[c] + Σ_j weight[c, 0, j] · z[b, c, t + j])`, where `z` is the
    /// state followed by the input along the last axis: a convolution of each channel for itself
    /// that sees only the present and the past.
    ///
    /// Inputs: `x` `[batch, channels, length]`, `weight` `[channels, 1, k]`, and optionally `bias`
    /// `[channels]` and the state `[batch, channels, k−1]` (absent: 0). Outputs: `y` as `x`, and
    /// the next state: the last `k−1` elements of `z`. (ONNX CausalConvWithState-27.)
    CausalConvWithState { activation: ConvActivation = ConvActivation::None }
}

impl Operator for CausalConvWithState {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(2, 4)?;
        let dtype = args.expect_same_dtype(0, 1)?;
        for i in 2..args.len() {
            if args.get(i).is_some() {
                args.expect_same_dtype(0, i)?;
            }
        }
        ensure!(dtype.is_float(), DTypeMismatch, "expected floats, got {dtype}; insert a Cast");
        let y = Fact::maybe_ranked(dtype, args.shape(0).map(<[_]>::to_vec));
        let state = match (args.shape(0), args.shape(1)) {
            (Some([b, c, _]), Some([_, _, k])) => {
                Fact::tensor(dtype, [b.clone(), c.clone(), k - 1])
            }
            (Some(x), Some(w)) => {
                bail!(ShapeMismatch, "input and weight need rank 3, got shapes {x:?} and {w:?}")
            }
            _ => Fact::unranked(dtype),
        };
        Ok(vec![y, state])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let (x, weight) = (args.tensor(0)?, args.tensor(1)?);
        let (&[batch, channels, len], &[c, 1, k]) = (x.shape(), weight.shape()) else {
            bail!(
                ShapeMismatch,
                "expected [batch, channels, length] and [channels, 1, k], got {:?} and {:?}",
                x.shape(),
                weight.shape()
            )
        };
        ensure!(
            c == channels && k > 0,
            ShapeMismatch,
            "weight [{c}, 1, {k}] does not fit {channels} channels and a kernel of 1 or more"
        );
        let exact = |i: usize, shape: &[usize], what: &str| -> Result<Vec<f64>> {
            let Some(t) = args.opt(i)? else { return filled(num_elements(shape)?, 0.0) };
            ensure!(
                t.shape() == shape,
                ShapeMismatch,
                "{what} must have shape {shape:?}, got {:?}",
                t.shape()
            );
            to_f64(t)
        };
        let bias = exact(2, &[channels], "bias")?;
        let past = exact(3, &[batch, channels, k - 1], "past_state")?;
        let (data, weight) = (to_f64(x)?, to_f64(weight)?);
        let mut y = filled(data.len(), 0.0)?;
        let mut state = Vec::with_capacity(past.len());
        let mut z = filled(k - 1 + len, 0.0)?;
        for row in 0..num_elements(&[batch, channels])? {
            let c = row % channels;
            z[..k - 1].copy_from_slice(&past[row * (k - 1)..][..k - 1]);
            z[k - 1..].copy_from_slice(&data[row * len..][..len]);
            for (t, y) in y[row * len..][..len].iter_mut().enumerate() {
                let taps = weight[c * k..][..k].iter().zip(&z[t..]);
                let sum = bias[c] + taps.map(|(w, z)| w * z).sum::<f64>();
                *y = match self.activation {
                    ConvActivation::None => sum,
                    ConvActivation::Silu | ConvActivation::Swish => sum / (1.0 + (-sum).exp()),
                };
            }
            state.extend_from_slice(&z[len..]);
        }
        let dtype: DType = x.dtype();
        Ok(vec![
            cast_from_f64(dtype, x.shape(), &y)?.into(),
            cast_from_f64(dtype, &[batch, channels, k - 1], &state)?.into(),
        ])
    }
}
