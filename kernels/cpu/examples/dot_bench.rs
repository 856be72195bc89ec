//! Rates of 8-bit and bf16 products with packed weights at every level of this processor, as shares of
//! the peak of their instructions measured in the same process.
//!
//! `cargo run --release -p deepseek-kernels-cpu --example dot_bench [threads [seconds [m n k]]]
//! [NAME]`, NAME the beginning of the names of kernels
//!
//! Each shape is the best of many short runs, since other processes can only slow a run down.

#[path = "support/pool.rs"]
mod pool;

use deepseek_kernels_cpu::gemm::{
    ByteMat, ByteOut, Bytes, Epilogue, Mat, Out, PackedBf16, PackedI8, Zeros, bf16_arch,
    dot_peak_bf16, dot_peak_i8, gemm_bf16, gemm_bf16_scratch, gemm_i8, gemm_i8_scratch, int8_arch,
};
use deepseek_kernels_cpu::{Isa, Level, Parallel, Serial};
use pool::{Spinning, best};

fn main() {
    let only = std::env::args().skip(1).find(|a| a.parse::<f64>().is_err());
    let args: Vec<f64> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let threads = args.first().map_or(1, |&t| t as usize);
    let seconds = args.get(1).copied().unwrap_or(0.5);
    let shapes: Vec<(usize, usize, usize)> = match args.get(2..) {
        Some(&[m, n, k]) => vec![(m as usize, n as usize, k as usize)],
        _ => vec![
            (1024, 1024, 1024),
            (128, 768, 768),
            (128, 3072, 768),
            (128, 768, 3072),
            (1, 768, 768),
        ],
    };
    let par = Spinning::new(threads);
    let steps = 1 << 14;
    let mut done = Vec::new();
    for isa in Level::available().filter_map(Isa::at) {
        let peak = |run: &(dyn Fn(usize) -> f64 + Sync)| {
            let time = best(threads, seconds, || {
                par.run(threads, &|_| {
                    run(steps);
                });
            });
            run(steps) * threads as f64 / time / 1e9
        };
        let cases = [
            (format!("{}-u8s8s32", int8_arch(isa)), true),
            (format!("{}-bf16bf16f32", bf16_arch(isa)), false),
        ];
        for (name, bytes) in cases {
            if done.contains(&name) || only.as_ref().is_some_and(|o| !name.starts_with(o.as_str()))
            {
                continue;
            }
            let peak = match bytes {
                true => peak(&|steps| dot_peak_i8(isa, steps)),
                false => peak(&|steps| dot_peak_bf16(isa, steps)),
            };
            println!("{name} threads {threads}, peak {peak:.0} Gop/s");
            for &(m, n, k) in &shapes {
                let print = |what: &str, t: f64| {
                    let rate = 2.0 * (m * n * k) as f64 / t / 1e9;
                    let share = 100.0 * rate / peak;
                    println!(
                        "  {m}x{n}x{k} {what}: {:.4} ms, {rate:.0} Gop/s, {share:.0} %",
                        t * 1e3
                    );
                };
                let mut floats = vec![0.0f32; m * n + 16];
                let at = floats.as_ptr().align_offset(64);
                let floats = &mut floats[at..][..m * n];
                if bytes {
                    let mut a = vec![0u8; m * k + 64];
                    let at = a.as_ptr().align_offset(64);
                    let a = &mut a[at..][..m * k];
                    a.iter_mut().enumerate().for_each(|(i, a)| *a = (i * 31 % 256) as u8);
                    let b: Vec<i8> = (0..n * k).map(|i| (i * 17 % 256) as u8 as i8).collect();
                    let mat = ByteMat { data: Bytes::I8(&b), row: n, col: 1 };
                    let packed = PackedI8::new(isa, k, n, mat, Zeros::One(0));
                    let mut scratch = vec![0.0; gemm_i8_scratch(isa, &par, k)];
                    let a = ByteMat { data: Bytes::U8(a), row: k, col: 1 };
                    let (mut ints, mut bytes) = (vec![0i32; m * n], vec![0u8; m * n]);
                    let scales = vec![0.001f32; n];
                    let t = best(threads, seconds, || {
                        let out = ByteOut::I32 { c: &mut ints, row: n };
                        gemm_i8(isa, &par, m, a, 3, &packed, out, &mut scratch);
                    });
                    print("s32", t);
                    let t = best(threads, seconds, || {
                        let (bias, col_scale) = (Some(&scales[..]), &scales[..]);
                        let (scale, activation) = (&[0.1][..], None);
                        let out =
                            ByteOut::F32 { scale, col_scale, bias, activation, c: floats, row: n };
                        gemm_i8(isa, &par, m, a, 3, &packed, out, &mut scratch);
                    });
                    print("f32", t);
                    let t = best(threads, seconds, || {
                        let scale = &scales[..];
                        let out = ByteOut::U8 { scale, bias: None, zero: 3, c: &mut bytes, row: n };
                        gemm_i8(isa, &par, m, a, 3, &packed, out, &mut scratch);
                    });
                    print("u8", t);
                } else {
                    let a: Vec<f32> = (0..m * k).map(|i| (i % 17) as f32 / 16.0 - 0.5).collect();
                    let b: Vec<f32> = (0..n * k).map(|i| (i % 13) as f32 / 16.0 - 0.5).collect();
                    let packed = PackedBf16::new(isa, &Serial, k, n, Mat::dense(&b, n));
                    let mut scratch = vec![0.0; gemm_bf16_scratch(isa, &par, k, n)];
                    let t = best(threads, seconds, || {
                        let (a, c) = (Mat::dense(&a, k), Out::dense(&mut *floats, n));
                        let epilogue = Epilogue::default();
                        gemm_bf16(isa, &par, m, a, &packed, c, &epilogue, &mut scratch);
                    });
                    print("f32", t);
                }
            }
            done.push(name);
        }
    }
}
