//! Text in, vectors out.

use crate::background::{Held, promise, rejected};
use crate::error::{caught, guard, internal, open};
use crate::runtime::Runtime;
use crate::signal::RunOptions;
use crate::tensor::{convert, write_vectors};
use deepseek::Result;
use napi::bindgen_prelude::*;
use napi_derive::napi;

/// A sentence encoder with its tokenizer. Immutable and shared.
#[napi]
pub struct Embedder {
    inner: Option<deepseek::Embedder>,
}

#[napi]
impl Embedder {
    /// Opens a directory with `config.json`, safetensors weights and `tokenizer.json`.
    /// Rejects with `IO`, `INVALID_FILE`, or `UNSUPPORTED` naming the file and field.
    #[napi(
        ts_args_type = "runtime: Runtime, directory: string",
        ts_return_type = "Promise<Embedder>"
    )]
    pub fn open<'env>(
        env: &'env Env,
        runtime: Unknown,
        directory: Unknown,
    ) -> napi::Result<Object<'env>> {
        match caught(|| {
            Ok((Runtime::from_arg(runtime)?, convert::<String>(directory, "directory")?))
        }) {
            Ok((runtime, directory)) => {
                let work = move || deepseek::Embedder::open(directory, &runtime);
                promise(env, Held::default(), work, |env, embedder| {
                    let instance = Embedder { inner: Some(embedder) }.into_instance(env);
                    Ok(instance.map_err(internal)?.raw())
                })
            }
            Err(e) => rejected(env, &e),
        }
    }

    /// As `open`, on this thread.
    #[napi(ts_args_type = "runtime: Runtime, directory: string")]
    pub fn open_sync(env: &Env, runtime: Unknown, directory: Unknown) -> napi::Result<Embedder> {
        guard(env, || {
            let runtime = Runtime::from_arg(runtime)?;
            let directory: String = convert(directory, "directory")?;
            Ok(Embedder { inner: Some(deepseek::Embedder::open(directory, &runtime)?) })
        })
    }

    /// Length of a vector.
    #[napi(getter)]
    pub fn dim(&self, env: &Env) -> napi::Result<u32> {
        guard(env, || Ok(self.get()?.dim() as u32))
    }

    /// Most tokens of a text that are looked at; longer texts are truncated.
    #[napi(getter)]
    pub fn max_tokens(&self, env: &Env) -> napi::Result<u32> {
        guard(env, || Ok(u32::try_from(self.get()?.max_tokens()).unwrap_or(u32::MAX)))
    }

    /// One vector for each text, in order. The vector of a text has the same bits
    /// whatever else is in the call. Rejects with `CANCELLED`, `TIMEOUT`,
    /// `BUDGET_EXCEEDED`, `OUT_OF_MEMORY`.
    #[napi(
        ts_args_type = "texts: readonly string[], options?: RunOptions",
        ts_return_type = "Promise<Float32Array[]>"
    )]
    pub fn embed<'env>(
        &self,
        env: &'env Env,
        texts: Unknown<'env>,
        options: Unknown<'env>,
    ) -> napi::Result<Object<'env>> {
        let args = caught(|| {
            let embedder = self.get()?.clone();
            let texts: Vec<String> = convert(texts, "texts")?;
            let (options, held) = RunOptions::read(options)?.for_background(env)?;
            Ok((embedder, texts, options, held))
        });
        match args {
            Ok((embedder, texts, options, held)) => {
                let dim = embedder.dim();
                let work = move || embed(&embedder, &texts, &options);
                promise(env, held, work, move |env, all| write_vectors(env, all, dim))
            }
            Err(e) => rejected(env, &e),
        }
    }

    /// As `embed`, on this thread.
    #[napi(
        ts_args_type = "texts: readonly string[], options?: RunOptions",
        ts_return_type = "Float32Array[]"
    )]
    pub fn embed_sync<'env>(
        &self,
        env: &'env Env,
        texts: Unknown<'env>,
        options: Unknown<'env>,
    ) -> napi::Result<Object<'env>> {
        guard(env, || {
            let embedder = self.get()?;
            let texts: Vec<String> = convert(texts, "texts")?;
            let all = embed(embedder, &texts, &RunOptions::read(options)?.for_call()?)?;
            Ok(Object::from_raw(env.raw(), write_vectors(env, all, embedder.dim())?))
        })
    }

    /// Token ids of a text, special tokens included, truncated to `maxTokens`.
    #[napi(ts_args_type = "text: string")]
    pub fn tokenize(&self, env: &Env, text: Unknown) -> napi::Result<Uint32Array> {
        guard(env, || {
            let text: String = convert(text, "text")?;
            Ok(Uint32Array::new(self.get()?.tokenize(&text)?))
        })
    }

    /// Lets go of the encoder; calls under way end as usual.
    #[napi]
    pub fn close(&mut self) {
        self.inner = None;
    }

    fn get(&self) -> Result<&deepseek::Embedder> {
        open(&self.inner, "embedder")
    }
}

fn embed(
    embedder: &deepseek::Embedder,
    texts: &[String],
    options: &deepseek::RunOptions,
) -> Result<Vec<f32>> {
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    embedder.embed(&texts, options)
}
