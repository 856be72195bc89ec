//! Attention against a plain double-precision softmax, and the promises about bits.
//! Add a case to `CASES`.

mod common;
use common::{Failures, Threads, isas, values};
use deepseek_kernels_cpu::attention::*;
use deepseek_kernels_cpu::{Isa, Parallel, Serial};

struct Case {
    name: &'static str,
    shape: [usize; 7],
    softcap: Option<f32>,
    band: Option<Band>,
    mask: &'static str,
    lens: Option<Vec<usize>>,
    seq_first: bool,
    scale: f32,
}

fn cases() -> Vec<Case> {
    let plain = |name, shape| Case {
        name,
        shape,
        softcap: None,
        band: None,
        mask: "",
        lens: None,
        seq_first: false,
        scale: 1.7,
    };
    let band = |offset, before, after| Some(Band { offset, before, after });
    let causal = |offset, window: Option<usize>| band(offset, window.map(|w| w - 1), Some(0));
    vec![
        plain("one", [1, 1, 1, 1, 1, 1, 1]),
        plain("odd", [2, 3, 3, 7, 13, 5, 9]),
        plain("blocks", [1, 2, 2, 70, 130, 32, 32]),
        plain("long", [1, 1, 1, 33, 600, 64, 64]),
        plain("decode, grouped", [2, 8, 2, 1, 300, 64, 64]),
        plain("no keys", [1, 2, 2, 3, 0, 4, 4]),
        Case { band: causal(0, None), ..plain("causal", [1, 4, 2, 100, 100, 16, 16]) },
        Case { band: causal(60, None), ..plain("causal, cache", [1, 2, 1, 40, 100, 16, 24]) },
        Case { band: causal(-5, None), ..plain("causal, blind rows", [1, 2, 1, 20, 30, 16, 8]) },
        Case { band: causal(0, Some(10)), ..plain("window", [1, 2, 1, 200, 200, 8, 8]) },
        Case { band: band(0, Some(7), Some(3)), ..plain("band", [1, 2, 1, 150, 150, 8, 8]) },
        Case { band: band(2, None, Some(5)), ..plain("some ahead", [1, 2, 1, 70, 90, 8, 8]) },
        Case { band: band(0, Some(9), None), ..plain("some behind", [1, 2, 1, 70, 130, 8, 8]) },
        Case { softcap: Some(2.0), ..plain("softcap", [1, 2, 2, 20, 30, 16, 16]) },
        Case { mask: "add", ..plain("add", [2, 2, 2, 17, 80, 8, 8]) },
        Case { mask: "key", ..plain("key padding", [3, 2, 2, 17, 80, 8, 8]) },
        Case { mask: "keep", ..plain("keep", [2, 4, 2, 30, 70, 8, 8]) },
        Case { lens: Some(vec![3, 70, 0]), ..plain("lengths", [3, 2, 2, 9, 80, 8, 8]) },
        Case { scale: 40.0, ..plain("rising scores", [1, 2, 2, 50, 700, 16, 16]) },
        Case { scale: -40.0, ..plain("negative scale", [1, 2, 2, 50, 300, 16, 16]) },
        Case {
            band: causal(9, Some(70)),
            mask: "add",
            ..plain("window, add, grouped", [2, 6, 2, 90, 200, 20, 12])
        },
        Case { seq_first: true, ..plain("seq first, wide", [2, 4, 2, 150, 210, 33, 40]) },
        Case { seq_first: true, ..plain("seq first", [2, 4, 4, 33, 65, 16, 16]) },
        // Enough keys that blocks are fetched ahead and tasks take more rows.
        plain("far", [1, 1, 1, 70, 2050, 40, 24]),
        Case {
            seq_first: true,
            band: causal(600, None),
            ..plain("far, causal", [1, 2, 1, 135, 735, 96, 96])
        },
        // Rows that are a page apart.
        Case { seq_first: true, ..plain("pages", [1, 16, 16, 70, 130, 64, 64]) },
    ]
}

fn shape_of(c: &Case) -> AttentionShape {
    let [batch, q_heads, kv_heads, q_len, kv_len, qk_dim, v_dim] = c.shape;
    AttentionShape { batch, q_heads, kv_heads, q_len, kv_len, qk_dim, v_dim }
}

fn heads(data: &[f32], seq_first: bool, heads: usize, seq: usize, dim: usize) -> Heads<'_> {
    if seq_first {
        Heads::seq_first(data, seq, heads, dim)
    } else {
        Heads::dense(data, heads, seq, dim)
    }
}

#[expect(clippy::too_many_arguments, reason = "the arguments of the kernel")]
fn run(
    isa: Isa,
    par: &dyn Parallel,
    s: AttentionShape,
    q: Heads<'_>,
    k: Heads<'_>,
    v: Heads<'_>,
    o: &AttentionOptions<'_>,
    strides: [usize; 4],
) -> Vec<f32> {
    let mut out = vec![f32::NAN; s.batch * s.q_heads * s.q_len * s.v_dim];
    let mut scratch = vec![f32::NAN; attention_scratch(isa, par, s)];
    attention(isa, par, s, q, k, v, &mut out, strides, o, &mut scratch);
    out
}

#[test]
fn attention_agrees_with_double_precision() {
    let mut failures = Failures::default();
    for isa in isas() {
        for c in cases() {
            let s = shape_of(&c);
            let q = values(s.batch * s.q_heads * s.q_len * s.qk_dim, 1);
            let k = values(s.batch * s.kv_heads * s.kv_len * s.qk_dim, 2);
            let v = values(s.batch * s.kv_heads * s.kv_len * s.v_dim, 3);
            let dense = [s.q_heads * s.q_len * s.kv_len, s.q_len * s.kv_len, s.kv_len, 1];
            let mut add = values(s.batch * s.q_heads * s.q_len * s.kv_len, 4);
            let keep: Vec<bool> = add.iter().map(|&x| x > 0.3).collect();
            for x in add.iter_mut().step_by(5) {
                *x = f32::NEG_INFINITY;
            }
            let (mask, mask_strides) = match c.mask {
                "add" => (Mask::Add(&add, dense), dense),
                "key" => (Mask::Add(&add, [s.kv_len, 0, 0, 1]), [s.kv_len, 0, 0, 1]),
                "keep" => (Mask::Keep(&keep, dense), dense),
                _ => (Mask::None, dense),
            };
            let o = AttentionOptions {
                scale: c.scale,
                softcap: c.softcap,
                band: c.band,
                mask,
                kv_lens: c.lens.as_deref(),
            };
            let (qh, kh, vh) = (
                heads(&q, c.seq_first, s.q_heads, s.q_len, s.qk_dim),
                heads(&k, c.seq_first, s.kv_heads, s.kv_len, s.qk_dim),
                heads(&v, c.seq_first, s.kv_heads, s.kv_len, s.v_dim),
            );
            let strides = heads(&[], c.seq_first, s.q_heads, s.q_len, s.v_dim).strides;
            let got = run(isa, &Serial, s, qh, kh, vh, &o, strides);

            let mut want = vec![0.0; got.len()];
            let mut largest = 0f64;
            for b in 0..s.batch {
                for h in 0..s.q_heads {
                    let kv_h = h / (s.q_heads / s.kv_heads);
                    for i in 0..s.q_len {
                        let len = c.lens.as_ref().map_or(s.kv_len, |l| l[b]);
                        let mut scores = vec![];
                        for j in 0..s.kv_len {
                            let at = |t: &Heads<'_>, h: usize, r: usize, d: usize| {
                                f64::from(
                                    t.data[b * t.strides[0]
                                        + h * t.strides[1]
                                        + r * t.strides[2]
                                        + d * t.strides[3]],
                                )
                            };
                            let dot: f64 =
                                (0..s.qk_dim).map(|d| at(&qh, h, i, d) * at(&kh, kv_h, j, d)).sum();
                            let mut x = dot * f64::from(o.scale);
                            if let Some(cap) = c.softcap {
                                x = f64::from(cap) * (x / f64::from(cap)).tanh();
                            }
                            largest = largest.max(x.abs());
                            let m =
                                b * mask_strides[0] + h * mask_strides[1] + i * mask_strides[2] + j;
                            x += match o.mask {
                                Mask::None => 0.0,
                                Mask::Add(mask, _) => f64::from(mask[m]),
                                Mask::Keep(mask, _) => {
                                    if mask[m] {
                                        0.0
                                    } else {
                                        f64::NEG_INFINITY
                                    }
                                }
                            };
                            let p = i as isize + c.band.map_or(0, |b| b.offset);
                            let hidden = c.band.is_some_and(|band| {
                                band.after.is_some_and(|a| j as isize > p + a as isize)
                                    || band.before.is_some_and(|b| (j as isize) < p - b as isize)
                            });
                            scores.push(if hidden || j >= len { f64::NEG_INFINITY } else { x });
                        }
                        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                        if max == f64::NEG_INFINITY {
                            continue;
                        }
                        let sum: f64 = scores.iter().map(|x| (x - max).exp()).sum();
                        for d in 0..s.v_dim {
                            let y: f64 = (0..s.kv_len)
                                .map(|j| {
                                    let value = vh.data[b * vh.strides[0]
                                        + kv_h * vh.strides[1]
                                        + j * vh.strides[2]
                                        + d];
                                    (scores[j] - max).exp() * f64::from(value)
                                })
                                .sum();
                            want[b * strides[0] + h * strides[1] + i * strides[2] + d] = y / sum;
                        }
                    }
                }
            }
            // The statement of the module, with |v| <= 1.
            let terms = (s.qk_dim + BLOCK + s.kv_len / BLOCK + 8) as f64;
            let tol = 2.0 * terms * f64::from(f32::EPSILON) * (1.0 + largest);
            let what = format!("{} {}", isa.level(), c.name);
            failures.close(&what, &got, &want, |_| tol);
            for threads in [2, 5] {
                let again = run(isa, &Threads(threads), s, qh, kh, vh, &o, strides);
                failures.same(&format!("{what}, {threads} threads"), &again, &got);
            }
        }
    }
    failures.finish();
}

#[test]
fn a_row_of_lowest_numbers_is_a_mean_and_one_of_infinities_is_zero() {
    for isa in isas() {
        let s = AttentionShape {
            batch: 1,
            q_heads: 1,
            kv_heads: 1,
            q_len: 40,
            kv_len: 100,
            qk_dim: 8,
            v_dim: 1,
        };
        let (q, k) = (values(40 * 8, 1), values(100 * 8, 2));
        let v: Vec<f32> = (0..100).map(|j| j as f32).collect();
        let (qh, kh, vh) =
            (Heads::dense(&q, 1, 40, 8), Heads::dense(&k, 1, 100, 8), Heads::dense(&v, 1, 100, 1));
        for (hidden, want) in [(f32::MIN, 49.5f32), (f32::NEG_INFINITY, 0.0)] {
            // Rows 3 and 20 are hidden whole, with and without neighbours that are not.
            let mask: Vec<f32> = (0..40 * 100)
                .map(|i| if matches!(i / 100, 3 | 20) { hidden } else { 0.0 })
                .collect();
            let all = vec![hidden; 100];
            for (mask, strides, rows) in
                [(&mask, [0, 0, 100, 1], vec![3, 20]), (&all, [0, 0, 0, 1], (0..40).collect())]
            {
                let mask = Mask::Add(mask, strides);
                let o = AttentionOptions { scale: 1.0, mask, ..Default::default() };
                let got = run(isa, &Serial, s, qh, kh, vh, &o, [0, 0, 1, 1]);
                for row in rows {
                    let x = got[row];
                    assert!((x - want).abs() <= 1e-4, "{} {hidden} row {row}: {x}", isa.level());
                }
            }
        }
    }
}

#[test]
fn a_nan_stays_in_its_row() {
    for isa in isas() {
        let s = AttentionShape {
            batch: 1,
            q_heads: 1,
            kv_heads: 1,
            q_len: 5,
            kv_len: 150,
            qk_dim: 8,
            v_dim: 4,
        };
        let (mut q, k, v) = (values(5 * 8, 1), values(150 * 8, 2), values(150 * 4, 3));
        q[2 * 8] = f32::NAN;
        let (qh, kh, vh) =
            (Heads::dense(&q, 1, 5, 8), Heads::dense(&k, 1, 150, 8), Heads::dense(&v, 1, 150, 4));
        for band in [None, Some(Band::causal(100))] {
            let o = AttentionOptions { scale: 1.0, band, ..Default::default() };
            let got = run(isa, &Serial, s, qh, kh, vh, &o, [0, 0, 4, 1]);
            for (i, x) in got.iter().enumerate() {
                assert_eq!(x.is_nan(), i / 4 == 2, "{} at {i}: {x}", isa.level());
            }
        }
    }
}

#[test]
fn hidden_keys_and_other_queries_do_not_change_bits() {
    let mut failures = Failures::default();
    let (heads, dim) = (2, 16);
    for isa in isas() {
        for kv in [1, 37, 64, 100] {
            let padded = kv + 91;
            let (q, k, v) = (
                values(heads * 40 * dim, 1),
                values(heads * padded * dim, 2),
                values(heads * padded * dim, 3),
            );
            let shape = |q_len, kv_len| AttentionShape {
                batch: 1,
                q_heads: heads,
                kv_heads: heads,
                q_len,
                kv_len,
                qk_dim: dim,
                v_dim: dim,
            };
            // Tensors of full length read with their own strides, so a prefix is a smaller shape.
            let (qh, kh, vh) = (
                Heads::dense(&q, heads, 40, dim),
                Heads::dense(&k, heads, padded, dim),
                Heads::dense(&v, heads, padded, dim),
            );
            let strides = |q_len: usize| [0, q_len * dim, dim, 1];
            let o = AttentionOptions { scale: 0.25, ..Default::default() };
            let plain = run(isa, &Serial, shape(40, kv), qh, kh, vh, &o, strides(40));
            let mask: Vec<f32> =
                (0..padded).map(|j| if j < kv { 0.0 } else { f32::NEG_INFINITY }).collect();
            let lowest: Vec<f32> =
                (0..padded).map(|j| if j < kv { 0.0 } else { f32::MIN }).collect();
            let keep: Vec<bool> = (0..padded).map(|j| j < kv).collect();
            for (name, mask) in [
                ("-inf", Mask::Add(&mask, [0, 0, 0, 1])),
                ("lowest", Mask::Add(&lowest, [0, 0, 0, 1])),
                ("keep", Mask::Keep(&keep, [0, 0, 0, 1])),
            ] {
                let o = AttentionOptions { mask, ..o };
                let masked = run(isa, &Serial, shape(40, padded), qh, kh, vh, &o, strides(40));
                failures.same(&format!("{} {kv} keys, {name}", isa.level()), &masked, &plain);
            }
            let lens = [kv];
            let o_lens = AttentionOptions { kv_lens: Some(&lens), ..o };
            let cut = run(isa, &Serial, shape(40, padded), qh, kh, vh, &o_lens, strides(40));
            failures.same(&format!("{} {kv} keys, length", isa.level()), &cut, &plain);
            for rows in [1, 3, 9, 17] {
                let few = run(isa, &Serial, shape(rows, kv), qh, kh, vh, &o, strides(rows));
                for h in 0..heads {
                    let want = &plain[h * 40 * dim..][..rows * dim];
                    failures.same(
                        &format!("{} {rows} rows, head {h}", isa.level()),
                        &few[h * rows * dim..][..rows * dim],
                        want,
                    );
                }
            }
        }
    }
    failures.finish();
}
