//! `ai.deepseek.Embedder`.

use crate::error::native;
use crate::wire::{self, Texts};
use crate::{handle, run};
use deepseek::{Embedder, RunOptions, Runtime};
use jni::objects::{JByteArray, JClass, JFloatArray, JIntArray, JObject};
use jni::sys::{jint, jlong};
use jni::{EnvUnowned, jni_mangle};
use std::sync::Arc;

/// A call that is ready to start.
pub(crate) struct Embedding {
    embedder: Embedder,
    texts: Texts,
    options: RunOptions,
}

/// Opens a directory.
#[jni_mangle("ai.deepseek.Embedder", "openPath")]
pub fn open_embedder<'l>(
    env: EnvUnowned<'l>,
    _class: JClass<'l>,
    path: JByteArray<'l>,
    runtime: jlong,
) -> jlong {
    native(env, |env| {
        let path = wire::text(env, &path)?;
        Ok(handle::give(Embedder::open(path, &handle::get::<Runtime>(runtime)?)?))
    })
}

/// Length of a vector.
#[jni_mangle("ai.deepseek.Embedder", "vectorLength")]
pub fn vector_length<'l>(env: EnvUnowned<'l>, _this: JObject<'l>, handle: jlong) -> jint {
    native(env, |_| Ok(handle::get::<Embedder>(handle)?.dim() as jint))
}

/// Most tokens that are looked at.
#[jni_mangle("ai.deepseek.Embedder", "tokenLimit")]
pub fn token_limit<'l>(env: EnvUnowned<'l>, _this: JObject<'l>, handle: jlong) -> jint {
    native(env, |_| {
        let limit = handle::get::<Embedder>(handle)?.max_tokens();
        Ok(jint::try_from(limit).unwrap_or(jint::MAX))
    })
}

/// Prepares a call. `timeout` is in nanoseconds, negative for none.
#[jni_mangle("ai.deepseek.Embedder", "begin")]
pub fn begin_embedding<'l>(
    env: EnvUnowned<'l>,
    _this: JObject<'l>,
    handle: jlong,
    texts: JByteArray<'l>,
    token: jlong,
    timeout: jlong,
) -> jlong {
    native(env, |env| {
        let embedder = handle::get::<Embedder>(handle)?;
        let (texts, cancel) = (Texts::read(env, &texts)?, run::cancel(token, timeout)?);
        let options = RunOptions { cancel: Some(cancel), ..Default::default() };
        Ok(handle::give(Arc::new(Embedding { embedder, texts, options })))
    })
}

/// The vectors of what was prepared, one after the other.
#[jni_mangle("ai.deepseek.Embedder", "finish")]
pub fn finish_embedding<'l>(
    env: EnvUnowned<'l>,
    _class: JClass<'l>,
    call: jlong,
) -> JFloatArray<'l> {
    native(env, |env| {
        let call = handle::take::<Arc<Embedding>>(call)?;
        let vectors = call.embedder.embed(&call.texts.decode()?, &call.options)?;
        wire::array_length(vectors.len())?;
        let array = JFloatArray::new(env, vectors.len())?;
        array.set_region(env, 0, &vectors)?;
        Ok(array)
    })
}

/// Token ids of a text.
#[jni_mangle("ai.deepseek.Embedder", "tokenIds")]
pub fn token_ids<'l>(
    env: EnvUnowned<'l>,
    _this: JObject<'l>,
    handle: jlong,
    text: JByteArray<'l>,
) -> JIntArray<'l> {
    native(env, |env| {
        let text = wire::text(env, &text)?;
        let ids = handle::get::<Embedder>(handle)?.tokenize(&text)?;
        let ids: Vec<jint> = ids.into_iter().map(u32::cast_signed).collect();
        wire::array_length(ids.len())?;
        let array = JIntArray::new(env, ids.len())?;
        array.set_region(env, 0, &ids)?;
        Ok(array)
    })
}
