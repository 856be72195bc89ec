package ai.deepseek;

/** Memory is short, or the byte budget of the runtime is (codes 400 to 499). */
public final class ResourceException extends DeepseekException {
    private static final long serialVersionUID = 1L;

    ResourceException(StatusCode code, String detail, String node) {
        super(code, detail, node);
    }
}
