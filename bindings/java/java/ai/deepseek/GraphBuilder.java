package ai.deepseek;

import java.lang.ref.Reference;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;

/**
 * A model recorded operation by operation.
 *
 * <p>Extents may be expressions over named symbols ({@code batch}, {@code 2*seq + 1}), so one model
 * serves every length. Shape errors are reported by the call that makes them.
 *
 * <pre>{@code
 * GraphBuilder graph = new GraphBuilder("double");
 * GraphBuilder.Value x = graph.input("x", DType.F32, "batch", "3");
 * graph.output("y", graph.node("Add", x, x));
 * Model model = graph.build(runtime);
 * }</pre>
 */
public final class GraphBuilder extends NativeObject {
    /**
     * An empty graph.
     *
     * @param name its name
     */
    public GraphBuilder(String name) {
        super(create(Wire.bytes(name)));
    }

    /** A value of a graph under construction. */
    public static final class Value {
        private final GraphBuilder owner;
        private final int index;

        private Value(GraphBuilder owner, int index) {
            this.owner = owner;
            this.index = index;
        }

        /**
         * The type as inferred: {@code f32[batch, 3]}.
         *
         * @return the type as text
         * @throws DeepseekException {@code INVALID_STATE} once the builder is closed
         */
        public String type() {
            return Wire.text(owner.typeText(owner.handle, owner.handle, index));
        }

        @Override
        public String toString() {
            return "value " + index;
        }
    }

    /**
     * Adds an input.
     *
     * @param name its name
     * @param dtype its element type
     * @param extents each a number or an expression over symbols
     * @return the value
     * @throws DeepseekException {@code INVALID_ARGUMENT} for a malformed extent,
     *     {@code INVALID_GRAPH} if the name is taken
     */
    public Value input(String name, DType dtype, String... extents) {
        byte[] dims = Wire.bytes(Arrays.asList(extents));
        return new Value(this, addInput(handle, Wire.bytes(name), dtype.number(), dims));
    }

    /**
     * Declares the least value of a symbol.
     *
     * @param symbol the symbol
     * @param min its least value
     * @throws DeepseekException {@code INVALID_ARGUMENT}
     */
    public void bound(String symbol, long min) {
        setBound(handle, Wire.bytes(symbol), min, 0, false);
    }

    /**
     * Declares the range of a symbol.
     *
     * @param symbol the symbol
     * @param min its least value
     * @param max its greatest value
     * @throws DeepseekException {@code INVALID_ARGUMENT} if the range is empty
     */
    public void bound(String symbol, long min, long max) {
        setBound(handle, Wire.bytes(symbol), min, max, true);
    }

    /**
     * Adds a constant.
     *
     * @param name its name
     * @param tensor its contents; it may be closed once this returns
     * @return the value
     * @throws DeepseekException {@code INVALID_GRAPH} if the name is taken
     */
    public Value constant(String name, Tensor tensor) {
        try {
            return new Value(this, addConstant(handle, Wire.bytes(name), tensor.handle));
        } finally {
            Reference.reachabilityFence(tensor);
        }
    }

    /**
     * Applies an operator that has one output and takes no attributes.
     *
     * @param op an ONNX operator name
     * @param inputs its inputs; null for an optional one that is absent
     * @return its output
     * @throws DeepseekException as {@link #node(String, String, String, List, int)}
     */
    public Value node(String op, Value... inputs) {
        return node(op, "", "", Arrays.asList(inputs), 1).get(0);
    }

    /**
     * Applies an operator.
     *
     * @param op an ONNX operator name
     * @param name the node's name; empty for one that is made up
     * @param attributes text such as {@code axis = 1, mode = "linear"}
     * @param inputs its inputs; null for an optional one that is absent
     * @param outputs how many outputs it has
     * @return its outputs
     * @throws DeepseekException {@code UNSUPPORTED} for an unknown operator or attribute,
     *     {@code INVALID_ARGUMENT} for malformed attributes or a value of another builder, and
     *     what the operator's shape rule finds
     */
    public List<Value> node(
            String op, String name, String attributes, List<Value> inputs, int outputs) {
        long[] owners = new long[inputs.size()];
        long[] indices = new long[inputs.size()];
        for (int i = 0; i < owners.length; i++) {
            Value value = inputs.get(i);
            if (value != null) {
                owners[i] = value.owner.handle;
                indices[i] = value.index;
            }
        }
        try {
            byte[] texts = Wire.bytes(List.of(op, name, attributes));
            List<Value> values = new ArrayList<>();
            for (int index : addNode(handle, texts, owners, indices, outputs)) {
                values.add(new Value(this, index));
            }
            return values;
        } finally {
            Reference.reachabilityFence(inputs);
        }
    }

    /**
     * Names a value as an output.
     *
     * @param name the name
     * @param value the value
     * @throws DeepseekException {@code INVALID_GRAPH} if the name is taken, {@code INVALID_ARGUMENT}
     *     for a value of another builder
     */
    public void output(String name, Value value) {
        try {
            addOutput(handle, Wire.bytes(name), value.owner.handle, value.index);
        } finally {
            Reference.reachabilityFence(value);
        }
    }

    /**
     * Compiles the graph. The builder may go on and build again.
     *
     * @param runtime where it will run
     * @return the model
     * @throws DeepseekException {@code INVALID_GRAPH} if there is no output
     */
    public Model build(Runtime runtime) {
        return build(runtime, ModelOptions.defaults());
    }

    /**
     * Compiles the graph. The builder may go on and build again.
     *
     * @param runtime where it will run
     * @param options byte budget and what it must hold for
     * @return the model
     * @throws DeepseekException {@code INVALID_GRAPH} if there is no output, {@code BUDGET_EXCEEDED}
     *     naming the least budget that would do, {@code NOT_FOUND} or {@code SHAPE_MISMATCH} for a
     *     shape that fits no input
     */
    public Model build(Runtime runtime, ModelOptions options) {
        try {
            return new Model(buildModel(
                    handle,
                    runtime.handle,
                    options.memoryBudgetBytes,
                    options.whole,
                    options.names,
                    options.shapes,
                    options.symbols,
                    options.bounds,
                    options.precision()));
        } finally {
            Reference.reachabilityFence(runtime);
        }
    }

    private static native long create(byte[] name);

    private native int addInput(long handle, byte[] name, int dtype, byte[] extents);

    private native void setBound(long handle, byte[] symbol, long min, long max, boolean bounded);

    private native int addConstant(long handle, byte[] name, long tensor);

    private native int[] addNode(
            long handle, byte[] texts, long[] owners, long[] indices, int outputs);

    private native void addOutput(long handle, byte[] name, long owner, int index);

    private native byte[] typeText(long handle, long owner, int index);

    private native long buildModel(
            long handle,
            long runtime,
            long memoryBudgetBytes,
            boolean whole,
            byte[] names,
            long[] shapes,
            byte[] symbols,
            long[] bounds,
            byte[] precision);
}
