package ai.deepseek;

import java.lang.ref.Reference;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.Arrays;
import java.util.List;

/**
 * Elements of one type in a shape. Immutable.
 *
 * <p>A shape lists extents, outermost first; a scalar has none. Elements are row-major.
 */
public final class Tensor extends NativeObject {
    private final DType dtype;
    private final long byteSize;
    private final long[] shape;

    Tensor(long handle) {
        super(handle);
        long[] facts = describe(handle);
        dtype = DType.of((int) facts[0]);
        byteSize = facts[1];
        shape = Arrays.copyOfRange(facts, 2, facts.length);
    }

    /**
     * A tensor of {@link DType#F32} with a copy of the elements.
     *
     * @param data the elements
     * @param shape the extents
     * @return the tensor
     * @throws DeepseekException {@code SHAPE_MISMATCH} if the shape has another number of elements
     */
    public static Tensor of(float[] data, long... shape) {
        return new Tensor(fromFloats(data, shape));
    }

    /**
     * A tensor of {@link DType#F64} with a copy of the elements.
     *
     * @param data the elements
     * @param shape the extents
     * @return the tensor
     * @throws DeepseekException {@code SHAPE_MISMATCH} if the shape has another number of elements
     */
    public static Tensor of(double[] data, long... shape) {
        return new Tensor(fromDoubles(data, shape));
    }

    /**
     * A tensor of {@link DType#I16} with a copy of the elements.
     *
     * @param data the elements
     * @param shape the extents
     * @return the tensor
     * @throws DeepseekException {@code SHAPE_MISMATCH} if the shape has another number of elements
     */
    public static Tensor of(short[] data, long... shape) {
        return new Tensor(fromShorts(data, shape));
    }

    /**
     * A tensor of {@link DType#I32} with a copy of the elements.
     *
     * @param data the elements
     * @param shape the extents
     * @return the tensor
     * @throws DeepseekException {@code SHAPE_MISMATCH} if the shape has another number of elements
     */
    public static Tensor of(int[] data, long... shape) {
        return new Tensor(fromInts(data, shape));
    }

    /**
     * A tensor of {@link DType#I64} with a copy of the elements.
     *
     * @param data the elements
     * @param shape the extents
     * @return the tensor
     * @throws DeepseekException {@code SHAPE_MISMATCH} if the shape has another number of elements
     */
    public static Tensor of(long[] data, long... shape) {
        return new Tensor(fromLongs(data, shape));
    }

    /**
     * A tensor of {@link DType#BOOL} with a copy of the elements.
     *
     * @param data the elements
     * @param shape the extents
     * @return the tensor
     * @throws DeepseekException {@code SHAPE_MISMATCH} if the shape has another number of elements
     */
    public static Tensor of(boolean[] data, long... shape) {
        return new Tensor(fromBooleans(data, shape));
    }

    /**
     * A tensor of {@link DType#STRING}.
     *
     * @param data the strings
     * @param shape the extents
     * @return the tensor
     * @throws DeepseekException {@code SHAPE_MISMATCH} if the shape has another number of elements
     */
    public static Tensor of(String[] data, long... shape) {
        return new Tensor(fromTexts(Wire.bytes(List.of(data)), shape));
    }

    /**
     * A tensor of any type but {@link DType#STRING} with a copy of its bytes.
     *
     * @param dtype the element type
     * @param data the bytes, little-endian; packed types as they are stored
     * @param shape the extents
     * @return the tensor
     * @throws DeepseekException {@code SHAPE_MISMATCH} if type and shape take another number of
     *     bytes, {@code DTYPE_MISMATCH} for strings
     */
    public static Tensor ofBytes(DType dtype, byte[] data, long... shape) {
        return new Tensor(fromBytes(dtype.number(), data, shape));
    }

    /**
     * A tensor of zeros, of {@code false}, or of empty strings.
     *
     * @param dtype the element type
     * @param shape the extents
     * @return the tensor
     * @throws DeepseekException {@code OUT_OF_MEMORY}
     */
    public static Tensor zeros(DType dtype, long... shape) {
        return new Tensor(zeros(dtype.number(), shape));
    }

    /**
     * A tensor over the memory of a direct buffer, from its position to its limit, without a copy.
     * (Bytes that are not aligned for the type, or not 0 and 1 for {@link DType#BOOL}, are copied.)
     *
     * <p>The memory stays alive as long as the library uses it, whatever becomes of the buffer. It
     * must not be written before this tensor is closed and every run that it was given to has
     * ended; outputs may share it.
     *
     * @param dtype the element type
     * @param buffer a direct buffer in the machine's byte order
     * @param shape the extents
     * @return the tensor
     * @throws DeepseekException {@code INVALID_ARGUMENT} if the buffer is not direct or its order
     *     is not the machine's, {@code SHAPE_MISMATCH} if type and shape take another number of
     *     bytes, {@code DTYPE_MISMATCH} for strings
     */
    public static Tensor wrap(DType dtype, ByteBuffer buffer, long... shape) {
        if (!buffer.isDirect()) {
            throw new InvalidArgumentException(
                    StatusCode.INVALID_ARGUMENT,
                    "the buffer is on the Java heap; take ByteBuffer.allocateDirect, or copy with Tensor.ofBytes",
                    null);
        }
        if (dtype.bits() > 8 && buffer.order() != ByteOrder.nativeOrder()) {
            throw new InvalidArgumentException(
                    StatusCode.INVALID_ARGUMENT,
                    "the buffer's order is " + buffer.order() + ", the machine's is " + ByteOrder.nativeOrder()
                            + "; call order(ByteOrder.nativeOrder()) before filling it",
                    null);
        }
        return new Tensor(wrap(dtype.number(), buffer.slice(), shape));
    }

    /**
     * The element type.
     *
     * @return the type
     */
    public DType dtype() {
        return dtype;
    }

    /**
     * The extents, outermost first.
     *
     * @return the extents; empty for a scalar
     */
    public long[] shape() {
        return shape.clone();
    }

    /**
     * Number of dimensions.
     *
     * @return the number; 0 for a scalar
     */
    public int rank() {
        return shape.length;
    }

    /**
     * Number of elements.
     *
     * @return the number; 1 for a scalar
     */
    public long size() {
        return Arrays.stream(shape).reduce(1, (a, b) -> a * b);
    }

    /**
     * Bytes that the elements take.
     *
     * @return bytes; 0 for strings
     */
    public long byteSize() {
        return byteSize;
    }

    /**
     * A copy of the elements of an {@link DType#F32} tensor.
     *
     * @return the elements
     * @throws DeepseekException {@code DTYPE_MISMATCH} for another type
     */
    public float[] toFloatArray() {
        return toFloats(handle);
    }

    /**
     * A copy of the elements of an {@link DType#F64} tensor.
     *
     * @return the elements
     * @throws DeepseekException {@code DTYPE_MISMATCH} for another type
     */
    public double[] toDoubleArray() {
        return toDoubles(handle);
    }

    /**
     * A copy of the elements of an {@link DType#I16} tensor; the bits of {@link DType#U16},
     * {@link DType#F16} and {@link DType#BF16}.
     *
     * @return the elements
     * @throws DeepseekException {@code DTYPE_MISMATCH} for another type
     */
    public short[] toShortArray() {
        return toShorts(handle);
    }

    /**
     * A copy of the elements of an {@link DType#I32} tensor; the bits of {@link DType#U32}.
     *
     * @return the elements
     * @throws DeepseekException {@code DTYPE_MISMATCH} for another type
     */
    public int[] toIntArray() {
        return toInts(handle);
    }

    /**
     * A copy of the elements of an {@link DType#I64} tensor; the bits of {@link DType#U64}.
     *
     * @return the elements
     * @throws DeepseekException {@code DTYPE_MISMATCH} for another type
     */
    public long[] toLongArray() {
        return toLongs(handle);
    }

    /**
     * A copy of the elements of a {@link DType#BOOL} tensor.
     *
     * @return the elements
     * @throws DeepseekException {@code DTYPE_MISMATCH} for another type
     */
    public boolean[] toBooleanArray() {
        return toBooleans(handle);
    }

    /**
     * The elements of a {@link DType#STRING} tensor.
     *
     * @return the strings
     * @throws DeepseekException {@code DTYPE_MISMATCH} for another type
     */
    public String[] toStringArray() {
        return Wire.texts(toTexts(handle)).toArray(new String[0]);
    }

    /**
     * A copy of the bytes, little-endian; packed types as they are stored.
     *
     * @return the bytes
     * @throws DeepseekException {@code DTYPE_MISMATCH} for strings
     */
    public byte[] toByteArray() {
        return toBytes(handle);
    }

    /**
     * The bytes without a copy: a read-only direct buffer over the tensor's memory, in the
     * machine's byte order. The memory stays while the tensor is open and, after that, while the
     * buffer or a view of it is reachable.
     *
     * @return the buffer
     * @throws DeepseekException {@code DTYPE_MISMATCH} for strings, {@code UNSUPPORTED} for more
     *     bytes than a buffer holds; see {@link #buffer(long, int)}
     */
    public ByteBuffer buffer() {
        if (byteSize > Integer.MAX_VALUE) {
            throw new UnsupportedException(
                    StatusCode.UNSUPPORTED,
                    byteSize + " bytes exceed a buffer; read parts with buffer(offset, length)",
                    null);
        }
        return buffer(0, (int) byteSize);
    }

    /**
     * As {@link #buffer()}, over part of the bytes.
     *
     * @param offset where the part begins, in bytes
     * @param length how many bytes it has
     * @return the buffer
     * @throws DeepseekException {@code INVALID_ARGUMENT} if the part leaves the tensor,
     *     {@code DTYPE_MISMATCH} for strings
     */
    public ByteBuffer buffer(long offset, int length) {
        long shared = share(handle);
        ByteBuffer view;
        try {
            view = view(shared, offset, length);
        } catch (Throwable e) {
            free(shared);
            throw e;
        }
        // Buffers made from this one refer to it, so it is the last to become unreachable.
        freeWith(view, shared);
        return view.asReadOnlyBuffer().order(ByteOrder.nativeOrder());
    }

    /**
     * Another tensor over the same memory, closed by itself: to keep an output longer than the
     * {@link Outputs} it came with.
     *
     * @return the tensor
     */
    public Tensor retain() {
        return new Tensor(share(handle));
    }

    /**
     * Numbers of tensors for a native call. The caller fences the collection after the call.
     */
    static long[] handles(Iterable<Tensor> tensors, int count) {
        long[] handles = new long[count];
        int i = 0;
        for (Tensor tensor : tensors) {
            handles[i++] = tensor.handle;
            Reference.reachabilityFence(tensor);
        }
        return handles;
    }

    @Override
    public String toString() {
        return dtype.shortName() + Arrays.toString(shape);
    }

    private static native long fromFloats(float[] data, long[] shape);

    private static native long fromDoubles(double[] data, long[] shape);

    private static native long fromShorts(short[] data, long[] shape);

    private static native long fromInts(int[] data, long[] shape);

    private static native long fromLongs(long[] data, long[] shape);

    private static native long fromBooleans(boolean[] data, long[] shape);

    private static native long fromTexts(byte[] data, long[] shape);

    private static native long fromBytes(int dtype, byte[] data, long[] shape);

    private static native long zeros(int dtype, long[] shape);

    private static native long wrap(int dtype, ByteBuffer buffer, long[] shape);

    private native long[] describe(long handle);

    private native float[] toFloats(long handle);

    private native double[] toDoubles(long handle);

    private native short[] toShorts(long handle);

    private native int[] toInts(long handle);

    private native long[] toLongs(long handle);

    private native boolean[] toBooleans(long handle);

    private native byte[] toTexts(long handle);

    private native byte[] toBytes(long handle);

    private native long share(long handle);

    private static native ByteBuffer view(long handle, long offset, int length);
}
