package ai.deepseek;

/** A model file cannot be read or is not what it claims to be (codes 200 to 299). */
public final class InvalidModelException extends DeepseekException {
    private static final long serialVersionUID = 1L;

    InvalidModelException(StatusCode code, String detail, String node) {
        super(code, detail, node);
    }
}
