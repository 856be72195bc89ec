package ai.deepseek;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Map;

/** Graphs, models and what they report. */
final class ModelTests {
    static final Runtime RUNTIME = new Runtime(RuntimeOptions.defaults().threads(2));

    private ModelTests() {}

    /** {@code y = relu(x · w)} with {@code x: f32[batch, 2]} and {@code w: f32[2, 3]}. */
    static Model small() {
        try (GraphBuilder graph = new GraphBuilder("small");
                Tensor w = Tensor.of(new float[] {1, 2, 3, -4, 5, -6}, 2, 3)) {
            graph.bound("batch", 1, 64);
            GraphBuilder.Value x = graph.input("x", DType.F32, "batch", "2");
            GraphBuilder.Value product = graph.node("MatMul", x, graph.constant("w", w));
            Check.equal("f32[batch, 3]", product.type(), "inferred type");
            graph.output("y", graph.node("Relu", product));
            return graph.build(RUNTIME);
        }
    }

    static void modelsDescribeThemselves() {
        try (Model model = small()) {
            TensorInfo x = model.inputs().get(0);
            Check.equal("x", x.name(), "name");
            Check.equal("f32[batch, 2]", x.type(), "type");
            Check.equal(DType.F32, x.dtype().orElseThrow(), "element type");
            Check.equal(2, x.rank(), "rank");
            Check.equal(new long[] {-1, 2}, x.shape().orElseThrow(), "shape");
            Check.equal(List.of("batch", "2"), x.extents(), "extents");
            Check.equal("[y: f32[batch, 3]]", model.outputs().toString(), "outputs");
            Map<String, Object> summary = Json.object(Json.parse(model.summary()));
            Check.equal("graph", summary.get("source"), "source");
            Check.equal(6.0, summary.get("parameters"), "parameters");
            Check.that(model.memoryFormula().contains("batch"), model.memoryFormula());
        }
    }

    static void savedModelsAreTheModel() throws IOException {
        Path file = Files.createTempDirectory("deepseek").resolve("small.deepseek");
        try (Model model = small()) {
            model.save(file);
            try (Model back = Model.open(file, RUNTIME)) {
                Check.equal(model.summary(), back.summary(), "summary");
            }
            byte[] first = Files.readAllBytes(file);
            model.save(file);
            Check.equal(first, Files.readAllBytes(file), "bytes of a second file");
            Files.delete(file);
            Files.delete(file.getParent());
            Check.fails(StatusCode.IO, () -> model.save(file), file.toString());
            Check.fails(StatusCode.INVALID_ARGUMENT, () -> model.save(Path.of("small.onnx")), ".deepseek");
        }
    }

    static void theLargestValuesAreListed() {
        try (GraphBuilder graph = new GraphBuilder("products");
                Tensor w = Tensor.zeros(DType.F32, 4, 4)) {
            GraphBuilder.Value weights = graph.constant("w", w);
            GraphBuilder.Value x = graph.input("x", DType.F32, "batch", "4");
            graph.output("y", graph.node("MatMul", graph.node("MatMul", x, weights), weights));
            try (Model model = graph.build(RUNTIME)) {
                MemoryPlan plan = model.planMemory(Map.of("batch", 8L));
                Check.that(!plan.largest().isEmpty(), "the first product is planned");
                MemoryPlan.Value product = plan.largest().get(0);
                Check.that(product.bytes() >= 8 * 4 * 4, "it takes " + product.bytes());
                Check.that(product.type().startsWith("f32[") && !product.name().isEmpty(), "it is " + product);
            }
        }
    }

    static void memoryIsPlannedExactly() {
        try (Model model = small()) {
            MemoryPlan plan = model.planMemory(Map.of("batch", 8L));
            MemoryPlan same = model.planMemoryForShapes(Map.of("x", new long[] {8, 2}));
            Check.equal(plan.toJson(), same.toJson(), "the same plan");
            Check.equal(plan.arenaBytes() + plan.outputBytes(), plan.plannedBytes(), "the sum");
            Check.that(plan.outputBytes() >= 8 * 3 * 4, "outputs take " + plan.outputBytes());
            Check.equal(24L, plan.constantBytes(), "constants");
            Check.equal(0L, plan.dynamicValues(), "dynamic values");
            Check.equal((double) plan.arenaBytes(), Json.object(Json.parse(plan.toJson())).get("arena_bytes"), "JSON");
            Check.fails(StatusCode.NOT_FOUND, () -> model.planMemory(Map.of("rows", 1L)), "'rows'", "'batch'");
            Check.fails(StatusCode.INVALID_ARGUMENT, () -> model.planMemory(Map.of()), "batch");
            Check.fails(StatusCode.SHAPE_MISMATCH, () -> model.planMemory(Map.of("batch", 65L)), "64", "65");
            Check.fails(StatusCode.NOT_FOUND, () -> model.planMemoryForShapes(Map.of("z", new long[] {1})), "'z'");
            Check.fails(StatusCode.SHAPE_MISMATCH,
                    () -> model.planMemoryForShapes(Map.of("x", new long[] {8, 3})), "'x'", "[8, 3]");
            Check.fails(StatusCode.INVALID_ARGUMENT,
                    () -> model.planMemoryForShapes(Map.of("x", new long[] {-8, 2})), "-8");
        }
    }

    static void aPrecisionIsCompiledFor() {
        Path digits = Path.of(System.getProperty("tests"), "golden", "digits", "digits.onnx");
        ModelOptions options = ModelOptions.defaults().shapes(Map.of("x", new long[] {4, 1, 8, 8}));
        try (Model model = Model.open(digits, RUNTIME, options.precision("int8"))) {
            String json = model.precisionReport().orElseThrow();
            Map<String, Object> report = Json.object(Json.parse(json));
            Check.equal("int8", report.get("requested"), "requested");
            Check.equal(true, report.get("synthetic"), "synthetic");
            Check.that(json.contains("\"precision\":\"int8\""), json);
        }
        try (Model model = Model.open(digits, RUNTIME, options.precision("f32"))) {
            Check.that(model.precisionReport().isEmpty(), "f32 has nothing to report");
        }
        Check.fails(StatusCode.INVALID_ARGUMENT, () -> Model.open(digits, RUNTIME, options.precision("int7")),
                "'int7'", "f32, bf16, f16, int8 or auto");
        ModelOptions bytes = options.precision("int8");
        Check.fails(StatusCode.INVALID_ARGUMENT, () -> Model.open(digits, RUNTIME, bytes.metric("bleu")),
                "cosine or top1");
        Check.fails(StatusCode.INVALID_ARGUMENT, () -> Model.open(digits, RUNTIME, bytes.accuracyBudget(0.5)),
                "0.95 to 1");
        Path nowhere = Path.of("/no/such/place.npz");
        Check.fails(StatusCode.IO, () -> Model.open(digits, RUNTIME, bytes.calibration(nowhere)), "place.npz");
        Check.fails(StatusCode.INVALID_ARGUMENT, () -> Model.open(digits, RUNTIME, options.calibration(nowhere)),
                "needs a precision");
    }

    static void graphErrorsComeFromTheCallThatMakesThem() throws Exception {
        try (GraphBuilder graph = new GraphBuilder("g");
                GraphBuilder other = new GraphBuilder("h");
                Tensor c = Tensor.of(new float[6], 3, 2)) {
            GraphBuilder.Value x = graph.input("x", DType.F32, "n", "2");
            GraphBuilder.Value foreign = other.input("x", DType.F32, "2");
            Check.fails(StatusCode.INVALID_GRAPH, () -> graph.input("x", DType.F32, "1"), "x");
            Check.fails(StatusCode.INVALID_GRAPH, () -> graph.constant("x", c), "x");
            Check.fails(StatusCode.INVALID_ARGUMENT, () -> graph.input("y", DType.F32, "2*"), "'2*'");
            Check.fails(StatusCode.INVALID_ARGUMENT, () -> graph.bound("n", 5, 4));
            Check.fails(StatusCode.INVALID_ARGUMENT, () -> graph.node("Add", x, foreign), "another graph builder");
            Check.fails(StatusCode.INVALID_ARGUMENT, () -> graph.output("o", foreign), "another graph builder");
            Check.fails(StatusCode.UNSUPPORTED, () -> graph.node("Teleport", x), "Teleport");
            Check.fails(StatusCode.INVALID_ARGUMENT, () -> graph.node("Relu", "r", "a = = 1", List.of(x), 1));
            Check.fails(StatusCode.INVALID_ARGUMENT, () -> graph.node("Relu", "r", "", List.of(x), -1), "-1");
            GraphBuilder.Value w = graph.constant("w", c);
            DeepseekException e = Check.fails(StatusCode.SHAPE_MISMATCH,
                    () -> graph.node("MatMul", "mm", "", List.of(x, w), 1), "2", "3");
            Check.that(e instanceof InvalidArgumentException, e.getClass().getName());
            Check.fails(StatusCode.INVALID_GRAPH, () -> graph.build(RUNTIME), "output");
            Check.throwsNull(() -> graph.input(null, DType.F32));
            Check.throwsNull(() -> graph.output("o", null));
            graph.bound("n", 2);
            graph.output("y", x);
            graph.build(RUNTIME).close();
        }
    }

    static void attributesAndSeveralOutputs() {
        try (GraphBuilder graph = new GraphBuilder("g")) {
            GraphBuilder.Value x = graph.input("x", DType.F32, "n", "4");
            List<GraphBuilder.Value> halves =
                    graph.node("Split", "split", "axis = 1, num_outputs = 2", Arrays.asList(x, null), 2);
            Check.equal("f32[n, 2]", halves.get(1).type(), "second half");
            // Clip without a minimum.
            try (Tensor max = Tensor.of(new float[] {1})) {
                GraphBuilder.Value clipped = graph.node("Clip", halves.get(1), null, graph.constant("max", max));
                graph.output("größe 🦀", clipped);
            }
            try (Model model = graph.build(RUNTIME);
                    Session session = model.newSession();
                    Tensor input = Tensor.of(new float[] {0, 1, -2, 3}, 1, 4);
                    Outputs outputs = session.run(Map.of("x", input))) {
                Check.equal(List.of("größe 🦀"), outputs.names(), "names");
                Check.equal(new float[] {-2, 1}, outputs.get(0).toFloatArray(), "clipped half");
            }
        }
    }

    static void sequencesAreReadByItems() {
        try (GraphBuilder graph = new GraphBuilder("g")) {
            GraphBuilder.Value x = graph.input("x", DType.F32, "n", "2");
            graph.output("rows", graph.node("SplitToSequence", "s", "axis = 0, keepdims = 1", Arrays.asList(x, null), 1)
                    .get(0));
            graph.output("x again", x);
            try (Model model = graph.build(RUNTIME);
                    Session session = model.newSession();
                    Tensor input = Tensor.of(new float[] {1, 2, 3, 4}, 2, 2)) {
                Check.that(model.outputs().get(0).dtype().isEmpty(), "no element type");
                Check.equal(-1, model.outputs().get(0).rank(), "rank");
                Outputs outputs = session.run(Map.of("x", input));
                List<Tensor> rows = outputs.items("rows");
                Check.equal(2, rows.size(), "rows");
                Check.equal(new float[] {3, 4}, rows.get(1).toFloatArray(), "second row");
                Check.fails(StatusCode.UNSUPPORTED, () -> outputs.get("rows"), "'rows'", "seq");
                Check.fails(StatusCode.UNSUPPORTED, () -> outputs.items("x again"), "'x again'", "f32");
                outputs.close();
                Check.fails(StatusCode.INVALID_STATE, () -> rows.get(1).toFloatArray());
            }
        }
    }

    /** {@code y = relu(x w) v}, with 1024 columns between: what a byte budget cuts into blocks of rows. */
    private static Model wide(ModelOptions options) {
        try (GraphBuilder graph = new GraphBuilder("wide");
                Tensor w = Tensor.zeros(DType.F32, 16, 1024);
                Tensor v = Tensor.zeros(DType.F32, 1024, 16)) {
            GraphBuilder.Value x = graph.input("x", DType.F32, "rows", "16");
            GraphBuilder.Value up = graph.node("Relu", graph.node("MatMul", x, graph.constant("w", w)));
            graph.output("y", graph.node("MatMul", up, graph.constant("v", v)));
            return graph.build(RUNTIME, options);
        }
    }

    private static long planned(ModelOptions options) {
        try (Model model = wide(options)) {
            return model.planMemory(Map.of("rows", 300L)).plannedBytes();
        }
    }

    static void boundsAreKeptAndPlannedWithin() {
        ModelOptions bounds = ModelOptions.defaults().bounds("rows", 1, 300);
        try (Model open = wide(ModelOptions.defaults());
                Model model = wide(bounds);
                Session session = model.newSession();
                Tensor large = Tensor.zeros(DType.F32, 301, 16)) {
            Check.fails(StatusCode.INVALID_ARGUMENT, open::planMemoryWithinBounds, "'rows'");
            long most = model.planMemoryWithinBounds().plannedBytes();
            Check.equal(planned(bounds), most, "planned bytes");
            Check.fails(
                    StatusCode.SHAPE_MISMATCH, () -> session.run(Map.of("x", large)), "'x'", "rows is 301", "1 to 300");
        }
        Check.fails(StatusCode.INVALID_ARGUMENT, () -> wide(bounds.bounds("rows", -1, -1)), "'rows'");
    }

    static void budgetsAreMetOrRefused() {
        ModelOptions whole = ModelOptions.defaults().whole(true);
        ModelOptions largest = whole.shapes(Map.of("x", new long[] {300, 16}));
        long most = planned(whole);
        ModelOptions less = largest.memoryBudgetBytes(most - 1);
        long cut = planned(less);
        Check.that(cut < most, "cut: " + cut + ", whole: " + most);
        try (Model model = wide(less);
                Session session = model.newSession();
                Tensor fits = Tensor.zeros(DType.F32, 300, 16);
                Tensor large = Tensor.zeros(DType.F32, 30_000, 16)) {
            session.run(Map.of("x", fits)).close();
            Check.fails(
                    StatusCode.BUDGET_EXCEEDED, () -> session.run(Map.of("x", large)), "memory_budget_bytes");
        }

        DeepseekException refused =
                Check.fails(StatusCode.BUDGET_EXCEEDED, () -> wide(largest.memoryBudgetBytes(1)), "is 1;");
        long least = Long.parseLong(refused.getMessage().replaceAll("(?s).*raise it to (\\d+).*", "$1"));
        Check.that(least > 300 * 16 * 4 && least <= cut, "least: " + least);
        Check.fails(
                StatusCode.BUDGET_EXCEEDED,
                () -> wide(largest.memoryBudgetBytes(least - 1)),
                "raise it to " + least);
        Check.equal(least, planned(largest.memoryBudgetBytes(least)), "planned bytes");

        Check.fails(StatusCode.INVALID_ARGUMENT, () -> wide(whole.memoryBudgetBytes(-1)), "memoryBudgetBytes is -1");
        Check.fails(StatusCode.NOT_FOUND, () -> wide(whole.shapes(Map.of("q", new long[] {1, 16}))), "'q'", "'x'");
        Check.fails(
                StatusCode.SHAPE_MISMATCH, () -> wide(whole.shapes(Map.of("x", new long[] {16}))), "f32[rows, 16]");
        Check.fails(
                StatusCode.INVALID_ARGUMENT, () -> wide(whole.shapes(Map.of("x", new long[] {-1, 16}))), "negative");
        ModelOptions tight = ModelOptions.defaults()
                .memoryBudgetBytes(64)
                .shapes(Map.of("input_ids", new long[] {1, 7}));
        Check.fails(
                StatusCode.BUDGET_EXCEEDED,
                () -> Model.open(EmbedderTests.DIRECTORY, RUNTIME, tight),
                "memory_budget_bytes is 64");
        Model.fromOnnx(onnxAdd(), RUNTIME, ModelOptions.defaults().memoryBudgetBytes(1000)).close();
        Check.fails(
                StatusCode.BUDGET_EXCEEDED,
                () -> Model.fromOnnx(onnxAdd(), RUNTIME, tight.shapes(Map.of("x", new long[] {100}))),
                "raise it to 400");
    }

    static void filesThatAreNotModelsAreRefused() throws Exception {
        Path directory = Files.createTempDirectory("deepseek-test-ü");
        Path file = directory.resolve("modell.onnx");
        try {
            Check.fails(StatusCode.IO, () -> Model.open(file, RUNTIME), "modell.onnx");
            Files.write(file, "not a model".getBytes(StandardCharsets.UTF_8));
            Check.that(Check.fails(StatusCode.INVALID_FILE, () -> Model.open(file, RUNTIME))
                            instanceof InvalidModelException, "class");
            Check.fails(StatusCode.UNSUPPORTED, () -> {
                Path text = Files.writeString(directory.resolve("x.txt"), "x");
                try {
                    Model.open(text, RUNTIME);
                } finally {
                    Files.delete(text);
                }
            }, "x.txt");
            Check.fails(StatusCode.INVALID_FILE, () -> Model.fromOnnx(new byte[] {1, 2, 3}, RUNTIME));
        } finally {
            Files.deleteIfExists(file);
            Files.delete(directory);
        }
        Check.throwsNull(() -> Model.open(null, RUNTIME));
        Check.throwsNull(() -> Model.open(Path.of("x.onnx"), null));
        Check.throwsNull(() -> Model.fromOnnx(null, RUNTIME));
    }

    /** {@code y = x + x} as an ONNX file: the least protobuf that is a model. */
    static void onnxBytesAreLoaded() {
        try (Model model = Model.fromOnnx(onnxAdd(), RUNTIME);
                Session session = model.newSession();
                Tensor x = Tensor.of(new float[] {1, -2.5f}, 2);
                Outputs outputs = session.run(Map.of("x", x))) {
            Check.equal("[x: f32[n]]", model.inputs().toString(), "inputs");
            Check.equal(new float[] {2, -5}, outputs.get("y").toFloatArray(), "sum");
        }
    }

    private static byte[] onnxAdd() {
        byte[] tensorType = join(field(1, 1), field(2, field(1, field(2, Wire.bytes("n")))));
        byte[] type = field(2, field(1, tensorType));
        byte[] node = join(
                field(1, Wire.bytes("x")), field(1, Wire.bytes("x")), field(2, Wire.bytes("y")),
                field(4, Wire.bytes("Add")));
        byte[] graph = join(
                field(1, node),
                field(2, Wire.bytes("g")),
                field(11, join(field(1, Wire.bytes("x")), type)),
                field(12, join(field(1, Wire.bytes("y")), type)));
        return join(field(1, 8), field(7, graph), field(8, field(2, 17)));
    }

    private static byte[] field(int number, int value) {
        return new byte[] {(byte) (number << 3), (byte) value};
    }

    private static byte[] field(int number, byte[] content) {
        return join(new byte[] {(byte) (number << 3 | 2), (byte) content.length}, content);
    }

    private static byte[] join(byte[]... parts) {
        int length = Arrays.stream(parts).mapToInt(p -> p.length).sum();
        byte[] out = new byte[length];
        int at = 0;
        for (byte[] part : parts) {
            System.arraycopy(part, 0, out, at, part.length);
            at += part.length;
        }
        return out;
    }
}
