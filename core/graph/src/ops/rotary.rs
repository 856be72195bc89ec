//! Rotary position embedding.

use super::util::{cast_from_f64, to_f64, to_i64};
use crate::{EvalArgs, Fact, InferArgs, Operator, Value, op};
use deepseek_tensor::{DType, Result, Tensor, bail, ensure};

op! {
    /// Rotates pairs `(p, q)` of each head to `(p·cos − q·sin, p·sin + q·cos)`. The first
    /// `rotary_embedding_dim` elements of a head take part (0: all of them); `p` and `q` are the
    /// two halves of these, or, with `interleaved`, neighbours.
    ///
    /// Inputs: `x` `[batch, heads, seq, dim]`, or `[batch, seq, heads·dim]` with `num_heads`;
    /// `cos` and `sin`, `[positions, rotary/2]` with the position of each token in input 3
    /// (`i64[batch, seq]`), or `[batch, seq, rotary/2]` without it. The output has the type of
    /// `x`. (ONNX RotaryEmbedding-23; Su et al., "RoFormer", 2021.)
    RotaryEmbedding {
        interleaved: bool = false,
        num_heads: i64 = 0,
        rotary_embedding_dim: i64 = 0,
    }
}

impl Operator for RotaryEmbedding {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(3, 4)?;
        let dtype = args.expect_same_dtype(0, 1)?;
        args.expect_same_dtype(0, 2)?;
        ensure!(dtype.is_float(), DTypeMismatch, "expected floats, got {dtype}; insert a Cast");
        if args.get(3).is_some() {
            let ids = args.dtype(3)?;
            ensure!(ids == DType::I64, DTypeMismatch, "positions must be i64, got {ids}");
        }
        if let Some(rank) = args.fact(0)?.rank() {
            self.check_rank(rank)?;
        }
        Ok(vec![Fact::maybe_ranked(dtype, args.shape(0).map(<[_]>::to_vec))])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let x = args.tensor(0)?;
        self.check_rank(x.rank())?;
        let flat = x.rank() == 3;
        let view = if flat {
            let &[batch, seq, hidden] = x.shape() else { bail!(Internal, "the rank was checked") };
            let heads = self.num_heads as usize;
            ensure!(
                hidden.is_multiple_of(heads) && hidden > 0,
                ShapeMismatch,
                "hidden size {hidden} is not a multiple of num_heads = {heads}"
            );
            x.reshape(&[batch, seq, heads, hidden / heads])?
        } else {
            x.permute(&[0, 2, 1, 3])?
        };
        let &[batch, seq, heads, dim] = view.shape() else {
            bail!(Internal, "a head view has four axes")
        };
        let rotary = match self.rotary_embedding_dim {
            0 => dim,
            r => usize::try_from(r).unwrap_or(usize::MAX),
        };
        ensure!(
            rotary <= dim && rotary.is_multiple_of(2),
            ShapeMismatch,
            "rotary_embedding_dim {rotary} must be even and at most the head size {dim}"
        );
        let half = rotary / 2;
        let positions = args.opt(3)?;
        let angles =
            |i: usize| -> Result<Vec<f64>> { rows(args.tensor(i)?, positions, [batch, seq, half]) };
        let (cos, sin) = (angles(1)?, angles(2)?);
        let mut data = to_f64(&view)?;
        if dim > 0 {
            for (r, head) in data.chunks_exact_mut(dim).enumerate() {
                let at = r / heads * half;
                for i in 0..half {
                    let (p, q) = if self.interleaved { (2 * i, 2 * i + 1) } else { (i, i + half) };
                    let (c, s) = (cos[at + i], sin[at + i]);
                    (head[p], head[q]) = (head[p] * c - head[q] * s, head[p] * s + head[q] * c);
                }
            }
        }
        let y = cast_from_f64(x.dtype(), view.shape(), &data)?;
        let y = if flat { y.reshape(x.shape())? } else { y.permute(&[0, 2, 1, 3])? };
        Ok(vec![y.to_contiguous()?.into()])
    }
}

impl RotaryEmbedding {
    fn check_rank(&self, rank: usize) -> Result<()> {
        ensure!(
            matches!(rank, 3 | 4),
            ShapeMismatch,
            "expected [batch, heads, seq, dim] or [batch, seq, hidden], got rank {rank}"
        );
        ensure!(
            rank == 4 || self.num_heads > 0,
            InvalidGraph,
            "an input of rank 3 needs num_heads, got {}",
            self.num_heads
        );
        Ok(())
    }
}

/// The cosines or sines of every token, `[batch, seq, half]`.
fn rows(cache: &Tensor, positions: Option<&Tensor>, shape: [usize; 3]) -> Result<Vec<f64>> {
    let [batch, seq, half] = shape;
    let Some(positions) = positions else {
        let cache = cache.broadcast_to(&shape);
        return to_f64(&cache.map_err(|e| e.context("cos and sin without position_ids"))?);
    };
    let &[count, width] = cache.shape() else {
        bail!(
            ShapeMismatch,
            "with position_ids, cos and sin have the shape [positions, {half}], got {:?}",
            cache.shape()
        )
    };
    ensure!(
        width == half,
        ShapeMismatch,
        "cos and sin have {width} columns, half of the rotated part is {half}"
    );
    let table = to_f64(cache)?;
    let mut out = Vec::with_capacity(batch * seq * half);
    for id in to_i64(&positions.broadcast_to(&[batch, seq])?)? {
        let row = usize::try_from(id).ok().filter(|&r| r < count);
        let Some(row) = row else {
            bail!(InvalidArgument, "position {id} is outside the {count} rows of cos and sin");
        };
        out.extend_from_slice(&table[row * half..][..half]);
    }
    Ok(out)
}
