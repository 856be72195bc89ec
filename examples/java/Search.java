import ai.deepseek.DeepseekException;
import ai.deepseek.Embedder;
import ai.deepseek.Runtime;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.PrintStream;
import java.math.BigDecimal;
import java.math.RoundingMode;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;

/**
 * Semantic search: which passages answer a question?
 *
 * <pre>java -cp deepseek.jar:. Search MODEL_DIR CORPUS.txt QUESTIONS.txt</pre>
 *
 * MODEL_DIR is a sentence encoder as Hugging Face lays it out; the other two hold one passage and
 * one question a line. Every passage becomes a vector once; a question is answered by the three
 * passages whose vectors have the largest dot product with its own. A score is summed in float, one
 * product after another in index order, so programs in other languages print the same bits.
 */
public final class Search {
    private static final int TOP = 3;
    private static final int CUT = 80;

    private Search() {}

    public static void main(String[] args) {
        if (args.length != 3) {
            System.err.println("usage: Search MODEL_DIR CORPUS.txt QUESTIONS.txt");
            System.exit(2);
        }
        try {
            search(Path.of(args[0]), lines(Path.of(args[1])), lines(Path.of(args[2])));
        } catch (DeepseekException | IOException e) {
            System.err.println("search: " + e);
            System.exit(1);
        }
    }

    private static void search(Path model, List<String> corpus, List<String> questions) {
        PrintStream out = new PrintStream(System.out, false, StandardCharsets.UTF_8);
        long start = System.nanoTime();
        try (Runtime runtime = new Runtime();
                Embedder embedder = Embedder.open(model, runtime)) {
            long loaded = System.nanoTime();
            float[][] vectors = embedder.embed(corpus);
            long embedded = System.nanoTime();
            for (String question : questions) {
                out.println("Q " + question);
                printBest(out, embedder.embed(question), vectors, corpus);
            }
            double answered = ms(System.nanoTime() - embedded);
            out.printf(
                    Locale.ROOT,
                    "# %d passages, %d questions, load %.1f ms, corpus %.1f ms, per question %.1f ms%n",
                    corpus.size(),
                    questions.size(),
                    ms(loaded - start),
                    ms(embedded - loaded),
                    answered / Math.max(1, questions.size()));
        }
        out.flush();
    }

    /** Prints the best passages for a question; of equal scores the first passage wins. */
    private static void printBest(PrintStream out, float[] question, float[][] vectors, List<String> corpus) {
        int[] best = new int[TOP];
        float[] scores = new float[TOP];
        int found = 0;
        for (int i = 0; i < vectors.length; i++) {
            float score = dot(question, vectors[i]);
            int at = found;
            for (; at > 0 && score > scores[at - 1]; at--) {
                if (at < TOP) {
                    scores[at] = scores[at - 1];
                    best[at] = best[at - 1];
                }
            }
            if (at < TOP) {
                scores[at] = score;
                best[at] = i;
                found = Math.min(found + 1, TOP);
            }
        }
        for (int rank = 0; rank < found; rank++) {
            out.printf(
                    Locale.ROOT,
                    "  %d %s %08x %s%n",
                    rank + 1,
                    sixDigits(scores[rank]),
                    Float.floatToRawIntBits(scores[rank]),
                    cut(corpus.get(best[rank])));
        }
    }

    private static float dot(float[] a, float[] b) {
        float sum = 0;
        for (int i = 0; i < a.length; i++) {
            sum += a[i] * b[i];
        }
        return sum;
    }

    /** The exact value rounded to six digits, half to even, as C prints it. */
    private static String sixDigits(float score) {
        String digits = new BigDecimal(Math.abs(score)).setScale(6, RoundingMode.HALF_EVEN).toPlainString();
        return Float.floatToRawIntBits(score) < 0 ? "-" + digits : digits;
    }

    /** At most CUT bytes of UTF-8, not cutting a character in two. */
    private static String cut(String text) {
        byte[] bytes = text.getBytes(StandardCharsets.UTF_8);
        if (bytes.length <= CUT) {
            return text;
        }
        int end = CUT;
        while ((bytes[end] & 0xc0) == 0x80) {
            end--;
        }
        return new String(bytes, 0, end, StandardCharsets.UTF_8);
    }

    /** The lines of a file; a line ends with a line feed and nothing else. */
    private static List<String> lines(Path path) throws IOException {
        List<String> lines = new ArrayList<>();
        ByteArrayOutputStream line = new ByteArrayOutputStream();
        byte[] bytes = Files.readAllBytes(path);
        for (int i = 0; i < bytes.length; i++) {
            if (bytes[i] != '\n') {
                line.write(bytes[i]);
            }
            if (bytes[i] == '\n' || i + 1 == bytes.length) {
                lines.add(line.toString(StandardCharsets.UTF_8));
                line.reset();
            }
        }
        return lines;
    }

    private static double ms(long nanos) {
        return nanos / 1e6;
    }
}
