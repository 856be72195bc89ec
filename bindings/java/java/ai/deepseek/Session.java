package ai.deepseek;

import java.lang.ref.Reference;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.Executor;
import java.util.stream.Collectors;

/**
 * Working memory to run a model. Runs take turns, so a service makes one session a thread.
 */
public final class Session extends NativeObject {
    Session(long handle) {
        super(handle);
    }

    /**
     * Runs the model.
     *
     * @param inputs a tensor for each input, by name
     * @return the outputs
     * @throws DeepseekException as {@link #run(Map, RunOptions)}
     */
    public Outputs run(Map<String, Tensor> inputs) {
        return run(inputs, RunOptions.defaults());
    }

    /**
     * Runs the model.
     *
     * @param inputs a tensor for each input, by name
     * @param options deadline, token, profile
     * @return the outputs
     * @throws DeepseekException {@code NOT_FOUND} or {@code INVALID_ARGUMENT} for a wrong or
     *     missing name, {@code DTYPE_MISMATCH} or {@code SHAPE_MISMATCH} naming the input and both
     *     sides, {@code CANCELLED}, {@code TIMEOUT}, {@code BUDGET_EXCEEDED},
     *     {@code OUT_OF_MEMORY}, {@code INVALID_STATE} if the session or a tensor is closed,
     *     {@code POISONED} after a panic, and what a node reports, with its name
     */
    public Outputs run(Map<String, Tensor> inputs, RunOptions options) {
        return new Outputs(finish(begin(inputs, options)));
    }

    /**
     * Runs the model on another thread.
     *
     * @param inputs a tensor for each input, by name; they may be closed once this returns
     * @return as {@link #runAsync(Map, RunOptions)}
     * @throws DeepseekException {@code INVALID_STATE} if the session or a tensor is closed
     */
    public CompletableFuture<Outputs> runAsync(Map<String, Tensor> inputs) {
        return runAsync(inputs, RunOptions.defaults());
    }

    /**
     * Runs the model on another thread, of which there is one for each run under way.
     *
     * @param inputs a tensor for each input, by name; they may be closed once this returns
     * @param options deadline (which counts from here), token, profile
     * @return the outputs to come; cancelling the future cancels the run
     * @throws DeepseekException {@code INVALID_STATE} if the session or a tensor is closed
     */
    public CompletableFuture<Outputs> runAsync(Map<String, Tensor> inputs, RunOptions options) {
        return runAsync(inputs, options, Async.EXECUTOR);
    }

    /**
     * Runs the model on a thread of an executor.
     *
     * @param inputs a tensor for each input, by name; they may be closed once this returns
     * @param options deadline (which counts from here), token, profile
     * @param executor what runs it
     * @return the outputs to come; cancelling the future cancels the run
     * @throws DeepseekException {@code INVALID_STATE} if the session or a tensor is closed
     */
    public CompletableFuture<Outputs> runAsync(
            Map<String, Tensor> inputs, RunOptions options, Executor executor) {
        return Async.start(
                options,
                executor,
                own -> begin(inputs, own),
                call -> new Outputs(finish(call)),
                Outputs::close);
    }

    /**
     * Runs sequences of different lengths together.
     *
     * @param inputs tensors for each input, by name
     * @return the outputs, see {@link Outputs#items}
     * @throws DeepseekException as {@link #runRagged(Map, RunOptions)}
     */
    public Outputs runRagged(Map<String, List<Tensor>> inputs) {
        return runRagged(inputs, RunOptions.defaults());
    }

    /**
     * Runs sequences of different lengths together, without padding. Each gives the bits that {@link
     * #run(Map)} gives for it alone: batch 1, masks all ones.
     *
     * <p>An input {@code [batch, seq, ...]} has a tensor {@code [len, ...]} for each sequence, one
     * {@code [batch, ...]} a tensor {@code [...]} for each, others have one tensor. Masks may be left
     * out. Each output is a list in the same form, see {@link Outputs#items}.
     *
     * @param inputs tensors for each input, by name
     * @param options deadline and token; {@code profile} and {@code ragged} have no effect here
     * @return the outputs
     * @throws DeepseekException as {@link Model#checkRagged} and {@link #run(Map, RunOptions)},
     *     {@code SHAPE_MISMATCH} for lengths that contradict each other, naming both inputs, or that
     *     the model does not take, {@code INVALID_ARGUMENT} for no or an empty sequence and for a
     *     mask that hides something
     */
    public Outputs runRagged(Map<String, List<Tensor>> inputs, RunOptions options) {
        return new Outputs(finish(beginRagged(inputs, options)));
    }

    /**
     * Runs sequences of different lengths together, on another thread.
     *
     * @param inputs tensors for each input, by name; they may be closed once this returns
     * @return as {@link #runRaggedAsync(Map, RunOptions)}
     * @throws DeepseekException {@code INVALID_STATE} if the session or a tensor is closed
     */
    public CompletableFuture<Outputs> runRaggedAsync(Map<String, List<Tensor>> inputs) {
        return runRaggedAsync(inputs, RunOptions.defaults());
    }

    /**
     * As {@link #runRagged(Map, RunOptions)}, on another thread.
     *
     * @param inputs tensors for each input, by name; they may be closed once this returns
     * @param options deadline (which counts from here) and token
     * @return the outputs to come; cancelling the future cancels the run
     * @throws DeepseekException {@code INVALID_STATE} if the session or a tensor is closed
     */
    public CompletableFuture<Outputs> runRaggedAsync(Map<String, List<Tensor>> inputs, RunOptions options) {
        return runRaggedAsync(inputs, options, Async.EXECUTOR);
    }

    /**
     * As {@link #runRagged(Map, RunOptions)}, on a thread of an executor.
     *
     * @param inputs tensors for each input, by name; they may be closed once this returns
     * @param options deadline (which counts from here) and token
     * @param executor what runs it
     * @return the outputs to come; cancelling the future cancels the run
     * @throws DeepseekException {@code INVALID_STATE} if the session or a tensor is closed
     */
    public CompletableFuture<Outputs> runRaggedAsync(
            Map<String, List<Tensor>> inputs, RunOptions options, Executor executor) {
        return Async.start(
                options,
                executor,
                own -> beginRagged(inputs, own),
                call -> new Outputs(finish(call)),
                Outputs::close);
    }

    /** Cancels the runs that are under way or wait for their turn. Returns at once. */
    public void cancel() {
        cancelRuns(handle);
    }

    /** Gives the working memory back, unless a run is under way; the next run allocates it again. */
    public void trim() {
        trimMemory(handle);
    }

    /**
     * Most bytes that the last successful run had in use at once beyond the weights.
     *
     * @return bytes; 0 before the first run
     */
    public long observedBytes() {
        return observed(handle);
    }

    /**
     * Cancels running calls and refuses new ones. The memory goes when the last of them has ended.
     * Closing twice does nothing.
     */
    @Override
    public void close() {
        closeSession(handle);
        super.close();
    }

    private long begin(Map<String, Tensor> inputs, RunOptions options) {
        try {
            return begin(
                    handle,
                    Wire.bytes(inputs.keySet()),
                    Tensor.handles(inputs.values(), inputs.size()),
                    options.tokenHandle(),
                    options.timeoutNanos,
                    options.profile,
                    options.ragged);
        } finally {
            inputs.values().forEach(Reference::reachabilityFence);
            Reference.reachabilityFence(options);
        }
    }

    private long beginRagged(Map<String, List<Tensor>> inputs, RunOptions options) {
        List<Tensor> tensors = inputs.values().stream().flatMap(List::stream).collect(Collectors.toList());
        try {
            return beginLists(
                    handle,
                    Wire.bytes(inputs.keySet()),
                    inputs.values().stream().mapToLong(List::size).toArray(),
                    Tensor.handles(tensors, tensors.size()),
                    options.tokenHandle(),
                    options.timeoutNanos);
        } finally {
            tensors.forEach(Reference::reachabilityFence);
            Reference.reachabilityFence(options);
        }
    }

    private native long begin(
            long handle,
            byte[] names,
            long[] tensors,
            long token,
            long timeoutNanos,
            boolean profile,
            boolean ragged);

    private native long beginLists(
            long handle, byte[] names, long[] counts, long[] tensors, long token, long timeoutNanos);

    private static native long finish(long run);

    private native void cancelRuns(long handle);

    private native void trimMemory(long handle);

    private native long observed(long handle);

    private native void closeSession(long handle);
}
