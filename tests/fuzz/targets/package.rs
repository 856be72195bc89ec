//! Any bytes are a `.deepseek` file, whose graph can be printed, or an error.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(package) = deepseek_import::package::from_bytes(bytes::Bytes::copy_from_slice(data)) {
        let _ = deepseek_graph::text::print(&package.graph);
    }
});
