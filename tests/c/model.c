/* Building, describing and opening models; options of other versions. */
#include "support.h"
#include <unistd.h>

static void a_graph_is_typed_while_it_is_built(const deepseek_runtime *runtime)
{
    const char *shape[] = {"batch", "2*seq + 1"}, *wrong[] = {"batch", "2*"};
    char text[64];
    size_t len = 0;
    deepseek_graph *graph = NULL;
    deepseek_model *model = NULL;
    deepseek_value x = 0, y = 0, pair[2];

    OK(deepseek_graph_new(NULL, &graph, &err));
    OK(deepseek_graph_add_input(graph, "x", DEEPSEEK_DTYPE_F32, shape, 2, &x, &err));
    OK(deepseek_graph_set_bound(graph, "batch", 1, 64, &err));
    OK(deepseek_graph_set_bound(graph, "seq", 1, -1, &err));
    OK(deepseek_graph_get_type(graph, x, text, sizeof text, &len, &err));
    CHECK(len == strlen(text) && strncmp(text, "f32[batch, ", 11) == 0);
    FAILS(DEEPSEEK_STATUS_BUFFER_TOO_SMALL, "room for 4",
          deepseek_graph_get_type(graph, x, text, 4, &len, &err));
    CHECK(len == strlen(text));
    FAILS(DEEPSEEK_STATUS_BUFFER_TOO_SMALL, "",
          deepseek_graph_get_type(graph, x, NULL, 0, &len, &err));

    FAILS(DEEPSEEK_STATUS_INVALID_ARGUMENT, "2*",
          deepseek_graph_add_input(graph, "z", DEEPSEEK_DTYPE_F32, wrong, 2, &y, &err));
    FAILS(DEEPSEEK_STATUS_INVALID_GRAPH, "x",
          deepseek_graph_add_input(graph, "x", DEEPSEEK_DTYPE_F32, shape, 2, &y, &err));
    FAILS(DEEPSEEK_STATUS_INVALID_ARGUMENT, "element type",
          deepseek_graph_add_input(graph, "z", 0, shape, 2, &y, &err));
    FAILS(DEEPSEEK_STATUS_UNSUPPORTED, "Rleu",
          deepseek_graph_add_node(graph, "Rleu", NULL, NULL, &x, 1, &y, 1, &err));
    FAILS(DEEPSEEK_STATUS_INVALID_GRAPH, "axis",
          deepseek_graph_add_node(graph, "Softmax", NULL, "axis = 1, axis = 2", &x, 1, &y, 1,
                                  &err));
    pair[0] = x;
    pair[1] = 77;
    FAILS(DEEPSEEK_STATUS_INVALID_ARGUMENT, "inputs[1] is 77",
          deepseek_graph_add_node(graph, "Add", NULL, NULL, pair, 2, &y, 1, &err));
    FAILS(DEEPSEEK_STATUS_INVALID_GRAPH, "output",
          deepseek_graph_build(graph, runtime, NULL, &model, &err));

    OK(deepseek_graph_add_node(graph, "Softmax", "soft", "axis = 1", &x, 1, &y, 1, &err));
    OK(deepseek_graph_add_output(graph, "y", y, &err));
    FAILS(DEEPSEEK_STATUS_INVALID_GRAPH, "y", deepseek_graph_add_output(graph, "y", x, &err));
    FAILS(DEEPSEEK_STATUS_INVALID_ARGUMENT, "value is",
          deepseek_graph_add_output(graph, "z", DEEPSEEK_VALUE_NONE, &err));
    OK(deepseek_graph_build(graph, runtime, NULL, &model, &err));
    deepseek_model_free(model);

    /* The graph goes on. */
    OK(deepseek_graph_add_output(graph, "x again", x, &err));
    OK(deepseek_graph_build(graph, runtime, NULL, &model, &err));
    deepseek_graph_free(graph);
    CHECK(deepseek_model_count_outputs(model) == 2);
    deepseek_model_free(model);
}

/* Saved, opened, and the same: its summary and the bytes of a second file. */
static void saved_models_are_the_model(const deepseek_runtime *runtime, const deepseek_model *model)
{
    char path[64];
    deepseek_model *back = NULL;
    deepseek_buffer *want = NULL, *got = NULL;
    snprintf(path, sizeof path, "/tmp/deepseek-saved-%ld.deepseek", (long)getpid());
    OK(deepseek_model_save(model, path, &err));
    OK(deepseek_model_open(runtime, path, NULL, &back, &err));
    OK(deepseek_model_get_summary(model, &want, &err));
    OK(deepseek_model_get_summary(back, &got, &err));
    CHECK(strcmp(deepseek_buffer_data(want), deepseek_buffer_data(got)) == 0);
    deepseek_buffer_free(want);
    deepseek_buffer_free(got);
    /* Over the file that it is mapped from. */
    OK(deepseek_model_save(back, path, &err));
    deepseek_model_free(back);
    back = NULL;
    /* With packed weights it is the same model too. */
    OK(deepseek_model_save_packed(model, path, &err));
    OK(deepseek_model_open(runtime, path, NULL, &back, &err));
    OK(deepseek_model_get_summary(model, &want, &err));
    OK(deepseek_model_get_summary(back, &got, &err));
    CHECK(strcmp(deepseek_buffer_data(want), deepseek_buffer_data(got)) == 0);
    deepseek_buffer_free(want);
    deepseek_buffer_free(got);
    deepseek_model_free(back);
    back = NULL;
    CHECK(remove(path) == 0);
    FAILS(DEEPSEEK_STATUS_INVALID_ARGUMENT, ".deepseek", deepseek_model_save(model, "x.onnx", &err));
    FAILS(DEEPSEEK_STATUS_IO, "/no/such/place",
          deepseek_model_save(model, "/no/such/place/x.deepseek", &err));
    FAILS(DEEPSEEK_STATUS_IO, path, deepseek_model_open(runtime, path, NULL, &back, &err));
}

static void a_model_describes_itself(const deepseek_runtime *runtime)
{
    deepseek_model *model = make_affine(runtime), *same = deepseek_model_ref(model);
    deepseek_model_value value;
    deepseek_buffer *text = NULL;

    CHECK(same == model);
    deepseek_model_free(model);
    CHECK(deepseek_model_count_inputs(model) == 1 && deepseek_model_count_outputs(model) == 1);
    OK(deepseek_model_get_input(model, 0, &value, &err));
    CHECK(strcmp(value.name, "x") == 0 && strcmp(value.type, "f32[batch, 3]") == 0);
    CHECK(value.dtype == DEEPSEEK_DTYPE_F32 && value.rank == 2);
    CHECK(value.shape[0] == -1 && value.shape[1] == 3);
    OK(deepseek_model_get_output(model, 0, &value, &err));
    CHECK(strcmp(value.name, "y") == 0 && strcmp(value.type, "f32[batch, 2]") == 0);
    FAILS(DEEPSEEK_STATUS_INVALID_ARGUMENT, "1 outputs",
          deepseek_model_get_output(model, 1, &value, &err));

    saved_models_are_the_model(runtime, model);
    OK(deepseek_model_get_summary(model, &text, &err));
    CHECK(strlen(deepseek_buffer_data(text)) == deepseek_buffer_len(text));
    CHECK(strstr(deepseek_buffer_data(text), "\"FusedMatMul\"") != NULL);
    CHECK(strstr(deepseek_buffer_data(text), "\"batch\"") != NULL);
    deepseek_buffer_free(text);
    deepseek_model_free(same);
}

enum { NARROW = 16, WIDE = 1024, ROWS = 300 };

/* y = relu(x w) v for x [rows, 16] and 1024 columns between: what a byte budget cuts. `most` rows,
   or any number if it is negative. */
static deepseek_status make_wide(const deepseek_runtime *runtime, int64_t most,
                                 const deepseek_model_options *options, deepseek_model **out_model,
                                 deepseek_error **err)
{
    static const int64_t up[] = {NARROW, WIDE}, down[] = {WIDE, NARROW};
    const char *shape[] = {"rows", "16"};
    deepseek_graph *graph = NULL;
    deepseek_tensor *w = NULL, *v = NULL;
    deepseek_value values[2];
    deepseek_status status;
    OK(deepseek_tensor_new(DEEPSEEK_DTYPE_F32, up, 2, NULL, 0, &w, NULL));
    OK(deepseek_tensor_new(DEEPSEEK_DTYPE_F32, down, 2, NULL, 0, &v, NULL));
    OK(deepseek_graph_new("wide", &graph, NULL));
    OK(deepseek_graph_add_input(graph, "x", DEEPSEEK_DTYPE_F32, shape, 2, &values[0], NULL));
    OK(deepseek_graph_set_bound(graph, "rows", 1, most, NULL));
    OK(deepseek_graph_add_constant(graph, "w", w, &values[1], NULL));
    OK(deepseek_graph_add_node(graph, "MatMul", NULL, NULL, values, 2, &values[0], 1, NULL));
    OK(deepseek_graph_add_node(graph, "Relu", NULL, NULL, values, 1, &values[0], 1, NULL));
    OK(deepseek_graph_add_constant(graph, "v", v, &values[1], NULL));
    OK(deepseek_graph_add_node(graph, "MatMul", NULL, NULL, values, 2, &values[0], 1, NULL));
    OK(deepseek_graph_add_output(graph, "y", values[0], NULL));
    status = deepseek_graph_build(graph, runtime, options, out_model, err);
    deepseek_graph_free(graph);
    deepseek_tensor_free(w);
    deepseek_tensor_free(v);
    return status;
}

static void memory_is_known_before_running(const deepseek_runtime *runtime)
{
    const char *symbols[] = {"batch"}, *unknown[] = {"bach"}, *names[] = {"x"};
    const int64_t one[] = {1}, five[] = {5}, shape[] = {5, 3}, wrong[] = {5, 4};
    const int64_t *shapes[1];
    const size_t ranks[] = {2}, low[] = {1};
    deepseek_model *model = make_affine(runtime);
    deepseek_memory a, b, c;
    deepseek_buffer *text = NULL;
    deepseek_model_options options;

    OK(deepseek_model_get_memory(model, symbols, one, 1, &a, NULL, &err));
    OK(deepseek_model_get_memory(model, symbols, five, 1, &b, &text, &err));
    CHECK(a.output_bytes >= 2 * 4 && b.output_bytes >= 5 * 2 * 4 && b.output_bytes < 1000);
    CHECK(a.planned_bytes < b.planned_bytes);
    CHECK(b.planned_bytes == b.arena_bytes + b.output_bytes && b.dynamic_values == 0);
    CHECK(b.constant_bytes == 8 * 4);
    CHECK(strstr(deepseek_buffer_data(text), "\"planned_bytes\"") != NULL);
    deepseek_buffer_free(text);
    shapes[0] = shape;
    OK(deepseek_model_get_memory_for_shapes(model, names, shapes, ranks, 1, &c, NULL, &err));
    CHECK(memcmp(&b, &c, sizeof b) == 0);
    OK(deepseek_model_get_memory_formula(model, &text, &err));
    CHECK(strstr(deepseek_buffer_data(text), "batch") != NULL);
    deepseek_buffer_free(text);

    FAILS(DEEPSEEK_STATUS_NOT_FOUND, "bach",
          deepseek_model_get_memory(model, unknown, one, 1, &a, NULL, &err));
    FAILS(DEEPSEEK_STATUS_INVALID_ARGUMENT, "batch",
          deepseek_model_get_memory(model, NULL, NULL, 0, &a, NULL, &err));
    FAILS(DEEPSEEK_STATUS_SHAPE_MISMATCH, "x",
          deepseek_model_get_memory_for_shapes(model, names, shapes, low, 1, &a, NULL, &err));
    shapes[0] = wrong;
    FAILS(DEEPSEEK_STATUS_SHAPE_MISMATCH, "x",
          deepseek_model_get_memory_for_shapes(model, names, shapes, ranks, 1, &a, NULL, &err));
    deepseek_model_free(model);

    /* Of two products in a row, the first needs working memory. */
    symbols[0] = "rows";
    OK(make_wide(runtime, -1, NULL, &model, &err));
    OK(deepseek_model_get_memory(model, symbols, one, 1, &a, NULL, &err));
    OK(deepseek_model_get_memory(model, symbols, five, 1, &b, NULL, &err));
    CHECK(a.arena_bytes >= WIDE * 4 && b.arena_bytes >= 5 * WIDE * 4);
    CHECK(a.arena_bytes < b.arena_bytes);
    FAILS(DEEPSEEK_STATUS_INVALID_ARGUMENT, "'rows' has no upper bound",
          deepseek_model_get_memory_within_bounds(model, &a, NULL, &err));
    deepseek_model_free(model);
    model = NULL;

    /* Where rows are 5 at most, nothing takes more than 5 rows do. */
    deepseek_model_options_init(&options, sizeof options);
    options.bound_symbols = symbols;
    options.bound_mins = one;
    options.bound_maxs = five;
    options.bound_count = 1;
    OK(make_wide(runtime, -1, &options, &model, &err));
    OK(deepseek_model_get_memory_within_bounds(model, &c, &text, &err));
    CHECK(c.planned_bytes == b.planned_bytes);
    CHECK(strstr(deepseek_buffer_data(text), "\"planned_bytes\"") != NULL);
    deepseek_buffer_free(text);
    deepseek_model_free(model);
    model = NULL;
    FAILS(DEEPSEEK_STATUS_INVALID_ARGUMENT, "1 to 5, the model takes 1 to 4",
          make_wide(runtime, 4, &options, &model, &err));
    options.bound_symbols = NULL;
    FAILS(DEEPSEEK_STATUS_INVALID_ARGUMENT, "bound_symbols",
          make_wide(runtime, 5, &options, &model, &err));
}

/* y = x w for x [rows, 64] and weights of both signs. */
static deepseek_status make_dense(const deepseek_runtime *runtime,
                                  const deepseek_model_options *options,
                                  deepseek_model **out_model, deepseek_error **err)
{
    static const int64_t weights_shape[] = {64, 32};
    static float weights[64 * 32];
    const char *shape[] = {"rows", "64"};
    deepseek_graph *graph = NULL;
    deepseek_tensor *w;
    deepseek_value values[2];
    deepseek_status status;
    size_t i;
    for (i = 0; i < 64 * 32; i++) {
        weights[i] = (float)((int)(i * 37 % 101) - 50) / 50;
    }
    w = make_f32(weights_shape, 2, weights);
    OK(deepseek_graph_new("dense", &graph, NULL));
    OK(deepseek_graph_add_input(graph, "x", DEEPSEEK_DTYPE_F32, shape, 2, &values[0], NULL));
    OK(deepseek_graph_add_constant(graph, "w", w, &values[1], NULL));
    OK(deepseek_graph_add_node(graph, "MatMul", "product", NULL, values, 2, &values[0], 1, NULL));
    OK(deepseek_graph_add_output(graph, "y", values[0], NULL));
    status = deepseek_graph_build(graph, runtime, options, out_model, err);
    deepseek_graph_free(graph);
    deepseek_tensor_free(w);
    return status;
}

static void a_precision_is_compiled_for(const deepseek_runtime *runtime)
{
    const char *const names[] = {"x"};
    const int64_t shape[] = {8, 64};
    const int64_t *shapes[1];
    const size_t ranks[] = {2};
    deepseek_model_options options;
    deepseek_model *model = NULL;
    deepseek_buffer *json = NULL;

    shapes[0] = shape;
    deepseek_model_options_init(&options, sizeof options);
    options.shape_names = names;
    options.shapes = shapes;
    options.shape_ranks = ranks;
    options.shape_count = 1;
    options.precision = "int8";
    options.metric = "cosine";
    OK(make_dense(runtime, &options, &model, &err));
    OK(deepseek_model_get_precision_report(model, &json, &err));
    CHECK(strstr(deepseek_buffer_data(json), "\"requested\":\"int8\"") != NULL);
    CHECK(strstr(deepseek_buffer_data(json), "\"synthetic\":true") != NULL);
    CHECK(strstr(deepseek_buffer_data(json), "\"precision\":\"int8\"") != NULL);
    deepseek_buffer_free(json);
    json = NULL;
    deepseek_model_free(model);
    model = NULL;

    /* Bad options name what there is. */
    options.precision = "int7";
    FAILS(DEEPSEEK_STATUS_INVALID_ARGUMENT, "'int7' is no precision; use f32, bf16, f16, int8 or auto",
          make_dense(runtime, &options, &model, &err));
    options.precision = "auto";
    options.metric = "bleu";
    FAILS(DEEPSEEK_STATUS_INVALID_ARGUMENT, "cosine or top1",
          make_dense(runtime, &options, &model, &err));
    options.metric = NULL;
    options.accuracy_budget = 0.5;
    FAILS(DEEPSEEK_STATUS_INVALID_ARGUMENT, "0.95 to 1",
          make_dense(runtime, &options, &model, &err));
    options.accuracy_budget = 0;
    options.calibration = "/no/such/place.npz";
    FAILS(DEEPSEEK_STATUS_IO, "/no/such/place.npz", make_dense(runtime, &options, &model, &err));
    options.calibration = "texts.csv";
    FAILS(DEEPSEEK_STATUS_UNSUPPORTED, ".jsonl", make_dense(runtime, &options, &model, &err));
    options.precision = NULL;
    FAILS(DEEPSEEK_STATUS_INVALID_ARGUMENT, "calibration data needs a precision",
          make_dense(runtime, &options, &model, &err));

    /* f32 is the model as it is, which has nothing to report. */
    options.precision = "f32";
    options.calibration = NULL;
    OK(make_dense(runtime, &options, &model, &err));
    FAILS(DEEPSEEK_STATUS_NOT_FOUND, "not compiled for less than f32",
          deepseek_model_get_precision_report(model, &json, &err));
    deepseek_model_free(model);
}

/* The number that follows `text` in the message of a call that fails with BUDGET_EXCEEDED. */
static unsigned long long number_after(const char *text, deepseek_status status,
                                       deepseek_error *err)
{
    const char *found = strstr(deepseek_error_message(err), text);
    unsigned long long number;
    CHECK(status == DEEPSEEK_STATUS_BUDGET_EXCEEDED && found != NULL);
    number = strtoull(found + strlen(text), NULL, 10);
    deepseek_error_free(err);
    return number;
}

static deepseek_status run_rows(const deepseek_model *model, int64_t rows, deepseek_error **err)
{
    const char *const names[] = {"x"};
    const int64_t shape[] = {rows, NARROW};
    deepseek_session *session = make_session(model);
    deepseek_outputs *outputs = NULL;
    deepseek_tensor *x = NULL;
    const deepseek_tensor *one;
    deepseek_status status;
    OK(deepseek_tensor_new(DEEPSEEK_DTYPE_F32, shape, 2, NULL, 0, &x, NULL));
    one = x;
    status = deepseek_session_run(session, names, &one, 1, NULL, &outputs, err);
    deepseek_outputs_free(outputs);
    deepseek_tensor_free(x);
    deepseek_session_free(session);
    return status;
}

static void a_budget_is_met_or_refused(const deepseek_runtime *runtime)
{
    const char *const names[] = {"x"}, *const unknown[] = {"z"}, *const symbols[] = {"rows"};
    const int64_t largest[] = {ROWS, NARROW}, negative[] = {-1, NARROW}, rows[] = {ROWS};
    const int64_t *shapes[1];
    const size_t ranks[] = {2}, low[] = {1};
    deepseek_model_options options;
    deepseek_model *model = NULL;
    deepseek_memory whole, cut;
    deepseek_error *error = NULL;
    deepseek_status status;
    unsigned long long least;

    deepseek_model_options_init(&options, sizeof options);
    options.flags = DEEPSEEK_MODEL_WHOLE;
    OK(make_wide(runtime, -1, &options, &model, &err));
    OK(deepseek_model_get_memory(model, symbols, rows, 1, &whole, NULL, &err));
    deepseek_model_free(model);
    model = NULL;

    /* One byte less than that, and the layer runs in blocks of rows. */
    shapes[0] = largest;
    options.shape_names = names;
    options.shapes = shapes;
    options.shape_ranks = ranks;
    options.shape_count = 1;
    options.memory_budget_bytes = whole.planned_bytes - 1;
    OK(make_wide(runtime, -1, &options, &model, &err));
    OK(deepseek_model_get_memory(model, symbols, rows, 1, &cut, NULL, &err));
    CHECK(cut.planned_bytes < whole.planned_bytes);
    OK(run_rows(model, ROWS, &err));
    FAILS(DEEPSEEK_STATUS_BUDGET_EXCEEDED, "memory_budget_bytes", run_rows(model, 100 * ROWS, &err));
    deepseek_model_free(model);
    model = NULL;

    /* What no way of cutting meets is refused with the least that could be met, which can. */
    options.memory_budget_bytes = 1;
    status = make_wide(runtime, -1, &options, &model, &error);
    least = number_after("raise it to ", status, error);
    error = NULL;
    CHECK(model == NULL && least > ROWS * NARROW * 4 && least <= cut.planned_bytes);
    options.memory_budget_bytes = least - 1;
    status = make_wide(runtime, -1, &options, &model, &error);
    CHECK(number_after("raise it to ", status, error) == least);
    error = NULL;
    options.memory_budget_bytes = least;
    OK(make_wide(runtime, -1, &options, &model, &err));
    OK(run_rows(model, ROWS, &err));
    deepseek_model_free(model);
    model = NULL;

    /* Bounds of the symbols say as much; with neither, runs are held to the budget. */
    options.shape_count = 0;
    options.memory_budget_bytes = least - 1;
    status = make_wide(runtime, ROWS, &options, &model, &error);
    CHECK(number_after("raise it to ", status, error) == least);
    OK(make_wide(runtime, -1, &options, &model, &err));
    FAILS(DEEPSEEK_STATUS_BUDGET_EXCEEDED, "memory_budget_bytes", run_rows(model, ROWS, &err));
    OK(run_rows(model, 1, &err));
    deepseek_model_free(model);
    model = NULL;

    /* Wrong shapes. */
    options.shape_count = 1;
    options.shape_names = unknown;
    FAILS(DEEPSEEK_STATUS_NOT_FOUND, "'z'", make_wide(runtime, -1, &options, &model, &err));
    options.shape_names = names;
    options.shape_ranks = low;
    FAILS(DEEPSEEK_STATUS_SHAPE_MISMATCH, "f32[rows, 16]",
          make_wide(runtime, -1, &options, &model, &err));
    options.shape_ranks = ranks;
    shapes[0] = negative;
    FAILS(DEEPSEEK_STATUS_INVALID_ARGUMENT, "options->shapes[0][0] is -1",
          make_wide(runtime, -1, &options, &model, &err));
    shapes[0] = NULL;
    FAILS(DEEPSEEK_STATUS_INVALID_ARGUMENT, "options->shapes[0] is NULL",
          make_wide(runtime, -1, &options, &model, &err));
    options.shapes = NULL;
    FAILS(DEEPSEEK_STATUS_INVALID_ARGUMENT, "options->shapes is NULL",
          make_wide(runtime, -1, &options, &model, &err));
    CHECK(model == NULL);

    /* A caller of an earlier version had no shapes; what lies there is not an option. */
    options.struct_size = offsetof(deepseek_model_options, shape_names);
    options.memory_budget_bytes = 0;
    OK(make_wide(runtime, -1, &options, &model, &err));
    deepseek_model_free(model);
}

static void files_that_are_no_models(const deepseek_runtime *runtime)
{
    deepseek_model *model = NULL;
    FAILS(DEEPSEEK_STATUS_IO, "no/such",
          deepseek_model_open(runtime, "no/such.onnx", NULL, &model, &err));
    FAILS(DEEPSEEK_STATUS_UNSUPPORTED, "known model format",
          deepseek_model_open(runtime, "/dev/null", NULL, &model, &err));
    FAILS(DEEPSEEK_STATUS_INVALID_FILE, "",
          deepseek_model_open_bytes(runtime, "\xff\xff\xff\xff", 4, NULL, &model, &err));
    CHECK(model == NULL);
}

/* What options of a later version may look like. */
struct later_options {
    deepseek_runtime_options known;
    uint64_t added;
};

static void options_of_other_versions(void)
{
    struct later_options later;
    deepseek_runtime_options options;
    deepseek_model_options model_options;
    deepseek_model *model = NULL;
    deepseek_runtime *runtime = NULL;
    size_t earlier = offsetof(deepseek_runtime_options, isa);
    size_t i;
    static const int32_t unknown[] = {-1, DEEPSEEK_ISA_AMX + 1, 99};

    memset(&later, 0xff, sizeof later);
    deepseek_runtime_options_init(&later.known, sizeof later);
    CHECK(later.known.struct_size == sizeof later && later.added == 0);
    later.known.threads = 2;
    OK(deepseek_runtime_new(&later.known, &runtime, &err));
    CHECK(deepseek_runtime_get_threads(runtime) == 2);
    deepseek_runtime_free(runtime);
    runtime = NULL;
    later.added = 1;
    FAILS(DEEPSEEK_STATUS_UNSUPPORTED_OPTION, "beyond byte",
          deepseek_runtime_new(&later.known, &runtime, &err));

    /* A caller of an earlier version had no `isa`; what lies there is not an option. */
    deepseek_runtime_options_init(&options, sizeof options);
    options.struct_size = earlier;
    options.threads = 3;
    options.isa = 99;
    OK(deepseek_runtime_new(&options, &runtime, &err));
    CHECK(deepseek_runtime_get_threads(runtime) == 3);
    CHECK(deepseek_runtime_get_isa(runtime) >= DEEPSEEK_ISA_SCALAR);
    CHECK(deepseek_runtime_get_isa(runtime) <= DEEPSEEK_ISA_AMX);
    deepseek_runtime_free(runtime);
    runtime = NULL;

    options.struct_size = 0;
    FAILS(DEEPSEEK_STATUS_INVALID_ARGUMENT, "struct_size is 0",
          deepseek_runtime_new(&options, &runtime, &err));
    deepseek_runtime_options_init(&options, sizeof options);
    for (i = 0; i < sizeof unknown / sizeof unknown[0]; i++) {
        options.isa = unknown[i];
        FAILS(DEEPSEEK_STATUS_INVALID_ARGUMENT, "isa is",
              deepseek_runtime_new(&options, &runtime, &err));
    }
    deepseek_runtime_options_init(&options, sizeof options);
    options.threads = 100000;
    FAILS(DEEPSEEK_STATUS_INVALID_ARGUMENT, "100000",
          deepseek_runtime_new(&options, &runtime, &err));
    CHECK(runtime == NULL);

    /* Every instruction set gives a runtime, or this processor lacks it; not the best one. */
    OK(deepseek_runtime_new(NULL, &runtime, &err));
    for (i = DEEPSEEK_ISA_SCALAR; i <= DEEPSEEK_ISA_AMX; i++) {
        deepseek_runtime *lower = NULL;
        deepseek_error *lacks = NULL;
        deepseek_status status;
        options.threads = 1;
        options.isa = (int32_t)i;
        status = deepseek_runtime_new(&options, &lower, &lacks);
        if (status == DEEPSEEK_STATUS_UNSUPPORTED) {
            CHECK(i != DEEPSEEK_ISA_SCALAR && (int32_t)i != deepseek_runtime_get_isa(runtime));
            CHECK(strstr(deepseek_error_message(lacks), "has no") != NULL);
            deepseek_error_free(lacks);
            continue;
        }
        CHECK(status == DEEPSEEK_STATUS_OK && deepseek_runtime_get_isa(lower) == (int32_t)i);
        deepseek_runtime_free(lower);
    }
    deepseek_model_options_init(&model_options, sizeof model_options);
    model_options.flags = 4;
    FAILS(DEEPSEEK_STATUS_UNSUPPORTED_OPTION, "0x4",
          deepseek_model_open(runtime, "any.onnx", &model_options, &model, &err));
    deepseek_runtime_free(runtime);
}

int main(void)
{
    deepseek_runtime *runtime = make_runtime(1), *same = deepseek_runtime_ref(runtime);
    CHECK(same == runtime);
    deepseek_runtime_free(same);
    a_graph_is_typed_while_it_is_built(runtime);
    a_model_describes_itself(runtime);
    memory_is_known_before_running(runtime);
    a_precision_is_compiled_for(runtime);
    a_budget_is_met_or_refused(runtime);
    files_that_are_no_models(runtime);
    options_of_other_versions();
    deepseek_runtime_free(runtime);
    return 0;
}
