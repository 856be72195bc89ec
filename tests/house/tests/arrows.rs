//! Which crate may use which. An edge that is not in the table fails.
//!
//! The table is the design's arrow diagram; to add an edge is to change the design.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// Crate, and the crates of this workspace that it may use.
const ALLOWED: &[(&str, &[&str])] = &[
    ("deepseek-tensor", &[]),
    ("deepseek-kernels-cpu", &["deepseek-tensor"]),
    ("deepseek-graph", &["deepseek-tensor"]),
    ("deepseek-import", &["deepseek-tensor", "deepseek-graph"]),
    ("deepseek-runtime", &["deepseek-tensor", "deepseek-graph", "deepseek-kernels-cpu"]),
    ("deepseek-llm", &["deepseek-tensor", "deepseek-graph", "deepseek-import", "deepseek-runtime"]),
    (
        "deepseek-vision",
        &["deepseek-tensor", "deepseek-graph", "deepseek-import", "deepseek-runtime"],
    ),
    (
        "deepseek",
        &[
            "deepseek-tensor",
            "deepseek-graph",
            "deepseek-import",
            "deepseek-runtime",
            "deepseek-llm",
            "deepseek-vision",
        ],
    ),
    ("deepseek-cli", &["deepseek"]),
    ("deepseek-ffi", &["deepseek"]),
    ("deepseek-cdylib", &["deepseek-ffi"]),
    ("deepseek-cpp", &["deepseek"]),
    ("deepseek-node", &["deepseek"]),
    ("deepseek-java", &["deepseek"]),
    ("deepseek-house", &[]),
    // The conformance suite reads the scalar reference beside the façade, and files of ONNX.
    ("deepseek-conformance", &["deepseek", "deepseek-tensor", "deepseek-graph", "deepseek-import"]),
];

#[test]
fn every_edge_is_an_arrow_of_the_design() {
    let allowed: BTreeMap<_, BTreeSet<_>> =
        ALLOWED.iter().map(|(from, to)| (*from, to.iter().copied().collect())).collect();
    let out = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
        .output()
        .expect("cargo runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let metadata: Value = serde_json::from_slice(&out.stdout).expect("cargo prints JSON");
    let packages = metadata["packages"].as_array().expect("a list of packages");
    assert!(packages.len() >= 12, "the workspace was read");
    let mut wrong = Vec::new();
    for package in packages {
        let name = package["name"].as_str().expect("a name");
        let Some(may) = allowed.get(name) else {
            wrong.push(format!("{name} is not in the table"));
            continue;
        };
        for dependency in package["dependencies"].as_array().expect("a list") {
            let to = dependency["name"].as_str().expect("a name");
            // Tests of a crate may look further than the crate itself.
            let ships = dependency["kind"].as_str() != Some("dev");
            if ships && allowed.contains_key(to) && !may.contains(to) {
                wrong.push(format!("{name} may not use {to}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_table_has_no_cycle() {
    let allowed: BTreeMap<_, _> = ALLOWED.iter().copied().collect();
    fn depth(of: &str, allowed: &BTreeMap<&str, &[&str]>, path: &mut Vec<String>) {
        assert!(!path.iter().any(|p| p == of), "cycle: {path:?} → {of}");
        path.push(of.to_owned());
        allowed[of].iter().for_each(|to| depth(to, allowed, path));
        path.pop();
    }
    allowed.keys().for_each(|name| depth(name, &allowed, &mut Vec::new()));
}
