// Plays tests/surface/cases.json (flattened by flatten.py beside it): the same calls, bits and errors
// as every other language.  surface CASES
#include "check.hpp"

#include <fstream>
#include <map>
#include <vector>

namespace ds = deepseek;

namespace {

std::vector<std::string> split(const std::string &text, char separator) {
    std::vector<std::string> parts;
    if (text.empty() && separator == ';') {
        return parts;
    }
    std::istringstream stream(text + separator);
    for (std::string part; std::getline(stream, part, separator);) {
        parts.push_back(part);
    }
    return parts;
}

std::string from_hex(const std::string &text) {
    std::string bytes;
    for (std::size_t i = 0; i + 1 < text.size(); i += 2) {
        bytes.push_back(static_cast<char>(std::stoi(text.substr(i, 2), nullptr, 16)));
    }
    return bytes;
}

ds::Shape shape_of(const std::string &extents) {
    ds::Shape shape;
    for (const std::string &extent : split(extents, ';')) {
        shape.push_back(std::stoull(extent));
    }
    return shape;
}

// Fields: keyword, name, dtype, shape, data.
ds::Tensor tensor_of(const std::vector<std::string> &fields) {
    const ds::Shape shape = shape_of(fields[3]);
    const ds::DType dtype = ds::parse_dtype(fields[2]);
    if (dtype == ds::DType::String) {
        std::vector<std::string> strings;
        for (const std::string &each : split(fields[4], ';')) {
            strings.push_back(from_hex(each.substr(1)));
        }
        return ds::Tensor::strings(shape, strings);
    }
    const std::string bytes = from_hex(fields[4]);
    return ds::Tensor::from_bytes(dtype, shape, bytes.data(), bytes.size());
}

bool same(const ds::Tensor &a, const ds::Tensor &b) {
    if (a.dtype() != b.dtype() || a.shape() != b.shape()) {
        return false;
    }
    if (a.dtype() == ds::DType::String) {
        return a.to_strings() == b.to_strings();
    }
    const auto x = a.bytes(), y = b.bytes();
    return std::equal(x.begin(), x.end(), y.begin(), y.end());
}

using Line = std::vector<std::string>;

ds::Outputs play(const ds::Runtime &runtime, const std::vector<Line> &lines) {
    ds::GraphBuilder graph;
    std::map<std::string, ds::GraphValue> values;
    ds::Inputs inputs;
    ds::ModelOptions options;
    for (const Line &f : lines) {
        if (f[0] == "graph_input") {
            values[f[1]] = graph.input(f[1], ds::parse_dtype(f[2]), split(f[3], ';'));
        } else if (f[0] == "bound") {
            const auto max = f[3] == "~" ? std::optional<std::int64_t>() : std::stoll(f[3]);
            graph.bound(f[1], std::stoll(f[2]), max);
        } else if (f[0] == "constant") {
            values[f[1]] = graph.constant(f[1], tensor_of(f));
        } else if (f[0] == "node") {
            std::vector<ds::GraphValue> operands;
            for (const std::string &name : split(f[4], ';')) {
                operands.push_back(name == "~" ? ds::GraphValue() : values.at(name));
            }
            const auto names = split(f[5], ';');
            const auto results = graph.node_outputs(f[1], names.size(), operands, f[3], f[2]);
            for (std::size_t i = 0; i < names.size(); i++) {
                values[names[i]] = results.at(i);
            }
        } else if (f[0] == "graph_output") {
            graph.output(f[1], values.at(f[2]));
        } else if (f[0] == "options_shape") {
            options.shapes[f[1]] = shape_of(f[2]);
        } else if (f[0] == "options_bounds") {
            const auto max = f[3] == "~" ? std::optional<std::int64_t>() : std::stoll(f[3]);
            options.bounds[f[1]] = {std::stoll(f[2]), max};
        } else if (f[0] == "options") {
            options.memory_budget_bytes = std::stoull(f[1]);
            options.whole = f[2] == "1";
        } else if (f[0] == "input") {
            inputs.add(f[1], tensor_of(f));
        }
    }
    return ds::Session(graph.build(runtime, options)).run(inputs);
}

void check_case(const ds::Runtime &runtime, const std::string &name,
                const std::vector<Line> &lines) {
    Line error;
    std::vector<Line> expected;
    for (const Line &line : lines) {
        if (line[0] == "error") {
            error = line;
        } else if (line[0] == "output") {
            expected.push_back(line);
        }
    }
    try {
        const ds::Outputs outputs = play(runtime, lines);
        if (!error.empty()) {
            fail("cases.json", 0, name + ": no error, expected " + error[1]);
        }
        CHECK_EQ(outputs.size(), expected.size());
        std::size_t i = 0;
        for (const auto &[output, value] : outputs) {
            if (i >= expected.size()) {
                break;
            }
            const Line &want = expected[i++];
            if (output != want[1] || !same(value.tensor(), tensor_of(want))) {
                fail("cases.json", 0, name + ": output '" + output + "' differs");
            }
        }
    } catch (const ds::Error &e) {
        if (error.empty() || e.name() != error[1]) {
            fail("cases.json", 0, name + ": " + e.what());
            return;
        }
        for (const std::string &part : split(error[2], ';')) {
            if (e.message().find(part) == std::string::npos) {
                fail("cases.json", 0, name + ": no '" + part + "' in: " + e.what());
            }
        }
    }
}

} // namespace

int main(int argc, char **argv) {
    std::ifstream file(argc > 1 ? argv[1] : "");
    const ds::Runtime runtime;
    std::vector<Line> lines;
    std::string name;
    int cases = 0;
    for (std::string text; std::getline(file, text);) {
        Line fields = split(text, '\t');
        if (fields[0] == "case") {
            name = fields[1];
            lines.clear();
        } else if (fields[0] == "end") {
            check_case(runtime, name, lines);
            cases++;
        } else {
            lines.push_back(std::move(fields));
        }
    }
    CHECK(cases > 0);
    std::cout << cases << " surface cases, " << failures << " failures\n";
    return failures == 0 && cases > 0 ? 0 : 1;
}
