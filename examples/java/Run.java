import ai.deepseek.DType;
import ai.deepseek.Model;
import ai.deepseek.Outputs;
import ai.deepseek.Runtime;
import ai.deepseek.Session;
import ai.deepseek.Tensor;
import ai.deepseek.TensorInfo;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.Map;

/**
 * Runs any ONNX model on zeros and prints what it yields. Symbolic extents are 1.
 *
 * <pre>java -cp deepseek.jar:. Run MODEL.onnx</pre>
 */
public final class Run {
    private Run() {}

    public static void main(String[] args) {
        try (Runtime runtime = new Runtime();
                Model model = Model.open(Path.of(args[0]), runtime);
                Session session = model.newSession()) {
            Map<String, Tensor> inputs = new LinkedHashMap<>();
            for (TensorInfo input : model.inputs()) {
                long[] shape = Arrays.stream(input.shape().orElseThrow()).map(d -> d < 0 ? 1 : d).toArray();
                inputs.put(input.name(), Tensor.zeros(input.dtype().orElse(DType.F32), shape));
            }
            try (Outputs outputs = session.run(inputs)) {
                System.out.println(outputs);
            }
            inputs.values().forEach(Tensor::close);
        }
    }
}
