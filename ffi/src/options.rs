//! Options: structs that grow without breaking anyone.
//!
//! An options struct begins with its own size, as the caller was compiled with it. A
//! field that the caller does not know is zero, and zero means default; a field that
//! this library does not know must be zero.

use crate::call::{Call, guard_value, invalid};
use crate::cancel::deepseek_cancel;
use crate::tensor::extents;
use deepseek::{Code, Error, ModelOptions, Result, RunOptions, SymbolBounds};
use std::ffi::c_char;
use std::time::Duration;

/// Largest struct that a caller may claim to have, in bytes; more is not an options
/// struct of a later version but an uninitialised one.
const MAX_STRUCT_SIZE: usize = 4096;

/// A `repr(C)` struct that begins with its size.
///
/// # Safety
/// The first field is `struct_size: usize`; all-zero bytes are a valid value; there is
/// no padding, so that every byte of the struct means something.
pub(crate) unsafe trait SizedStruct: Copy {
    /// Sets the first field.
    fn set_struct_size(&mut self, size: usize);

    /// All defaults.
    fn defaults() -> Self {
        // SAFETY: all-zero bytes are a valid value, by the trait's contract.
        let mut options: Self = unsafe { std::mem::zeroed() };
        options.set_struct_size(size_of::<Self>());
        options
    }
}

impl Call {
    /// Options of whatever version the caller was compiled with; defaults for NULL.
    pub(crate) fn options<T: SizedStruct>(&self, ptr: *const T, what: &str) -> Result<T> {
        let mut options = T::defaults();
        if ptr.is_null() {
            return Ok(options);
        }
        let theirs = *self.get(ptr.cast::<usize>(), what)?;
        if !(size_of::<usize>()..=MAX_STRUCT_SIZE).contains(&theirs) {
            return Err(invalid(format!(
                "{what}->struct_size is {theirs}; initialise the struct with its _init function"
            )));
        }
        let bytes = self.bytes(ptr.cast(), theirs, what)?;
        let known = theirs.min(size_of::<T>());
        if bytes[known..].iter().any(|b| *b != 0) {
            return Err(Error::new(
                Code::UnsupportedOption,
                format!(
                    "{what} sets an option beyond byte {known}, which version {} does not know; \
                     leave it zero or use a later library",
                    deepseek::VERSION
                ),
            ));
        }
        // SAFETY: `known` bytes are in both; `options` is a struct without padding, for
        // which the trait's contract allows any field values that its fields' types do,
        // and those are numbers and pointers.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), (&raw mut options).cast(), known);
        }
        options.set_struct_size(size_of::<T>());
        Ok(options)
    }

    /// Fills the caller's struct of `size` bytes with defaults: zero everywhere but in
    /// the first field. Nothing if there is no room for that field.
    fn init(&self, ptr: *mut u8, size: usize) {
        if !(size_of::<usize>()..=MAX_STRUCT_SIZE).contains(&size) {
            return;
        }
        let mut bytes = vec![0; size];
        bytes[..size_of::<usize>()].copy_from_slice(&size.to_ne_bytes());
        if let Ok(out) = self.out_slice(ptr, size, "options") {
            // There is room: `out` was made with this size.
            let _ = out.set_all(&bytes);
        }
    }
}

/// Flags that this version does not know must be zero.
pub(crate) fn no_flags(flags: u64, what: &str) -> Result<()> {
    match flags {
        0 => Ok(()),
        _ => Err(Error::new(
            Code::UnsupportedOption,
            format!(
                "{what}->flags is {flags:#x}; this version does not know these flags, leave them zero"
            ),
        )),
    }
}

/// How a runtime is set up. NULL and zero fields mean the defaults.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct deepseek_runtime_options {
    /// Bytes of this struct, as the caller was compiled.
    pub struct_size: usize,
    /// Bytes that all sessions together may hold for working memory; 0 sets no bound.
    pub memory_budget_bytes: u64,
    /// Computing threads, the caller's among them. 0: `DEEPSEEK_NUM_THREADS` if it is set,
    /// else what the machine has.
    pub threads: u32,
    /// Instruction set, one of `DEEPSEEK_ISA_…`. 0: the best this processor has.
    pub isa: i32,
}

/// How a model is opened. NULL and zero fields mean the defaults.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct deepseek_model_options {
    /// Bytes of this struct, as the caller was compiled.
    pub struct_size: usize,
    /// 0, or `DEEPSEEK_MODEL_WHOLE`.
    pub flags: u64,
    /// Bytes that a run may take beyond the weights; 0 sets no bound. What is too large is cut
    /// into blocks of rows until a run of the shapes below fits, or opening fails with
    /// `DEEPSEEK_STATUS_BUDGET_EXCEEDED` and the least number of bytes that would do. Runs that
    /// take more, because of other shapes or because there were none to cut for, are refused.
    pub memory_budget_bytes: u64,
    /// The largest shapes that the budget must hold for: input `shape_names[i]` has the
    /// `shape_ranks[i]` extents `shapes[i]`. Inputs whose shapes say nothing new may be left out;
    /// if all are, the upper bounds of the model's symbols count. NULL if `shape_count` is 0.
    /// Borrowed for the call. Since 0.1.
    pub shape_names: *const *const c_char,
    /// See `shape_names`. Since 0.1.
    pub shapes: *const *const i64,
    /// See `shape_names`. Since 0.1.
    pub shape_ranks: *const usize,
    /// Number of shapes. Since 0.1.
    pub shape_count: usize,
    /// Ranges of symbols that every run keeps to: `bound_symbols[i]` is from `bound_mins[i]`
    /// to `bound_maxs[i]`, both included. A run outside fails with
    /// `DEEPSEEK_STATUS_SHAPE_MISMATCH`; what is planned within bounds is planned within these.
    /// NULL if `bound_count` is 0. Borrowed for the call. Since 0.1.
    pub bound_symbols: *const *const c_char,
    /// Least values; 0 leaves the model's own. Since 0.1.
    pub bound_mins: *const i64,
    /// Greatest values; a negative one leaves the model's own, if it has one. Since 0.1.
    pub bound_maxs: *const i64,
    /// Number of bounds. Since 0.1.
    pub bound_count: usize,
    /// What the layers of a model in f32 compute in: `bf16`, `f16`, `int8`, or `auto`, which takes
    /// int8 where it is faster on this machine, inside the accuracy budget. NULL or `f32` leaves
    /// the model as it is. `deepseek_model_get_precision_report` says what was chosen and why.
    /// Borrowed for the call. Since 0.1.
    pub precision: *const c_char,
    /// Path of inputs to calibrate with: an `.npz` file, or a directory of them, whose arrays are
    /// named after the inputs and hold samples along the first axis; for an encoder a `.txt` file
    /// of one text a line, or a `.jsonl` file of strings or objects with `text`. NULL makes inputs
    /// up; where the model leaves extents open they have the shapes above. Borrowed for the call.
    /// Since 0.1.
    pub calibration: *const c_char,
    /// What the metric must reach on the calibration data, 1 being f32; 0.95 at least. 0 is the
    /// default: 0.99 for `auto`, else 0.95. Since 0.1.
    pub accuracy_budget: f64,
    /// What accuracy is measured by: `cosine` of outputs, or `top1` agreement. NULL is `cosine`.
    /// Borrowed for the call. Since 0.1.
    pub metric: *const c_char,
}

/// Flag of a model: run nothing in blocks of rows, unless the budget asks for it.
pub const DEEPSEEK_MODEL_WHOLE: u64 = 1;

/// How a session is made. NULL and zero fields mean the defaults.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct deepseek_session_options {
    /// Bytes of this struct, as the caller was compiled.
    pub struct_size: usize,
    /// Reserved; must be 0.
    pub flags: u64,
}

/// How an embedder is opened. NULL and zero fields mean the defaults.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct deepseek_embedder_options {
    /// Bytes of this struct, as the caller was compiled.
    pub struct_size: usize,
    /// Reserved; must be 0.
    pub flags: u64,
}

/// How one run is made. NULL and zero fields mean the defaults.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct deepseek_run_options {
    /// Bytes of this struct, as the caller was compiled.
    pub struct_size: usize,
    /// Milliseconds the run may take, waiting for its turn included; 0 sets no limit.
    pub timeout_ms: u64,
    /// Flag that ends the run early, or NULL. Borrowed for the call that starts the run.
    pub cancel: *const deepseek_cancel,
    /// 1 runs a padded batch without its padding: the mask of each row must be ones, then
    /// zeros; outputs are zero where it hides. Fails for models that `deepseek_model_check_ragged`
    /// refuses. 0 runs the model as it is. Since 0.1.
    pub ragged: u64,
}

macro_rules! sized {
    ($($name:ident),*) => {$(
        // SAFETY: `repr(C)`, `struct_size` first, numbers and pointers only; that there is
        // no padding is asserted by the layout test.
        unsafe impl SizedStruct for $name {
            fn set_struct_size(&mut self, size: usize) {
                self.struct_size = size;
            }
        }
    )*};
}

sized!(
    deepseek_runtime_options,
    deepseek_model_options,
    deepseek_session_options,
    deepseek_embedder_options,
    deepseek_run_options
);

impl Call {
    /// The façade's form of model options.
    pub(crate) fn model_options(&self, ptr: *const deepseek_model_options) -> Result<ModelOptions> {
        let options = self.options(ptr, "options")?;
        no_flags(options.flags & !DEEPSEEK_MODEL_WHOLE, "options")?;
        let count = options.shape_count;
        let names = self.texts(options.shape_names, count, "options->shape_names")?;
        let ranks = self.slice(options.shape_ranks, count, "options->shape_ranks")?;
        let shapes = self.shapes(options.shapes, ranks, "options->shapes")?;
        let names = names.into_iter().map(str::to_owned);
        let count = options.bound_count;
        let symbols = self.texts(options.bound_symbols, count, "options->bound_symbols")?;
        let mins = self.slice(options.bound_mins, count, "options->bound_mins")?;
        let maxs = self.slice(options.bound_maxs, count, "options->bound_maxs")?;
        let bounds = symbols.into_iter().zip(mins.iter().zip(maxs));
        let bounds = bounds.map(|(symbol, (&min, &max))| SymbolBounds {
            symbol: symbol.to_owned(),
            min,
            max: (max >= 0).then_some(max),
        });
        let mut model = ModelOptions {
            bounds: bounds.collect(),
            memory_budget_bytes: options.memory_budget_bytes,
            whole: options.flags & DEEPSEEK_MODEL_WHOLE != 0,
            shapes: names.zip(shapes).collect(),
            ..ModelOptions::default()
        };
        model.set_precision(
            self.text_or_empty(options.precision, "options->precision")?,
            self.text_or_empty(options.calibration, "options->calibration")?,
            options.accuracy_budget,
            self.text_or_empty(options.metric, "options->metric")?,
        )?;
        Ok(model)
    }

    /// A shape for each of `ranks`.
    pub(crate) fn shapes(
        &self,
        ptr: *const *const i64,
        ranks: &[usize],
        what: &str,
    ) -> Result<Vec<Vec<usize>>> {
        let shapes = self.slice(ptr, ranks.len(), what)?.iter().zip(ranks).enumerate();
        shapes.map(|(i, (&p, &rank))| extents(self, p, rank, &format!("{what}[{i}]"))).collect()
    }

    /// The façade's form of run options.
    pub(crate) fn run_options(&self, ptr: *const deepseek_run_options) -> Result<RunOptions> {
        let options = self.options(ptr, "options")?;
        let cancel = match options.cancel.is_null() {
            true => None,
            false => Some(self.get(options.cancel, "options->cancel")?.flag.clone()),
        };
        let timeout = match options.timeout_ms {
            0 => None,
            ms => Some(Duration::from_millis(ms)),
        };
        let ragged = match options.ragged {
            0 => false,
            1 => true,
            other => return Err(invalid(format!("options->ragged is {other}, expected 0 or 1"))),
        };
        Ok(RunOptions { timeout, cancel, ragged })
    }
}

/// Fills options of `size` bytes (`sizeof options`) with defaults. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_runtime_options_init(
    options: *mut deepseek_runtime_options,
    size: usize,
) {
    // SAFETY: the caller keeps the contract of the header.
    guard_value(unsafe { Call::plain() }, (), |call| call.init(options.cast(), size))
}

/// Fills options of `size` bytes (`sizeof options`) with defaults. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_model_options_init(
    options: *mut deepseek_model_options,
    size: usize,
) {
    // SAFETY: the caller keeps the contract of the header.
    guard_value(unsafe { Call::plain() }, (), |call| call.init(options.cast(), size))
}

/// Fills options of `size` bytes (`sizeof options`) with defaults. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_session_options_init(
    options: *mut deepseek_session_options,
    size: usize,
) {
    // SAFETY: the caller keeps the contract of the header.
    guard_value(unsafe { Call::plain() }, (), |call| call.init(options.cast(), size))
}

/// Fills options of `size` bytes (`sizeof options`) with defaults. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_embedder_options_init(
    options: *mut deepseek_embedder_options,
    size: usize,
) {
    // SAFETY: the caller keeps the contract of the header.
    guard_value(unsafe { Call::plain() }, (), |call| call.init(options.cast(), size))
}

/// Fills options of `size` bytes (`sizeof options`) with defaults. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_run_options_init(
    options: *mut deepseek_run_options,
    size: usize,
) {
    // SAFETY: the caller keeps the contract of the header.
    guard_value(unsafe { Call::plain() }, (), |call| call.init(options.cast(), size))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a later version of `deepseek_run_options` might look like.
    #[repr(C)]
    struct Later {
        known: deepseek_run_options,
        added: u64,
    }

    fn read(ptr: *const deepseek_run_options) -> Result<deepseek_run_options> {
        // SAFETY: the tests pass pointers to live locals of the size they claim.
        let call = unsafe { Call::plain() };
        call.options(ptr, "options")
    }

    #[test]
    fn sizes_of_other_versions_are_understood() {
        let mut o = deepseek_run_options::defaults();
        o.timeout_ms = 7;
        assert_eq!(read(&o).unwrap().timeout_ms, 7);
        assert_eq!(read(std::ptr::null()).unwrap().timeout_ms, 0);

        // An earlier caller had the size alone; the memory behind it is not ours.
        o.struct_size = size_of::<usize>();
        assert_eq!(read(&o).unwrap().timeout_ms, 0);

        let mut later = Later { known: o, added: 0 };
        later.known.struct_size = size_of::<Later>();
        assert_eq!(read((&raw const later).cast()).unwrap().timeout_ms, 7);
        later.added = 1;
        let e = read((&raw const later).cast()).unwrap_err();
        assert_eq!(e.code(), Code::UnsupportedOption);

        for wrong in [0, 7, MAX_STRUCT_SIZE + 1, usize::MAX] {
            o.struct_size = wrong;
            assert_eq!(read(&o).unwrap_err().code(), Code::InvalidArgument);
        }
    }

    #[test]
    fn init_zeroes_and_sets_the_size() {
        let mut later = Later { known: deepseek_run_options::defaults(), added: 9 };
        later.known.timeout_ms = 9;
        // SAFETY: the struct has the size that is passed.
        unsafe { deepseek_run_options_init((&raw mut later).cast(), size_of::<Later>()) };
        assert_eq!(
            (later.known.struct_size, later.known.timeout_ms, later.added),
            (size_of::<Later>(), 0, 0)
        );
        // SAFETY: NULL and sizes without room for the first field are refused.
        unsafe {
            deepseek_run_options_init(std::ptr::null_mut(), 24);
            deepseek_run_options_init((&raw mut later).cast(), 3);
        }
        assert_eq!(later.known.struct_size, size_of::<Later>());
    }
}
