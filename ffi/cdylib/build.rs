//! Names the shared library: `libdeepseek.so.<major>`. The file of a release is
//! `libdeepseek.so.<version>`; programs ask the loader for the soname.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let major = env!("CARGO_PKG_VERSION_MAJOR");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
        println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libdeepseek.so.{major}");
    }
}
