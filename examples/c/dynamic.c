/*
 * A graph recorded operation by operation, with a leading extent that is not known: dynamic
 *
 * One plan serves 50 tensors of 50 to 99 rows of 512 numbers. How many bytes each run takes is
 * known before it starts, as a formula and as a number.
 */
#include <deepseek/deepseek.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WIDTH = 512, SHORTEST = 50, TENSORS = 50 };

/* Goes on only while calls succeed; the first error ends the program. */
static void must(deepseek_status status, deepseek_error **err)
{
    if (status != DEEPSEEK_STATUS_OK) {
        fprintf(stderr, "dynamic: %s: %s\n", deepseek_status_name(status),
                deepseek_error_message(*err));
        exit(1);
    }
}

/* Records one operation and returns its result. */
static deepseek_value node(deepseek_graph *graph, const char *op, const char *attributes,
                           deepseek_value a, deepseek_value b)
{
    const deepseek_value inputs[2] = {a, b};
    deepseek_value out = DEEPSEEK_VALUE_NONE;
    deepseek_error *err = NULL;
    must(deepseek_graph_add_node(graph, op, NULL, attributes, inputs,
                                 b == DEEPSEEK_VALUE_NONE ? 1 : 2, &out, 1, &err),
         &err);
    return out;
}

/* Numbers that every language of this example can make alike. */
static void fill(float *data, size_t count, size_t step)
{
    size_t i;
    for (i = 0; i < count; i++) {
        data[i] = (float)((int)(i * step % 101) - 50) / 512.0f;
    }
}

int main(void)
{
    static float numbers[WIDTH * WIDTH];
    const int64_t square[2] = {WIDTH, WIDTH};
    const char *const extents[2] = {"rows", "512"}, *const name = "x";
    deepseek_runtime *runtime = NULL;
    deepseek_graph *graph = NULL;
    deepseek_model *model = NULL;
    deepseek_session *session = NULL;
    deepseek_tensor *weights = NULL;
    deepseek_buffer *formula = NULL;
    deepseek_error *err = NULL;
    deepseek_value x, w, h;
    int64_t rows;

    must(deepseek_runtime_new(NULL, &runtime, &err), &err);
    must(deepseek_graph_new("dynamic", &graph, &err), &err);
    must(deepseek_graph_add_input(graph, name, DEEPSEEK_DTYPE_F32, extents, 2, &x, &err), &err);
    fill(numbers, WIDTH * WIDTH, 7);
    must(deepseek_tensor_new(DEEPSEEK_DTYPE_F32, square, 2, numbers, sizeof numbers, &weights, &err),
         &err);
    must(deepseek_graph_add_constant(graph, "w", weights, &w, &err), &err);
    h = node(graph, "Gelu", NULL, node(graph, "MatMul", NULL, x, w), DEEPSEEK_VALUE_NONE);
    h = node(graph, "Softmax", "axis = -1", node(graph, "Add", NULL, h, x), DEEPSEEK_VALUE_NONE);
    must(deepseek_graph_add_output(graph, "y", h, &err), &err);
    must(deepseek_graph_build(graph, runtime, NULL, &model, &err), &err);
    must(deepseek_model_get_memory_formula(model, &formula, &err), &err);
    printf("bytes of a run: %s\n", deepseek_buffer_data(formula));

    must(deepseek_session_new(model, NULL, &session, &err), &err);
    for (rows = SHORTEST; rows < SHORTEST + TENSORS; rows++) {
        const int64_t shape[2] = {rows, WIDTH};
        const char *const symbol = "rows";
        const size_t bytes = (size_t)rows * WIDTH * sizeof(float);
        deepseek_memory memory;
        deepseek_tensor *input = NULL, *output = NULL;
        deepseek_outputs *outputs = NULL;
        deepseek_tensor_view view;
        uint32_t bits;
        must(deepseek_model_get_memory(model, &symbol, &rows, 1, &memory, NULL, &err), &err);
        fill(numbers, (size_t)rows * WIDTH, (size_t)rows);
        must(deepseek_tensor_new(DEEPSEEK_DTYPE_F32, shape, 2, numbers, bytes, &input, &err), &err);
        must(deepseek_session_run(session, &name, (const deepseek_tensor *const *)&input, 1, NULL,
                                  &outputs, &err),
             &err);
        must(deepseek_outputs_get_tensor(outputs, 0, &output, &err), &err);
        must(deepseek_tensor_get_view(output, &view, &err), &err);
        memcpy(&bits, view.data, sizeof bits);
        printf("rows %d: %llu bytes planned, %llu used, y[0][0] has the bits %08x\n", (int)rows,
               (unsigned long long)memory.planned_bytes,
               (unsigned long long)deepseek_session_get_observed_bytes(session), (unsigned)bits);
        deepseek_tensor_free(output);
        deepseek_outputs_free(outputs);
        deepseek_tensor_free(input);
    }
    deepseek_session_free(session);
    deepseek_model_free(model);
    deepseek_buffer_free(formula);
    deepseek_tensor_free(weights);
    deepseek_graph_free(graph);
    deepseek_runtime_free(runtime);
    return 0;
}
