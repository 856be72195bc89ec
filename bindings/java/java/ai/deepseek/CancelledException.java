package ai.deepseek;

/** The call was cancelled ({@link StatusCode#CANCELLED}). */
public final class CancelledException extends DeepseekException {
    private static final long serialVersionUID = 1L;

    CancelledException(StatusCode code, String detail, String node) {
        super(code, detail, node);
    }
}
