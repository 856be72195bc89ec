package ai.deepseek;

import java.util.ArrayList;
import java.util.Iterator;
import java.util.List;
import java.util.Optional;

/** Name and type of an input or output of a model. */
public final class TensorInfo {
    private final String name;
    private final String type;
    private final DType dtype;
    private final List<String> extents;
    private final long[] shape;

    private TensorInfo(String name, String type, DType dtype, List<String> extents, long[] shape) {
        this.name = name;
        this.type = type;
        this.dtype = dtype;
        this.extents = extents;
        this.shape = shape;
    }

    static List<TensorInfo> list(byte[] specs) {
        List<TensorInfo> out = new ArrayList<>();
        for (Iterator<String> in = Wire.texts(specs).iterator(); in.hasNext(); ) {
            String name = in.next();
            String type = in.next();
            String dtype = in.next();
            int rank = Integer.parseInt(in.next());
            List<String> extents = new ArrayList<>();
            long[] shape = rank < 0 ? null : new long[rank];
            for (int i = 0; i < rank; i++) {
                extents.add(in.next());
                shape[i] = Long.parseLong(in.next());
            }
            out.add(new TensorInfo(
                    name, type, dtype.isEmpty() ? null : DType.of(dtype), List.copyOf(extents), shape));
        }
        return List.copyOf(out);
    }

    /**
     * The name.
     *
     * @return the name
     */
    public String name() {
        return name;
    }

    /**
     * The type as text: {@code f32[batch, 3]}, {@code f32[...]} if the rank is not known,
     * {@code seq(i64[n])}.
     *
     * @return the text
     */
    public String type() {
        return type;
    }

    /**
     * The element type.
     *
     * @return the type; none if this is a sequence or an optional value
     */
    public Optional<DType> dtype() {
        return Optional.ofNullable(dtype);
    }

    /**
     * Number of dimensions.
     *
     * @return the number, or -1 if it is not known
     */
    public int rank() {
        return shape == null ? -1 : shape.length;
    }

    /**
     * The extents, outermost first.
     *
     * @return numbers, -1 for a symbolic extent; none if the rank is not known
     */
    public Optional<long[]> shape() {
        return Optional.ofNullable(shape).map(long[]::clone);
    }

    /**
     * The extents as text: numbers, and expressions over symbols such as {@code 2*seq + 1}.
     *
     * @return texts, outermost first; empty if the rank is not known
     */
    public List<String> extents() {
        return extents;
    }

    @Override
    public String toString() {
        return name + ": " + type;
    }
}
