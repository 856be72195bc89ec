//! What a directory may say, and what is said about one that is wrong.
//!
//! To add a fault: a row in `wrong_directories_are_named`. To add a setting: a test
//! that computes what it means from `last_hidden_state` in plain loops.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{Copy, Golden, inputs, largest_difference, runtime};
use deepseek_graph::interpret;
use deepseek_import::hf::{self, HfModel};
use deepseek_llm::{Embedder, Tokenizer};
use deepseek_runtime::Cancel;
use deepseek_tensor::{Code, Tensor};
use serde_json::{Value, json};

/// Largest difference that rounding explains, for components of a few units.
const TOLERANCE: f32 = 1e-5;

/// `last_hidden_state` as rows of tokens and `sentence_embedding`, of one text.
fn outputs(model: &HfModel, ids: &[u32]) -> (Vec<Vec<f32>>, Vec<f32>) {
    let out = interpret::run(&model.graph, inputs(model, &[ids], |_| 0)).unwrap();
    let hidden: Vec<f32> = out[0].tensor().unwrap().to_vec().unwrap();
    let rows = hidden.chunks(model.encoder.hidden_size).map(<[f32]>::to_vec).collect();
    (rows, out[1].tensor().unwrap().to_vec().unwrap())
}

/// Rows weighted and summed.
fn weigh(rows: &[Vec<f32>], weight: impl Fn(usize) -> f32) -> Vec<f32> {
    let sum = |c: usize| (0..rows.len()).map(|t| weight(t) * rows[t][c]).sum();
    (0..rows[0].len()).map(sum).collect()
}

fn expected_pooling(mode: &str, rows: &[Vec<f32>]) -> Vec<f32> {
    let n = rows.len() as f32;
    match mode {
        "cls_token" => rows[0].clone(),
        "lasttoken" => rows[rows.len() - 1].clone(),
        "max_tokens" => {
            (0..rows[0].len()).map(|c| rows.iter().map(|r| r[c]).fold(f32::MIN, f32::max)).collect()
        }
        "mean_tokens" => weigh(rows, |_| 1.0 / n),
        "mean_sqrt_len_tokens" => weigh(rows, |_| 1.0 / n.sqrt()),
        "weightedmean_tokens" => weigh(rows, |t| (t + 1) as f32 / (n * (n + 1.0) / 2.0)),
        _ => panic!("no such mode {mode}"),
    }
}

/// The order in which sentence-transformers concatenates.
const MODES: [&str; 6] = [
    "cls_token",
    "max_tokens",
    "mean_tokens",
    "mean_sqrt_len_tokens",
    "weightedmean_tokens",
    "lasttoken",
];

#[test]
fn every_pooling_mode_alone_and_all_in_order() {
    let golden = Golden::tiny("bert-cls-max-mean");
    for set in (0..MODES.len()).map(|i| vec![MODES[i]]).chain([MODES.to_vec()]) {
        let copy = Copy::of("bert-cls-max-mean");
        for mode in MODES {
            let flag = format!("pooling_mode_{mode}");
            copy.set("1_Pooling/config.json", &flag, json!(set.contains(&mode)));
        }
        let model = hf::load(&copy.0).unwrap();
        assert_eq!(model.sentence.dim, 32 * set.len());
        assert_eq!(model.sentence.pooling.len(), set.len());
        let (rows, got) = outputs(&model, &golden.ids[3]);
        let want: Vec<f32> = set.iter().flat_map(|mode| expected_pooling(mode, &rows)).collect();
        let error = largest_difference(&got, &want);
        assert!(error <= TOLERANCE, "{set:?}: off by {error:e}");
    }
}

#[test]
fn a_plain_directory_gets_the_mean() {
    let golden = Golden::tiny("distilbert-max-f16");
    let copy = Copy::of("distilbert-max-f16");
    std::fs::remove_file(copy.0.join("modules.json")).unwrap();
    let model = hf::load(&copy.0).unwrap();
    assert!(!model.sentence.declared && !model.sentence.normalized);
    let (rows, got) = outputs(&model, &golden.ids[1]);
    assert!(largest_difference(&got, &expected_pooling("mean_tokens", &rows)) <= TOLERANCE);
}

/// Name, shape and elements.
type Named<'a> = (&'a str, &'a [usize], Vec<f32>);

/// Writes the f32 tensors as a safetensors file.
fn safetensors(tensors: &[Named]) -> Vec<u8> {
    let (mut header, mut data) = (json!({}), Vec::new());
    for (name, shape, values) in tensors {
        let start = data.len();
        data.extend(values.iter().flat_map(|x| x.to_le_bytes()));
        header[name] = json!({"dtype": "F32", "shape": shape, "data_offsets": [start, data.len()]});
    }
    let header = header.to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend(data);
    file
}

/// A function of one number.
type Function = fn(f32) -> f32;

#[test]
fn dense_stages_follow_pooling() {
    let golden = Golden::tiny("bert-mean");
    let copy = Copy::of("bert-mean");
    let (from, to) = (32, 3);
    let weight: Vec<f32> = (0..from * to).map(|i| (i % 13) as f32 / 7.0 - 0.8).collect();
    let bias = vec![0.25f32, -0.5, 0.125];
    copy.write(
        "2_Dense/model.safetensors",
        safetensors(&[
            ("linear.weight", &[to, from], weight.clone()),
            ("linear.bias", &[to], bias.clone()),
        ]),
    );
    let stage = |i: usize, path: &str, kind: &str| {
        json!({"idx": i, "name": i.to_string(), "path": path,
               "type": format!("sentence_transformers.models.{kind}")})
    };
    let modules = [
        stage(0, "", "Transformer"),
        stage(1, "1_Pooling", "Pooling"),
        stage(2, "2_Dense", "Dense"),
    ];
    copy.write("modules.json", json!(modules).to_string());
    let functions: [(&str, Function); 4] = [
        ("torch.nn.modules.activation.Tanh", f32::tanh),
        ("torch.nn.modules.linear.Identity", |x| x),
        ("torch.nn.modules.activation.ReLU", |x| x.max(0.0)),
        ("torch.nn.modules.activation.Sigmoid", |x| 1.0 / (1.0 + (-x).exp())),
    ];
    for (name, function) in functions {
        let config = json!({"in_features": from, "out_features": to, "bias": true,
                            "activation_function": name});
        copy.write("2_Dense/config.json", config.to_string());
        let model = hf::load(&copy.0).unwrap();
        assert_eq!(model.sentence.dim, to);
        let (rows, got) = outputs(&model, &golden.ids[1]);
        let pooled = expected_pooling("mean_tokens", &rows);
        let dot = |w: &[f32]| -> f32 { w.iter().zip(&pooled).map(|(w, x)| w * x).sum() };
        let want: Vec<f32> =
            weight.chunks(from).zip(&bias).map(|(w, b)| function(dot(w) + b)).collect();
        let error = largest_difference(&got, &want);
        assert!(error <= TOLERANCE, "{name}: off by {error:e}");
    }
    copy.set("2_Dense/config.json", "in_features", json!(31));
    let e = hf::load(&copy.0).unwrap_err();
    assert_eq!(e.code(), Code::InvalidFile);
    assert!(e.message().contains("linear.weight") && e.message().contains("31"), "{e}");
}

#[test]
fn settings_around_the_encoder_are_followed() {
    let golden = Golden::tiny("bert-mean");
    let reference = Embedder::open(&golden.dir, &runtime(1)).unwrap();
    let embed = |e: &Embedder, text: &str| e.embed(&[text], &Cancel::new()).unwrap();

    let copy = Copy::of("roberta-mean-sharded"); // its tokenizer is case-sensitive
    let cased = Embedder::open(&copy.0, &runtime(1)).unwrap();
    copy.set("sentence_bert_config.json", "do_lower_case", json!(true));
    let lower = Embedder::open(&copy.0, &runtime(1)).unwrap();
    assert_eq!(embed(&lower, "THE FOG"), embed(&cased, "the fog"));
    assert_ne!(embed(&lower, "THE FOG"), embed(&cased, "THE FOG"));

    let copy = Copy::of("bert-mean");
    let prompts = json!({"default_prompt_name": "q", "prompts": {"q": "query: "}});
    copy.write("config_sentence_transformers.json", prompts.to_string());
    let prompted = Embedder::open(&copy.0, &runtime(1)).unwrap();
    assert_eq!(embed(&prompted, "fog"), embed(&reference, "query: fog"));

    let copy = Copy::of("bert-mean");
    copy.set("sentence_bert_config.json", "max_seq_length", json!(null));
    copy.set("tokenizer_config.json", "model_max_length", json!(5));
    let short = Embedder::open(&copy.0, &runtime(1)).unwrap();
    assert_eq!(short.max_tokens(), 5);
    let ids = short.tokenizer().encode("The ferry left before the fog").unwrap();
    assert_eq!(ids[..4], golden.ids[1][..4]);
    assert_eq!(ids.len(), 5);
    copy.set("tokenizer_config.json", "truncation_side", json!("left"));
    let left = Tokenizer::open(&copy.0).unwrap();
    let all = reference.tokenizer().encode("The ferry left before the fog").unwrap();
    let ids = left.encode("The ferry left before the fog").unwrap();
    assert_eq!(ids[1..], all[all.len() - 4..]);
    // 10^30 is what libraries write for "no limit".
    copy.set("tokenizer_config.json", "model_max_length", json!(1e30));
    let model_limit = Embedder::open(&copy.0, &runtime(1)).unwrap();
    assert_eq!(model_limit.max_tokens(), 25);
}

#[test]
fn the_limits_that_tokenizer_json_asks_for_are_overruled() {
    let golden = Golden::tiny("bert-mean");
    let copy = Copy::of("bert-mean");
    let truncation =
        json!({"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0});
    let padding = json!({"strategy": {"Fixed": 24}, "direction": "Right", "pad_to_multiple_of": null,
                         "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"});
    copy.set("tokenizer.json", "truncation", truncation);
    copy.set("tokenizer.json", "padding", padding);
    let embedder = Embedder::open(&copy.0, &runtime(1)).unwrap();
    assert_eq!(embedder.tokenizer().encode_batch(&golden.texts()).unwrap(), golden.ids);
}

#[test]
fn a_text_without_any_token_has_a_vector() {
    let copy = Copy::of("bert-mean");
    copy.set("tokenizer.json", "post_processor", json!(null));
    let embedder = Embedder::open(&copy.0, &runtime(1)).unwrap();
    assert!(embedder.tokenizer().encode("").unwrap().is_empty());
    let got = embedder.embed(&["", "fog", ""], &Cancel::new()).unwrap();
    assert!(got.iter().all(|x| x.is_finite()));
    assert_eq!(got[..32], [0.0; 32], "the mean of nothing");
    assert_eq!(got[32..64], embedder.embed(&["fog"], &Cancel::new()).unwrap());
}

#[test]
fn old_names_of_norms_are_known() {
    let golden = Golden::tiny("bert-mean");
    let copy = Copy::of("bert-mean");
    let mut file = copy.read("model.safetensors");
    // Header and tensors keep their lengths: `gamma` is one letter shorter than `weight`.
    for (new, old) in
        [("LayerNorm.weight\"", "LayerNorm.gamma\" "), ("LayerNorm.bias", "LayerNorm.beta")]
    {
        let (new, old) = (new.as_bytes(), old.as_bytes());
        for i in 0..file.len() - new.len() {
            if file[i..].starts_with(new) {
                file[i..i + old.len()].copy_from_slice(old);
            }
        }
    }
    copy.write("model.safetensors", &file);
    let (old, new) = (hf::load(&copy.0).unwrap(), hf::load(&golden.dir).unwrap());
    assert_eq!(outputs(&old, &golden.ids[1]), outputs(&new, &golden.ids[1]));
}

/// One fault: a file, a field, its value, and what the error must say.
struct Fault(&'static str, &'static str, Value, Code, &'static [&'static str]);

#[test]
fn wrong_directories_are_named() {
    use Code::{InvalidFile, Unsupported};
    let config = "config.json";
    let faults = [
        Fault(config, "model_type", json!("gpt2"), Unsupported, &["gpt2", "distilbert"]),
        Fault(config, "model_type", json!(7), InvalidFile, &["model_type", "7", "a string"]),
        Fault(config, "model_type", json!(null), InvalidFile, &["lacks", "model_type"]),
        Fault(config, "hidden_size", json!(0), InvalidFile, &["hidden_size", "0", "from 1"]),
        Fault(config, "hidden_size", json!("32"), InvalidFile, &["hidden_size", "an integer"]),
        Fault(config, "hidden_size", json!(1e40), InvalidFile, &["hidden_size", "an integer"]),
        Fault(
            config,
            "hidden_size",
            json!(64),
            InvalidFile,
            &["word_embeddings", "[240, 32]", "hidden size = 64"],
        ),
        Fault(
            config,
            "vocab_size",
            json!(241),
            InvalidFile,
            &["word_embeddings", "[240, 32]", "vocab_size = 241"],
        ),
        Fault(
            config,
            "max_position_embeddings",
            json!(1 << 20),
            InvalidFile,
            &["position_embeddings", "1048576"],
        ),
        Fault(
            config,
            "num_hidden_layers",
            json!(3),
            InvalidFile,
            &["model.safetensors", "lacks", "encoder.layer.2.attention.self.query.weight"],
        ),
        Fault(config, "num_hidden_layers", json!(-1), InvalidFile, &["num_hidden_layers", "-1"]),
        Fault(
            config,
            "num_attention_heads",
            json!(5),
            InvalidFile,
            &["hidden_size 32", "num_attention_heads 5"],
        ),
        Fault(
            config,
            "num_attention_heads",
            json!(0),
            InvalidFile,
            &["num_attention_heads", "from 1 to 32"],
        ),
        Fault(config, "hidden_act", json!("mish"), Unsupported, &["hidden_act", "mish", "gelu"]),
        Fault(config, "layer_norm_eps", json!(-1), InvalidFile, &["layer_norm_eps", "-1"]),
        Fault(
            config,
            "position_embedding_type",
            json!("relative_key"),
            Unsupported,
            &["relative_key"],
        ),
        Fault(config, "is_decoder", json!(true), Unsupported, &["is_decoder"]),
        Fault(config, "pad_token_id", json!(240), InvalidFile, &["pad_token_id", "240"]),
        Fault(
            "1_Pooling/config.json",
            "word_embedding_dimension",
            json!(48),
            InvalidFile,
            &["48", "32"],
        ),
        Fault(
            "1_Pooling/config.json",
            "pooling_mode_mean_tokens",
            json!(false),
            InvalidFile,
            &["no pooling mode"],
        ),
        Fault("1_Pooling/config.json", "pooling_mode", json!("median"), Unsupported, &["median"]),
        Fault(
            "sentence_bert_config.json",
            "max_seq_length",
            json!(0),
            InvalidFile,
            &["max_seq_length", "0"],
        ),
        Fault(
            "tokenizer_config.json",
            "truncation_side",
            json!("top"),
            InvalidFile,
            &["truncation_side", "top"],
        ),
    ];
    for Fault(file, field, value, code, said) in faults {
        let copy = Copy::of("bert-mean");
        copy.set(file, field, value.clone());
        let Err(e) = Embedder::open(&copy.0, &runtime(1)) else {
            panic!("{file} with {field} {value} was accepted")
        };
        let text = e.to_string();
        assert_eq!(e.code(), code, "{field} {value}: {text}");
        for part in said {
            assert!(text.contains(part), "{field} {value}: '{text}' does not say '{part}'");
        }
    }
}

#[test]
fn wrong_modules_are_named() {
    let stage = |path: &str, kind: &str| json!({"path": path, "type": kind});
    let (transformer, pooling) = (stage("", "m.Transformer"), stage("1_Pooling", "m.Pooling"));
    let cases = [
        (json!({}), "a list"),
        (json!([1]), "item 0"),
        (json!([]), "0 modules"),
        (json!([transformer]), "1 modules"),
        (json!([pooling, transformer]), "the order is"),
        (json!([transformer, stage("2_LSTM", "m.LSTM")]), "LSTM"),
        (json!([transformer, stage("../1_Pooling", "m.Pooling")]), "leaves"),
        (json!([transformer, stage("/etc", "m.Pooling")]), "leaves"),
        (json!([transformer, stage("3_Pooling", "m.Pooling")]), "3_Pooling"),
        (json!([transformer, pooling, stage("3_Dense", "m.Dense")]), "3_Dense"),
        (json!([transformer, {"path": "1_Pooling"}]), "type"),
    ];
    for (modules, said) in cases {
        let copy = Copy::of("bert-mean");
        copy.write("modules.json", modules.to_string());
        let e = hf::load(&copy.0).unwrap_err().to_string();
        assert!(e.contains(said), "{modules}: '{e}' does not say '{said}'");
    }
}

#[test]
fn missing_files_are_named() {
    for file in ["config.json", "model.safetensors", "tokenizer.json", "1_Pooling/config.json"] {
        let copy = Copy::of("bert-mean");
        std::fs::remove_file(copy.0.join(file)).unwrap();
        let e = Embedder::open(&copy.0, &runtime(1)).err().unwrap();
        assert_eq!(e.code(), Code::NotFound, "{file}: {e}");
        assert!(e.message().contains(file), "{file}: {e}");
    }
    let copy = Copy::of("bert-mean");
    std::fs::rename(copy.0.join("model.safetensors"), copy.0.join("pytorch_model.bin")).unwrap();
    let e = hf::load(&copy.0).unwrap_err();
    assert_eq!(e.code(), Code::Unsupported, "{e}");
    assert!(e.message().contains("pytorch_model.bin"), "{e}");
    let e = hf::load(copy.0.join("nowhere")).unwrap_err();
    assert_eq!(e.code(), Code::NotFound, "{e}");
}

#[test]
fn tokens_the_model_does_not_have_are_an_error() {
    let copy = Copy::of("bert-mean");
    copy.write("tokenizer.json", Copy::of("xlm-roberta-lasttoken").read("tokenizer.json"));
    let embedder = Embedder::open(&copy.0, &runtime(1)).unwrap();
    let texts = Golden::tiny("xlm-roberta-lasttoken").texts;
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let e = embedder.embed(&texts, &Cancel::new()).unwrap_err();
    assert_eq!(e.code(), Code::InvalidFile, "{e}");
    assert!(e.message().contains("240"), "{e}");
    // The graph does not trust its caller either.
    let model = hf::load(&copy.0).unwrap();
    let ids = Tensor::from_slice(&[1, 1], &[240i64]).unwrap();
    let one = Tensor::from_slice(&[1, 1], &[1i64]).unwrap();
    let bad = vec![ids.into(), one.clone().into(), one.into()];
    assert!(interpret::run(&model.graph, bad).is_err());
}
