package ai.deepseek;

import java.util.concurrent.CompletableFuture;
import java.util.concurrent.Executor;
import java.util.concurrent.Executors;
import java.util.concurrent.atomic.AtomicLong;
import java.util.function.Consumer;
import java.util.function.Function;
import java.util.function.LongFunction;

/**
 * A call on another thread, which cancelling the future ends.
 *
 * @param <T> what it yields
 */
final class Async<T> extends CompletableFuture<T> {
    private static final AtomicLong THREADS = new AtomicLong();

    /** A thread for each call under way; they do not keep the process alive. */
    static final Executor EXECUTOR = Executors.newCachedThreadPool(work -> {
        Thread thread = new Thread(work, "deepseek-run-" + THREADS.incrementAndGet());
        thread.setDaemon(true);
        return thread;
    });

    private final CancelToken token = new CancelToken();

    private Async() {}

    /** The first half of a call, given back if the second never runs. */
    private static final class Prepared extends NativeObject {
        Prepared(long handle) {
            super(handle);
        }
    }

    /**
     * Starts a call.
     *
     * @param begin prepares it on this thread, so that wrong arguments throw here
     * @param finish does it
     * @param discard gives back a result that nobody waits for any more
     */
    static <T> CompletableFuture<T> start(
            RunOptions options,
            Executor executor,
            Function<RunOptions, Long> begin,
            LongFunction<T> finish,
            Consumer<T> discard) {
        Async<T> future = new Async<>();
        CancelToken parent = options.token;
        try {
            if (parent != null) {
                parent.add(future.token);
                future.whenComplete((result, failure) -> parent.remove(future.token));
            }
            Prepared call = new Prepared(begin.apply(options.cancel(future.token)));
            try {
                executor.execute(() -> future.finish(call, finish, discard));
            } catch (Throwable e) {
                call.close();
                throw e;
            }
        } catch (Throwable e) {
            future.completeExceptionally(e);
            throw e;
        }
        return future;
    }

    private void finish(Prepared call, LongFunction<T> finish, Consumer<T> discard) {
        try (call) {
            T result = finish.apply(call.handle);
            if (!complete(result)) {
                discard.accept(result);
            }
        } catch (Throwable e) {
            completeExceptionally(e);
        }
    }

    @Override
    public boolean cancel(boolean mayInterruptIfRunning) {
        token.cancel();
        return super.cancel(mayInterruptIfRunning);
    }
}
