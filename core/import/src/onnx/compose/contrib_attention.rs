//! Attention of the `com.microsoft` domain, in terms of ONNX's.
//!
//! Both operators here mask by adding `mask_filter_value` (−10,000 by default) to scores, not by
//! −∞: a sequence that is padding throughout still has probabilities. Caches are refused.

use crate::onnx::call::{Call, Outputs};
use deepseek_graph::{Attrs, ValueId};
use deepseek_tensor::{DType, Result, bail, ensure};

fn none() -> Attrs {
    Attrs::new()
}

/// Attention: one product for q, k and v, then attention. Inputs: `x` `[batch, seq, width]`,
/// weights `[width, 3·hidden]`, their bias, a mask, a cache, an added bias.
pub fn attention(c: &mut Call) -> Result<Outputs> {
    refuse(c, &[(4, "a cache"), (6, "a cache")], &["do_rotary", "past_present_share_buffer"])?;
    let heads: i64 = c.need("num_heads")?;
    let product = c.one("MatMul", none(), &[c.input(0)?, c.input(1)?])?;
    let qkv = match c.opt(2) {
        Some(bias) => c.one("Add", none(), &[product, bias])?,
        None => product,
    };
    let sizes: Option<Vec<i64>> = c.take("qkv_hidden_sizes")?;
    let parts = match sizes {
        Some(sizes) if sizes.len() == 3 => {
            let sizes = c.ints(&sizes)?;
            c.emit("Split", none().with("axis", -1i64), &[Some(qkv), Some(sizes)], 3)?
        }
        Some(sizes) => bail!(InvalidGraph, "qkv_hidden_sizes has {} entries, not 3", sizes.len()),
        None => {
            let attrs = none().with("axis", -1i64).with("num_outputs", 3i64);
            c.emit("Split", attrs, &[Some(qkv)], 3)?
        }
    };
    let (mask, bias) = (c.opt(3), c.opt(5));
    finish(c, heads, [parts[0], parts[1], parts[2]], mask, bias)
}

/// MultiHeadAttention: attention of q, k and v `[batch, seq, hidden]`, to which parts of one bias
/// are added first. Inputs 4 and 5 are the mask and an added bias.
pub fn multi_head_attention(c: &mut Call) -> Result<Outputs> {
    refuse(c, &[(6, "a cache"), (7, "a cache"), (8, "a cache"), (9, "a cache")], &[])?;
    let heads: i64 = c.need("num_heads")?;
    let packed = "MultiHeadAttention of packed q, k and v; give them as three inputs";
    let mut parts = [c.input(0)?, c.input(0)?, c.input(0)?];
    for (i, part) in parts.iter_mut().enumerate() {
        let Some(v) = c.opt(i) else { bail!(Unsupported, "{packed}") };
        ensure!(c.shape(v, "MultiHeadAttention")?.len() == 3, Unsupported, "{packed}");
        *part = v;
    }
    if let Some(bias) = c.opt(3) {
        let mut sizes = Vec::new();
        for &part in &parts {
            let last = c.shape(part, "MultiHeadAttention")?.last().and_then(|d| d.as_const());
            let Some(n) = last else {
                bail!(Unsupported, "MultiHeadAttention with a bias for a hidden size not known")
            };
            sizes.push(n);
        }
        let sizes = c.ints(&sizes)?;
        let pieces = c.emit("Split", none().with("axis", 0i64), &[Some(bias), Some(sizes)], 3)?;
        for (part, piece) in parts.iter_mut().zip(pieces) {
            *part = c.one("Add", none(), &[*part, piece])?;
        }
    }
    let (mask, bias) = (c.opt(4), c.opt(5));
    finish(c, heads, parts, mask, bias)
}

/// Fails if one of some inputs is there or one of some attributes is set.
fn refuse(c: &mut Call, inputs: &[(usize, &str)], attributes: &[&str]) -> Result<()> {
    for (i, what) in inputs {
        ensure!(
            c.opt(*i).is_none(),
            Unsupported,
            "{} with {what} (input {i}); export the model without one",
            c.node.op_type
        );
    }
    for name in attributes {
        ensure!(
            !c.take::<bool>(name)?.unwrap_or(false),
            Unsupported,
            "{} with {name}; save the model without it",
            c.node.op_type
        );
    }
    for i in 1..c.node.output.len() {
        ensure!(!c.wants(i), Unsupported, "output {i} of {}, a cache", c.node.op_type);
    }
    Ok(())
}

fn finish(
    c: &mut Call,
    heads: i64,
    [q, k, v]: [ValueId; 3],
    mask: Option<ValueId>,
    bias: Option<ValueId>,
) -> Result<Outputs> {
    let filter = c.take("mask_filter_value")?.unwrap_or(-10000f32);
    let causal = c.take("unidirectional")?.unwrap_or(false);
    // 0, as well as none, stands for 1/√dim.
    let scale = c.take::<f32>("scale")?.filter(|s| *s != 0.0);
    let mask = match mask {
        Some(mask) => Some(added_mask(c, mask, k, filter)?),
        None => None,
    };
    let mask = match (mask, bias) {
        (Some(mask), Some(bias)) => Some(c.one("Add", none(), &[mask, bias])?),
        (mask, bias) => mask.or(bias),
    };
    let attrs = none()
        .with("q_num_heads", heads)
        .with("kv_num_heads", heads)
        .with("is_causal", causal)
        .with("scale", scale);
    let inputs: Vec<_> = [q, k, v].into_iter().chain(mask).map(Some).collect();
    c.last("Attention", attrs, &inputs)
}

/// The mask as numbers to add: 0 where a key may be attended, else `filter`. The mask is the
/// number of keys of each sequence, `i32[batch]`, or what is not 0 where a key may be attended:
/// `i32[batch, keys]` or `i32[batch, queries, keys]`.
fn added_mask(c: &mut Call, mask: ValueId, k: ValueId, filter: f32) -> Result<ValueId> {
    let rank = c.shape(mask, "the mask")?.len();
    let to_bool = none().with("to", DType::Bool);
    let (keep, axes): (_, &[i64]) = match rank {
        1 => {
            let batch = c.shape(k, "the keys")?[0].clone();
            let same = c.shape(mask, "the mask")?[0] == batch;
            ensure!(
                same,
                Unsupported,
                "{} with a mask_index that is not one length for each sequence",
                c.node.op_type
            );
            let keys = c.one("Shape", none().with("start", 1i64).with("end", 2i64), &[k])?;
            let keys = c.one("Squeeze", none(), &[keys])?;
            let (zero, one) = (c.int(0)?, c.int(1)?);
            let at = c.one("Range", none(), &[zero, keys, one])?;
            let lens = c.one("Cast", none().with("to", DType::I64), &[mask])?;
            let axis = c.ints(&[1])?;
            let lens = c.one("Unsqueeze", none(), &[lens, axis])?;
            (c.one("Less", none(), &[at, lens])?, &[1, 2])
        }
        2 => (c.one("Cast", to_bool, &[mask])?, &[1, 2]),
        3 => (c.one("Cast", to_bool, &[mask])?, &[1]),
        _ => bail!(Unsupported, "{} with a mask of rank {rank}", c.node.op_type),
    };
    let axes = c.ints(axes)?;
    let keep = c.one("Unsqueeze", none(), &[keep, axes])?;
    let dtype = c.dtype(k)?;
    let (zero, filter) = (c.scalar(dtype, 0.0)?, c.scalar(dtype, filter.into())?);
    c.one("Where", none(), &[keep, zero, filter])
}
