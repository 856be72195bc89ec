/**
 * Runs models: ONNX files, Hugging Face encoders, and graphs recorded operation by operation.
 *
 * <pre>{@code
 * try (Runtime runtime = new Runtime();
 *         Model model = Model.open(Path.of("model.onnx"), runtime);
 *         Session session = model.newSession();
 *         Tensor x = Tensor.of(pixels, 1, 3, 224, 224);
 *         Outputs outputs = session.run(Map.of("x", x))) {
 *     float[] scores = outputs.get("scores").toFloatArray();
 * }
 * }</pre>
 *
 * <p><b>Memory.</b> Objects hold memory of the library. {@code close} gives it back at once; an
 * object that is forgotten is closed when the garbage collector finds it. Objects may be closed in
 * any order: a model keeps its runtime, a session its model.
 *
 * <p><b>Threads.</b> Any thread may use any object. Runs of one session, and calls to one graph
 * builder, take turns. Closing an object while another thread uses it is safe: a call under way
 * keeps what it works on, and a later one fails with {@link ai.deepseek.StatusCode#INVALID_STATE}.
 *
 * <p><b>Failures</b> are {@link ai.deepseek.DeepseekException}s with a stable code. A null argument
 * is a {@link java.lang.NullPointerException}.
 *
 * <p><b>Text</b> is UTF-8 inside the library; an unpaired surrogate becomes a question mark.
 */
package ai.deepseek;
