//! How arguments and results cross that are not plain numbers.
//!
//! A text is a byte array of UTF-8. A list of texts is one byte array: for each text
//! its length in bytes, little-endian in four bytes, then its UTF-8. One array crosses,
//! however many texts there are, and no text goes through the virtual machine's own
//! encoding. `ai.deepseek.Wire` is the other side.

use crate::error::Failure;
use deepseek::{Code, Error};
use jni::Env;
use jni::objects::{JByteArray, JLongArray};
use jni::sys::jlong;
use std::time::Duration;

/// A text.
pub(crate) fn text(env: &Env, array: &JByteArray) -> Result<String, Failure> {
    String::from_utf8(env.convert_byte_array(array)?).map_err(|_| malformed())
}

/// A list of texts, encoded.
pub(crate) struct Texts(Vec<u8>);

impl Texts {
    /// Takes the list over from Java.
    pub(crate) fn read(env: &Env, array: &JByteArray) -> Result<Self, Failure> {
        Ok(Texts(env.convert_byte_array(array)?))
    }

    /// The texts.
    ///
    /// # Errors
    /// `InvalidArgument` if the bytes are not such a list.
    pub(crate) fn decode(&self) -> Result<Vec<&str>, Failure> {
        let mut rest = &self.0[..];
        let mut out = Vec::new();
        while !rest.is_empty() {
            let (length, tail) = rest.split_first_chunk::<4>().ok_or_else(malformed)?;
            let length = u32::from_le_bytes(*length) as usize;
            let (text, tail) = tail.split_at_checked(length).ok_or_else(malformed)?;
            out.push(std::str::from_utf8(text).map_err(|_| malformed())?);
            rest = tail;
        }
        Ok(out)
    }
}

/// A list of texts under construction.
#[derive(Default)]
pub(crate) struct TextsWriter(Vec<u8>);

impl TextsWriter {
    /// Appends a text.
    ///
    /// # Errors
    /// `Unsupported` for a text of 4 GiB and more.
    pub(crate) fn push(&mut self, text: &str) -> Result<(), Failure> {
        let length = u32::try_from(text.len()).map_err(|_| too_large(text.len()))?;
        self.0.extend_from_slice(&length.to_le_bytes());
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }

    /// The list as Java receives it.
    ///
    /// # Errors
    /// `Unsupported` if it exceeds a Java array.
    pub(crate) fn finish<'l>(self, env: &mut Env<'l>) -> Result<JByteArray<'l>, Failure> {
        bytes(env, &self.0)
    }
}

/// Bytes as Java receives them.
///
/// # Errors
/// `Unsupported` if there are more than a Java array holds.
pub(crate) fn bytes<'l>(env: &mut Env<'l>, bytes: &[u8]) -> Result<JByteArray<'l>, Failure> {
    array_length(bytes.len())?;
    Ok(env.byte_array_from_slice(bytes)?)
}

/// Refuses what does not fit a Java array.
pub(crate) fn array_length(length: usize) -> Result<(), Failure> {
    match i32::try_from(length) {
        Ok(_) => Ok(()),
        Err(_) => Err(too_large(length)),
    }
}

/// The elements of a `long[]`.
pub(crate) fn longs(env: &Env, array: &JLongArray) -> Result<Vec<jlong>, Failure> {
    let mut out = vec![0; array.len(env)?];
    array.get_region(env, 0, &mut out)?;
    Ok(out)
}

/// Extents.
///
/// # Errors
/// `InvalidArgument` if one is negative.
pub(crate) fn extents(shape: &[jlong]) -> Result<Vec<usize>, Failure> {
    let extents: Result<Vec<usize>, _> = shape.iter().map(|&d| usize::try_from(d)).collect();
    extents.map_err(|_| {
        let message = format!("shape {shape:?} has a negative extent; extents are 0 or more");
        Error::new(Code::InvalidArgument, message).into()
    })
}

/// A `long[]` of extents.
pub(crate) fn shape(env: &Env, array: &JLongArray) -> Result<Vec<usize>, Failure> {
    extents(&longs(env, array)?)
}

/// A number of nanoseconds; none where it is negative.
pub(crate) fn timeout(nanos: jlong) -> Option<Duration> {
    u64::try_from(nanos).ok().map(Duration::from_nanos)
}

fn too_large(length: usize) -> Failure {
    let message = format!("{length} elements exceed a Java array; read parts with Tensor.buffer");
    Error::new(Code::Unsupported, message).into()
}

fn malformed() -> Failure {
    Error::new(Code::InvalidArgument, "malformed text; jar and native library differ").into()
}
