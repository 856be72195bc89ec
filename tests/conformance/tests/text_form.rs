//! The text form keeps every graph that imports: print, parse and print again give one
//! text, over all models of the ONNX backend test suite (`DEEPSEEK_ONNX_CASES`, default
//! `build/onnx-cases`; see `onnx_backend.rs`). Failing models are reported together.

use deepseek_graph::text;
use deepseek_import::onnx;
use std::path::{Path, PathBuf};

#[test]
fn every_imported_graph_prints_and_parses_to_itself() {
    let dir = std::env::var_os("DEEPSEEK_ONNX_CASES").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../build/onnx-cases"),
        PathBuf::from,
    );
    let table = std::fs::read_to_string(dir.join("cases.tsv"))
        .expect("cases: run tools/fetch-onnx-cases.sh build/onnx-cases");
    let (mut failures, mut kept) = (Vec::new(), 0);
    for line in table.lines().skip(1) {
        let [kind, name, ..] = line.split('\t').collect::<Vec<_>>()[..] else {
            panic!("cases.tsv has a malformed line: {line}")
        };
        let Ok(graph) = onnx::load(dir.join(kind).join(name).join("model.onnx")) else { continue };
        let printed = text::print(&graph);
        match text::parse(&printed, &text::large_constants(&graph)) {
            Ok(back) if text::print(&back) == printed => kept += 1,
            Ok(back) => {
                let again = text::print(&back);
                let differ = printed.lines().zip(again.lines()).find(|(a, b)| a != b);
                failures.push(format!("{kind}/{name}: {differ:?}"));
            }
            Err(e) => failures.push(format!("{kind}/{name}: {e}")),
        }
    }
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
    assert!(kept > 2000, "only {kept} models import");
}
