package ai.deepseek;

import java.time.Duration;
import java.util.Objects;

/** How one call is made. Immutable: each method returns changed options. */
public final class RunOptions {
    private static final RunOptions DEFAULTS = new RunOptions(-1, null, false, false);

    /** Negative for none. */
    final long timeoutNanos;

    /** Null for none. */
    final CancelToken token;

    final boolean profile;

    final boolean ragged;

    private RunOptions(long timeoutNanos, CancelToken token, boolean profile, boolean ragged) {
        this.timeoutNanos = timeoutNanos;
        this.token = token;
        this.profile = profile;
        this.ragged = ragged;
    }

    /**
     * No deadline, no token, no profile, padded batches as they are.
     *
     * @return the defaults
     */
    public static RunOptions defaults() {
        return DEFAULTS;
    }

    /**
     * Bounds the time of the call, waiting for its turn included.
     *
     * @param timeout the time from the call on; negative is as zero
     * @return changed options
     */
    public RunOptions timeout(Duration timeout) {
        long nanos;
        try {
            nanos = Math.max(0, timeout.toNanos());
        } catch (ArithmeticException e) {
            nanos = timeout.isNegative() ? 0 : Long.MAX_VALUE;
        }
        return new RunOptions(nanos, token, profile, ragged);
    }

    /**
     * Sets a token that ends the call early.
     *
     * @param cancel the token
     * @return changed options
     */
    public RunOptions cancel(CancelToken cancel) {
        return new RunOptions(timeoutNanos, Objects.requireNonNull(cancel, "cancel"), profile, ragged);
    }

    /**
     * Sets whether each node of a run is timed, see {@link Outputs#trace},
     * {@link Outputs#profileJson} and {@link Outputs#profileHtml}.
     *
     * @param on whether it is
     * @return changed options
     */
    public RunOptions profile(boolean on) {
        return new RunOptions(timeoutNanos, token, on, ragged);
    }

    /**
     * Sets whether a padded batch is run without its padding. Each row of its mask must be ones,
     * then zeros; outputs are zero where it hides. Models that {@link Model#checkRagged} refuses are
     * refused.
     *
     * @param on whether it is
     * @return changed options
     */
    public RunOptions ragged(boolean on) {
        return new RunOptions(timeoutNanos, token, profile, on);
    }

    /** The token's number; 0 for none. */
    long tokenHandle() {
        return token == null ? 0 : token.handle;
    }
}
