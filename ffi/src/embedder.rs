//! Text in, vectors out.

use crate::call::{Call, guard, guard_value, too_small};
use crate::error::{deepseek_error, deepseek_status};
use crate::options::{deepseek_embedder_options, deepseek_run_options, no_flags};
use crate::runtime::deepseek_runtime;
use deepseek::Embedder;
use std::ffi::c_char;

/// A sentence encoder with its tokenizer. Shared, immutable: any thread may use it.
pub struct deepseek_embedder {
    embedder: Embedder,
}

/// Opens a directory with `config.json`, safetensors weights and `tokenizer.json`. `options`
/// may be NULL. Fails with `DEEPSEEK_STATUS_IO`, `DEEPSEEK_STATUS_INVALID_FILE`, or
/// `DEEPSEEK_STATUS_UNSUPPORTED` naming the file and field. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_embedder_open(
    runtime: *const deepseek_runtime,
    path: *const c_char,
    options: *const deepseek_embedder_options,
    out_embedder: *mut *mut deepseek_embedder,
    err: *mut *mut deepseek_error,
) -> deepseek_status {
    // SAFETY: the caller keeps the contract of the header.
    guard(unsafe { Call::new(err) }, |call| {
        let out = call.out(out_embedder, "out_embedder")?;
        let runtime = &call.get(runtime, "runtime")?.runtime;
        no_flags(call.options(options, "options")?.flags, "options")?;
        let embedder = Embedder::open(call.text(path, "path")?, runtime)?;
        out.give_shared(deepseek_embedder { embedder });
        Ok(())
    })
}

/// Number of elements of a vector; 0 for NULL. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_embedder_get_dim(embedder: *const deepseek_embedder) -> usize {
    // SAFETY: the caller keeps the contract of the header.
    guard_value(unsafe { Call::plain() }, 0, |call| {
        call.peek(embedder).map_or(0, |e| e.embedder.dim())
    })
}

/// Most tokens of a text that are looked at, longer texts are truncated; 0 for NULL.
/// Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_embedder_get_max_tokens(
    embedder: *const deepseek_embedder,
) -> usize {
    // SAFETY: the caller keeps the contract of the header.
    guard_value(unsafe { Call::plain() }, 0, |call| {
        call.peek(embedder).map_or(0, |e| e.embedder.max_tokens())
    })
}

/// One vector for each of `count` texts, in order, row-major `[count, dim]`, into a buffer
/// of `cap` floats. `lengths` holds the lengths of the texts in bytes; NULL if they end in
/// NUL. `*out_len` receives `count * dim`, also when the call fails with
/// `DEEPSEEK_STATUS_BUFFER_TOO_SMALL`, for which nothing else is written and nothing computed.
/// `options` may be NULL; `vectors` may be NULL if `cap` is 0. The vector of a text has
/// the same bits whatever else is in the call. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_embedder_run(
    embedder: *const deepseek_embedder,
    texts: *const *const c_char,
    lengths: *const usize,
    count: usize,
    options: *const deepseek_run_options,
    vectors: *mut f32,
    cap: usize,
    out_len: *mut usize,
    err: *mut *mut deepseek_error,
) -> deepseek_status {
    // SAFETY: the caller keeps the contract of the header.
    guard(unsafe { Call::new(err) }, |call| {
        let len = call.out(out_len, "out_len")?;
        let out = call.out_slice(vectors, cap, "vectors")?;
        let embedder = &call.get(embedder, "embedder")?.embedder;
        let texts = call.contents(texts, lengths, count, "texts")?;
        let options = call.run_options(options)?;
        let need = texts.len().saturating_mul(embedder.dim());
        if need > cap {
            len.set(need);
            return Err(too_small(need, cap));
        }
        out.set_all(&embedder.embed(&texts, &options)?)?;
        len.set(need);
        Ok(())
    })
}

/// Token ids of a text of `len` bytes, special tokens included, truncated to
/// `deepseek_embedder_get_max_tokens`, into a buffer of `cap` ids. `*out_len` receives their
/// number, also when the call fails with `DEEPSEEK_STATUS_BUFFER_TOO_SMALL`, for which nothing
/// else is written. `ids` may be NULL if `cap` is 0. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_embedder_get_tokens(
    embedder: *const deepseek_embedder,
    text: *const c_char,
    len: usize,
    ids: *mut u32,
    cap: usize,
    out_len: *mut usize,
    err: *mut *mut deepseek_error,
) -> deepseek_status {
    // SAFETY: the caller keeps the contract of the header.
    guard(unsafe { Call::new(err) }, |call| {
        let count = call.out(out_len, "out_len")?;
        let out = call.out_slice(ids, cap, "ids")?;
        let embedder = &call.get(embedder, "embedder")?.embedder;
        let tokens = embedder.tokenize(call.content(text, len, "text")?)?;
        count.set(tokens.len());
        out.set_all(&tokens)
    })
}

/// Adds one to the count of an embedder and returns it; NULL for NULL. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_embedder_ref(
    embedder: *const deepseek_embedder,
) -> *mut deepseek_embedder {
    // SAFETY: the caller keeps the contract of the header.
    guard_value(unsafe { Call::plain() }, std::ptr::null_mut(), |call| call.share(embedder))
}

/// Takes one from the count of an embedder. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_embedder_free(embedder: *mut deepseek_embedder) {
    // SAFETY: the caller keeps the contract of the header.
    guard_value(unsafe { Call::plain() }, (), |call| drop(call.take_shared(embedder)))
}
