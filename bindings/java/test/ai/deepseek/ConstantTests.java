package ai.deepseek;

import java.util.ArrayList;
import java.util.List;
import java.util.regex.Pattern;

/** The enums say what the library says. */
final class ConstantTests {
    private ConstantTests() {}

    static void enumsAreThoseOfTheLibrary() {
        List<String> mine = new ArrayList<>();
        for (StatusCode code : StatusCode.values()) {
            mine.add("code " + code + " " + code.number());
        }
        for (DType dtype : DType.values()) {
            mine.add("dtype " + dtype.shortName() + " " + dtype.number() + " " + dtype.bits());
        }
        Check.equal(Library.constantTable(), mine, "status codes and element types");
    }

    static void numbersLeadBack() {
        for (StatusCode code : StatusCode.values()) {
            Check.equal(code, StatusCode.of(code.number()), "code");
        }
        for (DType dtype : DType.values()) {
            Check.equal(dtype, DType.of(dtype.number()), "type");
            Check.equal(dtype, DType.of(dtype.shortName()), "type");
        }
        Check.equal(StatusCode.INTERNAL, StatusCode.of(7), "an unknown code");
    }

    static void eachBandHasItsException() {
        class Case {
            final StatusCode code;
            final Class<?> type;

            Case(StatusCode code, Class<?> type) {
                this.code = code;
                this.type = type;
            }
        }
        Case[] cases = {
            new Case(StatusCode.NOT_FOUND, InvalidArgumentException.class),
            new Case(StatusCode.INVALID_STATE, InvalidStateException.class),
            new Case(StatusCode.INVALID_FILE, InvalidModelException.class),
            new Case(StatusCode.UNSUPPORTED_OPTION, UnsupportedException.class),
            new Case(StatusCode.BUDGET_EXCEEDED, ResourceException.class),
            new Case(StatusCode.CANCELLED, CancelledException.class),
            new Case(StatusCode.TIMEOUT, TimedOutException.class),
            new Case(StatusCode.PANIC, DeepseekException.class),
        };
        for (Case c : cases) {
            DeepseekException e = DeepseekException.of(c.code.number(), Wire.bytes("größer"), Wire.bytes("/a"));
            Check.equal(c.type, e.getClass(), "class for " + c.code);
            Check.equal(c.code, e.code(), "code");
            Check.equal("größer", e.detail(), "detail");
            Check.equal("/a", e.node().orElseThrow(), "node");
            Check.equal(c.code + ": node '/a': größer", e.getMessage(), "message");
        }
        Check.that(DeepseekException.of(100, Wire.bytes("x"), null).node().isEmpty(), "no node");
    }

    static void versionHasThreeParts() {
        Check.that(Pattern.matches("\\d+\\.\\d+\\.\\d+", Runtime.version()), Runtime.version());
    }

    static void runtimeTakesItsOptions() {
        RuntimeOptions options = RuntimeOptions.defaults().threads(2).isa("scalar").memoryBudgetBytes(1 << 20);
        try (Runtime runtime = new Runtime(options)) {
            Check.equal(2, runtime.threads(), "threads");
            Check.equal("scalar", runtime.isa(), "isa");
        }
        try (Runtime runtime = new Runtime()) {
            Check.that(runtime.threads() >= 1, "threads");
        }
        RuntimeOptions defaults = RuntimeOptions.defaults();
        Check.fails(StatusCode.INVALID_ARGUMENT, () -> new Runtime(defaults.isa("mmx")), "'mmx'", "avx2");
        Check.fails(StatusCode.INVALID_ARGUMENT, () -> new Runtime(defaults.threads(-1)), "-1");
        Check.fails(StatusCode.INVALID_ARGUMENT, () -> new Runtime(defaults.memoryBudgetBytes(-5)), "-5");
    }
}
