//! `.deepseek` files through the Rust API: a saved model is the model.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use deepseek::isa::{Isa, Level};
use deepseek::{Code, Embedder, Model, RunOptions, Runtime, RuntimeOptions, SaveOptions, Tensor};
use std::path::{Path, PathBuf};

fn runtime() -> Runtime {
    Runtime::new(&RuntimeOptions { threads: 1, ..Default::default() }).unwrap()
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/hf").join(name)
}

fn output(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("deepseek-{}-{name}", std::process::id()))
}

fn run(model: &Model) -> Vec<Vec<u8>> {
    let ids = Tensor::from_vec(&[1, 4], vec![2i64, 7, 9, 3]).unwrap();
    let ones = Tensor::from_vec(&[1, 4], vec![1i64; 4]).unwrap();
    let zeros = Tensor::from_vec(&[1, 4], vec![0i64; 4]).unwrap();
    let inputs = [("input_ids", ids), ("attention_mask", ones), ("token_type_ids", zeros)];
    let inputs = inputs.map(|(name, t)| (name.to_owned(), t.into()));
    let outputs = model.session().run(inputs, &RunOptions::default()).unwrap();
    outputs.iter().map(|(_, v)| v.tensor().unwrap().as_bytes().unwrap().to_vec()).collect()
}

#[test]
fn a_saved_model_has_the_bits_of_the_model() {
    let path = output("bert.deepseek");
    let model = Model::open(golden("bert-mean"), &runtime()).unwrap();
    model.save(&path).unwrap();
    let first = std::fs::read(&path).unwrap();
    let back = Model::open(&path, &runtime()).unwrap();
    assert_eq!(back.summary().ops, model.summary().ops);
    assert_eq!(back.summary().source, "huggingface");
    assert_eq!(run(&back), run(&model));
    // Written over the file that it is mapped from.
    back.save(&path).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), first);
    assert_eq!(run(&back), run(&model));
    std::fs::remove_file(&path).unwrap();
    let e = model.save(output("bert.onnx")).unwrap_err();
    assert_eq!(e.code(), Code::InvalidArgument, "{e}");
}

#[test]
fn packed_constants_are_taken_from_the_file_on_their_machine_alone() {
    let (plain, path) = (output("plain-weights.deepseek"), output("packed-weights.deepseek"));
    let packed = SaveOptions { packed: true };
    let model = Model::open(golden("bert-mean"), &runtime()).unwrap();
    model.save(&plain).unwrap();
    model.save_with(&path, &packed).unwrap();
    let (less, more) = (std::fs::read(&plain).unwrap(), std::fs::read(&path).unwrap());
    assert!(more.len() > less.len() + less.len() / 4, "{} and {}", less.len(), more.len());
    let back = Model::open(&path, &runtime()).unwrap();
    assert_eq!(run(&back), run(&model));
    back.save_with(&path, &packed).unwrap();
    assert!(std::fs::read(&path).unwrap() == more, "the same model gives the same bytes");
    back.save(&path).unwrap();
    assert!(std::fs::read(&path).unwrap() == less, "and without packed constants what it had");

    // Packed constants that are all zero: who takes them from the file gives other answers.
    model.save_with(&path, &packed).unwrap();
    let mut package = deepseek_import::package::load(&path).unwrap();
    for t in package.packed.as_mut().unwrap().constants.values_mut() {
        *t = Tensor::zeros(t.dtype(), t.shape()).unwrap();
    }
    deepseek_import::package::save(&package, &path).unwrap();
    assert_ne!(run(&Model::open(&path, &runtime()).unwrap()), run(&model));
    if runtime().isa().level() != Level::Scalar {
        let isa = Some(Isa::at(Level::Scalar).unwrap());
        let scalar =
            Runtime::new(&RuntimeOptions { threads: 1, isa, ..Default::default() }).unwrap();
        let want = run(&Model::open(&plain, &scalar).unwrap());
        assert_eq!(run(&Model::open(&path, &scalar).unwrap()), want);
    }
    // Of a wrong size they are not taken at all.
    for t in package.packed.as_mut().unwrap().constants.values_mut() {
        *t = Tensor::zeros(t.dtype(), &[t.len() + 1]).unwrap();
    }
    deepseek_import::package::save(&package, &path).unwrap();
    assert_eq!(run(&Model::open(&path, &runtime()).unwrap()), run(&model));
    for p in [plain, path] {
        std::fs::remove_file(p).unwrap();
    }
}

#[test]
fn an_encoder_travels_with_its_tokenizer() {
    let texts = ["hello there", "", "a longer text with a few more tokens in it"];
    for name in ["bert-mean", "mpnet-mean-sqrt-len", "xlm-roberta-lasttoken"] {
        let path = output(&format!("{name}.deepseek"));
        Model::open(golden(name), &runtime()).unwrap().save(&path).unwrap();
        let embed = |path: &Path| {
            Embedder::open(path, &runtime()).unwrap().embed(&texts, &RunOptions::default()).unwrap()
        };
        assert_eq!(embed(&path), embed(&golden(name)), "{name}");
        std::fs::remove_file(&path).unwrap();
    }
}

#[test]
fn a_model_that_is_no_encoder_is_refused() {
    let mut graph = deepseek::GraphBuilder::new("plain");
    let x = graph.input("x", deepseek::DType::F32, &["batch", "2"]).unwrap();
    let y = graph.node("Relu", "relu", Default::default(), &[Some(x)], 1).unwrap();
    graph.output("y", y[0]).unwrap();
    let path = output("plain.deepseek");
    graph.build(&runtime()).unwrap().save(&path).unwrap();
    let e = Embedder::open(&path, &runtime()).err().unwrap();
    assert!(e.code() == Code::Unsupported && e.to_string().contains("no sentence encoder"), "{e}");
    std::fs::remove_file(&path).unwrap();
}
