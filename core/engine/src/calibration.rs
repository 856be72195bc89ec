//! Calibration data from files, and from texts, which need a tokenizer.

use bytes::Bytes;
use deepseek_graph::Graph;
use deepseek_import::package::{self, SentenceEncoder};
use deepseek_llm::Tokenizer;
use deepseek_runtime::precision::{Calibration, Sample};
use deepseek_tensor::{Result, Tensor, bail, ensure, err};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What calibration data is for.
pub(crate) struct Subject<'a> {
    /// The model.
    pub graph: &'a Graph,
    /// What came with it, a tokenizer perhaps.
    pub files: &'a BTreeMap<String, Bytes>,
    /// How it reads sentences, if it does.
    pub encoder: Option<&'a SentenceEncoder>,
    /// Where it was opened; a tokenizer may lie beside it.
    pub path: Option<&'a Path>,
}

/// Reads an `.npz` file, a directory of them, or texts for the tokenizer of the model: a `.txt` file of
/// one a line, or a `.jsonl` file of strings or objects with a string `text`.
///
/// # Errors
/// `Io` if it cannot be read, `InvalidFile` if it is not what it claims to be, `InvalidArgument` if there
/// is nothing in it, `Unsupported` for another kind of file, or texts for a model without a tokenizer.
pub(crate) fn read(path: &Path, subject: &Subject<'_>) -> Result<Calibration> {
    let io = |e: std::io::Error| err!(Io, "cannot read calibration data '{}': {e}", path.display());
    if path.is_dir() {
        let entries = std::fs::read_dir(path).map_err(io)?;
        let mut files: Vec<PathBuf> =
            entries.map(|e| e.map(|e| e.path())).collect::<std::io::Result<_>>().map_err(io)?;
        files.retain(|f| f.extension().is_some_and(|e| e == "npz"));
        files.sort();
        let empty = files.is_empty();
        ensure!(!empty, InvalidArgument, "the directory '{}' holds no .npz file", path.display());
        let sets = files.iter().map(|f| crate::npz::read(f)).collect::<Result<Vec<Sample>>>()?;
        return Ok(Calibration::Stacked(sets));
    }
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    match extension {
        "npz" => Ok(Calibration::Stacked(vec![crate::npz::read(path)?])),
        "txt" | "jsonl" => {
            let text = std::fs::read_to_string(path).map_err(io)?;
            let lines = text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty());
            let texts = lines.map(|(i, line)| match extension {
                "txt" => Ok(line.to_owned()),
                _ => json_text(line, i + 1).map_err(|e| e.context(path.display())),
            });
            let texts = texts.collect::<Result<Vec<String>>>()?;
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            encode(&texts, subject)
        }
        _ => bail!(
            Unsupported,
            "calibration data '{}' is no .npz, .txt or .jsonl file and no directory",
            path.display()
        ),
    }
}

/// A line that is a string, or an object with the key `text`.
fn json_text(line: &str, number: usize) -> Result<String> {
    let value: serde_json::Value = serde_json::from_str(line)
        .map_err(|e| err!(InvalidFile, "line {number}: not JSON: {e}"))?;
    let text = value.as_str().or_else(|| value.get("text")?.as_str());
    let expected = "expected a string or an object with a string 'text'";
    Ok(text.ok_or_else(|| err!(InvalidFile, "line {number}: {expected}"))?.to_owned())
}

/// Texts as calibration data for the encoder at `model`: a Hugging Face directory, a `.deepseek` file made
/// of one, or an `.onnx` file with a `tokenizer.json` beside it. Its inputs are told by their names.
///
/// # Errors
/// `InvalidArgument` if there is no text; `Unsupported` if the model has no tokenizer, or an input that is
/// neither `input_ids` nor `attention_mask` nor `token_type_ids`; what opening it reports.
pub fn calibration_texts(model: impl AsRef<Path>, texts: &[&str]) -> Result<Calibration> {
    let path = model.as_ref();
    let package = package::open(path)?;
    let (graph, files, encoder) = (&package.graph, &package.files, package.encoder.as_ref());
    encode(texts, &Subject { graph, files, encoder, path: Some(path) })
}

fn encode(texts: &[&str], subject: &Subject<'_>) -> Result<Calibration> {
    ensure!(!texts.is_empty(), InvalidArgument, "the calibration data holds no text");
    let file = match (subject.files.get(package::TOKENIZER), subject.path) {
        (Some(file), _) => file.clone(),
        (None, Some(model)) => {
            let beside = model.with_file_name(package::TOKENIZER);
            let bytes = std::fs::read(&beside).map_err(|e| {
                err!(
                    Unsupported,
                    "texts need a tokenizer, which '{}' does not have, nor is there one at '{}' \
                     ({e}); give calibration data as .npz",
                    model.display(),
                    beside.display()
                )
            })?;
            bytes.into()
        }
        (None, None) => bail!(
            Unsupported,
            "texts need a tokenizer, which this model does not have; give calibration data as .npz"
        ),
    };
    let mut tokenizer = Tokenizer::from_bytes(package::TOKENIZER, &file, None)?;
    let limit = subject
        .encoder
        .map(|e| e.sentence.max_tokens.unwrap_or(usize::MAX).min(e.encoder.max_tokens));
    tokenizer.set_max_tokens(Some(limit.unwrap_or(512)))?;
    let graph = subject.graph;
    let one = |text: &&str| -> Result<Sample> {
        let encoding = tokenizer.encode_full(text)?;
        let n = encoding.ids.len();
        let row = |v: &[u32]| {
            Tensor::from_vec(&[1, n], v.iter().map(|&x| i64::from(x)).collect::<Vec<i64>>())
        };
        let input = |name: &str| match name {
            "input_ids" => row(&encoding.ids),
            "token_type_ids" => row(&encoding.type_ids),
            "attention_mask" => row(&vec![1; n]),
            _ => bail!(
                Unsupported,
                "there is no text for input '{name}'; give calibration data as .npz"
            ),
        };
        let inputs = graph.inputs().iter().map(|id| &graph.value(*id).name);
        inputs.map(|name| Ok((name.clone(), input(name)?))).collect()
    };
    Ok(Calibration::Samples(texts.iter().map(one).collect::<Result<_>>()?))
}
