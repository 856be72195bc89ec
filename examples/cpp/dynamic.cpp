// A graph recorded operation by operation, with a leading extent that is not known: dynamic
//
// One plan serves 50 tensors of 50 to 99 rows of 512 numbers. How many bytes each run takes is
// known before it starts, as a formula and as a number.
#include <deepseek.hpp>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

namespace {
constexpr std::size_t width = 512, shortest = 50, tensors = 50;

// Numbers that every language of this example can make alike.
deepseek::Tensor numbers(std::size_t rows, std::size_t step) {
    std::vector<float> data(rows * width);
    for (std::size_t i = 0; i < data.size(); i++) {
        data[i] = static_cast<float>(static_cast<int>(i * step % 101) - 50) / 512.0f;
    }
    return deepseek::Tensor::adopt({rows, width}, std::move(data));
}
} // namespace

int main() {
    try {
        const deepseek::Runtime runtime;
        deepseek::GraphBuilder graph("dynamic");
        const auto x = graph.input("x", deepseek::DType::F32, {"rows", "512"});
        const auto w = graph.constant("w", numbers(width, 7));
        const auto h = graph.node("Add", {graph.node("Gelu", {graph.node("MatMul", {x, w})}), x});
        graph.output("y", graph.node("Softmax", {h}, "axis = -1"));
        const auto model = graph.build(runtime);
        std::printf("bytes of a run: %s\n", model.memory_formula().c_str());

        const deepseek::Session session(model);
        for (std::size_t rows = shortest; rows < shortest + tensors; rows++) {
            const auto planned = model.plan_memory({{"rows", rows}}).planned_bytes;
            const auto y = session.run({{"x", numbers(rows, rows)}}).tensor("y");
            std::uint32_t bits = 0;
            std::memcpy(&bits, y.data<float>().data(), sizeof bits);
            std::printf("rows %zu: %llu bytes planned, %llu used, y[0][0] has the bits %08x\n", rows,
                        static_cast<unsigned long long>(planned),
                        static_cast<unsigned long long>(session.observed_bytes()),
                        static_cast<unsigned>(bits));
        }
        return 0;
    } catch (const std::exception &e) {
        std::fprintf(stderr, "dynamic: %s\n", e.what());
        return 1;
    }
}
