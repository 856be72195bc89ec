//! Encoders against what other implementations made of the same texts.
//!
//! To add an encoder: a directory under `tests/golden/hf` (see the README there) and
//! its name in `common::TINY`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{Golden, TINY, inputs, largest_difference, runtime};
use deepseek_graph::{Value, interpret};
use deepseek_import::hf::{self, HfModel};
use deepseek_llm::Embedder;
use deepseek_runtime::{Cancel, Plan, Session};
use deepseek_tensor::{Code, Tensor};
use std::sync::Arc;

fn each(test: impl Fn(&Golden)) {
    for name in TINY {
        test(&Golden::tiny(name));
    }
}

fn tensors(values: &[Value]) -> [Tensor; 2] {
    [0, 1].map(|i| values[i].tensor().unwrap().clone())
}

/// `last_hidden_state` and `sentence_embedding` by the scalar reference.
fn interpreted(model: &HfModel, inputs: Vec<Value>) -> [Tensor; 2] {
    tensors(&interpret::run(&model.graph, inputs).unwrap())
}

fn check_row(golden: &Golden, i: usize, got: &[f32]) {
    let dim = golden.embeddings.shape()[1];
    let want = &golden.embeddings.as_slice::<f32>().unwrap()[i * dim..][..dim];
    let error = largest_difference(got, want);
    let tolerance = golden.tolerance(&golden.embeddings);
    assert!(error <= tolerance, "{} text {i}: off by {error:e} > {tolerance:e}", golden.name);
}

fn check_hidden(golden: &Golden, got: &Tensor) {
    let want = golden.hidden.as_ref().unwrap();
    let error = largest_difference(got.as_slice::<f32>().unwrap(), want.as_slice::<f32>().unwrap());
    let tolerance = golden.tolerance(want);
    assert!(error <= tolerance, "{} hidden: off by {error:e} > {tolerance:e}", golden.name);
}

#[test]
fn token_ids_are_those_of_the_reference() {
    each(|golden| {
        let embedder = Embedder::open(&golden.dir, &runtime(1)).unwrap();
        assert_eq!(embedder.max_tokens(), 24, "{}", golden.name);
        let got = embedder.tokenizer().encode_batch(&golden.texts()).unwrap();
        assert_eq!(got, golden.ids, "{}", golden.name);
    });
}

#[test]
fn embeddings_are_those_of_the_reference() {
    each(|golden| {
        let embedder = Embedder::open(&golden.dir, &runtime(2)).unwrap();
        assert_eq!(embedder.dim(), golden.embeddings.shape()[1], "{}", golden.name);
        let got = embedder.embed(&golden.texts(), &Cancel::new()).unwrap();
        for (i, row) in got.chunks(embedder.dim()).enumerate() {
            check_row(golden, i, row);
        }
    });
}

#[test]
fn the_scalar_reference_agrees() {
    each(|golden| {
        let model = hf::load(&golden.dir).unwrap();
        for (i, ids) in golden.ids.iter().enumerate() {
            let [hidden, row] = interpreted(&model, inputs(&model, &[ids], |_| 0));
            check_row(golden, i, row.as_slice::<f32>().unwrap());
            if i == 1 {
                check_hidden(golden, &hidden);
            }
        }
    });
}

#[test]
fn hidden_states_are_those_of_the_reference() {
    each(|golden| {
        let model = hf::load(&golden.dir).unwrap();
        let given = inputs(&model, &[&golden.ids[1]], |_| 0);
        let plan = Plan::new(model.graph, &runtime(1)).unwrap();
        let mut session = Session::new(Arc::new(plan));
        let got = session.run(given, &Default::default()).unwrap().outputs;
        check_hidden(golden, got[0].tensor().unwrap());
    });
}

/// Padding changes nothing: neither that it is there nor what it holds.
#[test]
fn masked_tokens_contribute_nothing() {
    each(|golden| {
        let model = hf::load(&golden.dir).unwrap();
        let rows: Vec<&[u32]> = golden.ids.iter().map(Vec::as_slice).collect();
        let padded = inputs(&model, &rows, |_| model.encoder.padding_id);
        let noisy = inputs(&model, &rows, |i| 5 + 7 * i as i64);
        let plan = Arc::new(Plan::new(model.graph.clone(), &runtime(2)).unwrap());
        let mut session = Session::new(plan);
        let mut planned = |inputs: &[Value]| {
            tensors(&session.run(inputs.to_vec(), &Default::default()).unwrap().outputs)
        };
        for (how, [_, clean], [_, noisy]) in [
            ("plan", planned(&padded), planned(&noisy)),
            ("reference", interpreted(&model, padded.clone()), interpreted(&model, noisy.clone())),
        ] {
            let bits = |t: &Tensor| t.as_bytes().unwrap().to_vec();
            assert_eq!(bits(&clean), bits(&noisy), "{} on the {how}", golden.name);
            let dim = clean.shape()[1];
            for (i, row) in clean.as_slice::<f32>().unwrap().chunks(dim).enumerate() {
                check_row(golden, i, row);
            }
        }
    });
}

/// The bits of a text's vector depend on the text alone.
fn check_company(golden: &Golden, texts: &[&str]) {
    let one = Embedder::open(&golden.dir, &runtime(1)).unwrap();
    let two = Embedder::open(&golden.dir, &runtime(2)).unwrap();
    let bits = |e: &Embedder, texts: &[&str]| -> Vec<Vec<u32>> {
        let all = e.embed(texts, &Cancel::new()).unwrap();
        all.chunks(e.dim()).map(|r| r.iter().map(|x| x.to_bits()).collect()).collect()
    };
    let together = bits(&one, texts);
    assert_eq!(together, bits(&two, texts), "{} on two threads", golden.name);
    // Every text twice, so that batches are of other sizes.
    let twice = bits(&one, &[texts, texts].concat());
    for (i, text) in texts.iter().enumerate() {
        assert_eq!(together[i..][..1], bits(&one, &[text]), "{} text {i} alone", golden.name);
        assert_eq!(together[i], twice[i], "{} text {i} twice", golden.name);
        assert_eq!(together[i], twice[texts.len() + i], "{} text {i} twice", golden.name);
    }
}

#[test]
fn a_vector_does_not_depend_on_its_company() {
    each(|golden| check_company(golden, &golden.texts()));
}

#[test]
fn no_text_no_vector_and_the_empty_text_is_one() {
    let golden = Golden::tiny("bert-mean");
    let embedder = Embedder::open(&golden.dir, &runtime(1)).unwrap();
    assert!(embedder.embed(&[], &Cancel::new()).unwrap().is_empty());
    assert_eq!(golden.texts[0], "");
    check_row(&golden, 0, &embedder.embed(&[""], &Cancel::new()).unwrap());
}

#[test]
fn calls_can_be_cancelled_and_the_embedder_lives_on() {
    let golden = Golden::tiny("roberta-mean-sharded");
    let embedder = Embedder::open(&golden.dir, &runtime(1)).unwrap();
    let raised = Cancel::new();
    raised.cancel();
    let late = Cancel::new().timeout(std::time::Duration::ZERO);
    for (cancel, code) in [(raised, Code::Cancelled), (late, Code::Timeout)] {
        assert_eq!(embedder.embed(&golden.texts(), &cancel).unwrap_err().code(), code);
    }
    assert!(embedder.embed(&golden.texts(), &Cancel::new()).is_ok());
}

#[test]
fn threads_share_an_embedder() {
    let golden = Golden::tiny("mpnet-mean-sqrt-len");
    let embedder = Embedder::open(&golden.dir, &runtime(2)).unwrap();
    let want = embedder.embed(&golden.texts(), &Cancel::new()).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..5 {
                    assert_eq!(embedder.embed(&golden.texts(), &Cancel::new()).unwrap(), want);
                }
            });
        }
    });
    embedder.trim();
    assert_eq!(embedder.embed(&golden.texts(), &Cancel::new()).unwrap(), want);
}

#[test]
fn decoding_gives_the_text_back() {
    let golden = Golden::tiny("roberta-mean-sharded");
    let embedder = Embedder::open(&golden.dir, &runtime(1)).unwrap();
    let ids = embedder.tokenizer().encode("over the sea").unwrap();
    assert_eq!(embedder.tokenizer().decode(&ids, true).unwrap(), "over the sea");
    let all = embedder.tokenizer().decode(&ids, false).unwrap();
    assert!(all.starts_with("<s>") && all.ends_with("</s>"), "{all}");
}

#[test]
fn the_real_encoder_gives_the_embeddings_of_the_reference() {
    let golden = Golden::minilm();
    let embedder = Embedder::open(&golden.dir, &runtime(2)).unwrap();
    assert_eq!((embedder.dim(), embedder.max_tokens()), (384, 256));
    assert_eq!(embedder.tokenizer().encode_batch(&golden.texts()).unwrap(), golden.ids);
    let got = embedder.embed(&golden.texts(), &Cancel::new()).unwrap();
    let want = golden.embeddings.as_slice::<f32>().unwrap();
    for (i, (got, want)) in got.chunks(384).zip(want.chunks(384)).enumerate() {
        check_row(&golden, i, got);
        let dot = |a: &[f32], b: &[f32]| -> f64 {
            a.iter().zip(b).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum()
        };
        let cosine = dot(got, want) / (dot(got, got) * dot(want, want)).sqrt();
        assert!(cosine >= 0.99999, "text {i}: cosine {cosine}");
    }
}

#[test]
fn the_real_encoder_does_not_look_at_the_company() {
    let golden = Golden::minilm();
    let texts: Vec<&str> = golden.texts().into_iter().step_by(5).collect();
    check_company(&golden, &texts);
}

#[test]
fn the_scalar_reference_agrees_on_the_real_encoder() {
    let golden = Golden::minilm();
    let model = hf::load(&golden.dir).unwrap();
    let short = golden.ids.iter().enumerate().filter(|(_, ids)| ids.len() <= 8);
    for (i, ids) in short.take(3) {
        let [_, row] = interpreted(&model, inputs(&model, &[ids], |_| 0));
        check_row(&golden, i, row.as_slice::<f32>().unwrap());
    }
}
