//! Scaled dot-product attention in `f32`, one pass over tiles.

use super::{attr_f32, attr_i64, bind, expect_shape, floats};
use crate::registry::{KernelArgs, KernelDef, PrepareArgs, Prepared};
use deepseek_graph::{Dim, Fact, ops};
use deepseek_kernels_cpu::Parallel;
use deepseek_kernels_cpu::attention::{
    AttentionOptions, AttentionShape, Band, Heads, Mask, PackedHeads, PackedShape, attention,
    attention_packed, attention_packed_scratch, attention_scratch,
};
use deepseek_tensor::{DType, Result, Tensor, ensure, err};

pub(super) static KERNELS: &[KernelDef] = &[
    KernelDef { op: "Attention", prepare },
    KernelDef { op: "Attention", prepare: prepare_onnx_cache },
    KernelDef { op: "CachedAttention", prepare: prepare_cached },
    KernelDef { op: "PackedAttention", prepare: prepare_packed },
];

/// Stands in for a pool when scratch is sized.
pub(super) struct Threads(pub usize);

// SAFETY: runs every task once, on the calling thread.
unsafe impl Parallel for Threads {
    fn threads(&self) -> usize {
        self.0
    }
    fn run(&self, tasks: usize, body: &(dyn Fn(usize) + Sync)) {
        (0..tasks).for_each(body);
    }
}

/// What the node's attributes say.
#[derive(Clone, Copy)]
struct Settings {
    q_heads: Option<usize>,
    kv_heads: Option<usize>,
    band: Option<Band>,
    scale: Option<f32>,
    softcap: f32,
}

/// The keys that positions admit: windows of −1 are open, and queries count from the first key.
fn band(causal: bool, left: i64, right: i64) -> Option<Band> {
    let before = usize::try_from(left).ok();
    let after = if causal { Some(0) } else { usize::try_from(right).ok() };
    (before.is_some() || after.is_some()).then_some(Band { offset: 0, before, after })
}

fn prepare(args: &PrepareArgs) -> Result<Option<Prepared>> {
    let count = |name: &str| attr_i64(args, name).and_then(|n| usize::try_from(n).ok());
    let window = |name: &str| attr_i64(args, name).unwrap_or(-1);
    let settings = Settings {
        q_heads: count("q_num_heads"),
        kv_heads: count("kv_num_heads"),
        band: band(
            attr_i64(args, "is_causal") == Some(1),
            window("left_window_size"),
            window("right_window_size"),
        ),
        scale: attr_f32(args, "scale"),
        softcap: attr_f32(args, "softcap").unwrap_or(0.0),
    };
    let f32_at = |i: usize| args.dtype(i) == Some(DType::F32);
    let keys = args.input(1).and_then(Fact::shape).and_then(|s| s.get(s.len().checked_sub(2)?));
    let mask_fits = match args.input(3) {
        None => true,
        // A mask that ends before the keys do is the reference's.
        Some(m) => {
            m.dtype().is_ok_and(|d| matches!(d, DType::F32 | DType::Bool))
                && m.shape().and_then(<[Dim]>::last).is_some_and(|last| Some(last) == keys)
        }
    };
    // Further outputs without a cache are the reference's.
    let plain =
        args.node.outputs.len() == 1 && args.node.inputs.iter().skip(4).all(Option::is_none);
    let Some(rank) = args.input(0).and_then(Fact::rank) else { return Ok(None) };
    let dims = |i: usize| args.input(i).and_then(Fact::shape);
    let (Some(q), Some(v)) = (dims(0), dims(2)) else { return Ok(None) };
    // Scratch holds rows of queries and results: head sizes must be numbers.
    let head = |shape: &[Dim], heads: Option<usize>| -> Option<usize> {
        let last = usize::try_from(shape.last()?.as_const()?).ok()?;
        if rank == 3 { last.checked_div(heads?) } else { Some(last) }
    };
    let (Some(qk_dim), Some(v_dim)) = (head(q, settings.q_heads), head(v, settings.kv_heads))
    else {
        return Ok(None);
    };
    if !plain || !mask_fits || !(0..3).all(f32_at) || !(rank == 3 || rank == 4) {
        return Ok(None);
    }
    let shape =
        AttentionShape { batch: 1, q_heads: 1, kv_heads: 1, q_len: 1, kv_len: 1, qk_dim, v_dim };
    let scratch = attention_scratch(args.isa, &Threads(args.threads), shape);
    bind(args, "f32", "flash-attention", Dim::from(scratch), move |k| run(k, &settings))
}

fn run(k: &mut KernelArgs, settings: &Settings) -> Result<()> {
    let (q, key, v) = (k.input(0)?.clone(), k.input(1)?.clone(), k.input(2)?.clone());
    let mask = k.opt(3).cloned();
    let (q_heads, q_len, qk_dim, q_view) = heads(&q, settings.q_heads)?;
    let (kv_heads, kv_len, k_dim, k_view) = heads(&key, settings.kv_heads)?;
    let (v_heads, v_len, v_dim, v_view) = heads(&v, settings.kv_heads)?;
    let batch = q.shape()[0];
    ensure!(
        k_dim == qk_dim
            && (v_heads, v_len) == (kv_heads, kv_len)
            && key.shape()[0] == batch
            && v.shape()[0] == batch
            && kv_heads > 0
            && q_heads % kv_heads == 0,
        ShapeMismatch,
        "queries {:?}, keys {:?} and values {:?} do not fit together",
        q.shape(),
        key.shape(),
        v.shape()
    );
    let (out_shape, out_strides) = if q.rank() == 3 {
        let width = q_heads * v_dim;
        (vec![batch, q_len, width], [q_len * width, v_dim, width, 1])
    } else {
        let head = q_len * v_dim;
        (vec![batch, q_heads, q_len, v_dim], [q_heads * head, head, v_dim, 1])
    };
    expect_shape("the result", &out_shape, k.outputs[0].shape())?;
    let mask = match &mask {
        None => Mask::None,
        Some(m) => mask_view(m, [batch, q_heads, q_len, kv_len])?,
    };
    let options = AttentionOptions {
        scale: settings.scale.unwrap_or(1.0 / (qk_dim as f32).sqrt()),
        softcap: (settings.softcap != 0.0).then_some(settings.softcap),
        band: settings.band,
        mask,
        kv_lens: None,
    };
    let shape = AttentionShape { batch, q_heads, kv_heads, q_len, kv_len, qk_dim, v_dim };
    let (isa, pool, scratch) = (k.isa, k.pool, &mut *k.scratch);
    let out = k.outputs[0].as_slice_mut()?;
    attention(isa, pool, shape, q_view, k_view, v_view, out, out_strides, &options, scratch);
    Ok(())
}

/// Attention over a cache, as ONNX has it: all sequences have all rows of the cache.
fn prepare_onnx_cache(args: &PrepareArgs) -> Result<Option<Prepared>> {
    let Some(op) = args.op::<ops::Attention>() else { return Ok(None) };
    let (Ok(q_heads), Ok(kv_heads)) = (
        usize::try_from(op.q_num_heads.unwrap_or(0)),
        usize::try_from(op.kv_num_heads.unwrap_or(0)),
    ) else {
        return Ok(None);
    };
    let right = usize::try_from(op.right_window_size).ok();
    let caches = args.node.inputs.len() == 6 && args.dtype(4).is_some();
    let extent = |i: usize, axis: usize| args.input(i).and_then(Fact::shape)?.get(axis);
    let mask_fits = match (args.input(3), extent(4, 2), extent(1, 1)) {
        (None, ..) => true,
        // A mask that ends before the keys do is the reference's.
        (Some(m), Some(past), Some(seq)) => {
            m.dtype().is_ok_and(|d| matches!(d, DType::F32 | DType::Bool))
                && m.shape().and_then(<[Dim]>::last).is_some_and(|last| *last == past + seq)
        }
        _ => false,
    };
    if !caches || !mask_fits {
        return Ok(None);
    }
    let settings = Settings {
        q_heads: Some(q_heads),
        kv_heads: Some(kv_heads),
        band: band(op.is_causal, op.left_window_size, right.map_or(-1, |n| n as i64)),
        scale: op.scale,
        softcap: op.softcap,
    };
    bind_cached(args, settings, Places { past: [4, 5], mask: Some(3), lens: None })
}

/// Attention over a cache of which each sequence has a length of its own.
fn prepare_cached(args: &PrepareArgs) -> Result<Option<Prepared>> {
    let Some(op) = args.op::<ops::CachedAttention>() else { return Ok(None) };
    let (Ok(q_heads), Ok(kv_heads)) =
        (usize::try_from(op.q_num_heads), usize::try_from(op.kv_num_heads))
    else {
        return Ok(None);
    };
    let settings = Settings {
        q_heads: Some(q_heads),
        kv_heads: Some(kv_heads),
        band: band(true, op.left_window_size, -1),
        scale: op.scale,
        softcap: op.softcap,
    };
    bind_cached(args, settings, Places { past: [3, 4], mask: None, lens: Some(5) })
}

/// Which inputs have the past keys and values, a mask, and the number of keys of each sequence.
#[derive(Clone, Copy)]
struct Places {
    past: [usize; 2],
    mask: Option<usize>,
    lens: Option<usize>,
}

/// Binds attention over a cache, to which the keys and values of the run are added in the outputs.
fn bind_cached(args: &PrepareArgs, settings: Settings, places: Places) -> Result<Option<Prepared>> {
    let past = places.past;
    let f32s = (0..3).chain(past).all(|i| args.dtype(i) == Some(DType::F32));
    let flat = (0..3).all(|i| args.input(i).and_then(Fact::rank) == Some(3));
    let wanted = args.node.outputs.len() == 3 && args.node.outputs.iter().all(Option::is_some);
    let width = |i: usize| {
        let last = args.input(i)?.shape()?.last()?.as_const()?;
        usize::try_from(last).ok()
    };
    let (Some(qk_dim), Some(v_dim)) = (width(past[0]), width(past[1])) else { return Ok(None) };
    if !f32s || !flat || !wanted || settings.q_heads == Some(0) || settings.kv_heads == Some(0) {
        return Ok(None);
    }
    let shape =
        AttentionShape { batch: 1, q_heads: 1, kv_heads: 1, q_len: 1, kv_len: 1, qk_dim, v_dim };
    let scratch = attention_scratch(args.isa, &Threads(args.threads), shape);
    bind(args, "f32", "flash-attention-cached", Dim::from(scratch), move |k| {
        run_cached(k, &settings, places)
    })
}

fn run_cached(k: &mut KernelArgs, settings: &Settings, places: Places) -> Result<()> {
    let Places { past, mask, lens } = places;
    let mask = mask.and_then(|i| k.opt(i)).cloned();
    let (q, key, v) = (k.input(0)?.clone(), k.input(1)?.clone(), k.input(2)?.clone());
    let (past_k, past_v) = (k.input(past[0])?.clone(), k.input(past[1])?.clone());
    let (q_heads, kv_heads) = (settings.q_heads.unwrap_or(0), settings.kv_heads.unwrap_or(0));
    let (&[batch, seq, q_width], &[_, _, have, qk_dim]) = (q.shape(), past_k.shape()) else {
        return Err(err!(ShapeMismatch, "q needs rank 3, the cache rank 4"));
    };
    let v_dim = past_v.shape().last().copied().unwrap_or(0);
    let fits = q_width == q_heads * qk_dim
        && q_heads.is_multiple_of(kv_heads)
        && *key.shape() == [batch, seq, kv_heads * qk_dim]
        && *v.shape() == [batch, seq, kv_heads * v_dim]
        && *past_k.shape() == [batch, kv_heads, have, qk_dim]
        && *past_v.shape() == [batch, kv_heads, have, v_dim];
    ensure!(
        fits,
        ShapeMismatch,
        "queries {:?}, keys {:?}, values {:?} and a cache of {:?} and {:?} do not fit together",
        q.shape(),
        key.shape(),
        v.shape(),
        past_k.shape(),
        past_v.shape()
    );
    let rows = match lens {
        Some(i) => ops::past_rows(k.input(i)?, batch, have, seq)?,
        None => vec![have; batch],
    };
    let total = have + seq;
    let (isa, pool, scratch) = (k.isa, k.pool, &mut *k.scratch);
    let [y, all_k, all_v] = &mut k.outputs[..] else {
        return Err(err!(Internal, "attention over a cache has three outputs"));
    };
    expect_shape("the result", &[batch, seq, q_heads * v_dim], y.shape())?;
    for (new, old, all, dim) in [(&key, &past_k, all_k, qk_dim), (&v, &past_v, all_v, v_dim)] {
        expect_shape("all keys or values", &[batch, kv_heads, total, dim], all.shape())?;
        let (new, old, all) = (floats(new)?, floats(old)?, all.as_slice_mut::<f32>()?);
        for (at, to) in all.chunks_exact_mut((total * dim).max(1)).enumerate() {
            let (b, head) = (at / kv_heads, at % kv_heads);
            let kept = rows[b] * dim;
            to[..kept].copy_from_slice(&old[at * have * dim..][..kept]);
            let (own, rest) = to[kept..].split_at_mut(seq * dim);
            for (i, row) in own.chunks_exact_mut(dim.max(1)).enumerate() {
                row.copy_from_slice(&new[((b * seq + i) * kv_heads + head) * dim..][..dim]);
            }
            rest.fill(0.0);
        }
    }
    let [y, all_k, all_v] = &mut k.outputs[..] else {
        return Err(err!(Internal, "attention over a cache has three outputs"));
    };
    let (y, all_k, all_v) =
        (y.as_slice_mut::<f32>()?, all_k.as_slice_mut::<f32>()?, all_v.as_slice_mut::<f32>()?);
    let q = floats(&q)?;
    let mask = match &mask {
        None => Mask::None,
        Some(m) => mask_view(m, [batch, q_heads, seq, total])?,
    };
    for (b, &rows) in rows.iter().enumerate() {
        let shape = AttentionShape {
            batch: 1,
            q_heads,
            kv_heads,
            q_len: seq,
            kv_len: rows + seq,
            qk_dim,
            v_dim,
        };
        let options = AttentionOptions {
            scale: settings.scale.unwrap_or(1.0 / (qk_dim as f32).sqrt()),
            softcap: (settings.softcap != 0.0).then_some(settings.softcap),
            band: settings.band.map(|band| Band { offset: rows as isize, ..band }),
            mask: match mask {
                Mask::None => Mask::None,
                Mask::Add(data, at) => Mask::Add(&data[(b * at[0]).min(data.len())..], at),
                Mask::Keep(data, at) => Mask::Keep(&data[(b * at[0]).min(data.len())..], at),
            },
            kv_lens: None,
        };
        let (from_k, from_v) = (b * kv_heads * total * qk_dim, b * kv_heads * total * v_dim);
        let view = |data, dim: usize| Heads {
            data,
            strides: [kv_heads * total * dim, total * dim, dim, 1],
        };
        attention(
            isa,
            pool,
            shape,
            Heads::seq_first(&q[b * seq * q_width..][..seq * q_width], seq, q_heads, qk_dim),
            view(&all_k[from_k..], qk_dim),
            view(&all_v[from_v..], v_dim),
            &mut y[b * seq * q_heads * v_dim..][..seq * q_heads * v_dim],
            [seq * q_heads * v_dim, v_dim, q_heads * v_dim, 1],
            &options,
            scratch,
        );
    }
    Ok(())
}

/// Attention over packed sequences, all of them at once.
fn prepare_packed(args: &PrepareArgs) -> Result<Option<Prepared>> {
    let Some(op) = args.op::<ops::PackedAttention>() else { return Ok(None) };
    let f32s = (0..3).all(|i| args.dtype(i) == Some(DType::F32));
    let mask = args.dtype(4).is_none_or(|d| matches!(d, DType::F32 | DType::Bool));
    let width = |i: usize, heads: i64| -> Option<usize> {
        let last = args.input(i)?.shape()?.last()?.as_const()?;
        usize::try_from(last.checked_div(heads)?).ok()
    };
    let (Some(qk_dim), Some(v_dim)) = (width(0, op.q_num_heads), width(2, op.kv_num_heads)) else {
        return Ok(None);
    };
    let (Ok(q_heads), Ok(kv_heads)) =
        (usize::try_from(op.q_num_heads), usize::try_from(op.kv_num_heads))
    else {
        return Ok(None);
    };
    if !f32s || !mask {
        return Ok(None);
    }
    let settings = Settings {
        q_heads: Some(q_heads),
        kv_heads: Some(kv_heads),
        band: band(op.is_causal, op.left_window_size, op.right_window_size),
        scale: op.scale,
        softcap: op.softcap,
    };
    let shape = PackedShape { tokens: 1, q_heads: 1, kv_heads: 1, qk_dim, v_dim };
    let scratch = attention_packed_scratch(args.isa, &Threads(args.threads), shape);
    bind(args, "f32", "flash-attention-packed", Dim::from(scratch), move |k| {
        run_packed(k, &settings)
    })
}

fn run_packed(k: &mut KernelArgs, settings: &Settings) -> Result<()> {
    let (q, key, v) = (k.input(0)?.clone(), k.input(1)?.clone(), k.input(2)?.clone());
    let bias = k.opt(4).cloned();
    let (q_heads, kv_heads) = (settings.q_heads.unwrap_or(0), settings.kv_heads.unwrap_or(0));
    let (&[tokens, q_width], &[k_tokens, k_width], &[v_tokens, v_width]) =
        (q.shape(), key.shape(), v.shape())
    else {
        return Err(err!(ShapeMismatch, "operands of packed attention are matrices"));
    };
    ensure!(
        tokens == k_tokens
            && tokens == v_tokens
            && q_heads > 0
            && kv_heads > 0
            && q_heads % kv_heads == 0
            && q_width % q_heads == 0
            && v_width % kv_heads == 0
            && q_width / q_heads * kv_heads == k_width,
        ShapeMismatch,
        "queries {:?}, keys {:?} and values {:?} do not fit together",
        q.shape(),
        key.shape(),
        v.shape()
    );
    let segments = ops::segments(k.input(3)?, tokens)?;
    let (qk_dim, v_dim) = (q_width / q_heads, v_width / kv_heads);
    let out_width = q_heads * v_dim;
    expect_shape("the result", &[tokens, out_width], k.outputs[0].shape())?;
    if let Some(bias) = &bias {
        let longest = segments.iter().map(ExactSizeIterator::len).max().unwrap_or(0);
        let fits = matches!(*bias.shape(), [h, i, j]
            if (h == 1 || h == q_heads) && i >= longest && j >= longest);
        ensure!(
            fits,
            ShapeMismatch,
            "a mask of shape {:?} does not cover {q_heads} heads and {longest} rows",
            bias.shape()
        );
    }
    let (q, key, v) = (floats(&q)?, floats(&key)?, floats(&v)?);
    let mask = match &bias {
        None => Mask::None,
        Some(bias) => {
            let (heads, at) = (bias.shape()[0], bias.shape()[2]);
            let head = if heads == 1 { 0 } else { bias.shape()[1] * at };
            let strides = [0, head, at, 1];
            match bias.dtype() {
                DType::Bool => Mask::Keep(bias.as_slice::<bool>()?, strides),
                _ => Mask::Add(floats(bias)?, strides),
            }
        }
    };
    let options = AttentionOptions {
        scale: settings.scale.unwrap_or(1.0 / (qk_dim as f32).sqrt()),
        softcap: (settings.softcap != 0.0).then_some(settings.softcap),
        band: settings.band,
        mask,
        kv_lens: None,
    };
    let (isa, pool, scratch) = (k.isa, k.pool, &mut *k.scratch);
    let out = k.outputs[0].as_slice_mut::<f32>()?;
    let offsets: Vec<usize> =
        std::iter::once(0).chain(segments.iter().map(|rows| rows.end)).collect();
    attention_packed(
        isa,
        pool,
        PackedShape { tokens, q_heads, kv_heads, qk_dim, v_dim },
        PackedHeads::dense(q, q_heads, qk_dim),
        PackedHeads::dense(key, kv_heads, qk_dim),
        PackedHeads::dense(v, kv_heads, v_dim),
        out,
        [out_width, v_dim, 1],
        &offsets,
        &options,
        scratch,
    );
    Ok(())
}

/// Heads, length, head size and view of `[batch, heads, seq, dim]` or `[batch, seq, heads·dim]`.
fn heads(t: &Tensor, count: Option<usize>) -> Result<(usize, usize, usize, Heads<'_>)> {
    let data = floats(t)?;
    match (t.shape(), count) {
        (&[_, heads, seq, dim], _) => Ok((heads, seq, dim, Heads::dense(data, heads, seq, dim))),
        (&[_, seq, width], Some(heads)) if heads > 0 && width % heads == 0 => {
            let dim = width / heads;
            Ok((heads, seq, dim, Heads::seq_first(data, seq, heads, dim)))
        }
        (_, Some(heads)) => {
            Err(err!(ShapeMismatch, "shape {:?} does not divide into {heads} heads", t.shape()))
        }
        _ => Err(err!(ShapeMismatch, "shape {:?} needs a number of heads", t.shape())),
    }
}

/// The mask read as `[batch, q_heads, q_len, kv_len]`.
fn mask_view(mask: &Tensor, want: [usize; 4]) -> Result<Mask<'_>> {
    let wide = mask.broadcast_to(&want)?;
    let mut strides = [0usize; 4];
    for (to, &from) in strides.iter_mut().zip(wide.strides()) {
        *to = from as usize;
    }
    Ok(match mask.dtype() {
        DType::Bool => Mask::Keep(mask.as_slice::<bool>()?, strides),
        _ => Mask::Add(floats(mask)?, strides),
    })
}
