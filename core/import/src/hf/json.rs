//! JSON objects from files that somebody else wrote, field by field.
//!
//! A configuration is read with the range each field may have, so that a wrong one
//! is an error that names the file, the field, what is there and what may be there.
//! Unknown fields are ignored; a field that is `null` counts as absent.

use crate::mapped::io_error;
use deepseek_tensor::{Result, bail, ensure, err};
use serde_json::{Map, Value};
use std::fmt::Display;
use std::fs::File;
use std::io::Read;
use std::ops::RangeInclusive;
use std::path::Path;

/// Largest configuration file that is read, in bytes.
const MAX_BYTES: u64 = 16 << 20;

/// Longest piece of a wrong value that a message repeats, in characters.
const MAX_QUOTE: usize = 60;

/// A JSON object and the name of the file it came from.
#[derive(Clone, Debug)]
pub struct Object {
    file: String,
    fields: Map<String, Value>,
}

impl Object {
    /// Reads the object in the file at `path`.
    ///
    /// # Errors
    /// `NotFound`, `Io`; `InvalidFile` if the file is longer than 16 MiB or does not
    /// hold one JSON object.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        match read_value(path)? {
            Value::Object(fields) => Ok(Object { file: path.display().to_string(), fields }),
            other => {
                bail!(InvalidFile, "{} must hold an object, not {}", path.display(), quote(&other))
            }
        }
    }

    /// Reads the object that `bytes` spell; `file` is the name for messages.
    ///
    /// # Errors
    /// `InvalidFile` if they do not hold one JSON object.
    pub fn parse(file: &str, bytes: &[u8]) -> Result<Self> {
        match serde_json::from_slice(bytes) {
            Ok(Value::Object(fields)) => Ok(Object { file: file.to_owned(), fields }),
            Ok(other) => bail!(InvalidFile, "{file} must hold an object, not {}", quote(&other)),
            Err(e) => bail!(InvalidFile, "{file} is not valid JSON: {e}"),
        }
    }

    /// As [`Object::read`], or `None` if there is no such file.
    ///
    /// # Errors
    /// As [`Object::read`], without `NotFound`.
    pub fn read_if_present(path: impl AsRef<Path>) -> Result<Option<Self>> {
        if path.as_ref().try_exists().is_ok_and(|there| !there) {
            return Ok(None);
        }
        Object::read(path).map(Some)
    }

    /// Reads the list of objects in the file at `path`.
    ///
    /// # Errors
    /// As [`Object::read`], for a list of objects.
    pub fn read_list(path: impl AsRef<Path>) -> Result<Vec<Self>> {
        let path = path.as_ref();
        let Value::Array(items) = read_value(path)? else {
            bail!(InvalidFile, "{} must hold a list of objects", path.display());
        };
        items
            .into_iter()
            .enumerate()
            .map(|(i, item)| match item {
                Value::Object(fields) => {
                    Ok(Object { file: format!("{} item {i}", path.display()), fields })
                }
                other => bail!(
                    InvalidFile,
                    "{} item {i} must be an object, not {}",
                    path.display(),
                    quote(&other)
                ),
            })
            .collect()
    }

    /// The file, for messages.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Whether the field is there and not `null`.
    pub fn has(&self, name: &str) -> bool {
        self.field(name).is_some()
    }

    /// The integer `name`.
    ///
    /// # Errors
    /// `InvalidFile` if it is absent, not an integer or outside `range`.
    pub fn int(&self, name: &str, range: RangeInclusive<i64>) -> Result<i64> {
        self.opt_int(name, range.clone())?.ok_or_else(|| {
            err!(
                InvalidFile,
                "{} lacks the field '{name}', an integer from {} to {}",
                self.file,
                range.start(),
                range.end()
            )
        })
    }

    /// The integer `name`, if present.
    ///
    /// # Errors
    /// `InvalidFile` if it is not an integer or outside `range`.
    pub fn opt_int(&self, name: &str, range: RangeInclusive<i64>) -> Result<Option<i64>> {
        let Some(value) = self.field(name) else { return Ok(None) };
        match value.as_i64().filter(|n| range.contains(n)) {
            Some(n) => Ok(Some(n)),
            None => Err(self.wrong(
                name,
                value,
                format_args!("an integer from {} to {}", range.start(), range.end()),
            )),
        }
    }

    /// The number `name`, if present. What does not fit the type is infinite.
    ///
    /// # Errors
    /// `InvalidFile` if it is not a number.
    pub fn opt_f64(&self, name: &str) -> Result<Option<f64>> {
        let Some(value) = self.field(name) else { return Ok(None) };
        value.as_f64().map(Some).ok_or_else(|| self.wrong(name, value, "a number"))
    }

    /// The truth value `name`, if present.
    ///
    /// # Errors
    /// `InvalidFile` if it is not `true` or `false`.
    pub fn opt_bool(&self, name: &str) -> Result<Option<bool>> {
        let Some(value) = self.field(name) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| self.wrong(name, value, "true or false"))
    }

    /// The string `name`.
    ///
    /// # Errors
    /// `InvalidFile` if it is absent or not a string.
    pub fn str(&self, name: &str) -> Result<&str> {
        self.opt_str(name)?
            .ok_or_else(|| err!(InvalidFile, "{} lacks the field '{name}', a string", self.file))
    }

    /// The string `name`, if present.
    ///
    /// # Errors
    /// `InvalidFile` if it is not a string.
    pub fn opt_str(&self, name: &str) -> Result<Option<&str>> {
        let Some(value) = self.field(name) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.wrong(name, value, "a string"))
    }

    /// The object `name`, if present.
    ///
    /// # Errors
    /// `InvalidFile` if it is not an object.
    pub fn opt_object(&self, name: &str) -> Result<Option<Object>> {
        match self.field(name) {
            None => Ok(None),
            Some(Value::Object(fields)) => {
                Ok(Some(Object { file: format!("{} {name}", self.file), fields: fields.clone() }))
            }
            Some(value) => Err(self.wrong(name, value, "an object")),
        }
    }

    fn field(&self, name: &str) -> Option<&Value> {
        self.fields.get(name).filter(|v| !v.is_null())
    }

    fn wrong(&self, name: &str, value: &Value, want: impl Display) -> deepseek_tensor::Error {
        err!(InvalidFile, "{}: field '{name}' is {}, expected {want}", self.file, quote(value))
    }
}

fn read_value(path: &Path) -> Result<Value> {
    let file = File::open(path).map_err(|e| io_error(path, &e))?;
    let mut text = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut text).map_err(|e| io_error(path, &e))?;
    ensure!(
        text.len() as u64 <= MAX_BYTES,
        InvalidFile,
        "{} is longer than the {MAX_BYTES} bytes a configuration may have",
        path.display()
    );
    serde_json::from_slice(&text)
        .map_err(|e| err!(InvalidFile, "{} is not valid JSON: {e}", path.display()))
}

/// The value as it may stand in a message: short and on one line.
fn quote(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(MAX_QUOTE) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
