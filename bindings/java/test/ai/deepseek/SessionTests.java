package ai.deepseek;

import java.time.Duration;
import java.util.ArrayList;
import java.util.Collections;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CancellationException;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.RejectedExecutionException;
import java.util.concurrent.TimeUnit;

/** Running, now and later, in time and not. */
final class SessionTests {
    private static final int SIDE = 256;
    private static final long BUDGET = 64 << 10;

    private SessionTests() {}

    /** Many products one after the other: seconds of work, with a kernel boundary every few milliseconds. */
    static Model slow() {
        try (GraphBuilder graph = new GraphBuilder("slow")) {
            GraphBuilder.Value x = graph.input("x", DType.F32, "" + SIDE, "" + SIDE);
            GraphBuilder.Value y = x;
            for (int i = 0; i < 4000; i++) {
                y = graph.node("MatMul", y, x);
            }
            graph.output("y", y);
            return graph.build(ModelTests.RUNTIME);
        }
    }

    static Tensor slowInput() {
        return Tensor.zeros(DType.F32, SIDE, SIDE);
    }

    static void outputsComeByName() {
        try (Model model = ModelTests.small();
                Session session = model.newSession();
                Tensor x = Tensor.of(new float[] {1, 0, 0, 1}, 2, 2)) {
            Check.equal(0L, session.observedBytes(), "bytes before the first run");
            Outputs outputs = session.run(Map.of("x", x));
            Check.equal(1, outputs.size(), "outputs");
            Check.equal("y: f32[2, 3]", outputs.toString(), "outputs");
            Check.equal("f32[2, 3]", outputs.type("y"), "type");
            Check.equal(new float[] {1, 2, 3, 0, 5, 0}, outputs.get("y").toFloatArray(), "values");
            Check.that(outputs.get("y") == outputs.get(0) && outputs.asMap().get("y") == outputs.get(0), "one tensor");
            Check.that(outputs.trace().isEmpty(), "no trace");
            Check.that(outputs.profileJson().isEmpty() && outputs.profileHtml().isEmpty(), "no profile");
            Check.fails(StatusCode.NOT_FOUND, () -> outputs.get("z"), "'z'", "'y'");
            Check.fails(StatusCode.INVALID_ARGUMENT, () -> outputs.get(1), "1");
            Check.fails(StatusCode.INVALID_ARGUMENT, () -> outputs.get(-1), "-1");
            Check.that(session.observedBytes() > 0, "bytes of the run");
            Tensor kept = outputs.get("y").retain();
            Tensor closed = outputs.get("y");
            outputs.close();
            Check.fails(StatusCode.INVALID_STATE, closed::toFloatArray, "tensor is closed");
            Check.equal(5f, kept.toFloatArray()[4], "a retained tensor");
            kept.close();
            session.trim();
            session.run(Map.of("x", x)).close();
        }
    }

    static void wrongInputsAreNamed() throws Exception {
        try (Model model = ModelTests.small();
                Session session = model.newSession();
                Tensor x = Tensor.of(new float[] {1, 2}, 1, 2);
                Tensor wide = Tensor.of(new float[3], 1, 3);
                Tensor doubles = Tensor.of(new double[2], 1, 2)) {
            Check.fails(StatusCode.INVALID_ARGUMENT, () -> session.run(Map.of()), "'x'");
            Check.fails(StatusCode.NOT_FOUND, () -> session.run(Map.of("x", x, "größe", x)), "'größe'");
            Check.fails(StatusCode.SHAPE_MISMATCH, () -> session.run(Map.of("x", wide)), "'x'", "[1, 3]");
            Check.fails(StatusCode.DTYPE_MISMATCH, () -> session.run(Map.of("x", doubles)), "'x'", "f64");
            Check.throwsNull(() -> session.run(null));
            Check.throwsNull(() -> session.run(Map.of("x", x), null));
            Check.throwsNull(() -> session.run(Collections.singletonMap("x", null)));
            session.run(new HashMap<>(Map.of("x", x))).close();
        }
    }

    static void nodesAreNamedInFailures() {
        try (GraphBuilder graph = new GraphBuilder("g")) {
            GraphBuilder.Value x = graph.input("x", DType.F32, "n");
            GraphBuilder.Value i = graph.input("i", DType.I64, "m");
            graph.output("y", graph.node("Gather", "pick", "", List.of(x, i), 1).get(0));
            try (Model model = graph.build(ModelTests.RUNTIME);
                    Session session = model.newSession();
                    Tensor data = Tensor.of(new float[2], 2);
                    Tensor index = Tensor.of(new long[] {5}, 1)) {
                DeepseekException e = Check.fails(
                        StatusCode.INVALID_ARGUMENT, () -> session.run(Map.of("x", data, "i", index)), "node 'pick'");
                Check.equal("pick", e.node().orElseThrow(), "node");
                Check.that(!e.detail().contains("pick"), e.detail());
            }
        }
    }

    static void profilesAreTraces() {
        try (Model model = ModelTests.small();
                Session session = model.newSession();
                Tensor x = Tensor.of(new float[2], 1, 2);
                Outputs outputs = session.run(Map.of("x", x), RunOptions.defaults().profile(true))) {
            Map<String, Object> trace = Json.object(Json.parse(outputs.trace().orElseThrow()));
            Check.that(!Json.list(trace.get("traceEvents")).isEmpty(), "events");
            Map<String, Object> profile = Json.object(Json.parse(outputs.profileJson().orElseThrow()));
            Check.equal((double) session.observedBytes(), profile.get("observed_bytes"), "bytes of the profile");
            String ops = Json.list(profile.get("events")).stream()
                    .map(event -> (String) Json.object(event).get("op"))
                    .reduce("", (all, op) -> all + op + " ");
            Check.that(ops.contains("MatMul"), ops);
            String page = outputs.profileHtml().orElseThrow();
            Check.that(page.startsWith("<!DOCTYPE html>") && page.contains("MatMul"), "a page");
        }
    }

    static void budgetsAreKept() {
        try (Runtime runtime = new Runtime(RuntimeOptions.defaults().threads(1).memoryBudgetBytes(BUDGET));
                GraphBuilder graph = new GraphBuilder("g")) {
            graph.output("y", graph.node("Exp", graph.node("Neg", graph.input("x", DType.F32, "n"))));
            try (Model model = graph.build(runtime);
                    Session session = model.newSession();
                    Tensor small = Tensor.zeros(DType.F32, 16);
                    Tensor large = Tensor.zeros(DType.F32, 100_000)) {
                Check.equal(0L, runtime.reservedBytes(), "bytes held before the first run");
                session.run(Map.of("x", small)).close();
                Check.that(runtime.reservedBytes() >= 16 * 4 && runtime.reservedBytes() <= BUDGET, "bytes held");
                Check.that(Check.fails(StatusCode.BUDGET_EXCEEDED, () -> session.run(Map.of("x", large)))
                        instanceof ResourceException, "class");
                session.run(Map.of("x", small)).close();
            }
        }
    }

    static void deadlinesEndRuns() {
        try (Model model = slow();
                Session session = model.newSession();
                Tensor x = slowInput()) {
            RunOptions soon = RunOptions.defaults().timeout(Duration.ofMillis(30));
            Check.that(Check.fails(StatusCode.TIMEOUT, () -> session.run(Map.of("x", x), soon))
                    instanceof TimedOutException, "class");
            RunOptions never = RunOptions.defaults().timeout(Duration.ofSeconds(-1));
            Check.fails(StatusCode.TIMEOUT, () -> session.run(Map.of("x", x), never));
        }
        try (Model model = ModelTests.small();
                Session session = model.newSession();
                Tensor x = Tensor.of(new float[2], 1, 2)) {
            RunOptions ages = RunOptions.defaults().timeout(Duration.ofSeconds(Long.MAX_VALUE));
            session.run(Map.of("x", x), ages).close();
        }
    }

    static void tokensEndRuns() throws Exception {
        try (Model model = slow();
                Session session = model.newSession();
                Tensor x = slowInput();
                CancelToken token = new CancelToken()) {
            RunOptions options = RunOptions.defaults().cancel(token);
            Thread canceller = after(50, token::cancel);
            Check.that(Check.fails(StatusCode.CANCELLED, () -> session.run(Map.of("x", x), options))
                    instanceof CancelledException, "class");
            canceller.join();
            Check.that(token.isCancelled(), "raised");
            Check.fails(StatusCode.CANCELLED, () -> session.run(Map.of("x", x), options));

            canceller = after(50, session::cancel);
            Check.fails(StatusCode.CANCELLED, () -> session.run(Map.of("x", x)));
            canceller.join();
        }
    }

    static void futuresYieldOutputs() throws Exception {
        try (Model model = ModelTests.small();
                Session session = model.newSession()) {
            List<CompletableFuture<Outputs>> futures = new ArrayList<>();
            for (int i = 0; i < 20; i++) {
                try (Tensor x = Tensor.of(new float[] {i, 0}, 1, 2)) {
                    futures.add(session.runAsync(Map.of("x", x)));
                }
            }
            for (int i = 0; i < 20; i++) {
                try (Outputs outputs = futures.get(i).get(60, TimeUnit.SECONDS)) {
                    Check.equal(new float[] {i, 2 * i, 3 * i}, outputs.get("y").toFloatArray(), "run " + i);
                }
            }
            try (Tensor wide = Tensor.of(new float[3], 1, 3)) {
                CompletableFuture<Outputs> future = session.runAsync(Map.of("x", wide));
                try {
                    future.get(60, TimeUnit.SECONDS);
                    throw new AssertionError("a wrong shape was accepted");
                } catch (ExecutionException e) {
                    Check.fails(StatusCode.SHAPE_MISMATCH, () -> {
                        throw (DeepseekException) e.getCause();
                    });
                }
            }
            Tensor closed = Tensor.zeros(DType.F32, 1, 2);
            closed.close();
            Check.fails(StatusCode.INVALID_STATE, () -> session.runAsync(Map.of("x", closed)), "tensor is closed");
        }
    }

    static void cancelledFuturesEndTheirRuns() throws Exception {
        try (Model model = slow();
                Session session = model.newSession();
                Tensor x = slowInput();
                CancelToken token = new CancelToken()) {
            long before = System.nanoTime();
            CompletableFuture<Outputs> future = session.runAsync(Map.of("x", x));
            Thread.sleep(30);
            Check.that(future.cancel(true) && future.isCancelled(), "cancelled");
            try {
                future.join();
                throw new AssertionError("a cancelled future has a result");
            } catch (CancellationException e) {
                // as it should be
            }
            // The session is free again at once, and only because the run has ended.
            RunOptions soon = RunOptions.defaults().timeout(Duration.ofMillis(1));
            Check.fails(StatusCode.TIMEOUT, () -> session.run(Map.of("x", x), soon));
            // A token given by the caller ends the run as well, and may already be up.
            for (int round = 0; round < 2; round++) {
                CompletableFuture<Outputs> other =
                        session.runAsync(Map.of("x", x), RunOptions.defaults().cancel(token));
                token.cancel();
                try {
                    other.get(60, TimeUnit.SECONDS);
                    throw new AssertionError("a cancelled run has a result");
                } catch (ExecutionException e) {
                    Check.equal(CancelledException.class, e.getCause().getClass(), "cause");
                }
            }
            Check.that(System.nanoTime() - before < 20e9, "cancelling takes effect soon");
        }
    }

    static void executorsAreTheCallers() throws Exception {
        try (Model model = ModelTests.small();
                Session session = model.newSession();
                Tensor x = Tensor.of(new float[2], 1, 2)) {
            List<Runnable> queue = new ArrayList<>();
            CompletableFuture<Outputs> future = session.runAsync(Map.of("x", x), RunOptions.defaults(), queue::add);
            Check.that(!future.isDone(), "nothing runs before the executor does it");
            queue.remove(0).run();
            future.get().close();
            // Cancelled before it started: the result is dropped, nothing leaks.
            long before = Library.liveObjects();
            CompletableFuture<Outputs> cancelled = session.runAsync(Map.of("x", x), RunOptions.defaults(), queue::add);
            cancelled.cancel(true);
            queue.remove(0).run();
            Check.that(cancelled.isCancelled(), "cancelled");
            Check.that(Library.liveObjects() <= before + 1, "only the token, which the collector finds, is left");
            try {
                session.runAsync(Map.of("x", x), RunOptions.defaults(), work -> {
                    throw new RejectedExecutionException("full");
                });
                throw new AssertionError("a rejected call must say so");
            } catch (RejectedExecutionException e) {
                Check.equal("full", e.getMessage(), "message");
            }
        }
    }

    static void runsOfOneSessionTakeTurns() throws Exception {
        try (Model model = ModelTests.small();
                Session session = model.newSession()) {
            List<Thread> threads = new ArrayList<>();
            List<Throwable> failures = Collections.synchronizedList(new ArrayList<>());
            CountDownLatch start = new CountDownLatch(1);
            for (int t = 0; t < 4; t++) {
                float value = t + 1;
                Thread thread = new Thread(() -> {
                    try (Tensor x = Tensor.of(new float[] {value, 0}, 1, 2)) {
                        start.await();
                        for (int i = 0; i < 200; i++) {
                            try (Outputs outputs = session.run(Map.of("x", x))) {
                                Check.equal(value * 3, outputs.get("y").toFloatArray()[2], "result");
                            }
                        }
                    } catch (Throwable e) {
                        failures.add(e);
                    }
                });
                thread.start();
                threads.add(thread);
            }
            start.countDown();
            for (Thread thread : threads) {
                thread.join();
            }
            Check.equal(List.of(), failures, "failures");
        }
    }

    static Thread after(long millis, Runnable action) {
        Thread thread = new Thread(() -> {
            try {
                Thread.sleep(millis);
            } catch (InterruptedException e) {
                Thread.currentThread().interrupt();
            }
            action.run();
        });
        thread.start();
        return thread;
    }
}
