package ai.deepseek;

/** A panic of the native library is an exception. Needs a library built with {@code test-hooks}. */
public final class PanicTest {
    private PanicTest() {}

    public static void main(String[] args) {
        Library.load();
        DeepseekException e = Check.fails(StatusCode.PANIC, PanicTest::panic, "on purpose");
        Check.equal(DeepseekException.class, e.getClass(), "class");
        try (GraphBuilder graph = new GraphBuilder("g")) {
            graph.input("x", DType.F32, "1");
            Check.fails(StatusCode.PANIC, () -> panicInside(graph.handle), "inside");
            DeepseekException poisoned =
                    Check.fails(StatusCode.POISONED, () -> graph.input("y", DType.F32, "1"), "make a new one");
            Check.that(poisoned.node().isEmpty(), "no node");
        }
        Check.equal(3L, Tensor.zeros(DType.U8, 3).size(), "the process lives");
        System.out.println("java: panics are exceptions");
    }

    private static native long panic();

    private static native void panicInside(long graph);
}
