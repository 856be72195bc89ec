//! Weights in the safetensors format, mapped and not copied.
//!
//! A file is a length, a JSON header and the bytes of the tensors. The header is
//! checked (offsets in range, gapless, sizes equal to dtype × shape) before a tensor
//! is made; each tensor is a view into the mapping. Large models come as several
//! files with an index, `{"weight_map": {tensor: file}}`, whose files must lie
//! beside it.

use crate::mapped::{MappedFile, io_error, shared_buffer};
use bytes::Bytes;
use deepseek_tensor::{DType, Result, Tensor, bail, ensure, err};
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Component, Path};

/// Named tensors and the free-form strings stored with them.
#[derive(Clone, Debug, Default)]
pub struct Weights {
    /// Tensors by name.
    pub tensors: BTreeMap<String, Tensor>,
    /// Contents of `__metadata__`, of all files.
    pub metadata: BTreeMap<String, String>,
}

impl Weights {
    /// The tensor `name`.
    ///
    /// # Errors
    /// `NotFound` naming the tensor.
    pub fn get(&self, name: &str) -> Result<&Tensor> {
        self.tensors.get(name).ok_or_else(|| err!(NotFound, "there is no tensor '{name}'"))
    }
}

/// Loads a `.safetensors` file, an `.index.json` with its files, or a directory
/// that holds `model.safetensors` or `model.safetensors.index.json`.
///
/// # Errors
/// `NotFound`, `Io`; `InvalidFile` naming what is wrong with the file.
pub fn load(path: impl AsRef<Path>) -> Result<Weights> {
    let path = path.as_ref();
    if path.is_dir() {
        let single = path.join("model.safetensors");
        let index = path.join("model.safetensors.index.json");
        return match (single.is_file(), index.is_file()) {
            (true, _) => load_file(&single),
            (false, true) => load_index(&index),
            (false, false) => bail!(
                NotFound,
                "{} holds neither model.safetensors nor model.safetensors.index.json",
                path.display()
            ),
        };
    }
    if path.extension().is_some_and(|e| e == "json") { load_index(path) } else { load_file(path) }
}

/// Reads weights from bytes in memory, sharing them.
///
/// # Errors
/// `InvalidFile` naming what is wrong.
pub fn from_bytes(bytes: Bytes) -> Result<Weights> {
    let (header, meta) = SafeTensors::read_metadata(&bytes).map_err(|e| {
        err!(
            InvalidFile,
            "not a valid safetensors file: {e}; if it was cut short, fetch or write it again"
        )
    })?;
    let start = header + 8; // the length itself takes eight bytes
    let buffer = shared_buffer(bytes);
    let mut weights = Weights::default();
    for (name, info) in meta.tensors() {
        let context = |e: deepseek_tensor::Error| e.context(format_args!("tensor '{name}'"));
        let dtype = dtype(info.dtype).map_err(context)?;
        let (from, to) = info.data_offsets;
        let count = deepseek_tensor::num_elements(&info.shape).map_err(context)?;
        let need = dtype.bytes_for(count).map_err(context)?;
        ensure!(
            to.checked_sub(from) == Some(need),
            InvalidFile,
            "tensor '{name}' ({dtype}{:?}) needs {need} bytes, bytes {from} to {to} are given",
            info.shape
        );
        let t = Tensor::from_buffer(dtype, &info.shape, buffer.clone(), start + from)
            .map_err(|e| err!(InvalidFile, "tensor '{name}': {}", e.message()))?;
        weights.tensors.insert(name, t);
    }
    if let Some(strings) = meta.metadata() {
        weights.metadata.extend(strings.iter().map(|(k, v)| (k.clone(), v.clone())));
    }
    Ok(weights)
}

fn load_file(path: &Path) -> Result<Weights> {
    from_bytes(MappedFile::open(path)?.bytes()).map_err(|e| e.context(path.display()))
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

fn load_index(path: &Path) -> Result<Weights> {
    let text = std::fs::read(path).map_err(|e| io_error(path, &e))?;
    let index: Index = serde_json::from_slice(&text)
        .map_err(|e| err!(InvalidFile, "{} is not a weight index: {e}", path.display()))?;
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut files: BTreeMap<&str, Weights> = BTreeMap::new();
    let mut all = Weights::default();
    for (name, file) in &index.weight_map {
        if !files.contains_key(file.as_str()) {
            let mut parts = Path::new(file).components();
            ensure!(
                matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)),
                InvalidFile,
                "{} refers to '{file}'; weight files must lie beside the index",
                path.display()
            );
            files.insert(file, load_file(&dir.join(file))?);
        }
        let tensor = files[file.as_str()].tensors.get(name).ok_or_else(|| {
            err!(InvalidFile, "{} places '{name}' in {file}, which lacks it", path.display())
        })?;
        all.tensors.insert(name.clone(), tensor.clone());
    }
    for weights in files.into_values() {
        all.metadata.extend(weights.metadata);
    }
    Ok(all)
}

fn dtype(d: Dtype) -> Result<DType> {
    Ok(match d {
        Dtype::BOOL => DType::Bool,
        Dtype::F4 => DType::F4E2M1,
        Dtype::U8 => DType::U8,
        Dtype::I8 => DType::I8,
        Dtype::F8_E5M2 => DType::F8E5M2,
        Dtype::F8_E4M3 => DType::F8E4M3FN,
        Dtype::F8_E8M0 => DType::F8E8M0,
        Dtype::I16 => DType::I16,
        Dtype::U16 => DType::U16,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        Dtype::I32 => DType::I32,
        Dtype::U32 => DType::U32,
        Dtype::F32 => DType::F32,
        Dtype::F64 => DType::F64,
        Dtype::I64 => DType::I64,
        Dtype::U64 => DType::U64,
        other => bail!(Unsupported, "elements of type {other:?}; convert the file to f32 or bf16"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: &[u8]) -> Bytes {
        let mut f = (header.len() as u64).to_le_bytes().to_vec();
        f.extend(header.as_bytes());
        f.extend(data);
        Bytes::from(f)
    }

    #[test]
    fn tensors_are_views_of_the_bytes() {
        // The header is padded so that the data is aligned, as writers do.
        let head = r#"{"__metadata__":{"a":"b"},"w":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]},"s":{"dtype":"F8_E4M3","shape":[],"data_offsets":[4,5]}}"#;
        let head = format!("{head:<width$}", width = head.len().next_multiple_of(8));
        let bytes = file(&head, &[0x80, 0x3f, 0x00, 0x40, 0x38]);
        let w = from_bytes(bytes.clone()).unwrap();
        assert_eq!(w.metadata["a"], "b");
        let t = w.get("w").unwrap();
        assert_eq!((t.dtype(), t.shape()), (DType::BF16, &[2usize][..]));
        assert_eq!(t.to_vec::<half::bf16>().unwrap().map_to_f32(), [1.0, 2.0]);
        assert_eq!(w.get("s").unwrap().dtype(), DType::F8E4M3FN);
        assert!(w.get("x").is_err());
    }

    trait MapToF32 {
        fn map_to_f32(self) -> Vec<f32>;
    }
    impl MapToF32 for Vec<half::bf16> {
        fn map_to_f32(self) -> Vec<f32> {
            self.into_iter().map(half::bf16::to_f32).collect()
        }
    }

    #[test]
    fn hostile_headers_are_errors() {
        for header in [
            r#"{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}"#,
            r#"{"w":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}"#,
            r#"{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,400]}}"#,
            r#"{"w":{"dtype":"F32","shape":[9223372036854775807,4],"data_offsets":[0,4]}}"#,
            r#"{"w":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#,
            r#"{"w":{"dtype":"C64","shape":[1],"data_offsets":[0,4]}}"#,
            r#"{"w":"#,
            "[]",
        ] {
            assert!(from_bytes(file(header, &[0; 4])).is_err(), "{header}");
        }
        for bytes in [&[][..], &[1], &[0xff; 8], &[0xff; 64]] {
            assert!(from_bytes(Bytes::copy_from_slice(bytes)).is_err());
        }
    }
}
