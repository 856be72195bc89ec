package ai.deepseek;

import java.util.ArrayList;
import java.util.Collections;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;

/**
 * What a run yielded, by name, in the model's order. Closing it closes the tensors that were read
 * from it; {@link Tensor#retain} keeps one longer.
 */
public final class Outputs extends NativeObject {
    private final List<String> names;
    private final List<String> types;

    /** Tensors handed out by {@link #get(int)}. */
    private final Map<Integer, Tensor> tensors = new HashMap<>();

    /** Tensors handed out by {@link #items}. */
    private final Map<Integer, List<Tensor>> items = new HashMap<>();

    Outputs(long handle) {
        super(handle);
        List<String> pairs = Wire.texts(describe(handle));
        List<String> names = new ArrayList<>();
        List<String> types = new ArrayList<>();
        for (int i = 0; i < pairs.size(); i += 2) {
            names.add(pairs.get(i));
            types.add(pairs.get(i + 1));
        }
        this.names = List.copyOf(names);
        this.types = List.copyOf(types);
    }

    /**
     * The names.
     *
     * @return the names, in order
     */
    public List<String> names() {
        return names;
    }

    /**
     * Number of outputs.
     *
     * @return the number
     */
    public int size() {
        return names.size();
    }

    /**
     * The type of an output as text, with the extents of this run: {@code f32[2, 3]}.
     *
     * @param name its name
     * @return the type
     * @throws DeepseekException {@code NOT_FOUND} if there is no such output
     */
    public String type(String name) {
        return types.get(index(name));
    }

    /**
     * The tensor of an output. It is closed with this object.
     *
     * @param name its name
     * @return the tensor, the same one each time
     * @throws DeepseekException {@code NOT_FOUND} if there is no such output, {@code UNSUPPORTED}
     *     if it is not a tensor (see {@link #items}), {@code INVALID_STATE} once closed
     */
    public Tensor get(String name) {
        return get(index(name));
    }

    /**
     * The tensor of an output. It is closed with this object.
     *
     * @param index its position
     * @return the tensor, the same one each time
     * @throws DeepseekException {@code INVALID_ARGUMENT} if there are not so many outputs, otherwise
     *     as {@link #get(String)}
     */
    public synchronized Tensor get(int index) {
        // A value that cannot be read throws from the native call and is not kept.
        return tensors.computeIfAbsent(index, i -> new Tensor(tensor(handle, i)));
    }

    /**
     * The tensors of an output that is a sequence, as all outputs of a ragged run are; one or none of
     * an optional value. They are closed with this object.
     *
     * @param name its name
     * @return the tensors, the same ones each time
     * @throws DeepseekException {@code NOT_FOUND} if there is no such output, {@code UNSUPPORTED}
     *     if it is a tensor (see {@link #get(String)}) or nested deeper, {@code INVALID_STATE} once
     *     closed
     */
    public synchronized List<Tensor> items(String name) {
        return items.computeIfAbsent(index(name), i -> {
            List<Tensor> out = new ArrayList<>();
            for (long item : itemTensors(handle, i)) {
                out.add(new Tensor(item));
            }
            return Collections.unmodifiableList(out);
        });
    }

    /**
     * All outputs, in order.
     *
     * @return the tensors by name; they are closed with this object
     * @throws DeepseekException as {@link #get(String)}
     */
    public Map<String, Tensor> asMap() {
        Map<String, Tensor> out = new LinkedHashMap<>();
        for (int i = 0; i < names.size(); i++) {
            out.put(names.get(i), get(i));
        }
        return Collections.unmodifiableMap(out);
    }

    /**
     * When each node ran, for how long and with how many bytes in use, in the Chrome trace format,
     * which Perfetto opens.
     *
     * @return the trace, if {@link RunOptions#profile} was set
     */
    public Optional<String> trace() {
        return Optional.ofNullable(chromeTrace(handle)).map(Wire::text);
    }

    /**
     * All figures of the run: bytes planned and observed, the peak and the tensors alive then, time
     * by kernel, and each node with its tensors.
     *
     * @return a JSON object, if {@link RunOptions#profile} was set
     */
    public Optional<String> profileJson() {
        return Optional.ofNullable(jsonProfile(handle)).map(Wire::text);
    }

    /**
     * A page that shows the run: memory over time, the arena, the largest tensors at the peak, time
     * by operator and node. It refers to nothing outside itself.
     *
     * @return the text of an HTML file, if {@link RunOptions#profile} was set
     */
    public Optional<String> profileHtml() {
        return Optional.ofNullable(htmlProfile(handle)).map(Wire::text);
    }

    /** Closes the outputs and the tensors that were read from them. Closing twice does nothing. */
    @Override
    public synchronized void close() {
        tensors.values().forEach(Tensor::close);
        items.values().forEach(list -> list.forEach(Tensor::close));
        super.close();
    }

    @Override
    public String toString() {
        StringBuilder out = new StringBuilder();
        for (int i = 0; i < names.size(); i++) {
            out.append(i > 0 ? ", " : "").append(names.get(i)).append(": ").append(types.get(i));
        }
        return out.toString();
    }

    private int index(String name) {
        int index = names.indexOf(name);
        if (index < 0) {
            throw new InvalidArgumentException(
                    StatusCode.NOT_FOUND,
                    "no output named '" + name + "'; there are '" + String.join("', '", names) + "'",
                    null);
        }
        return index;
    }

    private native byte[] describe(long handle);

    private native long tensor(long handle, int index);

    private native long[] itemTensors(long handle, int index);

    private native byte[] chromeTrace(long handle);

    private native byte[] jsonProfile(long handle);

    private native byte[] htmlProfile(long handle);
}
