//! Rates of attention, convolution and row kernels at every level, on one thread.
//!
//! `cargo run --release -p deepseek-kernels-cpu --example kernel_bench`

use std::time::Instant;

use deepseek_kernels_cpu::attention::*;
use deepseek_kernels_cpu::conv::*;
use deepseek_kernels_cpu::convert::copy_strided;
use deepseek_kernels_cpu::elementwise::{Binary, Rows, Unary, binary, unary};
use deepseek_kernels_cpu::norm::{Stats, layer_norm};
use deepseek_kernels_cpu::quant::quantize;
use deepseek_kernels_cpu::reduce::{Reduce, reduce};
use deepseek_kernels_cpu::softmax::softmax;
use deepseek_kernels_cpu::{Isa, Level, Serial};

/// Seconds of the best of several runs: other processes can only slow a run down.
fn best(mut run: impl FnMut()) -> f64 {
    let mut best = f64::INFINITY;
    let start = Instant::now();
    let mut runs = 0;
    while runs < 5 || (start.elapsed().as_secs_f64() < 1.5 && runs < 1000) {
        let t = Instant::now();
        run();
        best = best.min(t.elapsed().as_secs_f64());
        runs += 1;
    }
    best
}

fn fill(n: usize) -> Vec<f32> {
    (0..n).map(|i| (i % 37) as f32 / 18.0 - 1.0).collect()
}

fn main() {
    for level in Level::available_vectors() {
        let isa = Isa::at(level).expect("the level is available");
        let print = |variant: &str, rate: f64, unit: &str| {
            println!("{} {rate:.2} {unit}", isa.kernel_name("f32", variant));
        };

        for (heads, q_len, kv_len, dim, causal) in [
            (12, 128, 128, 32, false),
            (12, 512, 512, 64, false),
            (12, 512, 512, 64, true),
            (32, 1, 1024, 128, false),
        ] {
            let shape = AttentionShape {
                batch: 1,
                q_heads: heads,
                kv_heads: heads,
                q_len,
                kv_len,
                qk_dim: dim,
                v_dim: dim,
            };
            let (q, k) = (fill(heads * q_len * dim), fill(heads * kv_len * dim));
            let mut out = vec![0.0; q.len()];
            let mut scratch = vec![0.0; attention_scratch(isa, &Serial, shape)];
            let band = causal.then_some(Band::causal(0));
            let options = AttentionOptions { scale: 0.125, band, ..Default::default() };
            let qh = Heads::dense(&q, heads, q_len, dim);
            let kh = Heads::dense(&k, heads, kv_len, dim);
            let strides = qh.strides;
            let t = best(|| {
                attention(
                    isa,
                    &Serial,
                    shape,
                    qh,
                    kh,
                    kh,
                    &mut out,
                    strides,
                    &options,
                    &mut scratch,
                );
            });
            let flop = 4.0 * (heads * q_len * kv_len * dim) as f64 / if causal { 2.0 } else { 1.0 };
            let name = format!(
                "attention {heads}x{q_len}x{kv_len}x{dim}{}",
                if causal { " causal" } else { "" }
            );
            print(&name, flop / t / 1e9, "Gflop/s");
        }

        let pad =
            |n: usize, s: ConvShape| ConvShape { pad_begin: [0, n, n], pad_end: [0, n, n], ..s };
        let stride2 = |s: ConvShape| ConvShape { stride: [1, 2, 2], ..s };
        for (name, s) in [
            ("3x3 64x56x56", pad(1, ConvShape::d2(1, 64, 64, [56, 56], [3, 3]))),
            ("3x3 512x7x7", pad(1, ConvShape::d2(1, 512, 512, [7, 7], [3, 3]))),
            ("7x7/2 3x224x224", stride2(pad(3, ConvShape::d2(1, 3, 64, [224, 224], [7, 7])))),
            ("1x1 256x56x56", ConvShape::d2(1, 256, 64, [56, 56], [1, 1])),
            (
                "3x3 depthwise 96x56x56",
                ConvShape { groups: 96, ..pad(1, ConvShape::d2(1, 96, 96, [56, 56], [3, 3])) },
            ),
            (
                "3x3/2 depthwise 96x112x112",
                ConvShape {
                    groups: 96,
                    ..stride2(pad(1, ConvShape::d2(1, 96, 96, [112, 112], [3, 3])))
                },
            ),
        ] {
            let (x, w) = (fill(s.input_len()), fill(s.weights_len()));
            let mut y = vec![0.0; s.output_len()];
            let weights = ConvWeights::new(isa, &Serial, &s, &w);
            let mut scratch = vec![0.0; conv_scratch(isa, &Serial, &s)];
            let t = best(|| {
                conv(
                    isa,
                    &Serial,
                    &s,
                    &x,
                    &weights,
                    &ConvEpilogue::default(),
                    &mut y,
                    &mut scratch,
                );
            });
            let flop = 2.0 * (y.len() * s.weights_len() / s.out_channels) as f64;
            print(&format!("conv {name}"), flop / t / 1e9, "Gflop/s");
        }

        let n = 16 * 1024;
        let x: Vec<f32> = fill(n).iter().map(|v| v.abs() + 0.1).collect();
        let mut y = vec![0.0; n];
        for op in [
            Unary::Exp,
            Unary::Log,
            Unary::Tanh,
            Unary::Sigmoid,
            Unary::Erf,
            Unary::Gelu,
            Unary::Silu,
            Unary::Sin,
            Unary::Relu,
        ] {
            let t = best(|| unary(isa, &Serial, op, &x, &mut y));
            print(&format!("{op:?}"), n as f64 / t / 1e9, "Gelem/s");
        }
        let t = best(|| {
            binary(isa, &Serial, Binary::Add, 1, n, Rows::dense(&x, n), Rows::dense(&x, n), &mut y)
        });
        print("Add", n as f64 / t / 1e9, "Gelem/s");
        let t = best(|| softmax(isa, &Serial, false, 64, n / 64, 1, &x, &mut y));
        print("softmax rows of 256", n as f64 / t / 1e9, "Gelem/s");
        let w = fill(256);
        let t = best(|| {
            layer_norm(
                isa,
                &Serial,
                64,
                256,
                &x,
                Some(&w),
                Some(&w),
                1e-5,
                &mut y,
                Stats::default(),
            );
        });
        print("layer_norm rows of 256", n as f64 / t / 1e9, "Gelem/s");
        let t = best(|| reduce(isa, &Serial, Reduce::Sum, 64, n / 64, 1, &x, &mut y[..64]));
        print("sum rows of 256", n as f64 / t / 1e9, "Gelem/s");
        let t = best(|| copy_strided(&Serial, &[128, 128], &x, 0, &[1, 128], &mut y));
        print("transpose 128x128", n as f64 / t / 1e9, "Gelem/s");
        let mut q = vec![0u8; n];
        let t = best(|| quantize(isa, &Serial, (1, 1, n), &x, &[0.01], None, &mut q));
        print("quantize u8", n as f64 / t / 1e9, "Gelem/s");
    }
}
