//! Attention over packed sequences.

use super::Attention;
use super::segment::{batch_of, segments};
use crate::{Dim, EvalArgs, Fact, InferArgs, NoSubgraphs, Operator, Value, op};
use deepseek_tensor::{DType, Result, Tensor, bail, ensure};

op! {
    /// [`Attention`] on each of several sequences alone, which lie end to end: no query sees a key
    /// of another sequence, and there is no padding.
    ///
    /// Inputs:
    /// 0. `q` `[tokens, q_num_heads·dim]`;
    /// 1. `k` `[tokens, kv_num_heads·dim]`;
    /// 2. `v` `[tokens, kv_num_heads·v_dim]`;
    /// 3. `offsets` `i64[batch + 1]`: sequence `i` is the rows `offsets[i]..offsets[i + 1]`;
    /// 4. optional mask by position, `bool` (true attends) or a float that is added, `[heads,
    ///    longest, longest]` with `heads` 1 or `q_num_heads`: entry `[h, i, j]` is for query `i`
    ///    and key `j` of every sequence, none of which is longer than `longest`.
    ///
    /// Output: `[tokens, q_num_heads·v_dim]`. Attributes mean what they mean for [`Attention`];
    /// positions count from the start of a sequence.
    PackedAttention {
        is_causal: bool = false,
        kv_num_heads: i64 = 1,
        left_window_size: i64 = -1,
        q_num_heads: i64 = 1,
        right_window_size: i64 = -1,
        scale: Option<f32> = None,
        softcap: f32 = 0.0,
    }
}

impl PackedAttention {
    /// The operator that runs on a sequence alone, operands in 3-D form.
    pub fn alone(&self) -> Attention {
        Attention {
            is_causal: self.is_causal,
            kv_num_heads: Some(self.kv_num_heads),
            left_window_size: self.left_window_size,
            q_num_heads: Some(self.q_num_heads),
            right_window_size: self.right_window_size,
            scale: self.scale,
            softcap: self.softcap,
            ..Attention::default()
        }
    }
}

impl Operator for PackedAttention {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(4, 5)?;
        batch_of(args, 3)?;
        let one = Dim::from(1i64);
        let alone = |i: usize| -> Result<Fact> {
            let dtype = args.dtype(i)?;
            Ok(match args.shape(i) {
                Some([tokens, width]) => {
                    Fact::tensor(dtype, [one.clone(), tokens.clone(), width.clone()])
                }
                Some(s) => {
                    bail!(ShapeMismatch, "input {i} needs shape [tokens, heads·dim], got {s:?}")
                }
                None => Fact::unranked(dtype),
            })
        };
        let operands = [alone(0)?, alone(1)?, alone(2)?];
        let inputs = [Some(&operands[0]), Some(&operands[1]), Some(&operands[2])];
        if args.get(4).is_some() {
            let mask = args.dtype(4)?;
            ensure!(
                mask == DType::Bool || mask.is_float(),
                DTypeMismatch,
                "the mask must be bool or a float, got {mask}; insert a Cast"
            );
            if let Some(s) = args.shape(4) {
                let heads = s.first().and_then(Dim::as_const);
                ensure!(
                    s.len() == 3 && heads.is_none_or(|h| h == 1 || h == self.q_num_heads),
                    ShapeMismatch,
                    "the mask needs shape [1 or {}, longest, longest], got {s:?}",
                    self.q_num_heads
                );
            }
        }
        let facts =
            self.alone().infer(&InferArgs { node: args.node, inputs: &inputs, outputs: 1 })?;
        let dtype = args.dtype(0)?;
        let Some([_, tokens, width]) = facts.first().and_then(Fact::shape) else {
            return Ok(vec![Fact::unranked(dtype)]);
        };
        Ok(vec![Fact::tensor(dtype, [tokens.clone(), width.clone()])])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let operands = [args.tensor(0)?, args.tensor(1)?, args.tensor(2)?];
        for t in operands {
            ensure!(
                t.rank() == 2 && t.shape()[0] == operands[0].shape()[0],
                ShapeMismatch,
                "operands {:?}, {:?} and {:?} are not matrices of one number of rows",
                operands[0].shape(),
                operands[1].shape(),
                operands[2].shape()
            );
        }
        let (op, mask) = (self.alone(), args.opt(4)?);
        let mut parts = Vec::new();
        for range in segments(args.tensor(3)?, operands[0].shape()[0])? {
            args.env.check()?;
            let mut inputs = Vec::with_capacity(4);
            for t in operands {
                let part = t.slice_axis(0, range.start, 1, range.len())?;
                inputs.push(Some(part.reshape(&[1, range.len(), t.shape()[1]])?.into()));
            }
            if let Some(mask) = mask {
                inputs.push(Some(position_mask(mask, range.len())?.into()));
            }
            let alone = EvalArgs { inputs: &inputs, outputs: 1, env: &NoSubgraphs };
            let out = op.eval(&alone)?;
            let y = out[0].tensor()?;
            parts.push(y.reshape(&[range.len(), y.shape()[2]])?);
        }
        if parts.is_empty() {
            // No sequence, no rows: the shape rule knows the width.
            let width = operands[2].shape()[1] / self.kv_num_heads.max(1) as usize
                * self.q_num_heads.max(1) as usize;
            return Ok(vec![Tensor::zeros(operands[0].dtype(), &[0, width])?.into()]);
        }
        Ok(vec![super::concat::concat(&parts.iter().collect::<Vec<_>>(), 0)?.into()])
    }
}

/// The mask `[heads, longest, longest]` for a sequence of `len` rows: `[heads, len, len]`.
fn position_mask(mask: &Tensor, len: usize) -> Result<Tensor> {
    ensure!(
        mask.rank() == 3 && mask.shape()[1] >= len && mask.shape()[2] >= len,
        ShapeMismatch,
        "a mask of shape {:?} does not cover a sequence of {len} rows",
        mask.shape()
    );
    mask.slice_axis(1, 0, 1, len)?.slice_axis(2, 0, 1, len)
}

#[cfg(test)]
mod tests {
    use super::super::segment::apply;
    use super::*;

    fn numbers(shape: &[usize], seed: u32) -> Tensor {
        let n: usize = shape.iter().product();
        let at = |i: usize| ((i as u32 * 37 + seed * 11) % 17) as f32 / 8.0 - 1.0;
        Tensor::from_vec(shape, (0..n).map(at).collect()).unwrap()
    }

    /// Every sequence gives what [`Attention`] gives for it alone.
    #[test]
    fn sequences_do_not_see_each_other() {
        let offsets = [0i64, 3, 3, 4, 9];
        let (q, k, v) = (numbers(&[9, 8], 1), numbers(&[9, 4], 2), numbers(&[9, 6], 3));
        let bias = numbers(&[4, 6, 6], 4);
        let causal = PackedAttention {
            q_num_heads: 4,
            kv_num_heads: 2,
            is_causal: true,
            left_window_size: 1,
            ..Default::default()
        };
        let plain = PackedAttention { q_num_heads: 4, kv_num_heads: 2, ..Default::default() };
        for (op, bias) in [(causal, None), (plain, Some(bias))] {
            let at = Tensor::from_slice(&[5], &offsets).unwrap();
            let mut inputs = vec![q.clone(), k.clone(), v.clone(), at];
            inputs.extend(bias.clone());
            let got = apply(&op, &inputs).unwrap();
            assert_eq!(got.shape(), [9, 12]);
            for w in offsets.windows(2).filter(|w| w[0] < w[1]) {
                let (from, len) = (w[0] as usize, (w[1] - w[0]) as usize);
                let mut alone: Vec<Tensor> = [&q, &k, &v]
                    .map(|t| {
                        let part = t.slice_axis(0, from, 1, len).unwrap();
                        part.reshape(&[1, len, t.shape()[1]]).unwrap()
                    })
                    .to_vec();
                if let Some(bias) = &bias {
                    let part = bias.slice_axis(1, 0, 1, len).unwrap();
                    alone.push(part.slice_axis(2, 0, 1, len).unwrap());
                }
                let want = apply(&op.alone(), &alone).unwrap();
                let got = got.slice_axis(0, from, 1, len).unwrap();
                assert_eq!(got.to_vec::<f32>().unwrap(), want.to_vec::<f32>().unwrap());
            }
        }
    }

    #[test]
    fn a_mask_that_is_too_small_is_refused() {
        let op = PackedAttention::default();
        let x = numbers(&[3, 2], 1);
        let offsets = Tensor::from_slice(&[2], &[0i64, 3]).unwrap();
        let mask = numbers(&[1, 2, 2], 2);
        let e = apply(&op, &[x.clone(), x.clone(), x, offsets, mask]).unwrap_err().to_string();
        assert!(e.contains("3 rows"), "{e}");
    }
}
