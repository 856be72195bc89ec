package ai.deepseek;

import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;

/** Sequences of different lengths, without padding. */
final class RaggedTests {
    private static final int[] LENGTHS = {4, 1, 7};
    private static final int LONGEST = 7;
    private static final List<String> NAMES = List.of("last_hidden_state", "sentence_embedding");

    private RaggedTests() {}

    private static Model encoder() {
        return Model.open(SurfaceTests.ROOT.resolve("golden/hf/bert-mean"), ModelTests.RUNTIME);
    }

    /** Tokens of a sequence. */
    private static long[] tokens(int sequence) {
        long[] out = new long[LENGTHS[sequence]];
        for (int i = 0; i < out.length; i++) {
            out[i] = 5 + (3 * sequence + 7 * i) % 20;
        }
        return out;
    }

    private static long[] ones(int count) {
        long[] out = new long[count];
        Arrays.fill(out, 1);
        return out;
    }

    /** A sequence by the plain run: batch 1, a mask of ones. */
    private static Outputs alone(Session session, int sequence) {
        int n = LENGTHS[sequence];
        return session.run(Map.of(
                "input_ids", Tensor.of(tokens(sequence), 1, n),
                "token_type_ids", Tensor.of(new long[n], 1, n),
                "attention_mask", Tensor.of(ones(n), 1, n)));
    }

    private static Map<String, List<Tensor>> lists() {
        List<Tensor> ids = new ArrayList<>();
        List<Tensor> types = new ArrayList<>();
        for (int s = 0; s < LENGTHS.length; s++) {
            ids.add(Tensor.of(tokens(s), LENGTHS[s]));
            types.add(Tensor.of(new long[LENGTHS[s]], LENGTHS[s]));
        }
        return new HashMap<>(Map.of("input_ids", ids, "token_type_ids", types));
    }

    /** The bits, not the values: 0.0 and -0.0 differ. */
    private static int[] bits(float[] values) {
        int[] out = new int[values.length];
        for (int i = 0; i < out.length; i++) {
            out[i] = Float.floatToRawIntBits(values[i]);
        }
        return out;
    }

    private static void checkPacked(Session session, Outputs outputs) {
        for (int s = 0; s < LENGTHS.length; s++) {
            try (Outputs alone = alone(session, s)) {
                for (String name : NAMES) {
                    Check.equal(LENGTHS.length, outputs.items(name).size(), "sequences of " + name);
                    Tensor got = outputs.items(name).get(s);
                    Tensor want = alone.get(name);
                    long[] shape = want.shape();
                    Check.equal(Arrays.copyOfRange(shape, 1, shape.length), got.shape(), "shape of " + name);
                    Check.equal(bits(want.toFloatArray()), bits(got.toFloatArray()), name + " of sequence " + s);
                }
            }
        }
    }

    static void packedSequencesHaveTheBitsThatEachHasAlone() throws Exception {
        try (Model model = encoder();
                Session session = model.newSession()) {
            model.checkRagged();
            Map<String, List<Tensor>> lists = lists();
            try (Outputs outputs = session.runRagged(lists)) {
                checkPacked(session, outputs);
                Check.equal(NAMES.get(0), outputs.names().get(0), "the model's order");
                Check.fails(StatusCode.UNSUPPORTED, () -> outputs.get(0), "items");
                Check.that(outputs.trace().isEmpty(), "no trace");
            }
            CompletableFuture<Outputs> later = session.runRaggedAsync(lists);
            lists.values().forEach(list -> list.forEach(Tensor::close));
            try (Outputs outputs = later.get()) {
                checkPacked(session, outputs);
            }
            Check.fails(StatusCode.INVALID_STATE, () -> session.runRagged(lists), "tensor is closed");
        }
    }

    static void paddedBatchesRunWithoutTheirPadding() throws Exception {
        int batch = LENGTHS.length;
        long[] ids = new long[batch * LONGEST];
        long[] mask = new long[batch * LONGEST];
        for (int s = 0; s < batch; s++) {
            System.arraycopy(tokens(s), 0, ids, s * LONGEST, LENGTHS[s]);
            Arrays.fill(mask, s * LONGEST, s * LONGEST + LENGTHS[s], 1);
        }
        RunOptions ragged = RunOptions.defaults().ragged(true);
        try (Model model = encoder();
                Session session = model.newSession()) {
            Map<String, Tensor> inputs = Map.of(
                    "input_ids", Tensor.of(ids, batch, LONGEST),
                    "token_type_ids", Tensor.of(new long[batch * LONGEST], batch, LONGEST),
                    "attention_mask", Tensor.of(mask, batch, LONGEST));
            for (Outputs outputs : List.of(
                    session.run(inputs, ragged),
                    session.run(inputs, ragged.profile(true)),
                    session.runAsync(inputs, ragged.timeout(Duration.ofMinutes(1))).get())) {
                Tensor hidden = outputs.get("last_hidden_state");
                int width = (int) hidden.shape()[2];
                Check.equal(new long[] {batch, LONGEST, width}, hidden.shape(), "the padded shape");
                int[] all = bits(hidden.toFloatArray());
                for (int s = 0; s < batch; s++) {
                    int[] row = Arrays.copyOfRange(all, s * LONGEST * width, (s + 1) * LONGEST * width);
                    try (Outputs alone = alone(session, s)) {
                        int[] want = bits(alone.get("last_hidden_state").toFloatArray());
                        // Zeros where the mask hides.
                        Check.equal(Arrays.copyOf(want, row.length), row, "row " + s);
                    }
                }
                outputs.profileJson().ifPresent(json -> Check.that(json.contains("PackedAttention"), json));
                outputs.close();
            }
            mask[0] = 0;
            Map<String, Tensor> hole = new HashMap<>(inputs);
            hole.put("attention_mask", Tensor.of(mask, batch, LONGEST));
            Check.fails(StatusCode.INVALID_ARGUMENT, () -> session.run(hole, ragged), "'attention_mask'");
        }
    }

    static void contradictionsAndMistakesAreNamed() throws Exception {
        try (Model model = encoder();
                Session session = model.newSession()) {
            Map<String, List<Tensor>> lists = lists();
            Map<String, List<Tensor>> wrong = new HashMap<>(lists);
            List<Tensor> types = lists.get("token_type_ids");
            wrong.put("token_type_ids", List.of(types.get(1), types.get(0), types.get(2)));
            Check.fails(
                    StatusCode.SHAPE_MISMATCH,
                    () -> session.runRagged(wrong),
                    "'token_type_ids' has 1 rows",
                    "'input_ids' has 4");
            wrong.put("token_type_ids", types.subList(0, 2));
            Check.fails(StatusCode.SHAPE_MISMATCH, () -> session.runRagged(wrong), "2 sequences", "3");
            wrong.remove("token_type_ids");
            Check.fails(StatusCode.INVALID_ARGUMENT, () -> session.runRagged(wrong), "'token_type_ids' is missing");
            Check.fails(StatusCode.NOT_FOUND, () -> session.runRagged(Map.of("words", types)), "'words'");
            Check.fails(StatusCode.INVALID_ARGUMENT, () -> session.runRagged(Map.of()));
            Check.throwsNull(() -> session.runRagged(null));
            Check.throwsNull(() -> session.runRagged(lists, null));
            Check.throwsNull(() -> session.runRagged(Map.of("input_ids", Arrays.asList((Tensor) null))));
            try {
                session.runRaggedAsync(wrong).get().close();
                throw new AssertionError("a missing input was accepted");
            } catch (ExecutionException e) {
                Check.fails(StatusCode.INVALID_ARGUMENT, () -> {
                    throw (DeepseekException) e.getCause();
                });
            }
            Session closed = model.newSession();
            closed.close();
            Check.fails(StatusCode.INVALID_STATE, () -> closed.runRagged(lists), "session is closed");
        }
    }

    static void memoryIsKnownFromTheLengths() {
        try (Model model = encoder();
                Session session = model.newSession()) {
            MemoryPlan one = model.planMemoryForLengths(LENGTHS[0]);
            MemoryPlan all = model.planMemoryForLengths(LENGTHS);
            Check.that(one.plannedBytes() > 0 && one.plannedBytes() < all.plannedBytes(), one + " and " + all);
            session.runRagged(lists()).close();
            Check.that(session.observedBytes() <= all.plannedBytes(), "the run took " + session.observedBytes());
            Check.fails(StatusCode.INVALID_ARGUMENT, () -> model.planMemoryForLengths(3, 0), "sequence 1 is empty");
            Check.fails(StatusCode.INVALID_ARGUMENT, () -> model.planMemoryForLengths(3, -2), "-2");
            Check.fails(StatusCode.INVALID_ARGUMENT, () -> model.planMemoryForLengths());
        }
    }

    static void modelsThatMixRowsSayWhere() {
        try (GraphBuilder graph = new GraphBuilder("mixer")) {
            GraphBuilder.Value x = graph.input("x", DType.F32, "batch", "seq", "2");
            graph.output("y", graph.node("Softmax", "over_tokens", "axis = 1", List.of(x), 1).get(0));
            try (Model model = graph.build(ModelTests.RUNTIME);
                    Session session = model.newSession();
                    Tensor rows = Tensor.zeros(DType.F32, 3, 2);
                    Tensor padded = Tensor.zeros(DType.F32, 1, 3, 2)) {
                Check.that(Check.fails(StatusCode.UNSUPPORTED, model::checkRagged, "over_tokens")
                        instanceof UnsupportedException, "class");
                Check.fails(StatusCode.UNSUPPORTED, () -> model.planMemoryForLengths(3), "over_tokens");
                Check.fails(
                        StatusCode.UNSUPPORTED, () -> session.runRagged(Map.of("x", List.of(rows))), "over_tokens");
                RunOptions ragged = RunOptions.defaults().ragged(true);
                Check.fails(StatusCode.UNSUPPORTED, () -> session.run(Map.of("x", padded), ragged), "over_tokens");
            }
        }
    }

    static void raggedRunsEndWhenTheyShould() throws Exception {
        try (Looping loop = new Looping(2);
                Outputs outputs = loop.session.runRagged(loop.lists)) {
            Check.equal(new float[] {-5, -6}, outputs.items("y").get(1).toFloatArray(), "result");
        }
        try (Looping loop = new Looping(Looping.ENDLESS);
                CancelToken token = new CancelToken()) {
            Session session = loop.session;
            RunOptions soon = RunOptions.defaults().timeout(Duration.ofMillis(5));
            Check.fails(StatusCode.TIMEOUT, () -> session.runRagged(loop.lists, soon));
            session.trim();
            Thread canceller = loop.whenRunning(session::cancel);
            Check.fails(StatusCode.CANCELLED, () -> session.runRagged(loop.lists));
            canceller.join();

            CompletableFuture<Outputs> late = session.runRaggedAsync(loop.lists, soon);
            Check.that(Check.failure(late) instanceof TimedOutException, "a deadline");
            CompletableFuture<Outputs> future = session.runRaggedAsync(loop.lists);
            Check.that(future.cancel(true) && future.isCancelled(), "cancelled");
            CompletableFuture<Outputs> other =
                    session.runRaggedAsync(loop.lists, RunOptions.defaults().cancel(token));
            token.cancel();
            Check.cancelled(other);
            Check.fails(
                    StatusCode.CANCELLED, () -> session.runRagged(loop.lists, RunOptions.defaults().cancel(token)));
            CompletableFuture<Outputs> started = session.runRaggedAsync(loop.lists);
            session.cancel();
            Check.cancelled(started);
        }
    }

    static void raggedRunsKeepToTheBudgetOfTheirModel() {
        long bytes;
        try (Model model = Model.open(EmbedderTests.DIRECTORY, ModelTests.RUNTIME)) {
            bytes = model.planMemoryForLengths(4).plannedBytes();
        }
        ModelOptions options = ModelOptions.defaults().memoryBudgetBytes(bytes);
        try (Model model = Model.open(EmbedderTests.DIRECTORY, ModelTests.RUNTIME, options);
                Session session = model.newSession();
                Tensor four = Tensor.zeros(DType.I64, 4);
                Tensor seven = Tensor.zeros(DType.I64, 7)) {
            session.runRagged(Map.of("input_ids", List.of(four), "token_type_ids", List.of(four))).close();
            Check.fails(
                    StatusCode.BUDGET_EXCEEDED,
                    () -> session.runRagged(Map.of("input_ids", List.of(seven), "token_type_ids", List.of(seven))),
                    "memory_budget_bytes");
        }
    }
}
