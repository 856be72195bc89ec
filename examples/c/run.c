/*
 * Runs a model once on zeros: run MODEL [EXTENT]
 *
 * MODEL is an .onnx file or a Hugging Face directory. Symbolic extents become EXTENT
 * (default 1). Prints the outputs: name, type, first elements of f32.
 */
#include <deepseek/deepseek.h>
#include <stdio.h>
#include <stdlib.h>

/* Goes on only while calls succeed; the first error ends the program. */
static void must(deepseek_status status, deepseek_error **err)
{
    if (status != DEEPSEEK_STATUS_OK) {
        fprintf(stderr, "run: %s: %s\n", deepseek_status_name(status), deepseek_error_message(*err));
        exit(1);
    }
}

/* Zeros of the type that an input asks for. */
static deepseek_tensor *zeros(const deepseek_model_value *input, int64_t extent)
{
    int64_t shape[64];
    size_t rank = input->rank > 0 ? (size_t)input->rank : 0, i;
    deepseek_tensor *tensor = NULL;
    deepseek_error *err = NULL;
    for (i = 0; i < rank && i < 64; i++) {
        shape[i] = input->shape[i] < 0 ? extent : input->shape[i];
    }
    must(deepseek_tensor_new(input->dtype, shape, i, NULL, 0, &tensor, &err), &err);
    return tensor;
}

int main(int argc, char **argv)
{
    deepseek_runtime *runtime = NULL;
    deepseek_model *model = NULL;
    deepseek_session *session = NULL;
    deepseek_outputs *outputs = NULL;
    deepseek_error *err = NULL;
    size_t count, i, j;

    if (argc < 2) {
        fprintf(stderr, "usage: run MODEL [EXTENT]\n");
        return 2;
    }
    must(deepseek_runtime_new(NULL, &runtime, &err), &err);
    must(deepseek_model_open(runtime, argv[1], NULL, &model, &err), &err);
    must(deepseek_session_new(model, NULL, &session, &err), &err);

    count = deepseek_model_count_inputs(model);
    {
        const char **names = calloc(count + 1, sizeof *names);
        deepseek_tensor **tensors = calloc(count + 1, sizeof *tensors);
        if (names == NULL || tensors == NULL) {
            return 1;
        }
        for (i = 0; i < count; i++) {
            deepseek_model_value input;
            must(deepseek_model_get_input(model, i, &input, &err), &err);
            names[i] = input.name;
            tensors[i] = zeros(&input, argc > 2 ? atoll(argv[2]) : 1);
        }
        must(deepseek_session_run(session, names, (const deepseek_tensor *const *)tensors, count,
                                  NULL, &outputs, &err),
             &err);
        for (i = 0; i < count; i++) {
            deepseek_tensor_free(tensors[i]);
        }
        free(tensors);
        free(names);
    }

    for (i = 0; i < deepseek_outputs_count(outputs); i++) {
        deepseek_tensor *tensor = NULL;
        deepseek_tensor_view view;
        printf("%s: %s", deepseek_outputs_get_name(outputs, i), deepseek_outputs_get_type(outputs, i));
        if (deepseek_outputs_get_tensor(outputs, i, &tensor, NULL) == DEEPSEEK_STATUS_OK) {
            must(deepseek_tensor_get_view(tensor, &view, &err), &err);
            for (j = 0; view.dtype == DEEPSEEK_DTYPE_F32 && j < view.count && j < 8; j++) {
                printf(" %g", ((const float *)view.data)[j]);
            }
            deepseek_tensor_free(tensor);
        }
        printf("\n");
    }
    deepseek_outputs_free(outputs);
    deepseek_session_free(session);
    deepseek_model_free(model);
    deepseek_runtime_free(runtime);
    return 0;
}
