package ai.deepseek;

import java.lang.ref.Reference;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.Executor;

/**
 * A sentence encoder with its tokenizer: text in, vectors out. Calls from several threads run at
 * the same time.
 */
public final class Embedder extends NativeObject {
    private final int dim;

    private Embedder(long handle) {
        super(handle);
        dim = vectorLength(handle);
    }

    /**
     * Opens a directory with {@code config.json}, safetensors weights and {@code tokenizer.json}.
     *
     * @param directory the directory
     * @param runtime where it will run
     * @return the encoder
     * @throws DeepseekException {@code IO}, {@code INVALID_FILE} or {@code UNSUPPORTED} naming the
     *     file and field
     */
    public static Embedder open(Path directory, Runtime runtime) {
        try {
            return new Embedder(openPath(Wire.bytes(directory.toString()), runtime.handle));
        } finally {
            Reference.reachabilityFence(runtime);
        }
    }

    /**
     * Length of a vector.
     *
     * @return the number of components
     */
    public int dim() {
        return dim;
    }

    /**
     * Most tokens of a text that are looked at; longer texts are truncated.
     *
     * @return the number of tokens, special ones included
     */
    public int maxTokens() {
        return tokenLimit(handle);
    }

    /**
     * The vector of a text.
     *
     * @param text the text
     * @return {@link #dim} components
     * @throws DeepseekException as {@link #embed(List, RunOptions)}
     */
    public float[] embed(String text) {
        return embed(List.of(text))[0];
    }

    /**
     * The vectors of texts.
     *
     * @param texts the texts
     * @return a vector for each, in order
     * @throws DeepseekException as {@link #embed(List, RunOptions)}
     */
    public float[][] embed(List<String> texts) {
        return embed(texts, RunOptions.defaults());
    }

    /**
     * The vectors of texts. The vector of a text has the same bits whatever else is in the call.
     *
     * @param texts the texts
     * @param options deadline and token
     * @return a vector for each, in order
     * @throws DeepseekException {@code CANCELLED}, {@code TIMEOUT}, {@code BUDGET_EXCEEDED},
     *     {@code OUT_OF_MEMORY}, {@code INVALID_STATE} once closed
     */
    public float[][] embed(List<String> texts, RunOptions options) {
        return split(finish(begin(texts, options)));
    }

    /**
     * As {@link #embed(List, RunOptions)}, on another thread.
     *
     * @param texts the texts
     * @param options deadline (which counts from here) and token
     * @return the vectors to come; cancelling the future cancels the call
     * @throws DeepseekException {@code INVALID_STATE} once closed
     */
    public CompletableFuture<float[][]> embedAsync(List<String> texts, RunOptions options) {
        return embedAsync(texts, options, Async.EXECUTOR);
    }

    /**
     * As {@link #embed(List, RunOptions)}, on a thread of an executor.
     *
     * @param texts the texts
     * @param options deadline (which counts from here) and token
     * @param executor what runs it
     * @return the vectors to come; cancelling the future cancels the call
     * @throws DeepseekException {@code INVALID_STATE} once closed
     */
    public CompletableFuture<float[][]> embedAsync(
            List<String> texts, RunOptions options, Executor executor) {
        return Async.start(
                options, executor, own -> begin(texts, own), call -> split(finish(call)), unused -> {});
    }

    /**
     * Token ids of a text, special tokens included, truncated to {@link #maxTokens}.
     *
     * @param text the text
     * @return the ids
     * @throws DeepseekException {@code INVALID_FILE} if the tokenizer cannot encode it,
     *     {@code INVALID_STATE} once closed
     */
    public int[] tokenize(String text) {
        return tokenIds(handle, Wire.bytes(text));
    }

    private long begin(List<String> texts, RunOptions options) {
        try {
            return begin(handle, Wire.bytes(texts), options.tokenHandle(), options.timeoutNanos);
        } finally {
            Reference.reachabilityFence(options);
        }
    }

    private float[][] split(float[] vectors) {
        float[][] out = new float[vectors.length / dim][];
        for (int i = 0; i < out.length; i++) {
            out[i] = Arrays.copyOfRange(vectors, i * dim, (i + 1) * dim);
        }
        return out;
    }

    private static native long openPath(byte[] path, long runtime);

    private native int vectorLength(long handle);

    private native int tokenLimit(long handle);

    private native long begin(long handle, byte[] texts, long token, long timeoutNanos);

    private static native float[] finish(long call);

    private native int[] tokenIds(long handle, byte[] text);
}
