import ai.deepseek.DType;
import ai.deepseek.GraphBuilder;
import ai.deepseek.Model;
import ai.deepseek.Outputs;
import ai.deepseek.Runtime;
import ai.deepseek.Session;
import ai.deepseek.Tensor;
import java.util.Map;

/**
 * A graph recorded operation by operation, with a leading extent that is not known.
 *
 * <p>One plan serves 50 tensors of 50 to 99 rows of 512 numbers. How many bytes each run takes is
 * known before it starts, as a formula and as a number.
 */
public final class Dynamic {
    private static final int WIDTH = 512;
    private static final int SHORTEST = 50;
    private static final int TENSORS = 50;

    private Dynamic() {}

    /** Numbers that every language of this example can make alike. */
    private static Tensor numbers(int rows, int step) {
        float[] data = new float[rows * WIDTH];
        for (int i = 0; i < data.length; i++) {
            data[i] = (i * step % 101 - 50) / 512f;
        }
        return Tensor.of(data, rows, WIDTH);
    }

    public static void main(String[] args) {
        try (Runtime runtime = new Runtime();
                GraphBuilder graph = new GraphBuilder("dynamic");
                Tensor weights = numbers(WIDTH, 7)) {
            GraphBuilder.Value x = graph.input("x", DType.F32, "rows", "512");
            GraphBuilder.Value w = graph.constant("w", weights);
            GraphBuilder.Value h = graph.node("Gelu", graph.node("MatMul", x, w));
            graph.output("y", graph.node("Softmax", graph.node("Add", h, x)));
            try (Model model = graph.build(runtime);
                    Session session = model.newSession()) {
                System.out.println("bytes of a run: " + model.memoryFormula());
                for (int rows = SHORTEST; rows < SHORTEST + TENSORS; rows++) {
                    long planned = model.planMemory(Map.of("rows", (long) rows)).plannedBytes();
                    try (Tensor input = numbers(rows, rows);
                            Outputs outputs = session.run(Map.of("x", input))) {
                        float first = outputs.get("y").toFloatArray()[0];
                        System.out.printf("rows %d: %d bytes planned, %d used, y[0][0] has the bits %08x%n", rows,
                                planned, session.observedBytes(), Float.floatToIntBits(first));
                    }
                }
            }
        }
    }
}
