//! Repeating elements.

use super::util::{
    Sink, Source, around, broadcast_dims, list_i64, through_views, usize_dims, with_contents,
};
use crate::{Dim, EvalArgs, Fact, InferArgs, Operator, Value, op};
use deepseek_tensor::{MAX_RANK, Result, Tensor, broadcast_shapes, ensure, num_elements};

/// Most elements that a known shape tensor may have.
const MAX_CONTENTS: usize = 4096;

op! {
    /// The input broadcast together with the shape that input 1 (`i64[rank]`) lists.
    /// (ONNX Expand-13.)
    Expand {}
}

impl Operator for Expand {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(2, 2)?;
        let dtype = args.dtype(0)?;
        let Some(s) = args.shape(0) else { return Ok(vec![Fact::unranked(dtype)]) };
        let Some(target) = args.dims(1) else {
            let n = args.shape(1).and_then(|t| usize::try_from(t.first()?.as_const()?).ok());
            let rank = n.map(|n| n.max(s.len())).filter(|&r| r <= MAX_RANK);
            // An extent other than 1 stays what it is.
            let extent = |r: usize, i: usize| {
                let old = (i + s.len()).checked_sub(r).map(|i| &s[i]);
                match old.and_then(Dim::as_const) {
                    Some(n) if n != 1 => Dim::from(n),
                    _ => args.fresh(&format!("d{i}")),
                }
            };
            let shape = rank.map(|r| (0..r).map(|i| extent(r, i)).collect());
            return Ok(vec![Fact::maybe_ranked(dtype, shape)]);
        };
        ensure!(
            target.len() <= MAX_RANK,
            Unsupported,
            "rank {} exceeds the limit of {MAX_RANK}",
            target.len()
        );
        if let Some(n) = target.iter().filter_map(Dim::as_const).find(|&n| n < 0) {
            deepseek_tensor::bail!(InvalidArgument, "extent {n} in the target shape is negative");
        }
        let out = broadcast_dims(s, &target)?;
        let count = Dim::product(&out).as_const().and_then(|n| usize::try_from(n).ok());
        let contents = match (args.dims(0), count) {
            (Some(c), Some(n)) if c.len() == n => Some(c),
            (Some(c), Some(n)) if c.len() == 1 && n <= MAX_CONTENTS => Some(vec![c[0].clone(); n]),
            _ => None,
        };
        Ok(vec![with_contents(Fact::tensor(dtype, out), contents)])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let x = args.tensor(0)?;
        let target = usize_dims(&list_i64(args.tensor(1)?, "the target shape")?)?;
        let shape = broadcast_shapes(x.shape(), &target)?;
        num_elements(&shape)?;
        Ok(vec![through_views(x, |x| x.broadcast_to(&shape))?.into()])
    }
}

op! {
    /// The input repeated `repeats[i]` times along axis `i`; input 1 is `i64[rank]`.
    /// (ONNX Tile-13.)
    Tile {}
}

impl Operator for Tile {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(2, 2)?;
        let dtype = args.dtype(0)?;
        let Some(s) = args.shape(0) else { return Ok(vec![Fact::unranked(dtype)]) };
        let Some(repeats) = args.dims(1) else {
            let shape: Vec<_> = (0..s.len()).map(|i| args.fresh(&format!("d{i}"))).collect();
            return Ok(vec![Fact::tensor(dtype, shape)]);
        };
        expect_one_per_axis(repeats.len(), s.len())?;
        let out: Vec<Dim> = s.iter().zip(&repeats).map(|(d, r)| d * r).collect();
        let contents = match (args.dims(0), repeats.first().and_then(Dim::as_const)) {
            (Some(c), Some(r)) if c.len().saturating_mul(r.max(0) as usize) <= MAX_CONTENTS => {
                Some(std::iter::repeat_n(c, r.max(0) as usize).flatten().collect())
            }
            _ => None,
        };
        Ok(vec![with_contents(Fact::tensor(dtype, out), contents)])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let x = args.tensor(0)?;
        let repeats = usize_dims(&list_i64(args.tensor(1)?, "repeats")?)?;
        expect_one_per_axis(repeats.len(), x.rank())?;
        let mut shape: Vec<usize> = x.shape().to_vec();
        for (d, &r) in shape.iter_mut().zip(&repeats) {
            *d = d.checked_mul(r).ok_or_else(|| {
                deepseek_tensor::err!(ShapeMismatch, "{:?} times {repeats:?} overflows", x.shape())
            })?;
        }
        if num_elements(&shape)? == 0 {
            return Ok(vec![Tensor::zeros(x.dtype(), &shape)?.into()]);
        }
        let mut y = x.clone();
        for (axis, &r) in repeats.iter().enumerate().filter(|(_, r)| **r > 1) {
            let mut shape = y.shape().to_vec();
            shape[axis] *= r;
            let mut sink = Sink::zeros(y.dtype(), &shape)?;
            let source = Source::of(&y)?;
            let (outer, extent, inner) = around(y.shape(), axis);
            let run = extent * inner;
            for o in 0..outer {
                for i in 0..r {
                    sink.copy((o * r + i) * run, &source, o * run, run)?;
                }
            }
            y = sink.finish()?;
        }
        Ok(vec![y.into()])
    }
}

fn expect_one_per_axis(repeats: usize, rank: usize) -> Result<()> {
    ensure!(repeats == rank, ShapeMismatch, "{repeats} repeats for {rank} axes");
    Ok(())
}
