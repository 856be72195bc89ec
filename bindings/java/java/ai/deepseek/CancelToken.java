package ai.deepseek;

import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;

/**
 * Ends runs early, from any thread. One token may serve several runs; once raised it stays up.
 *
 * <p>Closing is optional: the token is a few bytes, which the garbage collector finds. A run that
 * was given the token can still be cancelled through a token that is open.
 */
public final class CancelToken extends NativeObject {
    /** Tokens of asynchronous calls under way that end with this one. */
    private final Set<CancelToken> dependents = ConcurrentHashMap.newKeySet();

    /** A token that is not raised. */
    public CancelToken() {
        super(create());
    }

    /** Cancels the runs that were given this token. They end at their next kernel boundary. */
    public void cancel() {
        cancel(handle);
        dependents.forEach(CancelToken::cancel);
    }

    /**
     * Whether {@link #cancel} was called.
     *
     * @return whether it was
     */
    public boolean isCancelled() {
        return isCancelled(handle);
    }

    void add(CancelToken dependent) {
        dependents.add(dependent);
        if (isCancelled()) {
            dependent.cancel();
        }
    }

    void remove(CancelToken dependent) {
        dependents.remove(dependent);
    }

    private static native long create();

    private native void cancel(long handle);

    private native boolean isCancelled(long handle);
}
