//! Attention over sequences of different lengths that lie end to end, without padding: the
//! variable-length form of Dao et al., *FlashAttention-2*, 2023.

use super::task::{Place, Task};
use super::{AttentionOptions, Mask, lanes, slot_len, task_rows};
use crate::Isa;
use crate::elementwise::reach;
use crate::parallel::{Parallel, Shared, Slots};

/// The sizes of a packed attention.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct PackedShape {
    /// Rows of Q, K, V and the result: the tokens of all sequences.
    pub tokens: usize,
    /// Heads of Q and of the result; a multiple of `kv_heads`.
    pub q_heads: usize,
    /// Heads of K and V; query head `h` reads key head `h / (q_heads / kv_heads)`.
    pub kv_heads: usize,
    /// Columns of Q and K.
    pub qk_dim: usize,
    /// Columns of V and of the result.
    pub v_dim: usize,
}

/// A tensor read as `[tokens, heads, dim]`: its elements and the stride of each dimension.
#[derive(Copy, Clone, Debug)]
pub struct PackedHeads<'a> {
    /// The elements.
    pub data: &'a [f32],
    /// Distances along tokens, heads and dim.
    pub strides: [usize; 3],
}

impl<'a> PackedHeads<'a> {
    /// `[tokens, heads, dim]` without gaps.
    pub fn dense(data: &'a [f32], heads: usize, dim: usize) -> Self {
        PackedHeads { data, strides: [heads * dim, dim, 1] }
    }
}

/// Floats of scratch that [`attention_packed`] needs when run by `par`; depends on the head sizes and
/// the threads only, not on how many tokens or sequences there are.
pub fn attention_packed_scratch(isa: Isa, par: &dyn Parallel, shape: PackedShape) -> usize {
    Slots::count(par) * slot_len(lanes(isa), shape.qk_dim, shape.v_dim)
}

/// Attention of each sequence with itself: sequence `i` is rows `offsets[i]..offsets[i + 1]` of Q, K,
/// V and the result, and its result has the bits that [`attention`](super::attention) gives for it
/// alone. The band and the mask count positions from the start of each sequence: the mask is read as
/// `[any, q_heads, longest, longest]`, its first stride is of no use. Rows of the result that belong to
/// no sequence are left as they are.
///
/// # Panics
/// When a tensor, the mask or the scratch is shorter than the shape says, `kv_heads` does not divide
/// `q_heads`, `offsets` is empty, falls or goes beyond `tokens`, or the options hold `kv_lens`, which
/// have no meaning here.
#[expect(clippy::too_many_arguments, reason = "three inputs, an output, and how to run")]
pub fn attention_packed(
    isa: Isa,
    par: &dyn Parallel,
    shape: PackedShape,
    q: PackedHeads<'_>,
    k: PackedHeads<'_>,
    v: PackedHeads<'_>,
    out: &mut [f32],
    out_strides: [usize; 3],
    offsets: &[usize],
    options: &AttentionOptions<'_>,
    scratch: &mut [f32],
) {
    let PackedShape { tokens, q_heads, kv_heads, qk_dim, v_dim } = shape;
    let need = |what: &str, have: usize, dims: [usize; 3], strides: [usize; 3]| {
        let need = reach(&[0, 1, 2].map(|d| (dims[d], strides[d])));
        assert!(
            have >= need,
            "attention: {what} holds {have} elements, {dims:?} with strides {strides:?} reach {need}"
        );
    };
    assert!(
        kv_heads > 0 && q_heads.is_multiple_of(kv_heads),
        "attention: {kv_heads} key heads do not divide {q_heads} query heads"
    );
    need("q", q.data.len(), [tokens, q_heads, qk_dim], q.strides);
    need("k", k.data.len(), [tokens, kv_heads, qk_dim], k.strides);
    need("v", v.data.len(), [tokens, kv_heads, v_dim], v.strides);
    need("out", out.len(), [tokens, q_heads, v_dim], out_strides);
    assert!(options.kv_lens.is_none(), "attention: packed sequences take no kv_lens");
    let (Some(&first), Some(&end)) = (offsets.first(), offsets.last()) else {
        panic!("attention: offsets need one entry more than there are sequences, got none");
    };
    assert!(
        end <= tokens && offsets.is_sorted(),
        "attention: offsets must rise to at most {tokens} tokens: {offsets:?}"
    );
    let longest = offsets.windows(2).map(|o| o[1] - o[0]).max().unwrap_or(0);
    if let Mask::Add(_, s) | Mask::Keep(_, s) = options.mask {
        let have = match options.mask {
            Mask::Add(m, _) => m.len(),
            Mask::Keep(m, _) => m.len(),
            Mask::None => 0,
        };
        need("mask", have, [q_heads, longest, longest], [s[1], s[2], s[3]]);
    }
    let group = q_heads / kv_heads;
    if first == end || group == 0 || v_dim == 0 {
        return;
    }
    let lanes = lanes(isa);
    let slots = Slots::new(par, scratch, slot_len(lanes, qk_dim, v_dim));
    let (per_task, far) = task_rows(longest, qk_dim, v_dim);
    // Rows of the flattened `[tokens, group]`. Task `i` takes the tiles that start in the `i`th
    // window of `per_task` rows: one tile of a long sequence, or several short sequences.
    let windows = ((end - first) * group).div_ceil(per_task);
    let (q_at, k_at, v_at) = (Shared::read(q.data), Shared::read(k.data), Shared::read(v.data));
    let out = Shared::new(out);
    let body = |t: usize| {
        // Later rows of a causal sequence see more keys: they go first, and neighbours read the
        // same keys.
        let (h, window) = (t / windows, windows - 1 - t % windows);
        let low = first * group + window * per_task;
        let mut b = offsets.partition_point(|&o| o * group <= low).saturating_sub(1);
        slots.with(|work| {
            while b + 1 < offsets.len() && offsets[b] * group < low + per_task {
                let (start, len) = (offsets[b], offsets[b + 1] - offsets[b]);
                let rows = len * group;
                let place = |s: [usize; 3], head: usize| Place {
                    at: start * s[0] + head * s[1],
                    head: s[1],
                    row: s[0],
                    dim: s[2],
                };
                // The tile of this sequence that starts in the window.
                let tile = low.saturating_sub(start * group).next_multiple_of(per_task);
                if tile < rows && start * group + tile < low + per_task {
                    isa.dispatch(Task {
                        options,
                        q: (q_at, place(q.strides, h * group)),
                        k: (k_at, place(k.strides, h)),
                        v: (v_at, place(v.strides, h)),
                        out: (out, place(out_strides, h * group)),
                        group,
                        first_head: h * group,
                        batch: 0,
                        kv_len: len,
                        qk_dim,
                        v_dim,
                        work: &mut *work,
                        rows: tile..(tile + per_task).min(rows),
                        wide: rows > lanes,
                        far,
                    });
                }
                b += 1;
            }
        });
    };
    match kv_heads * windows {
        1 => body(0),
        tasks => par.run(tasks, &body),
    }
}
