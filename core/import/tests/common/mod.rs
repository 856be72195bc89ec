//! The exporter corpus, `tests/golden/exporters`: tiny models by real exporters.

use deepseek_graph::Graph;
use deepseek_import::onnx;
use std::path::{Path, PathBuf};

pub fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/exporters")
}

/// Names of the models, sorted.
pub fn models() -> Vec<String> {
    let files = std::fs::read_dir(corpus()).unwrap();
    let mut names: Vec<String> = files
        .filter_map(|f| Some(f.unwrap().file_name().to_str()?.strip_suffix(".onnx")?.to_owned()))
        .collect();
    names.sort();
    names
}

pub fn load(name: &str) -> Graph {
    onnx::load(corpus().join(format!("{name}.onnx"))).unwrap()
}
