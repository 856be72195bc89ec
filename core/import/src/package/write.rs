//! Writing.

use super::{FILES, MAIN, MANIFEST, MANIFEST_SHA256, PACKED, Package, VERSION};
use deepseek_graph::text;
use deepseek_tensor::{DType, Result, Tensor, ensure, err};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// Alignment, in bytes, of the data and of large tensors.
const ALIGN: usize = 64;

/// A tensor of the file.
struct Section<'a> {
    name: String,
    /// As safetensors spells it.
    dtype: &'static str,
    shape: Vec<usize>,
    /// Bytes of an element.
    width: usize,
    bytes: Cow<'a, [u8]>,
}

impl<'a> Section<'a> {
    fn of_tensor(name: String, dtype: &'static str, t: &'a Tensor) -> Result<Self> {
        let bytes = Cow::Borrowed(t.as_bytes()?);
        Ok(Section { name, dtype, shape: t.shape().to_vec(), width: t.dtype().bits() / 8, bytes })
    }

    fn of_bytes(name: String, bytes: Cow<'a, [u8]>) -> Self {
        Section { name, dtype: "U8", shape: vec![bytes.len()], width: 1, bytes }
    }
}

/// Writes `package` to `path`, replacing what is there when all is written.
///
/// # Errors
/// `Io` naming the path, a full disk among the reasons; `InvalidArgument` if a weight and a file
/// have the same name.
pub fn save(package: &Package, path: impl AsRef<Path>) -> Result<()> {
    encode(package, |parts| {
        write(path.as_ref(), |out| parts.iter().try_for_each(|part| out.write_all(part)))
    })
}

/// The bytes that [`save`] writes.
///
/// # Errors
/// As [`save`].
pub fn to_bytes(package: &Package) -> Result<Vec<u8>> {
    encode(package, |parts| Ok(parts.concat()))
}

/// Hands the parts of a file, which follow each other, to `take`.
fn encode<T>(package: &Package, take: impl FnOnce(&[&[u8]]) -> Result<T>) -> Result<T> {
    let constants = text::large_constants(&package.graph);
    let contiguous = constants
        .iter()
        .map(|(name, t)| Ok((name.as_str(), t.to_contiguous()?)))
        .collect::<Result<Vec<_>>>()?;
    let mut types = Map::new();
    let mut sections = Vec::new();
    for (name, t) in &contiguous {
        ensure!(
            !name.starts_with(FILES) && !name.starts_with(PACKED),
            InvalidArgument,
            "the constant '{name}' has a name of an attached file or packed constant; rename it"
        );
        let section = match dtype_name(t.dtype()) {
            Some(dtype) => Section::of_tensor((*name).to_owned(), dtype, t)?,
            None => {
                let stored = json!({"dtype": t.dtype().name(), "shape": t.shape()});
                types.insert((*name).to_owned(), stored);
                Section::of_bytes((*name).to_owned(), raw_bytes(t)?)
            }
        };
        sections.push(section);
    }
    for (name, t) in package.packed.iter().flat_map(|p| &p.constants) {
        let dtype = dtype_name(t.dtype())
            .ok_or_else(|| err!(InvalidArgument, "packed constants cannot be {}", t.dtype()))?;
        sections.push(Section::of_tensor(format!("{PACKED}{name}"), dtype, t)?);
    }
    for (name, bytes) in &package.files {
        sections.push(Section::of_bytes(format!("{FILES}{name}"), Cow::Borrowed(bytes)));
    }
    // Whole lines first, then by falling width: nothing needs a gap, which the format forbids.
    sections.sort_by(|a, b| {
        let key = |s: &Section| (!s.bytes.len().is_multiple_of(ALIGN), std::cmp::Reverse(s.width));
        key(a).cmp(&key(b)).then_with(|| a.name.cmp(&b.name))
    });
    let header = header(package, types, &sections)?;
    let length = (header.len() as u64).to_le_bytes();
    let mut parts: Vec<&[u8]> = vec![&length, header.as_bytes()];
    parts.extend(sections.iter().map(|s| &*s.bytes));
    take(&parts)
}

/// The JSON header, padded so that data begins at a multiple of [`ALIGN`].
fn header(package: &Package, types: Map<String, Value>, sections: &[Section]) -> Result<String> {
    let digests: Map<String, Value> =
        sections.iter().map(|s| (s.name.clone(), hex(&s.bytes).into())).collect();
    let mut manifest = json!({
        "version": VERSION,
        "producer": concat!("libdeepseek ", env!("CARGO_PKG_VERSION")),
        "source": package.source,
        "graphs": {MAIN: text::print(&package.graph)},
        "types": types,
        "sha256": digests,
    });
    if let Some(pipeline) = &package.pipeline {
        manifest["pipeline"] = pipeline.clone();
    }
    if !package.labels.is_empty() {
        manifest["labels"] = json!(package.labels);
    }
    if let Some(encoder) = &package.encoder {
        manifest["encoder"] = json!(encoder);
    }
    if let Some(packed) = &package.packed {
        manifest["packed_for"] = packed.machine.as_str().into();
    }
    if let Some(precision) = &package.precision {
        manifest["precision"] = serde_json::from_str(precision)
            .map_err(|e| err!(InvalidArgument, "the precision report is not a JSON object: {e}"))?;
    }
    let manifest = manifest.to_string();
    let digest = hex(manifest.as_bytes());
    let mut header = Map::new();
    header.insert("__metadata__".to_owned(), json!({MANIFEST: manifest, MANIFEST_SHA256: digest}));
    let mut at = 0;
    for s in sections {
        let end = at + s.bytes.len();
        header.insert(
            s.name.clone(),
            json!({"dtype": s.dtype, "shape": s.shape, "data_offsets": [at, end]}),
        );
        at = end;
    }
    let mut header = Value::Object(header).to_string();
    let padded = (header.len() + 8).next_multiple_of(ALIGN) - 8;
    header.push_str(&" ".repeat(padded - header.len()));
    Ok(header)
}

/// Writes a file beside `path`, then renames it there.
fn write(
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<File>) -> std::io::Result<()>,
) -> Result<()> {
    let name = path
        .file_name()
        .ok_or_else(|| err!(InvalidArgument, "'{}' names no file to write", path.display()))?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{}.part", std::process::id()));
    let part = Part(path.with_file_name(hidden));
    let written = File::create(&part.0).and_then(|file| {
        let mut out = BufWriter::with_capacity(1 << 20, file);
        fill(&mut out)?;
        out.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()?;
        std::fs::rename(&part.0, path)
    });
    written.map_err(|e| {
        err!(
            Io,
            "cannot write {}: {e}; check that the directory exists, may be written and has room",
            path.display()
        )
    })
}

/// Removes an unfinished file.
struct Part(PathBuf);

impl Drop for Part {
    fn drop(&mut self) {
        // After the rename there is nothing under this name.
        let _ = std::fs::remove_file(&self.0);
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// Bytes of elements that safetensors has no name for: packed integers as they are, strings as a
/// JSON list.
fn raw_bytes(t: &Tensor) -> Result<Cow<'_, [u8]>> {
    if t.dtype() == DType::String {
        return Ok(Cow::Owned(json!(t.as_strings()?).to_string().into_bytes()));
    }
    t.as_bytes().map(Cow::Borrowed)
}

/// The name of an element type in safetensors, if it has one whose elements are whole bytes.
pub(super) fn dtype_name(dtype: DType) -> Option<&'static str> {
    Some(match dtype {
        DType::Bool => "BOOL",
        DType::U8 => "U8",
        DType::I8 => "I8",
        DType::U16 => "U16",
        DType::I16 => "I16",
        DType::U32 => "U32",
        DType::I32 => "I32",
        DType::U64 => "U64",
        DType::I64 => "I64",
        DType::F16 => "F16",
        DType::BF16 => "BF16",
        DType::F32 => "F32",
        DType::F64 => "F64",
        DType::F8E4M3FN => "F8_E4M3",
        DType::F8E5M2 => "F8_E5M2",
        _ => return None,
    })
}
