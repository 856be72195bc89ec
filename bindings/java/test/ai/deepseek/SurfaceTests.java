package ai.deepseek;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** Plays {@code tests/surface/cases.json}: calls with expected bits, the same in every language. */
final class SurfaceTests {
    /** The directory {@code tests/} of the source tree. */
    static final Path ROOT = Path.of(System.getProperty("tests"));

    private SurfaceTests() {}

    static void allCases() throws IOException {
        Map<String, Object> file = Json.object(Json.parse(Files.readString(ROOT.resolve("surface/cases.json"))));
        List<String> failures = new ArrayList<>();
        List<Object> cases = Json.list(file.get("cases"));
        for (Object entry : cases) {
            Map<String, Object> one = Json.object(entry);
            try {
                play(one);
            } catch (AssertionError | RuntimeException e) {
                failures.add(one.get("name") + ": " + e.getMessage());
            }
        }
        Check.that(cases.size() >= 40, cases.size() + " cases");
        Check.that(failures.isEmpty(), String.join("\n", failures));
    }

    private static void play(Map<String, Object> one) {
        Map<String, Object> expect = Json.object(one.get("expect"));
        Map<String, Object> error = Json.object(expect.get("error"));
        if (error != null) {
            String[] parts = Json.texts(error.get("contains")).toArray(new String[0]);
            Check.fails(StatusCode.valueOf((String) error.get("code")), () -> run(one).close(), parts);
            return;
        }
        try (Outputs outputs = run(one)) {
            List<Object> wanted = Json.list(expect.get("outputs"));
            Check.equal(wanted.size(), outputs.size(), "number of outputs");
            for (int i = 0; i < wanted.size(); i++) {
                Map<String, Object> want = Json.object(wanted.get(i));
                Tensor got = outputs.get(i);
                Check.equal(want.get("name"), outputs.names().get(i), "name");
                Check.equal(want.get("dtype"), got.dtype().shortName(), "element type");
                Check.equal(Json.longs(want.get("shape")), got.shape(), "shape");
                if (got.dtype() == DType.STRING) {
                    Check.equal(Json.texts(want.get("strings")), List.of(got.toStringArray()), "strings");
                } else {
                    Check.equal(want.get("hex"), hex(got.toByteArray()), "bits");
                }
            }
        }
    }

    private static Outputs run(Map<String, Object> one) {
        Map<String, Object> recorded = Json.object(one.get("graph"));
        List<Tensor> tensors = new ArrayList<>();
        try (GraphBuilder graph = new GraphBuilder((String) one.get("name"))) {
            Map<String, GraphBuilder.Value> values = new HashMap<>();
            for (Object entry : Json.list(recorded.get("inputs"))) {
                Map<String, Object> input = Json.object(entry);
                String name = (String) input.get("name");
                String[] extents = Json.texts(input.get("shape")).toArray(new String[0]);
                values.put(name, graph.input(name, DType.of((String) input.get("dtype")), extents));
            }
            for (Object entry : Json.list(recorded.get("bounds"))) {
                Map<String, Object> bound = Json.object(entry);
                String symbol = (String) bound.get("symbol");
                long min = ((Double) bound.get("min")).longValue();
                if (bound.get("max") == null) {
                    graph.bound(symbol, min);
                } else {
                    graph.bound(symbol, min, ((Double) bound.get("max")).longValue());
                }
            }
            for (Object entry : Json.list(recorded.get("constants"))) {
                Map<String, Object> constant = Json.object(entry);
                String name = (String) constant.get("name");
                tensors.add(tensor(constant));
                values.put(name, graph.constant(name, tensors.get(tensors.size() - 1)));
            }
            for (Object entry : Json.list(recorded.get("nodes"))) {
                Map<String, Object> node = Json.object(entry);
                List<GraphBuilder.Value> inputs = new ArrayList<>();
                Json.texts(node.get("inputs")).forEach(name -> inputs.add(values.get(name)));
                List<String> names = Json.texts(node.get("outputs"));
                List<GraphBuilder.Value> outputs = graph.node(
                        (String) node.get("op"), (String) node.get("name"), (String) node.get("attrs"), inputs,
                        names.size());
                for (int i = 0; i < names.size(); i++) {
                    values.put(names.get(i), outputs.get(i));
                }
            }
            for (Object entry : Json.list(recorded.get("outputs"))) {
                List<String> output = Json.texts(entry);
                graph.output(output.get(0), values.get(output.get(1)));
            }
            Map<String, Tensor> inputs = new LinkedHashMap<>();
            for (Object entry : Json.list(one.get("inputs"))) {
                Map<String, Object> input = Json.object(entry);
                tensors.add(tensor(input));
                inputs.put((String) input.get("name"), tensors.get(tensors.size() - 1));
            }
            try (Model model = graph.build(ModelTests.RUNTIME, options(Json.object(recorded.get("options"))));
                    Session session = model.newSession()) {
                return session.run(inputs);
            }
        } finally {
            tensors.forEach(Tensor::close);
        }
    }

    /** Options of a model; the defaults where there are none. */
    private static ModelOptions options(Map<String, Object> described) {
        if (described == null) {
            return ModelOptions.defaults();
        }
        Map<String, long[]> shapes = new LinkedHashMap<>();
        Json.object(described.get("shapes")).forEach((name, shape) -> shapes.put(name, Json.longs(shape)));
        ModelOptions options = ModelOptions.defaults()
                .memoryBudgetBytes(((Double) described.get("memory_budget_bytes")).longValue())
                .whole((Boolean) described.get("whole"))
                .shapes(shapes);
        for (Map.Entry<String, Object> entry : Json.object(described.get("bounds")).entrySet()) {
            Map<String, Object> bound = Json.object(entry.getValue());
            Double max = (Double) bound.get("max");
            options = options.bounds(
                    entry.getKey(), ((Double) bound.get("min")).longValue(), max == null ? -1 : max.longValue());
        }
        return options;
    }

    private static Tensor tensor(Map<String, Object> described) {
        long[] shape = Json.longs(described.get("shape"));
        DType dtype = DType.of((String) described.get("dtype"));
        if (dtype == DType.STRING) {
            return Tensor.of(Json.texts(described.get("strings")).toArray(new String[0]), shape);
        }
        String hex = (String) described.get("hex");
        byte[] bytes = new byte[hex.length() / 2];
        for (int i = 0; i < bytes.length; i++) {
            bytes[i] = (byte) Integer.parseInt(hex.substring(2 * i, 2 * i + 2), 16);
        }
        return Tensor.ofBytes(dtype, bytes, shape);
    }

    private static String hex(byte[] bytes) {
        StringBuilder out = new StringBuilder();
        for (byte b : bytes) {
            out.append(String.format("%02x", b & 0xff));
        }
        return out.toString();
    }
}
