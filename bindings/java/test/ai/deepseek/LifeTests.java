package ai.deepseek;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;

/** Closing: early, twice, meanwhile, and never. */
final class LifeTests {
    private LifeTests() {}

    static void everyCallAfterCloseIsRefused() {
        Runtime runtime = new Runtime();
        Model model = ModelTests.small();
        Session session = model.newSession();
        Tensor x = Tensor.of(new float[2], 1, 2);
        Tensor open = Tensor.of(new float[2], 1, 2);
        Outputs outputs = session.run(Map.of("x", x));
        GraphBuilder graph = new GraphBuilder("g");
        GraphBuilder.Value value = graph.input("a", DType.F32, "1");
        CancelToken token = new CancelToken();
        Tensor text = Tensor.of(new String[] {"a"}, 1);
        for (NativeObject object : List.of(runtime, model, session, x, outputs, graph, token, text)) {
            object.close();
            object.close();
        }
        class Case {
            final String says;
            final Check.Body body;

            Case(String says, Check.Body body) {
                this.says = says;
                this.body = body;
            }
        }
        Case[] cases = {
            new Case("the runtime is closed", runtime::threads),
            new Case("the runtime is closed", runtime::isa),
            new Case("the runtime is closed", () -> Model.open(Path.of("x.onnx"), runtime)),
            new Case("the runtime is closed", () -> Model.fromOnnx(new byte[1], runtime)),
            new Case("the runtime is closed", () -> Embedder.open(Path.of("x"), runtime)),
            new Case("the runtime is closed", () -> {
                try (GraphBuilder other = new GraphBuilder("h")) {
                    other.build(runtime);
                }
            }),
            new Case("the model is closed", model::inputs),
            new Case("the model is closed", model::outputs),
            new Case("the model is closed", () -> model.planMemory(Map.of("batch", 1L))),
            new Case("the model is closed", () -> model.planMemoryForShapes(Map.of("x", new long[] {1, 2}))),
            new Case("the model is closed", model::memoryFormula),
            new Case("the model is closed", model::summary),
            new Case("the model is closed", () -> model.save(Path.of("x.deepseek"))),
            new Case("the model is closed", model::newSession),
            new Case("the session is closed", () -> session.run(Map.of("x", open))),
            new Case("the session is closed", () -> session.runAsync(Map.of("x", open))),
            new Case("the session is closed", session::cancel),
            new Case("the session is closed", session::trim),
            new Case("the session is closed", session::observedBytes),
            new Case("the tensor is closed", x::toFloatArray),
            new Case("the tensor is closed", x::toDoubleArray),
            new Case("the tensor is closed", x::toShortArray),
            new Case("the tensor is closed", x::toIntArray),
            new Case("the tensor is closed", x::toLongArray),
            new Case("the tensor is closed", x::toBooleanArray),
            new Case("the tensor is closed", x::toByteArray),
            new Case("the tensor is closed", x::buffer),
            new Case("the tensor is closed", x::retain),
            new Case("the tensor is closed", text::toStringArray),
            new Case("the tensor is closed", () -> {
                try (Model other = ModelTests.small();
                        Session running = other.newSession()) {
                    running.run(Map.of("x", x));
                }
            }),
            new Case("the result is closed", () -> outputs.get("y")),
            new Case("the result is closed", () -> outputs.items("y")),
            new Case("the result is closed", outputs::trace),
            new Case("the graph builder is closed", () -> graph.input("b", DType.F32)),
            new Case("the graph builder is closed", () -> graph.constant("c", open)),
            new Case("the graph builder is closed", () -> graph.node("Relu", value)),
            new Case("the graph builder is closed", () -> graph.output("o", value)),
            new Case("the graph builder is closed", () -> graph.bound("n", 1)),
            new Case("the graph builder is closed", () -> graph.build(ModelTests.RUNTIME)),
            new Case("the graph builder is closed", value::type),
            new Case("the cancel token is closed", token::cancel),
            new Case("the cancel token is closed", token::isCancelled),
        };
        for (Case c : cases) {
            Check.that(Check.fails(StatusCode.INVALID_STATE, c.body, c.says) instanceof InvalidStateException, "class");
        }
        Check.equal("f32[1, 2]", x.toString(), "facts about a closed tensor");
        open.close();
    }

    static void parentsMayGoFirst() {
        Runtime runtime = new Runtime(RuntimeOptions.defaults().threads(1));
        GraphBuilder graph = new GraphBuilder("g");
        graph.output("y", graph.node("Neg", graph.input("x", DType.F32, "n")));
        Model model = graph.build(runtime);
        graph.close();
        runtime.close();
        Session session = model.newSession();
        model.close();
        Tensor x = Tensor.of(new float[] {1}, 1);
        Outputs outputs = session.run(Map.of("x", x));
        x.close();
        session.close();
        Check.equal(new float[] {-1}, outputs.get("y").toFloatArray(), "result");
        outputs.close();
    }

    static void closingWhileAnotherThreadRunsCancelsIt() throws Exception {
        for (int round = 0; round < 3; round++) {
            try (Looping loop = new Looping(Looping.ENDLESS)) {
                Thread closer = loop.whenRunning(loop.session::close);
                Check.fails(StatusCode.CANCELLED, () -> loop.session.run(loop.inputs));
                closer.join();
                Check.fails(StatusCode.INVALID_STATE, () -> loop.session.run(loop.inputs), "session is closed");
            }
        }
    }

    /** Closing at random moments: each run works or says why not, and the process lives. */
    static void closingRacesWithRuns() throws Exception {
        try (Model model = ModelTests.small()) {
            for (int round = 0; round < 200; round++) {
                Session session = model.newSession();
                Tensor x = Tensor.of(new float[2], 1, 2);
                Thread closer = new Thread(() -> {
                    x.close();
                    session.close();
                });
                closer.start();
                try {
                    for (;;) {
                        session.run(Map.of("x", x)).close();
                    }
                } catch (InvalidStateException | CancelledException e) {
                    // closed between two runs, or during one
                }
                closer.join();
            }
        }
    }

    static void buffersOutliveTheirTensor() throws Exception {
        long live = settled();
        Tensor tensor = Tensor.of(new int[] {1, 2, 3, 4}, 4);
        ByteBuffer view = tensor.buffer().position(8).slice().order(ByteOrder.nativeOrder());
        tensor.close();
        for (int i = 0; i < 20; i++) {
            System.gc();
            Tensor.zeros(DType.I32, 4).close();
        }
        Check.equal(3, view.getInt(0), "an element, after close and collection");
        view = null;
        Check.that(settlesTo(live), "the buffer gives the tensor back");
    }

    static void wrappedMemoryOutlivesItsBuffer() {
        Tensor tensor = wrapOnes();
        for (int i = 0; i < 5; i++) {
            System.gc();
            ByteBuffer.allocateDirect(1 << 20).put(0, (byte) 7);
        }
        int[] elements = tensor.toIntArray();
        Check.that(elements[0] == 1 && elements[(1 << 18) - 1] == 1, "elements, after collection");
        tensor.close();
    }

    private static Tensor wrapOnes() {
        ByteBuffer buffer = ByteBuffer.allocateDirect(1 << 20).order(ByteOrder.nativeOrder());
        while (buffer.hasRemaining()) {
            buffer.putInt(1);
        }
        return Tensor.wrap(DType.I32, buffer.flip(), 1 << 18);
    }

    static void forgottenObjectsAreCollected() throws Exception {
        long live = settled();
        for (int i = 0; i < 200; i++) {
            forget();
        }
        Check.that(settlesTo(live), "objects that nobody closed are found by the collector");
    }

    private static void forget() {
        Session session = ModelTests.small().newSession();
        session.run(Map.of("x", Tensor.of(new float[2], 1, 2))).get("y");
    }

    static void nothingLeaks() throws Exception {
        long live = settled();
        for (int i = 0; i < 300; i++) {
            useEverything();
        }
        long heap = Library.heapBytes();
        long before = residentKilobytes();
        for (int i = 0; i < 1500; i++) {
            useEverything();
        }
        long grown = residentKilobytes() - before;
        Check.that(settlesTo(live), "objects: " + live + " before, " + Library.liveObjects() + " after");
        Check.that(Library.heapBytes() <= heap, "tensor bytes: " + heap + " before, " + Library.heapBytes() + " after");
        Check.that(grown < 24_000, "resident memory grew by " + grown + " KiB in 1,500 rounds");
    }

    private static void useEverything() {
        try (Model model = ModelTests.small();
                Session session = model.newSession();
                CancelToken token = new CancelToken();
                Tensor x = Tensor.of(new float[2], 1, 2);
                Tensor text = Tensor.of(new String[] {"größe"}, 1);
                Tensor wrong = Tensor.of(new double[2], 1, 2);
                Outputs outputs = session.run(Map.of("x", x), RunOptions.defaults().cancel(token))) {
            model.inputs();
            model.planMemory(Map.of("batch", 2L));
            text.toStringArray();
            outputs.get("y").toByteArray();
            Check.fails(StatusCode.DTYPE_MISMATCH, () -> session.run(Map.of("x", wrong)));
            Check.fails(StatusCode.INVALID_FILE, () -> Model.fromOnnx(new byte[] {1}, ModelTests.RUNTIME));
        }
    }

    /** Lets the collector find what is unreachable, until it finds no more; how many objects are left. */
    private static long settled() throws InterruptedException {
        long left = Library.liveObjects();
        for (int same = 0; same < 20; same++) {
            collect();
            long now = Library.liveObjects();
            same = now == left ? same : 0;
            left = now;
        }
        return left;
    }

    /** Whether the collector leaves at most so many objects, however long its thread takes to do so. */
    private static boolean settlesTo(long goal) throws InterruptedException {
        for (int i = 0; i < 10_000 && Library.liveObjects() > goal; i++) {
            collect();
        }
        return Library.liveObjects() <= goal;
    }

    private static void collect() throws InterruptedException {
        List<byte[]> litter = new ArrayList<>();
        for (int k = 0; k < 8; k++) {
            litter.add(new byte[1 << 16]);
        }
        System.gc();
        Thread.sleep(10);
    }

    private static long residentKilobytes() throws IOException {
        System.gc();
        for (String line : Files.readAllLines(Path.of("/proc/self/status"))) {
            if (line.startsWith("VmRSS:")) {
                return Long.parseLong(line.replaceAll("\\D", ""));
            }
        }
        throw new IOException("no VmRSS");
    }
}
