//! Calibration data from files.

use deepseek::precision::{Calibration, Sample};
use deepseek::{Code, Error, Result};
use std::path::{Path, PathBuf};

/// Reads an `.npz` file, a directory of them, or texts for the tokenizer of `model`.
///
/// # Errors
/// `Io` if it cannot be read, `InvalidFile` if it is not what it claims to be, `Unsupported` for
/// another kind of file, or texts for a model without a tokenizer.
pub fn read(path: &Path, model: &Path) -> Result<Calibration> {
    let io = |e: std::io::Error| {
        Error::new(Code::Io, format!("cannot read calibration data '{}': {e}", path.display()))
    };
    if path.is_dir() {
        let entries = std::fs::read_dir(path).map_err(io)?;
        let mut files: Vec<PathBuf> =
            entries.map(|e| e.map(|e| e.path())).collect::<std::io::Result<_>>().map_err(io)?;
        files.retain(|f| f.extension().is_some_and(|e| e == "npz"));
        files.sort();
        if files.is_empty() {
            let text = format!("the directory '{}' holds no .npz file", path.display());
            return Err(Error::new(Code::InvalidArgument, text));
        }
        let sets = files.iter().map(|f| crate::npz::read(f)).collect::<Result<Vec<Sample>>>()?;
        return Ok(Calibration::Stacked(sets));
    }
    match path.extension().and_then(|e| e.to_str()).unwrap_or_default() {
        "npz" => Ok(Calibration::Stacked(vec![crate::npz::read(path)?])),
        "txt" => {
            let text = std::fs::read_to_string(path).map_err(io)?;
            let lines: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
            deepseek::calibration_texts(model, &lines)
        }
        "jsonl" => {
            let text = std::fs::read_to_string(path).map_err(io)?;
            let lines = text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty());
            let texts = lines.map(|(i, l)| json_text(l, i + 1)).collect::<Result<Vec<String>>>()?;
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            deepseek::calibration_texts(model, &texts)
        }
        _ => Err(Error::new(
            Code::Unsupported,
            format!(
                "calibration data '{}' is no .npz, .txt or .jsonl file and no directory",
                path.display()
            ),
        )),
    }
}

/// A line that is a string, or an object with the key `text`.
fn json_text(line: &str, number: usize) -> Result<String> {
    let wrong = |why: String| Error::new(Code::InvalidFile, format!("line {number}: {why}"));
    let value: serde_json::Value =
        serde_json::from_str(line).map_err(|e| wrong(format!("not JSON: {e}")))?;
    let text = value.as_str().or_else(|| value.get("text")?.as_str());
    let expected = || wrong("expected a string or an object with a string 'text'".to_owned());
    Ok(text.ok_or_else(expected)?.to_owned())
}
