//! Generates the C++ half of the bridge and compiles it into the archive.

fn main() {
    cxx_build::bridge("src/lib.rs").std("c++17").include("include").compile("deepseek_cpp_bridge");
    println!("cargo:rerun-if-changed=src/lib.rs");
    println!("cargo:rerun-if-changed=include/deepseek/hooks.hpp");
}
