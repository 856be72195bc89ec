//! Models quantised by onnxruntime.quantization, against ONNX Runtime without graph optimisations (its
//! fusions move outputs of the encoder layer by three steps themselves), at every level that has
//! instructions of its own for products of bytes.
//!
//! The corpus is `tests/golden/quantised`; `make.py` beside it wrote it. To add a model: a case there,
//! and its line in the table here.
//!
//! Tolerance. Sums are exact on both sides; rescaling rounds in another order, so a byte may land one
//! step away where its value is within rounding of the middle between two. Each operator after it sees
//! that as one step of its input, which moves its sums by one product. An output may differ by two
//! steps, of which the range of the outputs has 255, and at most one in four by more than one.

use deepseek::isa::{self, Level};
use deepseek::{Model, RunOptions, Runtime, RuntimeOptions};
use deepseek_tensor::DType;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/quantised")
}

struct Case {
    model: &'static str,
    /// Operators on bytes that must be there after the passes, on kernels, and how often.
    ops: &'static [(&'static str, usize)],
}

const CONV: &[(&str, usize)] =
    &[("QLinearConv", 6), ("QLinearAdd", 1), ("MaxPool", 1), ("QLinearMatMul", 1)];
const BLOCK: &[(&str, usize)] = &[("QLinearMatMul", 6)];

const CASES: [Case; 7] = [
    Case { model: "conv.qdq", ops: CONV },
    Case { model: "conv.qdq-s8", ops: CONV },
    Case { model: "conv.qop", ops: CONV },
    Case { model: "conv.dynamic", ops: &[("ConvInteger", 6), ("MatMulIntegerToFloat", 1)] },
    Case { model: "block.qdq", ops: BLOCK },
    Case { model: "block.qop", ops: BLOCK },
    Case { model: "block.dynamic", ops: &[("MatMulIntegerToFloat", 6)] },
];

/// Steps that an output may differ by.
const STEPS: f32 = 2.0;

#[test]
fn quantised_models_give_what_onnx_runtime_gives() {
    let mut failures = Vec::new();
    for level in Level::available() {
        let mut bits: BTreeMap<String, Vec<u32>> = BTreeMap::new();
        for threads in [1, 2] {
            let isa = Some(isa::at(level).unwrap());
            let options = RuntimeOptions { threads, isa, ..Default::default() };
            let runtime = Runtime::new(&options).unwrap();
            for Case { model: name, ops } in CASES {
                let golden = corpus().join(format!("{name}.safetensors"));
                let golden = deepseek_import::safetensors::load(golden).unwrap();
                let path = corpus().join(format!("{name}.onnx"));
                let model = Model::open(path, &runtime).unwrap();
                let found = model.summary().ops;
                for (op, count) in ops {
                    assert_eq!(
                        found.get(*op),
                        Some(&(*count, *count)),
                        "{name}: {op} of {found:?}"
                    );
                }
                let session = model.session();
                for i in 0..2 {
                    let x = golden.get(&format!("x{i}")).unwrap().clone();
                    let want = golden.get(&format!("y{i}")).unwrap().to_vec::<f32>().unwrap();
                    assert_eq!(x.dtype(), DType::F32);
                    let got = session.run([("x".into(), x.into())], &RunOptions::default());
                    let got = got.unwrap().into_iter().next().unwrap().1;
                    let got = got.tensor().unwrap().to_vec::<f32>().unwrap();
                    let range = |v: &[f32]| {
                        let low = v.iter().copied().fold(f32::INFINITY, f32::min);
                        v.iter().copied().fold(f32::NEG_INFINITY, f32::max) - low
                    };
                    let step = range(&want) / 255.0;
                    let off: Vec<f32> =
                        got.iter().zip(&want).map(|(a, b)| (a - b).abs() / step).collect();
                    let worst = off.iter().copied().fold(0.0, f32::max);
                    let moved = off.iter().filter(|o| **o > 1.01).count();
                    if worst > STEPS || 4 * moved > off.len() {
                        failures.push(format!(
                            "{level} {name} {i}: {worst} steps, {moved} of {} moved",
                            off.len()
                        ));
                    }
                    let now: Vec<u32> = got.iter().map(|x| x.to_bits()).collect();
                    let first = bits.entry(format!("{name} {i}")).or_insert_with(|| now.clone());
                    assert_eq!(*first, now, "{level} {name}: {threads} threads give other bits");
                }
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Models of `make_nbits.py`: terms of a sum and the greatest magnitude of a weight.
const GROUPED: [(&str, usize, f32); 4] = [
    ("nbits.q4", 96, 0.03 * 16.0),
    ("nbits.q4-zeros", 80, 0.03 * 16.0),
    ("nbits.q4-floats", 64, 0.03 * 16.0),
    ("nbits.q8", 128, 0.03 * 256.0),
];

#[test]
fn weights_in_groups_give_what_onnx_runtime_gives() {
    let mut failures = Vec::new();
    for level in Level::available() {
        let isa = Some(isa::at(level).unwrap());
        let runtime =
            Runtime::new(&RuntimeOptions { threads: 2, isa, ..Default::default() }).unwrap();
        for (name, terms, weight) in GROUPED {
            let golden = corpus().join(format!("{name}.safetensors"));
            let golden = deepseek_import::safetensors::load(golden).unwrap();
            let model = Model::open(corpus().join(format!("{name}.onnx")), &runtime).unwrap();
            assert_eq!(model.summary().ops.get("MatMulNBits"), Some(&(1, 1)), "{name}");
            let session = model.session();
            for i in 0..2 {
                let x = golden.get(&format!("x{i}")).unwrap().clone();
                let want = golden.get(&format!("y{i}")).unwrap().to_vec::<f32>().unwrap();
                let rows = x.to_vec::<f32>().unwrap();
                let columns = want.len() * terms / rows.len();
                let got = session.run([("x".into(), x.into())], &RunOptions::default());
                let got = got.unwrap().into_iter().next().unwrap().1;
                let got = got.tensor().unwrap().to_vec::<f32>().unwrap();
                for (at, (a, b)) in got.iter().zip(&want).enumerate() {
                    let row = &rows[at / columns * terms..][..terms];
                    let size: f32 = row.iter().map(|x| x.abs() * weight).sum();
                    // Both sides round at each of the terms; a bias is below 4.
                    let tolerance = 2.0 * (terms as f32 + 4.0) * f32::EPSILON * (size + 4.0);
                    if (a - b).abs() > tolerance {
                        failures.push(format!("{level} {name} {i}: at {at} {a} against {b}"));
                        break;
                    }
                }
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
