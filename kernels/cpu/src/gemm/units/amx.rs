//! Micro-kernels on tile registers: 2 × 2 tiles of 16 × 16 sums.

use super::{Dot, LINE_UNITS, Tile};
use crate::{Isa, Level};
use std::arch::asm;

/// All eight tiles with 16 rows of 64 bytes.
#[repr(C, align(64))]
struct Config([u8; 64]);

static CONFIG: Config = {
    let mut c = [0u8; 64];
    c[0] = 1;
    let mut t = 0;
    while t < 8 {
        c[16 + 2 * t] = 64;
        c[48 + t] = 16;
        t += 1;
    }
    Config(c)
};

/// The configuration of this thread's tiles, until dropped. Tiles are the caller's to save, and
/// whatever the system saves of them costs time, so no task leaves them in use.
pub(crate) struct Tiles(());

impl Tiles {
    pub(super) fn new(isa: Isa) -> Self {
        assert_eq!(isa.level(), Level::Amx, "tiles need the level of that name");
        // SAFETY: the level proves that the processor has tiles and that the system granted
        // them; the configuration is a valid one of 64 bytes.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &raw const CONFIG, options(nostack, readonly));
        }
        Tiles(())
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: the value proves that the processor has tiles; nothing reads them hereafter.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}

macro_rules! tiles_of {
    ($two:ident, $one:ident, $dot:literal) => {
        /// 32 rows.
        ///
        /// # Safety
        /// Tiles are configured and the pointers reach 32 rows of A and of sums.
        unsafe fn $two(t: Tile) {
            // SAFETY: reads the lines of rows of A and rows of 64 bytes of B 128 apart, and writes
            // rows of 64 bytes of the sums, as the caller promises.
            unsafe {
                asm!(
                    "tilezero tmm0",
                    "tilezero tmm1",
                    "tilezero tmm2",
                    "tilezero tmm3",
                    "4:",
                    "mov {p}, [{o}]",
                    "lea {p2}, [{a2} + {p}]",
                    "add {p}, {a}",
                    "tileloadd tmm6, [{b} + {cs}*1]",
                    "tileloadd tmm4, [{p} + {s}*1]",
                    concat!($dot, " tmm0, tmm4, tmm6"),
                    "tileloadd tmm7, [{b} + {cs}*1 + 64]",
                    concat!($dot, " tmm1, tmm4, tmm7"),
                    "tileloadd tmm5, [{p2} + {s}*1]",
                    concat!($dot, " tmm2, tmm5, tmm6"),
                    concat!($dot, " tmm3, tmm5, tmm7"),
                    "add {o}, 8",
                    "add {b}, 2048",
                    "dec {n}",
                    "jnz 4b",
                    "tilestored [{c} + {cs}*1], tmm0",
                    "tilestored [{c} + {cs}*1 + 64], tmm1",
                    "tilestored [{c} + {cs}*1 + 2048], tmm2",
                    "tilestored [{c} + {cs}*1 + 2112], tmm3",
                    a = in(reg) t.a[0],
                    a2 = in(reg) t.a[1],
                    p = out(reg) _,
                    p2 = out(reg) _,
                    o = inout(reg) t.offsets => _,
                    s = in(reg) t.a_row,
                    b = inout(reg) t.b => _,
                    c = in(reg) t.c,
                    cs = in(reg) 128usize,
                    n = inout(reg) t.units / LINE_UNITS => _,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
        }

        /// Up to 16 rows.
        ///
        /// # Safety
        /// Tiles are configured and the pointers reach 16 rows of A and of sums.
        unsafe fn $one(t: Tile) {
            // SAFETY: as above, for half the rows.
            unsafe {
                asm!(
                    "tilezero tmm0",
                    "tilezero tmm1",
                    "4:",
                    "mov {p}, [{o}]",
                    "add {p}, {a}",
                    "tileloadd tmm6, [{b} + {cs}*1]",
                    "tileloadd tmm4, [{p} + {s}*1]",
                    concat!($dot, " tmm0, tmm4, tmm6"),
                    "tileloadd tmm7, [{b} + {cs}*1 + 64]",
                    concat!($dot, " tmm1, tmm4, tmm7"),
                    "add {o}, 8",
                    "add {b}, 2048",
                    "dec {n}",
                    "jnz 4b",
                    "tilestored [{c} + {cs}*1], tmm0",
                    "tilestored [{c} + {cs}*1 + 64], tmm1",
                    a = in(reg) t.a[0],
                    p = out(reg) _,
                    o = inout(reg) t.offsets => _,
                    s = in(reg) t.a_row,
                    b = inout(reg) t.b => _,
                    c = in(reg) t.c,
                    cs = in(reg) 128usize,
                    n = inout(reg) t.units / LINE_UNITS => _,
                    out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
        }
    };
}

tiles_of!(two_unsigned, one_unsigned, "tdpbusd");
tiles_of!(two_signed, one_signed, "tdpbssd");
tiles_of!(two_bf16, one_bf16, "tdpbf16ps");

/// # Safety
/// Tiles are configured, and the pointers reach what the tile says, in whole tiles.
unsafe fn run(t: Tile, two: unsafe fn(Tile), one: unsafe fn(Tile)) {
    if t.units == 0 {
        // An empty sum.
        // SAFETY: the sums have as many rows of 32 as the tile.
        unsafe { t.c.write_bytes(0, 32 * t.rows) };
        return;
    }
    // SAFETY: passed on to the caller.
    unsafe { if t.rows > 16 { two(t) } else { one(t) } }
}

/// # Safety
/// As for [`run`].
pub(super) unsafe fn bytes(signed: bool, t: Tile) {
    // SAFETY: passed on to the caller.
    unsafe {
        match signed {
            false => run(t, two_unsigned, one_unsigned),
            true => run(t, two_signed, one_signed),
        }
    }
}

/// # Safety
/// As for [`run`].
pub(super) unsafe fn bf16(t: Tile) {
    // SAFETY: passed on to the caller.
    unsafe { run(t, two_bf16, one_bf16) }
}

/// See [`super::peak`].
pub(super) fn peak(isa: Isa, bf16: bool, steps: usize) -> f64 {
    let _tiles = Tiles::new(isa);
    macro_rules! spin {
        ($dot:literal) => {
            // SAFETY: touches tile registers alone, which are configured.
            unsafe {
                asm!(
                    "2:",
                    concat!($dot, " tmm0, tmm4, tmm6"),
                    concat!($dot, " tmm1, tmm4, tmm7"),
                    concat!($dot, " tmm2, tmm5, tmm6"),
                    concat!($dot, " tmm3, tmm5, tmm7"),
                    "dec {n}",
                    "jnz 2b",
                    n = inout(reg) steps.max(1) => _,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack, nomem),
                )
            }
        };
    }
    let terms = if bf16 {
        spin!("tdpbf16ps");
        Dot::AmxBf16.terms()
    } else {
        spin!("tdpbusd");
        Dot::AmxBytes { signed: false }.terms()
    };
    (2 * terms * 16 * 16 * 16 * 4 * steps.max(1)) as f64
}
