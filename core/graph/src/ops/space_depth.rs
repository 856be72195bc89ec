//! Channels to space and back.

use super::util::through_views;
use crate::{Dim, EvalArgs, Fact, InferArgs, Operator, Value, attr_enum, op};
use deepseek_tensor::{Result, Tensor, ensure, err};

attr_enum! {
    /// How a channel index splits into a place in the block and a depth.
    ChannelOrder {
        /// Block place outermost.
        DepthColumnRow = "DCR",
        /// Block place innermost.
        ColumnRowDepth = "CRD"
    }
}

op! {
    /// Moves blocks of channels into space: `[n, c, h, w]` becomes
    /// `[n, c/b², h·b, w·b]`. (ONNX DepthToSpace-28.)
    DepthToSpace {
        /// Extent `b` of a block.
        blocksize: i64 = 1,
        /// Whether the block is the outer (DCR) or the inner (CRD) part of a channel index.
        mode: ChannelOrder = ChannelOrder::DepthColumnRow
    }
}

op! {
    /// Moves blocks of space into channels: `[n, c, h, w]` becomes
    /// `[n, c·b², h/b, w/b]`; the inverse of [`DepthToSpace`]. (ONNX SpaceToDepth-28.)
    SpaceToDepth {
        /// Extent `b` of a block.
        blocksize: i64 = 1,
        /// Whether the block is the outer (DCR) or the inner (CRD) part of a channel index.
        mode: ChannelOrder = ChannelOrder::DepthColumnRow
    }
}

/// The block extent and its square.
fn block(blocksize: i64) -> Result<(usize, usize)> {
    let b = usize::try_from(blocksize).ok().filter(|&b| (1..1 << 16).contains(&b));
    let b =
        b.ok_or_else(|| err!(InvalidArgument, "blocksize {blocksize} is outside 1 to 65535"))?;
    Ok((b, b * b))
}

fn four<T: Clone>(shape: &[T]) -> Result<[T; 4]> {
    <[T; 4]>::try_from(shape.to_vec()).map_err(|s| {
        err!(ShapeMismatch, "expected axes [batch, channel, height, width], got rank {}", s.len())
    })
}

/// Infers the result of one of the two from its rule for extents.
fn infer_block(
    args: &InferArgs,
    rule: impl Fn([Dim; 4]) -> [Dim; 4],
    divides: impl Fn(&[Dim; 4]) -> [(Dim, usize); 2],
) -> Result<Vec<Fact>> {
    args.expect_inputs(1, 1)?;
    let dtype = args.dtype(0)?;
    let Some(s) = args.shape(0) else {
        let shape: Vec<_> = ["n", "c", "h", "w"].map(|n| args.fresh(n)).into();
        return Ok(vec![Fact::tensor(dtype, shape)]);
    };
    let s = four(s)?;
    for (d, by) in divides(&s) {
        if let Some(n) = d.as_const() {
            ensure!(
                n % by as i64 == 0,
                ShapeMismatch,
                "extent {n} does not divide into blocks of {by}"
            );
        }
    }
    Ok(vec![Fact::tensor(dtype, rule(s).to_vec())])
}

/// `x` seen as six axes, permuted, and folded to four.
fn regroup(x: &Tensor, six: [usize; 6], perm: [usize; 6], four: [usize; 4]) -> Result<Tensor> {
    through_views(x, |x| x.reshape(&six)?.permute(&perm)?.reshape(&four))
}

fn overflow(shape: &[usize]) -> deepseek_tensor::Error {
    err!(ShapeMismatch, "shape {shape:?} overflows when its blocks move")
}

impl Operator for DepthToSpace {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        let (b, b2) = block(self.blocksize)?;
        let k = b as i64;
        infer_block(
            args,
            |[n, c, h, w]| [n, c.floor_div(&Dim::from(b2)), h * k, w * k],
            |[_, c, _, _]| [(c.clone(), b2), (c.clone(), 1)],
        )
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let (x, (b, b2)) = (args.tensor(0)?, block(self.blocksize)?);
        let [n, c, h, w] = four(x.shape())?;
        ensure!(
            c.is_multiple_of(b2),
            ShapeMismatch,
            "{c} channels do not divide into blocks of {b} by {b}"
        );
        let scaled = |d: usize| d.checked_mul(b).ok_or_else(|| overflow(x.shape()));
        let out = [n, c / b2, scaled(h)?, scaled(w)?];
        let y = match self.mode {
            ChannelOrder::DepthColumnRow => {
                regroup(x, [n, b, b, c / b2, h, w], [0, 3, 4, 1, 5, 2], out)
            }
            ChannelOrder::ColumnRowDepth => {
                regroup(x, [n, c / b2, b, b, h, w], [0, 1, 4, 2, 5, 3], out)
            }
        };
        Ok(vec![y?.into()])
    }
}

impl Operator for SpaceToDepth {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        let (b, b2) = block(self.blocksize)?;
        let k = Dim::from(b);
        infer_block(
            args,
            |[n, c, h, w]| [n, c * b2 as i64, h.floor_div(&k), w.floor_div(&k)],
            |[_, _, h, w]| [(h.clone(), b), (w.clone(), b)],
        )
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let (x, (b, b2)) = (args.tensor(0)?, block(self.blocksize)?);
        let [n, c, h, w] = four(x.shape())?;
        ensure!(
            h.is_multiple_of(b) && w.is_multiple_of(b),
            ShapeMismatch,
            "height {h} and width {w} do not divide into blocks of {b}"
        );
        let channels = c.checked_mul(b2).ok_or_else(|| overflow(x.shape()))?;
        let out = [n, channels, h / b, w / b];
        let six = [n, c, h / b, b, w / b, b];
        let y = match self.mode {
            ChannelOrder::DepthColumnRow => regroup(x, six, [0, 3, 5, 1, 2, 4], out),
            ChannelOrder::ColumnRowDepth => regroup(x, six, [0, 1, 3, 5, 2, 4], out),
        };
        Ok(vec![y?.into()])
    }
}
