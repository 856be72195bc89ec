//! Attention of the `com.microsoft` domain, in terms of ONNX's.
//!
//! Both operators here mask by adding `mask_filter_value` (−10,000 by default) to scores, not by
//! −∞: a sequence that is padding throughout still has probabilities. Caches that a run is given and
//! gives back are those of ONNX's operator; one buffer for both is refused.

use crate::onnx::call::{Call, Outputs};
use deepseek_graph::{Attrs, ValueId};
use deepseek_tensor::{DType, Result, bail, ensure};

fn none() -> Attrs {
    Attrs::new()
}

/// Attention: one product for q, k and v, then attention. Inputs: `x` `[batch, seq, width]`,
/// weights `[width, 3·hidden]`, their bias, a mask, a cache, an added bias.
pub fn attention(c: &mut Call) -> Result<Outputs> {
    refuse(c, &[(6, "a shared cache")], &["do_rotary", "past_present_share_buffer"])?;
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
    let zero = c.ints(&[0])?;
    let past = match c.opt(4) {
        Some(past) => {
            let attrs = none().with("axis", 0i64).with("num_outputs", 2i64);
            let two = c.emit("Split", attrs, &[Some(past)], 2)?;
            let k = c.one("Squeeze", none(), &[two[0], zero])?;
            Some([k, c.one("Squeeze", none(), &[two[1], zero])?])
        }
        None => None,
    };
    let (attrs, inputs) = operands(c, heads, [parts[0], parts[1], parts[2]], mask, bias, past)?;
    if !c.wants(1) {
        return c.last("Attention", attrs, &inputs);
    }
    let all = c.emit("Attention", attrs, &inputs, 3)?;
    let k = c.one("Unsqueeze", none(), &[all[1], zero])?;
    let v = c.one("Unsqueeze", none(), &[all[2], zero])?;
    let present = c.one("Concat", none().with("axis", 0i64), &[k, v])?;
    c.alias(&[all[0], present])
}

/// MultiHeadAttention: attention of q, k and v `[batch, seq, hidden]`, to which parts of one bias
/// are added first. Inputs 4 and 5 are the mask and an added bias.
pub fn multi_head_attention(c: &mut Call) -> Result<Outputs> {
    refuse(c, &[(8, "a shared cache"), (9, "a shared cache")], &[])?;
    ensure!(!c.wants(3), Unsupported, "output 3 of MultiHeadAttention, the scores");
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
    let past = c.opt(6).zip(c.opt(7)).map(|(k, v)| [k, v]);
    let (attrs, inputs) = operands(c, heads, parts, mask, bias, past)?;
    c.last("Attention", attrs, &inputs)
}

/// GroupQueryAttention: causal attention with a cache, of which each sequence has a length of its
/// own. Inputs: q, k and v `[batch, seq, heads·dim]`, past keys and values, the last place of each
/// sequence `i32[batch]`, the largest number of keys, tables of cosines and sines, positions.
pub fn group_query_attention(c: &mut Call) -> Result<Outputs> {
    let more = [(10, "an added bias"), (11, "a sink"), (12, "scales"), (13, "scales")];
    refuse(c, &more, &["smooth_softmax"])?;
    let (heads, kv_heads): (i64, i64) = (c.need("num_heads")?, c.need("kv_num_heads")?);
    let (rotates, pairs) = (c.take("do_rotary")?, c.take::<bool>("rotary_interleaved")?);
    let window: i64 = c.take("local_window_size")?.unwrap_or(-1);
    for name in ["qk_output", "kv_cache_bit_width"] {
        let how: i64 = c.take(name)?.unwrap_or(0);
        ensure!(how == 0, Unsupported, "GroupQueryAttention with {name} {how}");
    }
    for name in ["k_quant_type", "v_quant_type"] {
        let how: Option<String> = c.take(name)?;
        let plain = how.as_ref().is_none_or(|how| how == "NONE");
        ensure!(plain, Unsupported, "GroupQueryAttention with {name} {how:?}");
    }
    let [Some(mut q), Some(mut k), Some(v)] = [c.opt(0), c.opt(1), c.opt(2)] else {
        bail!(Unsupported, "GroupQueryAttention of packed q, k and v; give them as three inputs")
    };
    let (Some(past_k), Some(past_v)) = (c.opt(3), c.opt(4)) else {
        bail!(Unsupported, "GroupQueryAttention without past keys and values; give empty ones")
    };
    let one = c.int(1)?;
    let last = c.one("Cast", none().with("to", DType::I64), &[c.input(5)?])?;
    let lens = c.one("Add", none(), &[last, one])?;
    if rotates.unwrap_or(false) {
        let at = match c.opt(9) {
            Some(positions) => positions,
            None => {
                let (zero, axis) = (c.int(0)?, c.ints(&[1])?);
                let seq = c.one("Shape", none().with("start", 1i64).with("end", 2i64), &[q])?;
                let seq = c.one("Squeeze", none(), &[seq])?;
                let first = c.one("Sub", none(), &[lens, seq])?;
                let first = c.one("Max", none(), &[first, zero])?;
                let first = c.one("Unsqueeze", none(), &[first, axis])?;
                let step = c.one("Range", none(), &[zero, seq, one])?;
                c.one("Add", none(), &[first, step])?
            }
        };
        let (cos, sin) = (c.input(7)?, c.input(8)?);
        let width = c.shape(cos, "the table of cosines")?.last().and_then(|d| d.as_const());
        let Some(width) = width else {
            bail!(Unsupported, "GroupQueryAttention with a table of cosines of unknown width")
        };
        for (x, heads) in [(&mut q, heads), (&mut k, kv_heads)] {
            let attrs = none()
                .with("interleaved", pairs.unwrap_or(false))
                .with("num_heads", heads)
                .with("rotary_embedding_dim", 2 * width);
            *x = c.one("RotaryEmbedding", attrs, &[*x, cos, sin, at])?;
        }
    }
    let attrs = none()
        .with("q_num_heads", heads)
        .with("kv_num_heads", kv_heads)
        .with("left_window_size", if window > 0 { window - 1 } else { -1 })
        .with("softcap", c.take::<f32>("softcap")?.unwrap_or(0.0))
        .with("scale", c.take::<f32>("scale")?.filter(|s| *s != 0.0));
    c.last("CachedAttention", attrs, &[q, k, v, past_k, past_v, lens].map(Some))
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
    Ok(())
}

/// Attributes and inputs of ONNX's operator.
fn operands(
    c: &mut Call,
    heads: i64,
    [q, k, v]: [ValueId; 3],
    mask: Option<ValueId>,
    bias: Option<ValueId>,
    past: Option<[ValueId; 2]>,
) -> Result<(Attrs, Vec<Option<ValueId>>)> {
    let filter = c.take("mask_filter_value")?.unwrap_or(-10000f32);
    let causal = c.take("unidirectional")?.unwrap_or(false);
    // 0, as well as none, stands for 1/√dim.
    let scale = c.take::<f32>("scale")?.filter(|s| *s != 0.0);
    let mask = match mask {
        Some(mask) => {
            let lengths = c.shape(mask, "the mask")?.len() == 1;
            ensure!(
                !(lengths && past.is_some()),
                Unsupported,
                "{} with a cache and a mask of lengths; give a mask of all keys",
                c.node.op_type
            );
            Some(added_mask(c, mask, k, filter)?)
        }
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
    let mut inputs: Vec<_> = [q, k, v].map(Some).into();
    if mask.is_some() || past.is_some() {
        inputs.push(mask);
    }
    inputs.extend(past.into_iter().flatten().map(Some));
    Ok((attrs, inputs))
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
