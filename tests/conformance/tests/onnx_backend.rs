//! The ONNX backend test suite, against the scalar reference.
//!
//! One test per kind of case: `node`, `simple`, `pytorch_converted`, `pytorch_operator`,
//! `light`. A case is a directory with `model.onnx` and stored inputs and outputs; it
//! *passes* if count, element types, shapes and values of the outputs agree, is
//! *unsupported* if import or run says so with code `UNSUPPORTED`, and *fails* otherwise.
//! No case may fail. The unsupported ones must be exactly those of `unsupported.txt`,
//! which only shrinks: a listed case that passes is an error that says to delete its line.
//!
//! ```text
//! tools/fetch-onnx-cases.sh build/onnx-cases
//! cargo test --release -p deepseek-conformance --test onnx_backend
//! ```
//!
//! | environment | effect |
//! |---|---|
//! | `DEEPSEEK_ONNX_CASES` | directory of the cases, default `build/onnx-cases` |
//! | `DEEPSEEK_ONNX_FILTER` | run the cases whose name contains this text and print, for each that does not pass, the imported graph and the elements that differ; `=name` asks for one exact name |
//! | `DEEPSEEK_ONNX_REPORT` | a directory: write `<kind>.tsv` with case, outcome, operators, message |
//!
//! While working on an operator:
//!
//! ```text
//! DEEPSEEK_ONNX_FILTER=test_conv cargo test --release -p deepseek-conformance \
//!     --test onnx_backend node -- --nocapture
//! ```
//!
//! Values agree if `|got − want| ≤ atol + rtol·|want|`, with the tolerances of
//! `cases.tsv` (those of the suite's own runner); for bfloat16, `rtol` is at least 2⁻⁶,
//! two units in its last place. `tolerance.txt` widens single cases, each with its
//! derivation. NaN equals NaN, infinities and strings are exact. The
//! cases of `random.txt` draw from generators that the specification leaves free; only
//! their types and shapes are compared.

use deepseek_conformance::{Case, Outcome, Reference, run_case};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

#[test]
fn node() {
    run_kind("node");
}

#[test]
fn simple() {
    run_kind("simple");
}

#[test]
fn pytorch_converted() {
    run_kind("pytorch-converted");
}

#[test]
fn pytorch_operator() {
    run_kind("pytorch-operator");
}

#[test]
fn light() {
    run_kind("light");
}

/// Directory of the cases.
fn cases_dir() -> PathBuf {
    let dir = match std::env::var_os("DEEPSEEK_ONNX_CASES") {
        Some(dir) => PathBuf::from(dir),
        None => Path::new(ROOT).join("../../build/onnx-cases"),
    };
    assert!(
        dir.join("cases.tsv").is_file(),
        "{} holds no cases: run tools/fetch-onnx-cases.sh build/onnx-cases",
        dir.display()
    );
    dir
}

/// The lines of a checked-in list, without comments and blank lines.
fn list(name: &str) -> Vec<String> {
    let text = std::fs::read_to_string(Path::new(ROOT).join(name)).expect("the list is checked in");
    text.lines().filter(|l| !l.is_empty() && !l.starts_with('#')).map(str::to_owned).collect()
}

fn number(text: &str) -> f64 {
    text.parse().expect("a tolerance is a number")
}

/// `tolerance.txt`: case → rtol, atol.
fn tolerances() -> BTreeMap<String, (f64, f64)> {
    let parse = |line: String| {
        let (case, rest) = line.split_once(": ").expect("tolerance.txt: `case: rtol atol, why`");
        let (numbers, why) = rest.split_once(", ").expect("tolerance.txt: `case: rtol atol, why`");
        assert!(!why.is_empty(), "{case}: a wider tolerance needs its derivation");
        let (rtol, atol) = numbers.split_once(' ').expect("tolerance.txt: `case: rtol atol, why`");
        (case.to_owned(), (number(rtol), number(atol)))
    };
    list("tolerance.txt").into_iter().map(parse).collect()
}

/// The cases of one kind, in name order.
fn cases(kind: &str, filter: Option<&str>) -> Vec<Case> {
    let dir = cases_dir();
    let random: BTreeSet<String> = list("random.txt").into_iter().collect();
    let table = std::fs::read_to_string(dir.join("cases.tsv")).expect("cases.tsv is readable");
    let wider = tolerances();
    let mut cases = Vec::new();
    for line in table.lines().skip(1) {
        let [k, name, rtol, atol, check] = line.split('\t').collect::<Vec<_>>()[..] else {
            panic!("cases.tsv has a malformed line: {line}")
        };
        let key = format!("{k}/{name}");
        assert_eq!(
            random.contains(&key),
            check == "shape",
            "{key}: cases.tsv says '{check}', random.txt must agree"
        );
        let chosen = match filter {
            None => true,
            Some(f) => f.strip_prefix('=').map_or_else(|| name.contains(f), |exact| name == exact),
        };
        if k == kind && chosen {
            cases.push(Case {
                dir: dir.join(k).join(name),
                values: check == "values",
                rtol: number(rtol).max(wider.get(&key).map_or(0.0, |t| t.0)),
                atol: number(atol).max(wider.get(&key).map_or(0.0, |t| t.1)),
                key,
            });
        }
    }
    cases
}

fn run_kind(kind: &str) {
    let filter = std::env::var("DEEPSEEK_ONNX_FILTER").ok().filter(|f| !f.is_empty());
    let cases = cases(kind, filter.as_deref());
    let outcomes = run_all(&cases, filter.is_some());
    let mut listed: BTreeMap<String, String> = list("unsupported.txt")
        .into_iter()
        .map(|line| {
            let (case, reason) = line.split_once(": ").expect("unsupported.txt: `case: reason`");
            (case.to_owned(), reason.to_owned())
        })
        .filter(|(case, _)| case.starts_with(&format!("{kind}/")))
        .collect();
    let mut faults = String::new();
    let (mut passed, mut unsupported, mut failed) = (0, 0, 0);
    for (case, outcome) in cases.iter().zip(&outcomes) {
        let reason = listed.remove(&case.key);
        match (outcome, reason) {
            (Outcome::Passed, None) => passed += 1,
            (Outcome::Passed, Some(_)) => {
                passed += 1;
                let _ = writeln!(faults, "{} passes: delete its line in unsupported.txt", case.key);
            }
            (Outcome::Unsupported(why), Some(reason)) if *why == reason => unsupported += 1,
            (Outcome::Unsupported(why), _) => {
                unsupported += 1;
                let _ = writeln!(faults, "{}: {why}", case.key);
            }
            (Outcome::Failed(why), _) => {
                failed += 1;
                let _ = writeln!(faults, "{} FAILED: {why}", case.key);
            }
        }
    }
    if filter.is_none() {
        for case in listed.keys() {
            let _ = writeln!(faults, "{case} does not exist: delete its line in unsupported.txt");
        }
    }
    report(kind, &cases, &outcomes);
    println!("{kind}: {passed} passed, {unsupported} unsupported, {failed} failed");
    assert!(faults.is_empty(), "{kind}: outcomes differ from what is checked in\n{faults}");
}

/// Runs the cases on as many threads as there are cores.
fn run_all(cases: &[Case], verbose: bool) -> Vec<Outcome> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(vec![None; cases.len()]);
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    std::thread::scope(|scope| {
        for _ in 0..threads.min(cases.len()) {
            scope.spawn(|| {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    let Some(case) = cases.get(i) else { return };
                    let (outcome, details) = run_case(&Reference, case, verbose);
                    if verbose && !matches!(outcome, Outcome::Passed) {
                        println!("==== {}: {}\n{details}", case.key, outcome.message());
                    }
                    done.lock().expect("no thread panics with the lock")[i] = Some(outcome);
                }
            });
        }
    });
    let done = done.into_inner().expect("no thread panics with the lock");
    done.into_iter().map(|o| o.expect("every case was run")).collect()
}

/// Writes the table that `DEEPSEEK_ONNX_REPORT` asks for.
fn report(kind: &str, cases: &[Case], outcomes: &[Outcome]) {
    let Some(dir) = std::env::var_os("DEEPSEEK_ONNX_REPORT").map(PathBuf::from) else { return };
    let mut text = String::from("case\toutcome\toperators\tmessage\n");
    for (case, outcome) in cases.iter().zip(outcomes) {
        let _ = writeln!(
            text,
            "{}\t{}\t{}\t{}",
            case.key,
            outcome.name(),
            case.operators().join(","),
            outcome.message().replace(['\n', '\t'], " ")
        );
    }
    std::fs::create_dir_all(&dir).expect("the report directory can be made");
    std::fs::write(dir.join(format!("{kind}.tsv")), text).expect("the report can be written");
}

#[test]
fn lists_are_sorted_and_without_duplicates() {
    for name in ["unsupported.txt", "random.txt", "tolerance.txt"] {
        let lines = list(name);
        assert!(lines.windows(2).all(|w| w[0] < w[1]), "{name} is not sorted");
    }
}
