//! Models that the library itself brings to bytes: accuracy on real data, the same bits however they run,
//! what reports say, and bad input.
//!
//! The net and the data under `tests/golden/digits`, and `passages.json`, are made by the programs beside
//! them. Floors of accuracy are those of the project: 99.5 % of f32 top-1 under `auto`, 99 % of f32 recall.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use deepseek::isa::{self, Level};
use deepseek::precision::{ACCURACY_FLOOR, Precision};
use deepseek::precision::{Calibration, Metric, PrecisionOptions, RangeMethod, Sample, Target};
use deepseek::{
    Code, Embedder, Model, ModelOptions, RunOptions, Runtime, RuntimeOptions, Tensor, Value,
};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const INT8: Target = Target::Only(Precision::Int8);

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(name)
}

fn runtime(threads: usize) -> Runtime {
    Runtime::new(&RuntimeOptions { threads, ..Default::default() }).unwrap()
}

/// Pixels 0 to 16 as images `[n, 1, 8, 8]` of 0 to 1.
fn images(t: &Tensor) -> Tensor {
    let pixels = t.to_vec::<u8>().unwrap().into_iter().map(|p| f32::from(p) / 16.0).collect();
    Tensor::from_vec(&[t.shape()[0], 1, 8, 8], pixels).unwrap()
}

struct Digits {
    calibration: Sample,
    test: Tensor,
    labels: Vec<u8>,
}

fn digits() -> Digits {
    let data = deepseek_import::safetensors::load(golden("digits/digits.safetensors")).unwrap();
    Digits {
        calibration: vec![("x".to_owned(), images(data.get("calibration").unwrap()))],
        test: images(data.get("test").unwrap()),
        labels: data.get("labels").unwrap().to_vec().unwrap(),
    }
}

fn compiled(runtime: &Runtime, options: PrecisionOptions) -> deepseek::Result<Model> {
    let options = ModelOptions { precision: Some(options), ..Default::default() };
    Model::open_with(golden("digits/digits.onnx"), runtime, &options)
}

fn stacked(d: &Digits) -> Calibration {
    Calibration::Stacked(vec![d.calibration.clone()])
}

fn logits(model: &Model, x: &Tensor) -> Vec<f32> {
    let inputs = [("x".to_owned(), x.clone().into())];
    let outputs = model.session().run(inputs, &RunOptions::default()).unwrap();
    outputs.first().unwrap().1.tensor().unwrap().to_vec().unwrap()
}

fn report(model: &Model) -> serde_json::Value {
    serde_json::from_str(model.precision_report().unwrap()).unwrap()
}

fn right(logits: &[f32], labels: &[u8]) -> usize {
    let best = |row: &[f32]| (0..10).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
    logits.chunks(10).zip(labels).filter(|(row, l)| best(row) == usize::from(**l)).count()
}

#[test]
fn digits_keep_their_accuracy() {
    let (data, runtime) = (digits(), runtime(2));
    let plain = Model::open(golden("digits/digits.onnx"), &runtime).unwrap();
    let before = right(&logits(&plain, &data.test), &data.labels);
    assert!(before * 100 >= data.labels.len() * 98, "{before} of {}", data.labels.len());
    assert_eq!((plain.precision_report(), plain.precision()), (None, "f32".to_owned()));
    for (target, metric) in
        [(INT8, Metric::Cosine), (INT8, Metric::Top1), (Target::Auto, Metric::Cosine)]
    {
        for range in [RangeMethod::Mse, RangeMethod::MinMax, RangeMethod::Percentile(0.9999)] {
            let calibration = stacked(&data);
            let metric = metric.clone();
            let options =
                PrecisionOptions { target, calibration, metric, range, ..Default::default() };
            let model = compiled(&runtime, options).unwrap();
            let after = right(&logits(&model, &data.test), &data.labels);
            assert!(
                after as f64 >= 0.995 * before as f64,
                "{target} {range:?}: {after} right, {before} in f32"
            );
            assert_eq!(model.precision(), target.to_string());
            let report = report(&model);
            assert_eq!(report["synthetic"], false);
            assert_eq!(
                (&report["calibrated_with"], &report["verified_with"]),
                (&48.into(), &16.into())
            );
            assert!(report["accuracy"].as_f64().unwrap() >= report["budget"].as_f64().unwrap());
            let layers = report["layers"].as_array().unwrap();
            assert_eq!(layers.len(), 7);
            assert!(layers.iter().all(|l| l["error"].as_f64().unwrap() < 0.02), "{report}");
        }
    }
}

#[test]
fn weights_in_16_bits_lose_next_to_nothing() {
    let (data, runtime) = (digits(), runtime(2));
    let plain = Model::open(golden("digits/digits.onnx"), &runtime).unwrap();
    let before = right(&logits(&plain, &data.test), &data.labels);
    for (precision, lost) in [(Precision::Bf16, 1e-3), (Precision::F16, 1e-5)] {
        let target = Target::Only(precision);
        let options =
            PrecisionOptions { target, calibration: stacked(&data), ..Default::default() };
        let model = compiled(&runtime, options).unwrap();
        let after = right(&logits(&model, &data.test), &data.labels);
        assert!(after as f64 >= 0.995 * before as f64, "{precision}: {after}, {before} in f32");
        let report = report(&model);
        assert!(report["accuracy"].as_f64().unwrap() >= 1.0 - lost, "{report}");
        let layers = report["layers"].as_array().unwrap();
        let reduced = layers.iter().filter(|l| l["precision"] == precision.name()).count();
        assert!(reduced >= 5, "{report}");
    }
}

#[test]
fn everything_between_convolutions_stays_on_bytes() {
    let (data, runtime) = (digits(), runtime(1));
    let options =
        PrecisionOptions { target: INT8, calibration: stacked(&data), ..Default::default() };
    let model = compiled(&runtime, options).unwrap();
    let ops = model.summary().ops;
    for (op, count) in [
        ("QLinearConv", 5),
        ("ConvIntegerToFloat", 1),
        ("QLinearAdd", 1),
        ("MaxPool", 2),
        ("QuantizeLinear", 1),
        ("DynamicQuantizeRows", 1),
        ("MatMulIntegerToFloat", 1),
    ] {
        assert_eq!(ops.get(op), Some(&(count, count)), "{op} of {ops:?}");
    }
}

#[test]
fn bits_do_not_depend_on_threads_levels_or_company() {
    let data = digits();
    let one = |i: usize| data.test.slice_axis(0, i, 1, 1).unwrap().to_contiguous().unwrap();
    let path =
        std::env::temp_dir().join(format!("deepseek-{}-digits.deepseek", std::process::id()));
    let options =
        PrecisionOptions { target: INT8, calibration: stacked(&data), ..Default::default() };
    // Calibrated once: ranges come from sums in f32, which levels round differently.
    let first = compiled(&runtime(1), options.clone()).unwrap();
    first.save(&path).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let want = logits(&first, &data.test);
    for level in Level::available() {
        for threads in [1, 2] {
            let isa = Some(isa::at(level).unwrap());
            let options = RuntimeOptions { threads, isa, ..Default::default() };
            let model = Model::open(&path, &Runtime::new(&options).unwrap()).unwrap();
            assert_eq!(report(&model), report(&first));
            let got = logits(&model, &data.test);
            for i in [0, 5] {
                assert_eq!(logits(&model, &one(i)), got[10 * i..10 * i + 10], "{level} image {i}");
            }
            // Functions such as SiLU round differently from level to level.
            let worst = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            let most = want.iter().fold(0f32, |m, x| m.max(x.abs()));
            assert!(worst <= 0.05 * most, "{level}: {worst} of {most}");
        }
    }
    // The same data gives the same model: times are not part of the graph.
    let again = compiled(&runtime(2), options).unwrap();
    assert_eq!(logits(&again, &data.test), want);
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn bad_data_and_budgets_that_cannot_be_met_are_refused() {
    let (data, runtime) = (digits(), runtime(1));
    let x = |shape: &[usize], value: f32| {
        let n = shape.iter().product();
        vec![("x".to_owned(), Tensor::from_vec(shape, vec![value; n]).unwrap())]
    };
    let int8 =
        |calibration| PrecisionOptions { target: INT8, calibration, ..PrecisionOptions::default() };
    let unequal: Metric =
        Metric::Custom(Arc::new(|_: &[(String, Value)], _: &[(String, Value)]| Ok(0.5)));
    let nan = Metric::Custom(Arc::new(|_: &[(String, Value)], _: &[(String, Value)]| Ok(f64::NAN)));
    let with = |metric: &Metric, target| PrecisionOptions {
        target,
        metric: metric.clone(),
        calibration: stacked(&data),
        ..PrecisionOptions::default()
    };
    let budget =
        |b: f64| PrecisionOptions { accuracy_budget: Some(b), ..with(&Metric::Top1, INT8) };
    let named = |name: &str| {
        vec![(name.to_owned(), Tensor::from_vec(&[1, 1, 8, 8], vec![0f32; 64]).unwrap())]
    };
    let cases: Vec<(&str, PrecisionOptions, Code, &str)> = vec![
        ("no sample", int8(Calibration::Samples(vec![])), Code::InvalidArgument, "no sample"),
        (
            "no image",
            int8(Calibration::Stacked(vec![x(&[0, 1, 8, 8], 0.0)])),
            Code::InvalidArgument,
            "no sample",
        ),
        (
            "a wrong shape",
            int8(Calibration::Samples(vec![x(&[1, 3, 8, 8], 0.0)])),
            Code::ShapeMismatch,
            "'x'",
        ),
        (
            "a wrong rank",
            int8(Calibration::Stacked(vec![x(&[8, 8], 0.0)])),
            Code::ShapeMismatch,
            "'x'",
        ),
        (
            "a NaN",
            int8(Calibration::Samples(vec![x(&[1, 1, 8, 8], f32::NAN)])),
            Code::InvalidArgument,
            "not finite",
        ),
        (
            "an input that is missing",
            int8(Calibration::Samples(vec![vec![]])),
            Code::InvalidArgument,
            "'x'",
        ),
        ("another input", int8(Calibration::Stacked(vec![named("y")])), Code::NotFound, "'y'"),
        ("a budget below the floor", budget(ACCURACY_FLOOR - 0.01), Code::InvalidArgument, "0.95"),
        ("a budget above 1", budget(1.5), Code::InvalidArgument, "1.5"),
        (
            "int8 that misses",
            with(&unequal, INT8),
            Code::InvalidArgument,
            "best that was reached is 0.5",
        ),
        ("auto that misses", with(&unequal, Target::Auto), Code::InvalidArgument, "0.99"),
        ("a metric without a number", with(&nan, INT8), Code::InvalidArgument, "NaN"),
    ];
    for (what, options, code, part) in cases {
        let e = compiled(&runtime, options).err().unwrap_or_else(|| panic!("{what} is taken"));
        assert!(e.code() == code && e.to_string().contains(part), "{what}: {:?} {e}", e.code());
    }
    assert_eq!("int4".parse::<Target>().unwrap_err().code(), Code::InvalidArgument);
    assert_eq!("f1".parse::<Metric>().unwrap_err().code(), Code::InvalidArgument);
    let path = std::env::temp_dir().join(format!("deepseek-{}-f32.deepseek", std::process::id()));
    Model::open(golden("digits/digits.onnx"), &runtime).unwrap().save(&path).unwrap();
    let precision = Some(with(&Metric::Top1, INT8));
    let e = Model::open_with(&path, &runtime, &ModelOptions { precision, ..Default::default() });
    assert_eq!(e.unwrap_err().code(), Code::Unsupported);
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn calibration_data_is_read_from_files() {
    let (data, runtime) = (digits(), runtime(2));
    let dir = std::env::temp_dir().join(format!("deepseek-{}-calibration", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let open = |model: &str, calibration: &str| {
        let mut options = ModelOptions::default();
        options.set_precision("int8", calibration, 0.0, "").unwrap();
        Model::open_with(golden(model), &runtime, &options)
    };
    let arrays = dir.join("images.npz");
    deepseek::npz::write(&arrays, &data.calibration).unwrap();
    for path in [&arrays, &dir] {
        let report = report(&open("digits/digits.onnx", path.to_str().unwrap()).unwrap());
        assert_eq!(report["synthetic"], false);
        assert_eq!(report["calibrated_with"], 48);
    }

    let (txt, jsonl) =
        ("A line.\n\nAnother line.\n", "\"A line.\"\n{\"text\": \"Another line.\"}\n");
    let of_lines = report(&open("hf/bert-mean", &file("lines.txt", txt)).unwrap());
    let same = report(&open("hf/bert-mean", &file("lines.jsonl", jsonl)).unwrap());
    assert_eq!((&of_lines["synthetic"], &of_lines["accuracy"]), (&false.into(), &same["accuracy"]));
    for (model, path, code, part) in [
        ("hf/bert-mean", file("bad.jsonl", "\"one\"\n2\n"), Code::InvalidFile, "line 2"),
        ("hf/bert-mean", file("none.txt", "\n"), Code::InvalidArgument, "no text"),
        ("digits/digits.onnx", file("lines.txt", txt), Code::Unsupported, "tokenizer"),
        ("digits/digits.onnx", file("lines.csv", txt), Code::Unsupported, ".jsonl"),
        ("digits/digits.onnx", file("bad.npz", txt), Code::InvalidFile, "bad.npz"),
        ("digits/digits.onnx", "/no/such.npz".to_owned(), Code::Io, "/no/such.npz"),
    ] {
        let e = open(model, &path).unwrap_err();
        assert!(e.code() == code && e.to_string().contains(part), "{path}: {e}");
    }
    std::fs::remove_dir_all(&dir).unwrap();

    for (target, metric) in [("int7", ""), ("", "top1")] {
        let e = ModelOptions::default().set_precision(target, "", 0.0, metric).unwrap_err();
        assert!(
            e.code() == Code::InvalidArgument && e.to_string().contains("bf16, f16, int8"),
            "{e}"
        );
    }
}

#[test]
fn a_real_encoder_keeps_its_recall() {
    let model = match std::env::var_os("DEEPSEEK_MINILM") {
        Some(dir) => PathBuf::from(dir),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../build/minilm"),
    };
    assert!(
        model.join("config.json").is_file(),
        "{} holds no model: run `tools/fetch-minilm.sh build/minilm`, or set DEEPSEEK_MINILM",
        model.display()
    );
    let text = std::fs::read(golden("passages.json")).unwrap();
    let rows: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let rows = rows.as_array().unwrap();
    let column = |key: &str| rows.iter().map(|r| r[key].as_str().unwrap()).collect::<Vec<_>>();
    let (questions, passages) = (column("question"), column("passage"));
    let runtime = runtime(2);
    // Calibrated with other text: the questions' own language, but none of the passages.
    let texts: Vec<&str> = questions.iter().step_by(20).copied().collect();
    let calibration = deepseek::calibration_texts(&model, &texts).unwrap();
    let precision =
        Some(PrecisionOptions { target: INT8, calibration, ..PrecisionOptions::default() });
    let options = ModelOptions { precision, ..Default::default() };
    let path =
        std::env::temp_dir().join(format!("deepseek-{}-minilm.deepseek", std::process::id()));
    let int8 = Model::open_with(&model, &runtime, &options).unwrap();
    let ops = int8.summary().ops;
    assert_eq!(ops.get("MatMulIntegerToFloat"), Some(&(36, 36)), "{ops:?}");
    int8.save(&path).unwrap();
    let recall = |path: &Path| -> [usize; 2] {
        let embedder = Embedder::open(path, &runtime).unwrap();
        let embed = |texts: &[&str]| embedder.embed(texts, &RunOptions::default()).unwrap();
        let (q, p) = (embed(&questions), embed(&passages));
        let dim = embedder.dim();
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
        let mut hits = [0, 0];
        for (i, q) in q.chunks(dim).enumerate() {
            let scores: Vec<f32> = p.chunks(dim).map(|p| dot(q, p)).collect();
            let better = scores.iter().filter(|s| **s > scores[i]).count();
            hits[0] += usize::from(better < 1);
            hits[1] += usize::from(better < 10);
        }
        hits
    };
    let (before, after) = (recall(&model), recall(&path));
    std::fs::remove_file(&path).unwrap();
    assert!(before[0] * 2 > questions.len(), "{before:?} of {}", questions.len());
    for (before, after) in before.iter().zip(after) {
        assert!(after as f64 >= 0.99 * *before as f64, "{after} right, {before} in f32");
    }
}
