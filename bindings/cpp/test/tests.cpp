// The C++ API, call by call.  tests REPOSITORY
#include "check.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <limits>
#include <map>
#include <set>
#include <thread>

namespace ds = deepseek;
using namespace std::chrono_literals;

namespace {

// y = x + x over f32[n, 3].
ds::Model doubling(const ds::Runtime &runtime) {
    ds::GraphBuilder graph("doubling");
    const auto x = graph.input("x", ds::DType::F32, {"n", "3"});
    graph.output("y", graph.node("Add", {x, x}, "", "twice"));
    return graph.build(runtime);
}

// Products of square matrices, one after another.
ds::Model products(const ds::Runtime &runtime, int count) {
    ds::GraphBuilder graph("products");
    auto x = graph.input("x", ds::DType::F32, {"n", "n"});
    for (int i = 0; i < count; i++) {
        x = graph.node("Softmax", {graph.node("MatMul", {x, x})}, "axis = 1");
    }
    graph.output("y", x);
    return graph.build(runtime);
}

// y = -x for rows x [batch, seq, 2], and z: a product, as many times as the scalar `rounds` says.
ds::Model looping(const ds::Runtime &runtime) {
    ds::GraphBuilder graph("looping");
    const auto x = graph.input("x", ds::DType::F32, {"batch", "seq", "2"});
    const auto rounds = graph.input("rounds", ds::DType::I64, {});
    const auto start = graph.constant("start", ds::Tensor::zeros(ds::DType::F32, {8, 8}));
    graph.output("z", graph.node("Loop", {rounds, {}, start},
                                 "carried = 1, body = graph \"body\" { input %i: i64[] "
                                 "input %go: bool[] input %v: f32[8, 8] %w = MatMul(%v, %v) "
                                 "output \"go\" = %go output \"w\" = %w }"));
    graph.output("y", graph.node("Neg", {x}));
    return graph.build(runtime);
}

// Rounds of a run that never ends unless it is cut short, on a fast or a slow machine.
constexpr std::int64_t endless = std::numeric_limits<std::int64_t>::max();

ds::Inputs loop_inputs(std::int64_t rounds) {
    return {{"x", ds::Tensor::of<float>({1, 1, 2}, {1, 2})},
            {"rounds", ds::Tensor::of<std::int64_t>({}, {rounds})}};
}

ds::TensorLists loop_lists(std::int64_t rounds) {
    return {{"x", {ds::Tensor::of<float>({2, 2}, {1, 2, 3, 4}), ds::Tensor::of<float>({1, 2}, {5, 6})}},
            {"rounds", {ds::Tensor::of<std::int64_t>({}, {rounds})}}};
}

// Returns when a run has its working memory.
void wait_for_run(const ds::Runtime &runtime) {
    while (runtime.reserved_bytes() == 0) {
        std::this_thread::sleep_for(1ms);
    }
}

void test_names_and_numbers() {
    // The enums are those of the library, whole: names and numbers as its C header has them.
    const std::map<ds::DType, std::string> known_dtypes = {
        {ds::DType::F32, "f32"},           {ds::DType::F64, "f64"},
        {ds::DType::F16, "f16"},           {ds::DType::BF16, "bf16"},
        {ds::DType::I8, "i8"},             {ds::DType::I16, "i16"},
        {ds::DType::I32, "i32"},           {ds::DType::I64, "i64"},
        {ds::DType::U8, "u8"},             {ds::DType::U16, "u16"},
        {ds::DType::U32, "u32"},           {ds::DType::U64, "u64"},
        {ds::DType::Bool, "bool"},         {ds::DType::String, "string"},
        {ds::DType::I4, "i4"},             {ds::DType::U4, "u4"},
        {ds::DType::I2, "i2"},             {ds::DType::U2, "u2"},
        {ds::DType::F8E4M3FN, "f8e4m3fn"}, {ds::DType::F8E4M3FNUZ, "f8e4m3fnuz"},
        {ds::DType::F8E5M2, "f8e5m2"},     {ds::DType::F8E5M2FNUZ, "f8e5m2fnuz"},
        {ds::DType::F8E8M0, "f8e8m0"},     {ds::DType::F4E2M1, "f4e2m1"},
    };
    CHECK_EQ(ds::dtypes().size(), known_dtypes.size());
    for (const ds::DType dtype : ds::dtypes()) {
        const auto known = known_dtypes.find(dtype);
        CHECK(known != known_dtypes.end() && known->second == ds::name(dtype));
        CHECK(ds::parse_dtype(ds::name(dtype)) == dtype);
    }
    CHECK(ds::parse_dtype("float32") == ds::DType::F32);
    CHECK_EQ(ds::bits(ds::DType::U4), 4u);
    CHECK_THROWS(ds::parse_dtype("f33"), InvalidArgument, "'f33'");

    const std::map<ds::Code, std::string> known_codes = {
        {ds::Code::InvalidArgument, "INVALID_ARGUMENT"},
        {ds::Code::ShapeMismatch, "SHAPE_MISMATCH"},
        {ds::Code::DTypeMismatch, "DTYPE_MISMATCH"},
        {ds::Code::NotFound, "NOT_FOUND"},
        {ds::Code::InvalidState, "INVALID_STATE"},
        {ds::Code::BufferTooSmall, "BUFFER_TOO_SMALL"},
        {ds::Code::Io, "IO"},
        {ds::Code::InvalidFile, "INVALID_FILE"},
        {ds::Code::InvalidGraph, "INVALID_GRAPH"},
        {ds::Code::Unsupported, "UNSUPPORTED"},
        {ds::Code::UnsupportedOption, "UNSUPPORTED_OPTION"},
        {ds::Code::OutOfMemory, "OUT_OF_MEMORY"},
        {ds::Code::BudgetExceeded, "BUDGET_EXCEEDED"},
        {ds::Code::Device, "DEVICE"},
        {ds::Code::Cancelled, "CANCELLED"},
        {ds::Code::Timeout, "TIMEOUT"},
        {ds::Code::Internal, "INTERNAL"},
        {ds::Code::Panic, "PANIC"},
        {ds::Code::Poisoned, "POISONED"},
    };
    CHECK_EQ(ds::codes().size(), known_codes.size());
    for (const ds::Code code : ds::codes()) {
        const auto known = known_codes.find(code);
        CHECK(known != known_codes.end() && known->second == ds::name(code));
    }
    CHECK_EQ(ds::version(), std::string(EXPECTED_VERSION));
}

void test_tensors() {
    const auto t = ds::Tensor::of<float>({2, 3}, {1, 2, 3, 4, 5, 6});
    CHECK(t.dtype() == ds::DType::F32 && t.shape() == ds::Shape({2, 3}));
    CHECK_EQ(t.size(), 6u);
    CHECK_EQ(t.size_bytes(), 24u);
    CHECK_EQ(t.rank(), 2u);
    CHECK_EQ(t.data<float>()[4], 5.0f);
    CHECK_THROWS(t.data<double>(), DTypeMismatch, "f64", "f32");
    CHECK_THROWS(ds::Tensor::of<float>({2}, {1, 2, 3}), ShapeMismatch, "8 bytes", "12");
    CHECK_THROWS(t.item<float>(), ShapeMismatch, "6");
    CHECK_THROWS(t.string(0), DTypeMismatch, "f32");
    CHECK_THROWS(t.to_strings(), DTypeMismatch, "f32");
    CHECK_THROWS(ds::Tensor::zeros(static_cast<ds::DType>(99), {1}), InvalidArgument, "99");
    CHECK_THROWS(ds::Tensor::zeros(ds::DType::F32, {SIZE_MAX, SIZE_MAX}), ShapeMismatch);
    CHECK_THROWS(ds::Tensor::from_bytes(ds::DType::F32, {1}, nullptr, 4), InvalidArgument, "null");

    // Copies share; the elements outlive the tensor they came from.
    auto copy = std::make_unique<ds::Tensor>(t);
    CHECK_EQ(static_cast<const void *>(copy->data<float>().data()),
             static_cast<const void *>(t.data<float>().data()));

    // Adopted vectors are not copied, and let go exactly when nobody needs them.
    std::vector<std::int64_t> values = {7, 8, 9};
    const void *address = values.data();
    const auto adopted = ds::Tensor::adopt({3}, std::move(values));
    CHECK_EQ(static_cast<const void *>(adopted.data<std::int64_t>().data()), address);
    CHECK_THROWS(ds::Tensor::adopt({4}, std::vector<float>{1, 2, 3}), ShapeMismatch, "16", "12");
    static const float lent[2] = {1, 2};
    bool released = false;
    {
        const std::shared_ptr<const void> owner(lent, [&](const void *) { released = true; });
        auto wrapped = ds::Tensor::wrap(ds::DType::F32, {2}, lent, sizeof lent, owner);
        CHECK_EQ(static_cast<const void *>(wrapped.data<float>().data()),
                 static_cast<const void *>(lent));
        const auto another = wrapped;
        wrapped = t;
        CHECK(!released);
    }
    CHECK(released);

    // Rank 0, no elements, every element type.
    CHECK_EQ(ds::Tensor::scalar(2.5).item<double>(), 2.5);
    CHECK(ds::Tensor::scalar(2.5).shape().empty());
    CHECK(ds::Tensor::of<float>({0, 4}, {}).to_vector<float>().empty());
    CHECK(ds::Tensor::adopt({0}, std::vector<float>{}).size() == 0);
    for (const ds::DType dtype : ds::dtypes()) {
        const auto zeros = ds::Tensor::zeros(dtype, {3});
        CHECK(zeros.dtype() == dtype && zeros.size() == 3);
        CHECK_EQ(zeros.size_bytes(), (3 * ds::bits(dtype) + 7) / 8);
        if (dtype != ds::DType::String) {
            std::vector<std::uint8_t> bytes(zeros.size_bytes(), 1);
            const auto again = ds::Tensor::from_bytes(dtype, {3}, bytes.data(), bytes.size());
            CHECK(std::memcmp(again.bytes().data(), bytes.data(), bytes.size()) == 0);
        }
    }
    CHECK_EQ(ds::Tensor::scalar<long long>(-1).item<std::int64_t>(), -1);
    CHECK_EQ(ds::Tensor::of<std::uint16_t>({1}, {65535}).item<std::uint16_t>(), 65535);
    CHECK_EQ(ds::Tensor::scalar(ds::Float16{0x3c00}).item<ds::Float16>().bits, 0x3c00);
    CHECK(ds::Tensor::scalar(ds::BFloat16{1}).dtype() == ds::DType::BF16);
    const std::array<bool, 2> flags = {true, false};
    const auto booleans = ds::Tensor::of<bool>({2}, ds::Span<const bool>(flags));
    CHECK(booleans.data<bool>()[0] && !booleans.data<bool>()[1]);

    const auto text = ds::Tensor::strings({2}, {"naïve", "日本語"});
    CHECK_EQ(text.string(1), "日本語");
    CHECK(text.to_strings() == std::vector<std::string>({"naïve", "日本語"}));
    CHECK_THROWS(text.string(2), InvalidArgument, "2");
    CHECK_THROWS(ds::Tensor::strings({1}, {"\xff"}), InvalidArgument, "UTF-8");
    CHECK_THROWS(ds::Tensor::strings({3}, {"a"}), ShapeMismatch, "3", "1");
    CHECK_EQ(ds::Tensor::strings({1}, {std::string("a\0b", 3)}).to_strings()[0].size(), 3u);

    // A tensor that was moved from says so.
    ds::Tensor moved = t;
    const ds::Tensor target = std::move(moved);
    CHECK_THROWS(moved.size(), InvalidState, "tensor", "moved");
    CHECK_EQ(target.size(), 6u);
}

void test_models(const ds::Runtime &runtime) {
    const auto model = doubling(runtime);
    const auto inputs = model.inputs();
    CHECK_EQ(inputs.size(), 1u);
    CHECK_EQ(inputs[0].name, "x");
    CHECK_EQ(inputs[0].type, "f32[n, 3]");
    CHECK(inputs[0].dtype == ds::DType::F32);
    CHECK(inputs[0].shape == std::vector<std::int64_t>({-1, 3}));
    CHECK(inputs[0].extents == std::vector<std::string>({"n", "3"}));
    CHECK_EQ(model.outputs().at(0).name, "y");
    CHECK(model.summary_json().find("\"doubling\"") != std::string::npos);
    CHECK(model.memory_formula().find('n') != std::string::npos);

    const auto report = model.plan_memory({{"n", 4}});
    CHECK_EQ(report.planned_bytes, report.arena_bytes + report.output_bytes);
    CHECK(report.output_bytes >= 48);
    CHECK_EQ(model.plan_memory_for_shapes({{"x", {4, 3}}}).planned_bytes, report.planned_bytes);
    CHECK_THROWS(model.plan_memory({{"m", 4}}), NotFound, "'m'", "'n'");
    CHECK_THROWS(model.plan_memory({}), InvalidArgument, "n");
    CHECK_THROWS(model.plan_memory_for_shapes({{"z", {4}}}), NotFound, "'z'", "'x'");
    CHECK_THROWS(model.plan_memory_for_shapes({{"x", {4}}}), ShapeMismatch, "'x'");

    // A saved model is the model.
    const std::string file = "saved.deepseek";
    model.save(file);
    const auto saved = ds::Model::open(runtime, file);
    CHECK_EQ(saved.summary_json(), model.summary_json());
    CHECK_EQ(std::remove(file.c_str()), 0);
    CHECK_THROWS(model.save("model.onnx"), InvalidArgument, ".deepseek");
    CHECK_THROWS(model.save("/no/such/place/x.deepseek"), Io, "/no/such/place/x.deepseek");

    CHECK_THROWS(ds::Model::open(runtime, "/no/such/model.onnx"), Io, "/no/such/model.onnx");
    CHECK_THROWS(ds::Model::open(runtime, "\xff"), InvalidArgument, "path", "UTF-8");
    CHECK_THROWS(ds::Model::from_bytes(runtime, "not a model", 11), InvalidFile);
    CHECK_THROWS(ds::Model::from_bytes(runtime, nullptr, 1), InvalidArgument, "null");
    CHECK_THROWS(ds::Runtime({2000, 0, ""}), InvalidArgument, "2000");
    CHECK_THROWS(ds::Runtime({1, 0, "sse9"}), InvalidArgument, "'sse9'", "avx2");
    const ds::Runtime one({1, 0, "scalar"});
    CHECK_EQ(one.threads(), 1u);
    CHECK_EQ(one.isa(), "scalar");

    // A runtime without room for the run.
    const auto small = products(ds::Runtime({1, 1024, ""}), 3);
    const auto big = ds::Tensor::zeros(ds::DType::F32, {64, 64});
    CHECK_THROWS(ds::Session(small).run({{"x", big}}), BudgetExceeded);
}

void test_runs(const ds::Runtime &runtime) {
    const ds::Session session(doubling(runtime));
    const auto x = ds::Tensor::of<float>({2, 3}, {1, 2, 3, 4, 5, 6});
    const auto outputs = session.run({{"x", x}});
    CHECK(outputs.tensor("y").to_vector<float>() == std::vector<float>({2, 4, 6, 8, 10, 12}));
    CHECK_EQ(outputs["y"].type(), "f32[2, 3]");
    CHECK_THROWS(outputs["z"], NotFound, "'z'", "'y'");
    CHECK_THROWS(outputs["y"].items(), DTypeMismatch);
    CHECK(session.observed_bytes() >= 24);
    session.trim();
    const ds::Runtime other;
    const ds::Session holding(products(other, 3));
    holding.run({{"x", ds::Tensor::zeros(ds::DType::F32, {64, 64})}});
    CHECK(other.reserved_bytes() >= 64 * 64 * 4);
    holding.trim();
    CHECK_EQ(other.reserved_bytes(), 0u);
    CHECK(ds::heap_bytes() >= 48);

    const std::map<std::string, ds::Tensor> map = {{"x", x}};
    CHECK_EQ(session.run(map).size(), 1u);
    CHECK_THROWS(session.run({}), InvalidArgument, "'x'");
    CHECK_THROWS(session.run({{"q", x}}), NotFound, "'q'", "'x'");
    CHECK_THROWS(session.run({{"x", x}, {"x", x}}), InvalidArgument, "x");
    CHECK_THROWS(session.run({{"x", ds::Tensor::zeros(ds::DType::I32, {1, 3})}}), DTypeMismatch,
                 "'x'", "f32", "i32");
    CHECK_THROWS(session.run({{"x", ds::Tensor::zeros(ds::DType::F32, {1, 4})}}), ShapeMismatch,
                 "'x'", "4");
    CHECK_EQ(session.run({{"x", ds::Tensor::zeros(ds::DType::F32, {0, 3})}}).tensor("y").size(), 0u);

    const auto profiled = session.run_profiled({{"x", x}});
    CHECK(profiled.trace.find("traceEvents") != std::string::npos);
    CHECK(profiled.trace.find("Add") != std::string::npos);
    CHECK(profiled.json.find("\"planned_bytes\"") != std::string::npos);
    CHECK(profiled.json.find("twice") != std::string::npos);
    CHECK(profiled.html.rfind("<!DOCTYPE html>", 0) == 0);
    CHECK(profiled.html.find("twice") != std::string::npos);
    CHECK_EQ(profiled.outputs.size(), 1u);

    CHECK_EQ(session.run_async({{"x", x}}).get().tensor("y").to_vector<float>().front(), 2.0f);
    auto failing = session.run_async({{"q", x}});
    CHECK_THROWS(failing.get(), NotFound, "'q'");
    session.run_async({{"x", x}}); // dropped: the run goes on and nobody hears of it

    // A session lives while a run needs it, and its copies are the same session.
    std::future<ds::Outputs> last;
    {
        const ds::Session scoped(doubling(runtime));
        last = scoped.run_async({{"x", x}});
    }
    CHECK_EQ(last.get().size(), 1u);

    const ds::Session copy = session;
    copy.close();
    session.close();
    CHECK_THROWS(session.run({{"x", x}}), InvalidState, "closed");
    CHECK_THROWS(session.run_async({{"x", x}}), InvalidState, "closed");
    ds::Session moved = session;
    const ds::Session target = std::move(moved);
    CHECK_THROWS(moved.run({{"x", x}}), InvalidState, "session");
}

void test_stopping() {
    const ds::Runtime runtime;
    const auto model = looping(runtime);
    const auto inputs = loop_inputs(endless);
    const auto lists = loop_lists(endless);
    const ds::Session session(model);
    CHECK_EQ(session.run(loop_inputs(2)).tensor("y").to_vector<float>().front(), -1.0f);
    session.trim();

    ds::RunOptions options;
    options.timeout = 5ms;
    CHECK_THROWS(session.run(inputs, options), Timeout);
    CHECK_THROWS(session.run_ragged(lists, options), Timeout);
    CHECK_THROWS(session.run_async(inputs, options).get(), Timeout);
    CHECK_THROWS(session.run_ragged_async(lists, options).get(), Timeout);
    options.timeout = -1s;
    CHECK_THROWS(session.run(inputs, options), Timeout);

    options = {};
    options.cancel.cancel();
    CHECK(options.cancel.is_cancelled());
    CHECK_THROWS(session.run(inputs, options), Cancelled);

    // A flag, and the session: also right after the start, whether or not a run has got anywhere.
    options = {};
    auto plain = session.run_async(inputs, options);
    auto ragged = session.run_ragged_async(lists, options);
    CHECK(plain.wait_for(1ms) == std::future_status::timeout);
    CHECK(ragged.wait_for(1ms) == std::future_status::timeout);
    options.cancel.cancel();
    CHECK_THROWS(plain.get(), Cancelled);
    CHECK_THROWS(ragged.get(), Cancelled);
    plain = session.run_async(inputs);
    ragged = session.run_ragged_async(lists);
    session.cancel();
    CHECK_THROWS(plain.get(), Cancelled);
    CHECK_THROWS(ragged.get(), Cancelled);

    // Close from another thread while a run is under way.
    const ds::Session closing(model);
    session.trim();
    std::thread closer([&] {
        wait_for_run(runtime);
        closing.close();
    });
    CHECK_THROWS(closing.run(inputs), Cancelled);
    closer.join();
    CHECK_THROWS(closing.run_ragged(lists), InvalidState, "closed");
    CHECK_THROWS(closing.run_ragged_async(lists), InvalidState, "closed");

    // A future that is dropped waits for nothing, and its run goes on until it is stopped.
    session.run_async(inputs);
    session.run_ragged_async(lists);
    session.cancel();
}

void test_budgets(const ds::Runtime &runtime, const std::string &repository) {
    // Wide between: what a budget cuts into blocks of rows.
    const auto wide = [&](const ds::ModelOptions &options) {
        ds::GraphBuilder graph("wide");
        auto y = graph.input("x", ds::DType::F32, {"rows", "16"});
        const auto w = graph.constant("w", ds::Tensor::zeros(ds::DType::F32, {16, 1024}));
        const auto v = graph.constant("v", ds::Tensor::zeros(ds::DType::F32, {1024, 16}));
        y = graph.node("MatMul", {graph.node("Relu", {graph.node("MatMul", {y, w})}), v});
        graph.output("y", y);
        return graph.build(runtime, options);
    };
    const auto planned = [](const ds::Model &model) {
        return model.plan_memory({{"rows", 300}}).planned_bytes;
    };
    const auto run = [](const ds::Model &model, std::size_t rows) {
        return ds::Session(model).run({{"x", ds::Tensor::zeros(ds::DType::F32, {rows, 16})}});
    };
    ds::ModelOptions options;
    options.whole = true;
    const auto whole = planned(wide(options));
    options.shapes = {{"x", {300, 16}}};
    options.memory_budget_bytes = whole - 1;
    const auto cut = wide(options);
    CHECK(planned(cut) < whole);
    CHECK_EQ(run(cut, 300).size(), 1u);
    CHECK_THROWS(run(cut, 30000), BudgetExceeded, "memory_budget_bytes");

    // The least that can be met is named, and can be met.
    options.memory_budget_bytes = 1;
    std::uint64_t least = 0;
    try {
        wide(options);
    } catch (const ds::Error &e) {
        const std::string text = "raise it to ";
        least = std::stoull(e.message().substr(e.message().find(text) + text.size()));
    }
    CHECK(least > 300 * 16 * 4 && least <= planned(cut));
    options.memory_budget_bytes = least - 1;
    CHECK_THROWS(wide(options), BudgetExceeded, "raise it to " + std::to_string(least));
    options.memory_budget_bytes = least;
    CHECK_EQ(planned(wide(options)), least);

    options.shapes = {{"q", {300, 16}}};
    CHECK_THROWS(wide(options), NotFound, "'q'", "'x'");
    options.shapes = {{"x", {16}}};
    CHECK_THROWS(wide(options), ShapeMismatch, "f32[rows, 16]", "[16]");
    options = {};
    CHECK_THROWS(wide(options).plan_memory_within_bounds(), InvalidArgument, "'rows'");
    options.bounds["rows"] = {1, 300};
    const auto bounded = wide(options);
    CHECK_EQ(bounded.plan_memory_within_bounds().planned_bytes, planned(bounded));
    CHECK_THROWS(run(bounded, 301), ShapeMismatch, "'x'", "rows is 301", "1 to 300");
    options.bounds["rows"] = {-1, 300};
    CHECK_THROWS(wide(options), InvalidArgument, "'rows'");

    options.bounds.clear();
    options.shapes = {{"input_ids", {1, 7}}};
    options.memory_budget_bytes = 64;
    const auto encoder = repository + "/tests/golden/hf/bert-mean";
    CHECK_THROWS(ds::Model::open(runtime, encoder, options), BudgetExceeded,
                 "memory_budget_bytes is 64");
    CHECK_THROWS(ds::Model::from_bytes(runtime, "?", 1, options), InvalidFile);
}

void test_precision(const ds::Runtime &runtime, const std::string &repository) {
    const auto digits = repository + "/tests/golden/digits/digits.onnx";
    ds::ModelOptions options;
    options.precision = "int8";
    options.shapes = {{"x", {4, 1, 8, 8}}};
    const auto report = ds::Model::open(runtime, digits, options).precision_report().value();
    CHECK(report.find("\"requested\":\"int8\"") != std::string::npos);
    CHECK(report.find("\"synthetic\":true") != std::string::npos);
    CHECK(report.find("\"precision\":\"int8\"") != std::string::npos);
    options.precision = "f32";
    CHECK(!ds::Model::open(runtime, digits, options).precision_report());
    options.precision = "int7";
    CHECK_THROWS(ds::Model::open(runtime, digits, options), InvalidArgument, "'int7'",
                 "f32, bf16, f16, int8 or auto");
    options.precision = "int8";
    options.metric = "bleu";
    CHECK_THROWS(ds::Model::open(runtime, digits, options), InvalidArgument, "cosine or top1");
    options.metric = "top1";
    options.accuracy_budget = 0.5;
    CHECK_THROWS(ds::Model::open(runtime, digits, options), InvalidArgument, "0.95 to 1");
    options.accuracy_budget = 0;
    options.calibration = "/no/such/place.npz";
    CHECK_THROWS(ds::Model::open(runtime, digits, options), Io, "/no/such/place.npz");
    options.precision = "";
    CHECK_THROWS(ds::Model::open(runtime, digits, options), InvalidArgument, "needs a precision");
}

void test_threads(const ds::Runtime &runtime) {
    const auto model = doubling(runtime);
    const ds::Session shared(model);
    std::atomic<int> right = 0;
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; t++) {
        threads.emplace_back([&, t] {
            for (int i = 0; i < 50; i++) {
                const float v = static_cast<float>(t * 50 + i);
                const auto y = shared.run({{"x", ds::Tensor::of<float>({1, 3}, {v, v, v})}});
                right += y.tensor("y").to_vector<float>() == std::vector<float>(3, 2 * v);
            }
        });
    }
    for (std::thread &thread : threads) {
        thread.join();
    }
    CHECK_EQ(right.load(), 200);
}

void test_graphs(const ds::Runtime &runtime) {
    ds::GraphBuilder graph;
    const auto x = graph.input("x", ds::DType::F32, {"n", "4"});
    CHECK_EQ(graph.type(x), "f32[n, 4]");
    CHECK_THROWS(graph.input("x", ds::DType::F32, {}), InvalidGraph, "x");
    CHECK_THROWS(graph.input("w", ds::DType::F32, {"2**"}), InvalidArgument, "2**");
    CHECK_THROWS(graph.node("Teleport", {x}), Unsupported, "Teleport");
    CHECK_THROWS(graph.node("Relu", {x}, "colour = 3"), Unsupported, "colour");
    CHECK_THROWS(graph.node("Concat", {x}, "axis = = 1"), InvalidArgument);
    CHECK_THROWS(graph.build(runtime), InvalidGraph, "no output");
    CHECK_THROWS(graph.bound("n", 9, 4), InvalidArgument);
    graph.bound("n", 1, 8);
    ds::GraphBuilder other;
    CHECK_THROWS(other.node("Relu", {x}), InvalidArgument, "another");
    CHECK_THROWS(graph.output("y", ds::GraphValue()), InvalidState, "graph value");

    const auto w = graph.constant("w", ds::Tensor::of<float>({4}, {1, 2, 3, 4}));
    const auto halves = graph.node_outputs("Split", 2, {graph.node("Mul", {x, w})},
                                           "axis = 1, num_outputs = 2");
    CHECK_EQ(halves.size(), 2u);
    // An absent optional input: Clip without its lower bound.
    const auto most = graph.constant("most", ds::Tensor::scalar(3.5f));
    graph.output("low", graph.node("Clip", {halves[0], ds::GraphValue(), most}));
    graph.output("high", halves[1]);
    CHECK_THROWS(graph.output("high", halves[1]), InvalidGraph, "high");
    const auto ones = ds::Tensor::of<float>({1, 4}, {1, 3, 1, 1});
    const auto outputs = ds::Session(graph.build(runtime)).run({{"x", ones}});
    CHECK(outputs.tensor("low").to_vector<float>() == std::vector<float>({1, 3.5}));
    CHECK(outputs.tensor("high").to_vector<float>() == std::vector<float>({3, 4}));
    CHECK_THROWS(
        ds::Session(graph.build(runtime)).run({{"x", ds::Tensor::zeros(ds::DType::F32, {9, 4})}}),
        ShapeMismatch, "9", "8");

    // What goes wrong inside a node says which.
    ds::GraphBuilder gather;
    const auto data = gather.input("data", ds::DType::F32, {"2"});
    const auto index = gather.input("index", ds::DType::I64, {"1"});
    gather.output("y", gather.node("Gather", {data, index}, "axis = 0", "pick"));
    try {
        ds::Session(gather.build(runtime))
            .run({{"data", ds::Tensor::of<float>({2}, {1, 2})},
                  {"index", ds::Tensor::of<std::int64_t>({1}, {5})}});
        CHECK(!"an index out of range");
    } catch (const ds::Error &e) {
        CHECK_EQ(e.node(), "pick");
        CHECK(std::string(e.what()).find("node 'pick'") != std::string::npos);
        CHECK_EQ(static_cast<int>(e.code()), 100);
    }

    // Outputs that are sequences.
    ds::GraphBuilder list;
    const auto item = list.input("x", ds::DType::I64, {"2"});
    list.output("s", list.node("SequenceConstruct", {item, item}));
    const auto sequence = ds::Session(list.build(runtime))
                              .run({{"x", ds::Tensor::of<std::int64_t>({2}, {3, 4})}});
    CHECK(!sequence["s"].is_tensor());
    CHECK_THROWS(sequence.tensor("s"), DTypeMismatch, "seq");
    CHECK_EQ(sequence["s"].items().size(), 2u);
    CHECK(sequence["s"].items()[1].tensor().to_vector<std::int64_t>() ==
          std::vector<std::int64_t>({3, 4}));
}

// Lengths of the sequences of the tests below, and their tokens.
const std::vector<std::size_t> lengths = {4, 1, 7};
std::vector<std::int64_t> tokens(std::size_t sequence) {
    std::vector<std::int64_t> out;
    for (std::size_t i = 0; i < lengths[sequence]; i++) {
        out.push_back(static_cast<std::int64_t>(5 + (3 * sequence + 7 * i) % 20));
    }
    return out;
}

// The same bits, whatever the shapes.
bool same_bits(const ds::Tensor &a, const ds::Tensor &b) {
    return a.size_bytes() == b.size_bytes() &&
           std::memcmp(a.bytes().data(), b.bytes().data(), a.size_bytes()) == 0;
}

void test_ragged(const ds::Runtime &runtime, const std::string &repository) {
    const auto model = ds::Model::open(runtime, repository + "/tests/golden/hf/bert-mean");
    model.check_ragged();
    const ds::Session session(model);

    // Each sequence alone, by the plain run.
    std::vector<ds::Outputs> alone;
    ds::TensorLists lists;
    for (std::size_t s = 0; s < lengths.size(); s++) {
        const std::size_t n = lengths[s];
        const std::vector<std::int64_t> zeros(n, 0), ones(n, 1);
        alone.push_back(session.run(
            {{"input_ids", ds::Tensor::adopt({1, n}, tokens(s))},
             {"token_type_ids", ds::Tensor::adopt({1, n}, std::vector<std::int64_t>(zeros))},
             {"attention_mask", ds::Tensor::adopt({1, n}, std::vector<std::int64_t>(ones))}}));
        lists["input_ids"].push_back(ds::Tensor::adopt({n}, tokens(s)));
        lists["token_type_ids"].push_back(ds::Tensor::zeros(ds::DType::I64, {n}));
    }

    // Together, packed: the same bits, without the batch axis.
    const auto packed = session.run_ragged(lists);
    const auto later = session.run_ragged_async(lists).get();
    for (const std::string name : {"last_hidden_state", "sentence_embedding"}) {
        CHECK_EQ(packed.at(name).size(), lengths.size());
        for (std::size_t s = 0; s < lengths.size(); s++) {
            const auto want = alone[s].tensor(name);
            CHECK(same_bits(packed.at(name)[s], want) && same_bits(later.at(name)[s], want));
            ds::Shape shape = want.shape();
            shape.erase(shape.begin());
            CHECK(packed.at(name)[s].shape() == shape);
        }
    }

    // A padded batch with its mask.
    const std::size_t batch = lengths.size(), longest = 7;
    std::vector<std::int64_t> ids(batch * longest, 0), mask(batch * longest, 0);
    for (std::size_t s = 0; s < batch; s++) {
        const auto row = tokens(s);
        std::copy(row.begin(), row.end(), ids.begin() + static_cast<std::ptrdiff_t>(s * longest));
        std::fill_n(mask.begin() + static_cast<std::ptrdiff_t>(s * longest), lengths[s], 1);
    }
    const ds::Inputs padded = {
        {"input_ids", ds::Tensor::adopt({batch, longest}, std::move(ids))},
        {"token_type_ids", ds::Tensor::zeros(ds::DType::I64, {batch, longest})},
        {"attention_mask", ds::Tensor::adopt({batch, longest}, std::move(mask))}};
    ds::RunOptions ragged;
    ragged.ragged = true;
    for (const auto &outputs :
         {session.run(padded, ragged), session.run_profiled(padded, ragged).outputs,
          session.run_async(padded, ragged).get()}) {
        const auto hidden = outputs.tensor("last_hidden_state");
        CHECK(hidden.rank() == 3 && hidden.shape()[0] == batch && hidden.shape()[1] == longest);
        const std::size_t row = longest * hidden.shape()[2];
        for (std::size_t s = 0; s < batch; s++) {
            const auto want = alone[s].tensor("last_hidden_state");
            const float *got = hidden.data<float>().data() + s * row;
            CHECK(std::memcmp(got, want.bytes().data(), want.size_bytes()) == 0);
            CHECK(std::all_of(got + want.size(), got + row, [](float v) { return v == 0; }));
        }
    }

    // What contradicts itself names both sides; what is missing is named.
    auto wrong = lists;
    std::swap(wrong["token_type_ids"][0], wrong["token_type_ids"][1]);
    CHECK_THROWS(session.run_ragged(wrong), ShapeMismatch, "'token_type_ids' has 1 rows",
                 "'input_ids' has 4");
    wrong["token_type_ids"].pop_back();
    CHECK_THROWS(session.run_ragged(wrong), ShapeMismatch, "2 sequences", "3");
    wrong.erase("token_type_ids");
    CHECK_THROWS(session.run_ragged(wrong), InvalidArgument, "'token_type_ids' is missing");
    CHECK_THROWS(session.run_ragged({{"words", lists["input_ids"]}}), NotFound, "'words'");
    CHECK_THROWS(session.run_ragged({}), InvalidArgument);

    // Ended early.
    ds::RunOptions early;
    early.timeout = 0ns;
    CHECK_THROWS(session.run_ragged(lists, early), Timeout);
    early = {};
    early.cancel.cancel();
    CHECK_THROWS(session.run_ragged(lists, early), Cancelled);
    CHECK_THROWS(session.run_ragged_async(lists, early).get(), Cancelled);

    const auto one = model.plan_memory_for_lengths({lengths[0]});
    const auto all = model.plan_memory_for_lengths(lengths);
    CHECK(one.planned_bytes > 0 && one.planned_bytes < all.planned_bytes);
    session.run_ragged(lists);
    CHECK(session.observed_bytes() <= all.planned_bytes);
    CHECK_THROWS(model.plan_memory_for_lengths({3, 0}), InvalidArgument, "sequence 1 is empty");
    CHECK_THROWS(model.plan_memory_for_lengths({}), InvalidArgument);

    // A model that mixes the rows of sequences says where.
    ds::GraphBuilder graph("mixer");
    const auto x = graph.input("x", ds::DType::F32, {"batch", "seq", "2"});
    graph.output("y", graph.node("Softmax", {x}, "axis = 1", "over_tokens"));
    const auto mixer = graph.build(runtime);
    const ds::Session mixing(mixer);
    const auto rows = ds::Tensor::zeros(ds::DType::F32, {3, 2});
    CHECK_THROWS(mixer.check_ragged(), Unsupported, "over_tokens");
    CHECK_THROWS(mixer.plan_memory_for_lengths({3}), Unsupported, "over_tokens");
    CHECK_THROWS(mixing.run_ragged({{"x", {rows}}}), Unsupported, "over_tokens");
    CHECK_THROWS(mixing.run({{"x", ds::Tensor::zeros(ds::DType::F32, {1, 3, 2})}}, ragged),
                 Unsupported, "over_tokens");

    session.close();
    CHECK_THROWS(session.run_ragged(lists), InvalidState, "closed");
}

void test_embedder(const ds::Runtime &runtime, const std::string &repository) {
    const auto embedder = ds::Embedder::open(runtime, repository + "/tests/golden/hf/bert-mean");
    const std::vector<std::string> texts = {"a naïve café", "", "日本語 🙂"};
    const auto vectors = embedder.embed(texts);
    CHECK_EQ(vectors.size(), texts.size() * embedder.dim());
    for (std::size_t i = 0; i < texts.size(); i++) {
        const auto alone = embedder.embed({texts[i]});
        CHECK(std::memcmp(alone.data(), &vectors[i * embedder.dim()],
                          embedder.dim() * sizeof(float)) == 0);
    }
    CHECK(embedder.embed_async(texts).get() == vectors);
    CHECK(embedder.embed({}).empty());
    const auto ids = embedder.tokenize("a naïve café");
    CHECK(ids.size() > 2 && ids.size() <= embedder.max_tokens());
    CHECK_THROWS(embedder.tokenize("\xff"), InvalidArgument, "UTF-8");
    CHECK_THROWS(embedder.embed({"\xff"}), InvalidArgument, "UTF-8");
    ds::RunOptions options;
    options.cancel.cancel();
    CHECK_THROWS(embedder.embed(texts, options), Cancelled);
    CHECK_THROWS(embedder.embed_async(texts, options).get(), Cancelled);
    CHECK_THROWS(ds::Embedder::open(runtime, repository + "/tests"), NotFound,
                 "config.json");
}

// Resident bytes of this process.
std::size_t resident() {
    std::size_t pages = 0, skipped = 0;
    std::ifstream("/proc/self/statm") >> skipped >> pages;
    return pages * 4096;
}

void test_leaks(const ds::Runtime &runtime) {
    const auto once = [&] {
        const auto model = doubling(runtime);
        const ds::Session session(model);
        const auto x = ds::Tensor::adopt({2000, 3}, std::vector<float>(6000, 1.0f));
        const auto outputs = session.run({{"x", x}});
        try {
            session.run({{"q", x}});
        } catch (const ds::Error &) {
        }
        session.run_async({{"x", x}}).wait();
    };
    for (int i = 0; i < 300; i++) {
        once();
    }
    const std::size_t before = resident();
    for (int i = 0; i < 1000; i++) {
        once();
    }
    // A leak of any of the three buffers (24 kB) would be 24 MB.
    CHECK(resident() < before + (8 << 20));
}

} // namespace

int main(int, char **argv) {
    const ds::Runtime runtime;
    test_names_and_numbers();
    test_tensors();
    test_models(runtime);
    test_runs(runtime);
    test_stopping();
    test_budgets(runtime, argv[1]);
    test_precision(runtime, argv[1]);
    test_threads(runtime);
    test_graphs(runtime);
    test_ragged(runtime, argv[1]);
    test_embedder(runtime, argv[1]);
    test_leaks(runtime);
    std::cout << "API tests: " << failures << " failures\n";
    return failures == 0 ? 0 : 1;
}
