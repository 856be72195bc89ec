//! Goldens and scratch directories for the tests of this crate.

#![expect(dead_code, reason = "each test file uses its part")]

use deepseek_graph::Value;
use deepseek_import::hf::HfModel;
use deepseek_import::safetensors;
use deepseek_runtime::{Runtime, RuntimeOptions};
use deepseek_tensor::Tensor;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The directories under `tests/golden/hf`; see the README there.
pub const TINY: [&str; 7] = [
    "bert-mean",
    "bert-cls-bf16",
    "bert-cls-max-mean",
    "distilbert-max-f16",
    "roberta-mean-sharded",
    "mpnet-mean-sqrt-len",
    "xlm-roberta-lasttoken",
];

/// Texts, and what a reference implementation made of them.
pub struct Golden {
    pub name: String,
    pub dir: PathBuf,
    pub texts: Vec<String>,
    pub ids: Vec<Vec<u32>>,
    /// `f32[texts, dim]`
    pub embeddings: Tensor,
    /// `f32[tokens of text 1, hidden]`, where stored.
    pub hidden: Option<Tensor>,
}

impl Golden {
    /// The tiny encoder `name`.
    pub fn tiny(name: &str) -> Golden {
        let dir = repository().join("tests/golden/hf").join(name);
        let expected = (dir.join("expected.json"), dir.join("expected.safetensors"));
        Golden::read(name, dir, &expected.0, &expected.1)
    }

    /// The real encoder.
    pub fn minilm() -> Golden {
        let dir = match std::env::var_os("DEEPSEEK_MINILM") {
            Some(dir) => PathBuf::from(dir),
            None => repository().join("build/minilm"),
        };
        assert!(
            dir.join("config.json").is_file(),
            "{} holds no model: run `tools/fetch-minilm.sh build/minilm` (`make setup` does), \
             or set DEEPSEEK_MINILM to where it is",
            dir.display()
        );
        let golden = repository().join("tests/golden");
        let expected = (golden.join("minilm.json"), golden.join("minilm.safetensors"));
        Golden::read("minilm", dir, &expected.0, &expected.1)
    }

    fn read(name: &str, dir: PathBuf, json: &Path, tensors: &Path) -> Golden {
        let text = std::fs::read(json).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&text).unwrap();
        let cases = json["cases"].as_array().unwrap();
        let id = |id: &serde_json::Value| u32::try_from(id.as_u64().unwrap()).unwrap();
        let ids =
            |case: &serde_json::Value| case["ids"].as_array().unwrap().iter().map(id).collect();
        let tensors = safetensors::load(tensors).unwrap();
        Golden {
            name: name.to_owned(),
            dir,
            texts: cases.iter().map(|c| c["text"].as_str().unwrap().to_owned()).collect(),
            ids: cases.iter().map(ids).collect(),
            embeddings: tensors.get("embeddings").unwrap().clone(),
            hidden: tensors.get("hidden").ok().cloned(),
        }
    }

    /// The texts, borrowed.
    pub fn texts(&self) -> Vec<&str> {
        self.texts.iter().map(String::as_str).collect()
    }

    /// Largest difference of a component that rounding explains; derived in
    /// `tests/golden/README.md`.
    pub fn tolerance(&self, of: &Tensor) -> f32 {
        let largest = of.iter::<f32>().unwrap().fold(0.0f32, |m, x| m.max(x.abs()));
        1e-5 * largest.max(1.0)
    }
}

/// The root of the repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A runtime of `threads` threads.
pub fn runtime(threads: usize) -> Runtime {
    Runtime::new(&RuntimeOptions { threads, ..Default::default() }).unwrap()
}

/// Largest difference of two rows of numbers; infinite where one is not a number.
pub fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let difference = |(a, b): (&f32, &f32)| if a == b { 0.0 } else { (a - b).abs() };
    a.iter()
        .zip(b)
        .map(difference)
        .fold(0.0, |m, d| if d.is_nan() { f32::INFINITY } else { m.max(d) })
}

/// Inputs of an encoder's graph: rows of token ids, filled up with masked `filler`.
pub fn inputs(model: &HfModel, rows: &[&[u32]], filler: impl Fn(usize) -> i64) -> Vec<Value> {
    let len = rows.iter().map(|r| r.len()).max().unwrap();
    let shape = [rows.len(), len];
    let (mut ids, mut mask) = (Vec::new(), Vec::new());
    for row in rows {
        for i in 0..len {
            mask.push(i64::from(i < row.len()));
            ids.push(row.get(i).map_or_else(|| filler(i), |&id| id.into()));
        }
    }
    let types = vec![0i64; ids.len()];
    let all = [ids, mask, types].map(|v| Value::Tensor(Tensor::from_vec(&shape, v).unwrap()));
    all.into_iter().take(model.graph.inputs().len()).collect()
}

/// A copy of a model's directory that a test may spoil; removed at the end.
pub struct Copy(pub PathBuf);

impl Copy {
    /// A copy of the tiny encoder `name`.
    pub fn of(name: &str) -> Copy {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let unique = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let to = std::env::temp_dir().join(format!("deepseek-{name}-{unique}"));
        copy(&repository().join("tests/golden/hf").join(name), &to);
        Copy(to)
    }

    /// Replaces the file `name`.
    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.0.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    /// The bytes of the file `name`.
    pub fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.0.join(name)).unwrap()
    }

    /// Sets a field of a JSON file; `null` removes it.
    pub fn set(&self, name: &str, field: &str, value: serde_json::Value) {
        let mut json: serde_json::Value = serde_json::from_slice(&self.read(name)).unwrap();
        json[field] = value;
        self.write(name, json.to_string());
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// A sequence of numbers that look random (Marsaglia, "Xorshift RNGs", 2003).
pub struct Random(pub u64);

impl Random {
    /// A number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }
}
