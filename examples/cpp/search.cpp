// Semantic search: which passages answer a question?
//
//     search MODEL_DIR CORPUS.txt QUESTIONS.txt
//
// MODEL_DIR is a sentence encoder as Hugging Face lays it out; the other two hold one passage
// and one question a line. Every passage becomes a vector once; a question is answered by the
// three passages whose vectors have the largest dot product with its own.
//
// A score is summed in f32, one product after another in index order, so programs in other
// languages print the same bits. Compile with -ffp-contract=off, or the compiler may fuse a
// product and a sum into one rounding.
#include <deepseek.hpp>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

constexpr std::size_t top = 3;
constexpr std::size_t cut = 80;

std::vector<std::string> lines_of(const std::string &path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) {
        throw std::runtime_error(path + ": " + std::strerror(errno));
    }
    std::vector<std::string> lines;
    for (std::string line; std::getline(file, line);) {
        lines.push_back(line);
    }
    if (file.bad()) {
        throw std::runtime_error(path + ": cannot read it all");
    }
    return lines;
}

float dot(const float *a, const float *b, std::size_t dim) {
    float sum = 0;
    for (std::size_t i = 0; i < dim; i++) {
        sum += a[i] * b[i];
    }
    return sum;
}

// At most `cut` bytes of a text, not cutting a character of UTF-8 in two.
std::string shortened(const std::string &text) {
    std::size_t end = text.size();
    if (end > cut) {
        for (end = cut; end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80; end--) {
        }
    }
    return text.substr(0, end);
}

// Prints the best passages for a question; of equal scores the first passage wins.
void print_best(const std::vector<float> &question, const std::vector<float> &vectors,
                const std::vector<std::string> &corpus) {
    const std::size_t dim = question.size();
    std::vector<float> scores(corpus.size());
    for (std::size_t i = 0; i < corpus.size(); i++) {
        scores[i] = dot(question.data(), &vectors[i * dim], dim);
    }
    std::vector<std::size_t> order(corpus.size());
    std::iota(order.begin(), order.end(), 0);
    const auto found = static_cast<std::ptrdiff_t>(std::min(top, corpus.size()));
    std::partial_sort(order.begin(), order.begin() + found, order.end(),
                      [&](std::size_t a, std::size_t b) {
                          return scores[a] != scores[b] ? scores[a] > scores[b] : a < b;
                      });
    for (std::size_t rank = 0; rank < static_cast<std::size_t>(found); rank++) {
        const float score = scores[order[rank]];
        std::uint32_t bits;
        std::memcpy(&bits, &score, sizeof bits);
        std::printf("  %zu %.6f %08x %s\n", rank + 1, static_cast<double>(score),
                    static_cast<unsigned>(bits), shortened(corpus[order[rank]]).c_str());
    }
}

void search(const std::string &directory, const std::vector<std::string> &corpus,
            const std::vector<std::string> &questions) {
    using clock = std::chrono::steady_clock;
    const auto ms = [](clock::duration d) {
        return std::chrono::duration<double, std::milli>(d).count();
    };

    const auto start = clock::now();
    const deepseek::Runtime runtime;
    const auto embedder = deepseek::Embedder::open(runtime, directory);
    const auto loaded = clock::now();

    const std::vector<float> vectors = embedder.embed(corpus);
    const auto embedded = clock::now();

    for (const std::string &question : questions) {
        const std::vector<float> vector = embedder.embed({question});
        std::printf("Q %s\n", question.c_str());
        print_best(vector, vectors, corpus);
    }
    const double answered = ms(clock::now() - embedded);
    std::printf("# %zu passages, %zu questions, load %.1f ms, corpus %.1f ms, per question %.1f ms\n",
                corpus.size(), questions.size(), ms(loaded - start), ms(embedded - loaded),
                questions.empty() ? 0.0 : answered / static_cast<double>(questions.size()));
}

} // namespace

int main(int argc, char **argv) {
    if (argc != 4) {
        std::fprintf(stderr, "usage: search MODEL_DIR CORPUS.txt QUESTIONS.txt\n");
        return 2;
    }
    try {
        search(argv[1], lines_of(argv[2]), lines_of(argv[3]));
        return 0;
    } catch (const std::exception &e) { // a deepseek::Error says which code and node as well
        std::fprintf(stderr, "search: %s\n", e.what());
        return 1;
    }
}
