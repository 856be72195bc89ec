// libdeepseek for C++17 and later: loads a model, compiles it for this machine, runs it.
//
//     deepseek::Runtime runtime;
//     auto model = deepseek::Model::open(runtime, "model.onnx");
//     auto session = deepseek::Session(model);
//     auto outputs = session.run({{"x", deepseek::Tensor::of<float>({1, 3}, {1, 2, 3})}});
//     for (float y : outputs.tensor("y").to_vector<float>()) { … }
//
// Objects are handles: copies refer to the same object, and it lives as long as anything
// needs it. All of them may be used from any thread, except `GraphBuilder`, which one
// thread uses at a time, and the handles themselves, which like any variable one thread
// must not assign while another reads. Using one that was moved from throws INVALID_STATE.
//
// Every failure, and nothing else, is a `deepseek::Error`. Strings are UTF-8.
//
// Link `deepseek::cpp`. The archive holds a whole engine: a program links it or the C
// library, not both.
#ifndef DEEPSEEK_HPP
#define DEEPSEEK_HPP

#include "deepseek/error.hpp"
#include "deepseek/tensor.hpp"

#include <chrono>
#include <cstdint>
#include <functional>
#include <future>
#include <initializer_list>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

namespace deepseek {

/// Version of the library, `major.minor.patch`.
inline std::string version() { return detail::to_string(bridge::version()); }

/// Bytes that tensors of this process hold on the library's heap right now. Mapped files and
/// memory of the caller do not count.
inline std::size_t heap_bytes() { return bridge::heap_bytes(); }

/// How a `Runtime` is set up.
struct RuntimeOptions {
    /// Computing threads, the caller's among them; 0 takes `DEEPSEEK_NUM_THREADS`, or what the
    /// machine has.
    std::size_t threads = 0;
    /// Bytes that all sessions together may hold for working memory; 0 sets no bound.
    std::uint64_t memory_budget_bytes = 0;
    /// Instruction-set level: `scalar`, `avx2`, `avxvnni`, `avx512`, `avx512vnni`, `avx512bf16` or `amx`;
    /// empty takes the best.
    std::string isa = {};
};

/// Threads, instruction set and byte budget, shared by every model loaded with it. Make
/// one a process.
class Runtime {
public:
    /// Throws INVALID_ARGUMENT, or UNSUPPORTED for an instruction set that this processor lacks.
    explicit Runtime(const RuntimeOptions &options = {})
        : handle_(detail::own(detail::call([&](bridge::Status &s) {
              return bridge::runtime_new(options.threads, detail::text(options.isa, "isa"),
                                         options.memory_budget_bytes, s);
          }))) {}

    /// Number of computing threads.
    std::size_t threads() const { return raw().threads(); }
    /// Name of the instruction-set level in use.
    std::string isa() const { return detail::to_string(raw().isa()); }
    /// Bytes of working memory that its sessions hold right now, which the budget bounds.
    std::uint64_t reserved_bytes() const { return raw().reserved_bytes(); }

private:
    friend class Model;
    friend class GraphBuilder;
    friend class Embedder;
    const bridge::Runtime &raw() const { return detail::get(handle_, "runtime"); }
    std::shared_ptr<const bridge::Runtime> handle_;
};

/// Name and type of an input or output.
struct TensorInfo {
    std::string name;
    /// Type as text, such as `f32[batch, 3]`.
    std::string type;
    /// Element type; none for sequences and optionals.
    std::optional<DType> dtype;
    /// Extents, -1 where symbolic; none where the rank is unknown.
    std::optional<std::vector<std::int64_t>> shape;
    /// Extents as text: numbers or expressions over symbols.
    std::vector<std::string> extents;
};

/// A value of the memory plan.
struct PlannedValue {
    std::string name;
    std::string type;
    std::uint64_t bytes = 0;
};

/// Exact bytes of a run.
struct MemoryReport {
    /// Working memory: values between nodes, and scratch.
    std::uint64_t arena_bytes = 0;
    std::uint64_t output_bytes = 0;
    /// What a run takes beyond the constants: arena and outputs.
    std::uint64_t planned_bytes = 0;
    /// The model's constants, mapped ones included.
    std::uint64_t constant_bytes = 0;
    /// Number of values whose extents depend on data; they come on top.
    std::size_t dynamic_values = 0;
    /// The largest values, descending.
    std::vector<PlannedValue> largest;
};

/// Range of a symbol, both ends included.
struct SymbolBounds {
    /// Least value; 0 leaves the model's own.
    std::int64_t min = 0;
    /// Greatest value; none leaves the model's own, if it has one.
    std::optional<std::int64_t> max = {};
};

/// How a `Model` is made.
struct ModelOptions {
    /// Bytes that a run may take beyond the weights; 0 sets no bound. What is too large is cut
    /// into blocks of rows until a run of the shapes below fits, or BUDGET_EXCEEDED names the least
    /// number of bytes that would do. Runs that take more, because of other shapes or because there
    /// were none to cut for, are refused.
    std::uint64_t memory_budget_bytes = 0;
    /// The largest shapes that the budget must hold for, by input. Inputs whose shapes say nothing
    /// new may be left out; if all are, the upper bounds of the model's symbols count.
    std::map<std::string, Shape> shapes = {};
    /// Run nothing in blocks of rows, unless the budget asks for it.
    bool whole = false;
    /// Ranges of symbols that every run keeps to, by symbol: a run outside throws SHAPE_MISMATCH,
    /// and what is planned within bounds is planned within these.
    std::map<std::string, SymbolBounds> bounds = {};
    /// What the layers of a model in f32 compute in: `bf16`, `f16`, `int8`, or `auto`, which takes
    /// int8 where it is faster on this machine, inside the accuracy budget. Empty or `f32` leaves
    /// the model as it is. `Model::precision_report` says what was chosen and why.
    std::string precision = {};
    /// Path of inputs to calibrate with: an `.npz` file, or a directory of them, whose arrays are
    /// named after the inputs and hold samples along the first axis; for an encoder a `.txt` file
    /// of one text a line, or a `.jsonl` file of strings or objects with `text`. Empty makes inputs
    /// up; where the model leaves extents open they have the shapes above.
    std::string calibration = {};
    /// What the metric must reach on the calibration data, 1 being f32; 0.95 at least. 0 is the
    /// default: 0.99 for `auto`, else 0.95.
    double accuracy_budget = 0;
    /// What accuracy is measured by: `cosine` of outputs, or `top1` agreement. Empty is `cosine`.
    std::string metric = {};
};

/// A graph compiled for a runtime, with its weights. Immutable.
class Model {
public:
    /// Opens an `.onnx` file, a `.deepseek` file, or a directory with a Hugging Face `config.json`
    /// and safetensors weights. Throws IO, INVALID_FILE, INVALID_GRAPH, or UNSUPPORTED naming the format,
    /// operator or field; BUDGET_EXCEEDED naming the least budget that would do; NOT_FOUND,
    /// SHAPE_MISMATCH for a shape of the options that fits no input; NOT_FOUND, INVALID_ARGUMENT
    /// for bounds of a symbol that no input has, or that are not within the model's own;
    /// INVALID_ARGUMENT for a precision or metric that there is not, calibration data that does not
    /// fit, or an accuracy budget that cannot be met, with the best that can be reached.
    static Model open(const Runtime &runtime, std::string_view path,
                      const ModelOptions &options = {}) {
        const auto how = raw(options);
        return Model(detail::own(detail::call([&](bridge::Status &s) {
            return bridge::model_open(runtime.raw(), detail::text(path, "path"), *how, s);
        })));
    }

    /// Loads an ONNX model from `size` bytes. External data is refused: it has no directory.
    static Model from_bytes(const Runtime &runtime, const void *data, std::size_t size,
                            const ModelOptions &options = {}) {
        const auto how = raw(options);
        return Model(detail::own(detail::call([&](bridge::Status &s) {
            return bridge::model_from_onnx(runtime.raw(), detail::bytes(data, size), *how, s);
        })));
    }

    /// The inputs, in order.
    std::vector<TensorInfo> inputs() const { return infos(raw().inputs()); }
    /// The outputs, in order.
    std::vector<TensorInfo> outputs() const { return infos(raw().outputs()); }

    /// Bytes of a run as a formula over the model's symbols.
    std::string memory_formula() const {
        return detail::to_string(
            detail::call([&](bridge::Status &s) { return raw().memory_formula(s); }));
    }

    /// Writes the model to a `.deepseek` file: the prepared graph, the weights, and what came with
    /// them, such as the files of a tokenizer. What is at `path` is replaced when all is written.
    /// Throws IO naming the path, INVALID_ARGUMENT if its name does not end in `.deepseek`.
    void save(std::string_view path) const {
        detail::call([&](bridge::Status &s) { raw().save(detail::text(path, "path"), false, s); });
    }

    /// As `save`, and stores the weights a second time, packed for the kernels of this machine: on
    /// machines with the same instruction set, opening the file packs nothing, and processes share
    /// the packed weights.
    void save_packed(std::string_view path) const {
        detail::call([&](bridge::Status &s) { raw().save(detail::text(path, "path"), true, s); });
    }

    /// What the model consists of, as JSON.
    std::string summary_json() const {
        return detail::to_string(
            detail::call([&](bridge::Status &s) { return raw().summary_json(s); }));
    }

    /// Why the layers of the model have the precisions that they have, as a JSON object: the fields of
    /// `deepseek_model_get_precision_report`. Empty if it was not compiled for less than f32.
    std::optional<std::string> precision_report() const {
        auto json = detail::to_string(
            detail::call([&](bridge::Status &s) { return raw().precision_report(s); }));
        return json.empty() ? std::nullopt : std::optional<std::string>(std::move(json));
    }

    /// Exact bytes of a run whose symbols have the given values. Throws NOT_FOUND for a
    /// symbol that the model does not have, INVALID_ARGUMENT naming one without a value,
    /// SHAPE_MISMATCH for a value outside its bounds.
    MemoryReport plan_memory(const std::map<std::string, std::size_t> &symbols) const {
        auto rows = bridge::extents_new();
        for (const auto &[name, value] : symbols) {
            rows->add(detail::text(name, "symbol"), {&value, 1});
        }
        return report(
            detail::call([&](bridge::Status &s) { return raw().plan_memory(*rows, s); }));
    }

    /// Bytes that no run within the bounds of the model's symbols exceeds: what the run at the
    /// upper bounds takes, where all sizes grow with every symbol. Throws INVALID_ARGUMENT naming a
    /// symbol without an upper bound; `ModelOptions::bounds` sets it.
    MemoryReport plan_memory_within_bounds() const {
        return report(
            detail::call([&](bridge::Status &s) { return raw().plan_memory_within_bounds(s); }));
    }

    /// Exact bytes of a run whose inputs have the given shapes. Throws NOT_FOUND for an
    /// unknown input, SHAPE_MISMATCH for a shape that does not fit, INVALID_ARGUMENT naming a
    /// symbol that the shapes leave open.
    MemoryReport plan_memory_for_shapes(const std::map<std::string, Shape> &shapes) const {
        auto rows = bridge::extents_new();
        for (const auto &[name, shape] : shapes) {
            rows->add(detail::text(name, "input"), {shape.data(), shape.size()});
        }
        return report(detail::call(
            [&](bridge::Status &s) { return raw().plan_memory_for_shapes(*rows, s); }));
    }

    /// Whether the model runs sequences of different lengths without padding
    /// (`Session::run_ragged`, `RunOptions::ragged`): throws UNSUPPORTED if it does not, naming
    /// the node that mixes the rows of sequences and why. The first call compiles the packed form.
    void check_ragged() const {
        detail::call([&](bridge::Status &s) { raw().check_ragged(s); });
    }

    /// Exact bytes of a ragged run of sequences with these lengths. Throws as `check_ragged`;
    /// INVALID_ARGUMENT for no or an empty sequence; SHAPE_MISMATCH for a length outside the
    /// model's bounds.
    MemoryReport plan_memory_for_lengths(const std::vector<std::size_t> &lengths) const {
        return report(detail::call([&](bridge::Status &s) {
            return raw().plan_memory_for_lengths(detail::slice(lengths), s);
        }));
    }

private:
    friend class Session;
    friend class GraphBuilder;
    explicit Model(std::shared_ptr<const bridge::Model> handle) : handle_(std::move(handle)) {}
    const bridge::Model &raw() const { return detail::get(handle_, "model"); }

    static rust::Box<bridge::ModelOptions> raw(const ModelOptions &options) {
        auto out = bridge::model_options_new(options.memory_budget_bytes, options.whole);
        for (const auto &[name, shape] : options.shapes) {
            out->add_shape(detail::text(name, "input"), {shape.data(), shape.size()});
        }
        for (const auto &[symbol, range] : options.bounds) {
            out->add_bounds(detail::text(symbol, "symbol"), range.min, range.max.value_or(0),
                            range.max.has_value());
        }
        detail::call([&](bridge::Status &s) {
            out->set_precision(detail::text(options.precision, "precision"),
                               detail::text(options.calibration, "calibration"),
                               options.accuracy_budget, detail::text(options.metric, "metric"), s);
        });
        return out;
    }

    static std::vector<TensorInfo> infos(const rust::Vec<bridge::TensorInfo> &from) {
        std::vector<TensorInfo> out;
        for (const bridge::TensorInfo &info : from) {
            TensorInfo to{detail::to_string(info.name), detail::to_string(info.type_text), {}, {}, {}};
            if (info.dtype != 0) {
                to.dtype = static_cast<DType>(info.dtype);
            }
            if (info.ranked) {
                to.shape.emplace(info.shape.begin(), info.shape.end());
            }
            for (const rust::String &extent : info.extents) {
                to.extents.push_back(detail::to_string(extent));
            }
            out.push_back(std::move(to));
        }
        return out;
    }

    static MemoryReport report(const bridge::MemoryReport &from) {
        MemoryReport to{from.arena_bytes,    from.output_bytes,   from.planned_bytes,
                        from.constant_bytes, from.dynamic_values, {}};
        for (const bridge::PlannedValue &value : from.largest) {
            to.largest.push_back({detail::to_string(value.name), detail::to_string(value.type_text),
                                  value.bytes});
        }
        return to;
    }

    std::shared_ptr<const bridge::Model> handle_;
};

/// A flag that ends the runs it was given to.
class Cancel {
public:
    Cancel() : handle_(detail::own(bridge::cancel_new().into_raw())) {}
    /// Raises the flag. Any thread; idempotent; returns at once, and the runs end at their next
    /// kernel boundary with CANCELLED.
    void cancel() const { raw().cancel(); }
    /// Whether it is raised.
    bool is_cancelled() const { return raw().is_cancelled(); }

private:
    friend class Session;
    friend class Embedder;
    const bridge::Cancel &raw() const { return detail::get(handle_, "cancel"); }
    std::shared_ptr<const bridge::Cancel> handle_;
};

/// How a run is made.
struct RunOptions {
    /// Time the run may take, waiting for its turn included.
    std::optional<std::chrono::nanoseconds> timeout = {};
    /// Raise it to end the run early.
    Cancel cancel = {};
    /// Run a padded batch without its padding. Each row of its mask is ones, then zeros; outputs
    /// are zero where it hides. UNSUPPORTED for models that `Model::check_ragged` refuses.
    bool ragged = false;
};

/// Tensors by name: for each name one for every sequence, or one for all.
using TensorLists = std::map<std::string, std::vector<Tensor>>;

/// Named inputs of a run: `{{"x", x}, {"y", y}}`, or any container of such pairs.
class Inputs {
public:
    Inputs() = default;
    Inputs(std::initializer_list<std::pair<std::string_view, Tensor>> inputs) {
        for (const auto &[name, tensor] : inputs) {
            add(name, tensor);
        }
    }
    template <class Pairs, class = decltype(std::declval<const Pairs &>().begin()->second),
              class = std::enable_if_t<!std::is_same_v<Pairs, Inputs>>>
    Inputs(const Pairs &inputs) {
        for (const auto &[name, tensor] : inputs) {
            add(name, tensor);
        }
    }
    Inputs &add(std::string_view name, Tensor tensor) {
        inputs_.emplace_back(std::string(name), std::move(tensor));
        return *this;
    }

private:
    friend class Session;
    rust::Box<bridge::Inputs> raw() const {
        auto out = bridge::inputs_new();
        for (const auto &[name, tensor] : inputs_) {
            out->add(detail::text(name, "input name"), tensor.raw());
        }
        return out;
    }
    std::vector<std::pair<std::string, Tensor>> inputs_;
};

/// What a run yields, by name, in the model's order.
class Outputs {
public:
    using Item = std::pair<std::string, Value>;

    std::size_t size() const { return items_.size(); }
    std::vector<Item>::const_iterator begin() const { return items_.begin(); }
    std::vector<Item>::const_iterator end() const { return items_.end(); }

    /// The value named so. Throws NOT_FOUND.
    const Value &operator[](std::string_view name) const {
        std::string have;
        for (const Item &item : items_) {
            if (item.first == name) {
                return item.second;
            }
            have += (have.empty() ? "'" : ", '") + item.first + "'";
        }
        throw Error(Code::NotFound,
                    "no output named '" + std::string(name) + "'; there are " + have);
    }

    /// The tensor named so. Throws NOT_FOUND, DTYPE_MISMATCH if the value is not a tensor.
    Tensor tensor(std::string_view name) const { return (*this)[name].tensor(); }

private:
    friend class Session;
    explicit Outputs(const bridge::Outputs &outputs) {
        for (std::size_t i = 0; i < outputs.len(); i++) {
            items_.emplace_back(
                detail::to_string(outputs.name(i)), Value(detail::own(detail::call([&](bridge::Status &s) {
                    return outputs.value(i, s);
                }))));
        }
    }
    std::vector<Item> items_;
};

/// Working memory to run a model. One run at a time: calls from several threads take turns,
/// so a service makes one session a thread.
class Session {
public:
    /// It holds no memory until its first run.
    explicit Session(const Model &model)
        : handle_(detail::own(detail::call(
              [&](bridge::Status &s) { return bridge::session_new(model.raw(), s); }))) {}

    /// Runs the model on inputs in any order. Throws NOT_FOUND or INVALID_ARGUMENT for wrong,
    /// missing or doubled names; DTYPE_MISMATCH, SHAPE_MISMATCH naming the input and both
    /// sides; CANCELLED, TIMEOUT, BUDGET_EXCEEDED, OUT_OF_MEMORY; INVALID_STATE once closed;
    /// POISONED after a panic; what a node reports, with its name.
    Outputs run(const Inputs &inputs, const RunOptions &options = {}) const {
        return take(detail::call([&](bridge::Status &s) {
            return raw().run(inputs.raw(), detail::nanoseconds(options.timeout),
                             options.cancel.raw(), options.ragged, s);
        }));
    }

    /// Runs sequences of different lengths together, without padding. Each gives the bits that
    /// `run` gives for it alone: batch 1, masks all ones.
    ///
    /// For an input `[batch, seq, …]` there is a tensor `[len, …]` for each sequence, for one
    /// `[batch, …]` a tensor `[…]` for each, for others one tensor. Masks may be left out. Outputs
    /// come in the same forms. `RunOptions::ragged` has no effect here.
    ///
    /// Throws as `Model::check_ragged` and `run`, with SHAPE_MISMATCH for lengths that contradict
    /// each other, naming both inputs, or that the model does not take, and INVALID_ARGUMENT for
    /// no or an empty sequence and for a mask that hides something.
    TensorLists run_ragged(const TensorLists &inputs, const RunOptions &options = {}) const {
        return take(detail::call([&](bridge::Status &s) {
            return raw().run_ragged(given(inputs), detail::nanoseconds(options.timeout),
                                    options.cancel.raw(), s);
        }));
    }

    /// Starts a ragged run in the background. The future holds what `run_ragged` would return or
    /// throw; it may be dropped, which does not cancel the run.
    std::future<TensorLists> run_ragged_async(const TensorLists &inputs,
                                              const RunOptions &options = {}) const {
        auto promise = std::make_unique<Promise<bridge::ListsListener, bridge::Lists, TensorLists>>();
        std::future<TensorLists> future = promise->promise.get_future();
        detail::call([&](bridge::Status &s) {
            raw().run_ragged_async(given(inputs), detail::nanoseconds(options.timeout),
                                   options.cancel.raw(), std::move(promise), s);
        });
        return future;
    }

    /// Outputs, and what ran, when and over how many bytes.
    struct Profiled {
        Outputs outputs;
        /// In the Chrome trace format (JSON), which Perfetto opens.
        std::string trace;
        /// All figures of the run as one JSON object.
        std::string json;
        /// An HTML page: memory over time, the arena, the largest tensors at the peak, time by
        /// operator and node. It refers to nothing outside itself.
        std::string html;
    };

    /// As `run`, with a profile.
    Profiled run_profiled(const Inputs &inputs, const RunOptions &options = {}) const {
        bridge::ProfileTexts texts;
        Outputs outputs = take(detail::call([&](bridge::Status &s) {
            return raw().run_profiled(inputs.raw(), detail::nanoseconds(options.timeout),
                                      options.cancel.raw(), options.ragged, texts, s);
        }));
        return {std::move(outputs), detail::to_string(texts.trace), detail::to_string(texts.json),
                detail::to_string(texts.html)};
    }

    /// Starts a run in the background. The future holds what `run` would return or throw; it
    /// may be dropped, which does not cancel the run.
    std::future<Outputs> run_async(const Inputs &inputs, const RunOptions &options = {}) const {
        auto promise = std::make_unique<Promise<bridge::Listener, bridge::Outputs, Outputs>>();
        std::future<Outputs> future = promise->promise.get_future();
        detail::call([&](bridge::Status &s) {
            raw().run_async(inputs.raw(), detail::nanoseconds(options.timeout),
                            options.cancel.raw(), options.ragged, std::move(promise), s);
        });
        return future;
    }

    /// Cancels every run of this session that is under way or waiting for its turn, and raises
    /// the flags that those runs were given.
    void cancel() const { raw().cancel(); }

    /// Cancels running calls, refuses new ones (INVALID_STATE) and gives the working memory
    /// back when the last has ended. Any number of times.
    void close() const {
        detail::call([&](bridge::Status &s) { raw().close(s); });
    }

    /// Gives the working memory back unless a run is under way; the next run allocates it
    /// again.
    void trim() const {
        detail::call([&](bridge::Status &s) { raw().trim(s); });
    }

    /// Most bytes that the last successful run had in use at once beyond the weights.
    std::uint64_t observed_bytes() const { return raw().observed_bytes(); }

private:
    template <class Listener, class Raw, class Result> struct Promise final : Listener {
        std::promise<Result> promise;
        void done(Raw *result, const bridge::Status &status) noexcept override {
            try {
                if (result == nullptr) {
                    throw detail::error(status);
                }
                promise.set_value(take(result));
            } catch (...) {
                promise.set_exception(std::current_exception());
            }
        }
    };

    static Outputs take(bridge::Outputs *raw) {
        const auto outputs = rust::Box<bridge::Outputs>::from_raw(raw);
        return Outputs(*outputs);
    }

    static TensorLists take(bridge::Lists *raw) {
        const auto lists = rust::Box<bridge::Lists>::from_raw(raw);
        TensorLists out;
        for (std::size_t i = 0; i < lists->len(); i++) {
            std::vector<Tensor> &tensors = out[detail::to_string(lists->name(i))];
            for (std::size_t k = 0; k < lists->count(i); k++) {
                tensors.push_back(Tensor(detail::own(
                    detail::call([&](bridge::Status &s) { return lists->tensor(i, k, s); }))));
            }
        }
        return out;
    }

    static rust::Box<bridge::Lists> given(const TensorLists &inputs) {
        auto out = bridge::lists_new();
        for (const auto &[name, tensors] : inputs) {
            out->add_list(detail::text(name, "input name"));
            for (const Tensor &tensor : tensors) {
                out->add(tensor.raw());
            }
        }
        return out;
    }

    const bridge::Session &raw() const { return detail::get(handle_, "session"); }
    std::shared_ptr<const bridge::Session> handle_;
};

/// A value of a `GraphBuilder`; a default-constructed one stands for an absent input.
class GraphValue {
public:
    GraphValue() = default;

private:
    friend class GraphBuilder;
    explicit GraphValue(std::shared_ptr<const bridge::ValueRef> handle)
        : handle_(std::move(handle)) {}
    std::shared_ptr<const bridge::ValueRef> handle_;
};

/// A graph under construction. Extents may be expressions over named symbols (`batch`,
/// `2*seq+1`), so one model serves every length. Shape errors are thrown by the call that
/// makes them.
class GraphBuilder {
public:
    explicit GraphBuilder(std::string_view name = "graph")
        : handle_(detail::own_mut(detail::call([&](bridge::Status &s) {
              return bridge::graph_new(detail::text(name, "name"), s);
          }))) {}

    /// Adds an input; each extent is a number or an expression over symbols. Throws
    /// INVALID_ARGUMENT for a malformed extent, INVALID_GRAPH if the name is taken.
    GraphValue input(std::string_view name, DType dtype, const std::vector<std::string> &shape) {
        const auto extents = detail::texts(shape, "extent");
        return value([&](bridge::Status &s) {
            return raw().input(detail::text(name, "name"), static_cast<std::int32_t>(dtype),
                               detail::slice(extents), s);
        });
    }

    /// Declares that a symbol lies between `min` and `max`, both included.
    void bound(std::string_view symbol, std::int64_t min, std::optional<std::int64_t> max = {}) {
        detail::call([&](bridge::Status &s) {
            raw().bound(detail::text(symbol, "symbol"), min, max.value_or(0), max.has_value(), s);
        });
    }

    /// Adds a constant. Throws INVALID_GRAPH if the name is taken.
    GraphValue constant(std::string_view name, const Tensor &tensor) {
        return value([&](bridge::Status &s) {
            return raw().constant(detail::text(name, "name"), tensor.raw(), s);
        });
    }

    /// Applies the operator `op` (an ONNX operator name) with attributes as text, such as
    /// `axis = 1, mode = "linear"`, and returns its `outputs` outputs. Throws UNSUPPORTED for an
    /// unknown operator or attribute, INVALID_ARGUMENT for a value of another builder, and
    /// what the operator's shape rule finds.
    std::vector<GraphValue> node_outputs(std::string_view op, std::size_t outputs,
                                         const std::vector<GraphValue> &inputs,
                                         std::string_view attrs = {}, std::string_view name = {}) {
        auto refs = bridge::refs_new();
        for (const GraphValue &input : inputs) {
            if (input.handle_ == nullptr) {
                refs->add_absent();
            } else {
                refs->add(*input.handle_);
            }
        }
        const auto results = detail::own(detail::call([&](bridge::Status &s) {
            return raw().node(detail::text(op, "op"), detail::text(name, "name"),
                              detail::text(attrs, "attrs"), *refs, outputs, s);
        }));
        std::vector<GraphValue> out;
        for (std::size_t i = 0; i < results->len(); i++) {
            out.push_back(value([&](bridge::Status &s) { return results->at(i, s); }));
        }
        return out;
    }

    /// As `node_outputs`, for the one output that most operators have.
    GraphValue node(std::string_view op, const std::vector<GraphValue> &inputs,
                    std::string_view attrs = {}, std::string_view name = {}) {
        return node_outputs(op, 1, inputs, attrs, name).at(0);
    }

    /// Names a value as an output. Throws INVALID_GRAPH if the name is taken.
    void output(std::string_view name, const GraphValue &value) {
        detail::call([&](bridge::Status &s) {
            raw().output(detail::text(name, "name"), detail::get(value.handle_, "graph value"), s);
        });
    }

    /// Type of a value as inferred, such as `f32[batch, 3]`.
    std::string type(const GraphValue &value) const {
        return detail::to_string(detail::call([&](bridge::Status &s) {
            return raw().type_text(detail::get(value.handle_, "graph value"), s);
        }));
    }

    /// Compiles the graph for a runtime. The builder may go on and build again. Throws
    /// INVALID_GRAPH if there is no output, and for its options as `Model::open`.
    Model build(const Runtime &runtime, const ModelOptions &options = {}) const {
        const auto how = Model::raw(options);
        return Model(detail::own(detail::call(
            [&](bridge::Status &s) { return raw().build(runtime.raw(), *how, s); })));
    }

private:
    template <class Call> static GraphValue value(Call &&call) {
        return GraphValue(detail::own(detail::call(std::forward<Call>(call))));
    }
    bridge::GraphBuilder &raw() const {
        detail::get(handle_, "graph builder");
        return *handle_;
    }
    std::shared_ptr<bridge::GraphBuilder> handle_;
};

/// A sentence encoder with its tokenizer. Immutable.
class Embedder {
public:
    /// Opens a directory with `config.json`, safetensors weights and `tokenizer.json`. Throws
    /// IO, INVALID_FILE, or UNSUPPORTED naming the file and field.
    static Embedder open(const Runtime &runtime, std::string_view directory) {
        return Embedder(detail::own(detail::call([&](bridge::Status &s) {
            return bridge::embedder_open(runtime.raw(), detail::text(directory, "directory"), s);
        })));
    }

    /// Length of a vector.
    std::size_t dim() const { return raw().dim(); }
    /// Most tokens of a text that are looked at; longer texts are truncated.
    std::size_t max_tokens() const { return raw().max_tokens(); }

    /// One vector for each text, row-major `[texts, dim]`, in order. The vector of a text has
    /// the same bits whatever else is in the call. Throws CANCELLED, TIMEOUT, BUDGET_EXCEEDED,
    /// OUT_OF_MEMORY.
    std::vector<float> embed(const std::vector<std::string> &texts,
                             const RunOptions &options = {}) const {
        const auto views = detail::texts(texts, "text");
        const auto vectors = detail::call([&](bridge::Status &s) {
            return raw().embed(detail::slice(views), detail::nanoseconds(options.timeout),
                               options.cancel.raw(), s);
        });
        return {vectors.begin(), vectors.end()};
    }

    /// As `embed`, on a thread of its own. The future waits for it when it is destroyed.
    std::future<std::vector<float>> embed_async(std::vector<std::string> texts,
                                                RunOptions options = {}) const {
        return std::async(std::launch::async,
                          [self = *this, texts = std::move(texts), options = std::move(options)] {
                              return self.embed(texts, options);
                          });
    }

    /// Token ids of a text, special tokens included, truncated to `max_tokens()`.
    std::vector<std::uint32_t> tokenize(std::string_view text) const {
        const auto ids = detail::call([&](bridge::Status &s) {
            return raw().tokenize(detail::text(text, "text"), s);
        });
        return {ids.begin(), ids.end()};
    }

private:
    explicit Embedder(std::shared_ptr<const bridge::Embedder> handle)
        : handle_(std::move(handle)) {}
    const bridge::Embedder &raw() const { return detail::get(handle_, "embedder"); }
    std::shared_ptr<const bridge::Embedder> handle_;
};

} // namespace deepseek

#endif
