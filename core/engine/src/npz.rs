//! Reading and writing `.npz`: zip archives of `.npy` members (NumPy Enhancement
//! Proposal 1).
//!
//! numpy has no bf16, fp8 or 4-bit types: they travel as `uint16`, `uint8` and one
//! value a byte, and a member `__dtypes__.json` names their true type.

use deepseek_tensor::{Code, DType, Error, Result, Tensor};
use std::collections::BTreeMap;
use std::io::{Cursor, Read, Seek, Write};
use std::path::Path;

/// Member that maps names to element types that numpy does not have.
const DTYPES: &str = "__dtypes__.json";
/// Largest header of an `.npy` member that is read.
const MAX_HEADER: usize = 1 << 16;
/// Magic bytes of an `.npy` member.
const MAGIC: &[u8; 6] = b"\x93NUMPY";

fn invalid(message: impl Into<String>) -> Error {
    Error::new(Code::InvalidFile, message)
}

fn io(path: &Path, what: &str, e: impl std::fmt::Display) -> Error {
    Error::new(Code::Io, format!("cannot {what} '{}': {e}", path.display()))
}

/// Reads every array of an archive, in the order of the archive.
///
/// # Errors
/// `Io` if the file cannot be read, `InvalidFile` naming the member otherwise.
pub fn read(path: &Path) -> Result<Vec<(String, Tensor)>> {
    let file = std::fs::File::open(path).map_err(|e| io(path, "open", e))?;
    read_from(file).map_err(|e| e.context(path.display()))
}

fn read_from(source: impl Read + Seek) -> Result<Vec<(String, Tensor)>> {
    let mut zip = zip::ZipArchive::new(source)
        .map_err(|e| invalid(format!("not an npz archive ({e}); write one with numpy.savez")))?;
    let mut members = Vec::new();
    let mut dtypes: BTreeMap<String, String> = BTreeMap::new();
    for i in 0..zip.len() {
        let member = zip.by_index(i).map_err(|e| invalid(format!("member {i}: {e}")))?;
        let (name, size) = (member.name().to_owned(), member.size());
        let bytes = read_member(member, size).map_err(|e| e.context(format!("member '{name}'")))?;
        if name == DTYPES {
            dtypes =
                serde_json::from_slice(&bytes).map_err(|e| invalid(format!("{DTYPES}: {e}")))?;
        } else if let Some(name) = name.strip_suffix(".npy") {
            members.push((name.to_owned(), bytes));
        }
    }
    members
        .into_iter()
        .map(|(name, bytes)| {
            let true_type = dtypes.get(&name).map(|t| DType::parse(t)).transpose()?;
            let tensor =
                from_npy(&bytes, true_type).map_err(|e| e.context(format!("array '{name}'")))?;
            Ok((name, tensor))
        })
        .collect()
}

/// The declared size is a claim: memory grows with the bytes that are really there.
fn read_member(mut member: impl Read, declared: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut limited = member.by_ref().take(declared);
    limited.read_to_end(&mut bytes).map_err(|e| invalid(e.to_string()))?;
    if bytes.len() as u64 != declared {
        return Err(invalid(format!("{} of {declared} bytes are there", bytes.len())));
    }
    Ok(bytes)
}

/// Parses one `.npy` file. `true_type` reinterprets the elements.
fn from_npy(bytes: &[u8], true_type: Option<DType>) -> Result<Tensor> {
    let body = |at: usize| bytes.get(at..).ok_or_else(|| invalid("the file is truncated"));
    if bytes.get(..6) != Some(MAGIC) {
        return Err(invalid("not an npy file"));
    }
    let (len, start) = match bytes.get(6) {
        Some(1) => (body(8)?.get(..2).map(|b| u16::from_le_bytes([b[0], b[1]]) as usize), 10),
        Some(2 | 3) => {
            let len = body(8)?.get(..4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
            (len.map(|n| n as usize), 12)
        }
        _ => return Err(invalid("unknown npy version")),
    };
    let len = len.filter(|&n| n <= MAX_HEADER).ok_or_else(|| invalid("the header is truncated"))?;
    let header = body(start)?.get(..len).ok_or_else(|| invalid("the header is truncated"))?;
    let header = std::str::from_utf8(header).map_err(|_| invalid("the header is not text"))?;
    let descr = field(header, "'descr':").and_then(quoted);
    let descr = descr.ok_or_else(|| invalid(format!("no simple element type in {header:?}")))?;
    if field(header, "'fortran_order':").is_some_and(|f| f.starts_with("True")) {
        return Err(Error::new(
            Code::Unsupported,
            "the array is in Fortran order; save it with numpy.ascontiguousarray",
        ));
    }
    let shape = field(header, "'shape':").and_then(parse_shape);
    let shape = shape.ok_or_else(|| invalid(format!("no shape in {header:?}")))?;
    let data = body(start + len)?;
    if let Some(width) = descr.strip_prefix("<U").and_then(|w| w.parse::<usize>().ok()) {
        return strings(data, &shape, width);
    }
    let stored = numpy_type(descr)?;
    match true_type {
        None => Tensor::from_bytes(stored, &shape, data),
        Some(t) if matches!(t.bits(), 2 | 4) && stored.bits() == 8 => {
            Tensor::from_unpacked(t, &shape, data)
        }
        Some(t) => Tensor::from_bytes(stored, &shape, data)?.bitcast(t),
    }
}

fn field<'a>(header: &'a str, key: &str) -> Option<&'a str> {
    header.split_once(key).map(|(_, rest)| rest.trim_start())
}

fn quoted(text: &str) -> Option<&str> {
    text.strip_prefix('\'')?.split_once('\'').map(|(inside, _)| inside)
}

fn parse_shape(text: &str) -> Option<Vec<usize>> {
    let inside = text.strip_prefix('(')?.split_once(')')?.0;
    inside.split(',').map(str::trim).filter(|s| !s.is_empty()).map(|s| s.parse().ok()).collect()
}

fn numpy_type(descr: &str) -> Result<DType> {
    Ok(match descr.trim_start_matches(['<', '|', '=']) {
        "f4" => DType::F32,
        "f8" => DType::F64,
        "f2" => DType::F16,
        "i1" => DType::I8,
        "i2" => DType::I16,
        "i4" => DType::I32,
        "i8" => DType::I64,
        "u1" => DType::U8,
        "u2" => DType::U16,
        "u4" => DType::U32,
        "u8" => DType::U64,
        "b1" => DType::Bool,
        _ => {
            return Err(Error::new(
                Code::Unsupported,
                format!("numpy type '{descr}'; convert it to a little-endian number, bool or str"),
            ));
        }
    })
}

/// numpy's `U`: fixed-width UTF-32, padded with zeros.
fn strings(data: &[u8], shape: &[usize], width: usize) -> Result<Tensor> {
    let count = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
    let need = count.and_then(|n| n.checked_mul(width)?.checked_mul(4));
    let Some(count) = count.filter(|_| need == Some(data.len())) else {
        return Err(invalid(format!("shape {shape:?} of <U{width} against {} bytes", data.len())));
    };
    let text = |chunk: &[u8]| -> Result<String> {
        chunk
            .chunks_exact(4)
            .map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]]))
            .take_while(|&c| c != 0)
            .map(|c| char::from_u32(c).ok_or_else(|| invalid("a string is not Unicode")))
            .collect()
    };
    let items = if width == 0 {
        vec![String::new(); if data.is_empty() { count.min(1 << 20) } else { 0 }]
    } else {
        data.chunks_exact(width * 4).map(text).collect::<Result<_>>()?
    };
    Tensor::from_strings(shape, items)
}

/// Writes arrays to an archive, uncompressed, through a temporary name.
///
/// # Errors
/// `Io` if the file cannot be written.
pub fn write(path: &Path, arrays: &[(String, Tensor)]) -> Result<()> {
    let bytes = to_npz(arrays)?;
    let mut part = path.as_os_str().to_owned();
    part.push(format!(".part{}", std::process::id()));
    let part = Path::new(&part);
    let done = std::fs::write(part, bytes).and_then(|()| std::fs::rename(part, path));
    done.map_err(|e| {
        // The error that matters is the first; the leftover may not exist.
        let _ = std::fs::remove_file(part);
        io(path, "write", e)
    })
}

fn to_npz(arrays: &[(String, Tensor)]) -> Result<Vec<u8>> {
    let fail = |e: &dyn std::fmt::Display| Error::new(Code::Io, format!("writing npz: {e}"));
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let stored = zip::write::SimpleFileOptions::default()
        .compression_method(zip::CompressionMethod::Stored)
        .large_file(true);
    let mut dtypes = BTreeMap::new();
    for (name, tensor) in arrays {
        let (descr, data) = to_numpy(tensor)?;
        if !matches!(tensor.dtype(), DType::String) && numpy_type(&descr)? != tensor.dtype() {
            dtypes.insert(name.clone(), tensor.dtype().name());
        }
        zip.start_file(format!("{name}.npy"), stored).map_err(|e| fail(&e))?;
        zip.write_all(&npy_header(&descr, tensor.shape())).map_err(|e| fail(&e))?;
        zip.write_all(&data).map_err(|e| fail(&e))?;
    }
    if !dtypes.is_empty() {
        let json = serde_json::to_vec(&dtypes).map_err(|e| fail(&e))?;
        zip.start_file(DTYPES, stored).map_err(|e| fail(&e))?;
        zip.write_all(&json).map_err(|e| fail(&e))?;
    }
    Ok(zip.finish().map_err(|e| fail(&e))?.into_inner())
}

/// numpy's type text and bytes for a tensor.
fn to_numpy(t: &Tensor) -> Result<(String, Vec<u8>)> {
    let t = t.to_contiguous()?;
    if t.dtype() == DType::String {
        let texts = t.as_strings()?;
        let width = texts.iter().map(|s| s.chars().count()).max().unwrap_or(0).max(1);
        let mut out = Vec::with_capacity(texts.len() * width * 4);
        for text in texts {
            let mut used = 0;
            for c in text.chars() {
                out.extend((c as u32).to_le_bytes());
                used += 1;
            }
            out.resize(out.len() + (width - used) * 4, 0);
        }
        return Ok((format!("<U{width}"), out));
    }
    if matches!(t.dtype().bits(), 2 | 4) {
        let unpacked = t.unpack()?;
        let descr = if unpacked.dtype() == DType::I8 { "|i1" } else { "|u1" };
        return Ok((descr.into(), unpacked.as_bytes()?.to_vec()));
    }
    let descr = match t.dtype() {
        DType::F32 => "<f4",
        DType::F64 => "<f8",
        DType::F16 => "<f2",
        DType::I8 => "|i1",
        DType::I16 => "<i2",
        DType::I32 => "<i4",
        DType::I64 => "<i8",
        DType::U16 | DType::BF16 => "<u2",
        DType::U32 => "<u4",
        DType::U64 => "<u8",
        DType::Bool => "|b1",
        _ => "|u1",
    };
    Ok((descr.into(), t.as_bytes()?.to_vec()))
}

fn npy_header(descr: &str, shape: &[usize]) -> Vec<u8> {
    let extents: String = shape.iter().map(|d| format!("{d}, ")).collect();
    let extents = extents.trim_end();
    // A trailing comma makes a tuple of one; numpy accepts it for more as well.
    let mut text =
        format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({extents}), }}");
    let pad = 64 - (10 + text.len() + 1) % 64;
    text.extend(std::iter::repeat_n(' ', pad % 64));
    text.push('\n');
    let mut out = Vec::with_capacity(10 + text.len());
    out.extend(MAGIC);
    out.extend([1, 0]);
    out.extend((text.len() as u16).to_le_bytes());
    out.extend(text.as_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<(String, Tensor)> {
        let f8 = Tensor::from_bytes(DType::F8E4M3FN, &[2], &[1, 0x7e]).unwrap();
        vec![
            ("x".into(), Tensor::from_slice(&[2, 1], &[1.5f32, -2.0]).unwrap()),
            ("n".into(), Tensor::scalar(7i64).unwrap()),
            ("b".into(), Tensor::from_slice(&[2], &[true, false]).unwrap()),
            ("e".into(), Tensor::from_slice::<u16>(&[0, 3], &[]).unwrap()),
            ("s".into(), Tensor::from_strings(&[2], vec!["é🙂".into(), String::new()]).unwrap()),
            ("q".into(), Tensor::from_unpacked(DType::I4, &[3], &[0xff, 1, 0xf8]).unwrap()),
            ("f8".into(), f8),
        ]
    }

    #[test]
    fn every_kind_of_element_round_trips() {
        let bytes = to_npz(&sample()).unwrap();
        let back = read_from(Cursor::new(bytes)).unwrap();
        assert_eq!(back.len(), sample().len());
        for ((name, want), (n, got)) in sample().iter().zip(&back) {
            assert_eq!((name, want.dtype(), want.shape()), (n, got.dtype(), got.shape()));
            if want.dtype() == DType::String {
                assert_eq!(want.as_strings().unwrap(), got.as_strings().unwrap());
            } else {
                assert_eq!(want.as_bytes().unwrap(), got.as_bytes().unwrap(), "{name}");
            }
        }
    }

    #[test]
    fn corrupt_archives_are_errors() {
        let bytes = to_npz(&sample()).unwrap();
        for cut in 0..bytes.len() {
            assert!(read_from(Cursor::new(&bytes[..cut])).is_err(), "cut at {cut}");
        }
        let mut seed = 1u64;
        for _ in 0..3000 {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let mut b = bytes.clone();
            let at = (seed >> 33) as usize % b.len();
            b[at] ^= 1 << ((seed >> 60) & 7);
            // Any outcome but a panic: a flipped bit of the data is still an array.
            let _ = read_from(Cursor::new(b));
        }
    }
}
