//! Rotary position embedding in `f32`.

use super::{bind_in_place, expect_shape, floats};
use crate::registry::{KernelArgs, KernelDef, PrepareArgs, Prepared};
use deepseek_graph::{Fact, ops};
use deepseek_kernels_cpu::rotary::{Angles, RotaryShape, Tokens, rotary, rotary_inplace};
use deepseek_tensor::{DType, Result, Tensor, ensure, err};

pub(super) static KERNELS: &[KernelDef] = &[KernelDef { op: "RotaryEmbedding", prepare }];

fn prepare(args: &PrepareArgs) -> Result<Option<Prepared>> {
    let Some(op) = args.op::<ops::RotaryEmbedding>() else { return Ok(None) };
    let floats = (0..3).all(|i| args.dtype(i) == Some(DType::F32));
    let ids = args.dtype(3).is_none_or(|d| d == DType::I64);
    let rank = args.input(0).and_then(Fact::rank);
    if !floats || !ids || !matches!(rank, Some(3 | 4)) {
        return Ok(None);
    }
    let op = op.clone();
    bind_in_place(args, "f32", "rotary", &[0], move |k| run(k, &op))
}

fn run(k: &mut KernelArgs, op: &ops::RotaryEmbedding) -> Result<()> {
    let (x, cos, sin) = (k.opt(0).cloned(), k.input(1)?.clone(), k.input(2)?.clone());
    let positions = k.opt(3).cloned();
    if let Some(x) = &x {
        expect_shape("input 0", x.shape(), k.outputs[0].shape())?;
    }
    let shape = shape_of(op, k.outputs[0].shape())?;
    let RotaryShape { batch, seq, rotary: rotated, .. } = shape;
    let half = rotated / 2;
    let ids = match &positions {
        None => None,
        Some(t) => {
            let wide = t.broadcast_to(&[batch, seq])?;
            let strides = [wide.strides()[0] as usize, wide.strides()[1] as usize];
            let ids = t.as_slice::<i64>()?;
            let &[rows, width] = cos.shape() else {
                return Err(err!(
                    ShapeMismatch,
                    "with position_ids, cos and sin have the shape [positions, {half}], got {:?}",
                    cos.shape()
                ));
            };
            ensure!(
                width == half && cos.shape() == sin.shape(),
                ShapeMismatch,
                "cos {:?} and sin {:?} must both have {half} columns, half of the rotated part",
                cos.shape(),
                sin.shape()
            );
            let outside = ids.iter().find(|&&id| usize::try_from(id).map_or(true, |r| r >= rows));
            if let Some(id) = outside.filter(|_| batch * seq > 0) {
                return Err(err!(
                    InvalidArgument,
                    "position {id} is outside the {rows} rows of cos and sin"
                ));
            }
            Some((ids, strides))
        }
    };
    let angles = |t: &Tensor| -> Result<[usize; 3]> {
        if ids.is_some() {
            return Ok([0, half, 1]);
        }
        let wide = t.broadcast_to(&[batch, seq, half]);
        let wide = wide.map_err(|e| e.context("cos and sin without position_ids"))?;
        Ok([0, 1, 2].map(|i| wide.strides()[i] as usize))
    };
    let cos = Angles { data: floats(&cos)?, strides: angles(&cos)? };
    let sin = Angles { data: floats(&sin)?, strides: angles(&sin)? };
    let tokens = match ids {
        None => Tokens::InOrder,
        Some((ids, strides)) => Tokens::ById { ids, strides },
    };
    let (isa, pool) = (k.isa, k.pool);
    let y = k.outputs[0].as_slice_mut()?;
    match &x {
        Some(x) => rotary(isa, pool, shape, floats(x)?, cos, sin, tokens, y),
        None => rotary_inplace(isa, pool, shape, cos, sin, tokens, y),
    }
    Ok(())
}

/// The sizes that `[batch, heads, seq, dim]` or `[batch, seq, heads·dim]` says.
fn shape_of(op: &ops::RotaryEmbedding, shape: &[usize]) -> Result<RotaryShape> {
    let (batch, heads, seq, dim) = match *shape {
        [batch, heads, seq, dim] => (batch, heads, seq, dim),
        [batch, seq, hidden] => {
            let heads = usize::try_from(op.num_heads).unwrap_or(0);
            ensure!(
                heads > 0 && hidden > 0 && hidden.is_multiple_of(heads),
                ShapeMismatch,
                "hidden size {hidden} is not a multiple of num_heads = {}",
                op.num_heads
            );
            (batch, heads, seq, hidden / heads)
        }
        _ => return Err(err!(ShapeMismatch, "rotary embedding of a tensor of shape {shape:?}")),
    };
    let rotary = match op.rotary_embedding_dim {
        0 => dim,
        r => usize::try_from(r).unwrap_or(usize::MAX),
    };
    ensure!(
        rotary <= dim && rotary.is_multiple_of(2),
        ShapeMismatch,
        "rotary_embedding_dim {rotary} must be even and at most the head size {dim}"
    );
    let (interleaved, seq_first) = (op.interleaved, shape.len() == 3);
    Ok(RotaryShape { batch, heads, seq, dim, rotary, interleaved, seq_first })
}
