//! Any bytes are an ONNX model or an error.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = deepseek_import::onnx::load_bytes(data, None);
    let _ = deepseek_import::onnx::tensor_from_bytes(data);
});
