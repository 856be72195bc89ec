/* Running: results, errors, profiles, deadlines, and other threads that interfere. */
#include "support.h"
#include <pthread.h>

static const char *const x_name[] = {"x"};
static const char *const loop_names[] = {"x", "rounds"};

static deepseek_status run_x(const deepseek_session *session, const deepseek_tensor *x,
                             const deepseek_run_options *options, deepseek_outputs **out_outputs,
                             deepseek_error **err)
{
    return deepseek_session_run(session, x_name, &x, 1, options, out_outputs, err);
}

static deepseek_status run_loop(const deepseek_session *session, deepseek_tensor *const inputs[2],
                                const deepseek_run_options *options,
                                deepseek_outputs **out_outputs, deepseek_error **err)
{
    const deepseek_tensor *both[2];
    both[0] = inputs[0];
    both[1] = inputs[1];
    return deepseek_session_run(session, loop_names, both, 2, options, out_outputs, err);
}

static void check_affine(const deepseek_outputs *outputs)
{
    deepseek_tensor *y = NULL;
    deepseek_tensor_view view;
    size_t index = 9, count = 0;
    CHECK(deepseek_outputs_count(outputs) == 1);
    CHECK(strcmp(deepseek_outputs_get_name(outputs, 0), "y") == 0);
    CHECK(strcmp(deepseek_outputs_get_type(outputs, 0), "f32[2, 2]") == 0);
    CHECK(deepseek_outputs_get_name(outputs, 1) == NULL);
    OK(deepseek_outputs_find(outputs, "y", &index, &err));
    CHECK(index == 0);
    FAILS(DEEPSEEK_STATUS_NOT_FOUND, "'y'", deepseek_outputs_find(outputs, "z", &index, &err));
    FAILS(DEEPSEEK_STATUS_INVALID_ARGUMENT, "1 outputs",
          deepseek_outputs_get_tensor(outputs, 1, &y, &err));
    FAILS(DEEPSEEK_STATUS_UNSUPPORTED, "get_tensor",
          deepseek_outputs_count_items(outputs, 0, &count, &err));
    OK(deepseek_outputs_get_tensor(outputs, 0, &y, &err));
    view = view_of(y);
    CHECK(view.rank == 2 && view.count == 4);
    {
        /* [1 2 3] gives [22 28] + [10 -100], [0 0 20] gives [100 120] + [10 -100]. */
        const float want[] = {32, 0, 110, 20};
        CHECK(memcmp(view.data, want, sizeof want) == 0);
    }
    deepseek_tensor_free(y);
}

static deepseek_tensor *affine_input(void)
{
    static const float data[] = {1, 2, 3, 0, 0, 20};
    static const int64_t shape[] = {2, 3};
    return make_f32(shape, 2, data);
}

static void parents_may_go_first(void)
{
    deepseek_runtime *runtime = make_runtime(2);
    deepseek_model *model = make_affine(runtime);
    deepseek_session *session = make_session(model);
    deepseek_tensor *x = affine_input();
    deepseek_outputs *outputs = NULL;
    deepseek_runtime_free(runtime);
    deepseek_model_free(model);
    OK(run_x(session, x, NULL, &outputs, &err));
    deepseek_tensor_free(x);
    deepseek_session_free(session);
    check_affine(outputs);
    deepseek_outputs_free(outputs);
}

static void inputs_are_checked(const deepseek_model *model)
{
    static const int64_t flat[] = {3}, wide[] = {2, 4};
    static const float data[8] = {0};
    const char *unknown[] = {"z"}, *twice[] = {"x", "x"};
    deepseek_session *session = make_session(model);
    deepseek_tensor *x = affine_input(), *wrong = make_f32(flat, 1, data);
    const deepseek_tensor *pair[2], *one;
    deepseek_outputs *outputs = NULL;

    one = x;
    pair[0] = pair[1] = x;
    FAILS(DEEPSEEK_STATUS_NOT_FOUND, "'x'",
          deepseek_session_run(session, unknown, &one, 1, NULL, &outputs, &err));
    FAILS(DEEPSEEK_STATUS_INVALID_ARGUMENT, "twice",
          deepseek_session_run(session, twice, pair, 2, NULL, &outputs, &err));
    FAILS(DEEPSEEK_STATUS_INVALID_ARGUMENT, "missing",
          deepseek_session_run(session, NULL, NULL, 0, NULL, &outputs, &err));
    FAILS(DEEPSEEK_STATUS_SHAPE_MISMATCH, "x", run_x(session, wrong, NULL, &outputs, &err));
    deepseek_tensor_free(wrong);
    wrong = make_f32(wide, 2, data);
    FAILS(DEEPSEEK_STATUS_SHAPE_MISMATCH, "f32[batch, 3]",
          run_x(session, wrong, NULL, &outputs, &err));
    deepseek_tensor_free(wrong);
    OK(deepseek_tensor_new(DEEPSEEK_DTYPE_I64, wide, 2, NULL, 0, &wrong, &err));
    FAILS(DEEPSEEK_STATUS_DTYPE_MISMATCH, "i64", run_x(session, wrong, NULL, &outputs, &err));
    deepseek_tensor_free(wrong);
    pair[1] = NULL;
    FAILS(DEEPSEEK_STATUS_INVALID_ARGUMENT, "tensors[1] is NULL",
          deepseek_session_run(session, twice, pair, 2, NULL, &outputs, &err));
    CHECK(outputs == NULL);

    /* After all that the session is as good as new. */
    OK(run_x(session, x, NULL, &outputs, &err));
    check_affine(outputs);
    deepseek_outputs_free(outputs);
    CHECK(deepseek_session_get_observed_bytes(session) > 0);
    deepseek_session_free(session);
    deepseek_tensor_free(x);
}

static void profiles_come_in_every_form(const deepseek_model *model)
{
    deepseek_session *session = make_session(model);
    deepseek_tensor *x = affine_input();
    const deepseek_tensor *one = x;
    deepseek_outputs *outputs = NULL;
    deepseek_profile *profile = NULL;
    deepseek_buffer *trace = NULL, *json = NULL, *html = NULL;
    OK(deepseek_session_run_profiled(session, x_name, &one, 1, NULL, &outputs, &profile, &err));
    check_affine(outputs);
    OK(deepseek_profile_get_trace(profile, &trace, &err));
    OK(deepseek_profile_get_json(profile, &json, &err));
    OK(deepseek_profile_get_html(profile, &html, &err));
    deepseek_profile_free(profile);
    CHECK(strstr(deepseek_buffer_data(trace), "\"traceEvents\"") != NULL);
    CHECK(strstr(deepseek_buffer_data(json), "\"observed_bytes\"") != NULL);
    CHECK(strncmp(deepseek_buffer_data(html), "<!DOCTYPE html>", 15) == 0);
    CHECK(strstr(deepseek_buffer_data(trace), "product") != NULL);
    CHECK(strstr(deepseek_buffer_data(json), "product") != NULL);
    CHECK(strstr(deepseek_buffer_data(html), "product") != NULL);
    deepseek_buffer_free(html);
    deepseek_buffer_free(json);
    deepseek_buffer_free(trace);
    deepseek_outputs_free(outputs);
    deepseek_tensor_free(x);
    deepseek_session_free(session);
}

static void memory_goes_back(void)
{
    deepseek_runtime *runtime = make_runtime(1);
    deepseek_model *model = make_affine(runtime);
    deepseek_session *session = make_session(model);
    deepseek_tensor *x = affine_input();
    deepseek_outputs *outputs = NULL;
    OK(run_x(session, x, NULL, &outputs, &err));
    CHECK(deepseek_runtime_get_reserved_bytes(runtime) > 0);
    deepseek_session_trim(session);
    CHECK(deepseek_runtime_get_reserved_bytes(runtime) == 0);
    check_affine(outputs);
    deepseek_outputs_free(outputs);
    deepseek_tensor_free(x);
    deepseek_session_free(session);
    deepseek_model_free(model);
    deepseek_runtime_free(runtime);
}

static void budgets_and_deadlines_hold(void)
{
    deepseek_runtime_options runtime_options;
    deepseek_run_options options;
    deepseek_runtime *runtime = NULL;
    deepseek_model *model;
    deepseek_session *session;
    deepseek_tensor *x = affine_input(), *inputs[2];
    deepseek_outputs *outputs = NULL;
    deepseek_cancel *cancel = NULL;

    deepseek_runtime_options_init(&runtime_options, sizeof runtime_options);
    runtime_options.memory_budget_bytes = 10;
    OK(deepseek_runtime_new(&runtime_options, &runtime, &err));
    model = make_affine(runtime);
    session = make_session(model);
    FAILS(DEEPSEEK_STATUS_BUDGET_EXCEEDED, "budget of 10", run_x(session, x, NULL, &outputs, &err));
    deepseek_tensor_free(x);
    deepseek_session_free(session);
    deepseek_model_free(model);
    deepseek_runtime_free(runtime);

    runtime = make_runtime(2);
    model = make_looping(runtime);
    session = make_session(model);
    make_loop_inputs(INT64_MAX, inputs);
    deepseek_run_options_init(&options, sizeof options);
    options.timeout_ms = 20;
    FAILS(DEEPSEEK_STATUS_TIMEOUT, "deadline",
          run_loop(session, inputs, &options, &outputs, &err));

    OK(deepseek_cancel_new(&cancel, &err));
    CHECK(deepseek_cancel_get(cancel) == 0);
    deepseek_cancel_set(cancel);
    deepseek_cancel_set(cancel);
    CHECK(deepseek_cancel_get(cancel) == 1);
    options.timeout_ms = 0;
    options.cancel = cancel;
    FAILS(DEEPSEEK_STATUS_CANCELLED, "cancelled",
          run_loop(session, inputs, &options, &outputs, &err));
    deepseek_cancel_free(cancel);
    CHECK(outputs == NULL);
    deepseek_session_free(session);
    deepseek_model_free(model);
    deepseek_runtime_free(runtime);
    deepseek_tensor_free(inputs[0]);
    deepseek_tensor_free(inputs[1]);
}

/* A thread that runs what never ends by itself, and notes how it ends. */
struct worker {
    const deepseek_session *session;
    deepseek_tensor *const *inputs;
    deepseek_run_options options;
    deepseek_status status;
    pthread_mutex_t lock;
    int done;
};

static void *work(void *arg)
{
    struct worker *worker = (struct worker *)arg;
    deepseek_outputs *outputs = NULL;
    worker->status =
        run_loop(worker->session, worker->inputs, &worker->options, &outputs, NULL);
    deepseek_outputs_free(outputs);
    pthread_mutex_lock(&worker->lock);
    worker->done = 1;
    pthread_mutex_unlock(&worker->lock);
    return NULL;
}

static int is_done(struct worker *worker)
{
    int done;
    pthread_mutex_lock(&worker->lock);
    done = worker->done;
    pthread_mutex_unlock(&worker->lock);
    return done;
}

static void other_threads_may_cancel_and_close(void)
{
    deepseek_runtime *runtime = make_runtime(2);
    deepseek_model *model = make_looping(runtime);
    deepseek_tensor *inputs[2];
    int way;
    make_loop_inputs(INT64_MAX, inputs);
    for (way = 0; way < 3; way++) {
        deepseek_session *session = make_session(model);
        deepseek_cancel *cancel = NULL;
        deepseek_outputs *outputs = NULL;
        struct worker workers[2];
        pthread_t threads[2];
        int i;
        OK(deepseek_cancel_new(&cancel, &err));
        for (i = 0; i < 2; i++) {
            deepseek_run_options_init(&workers[i].options, sizeof workers[i].options);
            workers[i].session = session;
            workers[i].inputs = inputs;
            workers[i].options.cancel = cancel;
            workers[i].done = 0;
            CHECK(pthread_mutex_init(&workers[i].lock, NULL) == 0);
            CHECK(pthread_create(&threads[i], NULL, work, &workers[i]) == 0);
        }
        /* One of them is under way, the other waits for its turn or is about to. */
        while (deepseek_runtime_get_reserved_bytes(runtime) == 0) {
            sleep_ms(1);
        }
        if (way == 0) {
            deepseek_cancel_set(cancel);
        } else if (way == 1) {
            /* Again and again, since it does not reach a run that starts later. */
            while (!is_done(&workers[0]) || !is_done(&workers[1])) {
                deepseek_session_cancel(session);
                sleep_ms(5);
            }
        } else {
            deepseek_session_close(session);
            deepseek_session_close(session);
        }
        for (i = 0; i < 2; i++) {
            CHECK(pthread_join(threads[i], NULL) == 0);
            CHECK(pthread_mutex_destroy(&workers[i].lock) == 0);
            CHECK(workers[i].status == DEEPSEEK_STATUS_CANCELLED
                  || (way == 2 && workers[i].status == DEEPSEEK_STATUS_INVALID_STATE));
        }
        if (way == 2) {
            FAILS(DEEPSEEK_STATUS_INVALID_STATE, "closed",
                  run_loop(session, inputs, NULL, &outputs, &err));
        }
        deepseek_cancel_free(cancel);
        deepseek_session_free(session);
        CHECK(deepseek_runtime_get_reserved_bytes(runtime) == 0);
    }
    deepseek_tensor_free(inputs[0]);
    deepseek_tensor_free(inputs[1]);
    deepseek_model_free(model);
    deepseek_runtime_free(runtime);
}

/* Sessions of one model at the same time; and one session taken in turns. */
struct crowd {
    const deepseek_session *session;
    const deepseek_tensor *x;
};

static void *run_often(void *arg)
{
    const struct crowd *crowd = (const struct crowd *)arg;
    int i;
    for (i = 0; i < 50; i++) {
        deepseek_outputs *outputs = NULL;
        OK(run_x(crowd->session, crowd->x, NULL, &outputs, &err));
        check_affine(outputs);
        deepseek_outputs_free(outputs);
    }
    return NULL;
}

static void threads_take_turns(const deepseek_model *model)
{
    deepseek_session *shared = make_session(model);
    deepseek_tensor *x = affine_input();
    struct crowd crowd[6];
    pthread_t threads[6];
    int i;
    for (i = 0; i < 6; i++) {
        crowd[i].session = i < 3 ? shared : make_session(model);
        crowd[i].x = x;
        CHECK(pthread_create(&threads[i], NULL, run_often, &crowd[i]) == 0);
    }
    for (i = 0; i < 6; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
        if (i >= 3) {
            deepseek_session_free((deepseek_session *)crowd[i].session);
        }
    }
    deepseek_session_free(shared);
    deepseek_tensor_free(x);
}

int main(void)
{
    deepseek_runtime *runtime = make_runtime(2);
    deepseek_model *model = make_affine(runtime);
    parents_may_go_first();
    inputs_are_checked(model);
    profiles_come_in_every_form(model);
    memory_goes_back();
    budgets_and_deadlines_hold();
    other_threads_may_cancel_and_close();
    threads_take_turns(model);
    deepseek_model_free(model);
    deepseek_runtime_free(runtime);
    return 0;
}
