//! Scaled dot-product attention, with everything ONNX lets one say about it.
//!
//! The computation is one loop over query rows: scores against all keys, soft cap, bias, softmax,
//! weighted sum of the values. What may be attended is a property of a (query, key) pair, decided
//! by [`Bias`] from the mask, the causal frontier, the window and the padding; a key whose bias is
//! −∞ contributes nothing, whatever its key and value vectors hold.

use super::util::{cast_from_f64, filled, to_f64, to_i64};
use crate::{Dim, EvalArgs, Fact, InferArgs, Operator, Value, op};
use deepseek_tensor::{DType, Result, Tensor, bail, ensure, num_elements};

op! {
    /// `y = softmax(softcap(q·kᵀ · scale) + bias) · v` for each head.
    ///
    /// Inputs (4 to 6 optional, as is 3):
    /// 0. `q` `[batch, q_heads, q_seq, dim]`;
    /// 1. `k` `[batch, kv_heads, kv_seq, dim]`;
    /// 2. `v` `[batch, kv_heads, kv_seq, v_dim]`;
    /// 3. mask, broadcastable to `[batch, q_heads, q_seq, total]`: `bool` (true attends) or a float
    ///    that is added; a last axis shorter than `total` masks what it does not reach;
    /// 4. past keys and 5. past values `[batch, kv_heads, past, …]`, put before `k` and `v`, so
    ///    `total = past + kv_seq`;
    /// 6. `i64[batch]`: how many of the keys are not padding.
    ///
    /// `q`, `k`, `v` may also be `[batch, seq, heads·dim]`, with `q_num_heads` and `kv_num_heads`;
    /// then output 0 has that form too. `q_heads` is a multiple of `kv_heads`: query head `h` reads
    /// key head `h / (q_heads/kv_heads)`.
    ///
    /// Query `i` stands at position `p = i + offset`, where `offset` is `past`, or input 6 minus
    /// `q_seq`, or 0. `is_causal` hides keys `j > p`; windows hide `j < p − left_window_size` and
    /// `j > p + right_window_size` (−1: no bound). A row that may attend nothing is zero.
    ///
    /// Outputs: 0. `y` `[batch, q_heads, q_seq, v_dim]`; 1. and 2. all keys and values; 3. the
    /// scores: before the soft cap (`qk_matmul_output_mode` 0), after it (1), after the bias (2),
    /// or the probabilities (3). `scale` defaults to `1/√dim`. Computed in double precision
    /// whatever `softmax_precision` is. (ONNX Attention-25; Vaswani et al., "Attention Is All You
    /// Need", 2017; Ainslie et al., "GQA", 2023.)
    Attention {
        is_causal: bool = false,
        kv_num_heads: Option<i64> = None,
        left_window_size: i64 = -1,
        q_num_heads: Option<i64> = None,
        qk_matmul_output_mode: i64 = 0,
        right_window_size: i64 = -1,
        scale: Option<f32> = None,
        softcap: f32 = 0.0,
        softmax_precision: Option<DType> = None,
    }
}

impl Operator for Attention {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(3, 7)?;
        let dtype = args.expect_same_dtype(0, 1)?;
        let v_dtype = args.dtype(2)?;
        for (what, d) in [("q and k", dtype), ("v", v_dtype)] {
            ensure!(d.is_float(), DTypeMismatch, "{what} must be floats, got {d}; insert a Cast");
        }
        if args.get(3).is_some() {
            let mask = args.dtype(3)?;
            ensure!(
                mask == DType::Bool || mask.is_float(),
                DTypeMismatch,
                "the mask must be bool or a float, got {mask}; insert a Cast"
            );
        }
        self.check(args.get(4).is_some(), args.get(5).is_some(), args.get(6).is_some())?;
        let shapes = (args.shape(0), args.shape(1), args.shape(2));
        let (Some(q), Some(k), Some(v)) = shapes else {
            let unranked = Fact::unranked;
            return Ok(vec![unranked(dtype), unranked(dtype), unranked(v_dtype), unranked(dtype)]);
        };
        let [batch, q_heads, q_seq, dim] = head_dims(q, self.q_num_heads, "q")?;
        let [_, kv_heads, kv_seq, k_dim] = head_dims(k, self.kv_num_heads, "k")?;
        let [.., v_dim] = head_dims(v, self.kv_num_heads, "v")?;
        if let (Some(a), Some(b)) = (dim.as_const(), k_dim.as_const()) {
            ensure!(a == b, ShapeMismatch, "head size of q is {a}, of k {b}");
        }
        if let (Some(a), Some(b)) = (q_heads.as_const(), kv_heads.as_const()) {
            check_groups(a, b)?;
        }
        let total = match args.get(4) {
            None => kv_seq,
            Some(_) => match args.shape(4) {
                Some([_, _, past, _]) => past + &kv_seq,
                Some(s) => bail!(ShapeMismatch, "past keys need rank 4, got shape {s:?}"),
                None => args.fresh("total"),
            },
        };
        let y = if q.len() == 3 {
            vec![batch.clone(), q_seq.clone(), &q_heads * &v_dim]
        } else {
            vec![batch.clone(), q_heads.clone(), q_seq.clone(), v_dim.clone()]
        };
        Ok(vec![
            Fact::tensor(dtype, y),
            Fact::tensor(dtype, [batch.clone(), kv_heads.clone(), total.clone(), k_dim]),
            Fact::tensor(v_dtype, [batch.clone(), kv_heads, total.clone(), v_dim]),
            Fact::tensor(dtype, [batch, q_heads, q_seq, total]),
        ])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let (past_k, past_v, lens) = (args.opt(4)?, args.opt(5)?, args.opt(6)?);
        self.check(past_k.is_some(), past_v.is_some(), lens.is_some())?;
        let dtype = args.tensor(0)?.dtype();
        let v_dtype = args.tensor(2)?.dtype();
        let flat = args.tensor(0)?.rank() == 3;
        let q = Heads::new(args.tensor(0)?, self.q_num_heads, "q")?;
        let mut k = Heads::new(args.tensor(1)?, self.kv_num_heads, "k")?;
        let mut v = Heads::new(args.tensor(2)?, self.kv_num_heads, "v")?;
        let mut past = 0;
        if let (Some(past_k), Some(past_v)) = (past_k, past_v) {
            k = Heads::new(past_k, None, "past keys")?.then(k)?;
            v = Heads::new(past_v, None, "past values")?.then(v)?;
            past = past_k.shape()[2];
        }
        check_heads(&q, &k, &v)?;
        let lens = lens.map(to_i64).transpose()?;
        if let Some(lens) = &lens {
            ensure!(
                lens.len() == q.batch,
                ShapeMismatch,
                "nonpad_kv_seqlen has {} entries for a batch of {}",
                lens.len(),
                q.batch
            );
        }
        let bias = Bias {
            causal: self.is_causal,
            left: self.left_window_size,
            right: self.right_window_size,
            past: past as i64,
            lens,
            queries: q.seq as i64,
            keys: k.seq,
            mask: args
                .opt(3)?
                .map(|m| Mask::new(m, [q.batch, q.heads, q.seq, k.seq]))
                .transpose()?,
        };
        let scale = self.scale.map_or(1.0 / (q.dim as f64).sqrt(), f64::from);
        let softcap = f64::from(self.softcap);
        let keep_scores = args.outputs > 3;
        let rows = num_elements(&[q.batch, q.heads, q.seq])?;
        let mut y = filled(num_elements(&[rows, v.dim])?, 0.0)?;
        let mut shown = filled(if keep_scores { num_elements(&[rows, k.seq])? } else { 0 }, 0.0)?;
        let (mut s, mut b) = (filled(k.seq, 0.0)?, filled(k.seq, 0.0)?);
        for r in 0..rows {
            let (at, i) = (r / q.seq, r % q.seq);
            if i == 0 {
                args.env.check()?;
            }
            let (batch, kv) = (at / q.heads, k.group_of(at, q.heads));
            let mut show = |mode: i64, s: &[f64]| {
                if keep_scores && mode == self.qk_matmul_output_mode {
                    shown[r * k.seq..][..k.seq].copy_from_slice(s);
                }
            };
            scores(q.row(at, i), &k, kv, scale, &mut s);
            show(0, &s);
            if softcap > 0.0 {
                s.iter_mut().for_each(|s| *s = (*s / softcap).tanh() * softcap);
            }
            show(1, &s);
            bias.row(batch, r, i, &mut b);
            s.iter_mut().zip(&b).for_each(|(s, b)| *s += b);
            show(2, &s);
            s.iter_mut().zip(&b).filter(|(_, b)| hidden(**b)).for_each(|(s, _)| {
                *s = f64::NEG_INFINITY;
            });
            softmax(&mut s);
            show(3, &s);
            weigh(&s, &v, kv, &mut y[r * v.dim..][..v.dim]);
        }
        let shape = [q.batch, q.heads, q.seq, v.dim];
        let mut y = cast_from_f64(dtype, &shape, &y)?;
        if flat {
            y = y.permute(&[0, 2, 1, 3])?.reshape(&[q.batch, q.seq, q.heads * v.dim])?;
        }
        let mut out = vec![y.into()];
        if args.outputs > 1 {
            out.push(k.tensor(dtype)?.into());
            out.push(v.tensor(v_dtype)?.into());
        }
        if keep_scores {
            let shape = [q.batch, q.heads, q.seq, k.seq];
            out.push(cast_from_f64(dtype, &shape, &shown)?.into());
        }
        Ok(out)
    }
}

impl Attention {
    /// Checks the attributes and which of past keys, past values and lengths are there.
    fn check(&self, past_k: bool, past_v: bool, lens: bool) -> Result<()> {
        ensure!(
            past_k == past_v,
            InvalidGraph,
            "past_key and past_value must be given together or not at all"
        );
        ensure!(
            !(past_k && lens),
            InvalidGraph,
            "nonpad_kv_seqlen describes an external cache and cannot be combined with past_key"
        );
        for (name, size) in [
            ("left_window_size", self.left_window_size),
            ("right_window_size", self.right_window_size),
        ] {
            ensure!(size >= -1, InvalidGraph, "{name} is {size}, expected −1 or more");
        }
        ensure!(
            (0..=3).contains(&self.qk_matmul_output_mode),
            InvalidGraph,
            "qk_matmul_output_mode is {}, expected 0 to 3",
            self.qk_matmul_output_mode
        );
        if let Some(d) = self.softmax_precision {
            ensure!(d.is_float(), InvalidGraph, "softmax_precision is {d}, expected a float");
        }
        Ok(())
    }
}

/// Batch, heads, sequence and head size of an operand of rank 3 or 4.
fn head_dims(shape: &[Dim], heads: Option<i64>, what: &str) -> Result<[Dim; 4]> {
    match (shape, heads) {
        ([b, h, s, d], _) => {
            if let (Some(h), Some(heads)) = (h.as_const(), heads) {
                ensure!(h == heads, ShapeMismatch, "{what} has {h} heads, the attribute {heads}");
            }
            Ok([b.clone(), h.clone(), s.clone(), d.clone()])
        }
        ([b, s, hidden], Some(heads)) if heads > 0 => {
            let heads = Dim::from(heads);
            Ok([b.clone(), heads.clone(), s.clone(), hidden.floor_div(&heads)])
        }
        ([_, _, _], _) => {
            bail!(InvalidGraph, "{what} of rank 3 needs a positive q_num_heads and kv_num_heads")
        }
        _ => bail!(ShapeMismatch, "{what} needs rank 3 or 4, got shape {shape:?}"),
    }
}

fn check_groups(q: i64, kv: i64) -> Result<()> {
    ensure!(
        if kv == 0 { q == 0 } else { q % kv == 0 },
        ShapeMismatch,
        "{q} query heads are not a multiple of {kv} key heads"
    );
    Ok(())
}

/// Fails unless queries, keys and values belong together.
pub(super) fn check_heads(q: &Heads, k: &Heads, v: &Heads) -> Result<()> {
    ensure!(
        q.batch == k.batch && k.batch == v.batch && k.heads == v.heads && k.seq == v.seq,
        ShapeMismatch,
        "q, k and v disagree: batch {}, {}, {}; key heads {}, value heads {}; {} keys, {} values",
        q.batch,
        k.batch,
        v.batch,
        k.heads,
        v.heads,
        k.seq,
        v.seq
    );
    ensure!(q.dim == k.dim, ShapeMismatch, "head size of q is {}, of k {}", q.dim, k.dim);
    check_groups(q.heads as i64, k.heads as i64)
}

/// Queries, keys or values as doubles, `[batch, heads, seq, dim]`, row-major.
pub(super) struct Heads {
    pub(super) batch: usize,
    pub(super) heads: usize,
    pub(super) seq: usize,
    pub(super) dim: usize,
    data: Vec<f64>,
}

impl Heads {
    /// Reads an operand of rank 4, or of rank 3 with a number of heads.
    pub(super) fn new(t: &Tensor, heads: Option<i64>, what: &str) -> Result<Self> {
        let dims: Vec<Dim> = t.shape().iter().map(|&d| Dim::from(d)).collect();
        head_dims(&dims, heads, what)?;
        let view = match *t.shape() {
            [batch, seq, hidden] => {
                let heads = heads.unwrap_or(1).max(1) as usize;
                ensure!(
                    hidden.is_multiple_of(heads) && hidden > 0,
                    ShapeMismatch,
                    "{what}: hidden size {hidden} is not a multiple of {heads} heads"
                );
                t.reshape(&[batch, seq, heads, hidden / heads])?.permute(&[0, 2, 1, 3])?
            }
            _ => t.clone(),
        };
        let &[batch, heads, seq, dim] = view.shape() else {
            bail!(Internal, "the rank was checked")
        };
        Ok(Heads { batch, heads, seq, dim, data: to_f64(&view)? })
    }

    /// These rows, then those of `next`, for each head.
    fn then(self, next: Heads) -> Result<Heads> {
        ensure!(
            self.batch == next.batch && self.heads == next.heads && self.dim == next.dim,
            ShapeMismatch,
            "past [{}, {}, {}, {}] and present [{}, {}, {}, {}] differ in more than their length",
            self.batch,
            self.heads,
            self.seq,
            self.dim,
            next.batch,
            next.heads,
            next.seq,
            next.dim
        );
        let mut data = Vec::with_capacity(self.data.len() + next.data.len());
        for at in 0..self.batch * self.heads {
            for part in [&self, &next] {
                let n = part.seq * part.dim;
                data.extend_from_slice(&part.data[at * n..][..n]);
            }
        }
        Ok(Heads { seq: self.seq + next.seq, data, ..self })
    }

    fn tensor(&self, dtype: DType) -> Result<Tensor> {
        cast_from_f64(dtype, &[self.batch, self.heads, self.seq, self.dim], &self.data)
    }

    /// The vector of row `i` of head `at`, counted over the batch.
    pub(super) fn row(&self, at: usize, i: usize) -> &[f64] {
        &self.data[(at * self.seq + i) * self.dim..][..self.dim]
    }

    /// The head of these keys or values that query head `at` of `q_heads` reads, both counted
    /// over the batch.
    pub(super) fn group_of(&self, at: usize, q_heads: usize) -> usize {
        let group = q_heads / self.heads.max(1);
        at / q_heads * self.heads + at % q_heads / group.max(1)
    }
}

/// `out[j] = scale · q·k[j]` over the keys of head `at`.
pub(super) fn scores(q: &[f64], k: &Heads, at: usize, scale: f64, out: &mut [f64]) {
    for (j, o) in out.iter_mut().enumerate() {
        *o = scale * q.iter().zip(k.row(at, j)).map(|(a, b)| a * b).sum::<f64>();
    }
}

/// `out += Σ_j p[j] · v[j]`; values of probability 0 are not read.
pub(super) fn weigh(p: &[f64], v: &Heads, at: usize, out: &mut [f64]) {
    for (j, &p) in p.iter().enumerate().filter(|(_, p)| **p != 0.0) {
        out.iter_mut().zip(v.row(at, j)).for_each(|(o, v)| *o += p * v);
    }
}

/// Softmax in place; a row that is −∞ throughout becomes 0.
pub(super) fn softmax(s: &mut [f64]) {
    let max = s.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if max == f64::NEG_INFINITY && !s.iter().any(|s| s.is_nan()) {
        return s.fill(0.0);
    }
    s.iter_mut().for_each(|s| *s = (*s - max).exp());
    let sum: f64 = s.iter().sum();
    s.iter_mut().for_each(|s| *s /= sum);
}

fn hidden(bias: f64) -> bool {
    bias == f64::NEG_INFINITY
}

/// What is added to the score of each (query, key) pair.
struct Bias {
    causal: bool,
    left: i64,
    right: i64,
    past: i64,
    lens: Option<Vec<i64>>,
    queries: i64,
    keys: usize,
    mask: Option<Mask>,
}

impl Bias {
    /// The biases of query `i` of a batch entry; `row` counts queries over batch and heads.
    fn row(&self, batch: usize, row: usize, i: usize, out: &mut [f64]) {
        let len = self.lens.as_ref().map(|l| l[batch]);
        let offset = len.map_or(self.past, |l| l.saturating_sub(self.queries));
        let p = offset.saturating_add(i as i64);
        let first = if self.left < 0 { i64::MIN } else { p.saturating_sub(self.left) };
        let mut last = if self.right < 0 { i64::MAX } else { p.saturating_add(self.right) };
        if self.causal {
            last = last.min(p);
        }
        if let Some(len) = len {
            last = last.min(len.saturating_sub(1));
        }
        for (j, o) in out.iter_mut().enumerate().take(self.keys) {
            let j = j as i64;
            *o = if first <= j && j <= last { 0.0 } else { f64::NEG_INFINITY };
        }
        if let Some(mask) = &self.mask {
            let (mask, reach) = mask.row(row);
            out.iter_mut().zip(mask).for_each(|(o, m)| *o += m);
            out[reach..].fill(f64::NEG_INFINITY);
        }
    }
}

/// An additive mask, `[rows, reach]`, where `reach` keys have a bias and later ones are hidden.
struct Mask {
    reach: usize,
    data: Vec<f64>,
}

impl Mask {
    fn new(mask: &Tensor, [batch, heads, queries, keys]: [usize; 4]) -> Result<Self> {
        let reach = mask.shape().last().copied().unwrap_or(keys);
        ensure!(
            reach <= keys,
            ShapeMismatch,
            "a mask of shape {:?} is longer than the {keys} keys",
            mask.shape()
        );
        let spread = mask.broadcast_to(&[batch, heads, queries, reach])?;
        let mut data = to_f64(&spread)?;
        if mask.dtype() == DType::Bool {
            data.iter_mut().for_each(|m| *m = if *m == 0.0 { f64::NEG_INFINITY } else { 0.0 });
        }
        Ok(Mask { reach, data })
    }

    fn row(&self, row: usize) -> (&[f64], usize) {
        (&self.data[row * self.reach..][..self.reach], self.reach)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NoSubgraphs;

    fn ones(shape: &[usize]) -> Tensor {
        Tensor::from_vec(shape, vec![1.0f32; shape.iter().product()]).unwrap()
    }

    /// The probabilities of attention with equal scores.
    fn probabilities(
        op: Attention,
        queries: usize,
        keys: usize,
        extra: &[(usize, Tensor)],
    ) -> Vec<f32> {
        let op = Attention { qk_matmul_output_mode: 3, ..op };
        let (q, k) = (ones(&[1, 1, queries, 1]), ones(&[1, 1, keys, 1]));
        let mut inputs: Vec<Option<Value>> =
            vec![Some(q.into()), Some(k.clone().into()), Some(k.into())];
        inputs.resize(7, None);
        for (i, t) in extra {
            inputs[*i] = Some(t.clone().into());
        }
        let args = EvalArgs { inputs: &inputs, outputs: 4, env: &NoSubgraphs };
        op.eval(&args).unwrap()[3].tensor().unwrap().to_vec().unwrap()
    }

    #[test]
    fn what_a_query_sees() {
        let causal = Attention { is_causal: true, ..Default::default() };
        assert_eq!(probabilities(causal.clone(), 2, 3, &[]), [1.0, 0.0, 0.0, 0.5, 0.5, 0.0]);
        let len = |n: i64| (6, Tensor::from_slice(&[1], &[n]).unwrap());
        assert_eq!(probabilities(causal.clone(), 2, 3, &[len(3)])[..3], [0.5, 0.5, 0.0]);
        // Fewer keys than queries: the first query sees nothing and is zero, not NaN.
        assert_eq!(probabilities(causal.clone(), 2, 3, &[len(1)]), [0.0, 0.0, 0.0, 1.0, 0.0, 0.0]);
        let past = [(4, ones(&[1, 1, 2, 1])), (5, ones(&[1, 1, 2, 1]))];
        assert_eq!(probabilities(causal, 1, 2, &past)[3], 0.0);
        let window = Attention { left_window_size: 0, right_window_size: 1, ..Default::default() };
        assert_eq!(probabilities(window, 2, 3, &[]), [0.5, 0.5, 0.0, 0.0, 0.5, 0.5]);
        let short = (3, Tensor::from_slice(&[2], &[true, false]).unwrap());
        assert_eq!(probabilities(Attention::default(), 1, 3, &[short]), [1.0, 0.0, 0.0]);
    }

    #[test]
    fn hidden_values_may_hold_anything() {
        let v = Tensor::from_slice(&[1, 1, 2, 1], &[3.0f32, f32::NAN]).unwrap();
        let mask = Tensor::from_slice(&[2], &[true, false]).unwrap();
        let inputs = [ones(&[1, 1, 1, 1]), ones(&[1, 1, 2, 1]), v, mask].map(|t| Some(t.into()));
        let args = EvalArgs { inputs: &inputs, outputs: 1, env: &NoSubgraphs };
        let y = Attention::default().eval(&args).unwrap();
        assert_eq!(y[0].tensor().unwrap().item::<f32>().unwrap(), 3.0);
    }

    #[test]
    fn disagreements_are_errors() {
        let run = |op: Attention, q: &[usize], k: &[usize]| {
            let inputs = [ones(q), ones(k), ones(k)].map(|t| Some(t.into()));
            let args = EvalArgs { inputs: &inputs, outputs: 1, env: &NoSubgraphs };
            op.eval(&args).unwrap_err().message().to_owned()
        };
        let op = Attention::default();
        assert!(run(op.clone(), &[1, 3, 1, 2], &[1, 2, 1, 2]).contains("3 query heads"));
        assert!(run(op.clone(), &[1, 1, 1, 2], &[1, 1, 1, 3]).contains("head size of q is 2"));
        assert!(run(op, &[1, 1, 2], &[1, 1, 2]).contains("needs a positive q_num_heads"));
    }
}
