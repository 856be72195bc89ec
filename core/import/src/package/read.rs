//! Reading.

use super::write::{dtype_name, hex};
use super::{
    FILES, MAIN, MANIFEST, MANIFEST_SHA256, PACKED, Package, PackedConstants, SentenceEncoder,
    VERSION,
};
use crate::mapped::MappedFile;
use crate::safetensors::{self, Weights};
use bytes::Bytes;
use deepseek_graph::text;
use deepseek_tensor::{DType, Result, Tensor, bail, ensure, err};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

#[derive(Deserialize)]
struct Manifest {
    #[serde(default)]
    source: String,
    graphs: BTreeMap<String, String>,
    #[serde(default)]
    types: BTreeMap<String, Stored>,
    #[serde(default)]
    sha256: BTreeMap<String, String>,
    pipeline: Option<serde_json::Value>,
    #[serde(default)]
    labels: Vec<String>,
    encoder: Option<SentenceEncoder>,
    packed_for: Option<String>,
    precision: Option<serde_json::Map<String, serde_json::Value>>,
}

/// What the bytes of a `U8` tensor stand for.
#[derive(Deserialize)]
struct Stored {
    dtype: String,
    shape: Vec<usize>,
}

/// Opens the file at `path`. Weights are mapped; their digests are not looked at, see [`verify`].
///
/// # Errors
/// `NotFound`, `Io`; `InvalidFile` naming the field or tensor that is wrong; `Unsupported` for a
/// version that is newer than this library.
pub fn load(path: impl AsRef<Path>) -> Result<Package> {
    let path = path.as_ref();
    from_bytes(MappedFile::open(path)?.bytes()).map_err(|e| e.context(path.display()))
}

/// Reads the file at `path` whole and holds every tensor against its digest.
///
/// # Errors
/// As [`load`]; `InvalidFile` naming the first tensor whose bytes have changed.
pub fn verify(path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    let check = |bytes: Bytes| -> Result<()> {
        let weights = safetensors::from_bytes(bytes.clone())?;
        let manifest = manifest(&weights)?;
        for (name, tensor) in &weights.tensors {
            let want = manifest.sha256.get(name).ok_or_else(|| {
                err!(InvalidFile, "the manifest has no digest of tensor '{name}'")
            })?;
            let got = hex(tensor.as_bytes()?);
            ensure!(
                got == *want,
                InvalidFile,
                "tensor '{name}' has SHA-256 {got}, the manifest says {want}; the file was damaged"
            );
        }
        from_bytes(bytes).map(|_| ())
    };
    check(MappedFile::open(path)?.bytes()).map_err(|e| e.context(path.display()))
}

/// As [`load`], from bytes in memory, which are shared.
///
/// # Errors
/// As [`load`].
pub fn from_bytes(bytes: Bytes) -> Result<Package> {
    let mut weights = safetensors::from_bytes(bytes)?;
    let manifest = manifest(&weights)?;
    let main = manifest.graphs.get(MAIN).ok_or_else(|| {
        let have: Vec<&str> = manifest.graphs.keys().map(String::as_str).collect();
        err!(InvalidFile, "there is no graph '{MAIN}', only '{}'", have.join("', '"))
    })?;
    for (name, stored) in &manifest.types {
        let raw = weights.get(name)?;
        let tensor = stored.tensor(raw).map_err(|e| e.context(format_args!("tensor '{name}'")))?;
        weights.tensors.insert(name.clone(), tensor);
    }
    let files = take(&mut weights, FILES)
        .into_iter()
        .map(|(name, t)| Ok((name, Bytes::copy_from_slice(t.as_bytes()?))))
        .collect::<Result<_>>()?;
    let constants = take(&mut weights, PACKED);
    let packed = manifest.packed_for.map(|machine| PackedConstants { machine, constants });
    let graph = text::parse(main, &weights.tensors)
        .map_err(|e| e.context(format_args!("graph '{MAIN}'")))?;
    let precision = manifest.precision.map(|p| serde_json::Value::Object(p).to_string());
    let Manifest { source, pipeline, labels, encoder, .. } = manifest;
    Ok(Package { graph, source, files, pipeline, labels, encoder, precision, packed })
}

/// Takes out the tensors whose names begin with `prefix`, under the rest of their names.
fn take(weights: &mut Weights, prefix: &str) -> BTreeMap<String, Tensor> {
    let mut taken = BTreeMap::new();
    weights.tensors.retain(|name, t| match name.strip_prefix(prefix) {
        Some(name) => {
            taken.insert(name.to_owned(), t.clone());
            false
        }
        None => true,
    });
    taken
}

/// The manifest, checked against its digest.
fn manifest(weights: &Weights) -> Result<Manifest> {
    let text = weights.metadata.get(MANIFEST).ok_or_else(|| {
        err!(
            InvalidFile,
            "the file has weights but no manifest ('{MANIFEST}' in __metadata__); it is plain safetensors"
        )
    })?;
    // The version first: a newer manifest may have other fields.
    #[derive(Deserialize)]
    struct Version {
        version: u64,
    }
    let invalid = |e: serde_json::Error| err!(InvalidFile, "the manifest is not valid: {e}");
    let Version { version } = serde_json::from_str(text).map_err(invalid)?;
    if version > VERSION {
        bail!(
            Unsupported,
            "the file has format version {version}, this library reads up to {VERSION}; update it"
        );
    }
    ensure!(version == VERSION, InvalidFile, "there is no format version {version}");
    if let Some(want) = weights.metadata.get(MANIFEST_SHA256) {
        let got = hex(text.as_bytes());
        ensure!(
            got == *want,
            InvalidFile,
            "the manifest has SHA-256 {got}, the file says {want}; it was changed"
        );
    }
    serde_json::from_str(text).map_err(invalid)
}

impl Stored {
    fn tensor(&self, raw: &Tensor) -> Result<Tensor> {
        let dtype = DType::parse(&self.dtype)?;
        ensure!(
            raw.dtype() == DType::U8 && dtype_name(dtype).is_none(),
            InvalidFile,
            "{} elements cannot be stored as {}",
            self.dtype,
            raw.dtype()
        );
        let bytes = raw.as_bytes()?;
        if dtype == DType::String {
            let strings: Vec<String> = serde_json::from_slice(bytes)
                .map_err(|e| err!(InvalidFile, "not a list of strings: {e}"))?;
            return Tensor::from_strings(&self.shape, strings);
        }
        Tensor::from_bytes(dtype, &self.shape, bytes)
    }
}
