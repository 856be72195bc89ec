//! Capability as a value: an [`Isa`] is the proof that its instructions exist on this processor.
//!
//! The proof is made by asking the processor once; afterwards it is copied around for free, and
//! code that needs the instructions takes the proof as an argument instead of asking again.

#[cfg(target_arch = "x86_64")]
use crate::simd::{Avx2, Avx512, matrix};
use crate::simd::{Kernel, Scalar, Simd};

/// The instruction-set levels kernels are compiled for, weakest first.
///
/// [`Scalar`](Level::Scalar), [`Avx2`](Level::Avx2) and [`Avx512`](Level::Avx512) are vector levels, for
/// which every kernel exists. The others add instructions for 8-bit and bf16 products to one of them;
/// whatever else runs there are the kernels of that [vector level](Level::vector).
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Plain Rust on what the target always has (SSE2 on x86-64).
    Scalar,
    /// AVX2 with FMA and F16C: vectors of 8 floats.
    Avx2,
    /// AVX-VNNI over `Avx2`: 8-bit products.
    AvxVnni,
    /// AVX-512 F, BW, VL, DQ over `Avx2`: vectors of 16 floats and mask registers.
    Avx512,
    /// AVX512-VNNI over `Avx512`: 8-bit products.
    Avx512Vnni,
    /// AVX512-BF16 over `Avx512Vnni`: bf16 products.
    Avx512Bf16,
    /// AMX-INT8 and AMX-BF16 over `Avx512Bf16`: products of tiles.
    Amx,
}

impl Level {
    /// All levels that exist, weakest first, whether or not this processor has them.
    pub const ALL: [Level; 7] = [
        Level::Scalar,
        Level::Avx2,
        Level::AvxVnni,
        Level::Avx512,
        Level::Avx512Vnni,
        Level::Avx512Bf16,
        Level::Amx,
    ];

    /// The best level of this processor.
    pub fn detect() -> Level {
        Isa::best().level()
    }

    /// The levels this processor can run, weakest first. Never empty.
    pub fn available() -> impl Iterator<Item = Level> {
        Level::ALL.into_iter().filter(|&l| Isa::at(l).is_some())
    }

    /// The vector levels this processor can run, weakest first. Never empty.
    pub fn available_vectors() -> impl Iterator<Item = Level> {
        Level::available().filter(|&l| l.vector() == l)
    }

    /// The level whose kernels run where a level adds nothing of its own: `Scalar`, `Avx2` or
    /// `Avx512`.
    pub const fn vector(self) -> Level {
        match self {
            Level::Scalar => Level::Scalar,
            Level::Avx2 | Level::AvxVnni => Level::Avx2,
            Level::Avx512 | Level::Avx512Vnni | Level::Avx512Bf16 | Level::Amx => Level::Avx512,
        }
    }

    /// The `{arch}` part of kernel names: `scalar`, `avx2`, `avxvnni`, `avx512`, `avx512vnni`,
    /// `avx512bf16` or `amx`.
    pub const fn name(self) -> &'static str {
        match self {
            Level::Scalar => "scalar",
            Level::Avx2 => "avx2",
            Level::AvxVnni => "avxvnni",
            Level::Avx512 => "avx512",
            Level::Avx512Vnni => "avx512vnni",
            Level::Avx512Bf16 => "avx512bf16",
            Level::Amx => "amx",
        }
    }

    /// The level with this [`name`](Level::name), if there is one.
    pub fn from_name(name: &str) -> Option<Level> {
        Level::ALL.into_iter().find(|l| l.name() == name)
    }
}

impl std::fmt::Display for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[derive(Copy, Clone)]
enum Token {
    Scalar(Scalar),
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
}

/// A level together with the proof that this processor has it. Every kernel takes one.
#[derive(Copy, Clone)]
pub struct Isa {
    level: Level,
    vector: Token,
}

impl Isa {
    /// The proof for the best level of this processor.
    pub fn best() -> Isa {
        let best = Level::ALL.into_iter().rev().find_map(Isa::at);
        best.expect("every processor has the scalar level")
    }

    /// The proof for `level`, or `None` where this processor, or its operating system, lacks it.
    pub fn at(level: Level) -> Option<Isa> {
        let vector = match level.vector() {
            Level::Scalar => Some(Token::Scalar(Scalar)),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => Avx2::new().map(Token::Avx2),
            #[cfg(target_arch = "x86_64")]
            _ => Avx512::new().map(Token::Avx512),
            #[cfg(not(target_arch = "x86_64"))]
            _ => None,
        }?;
        #[cfg(target_arch = "x86_64")]
        if !matrix::has(level) {
            return None;
        }
        Some(Isa { level, vector })
    }

    /// The level this value proves.
    pub fn level(self) -> Level {
        self.level
    }

    /// The full name of a kernel of the vector level: `kernel_name("f32", "exp")` is
    /// `avx2-f32-exp`.
    pub fn kernel_name(self, dtypes: &str, variant: &str) -> String {
        format!("{}-{dtypes}-{variant}", self.level.vector())
    }

    /// Runs `kernel` compiled for the vector level.
    #[inline]
    pub(crate) fn dispatch<K: Kernel>(self, kernel: K) -> K::Output {
        match self.vector {
            Token::Scalar(s) => s.vectorize(kernel),
            #[cfg(target_arch = "x86_64")]
            Token::Avx2(s) => s.vectorize(kernel),
            #[cfg(target_arch = "x86_64")]
            Token::Avx512(s) => s.vectorize(kernel),
        }
    }
}

impl std::fmt::Debug for Isa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Isa({})", self.level())
    }
}
