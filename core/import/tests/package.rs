//! `.deepseek` files: what is written is read, and what is wrong is said. To cover another element
//! type, add a constant to [`graph`].
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use deepseek_graph::{Graph, text};
use deepseek_import::package::{Package, load, save, verify};
use deepseek_tensor::{Code, DType, Tensor};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Key of the manifest in `__metadata__`.
const MANIFEST: &str = "deepseek";

/// A directory of its own, removed at the end.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let dir =
            std::env::temp_dir().join(format!("deepseek-package-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Dir(dir)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Constants of every kind of storage, small and large, in the graph and in a branch.
fn graph() -> Graph {
    let n = 100;
    let floats = |count: usize| (0..count).map(|i| i as f32 / 7.0 - 3.0).collect::<Vec<_>>();
    let mut constants = BTreeMap::new();
    constants.insert("weight".to_owned(), Tensor::from_vec(&[n, 3], floats(3 * n)).unwrap());
    let halves = floats(n).into_iter().map(half::bf16::from_f32).collect();
    constants.insert("halves".to_owned(), Tensor::from_vec(&[n], halves).unwrap());
    let nibbles: Vec<u8> = (0..n).map(|i| (i % 16) as u8).collect();
    constants
        .insert("nibbles".to_owned(), Tensor::from_unpacked(DType::U4, &[n], &nibbles).unwrap());
    let flags: Vec<bool> = (0..n).map(|i| i % 3 == 0).collect();
    constants.insert("flags".to_owned(), Tensor::from_vec(&[n], flags).unwrap());
    let words: Vec<String> = (0..n).map(|i| format!("\u{fc} \"{i}\"\n")).collect();
    constants.insert("words".to_owned(), Tensor::from_strings(&[n], words).unwrap());
    let branch = (0..80).collect::<Vec<i64>>();
    constants.insert("pick/then_branch/far".to_owned(), Tensor::from_vec(&[80], branch).unwrap());
    let source = r#"graph "g" where batch in 1..16 {
        input %x: f32[batch, 100]
        input %c: bool[]
        const %weight: f32[100, 3] = @weight
        const %halves: bf16[100] = @halves
        const %nibbles: u4[100] = @nibbles
        const %flags: bool[100] = @flags
        const %words: string[100] = @words
        const %one: f32[1] = [1.0]
        %y = MatMul(%x, %weight) "product"
        %z = Add(%y, %one) "sum"
        %p = If(%c) {
            then_branch = graph "then" {
                const %far: i64[80] = @"pick/then_branch/far"
                output "o" = %far
            },
            else_branch = graph "else" {
                const %near: i64[80] = @"pick/then_branch/far"
                output "o" = %near
            }
        } "pick"
        output "z" = %z
        output "p" = %p
        output "halves" = %halves
        output "nibbles" = %nibbles
        output "flags" = %flags
        output "words" = %words
    }"#;
    text::parse(source, &constants).unwrap_or_else(|e| panic!("{e}"))
}

fn package() -> Package {
    let files = [("tokenizer.json", "{}"), ("empty", "")];
    let files = files.map(|(name, text)| (name.to_owned(), Bytes::from_static(text.as_bytes())));
    Package {
        graph: graph(),
        source: "onnx".to_owned(),
        files: files.into(),
        pipeline: None,
        labels: Vec::new(),
        encoder: None,
        packed: None,
        precision: None,
    }
}

fn saved(package: &Package, dir: &Dir, name: &str) -> (PathBuf, Vec<u8>) {
    let path = dir.0.join(name);
    save(package, &path).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    (path, bytes)
}

#[test]
fn what_is_saved_is_loaded_and_the_bytes_are_always_the_same() {
    let dir = Dir::new("round");
    let (path, bytes) = saved(&package(), &dir, "a.deepseek");
    assert_eq!(saved(&package(), &dir, "b.deepseek").1, bytes);
    let back = load(&path).unwrap();
    assert_eq!(text::print(&back.graph), text::print(&graph()));
    let (want, got) = (text::large_constants(&graph()), text::large_constants(&back.graph));
    assert!(want.len() >= 6, "{:?}", want.keys());
    assert_eq!(want.keys().collect::<Vec<_>>(), got.keys().collect::<Vec<_>>());
    for (name, want) in &want {
        let got = &got[name];
        assert_eq!((want.dtype(), want.shape()), (got.dtype(), got.shape()), "{name}");
        match want.dtype() {
            DType::String => assert_eq!(want.as_strings().unwrap(), got.as_strings().unwrap()),
            _ => assert_eq!(want.as_bytes().unwrap(), got.as_bytes().unwrap(), "{name}"),
        }
    }
    assert_eq!(back.files, package().files);
    assert_eq!(back.source, "onnx");
    verify(&path).unwrap();
    // What was loaded saves to the same bytes, and nothing else is left in the directory.
    assert_eq!(saved(&back, &dir, "c.deepseek").1, bytes);
    assert_eq!(std::fs::read_dir(&dir.0).unwrap().count(), 3);
}

#[test]
fn weights_are_aligned_and_mapped() {
    let dir = Dir::new("mapped");
    let (path, bytes) = saved(&package(), &dir, "a.deepseek");
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    assert!((header + 8).is_multiple_of(64), "{header}");
    let package = load(&path).unwrap();
    let constants = text::large_constants(&package.graph);
    // All views of one mapping.
    let buffer = constants["weight"].buffer().unwrap();
    assert!(buffer.len() == bytes.len());
    for name in ["halves", "flags"] {
        assert!(std::sync::Arc::ptr_eq(buffer, constants[name].buffer().unwrap()), "{name}");
    }
}

/// The file with other text in its header, of another length perhaps.
fn with_header(bytes: &[u8], change: impl FnOnce(String) -> String) -> Vec<u8> {
    let len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header = change(String::from_utf8(bytes[8..8 + len].to_vec()).unwrap());
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend(header.as_bytes());
    out.extend(&bytes[8 + len..]);
    out
}

/// The file with another manifest, and no digest of it.
fn with_manifest(bytes: &[u8], change: impl FnOnce(&mut serde_json::Value)) -> Vec<u8> {
    with_header(bytes, |header| {
        let mut header: serde_json::Value = serde_json::from_str(&header).unwrap();
        let text = header["__metadata__"][MANIFEST].as_str().unwrap();
        let mut manifest: serde_json::Value = serde_json::from_str(text).unwrap();
        change(&mut manifest);
        header["__metadata__"] = serde_json::json!({MANIFEST: manifest.to_string()});
        header.to_string()
    })
}

#[test]
fn wrong_files_are_errors_that_say_what_is_wrong() {
    let dir = Dir::new("wrong");
    let (_, bytes) = saved(&package(), &dir, "a.deepseek");
    let load = |bytes: Vec<u8>| {
        let path = dir.0.join("wrong.deepseek");
        std::fs::write(&path, bytes).unwrap();
        load(path)
    };
    let plain = with_header(&bytes, |h| {
        let mut header: serde_json::Value = serde_json::from_str(&h).unwrap();
        header.as_object_mut().unwrap().remove("__metadata__");
        header.to_string()
    });
    type Change = fn(&mut serde_json::Value);
    let manifest = |change: Change| with_manifest(&bytes, change);
    let cases: [(Vec<u8>, Code, &str); 9] = [
        (plain, Code::InvalidFile, "plain safetensors"),
        (manifest(|m| m["version"] = 2.into()), Code::Unsupported, "version 2"),
        (manifest(|m| m["version"] = 0.into()), Code::InvalidFile, "version 0"),
        (
            manifest(|m| m["graphs"] = serde_json::json!({"other": ""})),
            Code::InvalidFile,
            "'other'",
        ),
        (manifest(|m| m["graphs"]["main"] = "graph".into()), Code::InvalidGraph, "graph 'main'"),
        (
            manifest(|m| m["types"]["nibbles"]["shape"] = vec![7].into()),
            Code::ShapeMismatch,
            "nibbles",
        ),
        (manifest(|m| m["types"]["nibbles"]["dtype"] = "f32".into()), Code::InvalidFile, "nibbles"),
        (manifest(|m| m["types"]["gone"] = m["types"]["words"].clone()), Code::NotFound, "gone"),
        (
            with_header(&bytes, |h| h.replacen("libdeepseek", "libdeepsick", 1)),
            Code::InvalidFile,
            "SHA-256",
        ),
    ];
    for (file, code, part) in cases {
        let e = load(file).unwrap_err();
        assert!(e.code() == code && e.to_string().contains(part), "{part}: {e}");
    }
    // Fields that a later writer adds are skipped.
    let later = with_manifest(&bytes, |m| m["pipeline"] = serde_json::json!({"nodes": []}));
    assert!(load(later).is_ok());
}

#[test]
fn damage_to_weights_is_found_on_request() {
    let dir = Dir::new("damage");
    let (path, mut bytes) = saved(&package(), &dir, "a.deepseek");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let e = verify(&path).unwrap_err();
    assert!(e.code() == Code::InvalidFile && e.to_string().contains("was damaged"), "{e}");
    for len in (0..bytes.len()).step_by(97) {
        std::fs::write(&path, &bytes[..len]).unwrap();
        assert!(load(&path).is_err(), "{len} bytes");
    }
}

#[test]
fn a_file_that_cannot_be_written_leaves_the_old_one() {
    let dir = Dir::new("write");
    let e = save(&package(), dir.0.join("none/a.deepseek")).unwrap_err();
    assert!(e.code() == Code::Io && e.to_string().contains("cannot write"), "{e}");
    assert!(save(&package(), "/").is_err());
    // A directory in the file's place: renaming fails, and the unfinished file goes.
    std::fs::create_dir(dir.0.join("d.deepseek")).unwrap();
    assert_eq!(save(&package(), dir.0.join("d.deepseek")).unwrap_err().code(), Code::Io);
    assert_eq!(std::fs::read_dir(&dir.0).unwrap().count(), 1);
    let mut clash = package();
    let t = Tensor::from_vec(&[65], vec![0.0f32; 65]).unwrap();
    let id = clash.graph.add_constant("files/tokenizer.json", t).unwrap();
    clash.graph.add_output("clash", id).unwrap();
    let e = save(&clash, dir.0.join("e.deepseek")).unwrap_err();
    assert_eq!(e.code(), Code::InvalidArgument, "{e}");
}
