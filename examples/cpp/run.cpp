// Runs a model once on zeros: run MODEL [EXTENT]
//
// MODEL is an .onnx file or a Hugging Face directory. Symbolic extents become EXTENT
// (default 1). Prints the outputs: name, type, first elements of f32.
#include <deepseek.hpp>

#include <cstdio>
#include <cstdlib>

int main(int argc, char **argv) {
    if (argc < 2) {
        std::fprintf(stderr, "usage: run MODEL [EXTENT]\n");
        return 2;
    }
    try {
        const auto model = deepseek::Model::open(deepseek::Runtime(), argv[1]);
        const std::size_t symbolic = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1;
        deepseek::Inputs inputs;
        for (const deepseek::TensorInfo &input : model.inputs()) {
            deepseek::Shape shape;
            for (const std::int64_t extent : input.shape.value_or(std::vector<std::int64_t>{})) {
                shape.push_back(extent < 0 ? symbolic : static_cast<std::size_t>(extent));
            }
            inputs.add(input.name, deepseek::Tensor::zeros(input.dtype.value(), shape));
        }
        for (const auto &[name, value] : deepseek::Session(model).run(inputs)) {
            std::printf("%s: %s", name.c_str(), value.type().c_str());
            if (value.is_tensor() && value.tensor().dtype() == deepseek::DType::F32) {
                const auto elements = value.tensor().to_vector<float>();
                for (std::size_t i = 0; i < elements.size() && i < 8; i++) {
                    std::printf(" %g", static_cast<double>(elements[i]));
                }
            }
            std::printf("\n");
        }
        return 0;
    } catch (const std::exception &e) {
        std::fprintf(stderr, "run: %s\n", e.what());
        return 1;
    }
}
