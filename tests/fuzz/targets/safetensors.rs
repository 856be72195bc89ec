//! Any bytes are a safetensors file, whose tensors can all be read, or an error.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(weights) =
        deepseek_import::safetensors::from_bytes(bytes::Bytes::copy_from_slice(data))
    {
        for tensor in weights.tensors.values() {
            let _ = tensor.deep_copy();
        }
    }
});
