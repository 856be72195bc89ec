//! Which library is loaded.

use crate::call::{Call, guard_value};
use std::ffi::{CStr, c_char};

const VERSION: &CStr =
    match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
        Ok(version) => version,
        Err(_) => panic!("a version contains no NUL"),
    };

/// `major * 1000000 + minor * 1000 + patch` of a version `major.minor.patch`.
pub const fn pack_version(version: &str) -> u32 {
    let bytes = version.as_bytes();
    let (mut total, mut part, mut i) = (0u32, 0u32, 0);
    while i < bytes.len() {
        match bytes[i] {
            b'.' => {
                total = (total + part) * 1000;
                part = 0;
            }
            digit @ b'0'..=b'9' => part = part * 10 + (digit - b'0') as u32,
            _ => break,
        }
        i += 1;
    }
    total + part
}

/// Version of the loaded library, `major.minor.patch`. Static. The macro
/// `DEEPSEEK_VERSION` is the version of the header. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_version() -> *const c_char {
    // SAFETY: there is no pointer to vouch for.
    guard_value(unsafe { Call::plain() }, VERSION.as_ptr(), |_| VERSION.as_ptr())
}

/// Version of the loaded library as one number, `major * 1000000 + minor * 1000 + patch`,
/// to compare with `DEEPSEEK_VERSION_NUMBER`. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_version_number() -> u32 {
    // SAFETY: there is no pointer to vouch for.
    guard_value(unsafe { Call::plain() }, 0, |_| const { pack_version(env!("CARGO_PKG_VERSION")) })
}

/// Bytes that tensors of this process hold on the library's heap right now. Mapped
/// files and memory that the caller owns do not count. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_heap_bytes() -> u64 {
    // SAFETY: there is no pointer to vouch for.
    guard_value(unsafe { Call::plain() }, 0, |_| deepseek::heap_bytes() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_pack_by_thousands() {
        assert_eq!(pack_version("1.2.3"), 1_002_003);
        assert_eq!(pack_version("0.10.0-rc.1"), 10_000);
    }
}
