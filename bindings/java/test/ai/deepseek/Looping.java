package ai.deepseek;

import java.util.ArrayList;
import java.util.List;
import java.util.Map;

/**
 * A session, in a runtime of its own, whose runs last as long as a number of rounds says: {@code y =
 * -x} for rows {@code [batch, seq, 2]}, and {@code z}, a product that many times.
 */
final class Looping implements AutoCloseable {
    /** Rounds of a run that never ends unless it is cut short, on a fast or a slow machine. */
    static final long ENDLESS = Long.MAX_VALUE;

    private static final String BODY = "carried = 1, body = graph \"body\" { input %i: i64[] "
            + "input %go: bool[] input %v: f32[8, 8] %w = MatMul(%v, %v) output \"go\" = %go output \"w\" = %w }";

    final Runtime runtime = new Runtime(RuntimeOptions.defaults().threads(2));
    final Session session;

    /** Inputs of a plain run. */
    final Map<String, Tensor> inputs;

    /** Inputs of a ragged run. */
    final Map<String, List<Tensor>> lists;

    private final Model model;

    Looping(long rounds) {
        try (GraphBuilder graph = new GraphBuilder("looping");
                Tensor zeros = Tensor.zeros(DType.F32, 8, 8)) {
            GraphBuilder.Value x = graph.input("x", DType.F32, "batch", "seq", "2");
            GraphBuilder.Value count = graph.input("rounds", DType.I64);
            List<GraphBuilder.Value> from = new ArrayList<>();
            from.add(count);
            from.add(null);
            from.add(graph.constant("start", zeros));
            graph.output("z", graph.node("Loop", "", BODY, from, 1).get(0));
            graph.output("y", graph.node("Neg", x));
            model = graph.build(runtime);
        }
        session = model.newSession();
        Tensor times = Tensor.of(new long[] {rounds});
        inputs = Map.of("x", Tensor.of(new float[] {1, 2}, 1, 1, 2), "rounds", times);
        Tensor rows = Tensor.of(new float[] {1, 2, 3, 4}, 2, 2);
        Tensor row = Tensor.of(new float[] {5, 6}, 1, 2);
        lists = Map.of("x", List.of(rows, row), "rounds", List.of(times));
    }

    /** Does something, on another thread, once a run is under way. */
    Thread whenRunning(Runnable action) {
        Thread thread = new Thread(() -> {
            while (runtime.reservedBytes() == 0) {
                Thread.yield();
            }
            action.run();
        });
        thread.start();
        return thread;
    }

    @Override
    public void close() {
        session.close();
        model.close();
        lists.values().forEach(list -> list.forEach(Tensor::close));
        inputs.values().forEach(Tensor::close);
        runtime.close();
    }
}
