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

/** Running, now and later, in time and not. */
final class SessionTests {
    private static final long BUDGET = 64 << 10;

    private SessionTests() {}

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
        try (Looping loop = new Looping(Looping.ENDLESS)) {
            RunOptions soon = RunOptions.defaults().timeout(Duration.ofMillis(5));
            Check.that(Check.fails(StatusCode.TIMEOUT, () -> loop.session.run(loop.inputs, soon))
                    instanceof TimedOutException, "class");
            RunOptions never = RunOptions.defaults().timeout(Duration.ofSeconds(-1));
            Check.fails(StatusCode.TIMEOUT, () -> loop.session.run(loop.inputs, never));
        }
        try (Looping loop = new Looping(2)) {
            RunOptions ages = RunOptions.defaults().timeout(Duration.ofSeconds(Long.MAX_VALUE));
            try (Outputs outputs = loop.session.run(loop.inputs, ages)) {
                Check.equal(new float[] {-1, -2}, outputs.get("y").toFloatArray(), "result");
            }
        }
    }

    static void tokensEndRuns() throws Exception {
        try (Looping loop = new Looping(Looping.ENDLESS);
                CancelToken token = new CancelToken()) {
            RunOptions options = RunOptions.defaults().cancel(token);
            Thread canceller = loop.whenRunning(token::cancel);
            Check.that(Check.fails(StatusCode.CANCELLED, () -> loop.session.run(loop.inputs, options))
                    instanceof CancelledException, "class");
            canceller.join();
            Check.that(token.isCancelled(), "raised");
            Check.fails(StatusCode.CANCELLED, () -> loop.session.run(loop.inputs, options));

            loop.session.trim();
            canceller = loop.whenRunning(loop.session::cancel);
            Check.fails(StatusCode.CANCELLED, () -> loop.session.run(loop.inputs));
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
                try (Outputs outputs = futures.get(i).get()) {
                    Check.equal(new float[] {i, 2 * i, 3 * i}, outputs.get("y").toFloatArray(), "run " + i);
                }
            }
            try (Tensor wide = Tensor.of(new float[3], 1, 3)) {
                CompletableFuture<Outputs> future = session.runAsync(Map.of("x", wide));
                try {
                    future.get();
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
        try (Looping loop = new Looping(Looping.ENDLESS);
                CancelToken token = new CancelToken()) {
            CompletableFuture<Outputs> future = loop.session.runAsync(loop.inputs);
            Check.that(future.cancel(true) && future.isCancelled(), "cancelled");
            try {
                future.join();
                throw new AssertionError("a cancelled future has a result");
            } catch (CancellationException e) {
                // as it should be
            }
            // The session is free again, and only because the run has ended: this one gets its turn.
            Thread canceller = loop.whenRunning(token::cancel);
            Check.fails(
                    StatusCode.CANCELLED, () -> loop.session.run(loop.inputs, RunOptions.defaults().cancel(token)));
            canceller.join();
            // A token given by the caller ends a run on another thread as well, and may be up already.
            try (CancelToken other = new CancelToken()) {
                for (int round = 0; round < 2; round++) {
                    CompletableFuture<Outputs> run =
                            loop.session.runAsync(loop.inputs, RunOptions.defaults().cancel(other));
                    other.cancel();
                    Check.cancelled(run);
                }
            }
            // The session ends what was started, whether or not it has got anywhere.
            CompletableFuture<Outputs> run = loop.session.runAsync(loop.inputs);
            loop.session.cancel();
            Check.cancelled(run);
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
}
