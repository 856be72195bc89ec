/*
 * Semantic search: which passages answer a question?
 *
 *     search MODEL_DIR CORPUS.txt QUESTIONS.txt
 *
 * MODEL_DIR is a sentence encoder as Hugging Face lays it out; the other two hold one passage
 * and one question a line. Every passage becomes a vector once; a question is answered by the
 * three passages whose vectors have the largest dot product with its own.
 *
 * A score is summed in f32, one product after another in index order, so programs in other
 * languages print the same bits. Compile with -ffp-contract=off, or the compiler may fuse a
 * product and a sum into one rounding.
 */
#define _POSIX_C_SOURCE 200809L
#include <deepseek/deepseek.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { TOP = 3, CUT = 80 };

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

/* Says what the library reported, and frees the report. Returns 0, so that a caller can
   write `return report(...)`. */
static int report(const char *what, deepseek_status status, deepseek_error *err)
{
    fprintf(stderr, "search: %s: %s: %s\n", what, deepseek_status_name(status),
            deepseek_error_message(err));
    deepseek_error_free(err);
    return 0;
}

/* The lines of a file. They point into one block of text, which `lines_free` frees. */
struct lines {
    char *text;
    const char **line;
    size_t *length;
    size_t count;
};

static void lines_free(struct lines *lines)
{
    free(lines->text);
    free(lines->line);
    free(lines->length);
}

static int lines_read(const char *path, struct lines *out)
{
    struct lines lines = {NULL, NULL, NULL, 0};
    size_t size = 0, room = 1 << 16, got, i, start, breaks = 0;
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        fprintf(stderr, "search: %s: %s\n", path, strerror(errno));
        return 0;
    }
    lines.text = malloc(room);
    while (lines.text != NULL && (got = fread(lines.text + size, 1, room - size, file)) > 0) {
        size += got;
        if (size == room) {
            char *larger = room > SIZE_MAX / 2 ? NULL : realloc(lines.text, room * 2);
            if (larger == NULL) {
                free(lines.text);
            }
            lines.text = larger;
            room *= 2;
        }
    }
    if (lines.text == NULL || ferror(file)) {
        fprintf(stderr, "search: %s: cannot read it all\n", path);
        fclose(file);
        free(lines.text);
        return 0;
    }
    fclose(file);

    for (i = 0; i < size; i++) {
        breaks += lines.text[i] == '\n';
    }
    lines.line = calloc(breaks + 1, sizeof *lines.line);
    lines.length = calloc(breaks + 1, sizeof *lines.length);
    if (lines.line == NULL || lines.length == NULL) {
        fprintf(stderr, "search: %s: out of memory\n", path);
        lines_free(&lines);
        return 0;
    }
    for (start = 0; start < size; start = i + 1) {
        for (i = start; i < size && lines.text[i] != '\n'; i++) {
        }
        lines.line[lines.count] = lines.text + start;
        lines.length[lines.count] = i - start;
        lines.count += 1;
    }
    *out = lines;
    return 1;
}

/* One vector of `dim` floats for each text; the caller frees them. NULL if that failed. */
static float *embed(const deepseek_embedder *embedder, const char *const *texts,
                    const size_t *lengths, size_t count)
{
    deepseek_error *err = NULL;
    deepseek_status status;
    size_t len = count * deepseek_embedder_get_dim(embedder);
    float *vectors = calloc(len > 0 ? len : 1, sizeof *vectors);
    if (vectors == NULL) {
        fprintf(stderr, "search: no memory for %zu vectors\n", count);
        return NULL;
    }
    status = deepseek_embedder_run(embedder, texts, lengths, count, NULL, vectors, len, &len, &err);
    if (status != DEEPSEEK_STATUS_OK) {
        report("cannot embed", status, err);
        free(vectors);
        return NULL;
    }
    return vectors;
}

static float dot(const float *a, const float *b, size_t dim)
{
    float sum = 0;
    size_t i;
    for (i = 0; i < dim; i++) {
        sum += a[i] * b[i];
    }
    return sum;
}

/* Bytes of a text to print: at most CUT, not cutting a character of UTF-8 in two. */
static int cut(const char *text, size_t length)
{
    size_t end = length;
    if (length > CUT) {
        for (end = CUT; end > 0 && ((unsigned char)text[end] & 0xc0) == 0x80; end--) {
        }
    }
    return (int)end;
}

/* Prints the best passages for a question; of equal scores the first passage wins. */
static void print_best(const float *question, const float *vectors, size_t dim,
                       const struct lines *corpus)
{
    size_t best[TOP], found = 0, i, at, rank;
    float scores[TOP];
    for (i = 0; i < corpus->count; i++) {
        float score = dot(question, vectors + i * dim, dim);
        for (at = found; at > 0 && score > scores[at - 1]; at--) {
            if (at < TOP) {
                scores[at] = scores[at - 1];
                best[at] = best[at - 1];
            }
        }
        if (at < TOP) {
            scores[at] = score;
            best[at] = i;
            found += found < TOP;
        }
    }
    for (rank = 0; rank < found; rank++) {
        const char *text = corpus->line[best[rank]];
        uint32_t bits;
        memcpy(&bits, &scores[rank], sizeof bits);
        printf("  %zu %.6f %08" PRIx32 " %.*s\n", rank + 1, scores[rank], bits,
               cut(text, corpus->length[best[rank]]), text);
    }
}

static int search(const char *model, const struct lines *corpus, const struct lines *questions)
{
    deepseek_runtime *runtime = NULL;
    deepseek_embedder *embedder = NULL;
    deepseek_error *err = NULL;
    deepseek_status status;
    float *vectors = NULL, *question = NULL;
    double start = now_ms(), loaded, embedded, answered;
    size_t dim, i;
    int ok = 0;

    status = deepseek_runtime_new(NULL, &runtime, &err);
    if (status != DEEPSEEK_STATUS_OK) {
        return report("cannot start", status, err);
    }
    status = deepseek_embedder_open(runtime, model, NULL, &embedder, &err);
    deepseek_runtime_free(runtime); /* the embedder keeps what it needs */
    if (status != DEEPSEEK_STATUS_OK) {
        return report(model, status, err);
    }
    dim = deepseek_embedder_get_dim(embedder);
    loaded = now_ms();

    vectors = embed(embedder, corpus->line, corpus->length, corpus->count);
    if (vectors == NULL) {
        goto done;
    }
    embedded = now_ms();

    for (i = 0; i < questions->count; i++) {
        question = embed(embedder, &questions->line[i], &questions->length[i], 1);
        if (question == NULL) {
            goto done;
        }
        printf("Q %.*s\n", (int)questions->length[i], questions->line[i]);
        print_best(question, vectors, dim, corpus);
        free(question);
    }
    answered = now_ms() - embedded;
    printf("# %zu passages, %zu questions, load %.1f ms, corpus %.1f ms, per question %.1f ms\n",
           corpus->count, questions->count, loaded - start, embedded - loaded,
           questions->count > 0 ? answered / (double)questions->count : 0.0);
    ok = 1;

done:
    free(vectors);
    deepseek_embedder_free(embedder);
    return ok;
}

int main(int argc, char **argv)
{
    struct lines corpus, questions;
    int ok = 0;
    if (argc != 4) {
        fprintf(stderr, "usage: search MODEL_DIR CORPUS.txt QUESTIONS.txt\n");
        return 2;
    }
    if (!lines_read(argv[2], &corpus)) {
        return 1;
    }
    if (lines_read(argv[3], &questions)) {
        ok = search(argv[1], &corpus, &questions);
        lines_free(&questions);
    }
    lines_free(&corpus);
    return ok ? 0 : 1;
}
