package ai.deepseek;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Collection;
import java.util.List;

/**
 * Text as it crosses: UTF-8, and lists as one array with each text's length in bytes
 * (little-endian, four bytes) before it.
 */
final class Wire {
    private Wire() {}

    static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    static String text(byte[] bytes) {
        return new String(bytes, StandardCharsets.UTF_8);
    }

    static byte[] bytes(Collection<String> texts) {
        List<byte[]> encoded = new ArrayList<>(texts.size());
        long size = 0;
        for (String text : texts) {
            byte[] bytes = bytes(text);
            encoded.add(bytes);
            size += 4L + bytes.length;
        }
        if (size > Integer.MAX_VALUE - 8) {
            throw new InvalidArgumentException(
                    StatusCode.INVALID_ARGUMENT, "the texts take " + size + " bytes; pass fewer at once", null);
        }
        ByteBuffer out = ByteBuffer.allocate((int) size).order(ByteOrder.LITTLE_ENDIAN);
        for (byte[] bytes : encoded) {
            out.putInt(bytes.length).put(bytes);
        }
        return out.array();
    }

    static List<String> texts(byte[] list) {
        List<String> out = new ArrayList<>();
        ByteBuffer in = ByteBuffer.wrap(list).order(ByteOrder.LITTLE_ENDIAN);
        while (in.hasRemaining()) {
            int length = in.getInt();
            out.add(new String(list, in.position(), length, StandardCharsets.UTF_8));
            in.position(in.position() + length);
        }
        return out;
    }
}
