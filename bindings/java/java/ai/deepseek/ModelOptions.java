package ai.deepseek;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.stream.LongStream;

/** How a {@link Model} is made. Immutable: each method returns changed options. */
public final class ModelOptions {
    private static final ModelOptions DEFAULTS =
            new ModelOptions(0, false, new byte[0], new long[0], List.of(), new long[0]);

    final long memoryBudgetBytes;
    final boolean whole;

    /** Names of the inputs that have shapes. */
    final byte[] names;

    /** For each name a rank, then its extents. */
    final long[] shapes;

    /** Symbols that have bounds. */
    final byte[] symbols;

    /** For each symbol its least value, 0 for none, and its greatest, -1 for none. */
    final long[] bounds;

    private final List<String> bounded;

    private ModelOptions(
            long memoryBudgetBytes,
            boolean whole,
            byte[] names,
            long[] shapes,
            List<String> bounded,
            long[] bounds) {
        this.memoryBudgetBytes = memoryBudgetBytes;
        this.whole = whole;
        this.names = names;
        this.shapes = shapes;
        this.bounded = bounded;
        this.symbols = Wire.bytes(bounded);
        this.bounds = bounds;
    }

    /**
     * No byte budget; what costs no time to run so runs in blocks of rows.
     *
     * @return the defaults
     */
    public static ModelOptions defaults() {
        return DEFAULTS;
    }

    /**
     * Bounds the bytes that a run may take beyond the weights. What is too large is cut into blocks
     * of rows until a run of the {@link #shapes} fits; if none does, making the model fails with
     * {@code BUDGET_EXCEEDED} and the least number of bytes that would do. Runs that take more,
     * because of other shapes or because there were none to cut for, are refused.
     *
     * @param bytes the bound in bytes; 0 for none
     * @return changed options
     */
    public ModelOptions memoryBudgetBytes(long bytes) {
        return new ModelOptions(bytes, whole, names, shapes, bounded, bounds);
    }

    /**
     * Sets the largest shapes that the budget must hold for. Inputs whose shapes say nothing new may
     * be left out; if all are, the upper bounds of the model's symbols count.
     *
     * @param shapes extents by the input's name
     * @return changed options
     */
    public ModelOptions shapes(Map<String, long[]> shapes) {
        return new ModelOptions(
                memoryBudgetBytes, whole, Wire.bytes(shapes.keySet()), pack(shapes), bounded, bounds);
    }

    /**
     * Sets whether nothing runs in blocks of rows, unless the budget asks for it.
     *
     * @param on whether it is so
     * @return changed options
     */
    public ModelOptions whole(boolean on) {
        return new ModelOptions(memoryBudgetBytes, on, names, shapes, bounded, bounds);
    }

    /**
     * Adds the range of a symbol, both ends included, that every run keeps to. A run outside fails
     * with {@code SHAPE_MISMATCH}; what is planned within bounds is planned within it.
     *
     * @param symbol the symbol, such as {@code seq} of {@code f32[batch, seq]}
     * @param min least value; 0 leaves the model's own
     * @param max greatest value; -1 leaves the model's own, if it has one
     * @return changed options
     */
    public ModelOptions bounds(String symbol, long min, long max) {
        List<String> names = new ArrayList<>(bounded);
        names.add(symbol);
        long[] ends = LongStream.concat(Arrays.stream(bounds), LongStream.of(min, max)).toArray();
        return new ModelOptions(memoryBudgetBytes, whole, this.names, shapes, List.copyOf(names), ends);
    }

    /** For each shape its rank, then its extents. */
    static long[] pack(Map<String, long[]> shapes) {
        return shapes.values().stream()
                .flatMapToLong(shape -> LongStream.concat(LongStream.of(shape.length), Arrays.stream(shape)))
                .toArray();
    }
}
