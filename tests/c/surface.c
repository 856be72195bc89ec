/*
 * Plays tests/surface/cases.json, flattened by the script beside it: the same calls, bits and
 * errors as every other surface. The argument is the flattened file. See the README there.
 */
#include "support.h"

enum { MOST = 64 };

/* One case: what was recorded, what is fed, what is expected, and how far it has got. */
struct play {
    char *name;
    deepseek_runtime *runtime;
    deepseek_graph *graph;
    deepseek_error *error;
    deepseek_status status;
    char *value_names[MOST];
    deepseek_value values[MOST];
    size_t value_count;
    const char *input_names[MOST];
    deepseek_tensor *inputs[MOST];
    size_t input_count;
    char *output_names[MOST];
    deepseek_tensor *outputs[MOST];
    size_t output_count;
    const char *shape_names[MOST];
    int64_t extents[MOST][8];
    const int64_t *shapes[MOST];
    size_t ranks[MOST];
    const char *bound_symbols[MOST];
    int64_t bound_mins[MOST], bound_maxs[MOST];
    deepseek_model_options options;
    char *want_code, *want_parts;
};

static int failures = 0;

static void fails(const struct play *p, const char *what, const char *detail)
{
    fprintf(stderr, "%s: %s%s\n", p->name, what, detail);
    failures++;
}

/* Cuts a text at a separator, in place; the number of parts, none for an empty text. */
static size_t split(char *text, char separator, char **parts)
{
    size_t count = 0;
    if (*text == '\0') {
        return 0;
    }
    for (;;) {
        CHECK(count < MOST);
        parts[count++] = text;
        text = strchr(text, separator);
        if (text == NULL) {
            return count;
        }
        *text++ = '\0';
    }
}

static size_t extents_of(char *text, int64_t *shape)
{
    char *parts[MOST];
    size_t rank = split(text, ';', parts), i;
    CHECK(rank <= 8);
    for (i = 0; i < rank; i++) {
        shape[i] = strtoll(parts[i], NULL, 10);
    }
    return rank;
}

/* Bytes from hexadecimal digits, in place; how many. */
static size_t unhex(char *text)
{
    size_t count = strlen(text) / 2, i;
    for (i = 0; i < count; i++) {
        char digits[3] = {0};
        memcpy(digits, text + 2 * i, 2);
        text[i] = (char)strtoul(digits, NULL, 16);
    }
    return count;
}

static deepseek_dtype dtype_of(const char *name)
{
    deepseek_dtype dtype;
    for (dtype = 1; dtype < 100; dtype++) {
        const char *known = deepseek_dtype_name(dtype);
        if (known != NULL && strcmp(known, name) == 0) {
            return dtype;
        }
    }
    fprintf(stderr, "no element type '%s'\n", name);
    exit(1);
}

/* Fields: keyword, name, element type, shape, data. */
static deepseek_tensor *tensor_of(char **fields)
{
    deepseek_tensor *tensor = NULL;
    int64_t shape[8];
    deepseek_dtype dtype = dtype_of(fields[2]);
    size_t rank = extents_of(fields[3], shape);
    if (dtype == DEEPSEEK_DTYPE_STRING) {
        char *strings[MOST];
        const char *texts[MOST];
        size_t lengths[MOST], count = split(fields[4], ';', strings), i;
        for (i = 0; i < count; i++) {
            texts[i] = strings[i] + 1;
            lengths[i] = unhex(strings[i] + 1);
        }
        OK(deepseek_tensor_new_strings(shape, rank, texts, lengths, count, &tensor, &err));
    } else {
        size_t bytes = unhex(fields[4]);
        OK(deepseek_tensor_new(dtype, shape, rank, fields[4], bytes, &tensor, &err));
    }
    return tensor;
}

static int same(const deepseek_tensor *a, const deepseek_tensor *b)
{
    deepseek_tensor_view x = view_of(a), y = view_of(b);
    size_t i;
    if (x.dtype != y.dtype || x.rank != y.rank || x.count != y.count
        || (x.rank > 0 && memcmp(x.shape, y.shape, x.rank * sizeof *x.shape) != 0)) {
        return 0;
    }
    if (x.dtype != DEEPSEEK_DTYPE_STRING) {
        return x.bytes == y.bytes && (x.bytes == 0 || memcmp(x.data, y.data, x.bytes) == 0);
    }
    for (i = 0; i < x.count; i++) {
        const char *s = NULL, *t = NULL;
        size_t n = 0, m = 0;
        OK(deepseek_tensor_get_string(a, i, &s, &n, &err));
        OK(deepseek_tensor_get_string(b, i, &t, &m, &err));
        if (n != m || memcmp(s, t, n) != 0) {
            return 0;
        }
    }
    return 1;
}

static deepseek_value value_of(const struct play *p, const char *name)
{
    size_t i;
    for (i = 0; i < p->value_count; i++) {
        if (strcmp(p->value_names[i], name) == 0) {
            return p->values[i];
        }
    }
    CHECK(strcmp(name, "~") == 0);
    return DEEPSEEK_VALUE_NONE;
}

static deepseek_value *new_value(struct play *p, char *name)
{
    CHECK(p->value_count < MOST);
    p->value_names[p->value_count] = name;
    return &p->values[p->value_count++];
}

/* Does what a line says. Once a call has failed, only expectations are read. */
static void step(struct play *p, char **f)
{
    int going = p->status == DEEPSEEK_STATUS_OK;
    if (strcmp(f[0], "error") == 0) {
        p->want_code = f[1];
        p->want_parts = f[2];
    } else if (strcmp(f[0], "output") == 0) {
        CHECK(p->output_count < MOST);
        p->output_names[p->output_count] = f[1];
        p->outputs[p->output_count++] = tensor_of(f);
    } else if (strcmp(f[0], "input") == 0) {
        CHECK(p->input_count < MOST);
        p->input_names[p->input_count] = f[1];
        p->inputs[p->input_count++] = tensor_of(f);
    } else if (strcmp(f[0], "options_shape") == 0) {
        size_t i = p->options.shape_count++;
        p->shape_names[i] = f[1];
        p->ranks[i] = extents_of(f[2], p->extents[i]);
        p->shapes[i] = p->extents[i];
    } else if (strcmp(f[0], "options_bounds") == 0) {
        size_t i = p->options.bound_count++;
        p->bound_symbols[i] = f[1];
        p->bound_mins[i] = strtoll(f[2], NULL, 10);
        p->bound_maxs[i] = strcmp(f[3], "~") == 0 ? -1 : strtoll(f[3], NULL, 10);
    } else if (strcmp(f[0], "options") == 0) {
        p->options.memory_budget_bytes = strtoull(f[1], NULL, 10);
        p->options.flags = strcmp(f[2], "1") == 0 ? DEEPSEEK_MODEL_WHOLE : 0;
    } else if (going && strcmp(f[0], "graph_input") == 0) {
        char *extents[MOST];
        size_t rank = split(f[3], ';', extents);
        p->status = deepseek_graph_add_input(p->graph, f[1], dtype_of(f[2]),
                                             (const char *const *)extents, rank,
                                             new_value(p, f[1]), &p->error);
    } else if (going && strcmp(f[0], "bound") == 0) {
        int64_t max = strcmp(f[3], "~") == 0 ? -1 : strtoll(f[3], NULL, 10);
        p->status =
            deepseek_graph_set_bound(p->graph, f[1], strtoll(f[2], NULL, 10), max, &p->error);
    } else if (going && strcmp(f[0], "constant") == 0) {
        deepseek_tensor *tensor = tensor_of(f);
        p->status = deepseek_graph_add_constant(p->graph, f[1], tensor, new_value(p, f[1]),
                                                &p->error);
        deepseek_tensor_free(tensor);
    } else if (going && strcmp(f[0], "node") == 0) {
        char *operands[MOST], *results[MOST];
        deepseek_value given[MOST], made[MOST];
        size_t operand_count = split(f[4], ';', operands), count = split(f[5], ';', results), i;
        for (i = 0; i < operand_count; i++) {
            given[i] = value_of(p, operands[i]);
        }
        p->status = deepseek_graph_add_node(p->graph, f[1], f[2], f[3], given, operand_count, made,
                                            count, &p->error);
        for (i = 0; p->status == DEEPSEEK_STATUS_OK && i < count; i++) {
            *new_value(p, results[i]) = made[i];
        }
    } else if (going && strcmp(f[0], "graph_output") == 0) {
        p->status = deepseek_graph_add_output(p->graph, f[1], value_of(p, f[2]), &p->error);
    }
}

static void check_outputs(const struct play *p, const deepseek_outputs *outputs)
{
    size_t i;
    if (deepseek_outputs_count(outputs) != p->output_count) {
        fails(p, "another number of outputs", "");
        return;
    }
    for (i = 0; i < p->output_count; i++) {
        deepseek_tensor *got = NULL;
        OK(deepseek_outputs_get_tensor(outputs, i, &got, &err));
        if (strcmp(deepseek_outputs_get_name(outputs, i), p->output_names[i]) != 0
            || !same(got, p->outputs[i])) {
            fails(p, "another result: ", p->output_names[i]);
        }
        deepseek_tensor_free(got);
    }
}

/* Builds and runs, unless recording failed, and compares. */
static void finish(struct play *p)
{
    deepseek_model *model = NULL;
    deepseek_session *session = NULL;
    deepseek_outputs *outputs = NULL;
    size_t i;
    p->options.shape_names = p->shape_names;
    p->options.shapes = p->shapes;
    p->options.shape_ranks = p->ranks;
    p->options.bound_symbols = p->bound_symbols;
    p->options.bound_mins = p->bound_mins;
    p->options.bound_maxs = p->bound_maxs;
    if (p->status == DEEPSEEK_STATUS_OK) {
        p->status = deepseek_graph_build(p->graph, p->runtime, &p->options, &model, &p->error);
    }
    if (p->status == DEEPSEEK_STATUS_OK) {
        session = make_session(model);
        p->status = deepseek_session_run(session, p->input_names,
                                         (const deepseek_tensor *const *)p->inputs, p->input_count,
                                         NULL, &outputs, &p->error);
    }
    if (p->want_code == NULL && p->status == DEEPSEEK_STATUS_OK) {
        check_outputs(p, outputs);
    } else if (p->want_code == NULL) {
        fails(p, "failed: ", deepseek_error_message(p->error));
    } else if (strcmp(deepseek_status_name(p->status), p->want_code) != 0) {
        fails(p, "another status: ", deepseek_status_name(p->status));
    } else {
        char *parts[MOST];
        size_t count = split(p->want_parts, ';', parts);
        for (i = 0; i < count; i++) {
            if (strstr(deepseek_error_message(p->error), parts[i]) == NULL) {
                fails(p, "missing in the message: ", parts[i]);
            }
        }
    }
    deepseek_outputs_free(outputs);
    deepseek_session_free(session);
    deepseek_model_free(model);
    deepseek_error_free(p->error);
    deepseek_graph_free(p->graph);
    for (i = 0; i < p->input_count; i++) {
        deepseek_tensor_free(p->inputs[i]);
    }
    for (i = 0; i < p->output_count; i++) {
        deepseek_tensor_free(p->outputs[i]);
    }
}

static char *contents(const char *path)
{
    FILE *file = fopen(path, "rb");
    long size;
    char *text;
    CHECK(file != NULL && fseek(file, 0, SEEK_END) == 0 && (size = ftell(file)) > 0);
    rewind(file);
    text = (char *)malloc((size_t)size + 1);
    CHECK(text != NULL && fread(text, 1, (size_t)size, file) == (size_t)size);
    text[size] = '\0';
    fclose(file);
    return text;
}

int main(int argc, char **argv)
{
    static struct play play;
    deepseek_runtime *runtime = make_runtime(2);
    char *text, *line, *next;
    int cases = 0;
    CHECK(argc == 2);
    text = contents(argv[1]);
    for (line = text; line != NULL && *line != '\0'; line = next) {
        char *fields[MOST] = {NULL};
        next = strchr(line, '\n');
        if (next != NULL) {
            *next++ = '\0';
        }
        split(line, '\t', fields);
        if (strcmp(fields[0], "case") == 0) {
            memset(&play, 0, sizeof play);
            play.name = fields[1];
            play.runtime = runtime;
            deepseek_model_options_init(&play.options, sizeof play.options);
            OK(deepseek_graph_new(play.name, &play.graph, &err));
        } else if (strcmp(fields[0], "end") == 0) {
            finish(&play);
            cases++;
        } else {
            step(&play, fields);
        }
    }
    free(text);
    deepseek_runtime_free(runtime);
    printf("%d surface cases, %d failures\n", cases, failures);
    CHECK(cases >= 40 && failures == 0);
    return 0;
}
