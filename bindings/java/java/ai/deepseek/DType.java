package ai.deepseek;

import java.util.Locale;

/**
 * Element type of a tensor.
 *
 * <p>Elements are little-endian. Types narrower than a byte are packed, the first element in the
 * low bits.
 */
public enum DType {
    /** IEEE 754 binary32. */
    F32(1, 32),
    /** IEEE 754 binary64. */
    F64(2, 64),
    /** IEEE 754 binary16. */
    F16(3, 16),
    /** bfloat16: the upper half of a binary32. */
    BF16(4, 16),
    /** Signed 8-bit integer. */
    I8(5, 8),
    /** Signed 16-bit integer. */
    I16(6, 16),
    /** Signed 32-bit integer. */
    I32(7, 32),
    /** Signed 64-bit integer. */
    I64(8, 64),
    /** Unsigned 8-bit integer. */
    U8(9, 8),
    /** Unsigned 16-bit integer. */
    U16(10, 16),
    /** Unsigned 32-bit integer. */
    U32(11, 32),
    /** Unsigned 64-bit integer. */
    U64(12, 64),
    /** One byte, 0 or 1. */
    BOOL(13, 8),
    /** UTF-8 text. */
    STRING(14, 0),
    /** Signed 4-bit integer, packed. */
    I4(15, 4),
    /** Unsigned 4-bit integer, packed. */
    U4(16, 4),
    /** Signed 2-bit integer, packed. */
    I2(17, 2),
    /** Unsigned 2-bit integer, packed. */
    U2(18, 2),
    /** 8-bit float, 4 exponent bits, finite and NaN only. */
    F8E4M3FN(19, 8),
    /** 8-bit float, 4 exponent bits, one NaN, no negative zero. */
    F8E4M3FNUZ(20, 8),
    /** 8-bit float, 5 exponent bits, with infinities. */
    F8E5M2(21, 8),
    /** 8-bit float, 5 exponent bits, one NaN, no negative zero. */
    F8E5M2FNUZ(22, 8),
    /** 8-bit power-of-two scale. */
    F8E8M0(23, 8),
    /** 4-bit float, packed. */
    F4E2M1(24, 4);

    private final int number;
    private final int bits;

    DType(int number, int bits) {
        this.number = number;
        this.bits = bits;
    }

    /**
     * The number, as in the C header.
     *
     * @return the number
     */
    public int number() {
        return number;
    }

    /**
     * Bits of a stored element.
     *
     * @return bits; 0 for {@link #STRING}
     */
    public int bits() {
        return bits;
    }

    /**
     * The short name, as in messages and type texts: {@code f32}.
     *
     * @return the name
     */
    public String shortName() {
        return name().toLowerCase(Locale.ROOT);
    }

    static DType of(int number) {
        return values()[number - 1];
    }

    static DType of(String shortName) {
        return valueOf(shortName.toUpperCase(Locale.ROOT));
    }
}
