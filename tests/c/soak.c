/*
 * Load, run, unload, a thousand times: memory must not grow. Arguments: a folder with a
 * tiny encoder, the number of rounds. The resident size is fitted with a line over the
 * rounds after a warm-up; its slope must be below 200 bytes a round.
 */
#include "support.h"

static double resident_bytes(void)
{
    FILE *file = fopen("/proc/self/statm", "r");
    long total = 0, resident = 0;
    CHECK(file != NULL && fscanf(file, "%ld %ld", &total, &resident) == 2);
    fclose(file);
    return (double)resident * 4096;
}

static void one_round(const char *encoder)
{
    const char *names[] = {"x"}, *text = "the same text every time";
    static const float data[] = {1, 2, 3};
    static const int64_t shape[] = {1, 3};
    deepseek_runtime *runtime = make_runtime(2);
    deepseek_model *model = make_affine(runtime);
    deepseek_session *session = make_session(model);
    deepseek_tensor *x = make_f32(shape, 2, data), *y = NULL;
    const deepseek_tensor *one = x;
    deepseek_outputs *outputs = NULL;
    deepseek_profile *profile = NULL;
    deepseek_buffer *trace = NULL;
    deepseek_run *run = NULL;
    deepseek_embedder *embedder = NULL;
    float vector[1024];
    size_t len = 0;
    int32_t done = 0;

    OK(deepseek_session_run_profiled(session, names, &one, 1, NULL, &outputs, &profile, &err));
    OK(deepseek_profile_get_trace(profile, &trace, &err));
    deepseek_profile_free(profile);
    OK(deepseek_outputs_get_tensor(outputs, 0, &y, &err));
    deepseek_tensor_free(y);
    deepseek_outputs_free(outputs);
    deepseek_buffer_free(trace);
    OK(deepseek_session_run_async(session, names, &one, 1, NULL, NULL, NULL, NULL, &run, &err));
    OK(deepseek_run_wait(run, -1, &done, &outputs, &err));
    deepseek_outputs_free(outputs);
    deepseek_run_free(run);
    one = NULL;
    FAILS(DEEPSEEK_STATUS_INVALID_ARGUMENT, "tensors[0]",
          deepseek_session_run(session, names, &one, 1, NULL, &outputs, &err));
    deepseek_tensor_free(x);
    deepseek_session_free(session);
    deepseek_model_free(model);

    OK(deepseek_embedder_open(runtime, encoder, NULL, &embedder, &err));
    OK(deepseek_embedder_run(embedder, &text, NULL, 1, NULL, vector, 1024, &len, &err));
    deepseek_embedder_free(embedder);
    deepseek_runtime_free(runtime);
}

int main(int argc, char **argv)
{
    int rounds, warm_up, i;
    double n = 0, sx = 0, sy = 0, sxx = 0, sxy = 0, slope;
    uint64_t heap;
    CHECK(argc == 3);
    rounds = atoi(argv[2]);
    warm_up = rounds / 5;
    CHECK(rounds >= 10);
    one_round(argv[1]);
    heap = deepseek_heap_bytes();
    for (i = 0; i < rounds; i++) {
        one_round(argv[1]);
        CHECK(deepseek_heap_bytes() == heap);
        if (i >= warm_up) {
            double y = resident_bytes();
            n += 1;
            sx += i;
            sy += y;
            sxx += (double)i * i;
            sxy += i * y;
        }
    }
    slope = (n * sxy - sx * sy) / (n * sxx - sx * sx);
    printf("resident size after %d rounds: %.1f MiB, slope %.1f bytes a round\n", rounds,
           resident_bytes() / 1048576, slope);
    /* Few rounds say nothing about growth. */
    CHECK(rounds < 500 || slope < 200);
    return 0;
}
