//! Rates of attention over lengths, as shares of the multiply-add peak measured in the same process.
//!
//! `cargo run --release -p deepseek-kernels-cpu --example attn_bench [threads [seconds [longest]]]`
//!
//! Operations are counted as `4 q_len kv_len dim heads`, half of that for causal. Each shape is the
//! best of many short runs, since other processes can only slow a run down.

#[path = "support/pool.rs"]
mod pool;

use deepseek_kernels_cpu::attention::{
    AttentionOptions, AttentionShape, Band, Heads, attention, attention_scratch,
};
use deepseek_kernels_cpu::gemm::fma_peak;
use deepseek_kernels_cpu::{Isa, Parallel};
use pool::{Spinning, best};

fn fill(n: usize, seed: usize) -> Vec<f32> {
    let mut x = seed as u64 | 1;
    (0..n)
        .map(|_| {
            // The sum of four uniform values is close enough to a normal one.
            let mut sum = -2.0;
            for _ in 0..4 {
                x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                sum += (x >> 40) as f32 / (1 << 24) as f32;
            }
            sum * 1.732
        })
        .collect()
}

fn main() {
    let args: Vec<f64> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let threads = args.first().map_or(1, |&t| t as usize);
    let seconds = args.get(1).copied().unwrap_or(1.0);
    let longest = args.get(2).map_or(usize::MAX, |&n| n as usize);
    let isa = Isa::best();
    let par = Spinning::new(threads);
    let steps = 1 << 18;
    let peak = fma_peak(isa, steps) * threads as f64
        / best(threads, seconds, || {
            par.run(threads, &|_| {
                fma_peak(isa, steps);
            });
        })
        / 1e9;
    println!("{} threads {threads}, peak {peak:.1} Gflop/s", isa.level());
    let lengths = [128, 256, 512, 1024, 2048, 4096, 8192];
    let dense = lengths.map(|n| (12, 12, n, 64, false, false));
    let causal = lengths.map(|n| (32, 8, n, 128, true, false));
    let seq_first = [
        (12, 12, 128, 64, false, true),
        (12, 12, 1024, 64, false, true),
        (32, 8, 1024, 128, true, true),
    ];
    for (heads, kv_heads, n, dim, causal, seq_first) in
        dense.into_iter().chain(causal).chain(seq_first).filter(|c| c.2 <= longest)
    {
        let (q_len, kv_len) = (n, n);
        let shape = AttentionShape {
            batch: 1,
            q_heads: heads,
            kv_heads,
            q_len,
            kv_len,
            qk_dim: dim,
            v_dim: dim,
        };
        let q = fill(heads * n * dim, 1);
        let (k, v) = (fill(kv_heads * n * dim, 2), fill(kv_heads * n * dim, 3));
        let view = |t, heads| {
            if seq_first {
                Heads::seq_first(t, n, heads, dim)
            } else {
                Heads::dense(t, heads, n, dim)
            }
        };
        let (qh, kh, vh) = (view(&q[..], heads), view(&k[..], kv_heads), view(&v[..], kv_heads));
        let mut out = vec![0.0; q.len()];
        let mut scratch = vec![0.0; attention_scratch(isa, &par, shape)];
        let options = AttentionOptions {
            scale: 1.0 / (dim as f32).sqrt(),
            band: causal.then_some(Band::causal(0)),
            ..Default::default()
        };
        let t = best(threads, seconds, || {
            attention(isa, &par, shape, qh, kh, vh, &mut out, qh.strides, &options, &mut scratch);
        });
        let flop = 4.0 * (heads * n * n * dim) as f64 / if causal { 2.0 } else { 1.0 };
        let rate = flop / t / 1e9;
        println!(
            "{heads}/{kv_heads}x{n}x{dim}{}{}: {:.3} ms, {rate:.1} Gflop/s, {:.0} % of peak",
            if causal { " causal" } else { "" },
            if seq_first { " seq-first" } else { "" },
            t * 1e3,
            100.0 * rate / peak
        );
    }
}
