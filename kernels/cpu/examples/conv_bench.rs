//! Rates of blocked and of plain convolutions against the peak of multiply-adds, on one thread.
//!
//! `cargo run --release -p deepseek-kernels-cpu --example conv_bench [avx2]`

use deepseek_kernels_cpu::blocked::lanes;
use deepseek_kernels_cpu::conv::*;
use deepseek_kernels_cpu::gemm::fma_peak;
use deepseek_kernels_cpu::{Isa, Level, Serial};
use std::time::Instant;

/// `n` floats, the first at an address that is a multiple of 64.
struct Floats(Vec<f32>, usize);

impl Floats {
    fn new(n: usize) -> Floats {
        let v: Vec<f32> = (0..n + 16).map(|i| (i % 37) as f32 / 18.0 - 1.0).collect();
        let skip = v.as_ptr().align_offset(64);
        Floats(v, skip)
    }

    fn at(&mut self, n: usize) -> &mut [f32] {
        &mut self.0[self.1..][..n]
    }
}

fn once(run: &mut dyn FnMut()) -> f64 {
    let t = Instant::now();
    run();
    t.elapsed().as_secs_f64()
}

fn main() {
    let level = std::env::args().nth(1).and_then(|name| Level::from_name(&name));
    let isa = level.and_then(Isa::at).unwrap_or(Isa::best());
    // Channels in and out, image, window, stride, groups.
    let layers = [
        ("first 7x7", 3, 64, 224, 7, 2, 1),
        ("first 3x3", 3, 16, 640, 3, 2, 1),
        ("1x1", 64, 64, 56, 1, 1, 1),
        ("1x1", 64, 256, 56, 1, 1, 1),
        ("1x1", 256, 64, 56, 1, 1, 1),
        ("1x1", 512, 128, 28, 1, 1, 1),
        ("1x1", 1024, 256, 14, 1, 1, 1),
        ("1x1", 256, 1024, 14, 1, 1, 1),
        ("1x1", 2048, 512, 7, 1, 1, 1),
        ("1x1 s2", 512, 1024, 28, 1, 2, 1),
        ("3x3", 16, 16, 160, 3, 1, 1),
        ("3x3", 64, 64, 56, 3, 1, 1),
        ("3x3", 128, 128, 28, 3, 1, 1),
        ("3x3", 256, 256, 14, 3, 1, 1),
        ("3x3", 512, 512, 7, 3, 1, 1),
        ("3x3", 64, 64, 80, 3, 1, 1),
        ("3x3", 128, 128, 20, 3, 1, 1),
        ("3x3 s2", 128, 128, 56, 3, 2, 1),
        ("3x3 s2", 512, 512, 14, 3, 2, 1),
        ("depthwise", 64, 64, 112, 3, 1, 64),
        ("depthwise", 240, 240, 14, 5, 1, 240),
        ("depthwise s2", 72, 72, 56, 5, 2, 72),
        ("depthwise", 960, 960, 7, 5, 1, 960),
    ];
    for (name, cin, cout, size, k, stride, groups) in layers {
        let shape = ConvShape {
            groups,
            stride: [1, stride, stride],
            pad_begin: [0, k / 2, k / 2],
            pad_end: [0, k / 2, k / 2],
            ..ConvShape::d2(1, cin, cout, [size, size], [k, k])
        };
        let fill = |n: usize| (0..n).map(|i| (i % 37) as f32 / 18.0 - 1.0).collect::<Vec<_>>();
        let planes = cin < 4;
        let Some(reads) = shape.reads_blocked(planes) else { continue };
        let w = fill(shape.weights_len());
        let pad = |c: usize| c.next_multiple_of(lanes(isa));
        let plane: usize = shape.output().iter().product();
        let (inputs, outputs) =
            (if planes { cin } else { pad(cin) } * size * size, pad(cout) * plane);
        let (mut x, mut y) = (Floats::new(inputs), Floats::new(outputs));
        let (x, y) = (&*x.at(inputs), y.at(outputs));
        let weights = BlockedWeights::new(isa, &Serial, &shape, reads, &w);
        let mut work = Floats::new(weights.scratch(isa, &Serial));
        let work = work.at(weights.scratch(isa, &Serial));
        let plain = ConvWeights::new(isa, &Serial, &shape, &w);
        let e = ConvEpilogue::default();
        let mut scratch = vec![0.0; conv_scratch(isa, &Serial, &shape)];
        let (mut peak, mut new, mut old) = (0.0f64, f64::INFINITY, f64::INFINITY);
        let start = Instant::now();
        while start.elapsed().as_secs_f64() < 0.6 {
            let t = Instant::now();
            let flop = fma_peak(isa, 20_000);
            peak = peak.max(flop / t.elapsed().as_secs_f64());
            new =
                new.min(once(&mut || conv_blocked(isa, &Serial, &shape, x, &weights, &e, y, work)));
            let (x, y) = (&x[..shape.input_len()], &mut y[..shape.output_len()]);
            old = old.min(once(&mut || {
                conv(isa, &Serial, &shape, x, &plain, &e, y, &mut scratch);
            }));
        }
        let flop = 2.0 * (shape.output_len() * cin / groups * k * k) as f64;
        println!(
            "{} {cin:>4} -> {cout:>4} at {size:>3}: blocked {:6.1} GFLOP/s, {:.2} of {:.1}; plain {:6.1}",
            isa.kernel_name("f32", name),
            flop / new / 1e9,
            flop / new / peak,
            peak / 1e9,
            flop / old / 1e9,
        );
    }
}
