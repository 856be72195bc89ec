//! Files mapped into memory, shared by the tensors that lie in them.
//!
//! Loading a model must not read gigabytes that nobody asks for yet. A
//! [`MappedFile`] is counted: every tensor over it keeps the mapping alive, and
//! the file is unmapped when the last of them is gone.
//!
//! The mapping is private and read-only. Whoever truncates or rewrites the file in
//! place while it is mapped changes the weights under the reader (or raises SIGBUS);
//! replacing a file by renaming another over it is safe.

use bytes::Bytes;
use deepseek_tensor::{Buffer, Code, Error, Result, err};
use memmap2::Mmap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::Arc;

/// A read-only mapping of a whole file. Cloning shares it.
#[derive(Clone)]
pub struct MappedFile {
    path: PathBuf,
    bytes: Bytes,
}

impl MappedFile {
    /// Maps the file at `path`.
    ///
    /// # Errors
    /// `NotFound` if there is no such file, `Io` if it cannot be read or is not a
    /// regular file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = File::open(path).map_err(|e| io_error(path, &e))?;
        let meta = file.metadata().map_err(|e| io_error(path, &e))?;
        if !meta.is_file() {
            return Err(err!(Io, "{} is not a regular file", path.display()));
        }
        let bytes = if meta.len() == 0 {
            Bytes::new() // an empty file cannot be mapped
        } else {
            // SAFETY: the mapping is private and only read. That nobody rewrites the file in
            // place while it is mapped is the documented duty of whoever owns the file.
            let map = unsafe { Mmap::map(&file) }.map_err(|e| io_error(path, &e))?;
            Bytes::from_owner(map)
        };
        Ok(MappedFile { path: path.to_owned(), bytes })
    }

    /// Path the file was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The contents, sharing the mapping.
    pub fn bytes(&self) -> Bytes {
        self.bytes.clone()
    }

    /// The contents as storage for tensors, sharing the mapping.
    pub fn buffer(&self) -> Arc<Buffer> {
        shared_buffer(self.bytes())
    }
}

impl AsRef<[u8]> for MappedFile {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Read-only tensor storage over counted bytes, without a copy.
pub(crate) fn shared_buffer(bytes: Bytes) -> Arc<Buffer> {
    let (ptr, len) = (NonNull::from(&bytes[..]).cast::<u8>(), bytes.len());
    // SAFETY: `bytes` is moved into the buffer and keeps its memory, at one address and
    // unwritten, until it is dropped. The buffer is not writable.
    Arc::new(unsafe { Buffer::foreign(ptr, len, Box::new(bytes), false) })
}

/// An error of the file system as one of ours, naming the path.
pub(crate) fn io_error(path: &Path, e: &std::io::Error) -> Error {
    let code = match e.kind() {
        std::io::ErrorKind::NotFound => Code::NotFound,
        _ => Code::Io,
    };
    Error::new(code, format!("cannot read {}: {e}", path.display()))
}
