package ai.deepseek;

/** The call's deadline passed ({@link StatusCode#TIMEOUT}). */
public final class TimedOutException extends DeepseekException {
    private static final long serialVersionUID = 1L;

    TimedOutException(StatusCode code, String detail, String node) {
        super(code, detail, node);
    }
}
