//! Capability as a value: an [`Isa`] is the proof that its instructions exist on this processor.
//!
//! The proof is made by asking the processor once; afterwards it is copied around for free, and
//! code that needs the instructions takes the proof as an argument instead of asking again.

#[cfg(target_arch = "x86_64")]
use crate::simd::{Avx2, Avx512};
use crate::simd::{Kernel, Scalar, Simd};

/// The instruction-set levels kernels are compiled for, weakest first.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Plain Rust on what the target always has (SSE2 on x86-64).
    Scalar,
    /// AVX2 with FMA and F16C: vectors of 8 floats.
    Avx2,
    /// AVX-512 F, BW, VL, DQ over `Avx2`: vectors of 16 floats and mask registers.
    Avx512,
}

impl Level {
    /// All levels that exist, weakest first, whether or not this processor has them.
    pub const ALL: [Level; 3] = [Level::Scalar, Level::Avx2, Level::Avx512];

    /// The best level of this processor.
    pub fn detect() -> Level {
        Isa::best().level()
    }

    /// The levels this processor can run, weakest first. Never empty.
    pub fn available() -> impl Iterator<Item = Level> {
        Level::ALL.into_iter().filter(|&l| Isa::at(l).is_some())
    }

    /// The `{arch}` part of kernel names: `scalar`, `avx2` or `avx512`.
    pub const fn name(self) -> &'static str {
        match self {
            Level::Scalar => "scalar",
            Level::Avx2 => "avx2",
            Level::Avx512 => "avx512",
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
pub struct Isa(Token);

impl Isa {
    /// The proof for the best level of this processor.
    pub fn best() -> Isa {
        #[cfg(target_arch = "x86_64")]
        {
            if let Some(t) = Avx512::new() {
                return Isa(Token::Avx512(t));
            }
            if let Some(t) = Avx2::new() {
                return Isa(Token::Avx2(t));
            }
        }
        Isa(Token::Scalar(Scalar))
    }

    /// The proof for `level`, or `None` where this processor lacks it.
    pub fn at(level: Level) -> Option<Isa> {
        match level {
            Level::Scalar => Some(Isa(Token::Scalar(Scalar))),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => Avx2::new().map(|t| Isa(Token::Avx2(t))),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => Avx512::new().map(|t| Isa(Token::Avx512(t))),
            #[cfg(not(target_arch = "x86_64"))]
            _ => None,
        }
    }

    /// The level this value proves.
    pub fn level(self) -> Level {
        match self.0 {
            Token::Scalar(_) => Level::Scalar,
            #[cfg(target_arch = "x86_64")]
            Token::Avx2(_) => Level::Avx2,
            #[cfg(target_arch = "x86_64")]
            Token::Avx512(_) => Level::Avx512,
        }
    }

    /// The full name of a kernel at this level: `kernel_name("f32", "exp")` is `avx2-f32-exp`.
    pub fn kernel_name(self, dtypes: &str, variant: &str) -> String {
        format!("{}-{dtypes}-{variant}", self.level())
    }

    /// Runs `kernel` compiled for this level.
    #[inline]
    pub(crate) fn dispatch<K: Kernel>(self, kernel: K) -> K::Output {
        match self.0 {
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
