//! A file one can read in a sitting: at most 1,000 lines, and tests excluded that
//! sit in a `tests` module of their own file or directory.

use std::path::{Path, PathBuf};

const LIMIT: usize = 1000;
const ROOMS: &[&str] = &["core", "kernels", "ffi", "bindings", "tests", "examples"];
const EXTENSIONS: &[&str] = &["rs", "c", "h", "hpp", "cpp", "cu", "cuh", "java", "ts", "js", "py"];
/// Generated files, which nobody reads top to bottom.
const GENERATED: &[&str] = &["index.d.ts", "index.js", "deepseek.h"];

fn walk(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        if path.is_dir() {
            if !matches!(&*name, "target" | "node_modules" | "build" | "dist") {
                walk(&path, out);
            }
        } else if path.extension().is_some_and(|e| EXTENSIONS.iter().any(|x| e == *x))
            && !GENERATED.contains(&&*name)
        {
            out.push(path);
        }
    }
}

#[test]
fn no_file_is_too_long() {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    let mut files = Vec::new();
    ROOMS.iter().for_each(|room| walk(&root.join(room), &mut files));
    assert!(files.len() > 100, "the tree was read");
    let long: Vec<String> = files
        .iter()
        .filter_map(|path| {
            let text = std::fs::read_to_string(path).ok()?;
            let lines = text.lines().take_while(|l| *l != "#[cfg(test)]").count();
            (lines > LIMIT).then(|| format!("{}: {lines} lines", path.display()))
        })
        .collect();
    assert!(long.is_empty(), "split these, one idea a file:\n{}", long.join("\n"));
}
