//! Every export of the C header has a counterpart in each binding, or a reason to have none.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// The bindings in the order of the table's columns, and where their sources are.
const BINDINGS: [(&str, &str); 3] = [
    ("cpp", "bindings/cpp/include"),
    ("node", "bindings/node/index.d.ts"),
    ("java", "bindings/java/java"),
];

/// Words of the languages themselves.
const LANGUAGE: [&str; 7] =
    ["AbortSignal", "CompletableFuture", "String", "std::future", "std::string", "name", "model"];

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// The text of a file, or of all files below a folder.
fn sources(path: &Path) -> String {
    if path.is_file() {
        return fs::read_to_string(path).expect("a source file is text");
    }
    let entries = fs::read_dir(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    entries.map(|e| sources(&e.expect("a folder can be listed").path())).collect()
}

/// The words between backticks.
fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

#[test]
fn every_export_is_bound_or_says_why_not() {
    let table = read("bindings/PARITY.md");
    let rows: Vec<Vec<&str>> = table
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    let listed: BTreeSet<&str> = rows.iter().flat_map(|row| quoted(row[0])).collect();
    let exports = read("ffi/abi/exports.txt");
    let exports: BTreeSet<&str> = exports.lines().filter(|l| l.starts_with("deepseek_")).collect();
    assert!(exports.len() > 50, "the exports were read");
    let missing: Vec<_> = exports.difference(&listed).collect();
    let gone: Vec<_> = listed.difference(&exports).collect();
    assert!(
        missing.is_empty() && gone.is_empty(),
        "bindings/PARITY.md lacks {missing:?} and lists what is not exported: {gone:?}"
    );
    let mut wrong = Vec::new();
    for (column, (binding, path)) in BINDINGS.iter().enumerate() {
        let source = sources(&Path::new(ROOT).join(path));
        for row in &rows {
            let Some(cell) = row.get(column + 1).filter(|cell| !cell.is_empty()) else {
                wrong.push(format!("{binding}: nothing stands for {}", row[0]));
                continue;
            };
            for name in quoted(cell).filter(|name| !LANGUAGE.contains(name)) {
                // The last identifier of `Type::method`, `object.method`, `~Type`, `f(x)`.
                let word = name
                    .split(|c: char| !c.is_alphanumeric() && c != '_')
                    .rfind(|w| !w.is_empty())
                    .unwrap_or(name);
                if !source.contains(word) {
                    wrong.push(format!("{binding}: '{name}', for {}, is not in {path}", row[0]));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
