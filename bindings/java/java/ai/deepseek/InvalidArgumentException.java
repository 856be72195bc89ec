package ai.deepseek;

/** An argument is wrong: a name, a shape, an element type (codes 100 to 199). */
public final class InvalidArgumentException extends DeepseekException {
    private static final long serialVersionUID = 1L;

    InvalidArgumentException(StatusCode code, String detail, String node) {
        super(code, detail, node);
    }
}
