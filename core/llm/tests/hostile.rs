//! Directories that were cut short or whose bits have flipped: errors, never a panic.
//!
//! To add a file: a row in `FILES`. Damage that leaves a file valid is allowed to go
//! unnoticed; then the encoder must still run.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{Copy, Random, runtime};
use deepseek_llm::Embedder;
use deepseek_runtime::{Cancel, Runtime};

/// A directory and a file in it, no part of which is valid.
const FILES: [(&str, &str); 10] = [
    ("bert-mean", "config.json"),
    ("bert-mean", "model.safetensors"),
    ("bert-mean", "tokenizer.json"),
    ("bert-mean", "tokenizer_config.json"),
    ("bert-mean", "modules.json"),
    ("bert-mean", "1_Pooling/config.json"),
    ("bert-mean", "sentence_bert_config.json"),
    ("roberta-mean-sharded", "model.safetensors.index.json"),
    ("roberta-mean-sharded", "tokenizer.json"),
    ("xlm-roberta-lasttoken", "tokenizer.json"),
];

/// Whether the damaged directory opens. If so, it must embed, or say why not.
fn opens(dir: &Copy, runtime: &Runtime) -> bool {
    match Embedder::open(&dir.0, runtime) {
        Ok(embedder) => {
            let result = embedder.embed(&["The fog had lifted.", ""], &Cancel::new());
            if let Ok(vectors) = result {
                assert_eq!(vectors.len(), 2 * embedder.dim());
            }
            true
        }
        Err(e) => {
            assert!(!e.message().is_empty() && !e.message().contains('\n'));
            false
        }
    }
}

#[test]
fn files_cut_short_are_errors() {
    let runtime = runtime(1);
    for (dir, file) in FILES {
        let copy = Copy::of(dir);
        let whole = copy.read(file);
        let end = whole.trim_ascii_end().len();
        for i in 0..16 {
            let cut = end * i / 16;
            copy.write(file, &whole[..cut]);
            assert!(!opens(&copy, &runtime), "{dir}/{file} of {cut} bytes was accepted");
        }
        copy.write(file, &whole[..end - 1]);
        assert!(!opens(&copy, &runtime), "{dir}/{file} without its last byte was accepted");
    }
}

#[test]
fn flipped_bits_never_panic() {
    let runtime = runtime(1);
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut refused = 0;
    for (dir, file) in FILES {
        let copy = Copy::of(dir);
        let whole = copy.read(file);
        // The header of a weight file is where a flip can do harm.
        let reach = if file.ends_with("safetensors") { whole.len().min(4096) } else { whole.len() };
        for _ in 0..60 {
            let mut damaged = whole.clone();
            for _ in 0..=random.below(3) {
                damaged[random.below(reach)] ^= 1 << random.below(8);
            }
            copy.write(file, &damaged);
            refused += usize::from(!opens(&copy, &runtime));
        }
    }
    assert!(refused > 60, "only {refused} damaged directories were refused");
}

#[test]
fn garbage_is_an_error() {
    let runtime = runtime(1);
    let deep = "[".repeat(100_000);
    for (dir, file) in FILES {
        let copy = Copy::of(dir);
        for garbage in
            [&b""[..], b"\0", b"null", b"[]", b"{}", b"{\"a\":", &[0xff; 64], deep.as_bytes()]
        {
            if garbage == b"{}" && file.contains("config.json") {
                continue; // settings may be empty
            }
            copy.write(file, garbage);
            assert!(!opens(&copy, &runtime), "{dir}/{file} of {garbage:.20?} was accepted");
        }
    }
}
