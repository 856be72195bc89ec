package ai.deepseek;

/** What went wrong, by stable numbers in bands of one hundred; the same in every language. */
public enum StatusCode {
    /** An argument is malformed or out of range. */
    INVALID_ARGUMENT(100),
    /** A shape does not match what the model or operator requires. */
    SHAPE_MISMATCH(101),
    /** An element type does not match what the model or operator requires. */
    DTYPE_MISMATCH(102),
    /** No input, output, node or tensor has the given name. */
    NOT_FOUND(103),
    /** The object cannot do this in its present state; it is closed, for example. */
    INVALID_STATE(104),
    /** The caller's buffer is too small. */
    BUFFER_TOO_SMALL(105),
    /** A file could not be read or written. */
    IO(200),
    /** A file is not what it claims to be. */
    INVALID_FILE(201),
    /** A graph breaks a rule of the representation. */
    INVALID_GRAPH(202),
    /** The operator, attribute, type or format is valid but not implemented. */
    UNSUPPORTED(300),
    /** An option that this version does not know. */
    UNSUPPORTED_OPTION(301),
    /** Memory could not be allocated. */
    OUT_OF_MEMORY(400),
    /** The run would exceed the byte budget of the runtime. */
    BUDGET_EXCEEDED(401),
    /** A device could not be used. */
    DEVICE(500),
    /** The call was cancelled. */
    CANCELLED(600),
    /** The call's deadline passed. */
    TIMEOUT(601),
    /** An invariant of the library is broken. */
    INTERNAL(900),
    /** The library panicked inside a call; the process lives on. */
    PANIC(901),
    /** An earlier panic left this object unusable. */
    POISONED(902);

    private final int number;

    StatusCode(int number) {
        this.number = number;
    }

    /**
     * The number, as in the C header.
     *
     * @return the number
     */
    public int number() {
        return number;
    }

    static StatusCode of(int number) {
        for (StatusCode code : values()) {
            if (code.number == number) {
                return code;
            }
        }
        return INTERNAL;
    }
}
