//! Options that several commands share.

use clap::Args;
use deepseek::{
    Code, DType, Error, Model, ModelOptions, Result, RunOptions, Runtime, RuntimeOptions,
    SymbolBounds, Tensor, Type,
};
use std::path::PathBuf;
use std::time::Duration;

/// The model and how it runs.
#[derive(Args)]
pub struct ModelArgs {
    /// An .onnx or .deepseek file, or a Hugging Face directory with config.json and safetensors
    /// weights.
    pub model: PathBuf,
    /// Where to run: `cpu`.
    #[arg(long, default_value = "cpu")]
    pub device: String,
    #[command(flatten)]
    pub precision: PrecisionArgs,
    /// Computing threads [default: DEEPSEEK_NUM_THREADS, else all cores].
    #[arg(long)]
    pub threads: Option<usize>,
    /// Instruction-set level instead of the best: `scalar`, `avx2`, `avxvnni`, `avx512`,
    /// `avx512vnni`, `avx512bf16` or `amx`.
    #[arg(long)]
    pub isa: Option<String>,
    /// Bytes that runs may hold for working memory; what is too large for the given shapes runs
    /// in blocks of rows.
    #[arg(long, value_name = "BYTES")]
    pub memory_budget: Option<u64>,
    /// Run nothing in blocks of rows, unless the budget asks for it.
    #[arg(long)]
    pub whole: bool,
    /// Range of a named dimension, once for each; runs outside are refused, and `plan` without
    /// shapes says what no run inside exceeds. Either end may be left out.
    #[arg(long, value_name = "SYMBOL=1..512")]
    pub bounds: Vec<String>,
}

impl ModelArgs {
    /// A runtime as asked for.
    pub fn runtime(&self) -> Result<Runtime> {
        if self.device != "cpu" {
            return Err(Error::new(
                Code::Unsupported,
                format!("device '{}' is not supported yet; use cpu", self.device),
            ));
        }
        if self.threads == Some(0) {
            return Err(Error::new(Code::InvalidArgument, "--threads is 0, expected 1 to 1024"));
        }
        let isa = match &self.isa {
            None => None,
            Some(name) => {
                let level = deepseek::isa::Level::from_name(name).ok_or_else(|| {
                    let known = deepseek::isa::Level::ALL.map(|l| l.name()).join(", ");
                    let text = format!("--isa is '{name}', expected one of {known}");
                    Error::new(Code::InvalidArgument, text)
                })?;
                Some(deepseek::isa::at(level)?)
            }
        };
        Runtime::new(&deepseek::options_from_env(RuntimeOptions {
            threads: self.threads.unwrap_or(0),
            memory_budget_bytes: self.memory_budget.unwrap_or(0),
            isa,
        })?)
    }

    /// The model, opened.
    pub fn open(&self) -> Result<Model> {
        self.open_for(&[])
    }

    /// The model, opened so that the budget holds for the given shapes.
    pub fn open_for(&self, given: &[Shape]) -> Result<Model> {
        let memory_budget_bytes = self.memory_budget.unwrap_or(0);
        let shapes = given.iter().filter(|_| memory_budget_bytes > 0);
        let shapes = shapes.map(|s| (s.name.clone(), s.extents.clone())).collect();
        let bounds = self.bounds.iter().map(|b| parse_bounds(b)).collect::<Result<_>>()?;
        let mut options = ModelOptions {
            memory_budget_bytes,
            whole: self.whole,
            shapes,
            bounds,
            ..ModelOptions::default()
        };
        self.precision.set(&mut options, given)?;
        Model::open_with(&self.model, &self.runtime()?, &options)
    }
}

/// What a model computes in.
#[derive(Args)]
pub struct PrecisionArgs {
    /// Arithmetic: `f32`, `bf16`, `f16` (storage), `int8`, or `auto`, which takes the layers in int8 that
    /// are faster on this machine inside the accuracy budget [default: as the model is].
    #[arg(long)]
    pub precision: Option<String>,
    /// Inputs to calibrate with: an .npz file, or a directory of them, whose arrays are named after the
    /// inputs and hold samples along the first axis; for an encoder a .txt file of one text a line, or a
    /// .jsonl file of strings or objects with `text` [default: synthetic ones].
    #[arg(long, value_name = "DATA")]
    pub calibrate: Option<PathBuf>,
    /// Accuracy to keep, 1 being that of f32 [default: 0.99 for auto, else 0.95].
    #[arg(long, value_name = "PART")]
    pub accuracy_budget: Option<f64>,
    /// What accuracy is measured by: `cosine` of outputs, or `top1` agreement [default: cosine].
    #[arg(long)]
    pub metric: Option<String>,
}

impl PrecisionArgs {
    /// Puts what is asked for into `options`; synthetic samples have the given shapes.
    pub fn set(&self, options: &mut ModelOptions, shapes: &[Shape]) -> Result<()> {
        let Some(precision) = &self.precision else {
            let unused = [
                ("--calibrate", self.calibrate.is_some()),
                ("--accuracy-budget", self.accuracy_budget.is_some()),
                ("--metric", self.metric.is_some()),
            ];
            if let Some((name, _)) = unused.into_iter().find(|u| u.1) {
                let text = format!("{name} needs --precision");
                return Err(Error::new(Code::InvalidArgument, text));
            }
            return Ok(());
        };
        options.set_precision(precision, "", 0.0, self.metric.as_deref().unwrap_or_default())?;
        options.calibration.clone_from(&self.calibrate);
        if let Some(precision) = &mut options.precision {
            precision.accuracy_budget = self.accuracy_budget;
            precision.shapes = shapes.iter().map(|s| (s.name.clone(), s.extents.clone())).collect();
        }
        Ok(())
    }
}

/// A deadline.
#[derive(Args)]
pub struct TimeoutArgs {
    /// Give up after this many milliseconds.
    #[arg(long, value_name = "MS")]
    pub timeout_ms: Option<u64>,
}

impl TimeoutArgs {
    /// Options of a run.
    pub fn run_options(&self) -> RunOptions {
        RunOptions { timeout: self.timeout_ms.map(Duration::from_millis), ..Default::default() }
    }
}

/// Shapes of inputs, `NAME=1x3x224x224[:dtype]`.
#[derive(Args)]
pub struct ShapeArgs {
    /// Shape of an input, once for each; nothing after `=` is a scalar.
    #[arg(long = "shape", value_name = "NAME=1x3x224x224[:dtype]")]
    pub shapes: Vec<String>,
}

/// One parsed `--shape`.
pub struct Shape {
    /// Input.
    pub name: String,
    /// Extents.
    pub extents: Vec<usize>,
    /// Element type, if given.
    pub dtype: Option<DType>,
}

impl ShapeArgs {
    /// The shapes.
    pub fn parse(&self) -> Result<Vec<Shape>> {
        self.shapes.iter().map(|s| parse_shape(s)).collect()
    }

    /// The shape of every input of the model: given, or fixed by the model.
    pub fn complete(&self, model: &Model) -> Result<Vec<Shape>> {
        let mut given = self.parse()?;
        for shape in &given {
            if !model.inputs().iter().any(|s| s.name == shape.name) {
                let names: Vec<_> = model.inputs().iter().map(|s| s.name.as_str()).collect();
                return Err(Error::new(
                    Code::NotFound,
                    format!("--shape {}: the inputs are {}", shape.name, names.join(", ")),
                ));
            }
        }
        for spec in model.inputs() {
            if given.iter().any(|s| s.name == spec.name) {
                continue;
            }
            let fixed = match &spec.ty {
                Type::Tensor(_, Some(dims)) => dims
                    .iter()
                    .map(|d| d.as_const().and_then(|n| usize::try_from(n).ok()))
                    .collect::<Option<Vec<_>>>(),
                _ => None,
            };
            match fixed {
                Some(extents) => {
                    given.push(Shape { name: spec.name.clone(), extents, dtype: None });
                }
                None => {
                    return Err(Error::new(
                        Code::InvalidArgument,
                        format!(
                            "input '{}' is {}; give its shape with --shape {}=…",
                            spec.name, spec.ty, spec.name
                        ),
                    ));
                }
            }
        }
        Ok(given)
    }
}

fn parse_bounds(text: &str) -> Result<SymbolBounds> {
    let wrong = || {
        let text = format!("--bounds '{text}': write SYMBOL=1..512, SYMBOL=1.. or SYMBOL=..512");
        Error::new(Code::InvalidArgument, text)
    };
    let (symbol, range) = text.split_once('=').ok_or_else(wrong)?;
    let (min, max) = range.split_once("..").ok_or_else(wrong)?;
    let end = |text: &str| match text {
        "" => Ok(None),
        _ => text.parse::<u32>().map(|n| Some(i64::from(n))).map_err(|_| wrong()),
    };
    Ok(SymbolBounds { symbol: symbol.to_owned(), min: end(min)?.unwrap_or(0), max: end(max)? })
}

fn parse_shape(text: &str) -> Result<Shape> {
    let wrong = |why: &str| {
        Error::new(
            Code::InvalidArgument,
            format!("--shape '{text}': {why}; write NAME=1x3x224x224 or NAME=1x128:int64"),
        )
    };
    let (name, rest) = text.split_once('=').ok_or_else(|| wrong("no '='"))?;
    let (extents, dtype) = match rest.split_once(':') {
        Some((extents, dtype)) => (extents, Some(DType::parse(dtype)?)),
        None => (rest, None),
    };
    let extents = if extents.is_empty() {
        Vec::new()
    } else {
        extents
            .split('x')
            .map(|d| d.parse().map_err(|_| wrong(&format!("'{d}' is not an extent"))))
            .collect::<Result<_>>()?
    };
    Ok(Shape { name: name.to_owned(), extents, dtype })
}

/// Seeded inputs: floats uniform in [0, 1), integers 0 or 1, bools either, empty strings.
pub fn random_inputs(model: &Model, shapes: &[Shape], seed: u64) -> Result<Vec<(String, Tensor)>> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    // PCG XSH-RR (O'Neill, 2014).
    let mut next = move || {
        let old = state;
        state = old.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((((old >> 18) ^ old) >> 27) as u32).rotate_right((old >> 59) as u32)
    };
    shapes
        .iter()
        .map(|shape| {
            let spec = model.inputs().iter().find(|s| s.name == shape.name);
            let declared = match spec.map(|s| &s.ty) {
                Some(Type::Tensor(dtype, _)) => *dtype,
                _ => {
                    let text = format!("input '{}' is not a tensor; use run", shape.name);
                    return Err(Error::new(Code::Unsupported, text));
                }
            };
            let dtype = shape.dtype.unwrap_or(declared);
            let zeros = Tensor::zeros(dtype, &shape.extents)?;
            let n = zeros.len();
            let unit = |r: u32| (r >> 8) as f32 / (1u32 << 24) as f32;
            let tensor = match dtype {
                DType::String => zeros,
                DType::F32 => {
                    Tensor::from_vec(&shape.extents, (0..n).map(|_| unit(next())).collect())?
                }
                DType::F64 => {
                    let data = (0..n).map(|_| f64::from(unit(next()))).collect::<Vec<_>>();
                    Tensor::from_vec(&shape.extents, data)?
                }
                // One half-word of a float below one half: positive and finite in f16 and bf16.
                DType::F16 | DType::BF16 => {
                    let data = (0..n).map(|_| 0x3800 | (next() >> 28) as u16).collect::<Vec<_>>();
                    Tensor::from_vec(&shape.extents, data)?.bitcast(dtype)?
                }
                _ => {
                    let width = dtype.bits().div_ceil(8);
                    let mut bytes = vec![0u8; dtype.bytes_for(n)?];
                    bytes.iter_mut().step_by(width).for_each(|b| *b = (next() >> 31) as u8);
                    Tensor::from_bytes(dtype, &shape.extents, &bytes)?
                }
            };
            Ok((shape.name.clone(), tensor))
        })
        .collect()
}

/// `bytes` for a person.
pub fn human_bytes(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
        _ => format!("{:.2} GiB", bytes as f64 / 1_073_741_824.0),
    }
}
