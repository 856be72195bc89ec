//! Memory that a burst took goes back to the system. One test, in a process of its own,
//! because it counts what the whole process holds.
//!
//! `DEEPSEEK_MIXED_SHAPES` sets how many shapes are run one after the other (default 2,000).
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use deepseek_graph::{Bindings, text};
use deepseek_runtime::{Plan, Runtime, RuntimeOptions, Session};
use deepseek_tensor::{Tensor, heap_bytes};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

const MIB: usize = 1 << 20;

/// Two products around elementwise work and a softmax; all of it on kernels.
const GRAPH: &str = "graph \"g\" {
    input %x: f32[n, 1024]
    const %w: f32[1024, 1024] = @w
    const %v: f32[1024, 256] = @v
    %a = MatMul(%x, %w)
    %b = Gelu(%a)
    %c = Add(%b, %x)
    %d = Softmax(%c) {axis = -1}
    %e = MatMul(%d, %v)
    output \"e\" = %e }";

/// Bytes of anonymous memory that is resident; code and mapped files do not count.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|l| l.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

fn input(rows: usize) -> Tensor {
    Tensor::from_vec(&[rows, 1024], vec![0.01f32; rows * 1024]).unwrap()
}

fn planned(plan: &Plan, rows: usize) -> usize {
    let mut at = Bindings::new();
    at.bind("n", rows as i64).unwrap();
    plan.memory(&at).unwrap().planned_bytes() as usize
}

#[test]
fn arenas_shrink_and_pages_return() {
    let options = RuntimeOptions { threads: 2, ..RuntimeOptions::default() };
    let runtime = Runtime::new(&options).unwrap();
    let start = resident();
    let weights = |shape: [usize; 2]| Tensor::zeros(deepseek_tensor::DType::F32, &shape).unwrap();
    let constants = BTreeMap::from([
        ("w".to_owned(), weights([1024, 1024])),
        ("v".to_owned(), weights([1024, 256])),
    ]);
    let plan = Arc::new(Plan::new(text::parse(GRAPH, &constants).unwrap(), &runtime).unwrap());
    drop(constants);
    let mut session = Session::new(plan.clone());

    // What is allocated is what was planned, at every moment and at the end.
    for rows in [3, 700, 64] {
        session.trim();
        let x = input(rows);
        let before = heap_bytes();
        let (stop, most) = (AtomicBool::new(false), AtomicUsize::new(0));
        let outputs = std::thread::scope(|s| {
            s.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    most.fetch_max(heap_bytes() - before, Ordering::Relaxed);
                }
            });
            let outputs = session.run_tensors(vec![x]).unwrap();
            most.fetch_max(heap_bytes() - before, Ordering::Relaxed);
            stop.store(true, Ordering::Relaxed);
            outputs
        });
        // The input went with the run.
        let held = heap_bytes() + rows * 4096 - before;
        assert_eq!(held, planned(&plan, rows), "{rows} rows");
        assert!(most.into_inner() <= planned(&plan, rows), "{rows} rows");
        assert_eq!(session.observed_bytes() as usize, planned(&plan, rows));
        drop(outputs);
    }

    // A burst, then small runs: the arena follows after a few of them.
    session.run_tensors(vec![input(8)]).unwrap();
    let (small, idle) = (session.held_bytes(), resident());
    session.run_tensors(vec![input(12_000)]).unwrap();
    assert!(session.held_bytes() > 40 << 20);
    assert!(resident() > idle + 30 * MIB);
    for _ in 0..9 {
        session.run_tensors(vec![input(8)]).unwrap();
    }
    assert!(session.held_bytes() <= small * 4 / 3);
    let after = resident();
    assert!(after < idle + 4 * MIB, "{idle} idle, {after} after the burst");

    // Shapes in any order leave nothing behind.
    let shapes = std::env::var("DEEPSEEK_MIXED_SHAPES").map_or(2_000, |n| n.parse().unwrap());
    let mut at = 1usize;
    let mut run_some = |count: usize| {
        for _ in 0..count {
            at = (at * 1103 + 17) % 127;
            session.run_tensors(vec![input(1 + at)]).unwrap();
        }
        resident()
    };
    let warm = run_some(shapes / 4);
    let end = run_some(shapes);
    assert!(end < warm + MIB, "{warm} warm, {end} after {shapes} shapes");

    // Unloading: weights, packed weights and arenas all go.
    drop(session);
    drop(plan);
    let gone = resident();
    assert!(gone < start + 4 * MIB, "{start} at the start, {gone} after unloading");
    assert_eq!(runtime.reserved_bytes(), 0);
}
