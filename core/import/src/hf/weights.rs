//! The tensors of a checkpoint, checked against what the configuration promises.
//!
//! Names in a checkpoint may stand under the name of the base model (`bert.`,
//! `roberta.`), when it was saved with a head on top. Whatever precedes the word
//! embeddings is that prefix; tensors the encoder has no use for are left alone.
//!
//! Weights in f32 stay views of the mapped file. Those in f16 or bf16 are widened to
//! f32 once, at load: the encoder computes in f32 either way, so results are those of
//! the stored values, for twice the memory.

use crate::safetensors::{self, Weights};
use deepseek_tensor::{Code, DType, Result, Tensor, bail, ensure, err};
use std::path::Path;

/// Files of other formats that a directory may hold in the place of safetensors.
const FOREIGN: [&str; 4] =
    ["pytorch_model.bin", "pytorch_model.bin.index.json", "tf_model.h5", "flax_model.msgpack"];

/// An extent that a tensor must have, and the field that says so.
pub(super) type Extent = (&'static str, usize);

/// Named tensors of one model.
pub(super) struct Checkpoint {
    weights: Weights,
    /// The file, or the index of the files, for messages.
    file: String,
    prefix: String,
}

impl Checkpoint {
    /// Maps the weights of the directory `dir`.
    pub fn open(dir: &Path) -> Result<Self> {
        let single = dir.join("model.safetensors");
        let index = dir.join("model.safetensors.index.json");
        let file = if single.is_file() || !index.is_file() { single } else { index };
        let weights = safetensors::load(dir).map_err(|e| {
            let foreign = FOREIGN.into_iter().find(|name| dir.join(name).is_file());
            match foreign.filter(|_| e.code() == Code::NotFound) {
                Some(name) => err!(
                    Unsupported,
                    "{} holds its weights as {name}, which is not read; convert them to model.safetensors",
                    dir.display()
                ),
                None => e,
            }
        })?;
        Ok(Checkpoint { weights, file: file.display().to_string(), prefix: String::new() })
    }

    /// Sets the prefix of all names to what precedes `anchor`.
    pub fn find_prefix(&mut self, anchor: &str) -> Result<()> {
        let mut found = self.weights.tensors.keys().filter_map(|name| {
            let prefix = name.strip_suffix(anchor)?;
            (prefix.is_empty() || prefix.ends_with('.')).then_some(prefix)
        });
        let prefix = found.next().ok_or_else(|| {
            err!(InvalidFile, "{} lacks the tensor '{anchor}', under any prefix", self.file)
        })?;
        if let Some(other) = found.next() {
            bail!(
                Unsupported,
                "{} holds two encoders, '{prefix}{anchor}' and '{other}{anchor}'; keep one",
                self.file
            );
        }
        self.prefix = prefix.to_owned();
        Ok(())
    }

    /// Whether there is a tensor `name`.
    pub fn has(&self, name: &str) -> bool {
        self.weights.tensors.contains_key(&format!("{}{name}", self.prefix))
    }

    /// The tensor `name` in f32.
    ///
    /// # Errors
    /// `InvalidFile` if it is missing or of another shape than `extents`;
    /// `Unsupported` if its elements are not f32, f16 or bf16.
    pub fn get(&self, name: &str, extents: &[Extent]) -> Result<Tensor> {
        let name = format!("{}{name}", self.prefix);
        let want = || {
            let list: Vec<_> = extents.iter().map(|(field, n)| format!("{field} = {n}")).collect();
            format!("[{}]", list.join(", "))
        };
        let tensor = self.weights.tensors.get(&name).ok_or_else(|| {
            err!(InvalidFile, "{} lacks the tensor '{name}' of shape {}", self.file, want())
        })?;
        ensure!(
            tensor.shape().iter().eq(extents.iter().map(|(_, n)| n)),
            InvalidFile,
            "{}: tensor '{name}' has shape {:?}, its configuration says {}",
            self.file,
            tensor.shape(),
            want()
        );
        widen(tensor).map_err(|e| e.context(format_args!("{}: tensor '{name}'", self.file)))
    }
}

/// The tensor with its elements in f32; itself if they are.
fn widen(tensor: &Tensor) -> Result<Tensor> {
    let data: Vec<f32> = match tensor.dtype() {
        DType::F32 => return Ok(tensor.clone()),
        DType::F16 => tensor.iter::<half::f16>()?.map(half::f16::to_f32).collect(),
        DType::BF16 => tensor.iter::<half::bf16>()?.map(half::bf16::to_f32).collect(),
        other => {
            bail!(Unsupported, "elements of type {other}; convert the file to f32, f16 or bf16")
        }
    };
    Tensor::from_vec(tensor.shape(), data)
}
