/* Building, describing and opening models; options of other versions. */
#include "support.h"

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
          deepseek_graph_build(graph, runtime, &model, &err));

    OK(deepseek_graph_add_node(graph, "Softmax", "soft", "axis = 1", &x, 1, &y, 1, &err));
    OK(deepseek_graph_add_output(graph, "y", y, &err));
    FAILS(DEEPSEEK_STATUS_INVALID_GRAPH, "y", deepseek_graph_add_output(graph, "y", x, &err));
    FAILS(DEEPSEEK_STATUS_INVALID_ARGUMENT, "value is",
          deepseek_graph_add_output(graph, "z", DEEPSEEK_VALUE_NONE, &err));
    OK(deepseek_graph_build(graph, runtime, &model, &err));
    deepseek_model_free(model);

    /* The graph goes on. */
    OK(deepseek_graph_add_output(graph, "x again", x, &err));
    OK(deepseek_graph_build(graph, runtime, &model, &err));
    deepseek_graph_free(graph);
    CHECK(deepseek_model_count_outputs(model) == 2);
    deepseek_model_free(model);
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

    OK(deepseek_model_get_summary(model, &text, &err));
    CHECK(strlen(deepseek_buffer_data(text)) == deepseek_buffer_len(text));
    CHECK(strstr(deepseek_buffer_data(text), "\"FusedMatMul\"") != NULL);
    CHECK(strstr(deepseek_buffer_data(text), "\"batch\"") != NULL);
    deepseek_buffer_free(text);
    deepseek_model_free(same);
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
    model = make_chain(runtime, 8, 2);
    OK(deepseek_model_get_memory(model, symbols, one, 1, &a, NULL, &err));
    OK(deepseek_model_get_memory(model, symbols, five, 1, &b, NULL, &err));
    CHECK(a.arena_bytes >= 8 * 4 && b.arena_bytes >= 5 * 8 * 4 && a.arena_bytes < b.arena_bytes);
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
    static const int32_t unknown[] = {-1, 4, 99};

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

    /* Every instruction set up to the best one there is gives a runtime. */
    OK(deepseek_runtime_new(NULL, &runtime, &err));
    for (i = DEEPSEEK_ISA_SCALAR; i <= (size_t)deepseek_runtime_get_isa(runtime); i++) {
        deepseek_runtime *lower = NULL;
        options.threads = 1;
        options.isa = (int32_t)i;
        OK(deepseek_runtime_new(&options, &lower, &err));
        CHECK(deepseek_runtime_get_isa(lower) == (int32_t)i);
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
    files_that_are_no_models(runtime);
    options_of_other_versions();
    deepseek_runtime_free(runtime);
    return 0;
}
