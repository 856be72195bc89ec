package ai.deepseek;

/** The object cannot do this now: it is closed ({@link StatusCode#INVALID_STATE}). */
public final class InvalidStateException extends DeepseekException {
    private static final long serialVersionUID = 1L;

    InvalidStateException(StatusCode code, String detail, String node) {
        super(code, detail, node);
    }
}
