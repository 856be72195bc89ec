package ai.deepseek;

import java.util.Objects;

/** How a {@link Runtime} is set up. Immutable: each method returns changed options. */
public final class RuntimeOptions {
    private static final RuntimeOptions DEFAULTS = new RuntimeOptions(0, "", 0);

    final int threads;
    final String isa;
    final long memoryBudgetBytes;

    private RuntimeOptions(int threads, String isa, long memoryBudgetBytes) {
        this.threads = threads;
        this.isa = isa;
        this.memoryBudgetBytes = memoryBudgetBytes;
    }

    /**
     * As many threads as {@code DEEPSEEK_NUM_THREADS} says or the machine has, its best
     * instruction set, no byte budget.
     *
     * @return the defaults
     */
    public static RuntimeOptions defaults() {
        return DEFAULTS;
    }

    /**
     * Sets the number of computing threads.
     *
     * @param count 1 and more; 0 for the default
     * @return changed options
     */
    public RuntimeOptions threads(int count) {
        return new RuntimeOptions(count, isa, memoryBudgetBytes);
    }

    /**
     * Sets the instruction-set level.
     *
     * @param level {@code scalar}, {@code avx2}, {@code avxvnni}, {@code avx512}, {@code avx512vnni},
     *     {@code avx512bf16} or {@code amx}
     * @return changed options
     */
    public RuntimeOptions isa(String level) {
        return new RuntimeOptions(threads, Objects.requireNonNull(level, "level"), memoryBudgetBytes);
    }

    /**
     * Bounds the working memory that all sessions of the runtime may hold together.
     *
     * @param bytes the bound in bytes; 0 for none
     * @return changed options
     */
    public RuntimeOptions memoryBudgetBytes(long bytes) {
        return new RuntimeOptions(threads, isa, bytes);
    }
}
