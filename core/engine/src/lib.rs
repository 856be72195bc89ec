//! libdeepseek: one engine that loads a model, compiles it for the machine it is
//! on and runs it.
//!
//! This crate is the public Rust API and the floor that the C header and the
//! language bindings stand on. It holds public names, lifetimes and defaults; the
//! work is done in the rooms below.
//!
//! - [`Runtime`]: threads, instruction set and byte budget; make one a process.
//! - [`Model`]: a graph lowered for the runtime, with its weights; shared, immutable.
//! - [`Session`]: working memory to run a model; one run at a time.
//! - [`Embedder`]: a sentence encoder with its tokenizer: text in, vectors out.
//! - [`VisionPipeline`]: images in, detections and classes out.
//! - [`GraphBuilder`]: a model recorded operation by operation, extents symbolic.
//!
//! ```no_run
//! use deepseek::{Model, Runtime, RunOptions, Tensor};
//!
//! let runtime = Runtime::new(&Default::default())?;
//! let model = Model::open("model.onnx", &runtime)?;
//! let session = model.session();
//! let x = Tensor::from_slice(&[1, 3, 224, 224], &vec![0.0f32; 150_528])?;
//! let outputs = session.run([("x".into(), x.into())], &RunOptions::default())?;
//! println!("{:?}", outputs[0].1);
//! # Ok::<(), deepseek::Error>(())
//! ```

mod builder;
mod calibration;
mod embedder;
pub mod json;
mod model;
pub mod npz;
mod session;
mod vision;

pub use builder::{GraphBuilder, ValueRef};
pub use calibration::calibration_texts;
pub use deepseek_graph::passes::ragged::{InputKind, OutputKind, PackedInput, PackedOutput};
pub use deepseek_graph::text::parse_attrs;
pub use deepseek_graph::{Attr, Attrs, Bindings, Dim, Symbol, Type, Value};
pub use deepseek_import::package::verify as verify_package;
pub use deepseek_runtime::precision;
pub use deepseek_runtime::{
    Cancel, Cut, MemoryReport, PlannedKind, PlannedSpan, PlannedValue, Profile, ProfileEvent,
    ProfileTensor, Ragged, Runtime, RuntimeOptions,
};
pub use deepseek_tensor::{Buffer, Code, DType, Element, Error, Result, Tensor, heap_bytes};
pub use deepseek_vision::{
    Class, Color, Crop, Detection, Filter, GraphNode, Image, Layout, Letterbox, Limits, Node,
    NormScale, Pad, PixelLayout, Plane, Prediction, Resize, TopK, YOLOv8,
};
pub use embedder::Embedder;
pub use model::{Model, ModelOptions, ModelSummary, SaveOptions, SymbolBounds, TensorSpec};
pub use session::{Announced, Lists, Outputs, PendingRun, RunOptions, Session};
pub use vision::VisionPipeline;

/// Version of the library, `major.minor.patch`.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Instruction-set levels that [`RuntimeOptions::isa`] can be made from.
pub mod isa {
    pub use deepseek_runtime::{Isa, Level};
    use deepseek_tensor::{Result, err};

    /// The instruction set with the [name](Level::name) of a level, such as `avx2`.
    ///
    /// # Errors
    /// `InvalidArgument` for any other name, `Unsupported` if this processor lacks it.
    pub fn by_name(name: &str) -> Result<Isa> {
        let level = Level::from_name(name).ok_or_else(|| {
            let known = Level::ALL.map(Level::name).join(", ");
            err!(InvalidArgument, "'{name}' is not an instruction-set level; known are {known}")
        })?;
        at(level)
    }

    /// The instruction set of a level, if this processor has it.
    ///
    /// # Errors
    /// `Unsupported` naming the levels that it has.
    pub fn at(level: Level) -> Result<Isa> {
        Isa::at(level).ok_or_else(|| {
            let have: Vec<_> = Level::available().map(Level::name).collect();
            err!(Unsupported, "this processor has no {level}; it has {}", have.join(", "))
        })
    }
}

/// Runtime options from the environment: `DEEPSEEK_NUM_THREADS`, where the caller
/// leaves the number of threads to the library. The environment chooses speed,
/// never meaning.
///
/// # Errors
/// `InvalidArgument` if the variable is set but not a number from 1 to 1024.
pub fn options_from_env(mut options: RuntimeOptions) -> Result<RuntimeOptions> {
    if options.threads == 0
        && let Some(text) = std::env::var_os("DEEPSEEK_NUM_THREADS")
    {
        let threads = text.to_str().and_then(|t| t.trim().parse::<usize>().ok());
        options.threads = threads.filter(|n| (1..=1024).contains(n)).ok_or_else(|| {
            Error::new(
                Code::InvalidArgument,
                format!("DEEPSEEK_NUM_THREADS is '{}', expected 1 to 1024", text.display()),
            )
        })?;
    }
    Ok(options)
}
