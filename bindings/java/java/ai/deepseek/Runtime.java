package ai.deepseek;

/** Threads, instruction set and byte budget. Make one a process. */
public final class Runtime extends NativeObject {
    /**
     * A runtime with {@linkplain RuntimeOptions#defaults() defaults}.
     *
     * @throws DeepseekException if {@code DEEPSEEK_NUM_THREADS} is not a number from 1 to 1024
     */
    public Runtime() {
        this(RuntimeOptions.defaults());
    }

    /**
     * A runtime.
     *
     * @param options how it is set up
     * @throws DeepseekException {@code INVALID_ARGUMENT} for an option out of range,
     *     {@code UNSUPPORTED} for an instruction set that this processor lacks
     */
    public Runtime(RuntimeOptions options) {
        super(create(options.threads, Wire.bytes(options.isa), options.memoryBudgetBytes));
    }

    /**
     * Number of computing threads.
     *
     * @return the number
     */
    public int threads() {
        return threads(handle);
    }

    /**
     * The instruction-set level in use.
     *
     * @return the name of a level, as {@link RuntimeOptions#isa} takes it
     */
    public String isa() {
        return Wire.text(isa(handle));
    }

    /**
     * Working memory that the sessions of this runtime hold now, in bytes.
     *
     * @return bytes
     */
    public long reservedBytes() {
        return reserved(handle);
    }

    /**
     * What tensors hold on the library's heap, in the whole process, in bytes.
     *
     * @return bytes
     */
    public static long heapBytes() {
        return Library.heapBytes();
    }

    /**
     * Version of the library, {@code major.minor.patch}.
     *
     * @return the version
     */
    public static String version() {
        return Wire.text(Library.version());
    }

    private static native long create(int threads, byte[] isa, long memoryBudgetBytes);

    private native int threads(long handle);

    private native byte[] isa(long handle);

    private native long reserved(long handle);
}
