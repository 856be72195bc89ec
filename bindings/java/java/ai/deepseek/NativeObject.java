package ai.deepseek;

import java.lang.ref.Cleaner;

/**
 * Holds an object of the native library by its number.
 *
 * <p>The native side looks a number up, counts a reference for the time of the call, and never
 * uses a number twice. So a call that comes after {@code close}, or races with it, either finds its
 * object and keeps it, or fails with {@link StatusCode#INVALID_STATE}.
 *
 * <p>Native methods that read the number are instance methods: the receiver stays reachable while
 * they run, so the collector cannot close it. Where an object is an argument instead, its caller
 * puts a reachability fence after the call.
 */
abstract class NativeObject implements AutoCloseable {
    private static final Cleaner CLEANER;

    static {
        Library.load();
        CLEANER = Cleaner.create();
    }

    /** What the native side knows the object by. */
    final long handle;

    private final Cleaner.Cleanable cleanable;

    @SuppressWarnings("this-escape")
    NativeObject(long handle) {
        this.handle = handle;
        this.cleanable = freeWith(this, handle);
    }

    /**
     * Gives a native object back when an object of Java is found unreachable.
     *
     * @param owner whose life counts
     * @param handle the native object
     * @return what gives it back earlier
     */
    static Cleaner.Cleanable freeWith(Object owner, long handle) {
        return CLEANER.register(owner, () -> free(handle));
    }

    /** Gives the memory back, once no call uses it. Closing twice does nothing. */
    @Override
    public void close() {
        cleanable.clean();
    }

    static native void free(long handle);
}
