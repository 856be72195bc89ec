/* Sequences of different lengths, without padding. The argument is a folder of tiny encoders. */
#include "support.h"

enum { BATCH = 3, LONGEST = 7 };

static const char *const names[] = {"input_ids", "token_type_ids", "attention_mask"};
static const size_t lengths[BATCH] = {4, 1, LONGEST};

static deepseek_tensor *make_i64(const int64_t *shape, size_t rank, const int64_t *data)
{
    deepseek_tensor *tensor = NULL;
    size_t count = 1, i;
    for (i = 0; i < rank; i++) {
        count *= (size_t)shape[i];
    }
    OK(deepseek_tensor_new(DEEPSEEK_DTYPE_I64, shape, rank, data, count * sizeof *data, &tensor,
                           &err));
    return tensor;
}

/* Token `i` of sequence `s`. */
static int64_t token(size_t s, size_t i)
{
    return 5 + (int64_t)((3 * s + 7 * i) % 20);
}

static deepseek_tensor *item(const deepseek_outputs *outputs, const char *name, size_t i)
{
    deepseek_tensor *tensor = NULL;
    size_t index = 0, count = 0;
    OK(deepseek_outputs_find(outputs, name, &index, &err));
    OK(deepseek_outputs_count_items(outputs, index, &count, &err));
    CHECK(count == BATCH);
    OK(deepseek_outputs_get_item(outputs, index, i, &tensor, &err));
    return tensor;
}

static deepseek_tensor *whole(const deepseek_outputs *outputs, const char *name)
{
    deepseek_tensor *tensor = NULL;
    size_t index = 0;
    OK(deepseek_outputs_find(outputs, name, &index, &err));
    OK(deepseek_outputs_get_tensor(outputs, index, &tensor, &err));
    return tensor;
}

/* The sequence as a batch of one, with a mask of ones, through the plain run. */
static deepseek_outputs *run_alone(const deepseek_session *session, size_t s)
{
    int64_t ids[LONGEST], types[LONGEST] = {0}, mask[LONGEST], shape[2] = {1, 0};
    const deepseek_tensor *inputs[3];
    deepseek_outputs *outputs = NULL;
    size_t i;
    shape[1] = (int64_t)lengths[s];
    for (i = 0; i < lengths[s]; i++) {
        ids[i] = token(s, i);
        mask[i] = 1;
    }
    inputs[0] = make_i64(shape, 2, ids);
    inputs[1] = make_i64(shape, 2, types);
    inputs[2] = make_i64(shape, 2, mask);
    OK(deepseek_session_run(session, names, inputs, 3, NULL, &outputs, &err));
    for (i = 0; i < 3; i++) {
        deepseek_tensor_free((deepseek_tensor *)inputs[i]);
    }
    return outputs;
}

static void lists(const deepseek_session *session)
{
    const size_t counts[] = {BATCH, BATCH};
    const deepseek_tensor *flat[2 * BATCH];
    deepseek_outputs *outputs = NULL;
    size_t s, i;
    for (s = 0; s < BATCH; s++) {
        int64_t ids[LONGEST], types[LONGEST] = {0}, shape;
        shape = (int64_t)lengths[s];
        for (i = 0; i < lengths[s]; i++) {
            ids[i] = token(s, i);
        }
        flat[s] = make_i64(&shape, 1, ids);
        flat[BATCH + s] = make_i64(&shape, 1, types);
    }
    OK(deepseek_session_run_ragged(session, names, counts, 2, flat, NULL, &outputs, &err));
    for (s = 0; s < BATCH; s++) {
        deepseek_outputs *alone = run_alone(session, s);
        const char *const wanted[] = {"last_hidden_state", "sentence_embedding"};
        for (i = 0; i < 2; i++) {
            deepseek_tensor *got = item(outputs, wanted[i], s), *want = whole(alone, wanted[i]);
            deepseek_tensor_view g = view_of(got), w = view_of(want);
            /* Without the batch axis, the same bits. */
            CHECK(g.rank + 1 == w.rank && g.count == w.count);
            CHECK(memcmp(g.data, w.data, g.count * sizeof(float)) == 0);
            deepseek_tensor_free(got);
            deepseek_tensor_free(want);
        }
        deepseek_outputs_free(alone);
    }
    deepseek_outputs_free(outputs);

    /* Lengths that contradict each other: both are named. */
    {
        const deepseek_tensor *swapped[2 * BATCH];
        memcpy(swapped, flat, sizeof flat);
        swapped[BATCH] = flat[BATCH + 1];
        FAILS(DEEPSEEK_STATUS_SHAPE_MISMATCH, "'token_type_ids' has 1 rows, 'input_ids' has 4",
              deepseek_session_run_ragged(session, names, counts, 2, swapped, NULL, &outputs,
                                          &err));
    }
    FAILS(DEEPSEEK_STATUS_INVALID_ARGUMENT, "'token_type_ids' is missing",
          deepseek_session_run_ragged(session, names, counts, 1, flat, NULL, &outputs, &err));
    for (i = 0; i < 2 * BATCH; i++) {
        deepseek_tensor_free((deepseek_tensor *)flat[i]);
    }
}

static void padded(const deepseek_session *session)
{
    const int64_t shape[2] = {BATCH, LONGEST};
    int64_t ids[BATCH * LONGEST] = {0}, types[BATCH * LONGEST] = {0}, mask[BATCH * LONGEST] = {0};
    const deepseek_tensor *inputs[3];
    deepseek_run_options options;
    deepseek_outputs *outputs = NULL;
    deepseek_tensor *hidden;
    deepseek_tensor_view all;
    size_t s, i, width;
    for (s = 0; s < BATCH; s++) {
        for (i = 0; i < lengths[s]; i++) {
            ids[s * LONGEST + i] = token(s, i);
            mask[s * LONGEST + i] = 1;
        }
    }
    inputs[0] = make_i64(shape, 2, ids);
    inputs[1] = make_i64(shape, 2, types);
    inputs[2] = make_i64(shape, 2, mask);
    deepseek_run_options_init(&options, sizeof options);
    options.ragged = 1;
    OK(deepseek_session_run(session, names, inputs, 3, &options, &outputs, &err));
    hidden = whole(outputs, "last_hidden_state");
    all = view_of(hidden);
    CHECK(all.rank == 3 && all.shape[0] == BATCH && all.shape[1] == LONGEST);
    width = (size_t)all.shape[2];
    for (s = 0; s < BATCH; s++) {
        deepseek_outputs *alone = run_alone(session, s);
        deepseek_tensor *want = whole(alone, "last_hidden_state");
        const float *row = (const float *)all.data + s * LONGEST * width;
        CHECK(memcmp(row, view_of(want).data, lengths[s] * width * sizeof *row) == 0);
        for (i = lengths[s] * width; i < LONGEST * width; i++) {
            CHECK(row[i] == 0);
        }
        deepseek_tensor_free(want);
        deepseek_outputs_free(alone);
    }
    deepseek_tensor_free(hidden);
    deepseek_outputs_free(outputs);
    options.ragged = 2;
    FAILS(DEEPSEEK_STATUS_INVALID_ARGUMENT, "options->ragged is 2",
          deepseek_session_run(session, names, inputs, 3, &options, &outputs, &err));
    for (i = 0; i < 3; i++) {
        deepseek_tensor_free((deepseek_tensor *)inputs[i]);
    }
}

/* A model's own budget holds for ragged runs too, and opening says what it would take. */
static void within_a_budget(const deepseek_runtime *runtime, const char *path, uint64_t bytes)
{
    const size_t counts[] = {1, 1};
    const int64_t most[] = {1, LONGEST}, *shapes[1];
    const size_t ranks[] = {2};
    const int64_t ids[LONGEST] = {5, 6, 7, 8, 9, 10, 11}, types[LONGEST] = {0};
    const deepseek_tensor *flat[2];
    deepseek_model_options options;
    deepseek_model *model = NULL;
    deepseek_session *session;
    deepseek_outputs *outputs = NULL;
    int64_t shape;

    shapes[0] = most;
    deepseek_model_options_init(&options, sizeof options);
    options.memory_budget_bytes = 64;
    options.shape_names = names;
    options.shapes = shapes;
    options.shape_ranks = ranks;
    options.shape_count = 1;
    FAILS(DEEPSEEK_STATUS_BUDGET_EXCEEDED, "memory_budget_bytes is 64; raise it to ",
          deepseek_model_open(runtime, path, &options, &model, &err));
    CHECK(model == NULL);

    options.shape_count = 0;
    options.memory_budget_bytes = bytes;
    OK(deepseek_model_open(runtime, path, &options, &model, &err));
    session = make_session(model);
    for (shape = 4; shape <= LONGEST; shape += LONGEST - 4) {
        flat[0] = make_i64(&shape, 1, ids);
        flat[1] = make_i64(&shape, 1, types);
        if (shape == 4) {
            OK(deepseek_session_run_ragged(session, names, counts, 2, flat, NULL, &outputs, &err));
            deepseek_outputs_free(outputs);
            outputs = NULL;
        } else {
            FAILS(DEEPSEEK_STATUS_BUDGET_EXCEEDED, "memory_budget_bytes",
                  deepseek_session_run_ragged(session, names, counts, 2, flat, NULL, &outputs,
                                              &err));
        }
        deepseek_tensor_free((deepseek_tensor *)flat[0]);
        deepseek_tensor_free((deepseek_tensor *)flat[1]);
    }
    deepseek_session_free(session);
    deepseek_model_free(model);
}

/* y = softmax over the tokens of x [batch, seq, 2], which no packed form has. */
static deepseek_model *make_mixer(const deepseek_runtime *runtime)
{
    const char *shape[] = {"batch", "seq", "2"};
    deepseek_graph *graph = NULL;
    deepseek_model *model = NULL;
    deepseek_value x, y;
    OK(deepseek_graph_new("mixer", &graph, &err));
    OK(deepseek_graph_add_input(graph, "x", DEEPSEEK_DTYPE_F32, shape, 3, &x, &err));
    OK(deepseek_graph_add_node(graph, "Softmax", "over_tokens", "axis = 1", &x, 1, &y, 1, &err));
    OK(deepseek_graph_add_output(graph, "y", y, &err));
    OK(deepseek_graph_build(graph, runtime, NULL, &model, &err));
    deepseek_graph_free(graph);
    return model;
}

int main(int argc, char **argv)
{
    char path[4096];
    const size_t empty[] = {3, 0};
    deepseek_runtime *runtime = make_runtime(2);
    deepseek_model *model = NULL, *mixer;
    deepseek_session *session;
    deepseek_memory one, all;

    CHECK(argc == 2);
    snprintf(path, sizeof path, "%s/bert-mean", argv[1]);
    OK(deepseek_model_open(runtime, path, NULL, &model, &err));
    OK(deepseek_model_check_ragged(model, &err));
    session = make_session(model);
    lists(session);
    padded(session);

    OK(deepseek_model_get_memory_for_lengths(model, lengths, 1, &one, NULL, &err));
    OK(deepseek_model_get_memory_for_lengths(model, lengths, BATCH, &all, NULL, &err));
    CHECK(one.planned_bytes > 0 && one.planned_bytes < all.planned_bytes);
    FAILS(DEEPSEEK_STATUS_INVALID_ARGUMENT, "sequence 1 is empty",
          deepseek_model_get_memory_for_lengths(model, empty, 2, &one, NULL, &err));

    within_a_budget(runtime, path, one.planned_bytes);

    mixer = make_mixer(runtime);
    FAILS(DEEPSEEK_STATUS_UNSUPPORTED, "over_tokens", deepseek_model_check_ragged(mixer, &err));
    deepseek_model_free(mixer);
    deepseek_session_free(session);
    deepseek_model_free(model);
    deepseek_runtime_free(runtime);
    return 0;
}
