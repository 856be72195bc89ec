package ai.deepseek;

import java.io.IOException;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Locale;

/** Finds and loads the native library, once a process. */
final class Library {
    /** System property with the path of a native library to load instead of the packaged one. */
    static final String PROPERTY = "ai.deepseek.library";

    private static final String FILE = "libdeepseek_java.so";

    static {
        loadLibrary();
        checkVersion();
    }

    private Library() {}

    /** Makes sure that the native library is loaded. */
    static void load() {
        // The static initialiser has done it.
    }

    private static void loadLibrary() {
        String path = System.getProperty(PROPERTY);
        if (path != null) {
            System.load(Path.of(path).toAbsolutePath().toString());
            return;
        }
        String resource = "/native/" + platform() + "/" + FILE;
        try (InputStream in = Library.class.getResourceAsStream(resource)) {
            if (in == null) {
                throw new UnsatisfiedLinkError(
                        "this jar has no native library for " + platform() + "; build one and name it with -D"
                                + PROPERTY + "=PATH");
            }
            // The directory is the user's alone, so nobody can put another file in its place.
            Path directory = Files.createTempDirectory("deepseek");
            Path file = directory.resolve(FILE);
            try {
                Files.copy(in, file);
                System.load(file.toString());
            } finally {
                // Once loaded, the library needs its file no longer.
                Files.deleteIfExists(file);
                Files.delete(directory);
            }
        } catch (IOException e) {
            throw (UnsatisfiedLinkError) new UnsatisfiedLinkError(
                            "cannot extract the native library to "
                                    + System.getProperty("java.io.tmpdir")
                                    + "; set -Djava.io.tmpdir to a directory that can be written, or -D"
                                    + PROPERTY
                                    + " to the library")
                    .initCause(e);
        }
    }

    private static String platform() {
        String arch = System.getProperty("os.arch");
        return System.getProperty("os.name").toLowerCase(Locale.ROOT) + "-"
                + (arch.equals("amd64") ? "x86_64" : arch);
    }

    /** Classes and native library belong together; a mixture would fail in odd ways later. */
    private static void checkVersion() {
        try (InputStream in = Library.class.getResourceAsStream("version")) {
            if (in == null) {
                return; // classes outside the jar
            }
            String expected = new String(in.readAllBytes(), StandardCharsets.UTF_8).trim();
            String found = Wire.text(version());
            if (!found.equals(expected)) {
                throw new UnsatisfiedLinkError(
                        "the jar is version " + expected + ", the native library " + found + "; install one of both");
            }
        } catch (IOException e) {
            throw (UnsatisfiedLinkError) new UnsatisfiedLinkError("cannot read the jar's version").initCause(e);
        }
    }

    /**
     * Status codes and element types as the native library numbers them.
     *
     * @return lines {@code code NAME NUMBER} and {@code dtype NAME NUMBER BITS}
     */
    static List<String> constantTable() {
        return Wire.texts(constants());
    }

    static native byte[] version();

    private static native byte[] constants();

    /**
     * How many native objects are alive, in all threads.
     *
     * @return their number
     */
    static native long liveObjects();

    /**
     * Bytes that tensors hold on the library's heap.
     *
     * @return bytes
     */
    static native long heapBytes();
}
