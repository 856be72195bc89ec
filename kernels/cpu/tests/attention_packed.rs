//! Packed attention: every sequence has the bits of [`attention`] on it alone, which
//! `tests/attention.rs` holds against double precision. Add a case to `cases`.

mod common;
use common::{Failures, Threads, isas, values};
use deepseek_kernels_cpu::attention::*;
use deepseek_kernels_cpu::{Isa, Parallel, Serial};

struct Case {
    name: &'static str,
    /// Rows before the first sequence, the sequences, rows after the last.
    before: usize,
    lens: &'static [usize],
    after: usize,
    q_heads: usize,
    kv_heads: usize,
    qk_dim: usize,
    v_dim: usize,
    band: Option<Band>,
    softcap: Option<f32>,
    /// Heads of a mask by position: none, one for all, or one for each.
    mask: Mask3,
}

#[derive(Clone, Copy, PartialEq)]
enum Mask3 {
    None,
    Add { by_head: bool },
    Keep { by_head: bool },
}

const MIXED: &[usize] = &[1, 70, 0, 3, 200, 64, 0, 1, 1, 129, 33];

fn cases() -> Vec<Case> {
    let plain = |name, lens, [q_heads, kv_heads, qk_dim, v_dim]: [usize; 4]| Case {
        name,
        before: 0,
        lens,
        after: 0,
        q_heads,
        kv_heads,
        qk_dim,
        v_dim,
        band: None,
        softcap: None,
        mask: Mask3::None,
    };
    let causal = |offset, window: Option<usize>| {
        Some(Band { offset, before: window.map(|w| w - 1), after: Some(0) })
    };
    let (add, keep) = (|by_head| Mask3::Add { by_head }, |by_head| Mask3::Keep { by_head });
    vec![
        plain("one token", &[1], [1, 1, 4, 4]),
        plain("nothing", &[], [2, 2, 4, 4]),
        plain("empty sequences", &[0, 0, 5, 0], [2, 2, 4, 4]),
        plain("one sequence", &[150], [3, 3, 16, 16]),
        plain("mixed", MIXED, [2, 2, 16, 24]),
        plain("many short", &[2; 90], [2, 2, 8, 8]),
        plain("grouped", MIXED, [6, 2, 16, 16]),
        plain("one key head", &[5, 40, 9], [70, 1, 8, 8]),
        plain("wide heads", &[100, 20], [2, 1, 128, 128]),
        Case { before: 7, after: 9, ..plain("rows of nobody", MIXED, [2, 2, 16, 16]) },
        Case { band: causal(0, None), ..plain("causal", MIXED, [4, 2, 16, 16]) },
        Case { band: causal(0, Some(20)), ..plain("window", MIXED, [4, 2, 16, 16]) },
        Case { band: causal(-2, None), ..plain("causal, blind rows", MIXED, [2, 2, 8, 8]) },
        Case {
            band: Some(Band { offset: 0, before: Some(9), after: Some(4) }),
            ..plain("band", MIXED, [4, 2, 16, 16])
        },
        Case { mask: add(true), ..plain("bias by head", MIXED, [4, 2, 16, 16]) },
        Case { mask: add(false), ..plain("bias", MIXED, [2, 2, 16, 16]) },
        Case { mask: keep(true), before: 3, ..plain("mask by head", MIXED, [4, 4, 8, 8]) },
        Case { mask: keep(false), band: causal(0, None), ..plain("mask", MIXED, [6, 2, 8, 8]) },
        plain("far", &[5, 1300, 2], [2, 1, 64, 64]),
        Case { softcap: Some(1.5), ..plain("softcap", MIXED, [2, 2, 16, 16]) },
    ]
}

/// Values of the mask of a case, as numbers and as truth.
fn mask_of(c: &Case) -> (Vec<f32>, Vec<bool>) {
    let longest = c.lens.iter().max().copied().unwrap_or(0);
    let bias = values(c.q_heads * longest * longest, 6);
    let keep = bias.iter().map(|&x| x > -0.4).collect();
    (bias, keep)
}

fn packed(isa: Isa, par: &dyn Parallel, c: &Case, qkv: &[f32], offsets: &[usize]) -> Vec<f32> {
    let (kq, kk, kv) = (c.q_heads * c.qk_dim, c.kv_heads * c.qk_dim, c.kv_heads * c.v_dim);
    let row = kq + kk + kv;
    let tokens = qkv.len() / row;
    let shape = PackedShape {
        tokens,
        q_heads: c.q_heads,
        kv_heads: c.kv_heads,
        qk_dim: c.qk_dim,
        v_dim: c.v_dim,
    };
    // Q, K and V as columns of one matrix, as a joint projection leaves them.
    let view = |at: usize, dim: usize| PackedHeads {
        data: qkv.get(at..).unwrap_or_default(),
        strides: [row, dim, 1],
    };
    let mut out = vec![f32::MAX; tokens * c.q_heads * c.v_dim];
    let mut scratch = vec![f32::NAN; attention_packed_scratch(isa, par, shape)];
    attention_packed(
        isa,
        par,
        shape,
        view(0, c.qk_dim),
        view(kq, c.qk_dim),
        view(kq + kk, c.v_dim),
        &mut out,
        [c.q_heads * c.v_dim, c.v_dim, 1],
        offsets,
        &options(c, &mask_of(c)),
        &mut scratch,
    );
    out
}

fn options<'a>(c: &Case, (bias, keep): &'a (Vec<f32>, Vec<bool>)) -> AttentionOptions<'a> {
    let longest = c.lens.iter().max().copied().unwrap_or(0);
    let strides = |by_head| [0, if by_head { longest * longest } else { 0 }, longest, 1];
    let mask = match c.mask {
        Mask3::None => Mask::None,
        Mask3::Add { by_head } => Mask::Add(bias, strides(by_head)),
        Mask3::Keep { by_head } => Mask::Keep(keep, strides(by_head)),
    };
    AttentionOptions { scale: 0.7, band: c.band, softcap: c.softcap, mask, kv_lens: None }
}

/// One sequence by the kernel of whole batches, from copies of its rows.
fn alone(isa: Isa, c: &Case, qkv: &[f32], start: usize, len: usize) -> Vec<f32> {
    let (kq, kk, kv) = (c.q_heads * c.qk_dim, c.kv_heads * c.qk_dim, c.kv_heads * c.v_dim);
    let row = kq + kk + kv;
    let cut = |at: usize, n: usize| -> Vec<f32> {
        (start..start + len).flat_map(|t| qkv[t * row + at..][..n].to_vec()).collect()
    };
    let (q, k, v) = (cut(0, kq), cut(kq, kk), cut(kq + kk, kv));
    let shape = AttentionShape {
        batch: 1,
        q_heads: c.q_heads,
        kv_heads: c.kv_heads,
        q_len: len,
        kv_len: len,
        qk_dim: c.qk_dim,
        v_dim: c.v_dim,
    };
    let mut out = vec![f32::NAN; len * c.q_heads * c.v_dim];
    let mut scratch = vec![f32::NAN; attention_scratch(isa, &Serial, shape)];
    attention(
        isa,
        &Serial,
        shape,
        Heads::seq_first(&q, len, c.q_heads, c.qk_dim),
        Heads::seq_first(&k, len, c.kv_heads, c.qk_dim),
        Heads::seq_first(&v, len, c.kv_heads, c.v_dim),
        &mut out,
        Heads::seq_first(&[], len, c.q_heads, c.v_dim).strides,
        &options(c, &mask_of(c)),
        &mut scratch,
    );
    out
}

#[test]
fn sequences_have_the_bits_they_have_alone() {
    let mut failures = Failures::default();
    for isa in isas() {
        for c in cases() {
            let mut offsets = vec![c.before];
            for len in c.lens {
                offsets.push(offsets[offsets.len() - 1] + len);
            }
            let tokens = offsets[c.lens.len()] + c.after;
            let row = (c.q_heads + c.kv_heads) * c.qk_dim + c.kv_heads * c.v_dim;
            let qkv = values(tokens * row, 5);
            let width = c.q_heads * c.v_dim;
            let mut want = vec![f32::MAX; tokens * width];
            for (i, &len) in c.lens.iter().enumerate() {
                want[offsets[i] * width..][..len * width]
                    .copy_from_slice(&alone(isa, &c, &qkv, offsets[i], len));
            }
            for threads in [1, 2, 5] {
                let got = packed(isa, &Threads(threads), &c, &qkv, &offsets);
                let what = format!("{} {}, {threads} threads", isa.level(), c.name);
                failures.same(&what, &got, &want);
            }
            let got = packed(isa, &Serial, &c, &qkv, &offsets);
            failures.same(&format!("{} {}, serial", isa.level(), c.name), &got, &want);
        }
    }
    failures.finish();
}

#[test]
fn what_does_not_fit_is_refused() {
    let c = &cases()[3];
    let qkv = values(150 * 9 * 16, 5);
    let bad = |offsets: &'static [usize], says: &str| {
        let run = || packed(Isa::best(), &Serial, c, &qkv, offsets);
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).unwrap_err();
        let message = panic.downcast_ref::<String>().cloned().unwrap_or_else(|| {
            panic.downcast_ref::<&str>().expect("a panic has a message").to_string()
        });
        assert!(message.contains(says), "{offsets:?}: {message}");
    };
    bad(&[0, 151], "at most 150 tokens");
    bad(&[0, 20, 10, 150], "must rise");
    bad(&[], "offsets need");
}
