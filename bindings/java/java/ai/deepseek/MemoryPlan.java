package ai.deepseek;

import java.util.ArrayList;
import java.util.List;

/** Exact bytes of a run, known before it. */
public final class MemoryPlan {
    private final String json;
    private final long[] numbers = new long[5];
    private final List<Value> largest;

    MemoryPlan(byte[] report) {
        List<String> texts = Wire.texts(report);
        json = texts.get(0);
        for (int i = 0; i < numbers.length; i++) {
            numbers[i] = Long.parseLong(texts.get(1 + i));
        }
        List<Value> values = new ArrayList<>();
        for (int i = 1 + numbers.length; i < texts.size(); i += 3) {
            values.add(new Value(texts.get(i), texts.get(i + 1), Long.parseLong(texts.get(i + 2))));
        }
        largest = List.copyOf(values);
    }

    /**
     * Bytes of the arena.
     *
     * @return bytes
     */
    public long arenaBytes() {
        return numbers[0];
    }

    /**
     * Bytes of the outputs.
     *
     * @return bytes
     */
    public long outputBytes() {
        return numbers[1];
    }

    /**
     * Bytes that a run takes beyond the constants: arena and outputs.
     *
     * @return bytes
     */
    public long plannedBytes() {
        return numbers[2];
    }

    /**
     * Bytes of the model's constants, mapped ones included.
     *
     * @return bytes
     */
    public long constantBytes() {
        return numbers[3];
    }

    /**
     * Number of values whose extents depend on data; their bytes come on top.
     *
     * @return the number
     */
    public long dynamicValues() {
        return numbers[4];
    }

    /**
     * The largest planned values, at most ten.
     *
     * @return values by descending bytes
     */
    public List<Value> largest() {
        return largest;
    }

    /**
     * The plan as JSON.
     *
     * @return an object
     */
    public String toJson() {
        return json;
    }

    @Override
    public String toString() {
        return json;
    }

    /** A value of the graph and what it takes. */
    public static final class Value {
        private final String name;
        private final String type;
        private final long bytes;

        Value(String name, String type, long bytes) {
            this.name = name;
            this.type = type;
            this.bytes = bytes;
        }

        /**
         * Name of the value.
         *
         * @return the name
         */
        public String name() {
            return name;
        }

        /**
         * Type of the value as text.
         *
         * @return the type
         */
        public String type() {
            return type;
        }

        /**
         * Bytes of the value.
         *
         * @return bytes
         */
        public long bytes() {
            return bytes;
        }

        @Override
        public String toString() {
            return name + ": " + type + ", " + bytes + " bytes";
        }
    }
}
