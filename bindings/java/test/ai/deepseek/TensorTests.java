package ai.deepseek;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.Arrays;

/** Arrays, bytes, strings and buffers in and out. */
final class TensorTests {
    private TensorTests() {}

    static void arraysComeBack() {
        long[] shape = {3, 1};
        float[] floats = {1.5f, Float.NaN, -0f};
        double[] doubles = {Math.PI, Double.NEGATIVE_INFINITY, Double.MIN_VALUE};
        short[] shorts = {Short.MIN_VALUE, 0, Short.MAX_VALUE};
        int[] ints = {Integer.MIN_VALUE, -1, Integer.MAX_VALUE};
        long[] longs = {Long.MIN_VALUE, 1L << 40, Long.MAX_VALUE};
        boolean[] booleans = {true, false, true};
        try (Tensor f = Tensor.of(floats, shape);
                Tensor d = Tensor.of(doubles, shape);
                Tensor s = Tensor.of(shorts, shape);
                Tensor i = Tensor.of(ints, shape);
                Tensor l = Tensor.of(longs, shape);
                Tensor b = Tensor.of(booleans, shape)) {
            Check.equal(floats, f.toFloatArray(), "floats");
            Check.equal(doubles, d.toDoubleArray(), "doubles");
            Check.equal(shorts, s.toShortArray(), "shorts");
            Check.equal(ints, i.toIntArray(), "ints");
            Check.equal(longs, l.toLongArray(), "longs");
            Check.equal(booleans, b.toBooleanArray(), "booleans");
            Check.equal("[f32[3, 1], f64[3, 1], i16[3, 1], i32[3, 1], i64[3, 1], bool[3, 1]]",
                    Arrays.asList(f, d, s, i, l, b).toString(), "types");
            Check.equal(24L, d.byteSize(), "bytes");
            Check.equal(3L, d.size(), "elements");
            Check.equal(2, d.rank(), "rank");
            Check.equal(shape, d.shape(), "shape");
            d.shape()[0] = 7;
            Check.equal(shape, d.shape(), "the shape is a copy");
        }
    }

    static void bytesOfEveryTypeComeBack() {
        for (DType dtype : DType.values()) {
            if (dtype == DType.STRING) {
                continue;
            }
            byte[] bytes = new byte[(5 * dtype.bits() + 7) / 8];
            for (int i = 0; i < bytes.length; i++) {
                bytes[i] = dtype == DType.BOOL ? (byte) (i % 2) : (byte) (i * 37 + 1);
            }
            try (Tensor t = Tensor.ofBytes(dtype, bytes, 5)) {
                Check.equal(dtype, t.dtype(), "type");
                Check.equal(bytes, t.toByteArray(), dtype + " bytes");
                Check.equal((long) bytes.length, t.byteSize(), dtype + " size");
                byte[] viewed = new byte[bytes.length];
                t.buffer().get(viewed);
                Check.equal(bytes, viewed, dtype + " buffer");
            }
            try (Tensor t = Tensor.zeros(dtype, 2, 0, 3)) {
                Check.equal(0, t.toByteArray().length, dtype + " without elements");
                Check.equal(0, t.buffer().remaining(), dtype + " without elements");
            }
            int need = bytes.length;
            Check.fails(StatusCode.SHAPE_MISMATCH, () -> Tensor.ofBytes(dtype, new byte[need + 1], 5),
                    dtype.shortName(), "" + need, "" + (need + 1));
        }
    }

    static void unsignedAndHalfTypesAreReadAsBits() {
        byte[] bytes = {-1, -1, -1, -1, -1, -1, -1, 127};
        for (DType dtype : new DType[] {DType.U16, DType.F16, DType.BF16, DType.I16}) {
            try (Tensor t = Tensor.ofBytes(dtype, bytes, 4)) {
                Check.equal(new short[] {-1, -1, -1, 32767}, t.toShortArray(), dtype.toString());
            }
        }
        try (Tensor t = Tensor.ofBytes(DType.U32, bytes, 2)) {
            Check.equal(new int[] {-1, Integer.MAX_VALUE}, t.toIntArray(), "u32");
        }
        try (Tensor t = Tensor.ofBytes(DType.U64, bytes, 1)) {
            Check.equal(new long[] {Long.MAX_VALUE}, t.toLongArray(), "u64");
        }
    }

    static void stringsComeBack() {
        String[] strings = {"", "größer", "日本語", "🦀🧮", "a\0b", "line\nbreak"};
        try (Tensor t = Tensor.of(strings, 2, 3)) {
            Check.equal(DType.STRING, t.dtype(), "type");
            Check.equal(strings, t.toStringArray(), "strings");
            Check.equal(0L, t.byteSize(), "bytes");
            Check.fails(StatusCode.DTYPE_MISMATCH, t::toByteArray);
            Check.fails(StatusCode.DTYPE_MISMATCH, t::buffer);
            Check.fails(StatusCode.DTYPE_MISMATCH, t::toFloatArray, "f32", "string");
        }
        try (Tensor t = Tensor.of(new String[] {"\ud800"}, 1)) {
            Check.equal("?", t.toStringArray()[0], "an unpaired surrogate");
        }
        Check.fails(StatusCode.SHAPE_MISMATCH, () -> Tensor.of(strings, 4), "4", "6");
        Check.fails(StatusCode.DTYPE_MISMATCH, () -> Tensor.ofBytes(DType.STRING, new byte[2], 2));
    }

    static void scalarsAndEmptyTensorsAreTensors() {
        try (Tensor scalar = Tensor.of(new float[] {2.5f});
                Tensor empty = Tensor.of(new long[0], 0);
                Tensor noText = Tensor.of(new String[0], 3, 0)) {
            Check.equal(0, scalar.rank(), "rank");
            Check.equal(1L, scalar.size(), "elements");
            Check.equal(new float[] {2.5f}, scalar.toFloatArray(), "element");
            Check.equal(2.5f, scalar.buffer().getFloat(), "element");
            Check.equal(0L, empty.size(), "elements");
            Check.equal(new long[0], empty.toLongArray(), "elements");
            Check.equal(new String[0], noText.toStringArray(), "elements");
        }
    }

    static void wrongArgumentsAreRefused() throws Exception {
        Check.fails(StatusCode.SHAPE_MISMATCH, () -> Tensor.of(new float[5], 2, 3), "[2, 3]", "6", "5");
        Check.fails(StatusCode.INVALID_ARGUMENT, () -> Tensor.of(new int[2], 2, -1), "-1");
        Check.fails(StatusCode.SHAPE_MISMATCH, () -> Tensor.of(new int[1], Long.MAX_VALUE, Long.MAX_VALUE));
        Check.fails(StatusCode.SHAPE_MISMATCH, () -> Tensor.of(new double[1], new long[65]), "65");
        Check.fails(StatusCode.OUT_OF_MEMORY, () -> Tensor.zeros(DType.F64, 1L << 55));
        try (Tensor t = Tensor.of(new float[1], 1)) {
            Check.fails(StatusCode.DTYPE_MISMATCH, t::toIntArray, "i32", "f32");
            Check.fails(StatusCode.DTYPE_MISMATCH, t::toStringArray, "f32");
            Check.fails(StatusCode.INVALID_ARGUMENT, () -> t.buffer(0, 5), "5", "4");
            Check.fails(StatusCode.INVALID_ARGUMENT, () -> t.buffer(-1, 1), "-1");
            Check.fails(StatusCode.INVALID_ARGUMENT, () -> t.buffer(2, -1), "-1");
            Check.fails(StatusCode.INVALID_ARGUMENT, () -> t.buffer(Long.MAX_VALUE, 1));
            Check.equal(2, t.buffer(2, 2).remaining(), "part");
        }
        Check.throwsNull(() -> Tensor.of((float[]) null, 1));
        Check.throwsNull(() -> Tensor.of(new float[1], (long[]) null));
        Check.throwsNull(() -> Tensor.of(new String[] {null}, 1));
        Check.throwsNull(() -> Tensor.ofBytes(DType.U8, null, 1));
        Check.throwsNull(() -> Tensor.wrap(DType.U8, null, 1));
        Check.throwsNull(() -> Tensor.zeros(null, 1));
    }

    static void directBuffersAreNotCopied() {
        int size = 1 << 20;
        ByteBuffer buffer = ByteBuffer.allocateDirect(size * 4).order(ByteOrder.nativeOrder());
        for (int i = 0; i < size; i++) {
            buffer.putInt(4 * i, i);
        }
        long before = Library.heapBytes();
        try (Tensor all = Tensor.wrap(DType.I32, buffer, size)) {
            Check.equal(before, Library.heapBytes(), "bytes on the library's heap");
            buffer.position(8).limit(24);
            try (Tensor part = Tensor.wrap(DType.I32, buffer, 2, 2)) {
                Check.equal(new int[] {2, 3, 4, 5}, part.toIntArray(), "from position to limit");
            }
            buffer.clear();
            Check.equal(size - 1, all.toIntArray()[size - 1], "last element");
            Check.equal(buffer, all.buffer(), "the buffer over the tensor");
        }
    }

    static void directBuffersAreChecked() {
        ByteBuffer heap = ByteBuffer.allocate(8).order(ByteOrder.nativeOrder());
        Check.fails(StatusCode.INVALID_ARGUMENT, () -> Tensor.wrap(DType.F32, heap, 2), "allocateDirect");
        ByteBuffer big = ByteBuffer.allocateDirect(8);
        Check.fails(StatusCode.INVALID_ARGUMENT, () -> Tensor.wrap(DType.F32, big, 2), "BIG_ENDIAN");
        Tensor.wrap(DType.U8, big, 8).close();
        ByteBuffer little = big.order(ByteOrder.nativeOrder());
        Check.fails(StatusCode.SHAPE_MISMATCH, () -> Tensor.wrap(DType.F32, little, 1), "4", "8");
        Check.fails(StatusCode.SHAPE_MISMATCH, () -> Tensor.wrap(DType.F32, little, 3), "12", "8");
        Check.fails(StatusCode.DTYPE_MISMATCH, () -> Tensor.wrap(DType.STRING, little, 1));
        little.put(5, (byte) 9).position(1).limit(5);
        try (Tensor copied = Tensor.wrap(DType.I32, little, 1)) {
            Check.equal(new int[] {0}, copied.toIntArray(), "misaligned bytes");
        }
        little.position(4).limit(8);
        try (Tensor bool = Tensor.wrap(DType.BOOL, little, 4)) {
            Check.equal(new boolean[] {false, true, false, false}, bool.toBooleanArray(), "bytes other than 0 and 1");
        }
        little.position(8).limit(8);
        try (Tensor none = Tensor.wrap(DType.I32, little, 0, 4)) {
            Check.equal(0L, none.size(), "elements");
        }
    }

    static void buffersAreReadOnlyAndInNativeOrder() {
        try (Tensor t = Tensor.of(new int[] {258}, 1)) {
            ByteBuffer buffer = t.buffer();
            Check.that(buffer.isReadOnly() && buffer.isDirect(), "read-only and direct");
            Check.equal(258, buffer.getInt(), "element");
        }
    }
}
