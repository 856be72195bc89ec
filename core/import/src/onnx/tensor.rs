//! Stored tensors and values: every way ONNX writes elements down.
//!
//! A tensor's elements are raw bytes (shared with the file where aligned), a typed
//! list, or a range of another file. Whichever it is, their number must match the
//! shape before anything is allocated.

use super::proto::{OptionalProto, SequenceProto, SparseTensorProto, TensorProto};
use super::types::dtype_from_onnx;
use crate::mapped::{MappedFile, shared_buffer};
use bytes::Bytes;
use deepseek_graph::{Type, Value};
use deepseek_tensor::{
    Buffer, DType, Dims, Element, Result, Tensor, bail, ensure, err, num_elements,
};
use half::{bf16, f16};
use std::cell::RefCell;
use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

/// Largest dense form, in bytes, that a sparse tensor is expanded to.
pub const MAX_DENSE_BYTES: usize = 256 << 20;

/// The directory that external data may lie in, and the files mapped so far.
#[derive(Default)]
pub(super) struct ExternalFiles {
    base: Option<PathBuf>,
    mapped: RefCell<HashMap<PathBuf, Arc<Buffer>>>,
}

impl ExternalFiles {
    /// Files beside the model, or none where the model has no directory.
    pub fn new(base: Option<&Path>) -> Self {
        ExternalFiles { base: base.map(Path::to_owned), ..Self::default() }
    }

    /// The file at `location`, which must lie inside the model's directory.
    fn open(&self, location: &str) -> Result<Arc<Buffer>> {
        let Some(base) = &self.base else {
            bail!(
                Unsupported,
                "the data lies in the file '{location}', but the model was given as bytes \
                 without a directory; pass the directory or load the model by path"
            );
        };
        let relative = Path::new(location);
        ensure!(
            !location.is_empty()
                && !location.contains(['\0', '\\'])
                && relative
                    .components()
                    .all(|c| matches!(c, Component::Normal(_) | Component::CurDir)),
            InvalidFile,
            "external data '{location}' must be a relative path without '..'"
        );
        let path = base.join(relative);
        if let Some(buffer) = self.mapped.borrow().get(&path) {
            return Ok(buffer.clone());
        }
        let real = |p: &Path| {
            p.canonicalize().map_err(|e| crate::mapped::io_error(p, &e).context("external data"))
        };
        ensure!(
            real(&path)?.starts_with(real(base)?),
            InvalidFile,
            "external data '{location}' leads out of the model's directory"
        );
        let buffer = MappedFile::open(&path)?.buffer();
        self.mapped.borrow_mut().insert(path, buffer.clone());
        Ok(buffer)
    }
}

/// Converts a stored tensor.
///
/// # Errors
/// `InvalidFile` where sizes contradict each other, `Unsupported` for complex and
/// 6-bit element types; the tensor's name is in the message.
pub(super) fn tensor(t: &TensorProto, files: &ExternalFiles) -> Result<Tensor> {
    convert(t, files).map_err(|e| e.context(format_args!("tensor '{}'", t.name)))
}

fn convert(t: &TensorProto, files: &ExternalFiles) -> Result<Tensor> {
    let dtype = dtype_from_onnx(t.data_type)?;
    let shape = shape(&t.dims)?;
    let count = num_elements(&shape).map_err(as_file_error)?;
    ensure!(t.segment.is_none(), Unsupported, "tensors stored in segments; store it whole");
    match t.data_location {
        0 => {}
        1 => return external(t, dtype, &shape, count, files),
        n => bail!(InvalidFile, "unknown data location {n}"),
    }
    if let Some(raw) = t.raw_data.as_ref().filter(|r| !r.is_empty()) {
        ensure!(dtype != DType::String, InvalidFile, "strings cannot be stored as raw data");
        let need = dtype.bytes_for(count).map_err(as_file_error)?;
        ensure!(
            raw.len() == need,
            InvalidFile,
            "{dtype}{shape:?} needs {need} bytes, the file holds {}",
            raw.len()
        );
        return Tensor::from_buffer(dtype, &shape, shared_buffer(raw.clone()), 0);
    }
    typed(t, dtype, &shape, count)
}

fn shape(dims: &[i64]) -> Result<Dims> {
    dims.iter()
        .map(|&d| {
            usize::try_from(d).map_err(|_| err!(InvalidFile, "negative extent {d} in {dims:?}"))
        })
        .collect()
}

fn as_file_error(e: deepseek_tensor::Error) -> deepseek_tensor::Error {
    err!(InvalidFile, "{}", e.message())
}

/// Elements from the typed list that the element type calls for.
fn typed(t: &TensorProto, dtype: DType, shape: &[usize], count: usize) -> Result<Tensor> {
    let expect = |len: usize, want: usize, field: &str| {
        ensure!(
            len == want,
            InvalidFile,
            "{dtype}{shape:?} needs {want} entries in {field}, the file holds {len}"
        );
        Ok(())
    };
    let ints = |want| expect(t.int32_data.len(), want, "int32_data").map(|()| &t.int32_data[..]);
    match dtype {
        DType::F32 => {
            expect(t.float_data.len(), count, "float_data")?;
            Tensor::from_slice(shape, &t.float_data)
        }
        DType::F64 => {
            expect(t.double_data.len(), count, "double_data")?;
            Tensor::from_slice(shape, &t.double_data)
        }
        DType::I64 => {
            expect(t.int64_data.len(), count, "int64_data")?;
            Tensor::from_slice(shape, &t.int64_data)
        }
        DType::U64 => {
            expect(t.uint64_data.len(), count, "uint64_data")?;
            Tensor::from_slice(shape, &t.uint64_data)
        }
        DType::U32 => {
            expect(t.uint64_data.len(), count, "uint64_data")?;
            collect(shape, &t.uint64_data, |x| x as u32)
        }
        DType::I32 => Tensor::from_slice(shape, ints(count)?),
        DType::I16 => collect(shape, ints(count)?, |x| x as i16),
        DType::U16 => collect(shape, ints(count)?, |x| x as u16),
        DType::I8 => collect(shape, ints(count)?, |x| x as i8),
        DType::U8 => collect(shape, ints(count)?, |x| x as u8),
        DType::Bool => collect(shape, ints(count)?, |x| x != 0),
        DType::F16 => collect(shape, ints(count)?, |x| f16::from_bits(x as u16)),
        DType::BF16 => collect(shape, ints(count)?, |x| bf16::from_bits(x as u16)),
        DType::String => {
            expect(t.string_data.len(), count, "string_data")?;
            let text = t.string_data.iter().map(text).collect::<Result<_>>()?;
            Tensor::from_strings(shape, text)
        }
        // One entry a byte: 8-bit floats, and 4- and 2-bit types packed.
        _ => {
            let need = dtype.bytes_for(count).map_err(as_file_error)?;
            let bytes: Vec<u8> = ints(need)?.iter().map(|&x| x as u8).collect();
            Tensor::from_bytes(dtype, shape, &bytes)
        }
    }
}

fn collect<S: Copy, T: Element>(shape: &[usize], from: &[S], f: impl Fn(S) -> T) -> Result<Tensor> {
    Tensor::from_vec(shape, from.iter().map(|&x| f(x)).collect())
}

/// Stored bytes as UTF-8 text.
pub(super) fn text(bytes: &Bytes) -> Result<String> {
    String::from_utf8(bytes.to_vec())
        .map_err(|_| err!(InvalidFile, "a string of {} bytes is not UTF-8", bytes.len()))
}

/// Elements from a range of another file.
fn external(
    t: &TensorProto,
    dtype: DType,
    shape: &[usize],
    count: usize,
    files: &ExternalFiles,
) -> Result<Tensor> {
    ensure!(dtype != DType::String, InvalidFile, "strings cannot be stored as external data");
    let key = |name: &str| t.external_data.iter().find(|e| e.key == name).map(|e| &e.value[..]);
    let number = |name: &str| {
        key(name)
            .map(|v| {
                v.parse::<usize>().map_err(|_| {
                    err!(InvalidFile, "external data has {name} '{v}', expected a byte count")
                })
            })
            .transpose()
    };
    let location =
        key("location").ok_or_else(|| err!(InvalidFile, "external data without a location"))?;
    let need = dtype.bytes_for(count).map_err(as_file_error)?;
    let offset = number("offset")?.unwrap_or(0);
    let length = number("length")?.unwrap_or(need);
    ensure!(
        length == need,
        InvalidFile,
        "{dtype}{shape:?} needs {need} bytes, external data '{location}' declares {length}"
    );
    let buffer = files.open(location)?;
    ensure!(
        offset.checked_add(need).is_some_and(|end| end <= buffer.len()),
        InvalidFile,
        "bytes {offset} to {offset}+{need} are outside external data '{location}' of {} bytes",
        buffer.len()
    );
    Tensor::from_buffer(dtype, shape, buffer, offset)
}

/// Expands a sparse tensor.
///
/// # Errors
/// As [`tensor`]; `Unsupported` if the dense form exceeds [`MAX_DENSE_BYTES`].
pub(super) fn sparse(s: &SparseTensorProto, files: &ExternalFiles) -> Result<Tensor> {
    let (Some(values), Some(indices)) = (&s.values, &s.indices) else {
        bail!(InvalidFile, "a sparse tensor without values or indices");
    };
    let dense = || -> Result<Tensor> {
        let (v, at) = (convert(values, files)?, convert(indices, files)?);
        let shape = shape(&s.dims)?;
        let count = num_elements(&shape).map_err(as_file_error)?;
        let bytes = v.dtype().bytes_for(count).map_err(as_file_error)?;
        ensure!(
            bytes.max(count) <= MAX_DENSE_BYTES,
            Unsupported,
            "a sparse tensor of {count} elements exceeds the limit of {MAX_DENSE_BYTES} bytes; \
             store it densely"
        );
        ensure!(
            v.dtype() != DType::String && !v.dtype().is_packed(),
            Unsupported,
            "sparse tensors of {}",
            v.dtype()
        );
        let (n, at_shape) = (v.len(), at.shape().to_vec());
        let at = at.as_slice::<i64>().map_err(as_file_error)?;
        let linear = at_shape == [n];
        ensure!(
            v.rank() == 1 && (linear || at_shape == [n, shape.len()]),
            InvalidFile,
            "sparse values {:?} with indices {at_shape:?} do not fit {shape:?}",
            v.shape()
        );
        let width = v.dtype().bits() / 8;
        let mut out = vec![0u8; bytes];
        for (i, value) in v.as_bytes()?.chunks_exact(width).enumerate() {
            let position = if linear {
                usize::try_from(at[i]).ok().filter(|&p| p < count)
            } else {
                at[i * shape.len()..][..shape.len()]
                    .iter()
                    .zip(&shape)
                    .try_fold(0, |p, (&x, &d)| {
                        usize::try_from(x).ok().filter(|&x| x < d).map(|x| p * d + x)
                    })
            };
            let Some(p) = position else {
                bail!(InvalidFile, "index {i} of a sparse tensor lies outside {shape:?}");
            };
            out[p * width..][..width].copy_from_slice(value);
        }
        Tensor::from_bytes(v.dtype(), &shape, &out)
    };
    dense().map_err(|e| e.context(format_args!("sparse tensor '{}'", values.name)))
}

/// A stored sequence, of element type `element`.
pub(super) fn sequence(s: &SequenceProto, element: &Type) -> Result<Value> {
    let files = ExternalFiles::default();
    let mut items: Vec<Value> = Vec::new();
    for t in &s.tensor_values {
        items.push(tensor(t, &files)?.into());
    }
    for inner in &s.sequence_values {
        let Type::Sequence(element) = element else {
            bail!(InvalidFile, "a sequence of sequences where {element} is expected");
        };
        items.push(sequence(inner, element)?);
    }
    for inner in &s.optional_values {
        let Type::Optional(element) = element else {
            bail!(InvalidFile, "a sequence of optionals where {element} is expected");
        };
        items.push(optional(inner, element)?);
    }
    Ok(Value::Sequence(element.clone(), Arc::new(items)))
}

/// A stored optional, of content type `inner`.
pub(super) fn optional(o: &OptionalProto, inner: &Type) -> Result<Value> {
    let content = match (o.elem_type, inner) {
        (0, _) => None,
        (1, _) => o
            .tensor_value
            .as_ref()
            .map(|t| tensor(t, &ExternalFiles::default()).map(Value::from))
            .transpose()?,
        (3, Type::Sequence(element)) => {
            o.sequence_value.as_ref().map(|s| sequence(s, element)).transpose()?
        }
        (5, Type::Optional(inner)) => {
            o.optional_value.as_ref().map(|v| optional(v, inner)).transpose()?
        }
        (n, _) => bail!(InvalidFile, "an optional of kind {n} where {inner} is expected"),
    };
    Ok(Value::Optional(inner.clone(), content.map(Box::new)))
}

/// Decodes a stored test value of type `ty`.
pub(super) fn value(bytes: Bytes, ty: &Type) -> Result<Value> {
    use super::proto::{Kind, decode};
    match ty {
        Type::Tensor(..) => {
            tensor(&decode(bytes, Kind::Tensor)?, &ExternalFiles::default()).map(Value::from)
        }
        Type::Sequence(element) => sequence(&decode(bytes, Kind::Value)?, element),
        Type::Optional(inner) => optional(&decode(bytes, Kind::Value)?, inner),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::proto::StringStringEntryProto;

    fn proto(data_type: i32, dims: &[i64]) -> TensorProto {
        TensorProto { name: "w".into(), data_type, dims: dims.to_vec(), ..Default::default() }
    }

    fn read(t: TensorProto) -> Result<Tensor> {
        tensor(&t, &ExternalFiles::default())
    }

    #[test]
    fn every_field_that_holds_elements_is_read() {
        let t = read(TensorProto { float_data: vec![1.0, 2.0], ..proto(1, &[2]) }).unwrap();
        assert_eq!(t.to_vec::<f32>().unwrap(), [1.0, 2.0]);
        let t = read(TensorProto { int32_data: vec![0x3c00], ..proto(10, &[]) }).unwrap();
        assert_eq!(t.item::<f16>().unwrap(), f16::ONE);
        let t = read(TensorProto { int32_data: vec![-1, 2], ..proto(3, &[1, 2]) }).unwrap();
        assert_eq!(t.to_vec::<i8>().unwrap(), [-1, 2]);
        let t = read(TensorProto { int32_data: vec![0x21, 0x03], ..proto(21, &[3]) }).unwrap();
        assert_eq!(t.unpack().unwrap().to_vec::<u8>().unwrap(), [1, 2, 3]);
        let t = read(TensorProto { uint64_data: vec![7], ..proto(12, &[1]) }).unwrap();
        assert_eq!(t.to_vec::<u32>().unwrap(), [7]);
        let t = read(TensorProto {
            string_data: vec![Bytes::from_static("é".as_bytes())],
            ..proto(8, &[1])
        });
        assert_eq!(t.unwrap().as_strings().unwrap(), ["é"]);
        let raw = Some(Bytes::from_static(&[1, 0, 0, 0, 0, 0, 0, 0]));
        let t = read(TensorProto { raw_data: raw, ..proto(7, &[1]) }).unwrap();
        assert_eq!(t.to_vec::<i64>().unwrap(), [1]);
        assert!(read(proto(1, &[0, 5])).unwrap().is_empty());
    }

    #[test]
    fn sizes_that_contradict_the_shape_are_errors_before_allocation() {
        let raw = Some(Bytes::from_static(&[0; 8]));
        for t in [
            proto(1, &[2]),
            proto(1, &[i64::MAX, i64::MAX]),
            proto(1, &[i64::MAX]),
            proto(1, &[-1]),
            proto(0, &[1]),
            proto(14, &[1]),
            proto(99, &[1]),
            TensorProto { raw_data: raw.clone(), ..proto(1, &[3]) },
            TensorProto { raw_data: raw.clone(), ..proto(8, &[8]) },
            TensorProto { raw_data: raw, ..proto(1, &[1 << 40]) },
            TensorProto { float_data: vec![0.0; 3], ..proto(1, &[2]) },
            TensorProto { dims: vec![1; 100], float_data: vec![0.0], ..proto(1, &[]) },
            TensorProto { string_data: vec![Bytes::from_static(&[0xff])], ..proto(8, &[1]) },
            TensorProto { data_location: 1, ..proto(1, &[1]) },
            TensorProto { data_location: 2, ..proto(1, &[1]) },
        ] {
            let e = read(t.clone()).unwrap_err();
            assert!(e.message().contains("'w'"), "{t:?}: {e}");
        }
    }

    #[test]
    fn external_data_stays_inside_the_directory() {
        let dir = std::env::temp_dir().join(format!("deepseek-ext-{}", std::process::id()));
        let inside = dir.join("model");
        std::fs::create_dir_all(&inside).unwrap();
        std::fs::write(dir.join("secret"), [0u8; 16]).unwrap();
        std::fs::write(inside.join("w.bin"), 1.5f32.to_le_bytes().repeat(4)).unwrap();
        #[cfg(unix)]
        std::os::unix::fs::symlink(dir.join("secret"), inside.join("link")).unwrap();
        let files = ExternalFiles::new(Some(&inside));
        let at = |location: &str, offset: &str, length: &str| {
            let entry = |key: &str, value: &str| StringStringEntryProto {
                key: key.into(),
                value: value.into(),
            };
            let external_data =
                vec![entry("location", location), entry("offset", offset), entry("length", length)];
            tensor(&TensorProto { data_location: 1, external_data, ..proto(1, &[2]) }, &files)
        };
        assert_eq!(at("w.bin", "8", "8").unwrap().to_vec::<f32>().unwrap(), [1.5, 1.5]);
        assert_eq!(at("./w.bin", "4", "8").unwrap().to_vec::<f32>().unwrap(), [1.5, 1.5]);
        let absolute = dir.join("secret");
        for (location, offset, length) in [
            ("../secret", "0", "8"),
            ("link", "0", "8"),
            (absolute.to_str().unwrap(), "0", "8"),
            ("x/../../secret", "0", "8"),
            ("missing", "0", "8"),
            (".", "0", "8"),
            ("", "0", "8"),
            ("w.bin", "12", "8"),
            ("w.bin", "18446744073709551615", "8"),
            ("w.bin", "-1", "8"),
            ("w.bin", "0", "16"),
        ] {
            assert!(at(location, offset, length).is_err(), "{location} {offset} {length}");
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn sparse_tensors_expand_within_bounds() {
        let s = |dims: &[i64], at: Vec<i64>, at_dims: &[i64]| SparseTensorProto {
            values: Some(TensorProto { float_data: vec![5.0, 6.0], ..proto(1, &[2]) }),
            indices: Some(TensorProto { int64_data: at, ..proto(7, at_dims) }),
            dims: dims.to_vec(),
        };
        let files = ExternalFiles::default();
        let t = sparse(&s(&[2, 2], vec![0, 3], &[2]), &files).unwrap();
        assert_eq!(t.to_vec::<f32>().unwrap(), [5.0, 0.0, 0.0, 6.0]);
        let t = sparse(&s(&[2, 2], vec![0, 1, 1, 0], &[2, 2]), &files).unwrap();
        assert_eq!(t.to_vec::<f32>().unwrap(), [0.0, 5.0, 6.0, 0.0]);
        assert!(sparse(&s(&[2, 2], vec![0, 4], &[2]), &files).is_err());
        assert!(sparse(&s(&[2, 2], vec![0, 1, 1, 2], &[2, 2]), &files).is_err());
        assert!(sparse(&s(&[1 << 40], vec![0, 1], &[2]), &files).is_err());
        assert!(sparse(&s(&[2, 2], vec![0, 1, 2], &[3]), &files).is_err());
    }
}
