//! C++ over the façade: the compiled half of `deepseek.hpp`.
//!
//! The bridge is not an interface to program against: it carries handles, borrowed slices
//! and a `Status` between Rust and the header, which gives them the shape of C++.
//! A call that can fail takes a `Status` last; one that yields an object returns the
//! content of a `Box`, null on failure. Nothing here computes, or validates what the core
//! validates. Calls without a `Status` only read or store and cannot fail.
//!
//! - `status`: the one gate for errors and panics.
//! - `tensor`, `model`, `session`, `graph`, `embedder`: the objects.

mod embedder;
mod graph;
mod model;
mod session;
mod status;
mod tensor;

use deepseek::heap_bytes;
use embedder::{Embedder, embedder_open};
use graph::{GraphBuilder, ValueRef, ValueRefs, graph_new, refs_new};
use model::{
    Extents, Model, ModelOptions, Runtime, extents_new, model_from_onnx, model_open,
    model_options_new, runtime_new, version,
};
use session::{
    Cancel, Inputs, Lists, Outputs, Session, cancel_new, inputs_new, lists_new, session_new,
};
use status::{code_name, code_numbers};
use tensor::{
    Tensor, Value, dtype_bits, dtype_name, dtype_numbers, dtype_parse, tensor_adopt, tensor_copy,
    tensor_strings, tensor_zeros,
};

#[cxx::bridge(namespace = "deepseek::bridge")]
mod ffi {
    /// How a call ended: 0, or the number of a code with its message and node.
    struct Status {
        code: i32,
        message: String,
        node: String,
    }

    /// An input or output; symbolic extents are -1 in `shape`.
    struct TensorInfo {
        name: String,
        type_text: String,
        dtype: i32,
        ranked: bool,
        shape: Vec<i64>,
        extents: Vec<String>,
    }

    /// Bytes of a run.
    #[derive(Default)]
    struct MemoryReport {
        arena_bytes: u64,
        output_bytes: u64,
        planned_bytes: u64,
        constant_bytes: u64,
        dynamic_values: usize,
        largest: Vec<PlannedValue>,
    }

    /// A value of the memory plan.
    struct PlannedValue {
        name: String,
        type_text: String,
        bytes: u64,
    }

    /// A profile of a run: in the Chrome trace format, as JSON, and as an HTML page.
    struct ProfileTexts {
        trace: String,
        json: String,
        html: String,
    }

    unsafe extern "C++" {
        include!("deepseek/hooks.hpp");
        type Keep;
        type Listener;
        unsafe fn done(self: Pin<&mut Listener>, outputs: *mut Outputs, status: &Status);
        type ListsListener;
        unsafe fn done(self: Pin<&mut ListsListener>, lists: *mut Lists, status: &Status);
    }

    extern "Rust" {
        fn version() -> &'static str;
        fn heap_bytes() -> usize;
        fn code_numbers() -> Vec<i32>;
        fn code_name(number: i32) -> &'static str;
        fn dtype_numbers() -> Vec<i32>;
        fn dtype_name(number: i32) -> &'static str;
        fn dtype_bits(number: i32) -> usize;
        fn dtype_parse(text: &str, status: &mut Status) -> i32;

        type Runtime;
        fn runtime_new(
            threads: usize,
            isa: &str,
            memory_budget_bytes: u64,
            status: &mut Status,
        ) -> *mut Runtime;
        fn threads(self: &Runtime) -> usize;
        fn isa(self: &Runtime) -> &'static str;
        fn reserved_bytes(self: &Runtime) -> u64;

        type Tensor;
        fn tensor_copy(
            dtype: i32,
            shape: &[usize],
            bytes: &[u8],
            status: &mut Status,
        ) -> *mut Tensor;
        fn tensor_zeros(dtype: i32, shape: &[usize], status: &mut Status) -> *mut Tensor;
        fn tensor_strings(shape: &[usize], strings: &[&str], status: &mut Status) -> *mut Tensor;
        unsafe fn tensor_adopt(
            dtype: i32,
            shape: &[usize],
            data: *const u8,
            bytes: usize,
            keep: UniquePtr<Keep>,
            status: &mut Status,
        ) -> *mut Tensor;
        fn dtype(self: &Tensor) -> i32;
        fn shape(self: &Tensor) -> &[usize];
        fn data(self: &Tensor) -> *const u8;
        fn bytes(self: &Tensor) -> usize;
        fn len(self: &Tensor) -> usize;
        fn has_string(self: &Tensor, index: usize, status: &mut Status) -> bool;
        fn string(self: &Tensor, index: usize) -> &str;

        type Value;
        fn type_text(self: &Value) -> String;
        fn is_tensor(self: &Value) -> bool;
        fn to_tensor(self: &Value, status: &mut Status) -> *mut Tensor;
        fn count(self: &Value, status: &mut Status) -> usize;
        fn item(self: &Value, index: usize, status: &mut Status) -> *mut Value;

        type Extents;
        fn extents_new() -> Box<Extents>;
        fn add(self: &mut Extents, name: &str, values: &[usize]);

        type ModelOptions;
        fn model_options_new(memory_budget_bytes: u64, whole: bool) -> Box<ModelOptions>;
        fn add_shape(self: &mut ModelOptions, name: &str, shape: &[usize]);
        fn add_bounds(self: &mut ModelOptions, symbol: &str, min: i64, max: i64, bounded: bool);
        fn set_precision(
            self: &mut ModelOptions,
            target: &str,
            calibration: &str,
            accuracy_budget: f64,
            metric: &str,
            status: &mut Status,
        );

        type Model;
        fn model_open(
            runtime: &Runtime,
            path: &str,
            options: &ModelOptions,
            status: &mut Status,
        ) -> *mut Model;
        fn model_from_onnx(
            runtime: &Runtime,
            bytes: &[u8],
            options: &ModelOptions,
            status: &mut Status,
        ) -> *mut Model;
        fn inputs(self: &Model) -> Vec<TensorInfo>;
        fn outputs(self: &Model) -> Vec<TensorInfo>;
        fn memory_formula(self: &Model, status: &mut Status) -> String;
        fn save(self: &Model, path: &str, packed: bool, status: &mut Status);
        fn summary_json(self: &Model, status: &mut Status) -> String;
        fn precision_report(self: &Model, status: &mut Status) -> String;
        fn plan_memory(self: &Model, symbols: &Extents, status: &mut Status) -> MemoryReport;
        fn plan_memory_within_bounds(self: &Model, status: &mut Status) -> MemoryReport;
        fn plan_memory_for_shapes(
            self: &Model,
            shapes: &Extents,
            status: &mut Status,
        ) -> MemoryReport;
        fn check_ragged(self: &Model, status: &mut Status);
        fn plan_memory_for_lengths(
            self: &Model,
            lengths: &[usize],
            status: &mut Status,
        ) -> MemoryReport;

        type Cancel;
        fn cancel_new() -> Box<Cancel>;
        fn cancel(self: &Cancel);
        fn is_cancelled(self: &Cancel) -> bool;

        type Inputs;
        fn inputs_new() -> Box<Inputs>;
        fn add(self: &mut Inputs, name: &str, tensor: &Tensor);

        type Outputs;
        fn len(self: &Outputs) -> usize;
        fn name(self: &Outputs, index: usize) -> String;
        fn value(self: &Outputs, index: usize, status: &mut Status) -> *mut Value;

        type Lists;
        fn lists_new() -> Box<Lists>;
        fn add_list(self: &mut Lists, name: &str);
        fn add(self: &mut Lists, tensor: &Tensor);
        fn len(self: &Lists) -> usize;
        fn name(self: &Lists, index: usize) -> String;
        fn count(self: &Lists, index: usize) -> usize;
        fn tensor(self: &Lists, index: usize, item: usize, status: &mut Status) -> *mut Tensor;

        type Session;
        fn session_new(model: &Model, status: &mut Status) -> *mut Session;
        fn run(
            self: &Session,
            inputs: Box<Inputs>,
            timeout_ns: i64,
            cancel: &Cancel,
            ragged: bool,
            status: &mut Status,
        ) -> *mut Outputs;
        fn run_profiled(
            self: &Session,
            inputs: Box<Inputs>,
            timeout_ns: i64,
            cancel: &Cancel,
            ragged: bool,
            texts: &mut ProfileTexts,
            status: &mut Status,
        ) -> *mut Outputs;
        fn run_ragged(
            self: &Session,
            inputs: Box<Lists>,
            timeout_ns: i64,
            cancel: &Cancel,
            status: &mut Status,
        ) -> *mut Lists;
        fn run_async(
            self: &Session,
            inputs: Box<Inputs>,
            timeout_ns: i64,
            cancel: &Cancel,
            ragged: bool,
            listener: UniquePtr<Listener>,
            status: &mut Status,
        );
        fn run_ragged_async(
            self: &Session,
            inputs: Box<Lists>,
            timeout_ns: i64,
            cancel: &Cancel,
            listener: UniquePtr<ListsListener>,
            status: &mut Status,
        );
        fn cancel(self: &Session);
        fn close(self: &Session, status: &mut Status);
        fn trim(self: &Session, status: &mut Status);
        fn observed_bytes(self: &Session) -> u64;

        type GraphBuilder;
        type ValueRef;
        type ValueRefs;
        fn graph_new(name: &str, status: &mut Status) -> *mut GraphBuilder;
        fn refs_new() -> Box<ValueRefs>;
        fn add(self: &mut ValueRefs, value: &ValueRef);
        fn add_absent(self: &mut ValueRefs);
        fn len(self: &ValueRefs) -> usize;
        fn at(self: &ValueRefs, index: usize, status: &mut Status) -> *mut ValueRef;
        fn input(
            self: &mut GraphBuilder,
            name: &str,
            dtype: i32,
            shape: &[&str],
            status: &mut Status,
        ) -> *mut ValueRef;
        fn bound(
            self: &mut GraphBuilder,
            symbol: &str,
            min: i64,
            max: i64,
            bounded: bool,
            status: &mut Status,
        );
        fn constant(
            self: &mut GraphBuilder,
            name: &str,
            tensor: &Tensor,
            status: &mut Status,
        ) -> *mut ValueRef;
        fn node(
            self: &mut GraphBuilder,
            op: &str,
            name: &str,
            attrs: &str,
            inputs: &ValueRefs,
            outputs: usize,
            status: &mut Status,
        ) -> *mut ValueRefs;
        fn output(self: &mut GraphBuilder, name: &str, value: &ValueRef, status: &mut Status);
        fn type_text(self: &GraphBuilder, value: &ValueRef, status: &mut Status) -> String;
        fn build(
            self: &GraphBuilder,
            runtime: &Runtime,
            options: &ModelOptions,
            status: &mut Status,
        ) -> *mut Model;

        type Embedder;
        fn embedder_open(runtime: &Runtime, directory: &str, status: &mut Status) -> *mut Embedder;
        fn dim(self: &Embedder) -> usize;
        fn max_tokens(self: &Embedder) -> usize;
        fn embed(
            self: &Embedder,
            texts: &[&str],
            timeout_ns: i64,
            cancel: &Cancel,
            status: &mut Status,
        ) -> Vec<f32>;
        fn tokenize(self: &Embedder, text: &str, status: &mut Status) -> Vec<u32>;
    }

    impl Box<Runtime> {}
    impl Box<Tensor> {}
    impl Box<Value> {}
    impl Box<Model> {}
    impl Box<Outputs> {}
    impl Box<Lists> {}
    impl Box<Session> {}
    impl Box<GraphBuilder> {}
    impl Box<ValueRef> {}
    impl Box<ValueRefs> {}
    impl Box<Embedder> {}
}
