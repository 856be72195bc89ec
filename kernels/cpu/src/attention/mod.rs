//! Scaled dot-product attention, forward, in memory that does not grow with the sequence.
//!
//! # Idea
//!
//! The tiled, online softmax of Dao et al., *FlashAttention*, 2022, turned so that **queries are the
//! lanes of a vector**. A panel of queries is transposed once to `[dim][lanes]`; the scores of a block
//! of keys are then `K Qᵀ`, keys in rows, and everything the softmax does (largest value, exponential,
//! sum, rescaling) is plain vector arithmetic with no sums across lanes. Scores `[key][lane]` are
//! already the panel that `Vᵀ P` wants. Both products use the matrix micro-kernel. K and V are read
//! where they lie, at any stride; only a block of them whose rows are pages apart is copied, once for
//! all panels of a task. Where a head's keys and values go beyond the second level of the cache, a task
//! takes twice the queries and the next block is fetched while one is in use.
//!
//! Queries carry the scale and `log2 e`, so that exponentials are powers of two. They are taken
//! against a score that follows the largest one only when that has risen by more than `2^8`: sums are
//! rescaled a few times in a sequence and not once a block. Blocks that all rows see whole take no
//! pass for hiding keys; blocks that no row sees are skipped.
//!
//! Rows of all query heads that share a key head are lanes of the same panels, so grouped queries
//! read each key once.
//!
//! # What a row is
//!
//! Query row `i` of a head sees key `j` if `j < kv_lens[batch]`, it lies in the [`Band`], and a boolean
//! mask does not hide it; then its score is
//! `softcap(scale q·k) + mask` with `softcap(x) = cap tanh(x / cap)`. **A row that sees no key is
//! zero** (as is one whose mask adds `-inf` everywhere), not NaN.
//!
//! Blocks of keys start at multiples of [`BLOCK`], and a hidden key adds nothing to a row but exact
//! zeros, so appending hidden keys (with finite values) does not change a bit, nor does the number of
//! queries computed together. A score's chain is `dim` multiply-adds in order; a row of the result is
//! within `2 (dim + BLOCK + kv_len / BLOCK + 8) eps (1 + max |score|) max |v|` of exact arithmetic;
//! keys whose weight is below `2^-125` of the largest count as zero.

mod packed;
mod product;
mod softmax;
mod task;

pub use packed::{PackedHeads, PackedShape, attention_packed, attention_packed_scratch};

use crate::Isa;
use crate::elementwise::reach;
use crate::parallel::{Parallel, Shared, Slots};
use crate::simd::MAX_LANES;
use task::{Place, Task};

/// Keys of one step of the online softmax.
pub const BLOCK: usize = 64;
/// The most queries of one task: K and V are read once for all of them.
const TASK_ROWS: usize = 128;
/// Queries of one task where K and V stay in the cache.
const NEAR_TASK_ROWS: usize = 64;
/// Floats of K and V of a head from which on they count as far: half of a small second level.
const FAR: usize = 128 * 1024;
/// Floats that aligning a task's scratch may skip.
const ALIGN: usize = 16;

/// The sizes of an attention.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct AttentionShape {
    /// How many independent sequences.
    pub batch: usize,
    /// Heads of Q and of the result; a multiple of `kv_heads`.
    pub q_heads: usize,
    /// Heads of K and V; query head `h` reads key head `h / (q_heads / kv_heads)`.
    pub kv_heads: usize,
    /// Rows of Q per head.
    pub q_len: usize,
    /// Rows of K and V per head.
    pub kv_len: usize,
    /// Columns of Q and K.
    pub qk_dim: usize,
    /// Columns of V and of the result.
    pub v_dim: usize,
}

/// A tensor read as `[batch, head, seq, dim]`: its elements and the stride of each dimension.
#[derive(Copy, Clone, Debug)]
pub struct Heads<'a> {
    /// The elements.
    pub data: &'a [f32],
    /// Distances along batch, head, seq and dim.
    pub strides: [usize; 4],
}

impl<'a> Heads<'a> {
    /// `[batch, heads, seq, dim]` without gaps.
    pub fn dense(data: &'a [f32], heads: usize, seq: usize, dim: usize) -> Self {
        Heads { data, strides: [heads * seq * dim, seq * dim, dim, 1] }
    }

    /// `[batch, seq, heads, dim]` without gaps.
    pub fn seq_first(data: &'a [f32], seq: usize, heads: usize, dim: usize) -> Self {
        Heads { data, strides: [seq * heads * dim, dim, heads * dim, 1] }
    }
}

/// What is added to scores, or which scores exist, read as `[batch, q_heads, q_len, kv_len]`; a
/// stride of zero repeats.
#[derive(Copy, Clone, Debug, Default)]
pub enum Mask<'a> {
    /// Nothing.
    #[default]
    None,
    /// Added to the scaled score.
    Add(&'a [f32], [usize; 4]),
    /// `true` where the key is seen.
    Keep(&'a [bool], [usize; 4]),
}

/// Which keys a query sees by position: with `p = i + offset`, those from `p - before` to `p + after`,
/// both included.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Band {
    /// Position of query 0 among the keys: `kv_len - q_len` aligns the ends, 0 the starts.
    pub offset: isize,
    /// How many keys before its position a query sees; all if absent.
    pub before: Option<usize>,
    /// How many keys after its position a query sees; all if absent.
    pub after: Option<usize>,
}

impl Band {
    /// No key after the query's position.
    pub const fn causal(offset: isize) -> Self {
        Band { offset, before: None, after: Some(0) }
    }
}

/// Everything but the tensors and their sizes.
#[derive(Copy, Clone, Debug, Default)]
pub struct AttentionOptions<'a> {
    /// Factor of the dot products, usually `1 / sqrt(qk_dim)`.
    pub scale: f32,
    /// Bound of the scores before the mask.
    pub softcap: Option<f32>,
    /// Hides keys by position.
    pub band: Option<Band>,
    /// Hides or biases keys.
    pub mask: Mask<'a>,
    /// Keys that exist in each sequence of the batch, at most `kv_len`.
    pub kv_lens: Option<&'a [usize]>,
}

/// Rows of one task, and whether K and V are far, for sequences of at most `kv_len` keys.
fn task_rows(kv_len: usize, qk_dim: usize, v_dim: usize) -> (usize, bool) {
    let far = kv_len.saturating_mul(qk_dim + v_dim) >= FAR;
    (if far { TASK_ROWS } else { NEAR_TASK_ROWS }, far)
}

/// Floats of scratch of one task.
fn slot_len(lanes: usize, qk_dim: usize, v_dim: usize) -> usize {
    // Scores, corrections and largest scores of a panel; queries, results, bases and sums of all; a
    // block of K and V.
    let panel = BLOCK * 2 * lanes + 4 * MAX_LANES;
    ALIGN + panel + TASK_ROWS * (qk_dim + v_dim + 2) + BLOCK * (qk_dim + v_dim)
}

/// Floats of a vector.
fn lanes(isa: Isa) -> usize {
    crate::gemm::tile(isa).1 / 2
}

/// Floats of scratch that [`attention`] needs when run by `par`.
pub fn attention_scratch(isa: Isa, par: &dyn Parallel, shape: AttentionShape) -> usize {
    Slots::count(par) * slot_len(lanes(isa), shape.qk_dim, shape.v_dim)
}

/// `out = softmax(scale Q Kᵀ, masked) V` for every head; see the [module](self).
///
/// # Panics
/// When a tensor, the mask or the scratch is shorter than the shape says, `kv_heads` does not divide
/// `q_heads`, or a sequence is longer than `kv_len`.
#[expect(clippy::too_many_arguments, reason = "three inputs, an output, and how to run")]
pub fn attention(
    isa: Isa,
    par: &dyn Parallel,
    shape: AttentionShape,
    q: Heads<'_>,
    k: Heads<'_>,
    v: Heads<'_>,
    out: &mut [f32],
    out_strides: [usize; 4],
    options: &AttentionOptions<'_>,
    scratch: &mut [f32],
) {
    let AttentionShape { batch, q_heads, kv_heads, q_len, kv_len, qk_dim, v_dim } = shape;
    let need = |what: &str, have: usize, dims: [usize; 4], strides: [usize; 4]| {
        let need = reach(&[0, 1, 2, 3].map(|d| (dims[d], strides[d])));
        assert!(
            have >= need,
            "attention: {what} holds {have} elements, {dims:?} with strides {strides:?} reach {need}"
        );
    };
    assert!(
        kv_heads > 0 && q_heads.is_multiple_of(kv_heads),
        "attention: {kv_heads} key heads do not divide {q_heads} query heads"
    );
    need("q", q.data.len(), [batch, q_heads, q_len, qk_dim], q.strides);
    need("k", k.data.len(), [batch, kv_heads, kv_len, qk_dim], k.strides);
    need("v", v.data.len(), [batch, kv_heads, kv_len, v_dim], v.strides);
    need("out", out.len(), [batch, q_heads, q_len, v_dim], out_strides);
    let scores = [batch, q_heads, q_len, kv_len];
    match options.mask {
        Mask::None => {}
        Mask::Add(m, s) => need("mask", m.len(), scores, s),
        Mask::Keep(m, s) => need("mask", m.len(), scores, s),
    }
    if let Some(lens) = options.kv_lens {
        assert_eq!(lens.len(), batch, "attention: kv_lens against batch");
        assert!(
            lens.iter().all(|&n| n <= kv_len),
            "attention: a sequence of {lens:?} is longer than kv_len {kv_len}"
        );
    }
    let rows = q_heads / kv_heads * q_len;
    if batch == 0 || rows == 0 || v_dim == 0 {
        return;
    }
    let lanes = lanes(isa);
    let slots = Slots::new(par, scratch, slot_len(lanes, qk_dim, v_dim));
    let (per_task, far) = task_rows(kv_len, qk_dim, v_dim);
    let tiles = rows.div_ceil(per_task);
    let (q_at, k_at, v_at) = (Shared::read(q.data), Shared::read(k.data), Shared::read(v.data));
    let out = Shared::new(out);
    let body = |t: usize| {
        let (head, tile) = (t / tiles, t % tiles);
        let (b, h) = (head / kv_heads, head % kv_heads);
        let place = |s: [usize; 4], heads: usize| Place {
            at: b * s[0] + heads * s[1],
            head: s[1],
            row: s[2],
            dim: s[3],
        };
        let first_head = h * (q_heads / kv_heads);
        slots.with(|work| {
            isa.dispatch(Task {
                options,
                q: (q_at, place(q.strides, first_head)),
                k: (k_at, place(k.strides, h)),
                v: (v_at, place(v.strides, h)),
                out: (out, place(out_strides, first_head)),
                group: q_heads / kv_heads,
                first_head,
                batch: b,
                kv_len: options.kv_lens.map_or(kv_len, |l| l[b]),
                qk_dim,
                v_dim,
                work,
                rows: tile * per_task..((tile + 1) * per_task).min(rows),
                wide: rows > lanes,
                far,
            });
        });
    };
    match batch * kv_heads * tiles {
        1 => body(0),
        tasks => par.run(tasks, &body),
    }
}
