/* What the generated sweep stands on: one good object of each kind, and good arguments. */
#ifndef DEEPSEEK_TESTS_SWEEP_H
#define DEEPSEEK_TESTS_SWEEP_H

#include "support.h"

static struct {
    deepseek_runtime *runtime;
    deepseek_model *model;
    deepseek_session *session;
    deepseek_tensor *tensor;
    deepseek_outputs *outputs;
    deepseek_cancel *cancel;
    deepseek_profile *profile;
    deepseek_run *run;
    deepseek_graph *graph;
    deepseek_embedder *embedder;
    deepseek_buffer *buffer;
    deepseek_error *error;
    deepseek_value value;
} fixture;

static const char *texts[] = {"x"};
static int64_t extents[] = {1};
static const int64_t *shapes[] = {extents};
static size_t sizes[] = {1};
static const deepseek_tensor *tensors[1];
static deepseek_value values[1], out_values[64];
/* Every buffer has 64 elements; data is aligned for all types. */
static union {
    double align;
    char bytes[64];
} storage;
static char *const data = storage.bytes;
static float vectors[64];
static uint32_t ids[64];
/* All-zero options of the least size, good for every kind. */
static size_t options[8];
static size_t out_size;
static int32_t out_int;
static const char *out_text;
static deepseek_tensor_view out_view;
static deepseek_model_value out_model_value;
static deepseek_memory out_memory;

static void begin(int argc, char **argv)
{
    const char *graph_shape[] = {"batch"};
    const deepseek_tensor *one;
    static const float zeros[3] = {0};
    static const int64_t shape[] = {1, 3};
    deepseek_tensor *input = NULL;
    char path[4096];

    CHECK(argc == 2);
    options[0] = sizeof options;
    snprintf(path, sizeof path, "%s/bert-mean", argv[1]);
    fixture.runtime = make_runtime(1);
    fixture.model = make_affine(fixture.runtime);
    fixture.session = make_session(fixture.model);
    OK(deepseek_tensor_new(DEEPSEEK_DTYPE_F32, extents, 1, NULL, 0, &fixture.tensor, &err));
    tensors[0] = fixture.tensor;
    input = make_f32(shape, 2, zeros);
    one = input;
    OK(deepseek_session_run_profiled(fixture.session, texts, &one, 1, NULL, &fixture.outputs,
                                     &fixture.profile, &err));
    OK(deepseek_session_run_async(fixture.session, texts, &one, 1, NULL, NULL, NULL, NULL,
                                  &fixture.run, &err));
    deepseek_tensor_free(input);
    OK(deepseek_cancel_new(&fixture.cancel, &err));
    OK(deepseek_graph_new("fixture", &fixture.graph, &err));
    OK(deepseek_graph_add_input(fixture.graph, "x", DEEPSEEK_DTYPE_F32, graph_shape, 1,
                                &fixture.value, &err));
    values[0] = fixture.value;
    OK(deepseek_embedder_open(fixture.runtime, path, NULL, &fixture.embedder, &err));
    OK(deepseek_model_get_summary(fixture.model, &fixture.buffer, &err));
    CHECK(deepseek_tensor_new(0, NULL, 0, NULL, 0, &input, &fixture.error)
          == DEEPSEEK_STATUS_INVALID_ARGUMENT);
}

static void end(void)
{
    deepseek_error_free(fixture.error);
    deepseek_buffer_free(fixture.buffer);
    deepseek_embedder_free(fixture.embedder);
    deepseek_graph_free(fixture.graph);
    deepseek_run_free(fixture.run);
    deepseek_profile_free(fixture.profile);
    deepseek_cancel_free(fixture.cancel);
    deepseek_outputs_free(fixture.outputs);
    deepseek_tensor_free(fixture.tensor);
    deepseek_session_free(fixture.session);
    deepseek_model_free(fixture.model);
    deepseek_runtime_free(fixture.runtime);
}

/* A wrong call is the caller's fault, and the message names the parameter. */
static void refused(const char *at, deepseek_status status, const deepseek_error *err,
                    const char *part)
{
    if (status < 100 || status > 199
        || (part != NULL && strstr(deepseek_error_message(err), part) == NULL)) {
        fprintf(stderr, "%s: %s: %s\n", at, deepseek_status_name(status),
                deepseek_error_message(err));
        exit(1);
    }
}

static void untouched(const char *at, const void *output)
{
    if (output != NULL) {
        fprintf(stderr, "%s: the output was written\n", at);
        exit(1);
    }
}

#endif
