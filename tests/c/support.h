/*
 * What the C tests share: checks that say where they failed, and two small models made
 * through the graph builder. Valid as C99 and as C++17.
 */
#ifndef DEEPSEEK_TESTS_SUPPORT_H
#define DEEPSEEK_TESTS_SUPPORT_H

#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#include <deepseek/deepseek.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Ends the program, with the place, unless the condition holds. */
#define CHECK(condition)                                                              \
    do {                                                                              \
        if (!(condition)) {                                                           \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);   \
            exit(1);                                                                  \
        }                                                                             \
    } while (0)

/* Ends the program unless a call succeeds. `call` reports into `err`, which is NULL. */
#define OK(call)                                                                      \
    do {                                                                              \
        deepseek_error *err = NULL;                                                   \
        deepseek_status ok_status = (call);                                           \
        if (ok_status != DEEPSEEK_STATUS_OK || err != NULL) {                         \
            fprintf(stderr, "%s:%d: %s: %s: %s\n", __FILE__, __LINE__, #call,         \
                    deepseek_status_name(ok_status), deepseek_error_message(err));    \
            exit(1);                                                                  \
        }                                                                             \
    } while (0)

/* Ends the program unless a call fails with `want` and a message that contains `part`. */
#define FAILS(want, part, call)                                                       \
    do {                                                                              \
        deepseek_error *err = NULL;                                                   \
        deepseek_status fails_status = (call);                                        \
        if (fails_status != (want) || deepseek_error_code(err) != (want)              \
            || strstr(deepseek_error_message(err), (part)) == NULL                    \
            || strchr(deepseek_error_message(err), '\n') != NULL) {                   \
            fprintf(stderr, "%s:%d: %s: wanted %s with '%s', got %s: %s\n", __FILE__, \
                    __LINE__, #call, deepseek_status_name(want), (part),              \
                    deepseek_status_name(fails_status), deepseek_error_message(err)); \
            exit(1);                                                                  \
        }                                                                             \
        deepseek_error_free(err);                                                     \
    } while (0)

static inline void sleep_ms(long ms)
{
    struct timespec t;
    t.tv_sec = ms / 1000;
    t.tv_nsec = ms % 1000 * 1000000;
    nanosleep(&t, NULL);
}

static inline deepseek_runtime *make_runtime(unsigned threads)
{
    deepseek_runtime_options options;
    deepseek_runtime *runtime = NULL;
    deepseek_runtime_options_init(&options, sizeof options);
    options.threads = threads;
    /* Valgrind 3.19 does not know every instruction that the assembler picks for AVX2. */
    options.isa = getenv("DEEPSEEK_TEST_SCALAR") != NULL ? DEEPSEEK_ISA_SCALAR : DEEPSEEK_ISA_BEST;
    OK(deepseek_runtime_new(&options, &runtime, &err));
    return runtime;
}

static inline deepseek_tensor *make_f32(const int64_t *shape, size_t rank, const float *data)
{
    deepseek_tensor *tensor = NULL;
    size_t count = 1, i;
    for (i = 0; i < rank; i++) {
        count *= (size_t)shape[i];
    }
    OK(deepseek_tensor_new(DEEPSEEK_DTYPE_F32, shape, rank, data, count * sizeof(float), &tensor,
                           &err));
    return tensor;
}

/* y[batch, 2] = relu(x[batch, 3] w + b), with w = [[1, 2], [3, 4], [5, 6]], b = [10, -100]. */
static inline deepseek_model *make_affine(const deepseek_runtime *runtime)
{
    static const float weights[] = {1, 2, 3, 4, 5, 6}, bias[] = {10, -100};
    static const int64_t weights_shape[] = {3, 2}, bias_shape[] = {2};
    const char *x_shape[] = {"batch", "3"};
    deepseek_graph *graph = NULL;
    deepseek_model *model = NULL;
    deepseek_tensor *w = make_f32(weights_shape, 2, weights), *b = make_f32(bias_shape, 1, bias);
    deepseek_value values[2], product, sum, y;

    OK(deepseek_graph_new("affine", &graph, &err));
    OK(deepseek_graph_add_input(graph, "x", DEEPSEEK_DTYPE_F32, x_shape, 2, &values[0], &err));
    OK(deepseek_graph_add_constant(graph, "w", w, &values[1], &err));
    OK(deepseek_graph_add_node(graph, "MatMul", "product", NULL, values, 2, &product, 1, &err));
    values[0] = product;
    OK(deepseek_graph_add_constant(graph, "b", b, &values[1], &err));
    OK(deepseek_graph_add_node(graph, "Add", "sum", NULL, values, 2, &sum, 1, &err));
    OK(deepseek_graph_add_node(graph, "Relu", NULL, "", &sum, 1, &y, 1, &err));
    OK(deepseek_graph_add_output(graph, "y", y, &err));
    OK(deepseek_graph_build(graph, runtime, NULL, &model, &err));
    deepseek_graph_free(graph);
    deepseek_tensor_free(w);
    deepseek_tensor_free(b);
    return model;
}

/* y = -x for rows x [batch, seq, 2], and z: a product, as many times as the scalar `rounds` says.
   With INT64_MAX rounds a run never ends unless it is cut short, on a fast or a slow machine. */
static inline deepseek_model *make_looping(const deepseek_runtime *runtime)
{
    static const char *const body =
        "carried = 1, body = graph \"body\" { input %i: i64[] input %go: bool[] "
        "input %v: f32[8, 8] %w = MatMul(%v, %v) output \"go\" = %go output \"w\" = %w }";
    static const int64_t start_shape[] = {8, 8};
    const char *x_shape[] = {"batch", "seq", "2"};
    deepseek_graph *graph = NULL;
    deepseek_model *model = NULL;
    deepseek_tensor *start = NULL;
    deepseek_value x, y, z, loop[3];

    OK(deepseek_tensor_new(DEEPSEEK_DTYPE_F32, start_shape, 2, NULL, 0, &start, &err));
    OK(deepseek_graph_new("looping", &graph, &err));
    OK(deepseek_graph_add_input(graph, "x", DEEPSEEK_DTYPE_F32, x_shape, 3, &x, &err));
    OK(deepseek_graph_add_input(graph, "rounds", DEEPSEEK_DTYPE_I64, NULL, 0, &loop[0], &err));
    loop[1] = DEEPSEEK_VALUE_NONE;
    OK(deepseek_graph_add_constant(graph, "start", start, &loop[2], &err));
    OK(deepseek_graph_add_node(graph, "Loop", NULL, body, loop, 3, &z, 1, &err));
    OK(deepseek_graph_add_node(graph, "Neg", NULL, NULL, &x, 1, &y, 1, &err));
    OK(deepseek_graph_add_output(graph, "y", y, &err));
    OK(deepseek_graph_add_output(graph, "z", z, &err));
    OK(deepseek_graph_build(graph, runtime, NULL, &model, &err));
    deepseek_graph_free(graph);
    deepseek_tensor_free(start);
    return model;
}

/* Inputs "x" and "rounds" of `make_looping`. */
static inline void make_loop_inputs(int64_t rounds, deepseek_tensor *inputs[2])
{
    static const int64_t shape[] = {1, 1, 2};
    static const float data[] = {1, 2};
    inputs[0] = make_f32(shape, 3, data);
    inputs[1] = NULL;
    OK(deepseek_tensor_new(DEEPSEEK_DTYPE_I64, NULL, 0, &rounds, sizeof rounds, &inputs[1], &err));
}

static inline deepseek_session *make_session(const deepseek_model *model)
{
    deepseek_session *session = NULL;
    OK(deepseek_session_new(model, NULL, &session, &err));
    return session;
}

static inline deepseek_tensor_view view_of(const deepseek_tensor *tensor)
{
    deepseek_tensor_view view;
    OK(deepseek_tensor_get_view(tensor, &view, &err));
    return view;
}

#endif
