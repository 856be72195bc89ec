//! Attention over a cache of keys and values that grows.

use super::attention::Attention;
use super::concat::concat;
use super::util::to_i64;
use crate::{EvalArgs, Fact, InferArgs, Operator, Value, op};
use deepseek_tensor::{DType, Result, Tensor, bail, ensure};

op! {
    /// Causal [`Attention`] whose keys and values are put after those of earlier runs, of which each
    /// sequence of the batch has a number of its own.
    ///
    /// Inputs:
    /// 0. `q` `[batch, seq, q_num_heads·dim]`;
    /// 1. `k` `[batch, seq, kv_num_heads·dim]`;
    /// 2. `v` `[batch, seq, kv_num_heads·v_dim]`;
    /// 3. past keys and 4. past values `[batch, kv_num_heads, past, …]`;
    /// 5. `i64[batch]`: how many keys each sequence has, the new ones among them. A sequence of
    ///    `n` keys reads the first `n − seq` of the past; of fewer than `seq`, none, and what its
    ///    last rows give says nothing.
    ///
    /// Outputs: 0. `[batch, seq, q_num_heads·v_dim]`; 1. and 2. all keys and values, `[batch,
    /// kv_num_heads, past + seq, …]`: of each sequence those of the past that it reads, then the new
    /// ones, then zeros. Attributes mean what they mean for [`Attention`]. (ONNX Runtime's
    /// GroupQueryAttention, with a cache that is not shared between input and output.)
    CachedAttention {
        kv_num_heads: i64 = 1,
        left_window_size: i64 = -1,
        q_num_heads: i64 = 1,
        scale: Option<f32> = None,
        softcap: f32 = 0.0,
    }
}

impl CachedAttention {
    /// The operator that runs on a sequence alone.
    fn alone(&self) -> Attention {
        Attention {
            is_causal: true,
            kv_num_heads: Some(self.kv_num_heads),
            left_window_size: self.left_window_size,
            q_num_heads: Some(self.q_num_heads),
            scale: self.scale,
            softcap: self.softcap,
            ..Attention::default()
        }
    }
}

/// How many rows of the past each sequence reads, from the number of keys that it has.
///
/// # Errors
/// `ShapeMismatch` for another number of sequences; `InvalidArgument` naming a sequence that has
/// more keys than there are.
pub fn past_rows(lens: &Tensor, batch: usize, past: usize, seq: usize) -> Result<Vec<usize>> {
    let lens = to_i64(lens)?;
    ensure!(
        lens.len() == batch,
        ShapeMismatch,
        "lengths are of {} sequences, the batch has {batch}",
        lens.len()
    );
    let rows = |(i, &len): (usize, &i64)| {
        let most = past + seq;
        match usize::try_from(len) {
            Ok(len) if len <= most => Ok(len.saturating_sub(seq)),
            _ => bail!(
                InvalidArgument,
                "sequence {i} has {len} keys, expected 0 to {most}: {past} in the cache and {seq} new"
            ),
        }
    };
    lens.iter().enumerate().map(rows).collect()
}

impl Operator for CachedAttention {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(6, 6)?;
        let lens = args.dtype(5)?;
        ensure!(lens == DType::I64, DTypeMismatch, "lengths must be i64, got {lens}");
        let given = [Some(args.fact(0)?), Some(args.fact(1)?), Some(args.fact(2)?), None];
        let past = [Some(args.fact(3)?), Some(args.fact(4)?)];
        let inputs: Vec<_> = given.into_iter().chain(past).collect();
        let mut facts = self.alone().infer(&InferArgs { inputs: &inputs, outputs: 3, ..*args })?;
        facts.truncate(3);
        Ok(facts)
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let inputs = (0..6).map(|i| args.tensor(i)).collect::<Result<Vec<_>>>()?;
        let (&[batch, seq, _], &[_, _, past, _]) = (inputs[0].shape(), inputs[3].shape()) else {
            bail!(ShapeMismatch, "q needs rank 3, the cache rank 4");
        };
        let rows = past_rows(inputs[5], batch, past, seq)?;
        let mut parts: [Vec<Tensor>; 3] = Default::default();
        for (b, &rows) in rows.iter().enumerate() {
            let one = |t: &Tensor| t.slice_axis(0, b, 1, 1);
            let kept = |t: &Tensor| one(t)?.slice_axis(2, 0, 1, rows);
            let new = inputs[..3].iter().map(|t| Ok(Some(one(t)?.into())));
            let old = inputs[3..5].iter().map(|t| Ok(Some(kept(t)?.into())));
            let own = new.chain([Ok(None)]).chain(old).collect::<Result<Vec<_>>>()?;
            let args = EvalArgs { inputs: &own, outputs: 3, env: args.env };
            for (i, (value, part)) in self.alone().eval(&args)?.iter().zip(&mut parts).enumerate() {
                let mut t = value.tensor()?.clone();
                if i > 0 {
                    let &[_, heads, _, dim] = t.shape() else {
                        bail!(Internal, "a cache has rank 4")
                    };
                    let rest = Tensor::zeros(t.dtype(), &[1, heads, past - rows, dim])?;
                    t = concat(&[&t, &rest], 2)?;
                }
                part.push(t);
            }
        }
        let joined = parts.iter().zip([0, 1, 2]).map(|(part, i)| {
            let all: Vec<&Tensor> = part.iter().collect();
            match all.is_empty() {
                // No sequences: nothing of any length.
                true => inputs[i].slice_axis(0, 0, 1, 0),
                false => concat(&all, 0),
            }
        });
        joined.take(args.outputs).map(|t| t.map(Value::from)).collect()
    }
}
