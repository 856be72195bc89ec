/* Text in, vectors out. The argument is a folder of tiny encoders. */
#include "support.h"
#include <math.h>

int main(int argc, char **argv)
{
    const char *texts[] = {"a cat sleeps", "x\0y", "gr\xc3\xbc\xc3\x9f dich"};
    const size_t lengths[] = {12, 3, 12};
    const char *broken[] = {"\xc3"};
    char path[4096];
    deepseek_runtime *runtime = make_runtime(2);
    deepseek_embedder *embedder = NULL, *same;
    deepseek_run_options options;
    deepseek_cancel *cancel = NULL;
    uint32_t ids[512];
    size_t dim, len = 0, i;
    float *batch, *alone;

    CHECK(argc == 2);
    snprintf(path, sizeof path, "%s/bert-mean", argv[1]);
    OK(deepseek_embedder_open(runtime, path, NULL, &embedder, &err));
    same = deepseek_embedder_ref(embedder);
    CHECK(same == embedder);
    deepseek_embedder_free(same);
    dim = deepseek_embedder_get_dim(embedder);
    CHECK(dim > 0 && deepseek_embedder_get_max_tokens(embedder) > 0);
    batch = (float *)calloc(3 * dim, sizeof *batch);
    alone = (float *)calloc(dim, sizeof *alone);
    CHECK(batch != NULL && alone != NULL);

    /* Ask for the size, then for the vectors. */
    FAILS(DEEPSEEK_STATUS_BUFFER_TOO_SMALL, "room for 0",
          deepseek_embedder_run(embedder, texts, lengths, 3, NULL, NULL, 0, &len, &err));
    CHECK(len == 3 * dim);
    OK(deepseek_embedder_run(embedder, texts, lengths, 3, NULL, batch, 3 * dim, &len, &err));
    CHECK(len == 3 * dim);
    for (i = 0; i < len; i++) {
        CHECK(isfinite(batch[i]));
    }
    for (i = 0; i < 3; i++) {
        OK(deepseek_embedder_run(embedder, &texts[i], &lengths[i], 1, NULL, alone, dim, &len,
                                 &err));
        CHECK(memcmp(alone, batch + i * dim, dim * sizeof *alone) == 0);
    }
    OK(deepseek_embedder_run(embedder, NULL, NULL, 0, NULL, NULL, 0, &len, &err));
    CHECK(len == 0);
    FAILS(DEEPSEEK_STATUS_INVALID_ARGUMENT, "texts[0] is not UTF-8",
          deepseek_embedder_run(embedder, broken, NULL, 1, NULL, batch, dim, &len, &err));

    OK(deepseek_embedder_get_tokens(embedder, texts[0], lengths[0], ids, 512, &len, &err));
    CHECK(len >= 3 && len <= deepseek_embedder_get_max_tokens(embedder));
    FAILS(DEEPSEEK_STATUS_BUFFER_TOO_SMALL, "room for 1",
          deepseek_embedder_get_tokens(embedder, texts[0], lengths[0], ids, 1, &len, &err));
    CHECK(len >= 3);

    deepseek_run_options_init(&options, sizeof options);
    OK(deepseek_cancel_new(&cancel, &err));
    deepseek_cancel_set(cancel);
    options.cancel = cancel;
    FAILS(DEEPSEEK_STATUS_CANCELLED, "",
          deepseek_embedder_run(embedder, texts, lengths, 3, &options, batch, 3 * dim, &len, &err));
    deepseek_cancel_free(cancel);
    deepseek_embedder_free(embedder);

    embedder = NULL;
    FAILS(DEEPSEEK_STATUS_IO, "nowhere",
          deepseek_embedder_open(runtime, "nowhere", NULL, &embedder, &err));
    CHECK(embedder == NULL);
    deepseek_runtime_free(runtime);
    free(batch);
    free(alone);
    return 0;
}
