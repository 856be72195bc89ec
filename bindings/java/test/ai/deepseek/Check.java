package ai.deepseek;

import java.util.Arrays;
import java.util.Objects;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;

/** What the tests say. */
final class Check {
    /** A body that may throw anything. */
    interface Body {
        void run() throws Exception;
    }

    private Check() {}

    static void that(boolean holds, String what) {
        if (!holds) {
            throw new AssertionError(what);
        }
    }

    static void equal(Object expected, Object actual, String what) {
        if (!Objects.deepEquals(expected, actual)) {
            throw new AssertionError(what + ": expected " + text(expected) + ", got " + text(actual));
        }
    }

    /** The body fails with a code and a message that contains all the parts. */
    static DeepseekException fails(StatusCode code, Body body, String... parts) {
        try {
            body.run();
        } catch (DeepseekException e) {
            equal(code, e.code(), "code of '" + e.getMessage() + "'");
            for (String part : parts) {
                that(e.getMessage().contains(part), "'" + e.getMessage() + "' does not contain '" + part + "'");
            }
            return e;
        } catch (Exception e) {
            throw new AssertionError("expected " + code + ", got " + e, e);
        }
        throw new AssertionError("expected " + code + ", got no failure");
    }

    /** Why a call on another thread failed. */
    static Throwable failure(CompletableFuture<?> future) throws InterruptedException {
        try {
            throw new AssertionError("expected a failure, got " + future.get());
        } catch (ExecutionException e) {
            return e.getCause();
        }
    }

    /** A run on another thread was cut short. */
    static void cancelled(CompletableFuture<?> future) throws InterruptedException {
        equal(CancelledException.class, failure(future).getClass(), "cause");
    }

    static void throwsNull(Body body) throws Exception {
        try {
            body.run();
        } catch (NullPointerException e) {
            return;
        }
        throw new AssertionError("null was accepted");
    }

    private static String text(Object value) {
        String text = Arrays.deepToString(new Object[] {value});
        return text.substring(1, text.length() - 1);
    }
}
