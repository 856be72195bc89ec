package ai.deepseek;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;

/** Text in, vectors out, against transformers and sentence-transformers. */
final class EmbedderTests {
    static final Path DIRECTORY = SurfaceTests.ROOT.resolve("golden/hf/bert-mean");

    private EmbedderTests() {}

    static void vectorsAndTokensAreThoseOfTransformers() throws IOException {
        Map<String, Object> expected = Json.object(Json.parse(Files.readString(DIRECTORY.resolve("expected.json"))));
        float[] vectors = floats(DIRECTORY.resolve("expected.safetensors"), "embeddings");
        List<String> texts = new ArrayList<>();
        try (Embedder embedder = Embedder.open(DIRECTORY, ModelTests.RUNTIME)) {
            for (Object entry : Json.list(expected.get("cases"))) {
                Map<String, Object> one = Json.object(entry);
                String text = (String) one.get("text");
                texts.add(text);
                int[] ids = Json.list(one.get("ids")).stream().mapToInt(v -> ((Double) v).intValue()).toArray();
                Check.equal(ids, embedder.tokenize(text), "tokens of '" + text + "'");
                Check.that(ids.length <= embedder.maxTokens(), "at most " + embedder.maxTokens() + " tokens");
            }
            Check.equal(vectors.length, texts.size() * embedder.dim(), "components");
            float[][] got = embedder.embed(texts);
            float largest = 1;
            for (float v : vectors) {
                largest = Math.max(largest, Math.abs(v));
            }
            for (int i = 0; i < texts.size(); i++) {
                for (int k = 0; k < embedder.dim(); k++) {
                    float difference = Math.abs(got[i][k] - vectors[i * embedder.dim() + k]);
                    Check.that(difference <= 1e-5f * largest, "text " + i + ", component " + k + ": " + difference);
                }
                Check.equal(got[i], embedder.embed(texts.get(i)), "the bits of a text alone and in company");
            }
            Check.equal(0, embedder.embed(List.of()).length, "no texts");
        }
    }

    static void callsEndEarlyAndLater() throws Exception {
        List<String> many = Collections.nCopies(20_000, "many words for one vector and then some more");
        Embedder embedder = Embedder.open(DIRECTORY, ModelTests.RUNTIME);
        RunOptions soon = RunOptions.defaults().timeout(Duration.ofMillis(1));
        Check.fails(StatusCode.TIMEOUT, () -> embedder.embed(many, soon));
        try (CancelToken token = new CancelToken()) {
            token.cancel();
            Check.fails(StatusCode.CANCELLED, () -> embedder.embed(many, RunOptions.defaults().cancel(token)));
        }
        CompletableFuture<float[][]> future = embedder.embedAsync(List.of("größe 🦀"), RunOptions.defaults());
        Check.equal(embedder.embed("größe 🦀"), future.get()[0], "later and now");
        CompletableFuture<float[][]> cancelled = embedder.embedAsync(many, RunOptions.defaults());
        Check.that(cancelled.cancel(true), "cancelled");
        Check.throwsNull(() -> embedder.embed(Collections.singletonList(null)));
        embedder.close();
        embedder.close();
        Check.fails(StatusCode.INVALID_STATE, () -> embedder.embed("x"), "embedder is closed");
        Check.fails(StatusCode.INVALID_STATE, () -> embedder.tokenize("x"), "embedder is closed");
        Check.fails(StatusCode.INVALID_STATE, embedder::maxTokens, "embedder is closed");
        Check.fails(StatusCode.INVALID_STATE, () -> embedder.embedAsync(List.of("x"), RunOptions.defaults()));
    }

    static void wrongDirectoriesAreRefused() {
        Path nowhere = SurfaceTests.ROOT.resolve("no such directory");
        try {
            Embedder.open(nowhere, ModelTests.RUNTIME);
            throw new AssertionError("a directory that is not there was opened");
        } catch (DeepseekException e) {
            Check.that(e.getMessage().contains("no such directory"), e.getMessage());
        }
    }

    /** A tensor of a safetensors file. */
    private static float[] floats(Path file, String name) throws IOException {
        ByteBuffer bytes = ByteBuffer.wrap(Files.readAllBytes(file)).order(ByteOrder.LITTLE_ENDIAN);
        byte[] header = new byte[(int) bytes.getLong()];
        bytes.get(header);
        Map<String, Object> tensors = Json.object(Json.parse(new String(header, StandardCharsets.UTF_8)));
        long[] range = Json.longs(Json.object(tensors.get(name)).get("data_offsets"));
        float[] out = new float[(int) (range[1] - range[0]) / 4];
        bytes.position(bytes.position() + (int) range[0]);
        bytes.slice().order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer().get(out);
        return out;
    }
}
