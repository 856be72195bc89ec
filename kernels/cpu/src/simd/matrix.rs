//! Whether this processor has the instructions that levels add to a vector level.

use crate::Level;
use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count};
use std::sync::OnceLock;

/// Whether the processor, and where it matters the operating system, has what `level` adds to
/// [`Level::vector`].
pub(crate) fn has(level: Level) -> bool {
    let vnni = || is_x86_feature_detected!("avx512vnni");
    let bf16 = || vnni() && is_x86_feature_detected!("avx512bf16");
    match level {
        Level::Scalar | Level::Avx2 | Level::Avx512 => true,
        Level::AvxVnni => is_x86_feature_detected!("avxvnni"),
        Level::Avx512Vnni => vnni(),
        Level::Avx512Bf16 => bf16(),
        Level::Amx => bf16() && amx(),
    }
}

/// Whether tiles can be used: the processor has them with `i8` and bf16 products, and the system has
/// granted this process the state that they take. Asks once.
fn amx() -> bool {
    static AMX: OnceLock<bool> = OnceLock::new();
    *AMX.get_or_init(|| {
        const BF16: u32 = 1 << 22;
        const TILE: u32 = 1 << 24;
        const INT8: u32 = 1 << 25;
        let leaves = __cpuid(0).eax;
        let features = if leaves < 7 { 0 } else { __cpuid_count(7, 0).edx };
        features & (BF16 | TILE | INT8) == BF16 | TILE | INT8 && request()
    })
}

/// Asks Linux for the tile state (`arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)`), which it
/// grants to all threads of the process.
#[cfg(target_os = "linux")]
fn request() -> bool {
    const SYS_ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: i64 = 0x1023;
    const XFEATURE_XTILEDATA: i64 = 18;
    let result: i64;
    // SAFETY: the system call reads its two numbers and no memory; it changes `rcx` and `r11`.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") SYS_ARCH_PRCTL => result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack, nomem),
        );
    }
    result == 0
}

#[cfg(not(target_os = "linux"))]
fn request() -> bool {
    false
}
