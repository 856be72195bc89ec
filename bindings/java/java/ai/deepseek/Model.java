package ai.deepseek;

import java.lang.ref.Reference;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Optional;

/** A graph compiled for a runtime, with its weights. Immutable; any thread may use it. */
public final class Model extends NativeObject {
    Model(long handle) {
        super(handle);
    }

    /**
     * Opens an {@code .onnx} or {@code .deepseek} file, or a directory with {@code config.json} and
     * safetensors weights.
     *
     * @param path the file or directory
     * @param runtime where it will run
     * @return the model
     * @throws DeepseekException {@code IO} if the path cannot be read, {@code INVALID_FILE} or
     *     {@code INVALID_GRAPH} if it is not what it claims to be, {@code UNSUPPORTED} naming the
     *     format, operator or field
     */
    public static Model open(Path path, Runtime runtime) {
        return open(path, runtime, ModelOptions.defaults());
    }

    /**
     * Opens an {@code .onnx} or {@code .deepseek} file, or a directory with {@code config.json} and
     * safetensors weights.
     *
     * @param path the file or directory
     * @param runtime where it will run
     * @param options byte budget and what it must hold for
     * @return the model
     * @throws DeepseekException as {@link #open(Path, Runtime)}, {@code BUDGET_EXCEEDED} naming the
     *     least budget that would do, {@code NOT_FOUND} or {@code SHAPE_MISMATCH} for a shape that
     *     fits no input, {@code NOT_FOUND} or {@code INVALID_ARGUMENT} for bounds of a symbol that no
     *     input has, or that are not within the model's own, {@code INVALID_ARGUMENT} for a precision
     *     or metric that there is not, calibration data that does not fit, or an accuracy budget that
     *     cannot be met, with the best that can be reached
     */
    public static Model open(Path path, Runtime runtime, ModelOptions options) {
        try {
            return new Model(openPath(
                    Wire.bytes(path.toString()),
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

    /**
     * Loads an ONNX model from memory. External data is refused: it has no directory.
     *
     * @param bytes what an {@code .onnx} file contains
     * @param runtime where it will run
     * @return the model
     * @throws DeepseekException as {@link #open(Path, Runtime)}
     */
    public static Model fromOnnx(byte[] bytes, Runtime runtime) {
        return fromOnnx(bytes, runtime, ModelOptions.defaults());
    }

    /**
     * Loads an ONNX model from memory. External data is refused: it has no directory.
     *
     * @param bytes what an {@code .onnx} file contains
     * @param runtime where it will run
     * @param options byte budget and what it must hold for
     * @return the model
     * @throws DeepseekException as {@link #open(Path, Runtime, ModelOptions)}
     */
    public static Model fromOnnx(byte[] bytes, Runtime runtime, ModelOptions options) {
        Objects.requireNonNull(bytes, "bytes");
        try {
            return new Model(openBytes(
                    bytes,
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

    /**
     * The inputs.
     *
     * @return name and type of each, in order
     */
    public List<TensorInfo> inputs() {
        return TensorInfo.list(inputSpecs(handle));
    }

    /**
     * The outputs.
     *
     * @return name and type of each, in order
     */
    public List<TensorInfo> outputs() {
        return TensorInfo.list(outputSpecs(handle));
    }

    /**
     * Exact bytes of a run whose symbols have the given values.
     *
     * @param symbols a value for each symbol of the inputs
     * @return the plan
     * @throws DeepseekException {@code NOT_FOUND} for a symbol that the model does not have,
     *     {@code INVALID_ARGUMENT} naming one without a value, {@code SHAPE_MISMATCH} for a value
     *     outside its bounds
     */
    public MemoryPlan planMemory(Map<String, Long> symbols) {
        long[] values = symbols.values().stream().mapToLong(Long::longValue).toArray();
        return new MemoryPlan(planSymbols(handle, Wire.bytes(symbols.keySet()), values));
    }

    /**
     * Bytes that no run within the bounds of the model's symbols exceeds: what the run at the upper
     * bounds takes, where all sizes grow with every symbol.
     *
     * @return the plan
     * @throws DeepseekException {@code INVALID_ARGUMENT} naming a symbol without an upper bound, which
     *     {@link ModelOptions#bounds} sets
     */
    public MemoryPlan planMemoryWithinBounds() {
        return new MemoryPlan(planBounds(handle));
    }

    /**
     * Exact bytes of a run whose inputs have the given shapes.
     *
     * @param shapes extents by the input's name
     * @return the plan
     * @throws DeepseekException {@code NOT_FOUND} for an unknown input, {@code SHAPE_MISMATCH} for
     *     a shape that the input does not take, {@code INVALID_ARGUMENT} if a symbol is left without
     *     a value
     */
    public MemoryPlan planMemoryForShapes(Map<String, long[]> shapes) {
        byte[] names = Wire.bytes(shapes.keySet());
        return new MemoryPlan(planShapes(handle, names, ModelOptions.pack(shapes)));
    }

    /**
     * Checks that the model runs sequences of different lengths without padding ({@link
     * Session#runRagged}, {@link RunOptions#ragged}). The first call compiles its packed form.
     *
     * @throws DeepseekException {@code UNSUPPORTED} if it does not, naming the node that mixes the
     *     rows of sequences and why
     */
    public void checkRagged() {
        requireRagged(handle);
    }

    /**
     * Exact bytes of a ragged run of sequences with the given lengths.
     *
     * @param lengths rows of each sequence
     * @return the plan
     * @throws DeepseekException as {@link #checkRagged}, {@code INVALID_ARGUMENT} for no or an empty
     *     sequence, {@code SHAPE_MISMATCH} for a length outside the model's bounds
     */
    public MemoryPlan planMemoryForLengths(int... lengths) {
        return new MemoryPlan(planLengths(handle, Arrays.stream(lengths).asLongStream().toArray()));
    }

    /**
     * Bytes of a run beyond the constants, as a formula over the model's symbols.
     *
     * @return the formula
     */
    public String memoryFormula() {
        return Wire.text(formula(handle));
    }

    /**
     * Writes the model to a {@code .deepseek} file: the prepared graph, the weights, and what came
     * with them, such as the files of a tokenizer. What is at {@code path} is replaced when all is
     * written.
     *
     * @param path the file; its name ends in {@code .deepseek}
     * @throws DeepseekException {@code IO} naming the path, {@code INVALID_ARGUMENT} for another name
     */
    public void save(Path path) {
        savePath(handle, Wire.bytes(path.toString()), false);
    }

    /**
     * As {@link #save}, and stores the weights a second time, packed for the kernels of this machine:
     * on machines with the same instruction set, opening the file packs nothing, and processes share
     * the packed weights.
     *
     * @param path the file; its name ends in {@code .deepseek}
     * @throws DeepseekException as {@link #save}
     */
    public void savePacked(Path path) {
        savePath(handle, Wire.bytes(path.toString()), true);
    }

    /**
     * What the model consists of: inputs, outputs, symbols, operators, parameters.
     *
     * @return a JSON object
     */
    public String summary() {
        return Wire.text(summaryJson(handle));
    }

    /**
     * Why the layers of the model have the precisions that they have: {@code requested}, {@code
     * synthetic} (whether the calibration data was made up), {@code calibrated_with} and {@code
     * verified_with} samples, {@code metric}, {@code budget}, the {@code accuracy} reached,
     * milliseconds of a run {@code ms_before} and {@code ms_after}, and for each of {@code layers}
     * that had a choice {@code node}, {@code op}, {@code precision}, {@code error} and {@code why}.
     *
     * @return a JSON object; empty if the model was not compiled for less than {@code f32}
     */
    public Optional<String> precisionReport() {
        String json = Wire.text(precisionJson(handle));
        return json.isEmpty() ? Optional.empty() : Optional.of(json);
    }

    /**
     * Makes a session.
     *
     * @return working memory to run this model
     */
    public Session newSession() {
        return new Session(newSession(handle));
    }

    private static native long openPath(
            byte[] path,
            long runtime,
            long memoryBudgetBytes,
            boolean whole,
            byte[] names,
            long[] shapes,
            byte[] symbols,
            long[] bounds,
            byte[] precision);

    private static native long openBytes(
            byte[] bytes,
            long runtime,
            long memoryBudgetBytes,
            boolean whole,
            byte[] names,
            long[] shapes,
            byte[] symbols,
            long[] bounds,
            byte[] precision);

    private native byte[] inputSpecs(long handle);

    private native byte[] outputSpecs(long handle);

    private native byte[] planSymbols(long handle, byte[] names, long[] values);

    private native byte[] planBounds(long handle);

    private native byte[] planShapes(long handle, byte[] names, long[] shapes);

    private native void requireRagged(long handle);

    private native byte[] planLengths(long handle, long[] lengths);

    private native byte[] formula(long handle);

    private native void savePath(long handle, byte[] path, boolean packed);

    private native byte[] summaryJson(long handle);

    private native byte[] precisionJson(long handle);

    private native long newSession(long handle);
}
