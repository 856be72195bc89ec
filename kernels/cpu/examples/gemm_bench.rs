//! Rates of the matrix product with packed weights, as shares of the multiply-add peak measured in the
//! same process, at the best level of this processor.
//!
//! `cargo run --release -p deepseek-kernels-cpu --example gemm_bench [threads [seconds [m n k]]]`
//!
//! Each shape is the best of many short runs, since other processes can only slow a run down.

#[path = "support/pool.rs"]
mod pool;

use deepseek_kernels_cpu::elementwise::Unary;
use deepseek_kernels_cpu::gemm::{
    Bias, Epilogue, Lhs, Mat, Out, PackedB, Rhs, Shape, fma_peak, gemm, gemm_scratch, tile,
};
use deepseek_kernels_cpu::{Isa, Parallel, Serial};
use pool::{Spinning, best};

fn fill(n: usize) -> Vec<f32> {
    (0..n).map(|i| (i % 17) as f32 / 16.0 - 0.5).collect()
}

fn main() {
    let args: Vec<f64> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let threads = args.first().map_or(1, |&t| t as usize);
    let seconds = args.get(1).copied().unwrap_or(1.0);
    let shapes: Vec<(usize, usize, usize)> = match args.get(2..) {
        Some(&[m, n, k]) => vec![(m as usize, n as usize, k as usize)],
        _ => vec![
            (1024, 1024, 1024),
            (3725, 768, 768),
            (3725, 3072, 768),
            (3725, 768, 3072),
            (128, 768, 3072),
            (128, 3072, 768),
            (16, 3072, 768),
            (4, 3072, 768),
            (1, 3072, 768),
            (1, 768, 3072),
            (1, 4096, 4096),
        ],
    };
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
    let (mr, nr) = tile(isa);
    let name = isa.kernel_name("f32", &format!("gemm{mr}x{nr}"));
    println!("{name} threads {threads}, peak {peak:.1} Gflop/s");
    for (m, n, k) in shapes {
        let (a, b, bias, residual) = (fill(m * k), fill(k * n), fill(n), fill(m * n));
        // Tensors start at a line of the cache.
        let mut c = vec![0.0; m * n + 16];
        let at = c.as_ptr().align_offset(64);
        let c = &mut c[at..][..m * n];
        let shape = Shape { batch: 1, m, n, k };
        let packed = PackedB::new(isa, &Serial, k, n, Mat::dense(&b, n));
        let flop = 2.0 * (m * n * k) as f64;
        let plain = Epilogue::default();
        let biased = Epilogue { bias: Bias::Cols(&bias), ..plain };
        let cases = [
            ("packed b", Rhs::Packed(packed.view()), plain),
            (
                "packed b, bias, gelu",
                Rhs::Packed(packed.view()),
                Epilogue { activation: Some(Unary::Gelu), ..biased },
            ),
            (
                "packed b, bias, residual",
                Rhs::Packed(packed.view()),
                Epilogue { residual: Some(Mat::dense(&residual, n)), ..biased },
            ),
            ("b", Rhs::Strided(Mat::dense(&b, n)), plain),
        ];
        for (name, rhs, epilogue) in cases {
            let bp = matches!(rhs, Rhs::Packed(_));
            let mut scratch = vec![0.0; gemm_scratch(isa, &par, shape, false, bp)];
            let t = best(threads, seconds, || {
                let (a, c) = (Lhs::Strided(Mat::dense(&a, k)), Out::dense(&mut *c, n));
                gemm(isa, &par, shape, a, rhs, c, &epilogue, &mut scratch);
            });
            let rate = flop / t / 1e9;
            println!(
                "  {m}x{n}x{k} {name}: {:.3} ms, {rate:.1} Gflop/s, {:.0} % of peak, {:.1} GB/s",
                t * 1e3,
                100.0 * rate / peak,
                4.0 * (m * k + k * n + m * n) as f64 / t / 1e9
            );
        }
    }
}
