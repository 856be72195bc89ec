//! Text to token ids and back, as `tokenizer.json` describes it.
//!
//! The work is done by the `tokenizers` crate. What is added here is distrust (the
//! crate may panic on a file that contradicts itself; that becomes an error) and a
//! decision: how long a text may be is a property of the model. Truncation and
//! padding that the file asks for describe how its author last used it, and are
//! overruled.

use deepseek_import::MappedFile;
use deepseek_import::hf::Object;
use deepseek_tensor::{Result, bail, ensure, err};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use tokenizers::{PostProcessor, TruncationDirection, TruncationParams, TruncationStrategy};

/// Longest `tokenizer.json` that is read, in bytes.
const MAX_BYTES: usize = 256 << 20;

/// Length limits from here on mean that there is none: libraries write 10^30 for it.
const NO_LIMIT: f64 = (1u64 << 24) as f64;

/// A tokenizer. Immutable and shared: any thread may use it.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    file: String,
    direction: TruncationDirection,
    max_tokens: Option<usize>,
}

/// The tokens of a text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoding {
    /// Token ids, special tokens included.
    pub ids: Vec<u32>,
    /// Segment of each token, for models with token types.
    pub type_ids: Vec<u32>,
}

impl Tokenizer {
    /// Reads `tokenizer.json` and, if present, `tokenizer_config.json` in `dir`. Texts
    /// are cut to `model_max_length` tokens where the latter sets one, at the side that
    /// its `truncation_side` names.
    ///
    /// # Errors
    /// `NotFound`, `Io`; `InvalidFile` naming the file and what is wrong.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        let path = dir.join("tokenizer.json");
        let bytes = MappedFile::open(&path).map_err(|e| match dir.join("vocab.txt").is_file() {
            true => err!(
                Unsupported,
                "{} has a vocabulary but no tokenizer.json; save its fast tokenizer there",
                dir.display()
            ),
            false => e,
        })?;
        let config = Object::read_if_present(dir.join("tokenizer_config.json"))?;
        Tokenizer::from_bytes(&path.display().to_string(), bytes.as_ref(), config.as_ref())
    }

    /// A tokenizer from the contents of `tokenizer.json` and, if present, of
    /// `tokenizer_config.json`; `file` is the name of the former for messages.
    ///
    /// # Errors
    /// `InvalidFile` naming the file and what is wrong.
    pub fn from_bytes(file: &str, bytes: &[u8], config: Option<&Object>) -> Result<Self> {
        ensure!(
            bytes.len() <= MAX_BYTES,
            InvalidFile,
            "{file} has {} bytes, more than the {MAX_BYTES} that a tokenizer may have",
            bytes.len()
        );
        let file = file.to_owned();
        let inner = guard(&file, || {
            let mut inner = tokenizers::Tokenizer::from_bytes(bytes)?;
            inner.with_truncation(None)?.with_padding(None);
            Ok(inner)
        })?;
        let direction = TruncationDirection::Right;
        let mut tokenizer = Tokenizer { inner, file, direction, max_tokens: None };
        if let Some(config) = config {
            tokenizer.direction = match config.opt_str("truncation_side")? {
                None | Some("right") => TruncationDirection::Right,
                Some("left") => TruncationDirection::Left,
                Some(other) => bail!(
                    InvalidFile,
                    "{}: truncation_side is '{other}', expected 'left' or 'right'",
                    config.file()
                ),
            };
            if let Some(max) = config.opt_f64("model_max_length")?
                && max < NO_LIMIT
            {
                ensure!(
                    max >= 1.0,
                    InvalidFile,
                    "{}: model_max_length is {max}, expected at least 1",
                    config.file()
                );
                tokenizer.set_max_tokens(Some(max as usize))?;
            }
        }
        Ok(tokenizer)
    }

    /// Most tokens that a text is cut to, special ones included, if there is a limit.
    pub fn max_tokens(&self) -> Option<usize> {
        self.max_tokens
    }

    /// Sets the most tokens that a text is cut to, special ones included.
    ///
    /// # Errors
    /// `InvalidArgument` if the special tokens alone are more.
    pub fn set_max_tokens(&mut self, max: Option<usize>) -> Result<()> {
        let special = self.inner.get_post_processor().map_or(0, |p| p.added_tokens(false));
        if let Some(max) = max {
            ensure!(
                max > special,
                InvalidArgument,
                "{}: {special} special tokens leave no room in a text of {max} tokens",
                self.file
            );
        }
        let params = max.map(|max_length| TruncationParams {
            max_length,
            direction: self.direction,
            strategy: TruncationStrategy::LongestFirst,
            stride: 0,
        });
        guard(&self.file, || self.inner.with_truncation(params).map(|_| ()))?;
        self.max_tokens = max;
        Ok(())
    }

    /// Number of tokens, added ones included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Id of a token, if there is such a token.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Token ids of a text, special tokens included, cut to [`Tokenizer::max_tokens`].
    ///
    /// # Errors
    /// `InvalidFile` if the file describes no way to encode the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.encode_full(text).map(|e| e.ids)
    }

    /// As [`Tokenizer::encode`], for each text.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_batch(&self, texts: &[&str]) -> Result<Vec<Vec<u32>>> {
        texts.iter().map(|text| self.encode(text)).collect()
    }

    /// As [`Tokenizer::encode`], with the segments.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_full(&self, text: &str) -> Result<Encoding> {
        let encoding = guard(&self.file, || self.inner.encode_fast(text, true))?;
        let (ids, type_ids) = (encoding.get_ids(), encoding.get_type_ids());
        ensure!(
            ids.len() == type_ids.len() && self.max_tokens.is_none_or(|max| ids.len() <= max),
            InvalidFile,
            "{}: a text became {} tokens of {} segments, at most {:?} were asked for",
            self.file,
            ids.len(),
            type_ids.len(),
            self.max_tokens
        );
        Ok(Encoding { ids: ids.to_vec(), type_ids: type_ids.to_vec() })
    }

    /// The text of token ids, with or without special tokens. Ids that are no token's
    /// are left out.
    ///
    /// # Errors
    /// `InvalidFile` if the file describes no way to decode them.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String> {
        guard(&self.file, || self.inner.decode(ids, skip_special_tokens))
    }

    /// The file, for messages.
    pub(crate) fn file(&self) -> &str {
        &self.file
    }
}

/// Runs a call of the crate. What it reports or panics with is a fault of the file.
fn guard<T>(file: &str, call: impl FnOnce() -> tokenizers::Result<T>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(e)) => bail!(InvalidFile, "{file} does not work as a tokenizer: {e}"),
        Err(panic) => {
            let said = panic.downcast_ref::<String>().map(String::as_str);
            let said = said.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic");
            bail!(InvalidFile, "{file} contradicts itself as a tokenizer: {said}")
        }
    }
}
