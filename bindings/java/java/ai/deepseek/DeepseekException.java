package ai.deepseek;

import java.util.Optional;

/**
 * A call that failed.
 *
 * <p>The subclass tells what kind of failure it is and the code which one exactly. The message is
 * one line that names both sides of a mismatch and what to do about it; it never quotes prompts or
 * tensor contents.
 */
public class DeepseekException extends RuntimeException {
    private static final long serialVersionUID = 1L;

    /** The code. */
    private final StatusCode code;

    /** The message alone. */
    private final String detail;

    /** The node, or null. */
    private final String node;

    DeepseekException(StatusCode code, String detail, String node) {
        super(code + ": " + (node == null ? "" : "node '" + node + "': ") + detail);
        this.code = code;
        this.detail = detail;
        this.node = node;
    }

    /**
     * The stable code.
     *
     * @return the code
     */
    public final StatusCode code() {
        return code;
    }

    /**
     * The message without code and node.
     *
     * @return one line
     */
    public final String detail() {
        return detail;
    }

    /**
     * The node of the model in which the failure arose, nested ones as a path from the outside in.
     *
     * @return the node, if the failure arose in one
     */
    public final Optional<String> node() {
        return Optional.ofNullable(node);
    }

    /** Called from native code. */
    static DeepseekException of(int number, byte[] message, byte[] nodeName) {
        StatusCode code = StatusCode.of(number);
        String detail = Wire.text(message);
        String node = nodeName == null ? null : Wire.text(nodeName);
        switch (code) {
            case INVALID_STATE:
                return new InvalidStateException(code, detail, node);
            case CANCELLED:
                return new CancelledException(code, detail, node);
            case TIMEOUT:
                return new TimedOutException(code, detail, node);
            default:
                break;
        }
        switch (code.number() / 100) {
            case 1:
                return new InvalidArgumentException(code, detail, node);
            case 2:
                return new InvalidModelException(code, detail, node);
            case 3:
                return new UnsupportedException(code, detail, node);
            case 4:
                return new ResourceException(code, detail, node);
            default:
                return new DeepseekException(code, detail, node);
        }
    }
}
