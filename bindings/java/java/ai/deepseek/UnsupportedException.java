package ai.deepseek;

/** What was asked for is valid but not implemented (codes 300 to 399). */
public final class UnsupportedException extends DeepseekException {
    private static final long serialVersionUID = 1L;

    UnsupportedException(StatusCode code, String detail, String node) {
        super(code, detail, node);
    }
}
