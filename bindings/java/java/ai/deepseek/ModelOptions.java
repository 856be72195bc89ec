package ai.deepseek;

import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.stream.LongStream;

/** How a {@link Model} is made. Immutable: each method returns changed options. */
public final class ModelOptions {
    private static final ModelOptions DEFAULTS =
            new ModelOptions(0, false, new byte[0], new long[0], List.of(), new long[0], List.of("", "", "0", ""));

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

    /** Target, calibration data, accuracy budget and metric. */
    private final List<String> precision;

    private ModelOptions(
            long memoryBudgetBytes,
            boolean whole,
            byte[] names,
            long[] shapes,
            List<String> bounded,
            long[] bounds,
            List<String> precision) {
        this.memoryBudgetBytes = memoryBudgetBytes;
        this.whole = whole;
        this.names = names;
        this.shapes = shapes;
        this.bounded = bounded;
        this.symbols = Wire.bytes(bounded);
        this.bounds = bounds;
        this.precision = precision;
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
        return new ModelOptions(bytes, whole, names, shapes, bounded, bounds, precision);
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
                memoryBudgetBytes,
                whole,
                Wire.bytes(shapes.keySet()),
                pack(shapes),
                bounded,
                bounds,
                precision);
    }

    /**
     * Sets whether nothing runs in blocks of rows, unless the budget asks for it.
     *
     * @param on whether it is so
     * @return changed options
     */
    public ModelOptions whole(boolean on) {
        return new ModelOptions(memoryBudgetBytes, on, names, shapes, bounded, bounds, precision);
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
        return new ModelOptions(
                memoryBudgetBytes, whole, this.names, shapes, List.copyOf(names), ends, precision);
    }

    /**
     * Sets what the layers of a model in {@code f32} compute in: {@code bf16}, {@code f16}, {@code
     * int8}, or {@code auto}, which takes {@code int8} where it is faster on this machine, inside the
     * accuracy budget. {@link Model#precisionReport} says what was chosen and why.
     *
     * @param target the precision; {@code f32} leaves the model as it is
     * @return changed options
     */
    public ModelOptions precision(String target) {
        return with(0, target);
    }

    /**
     * Sets the inputs to calibrate with: an {@code .npz} file, or a directory of them, whose arrays are
     * named after the inputs and hold samples along the first axis; for an encoder a {@code .txt} file
     * of one text a line, or a {@code .jsonl} file of strings or objects with {@code text}. Without it
     * inputs are made up; where the model leaves extents open they have the {@link #shapes}.
     *
     * @param data the file or directory
     * @return changed options
     */
    public ModelOptions calibration(Path data) {
        return with(1, data.toString());
    }

    /**
     * Sets what the metric must reach on the calibration data.
     *
     * @param part 0.95 to 1, 1 being {@code f32}; 0 is the default: 0.99 for {@code auto}, else 0.95
     * @return changed options
     */
    public ModelOptions accuracyBudget(double part) {
        return with(2, Double.toString(part));
    }

    /**
     * Sets what accuracy is measured by.
     *
     * @param name {@code cosine} of outputs, which is the default, or {@code top1} agreement
     * @return changed options
     */
    public ModelOptions metric(String name) {
        return with(3, name);
    }

    private ModelOptions with(int place, String text) {
        List<String> changed = new ArrayList<>(precision);
        changed.set(place, text);
        return new ModelOptions(
                memoryBudgetBytes, whole, names, shapes, bounded, bounds, List.copyOf(changed));
    }

    /** Target, calibration data, accuracy budget and metric. */
    byte[] precision() {
        return Wire.bytes(precision);
    }

    /** For each shape its rank, then its extents. */
    static long[] pack(Map<String, long[]> shapes) {
        return shapes.values().stream()
                .flatMapToLong(shape -> LongStream.concat(LongStream.of(shape.length), Arrays.stream(shape)))
                .toArray();
    }
}
