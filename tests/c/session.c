/* Running: results, errors, profiles, deadlines, and other threads that interfere. */
#include "support.h"
#include <pthread.h>

enum { CHAIN = 256, PRODUCTS = 600 };

static const char *const x_name[] = {"x"};

static deepseek_status run_x(const deepseek_session *session, const deepseek_tensor *x,
                             const deepseek_run_options *options, deepseek_outputs **out_outputs,
                             deepseek_error **err)
{
    return deepseek_session_run(session, x_name, &x, 1, options, out_outputs, err);
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

static void profiles_are_traces(const deepseek_model *model)
{
    deepseek_session *session = make_session(model);
    deepseek_tensor *x = affine_input();
    const deepseek_tensor *one = x;
    deepseek_outputs *outputs = NULL;
    deepseek_buffer *trace = NULL;
    OK(deepseek_session_run_profile(session, x_name, &one, 1, NULL, &outputs, &trace, &err));
    check_affine(outputs);
    CHECK(strstr(deepseek_buffer_data(trace), "\"traceEvents\"") != NULL);
    CHECK(strstr(deepseek_buffer_data(trace), "product") != NULL);
    deepseek_buffer_free(trace);
    deepseek_outputs_free(outputs);

    /* One run in every form. */
    {
        deepseek_profile *profile = NULL;
        deepseek_buffer *json = NULL, *html = NULL;
        outputs = NULL;
        trace = NULL;
        OK(deepseek_session_run_with_profile(session, x_name, &one, 1, NULL, &outputs, &profile,
                                             &err));
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
    }
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
    deepseek_tensor *x = make_long_input(CHAIN);
    deepseek_outputs *outputs = NULL;
    deepseek_cancel *cancel = NULL;
    double start;

    deepseek_runtime_options_init(&runtime_options, sizeof runtime_options);
    runtime_options.memory_budget_bytes = 1000;
    OK(deepseek_runtime_new(&runtime_options, &runtime, &err));
    model = make_chain(runtime, CHAIN, 3);
    session = make_session(model);
    FAILS(DEEPSEEK_STATUS_BUDGET_EXCEEDED, "1000", run_x(session, x, NULL, &outputs, &err));
    deepseek_session_free(session);
    deepseek_model_free(model);
    deepseek_runtime_free(runtime);

    runtime = make_runtime(2);
    model = make_chain(runtime, CHAIN, PRODUCTS);
    session = make_session(model);
    deepseek_run_options_init(&options, sizeof options);
    options.timeout_ms = 50;
    start = now_seconds();
    FAILS(DEEPSEEK_STATUS_TIMEOUT, "deadline", run_x(session, x, &options, &outputs, &err));
    CHECK(is_slow_machine() || now_seconds() - start < 3);

    OK(deepseek_cancel_new(&cancel, &err));
    CHECK(deepseek_cancel_get(cancel) == 0);
    deepseek_cancel_set(cancel);
    deepseek_cancel_set(cancel);
    CHECK(deepseek_cancel_get(cancel) == 1);
    options.timeout_ms = 0;
    options.cancel = cancel;
    FAILS(DEEPSEEK_STATUS_CANCELLED, "cancelled", run_x(session, x, &options, &outputs, &err));
    deepseek_cancel_free(cancel);
    CHECK(outputs == NULL);
    deepseek_session_free(session);
    deepseek_model_free(model);
    deepseek_runtime_free(runtime);
    deepseek_tensor_free(x);
}

/* A thread that runs the long chain and notes how that ends. */
struct worker {
    const deepseek_session *session;
    const deepseek_tensor *x;
    deepseek_run_options options;
    deepseek_status status;
    pthread_mutex_t lock;
    int done;
};

static void *work(void *arg)
{
    struct worker *worker = (struct worker *)arg;
    deepseek_outputs *outputs = NULL;
    worker->status = run_x(worker->session, worker->x, &worker->options, &outputs, NULL);
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
    deepseek_model *model = make_chain(runtime, CHAIN, PRODUCTS);
    deepseek_tensor *x = make_long_input(CHAIN);
    int way;
    for (way = 0; way < 3; way++) {
        deepseek_session *session = make_session(model);
        deepseek_cancel *cancel = NULL;
        deepseek_outputs *outputs = NULL;
        struct worker workers[2];
        pthread_t threads[2];
        double start;
        int i;
        OK(deepseek_cancel_new(&cancel, &err));
        for (i = 0; i < 2; i++) {
            deepseek_run_options_init(&workers[i].options, sizeof workers[i].options);
            workers[i].session = session;
            workers[i].x = x;
            workers[i].options.cancel = cancel;
            workers[i].done = 0;
            CHECK(pthread_mutex_init(&workers[i].lock, NULL) == 0);
            CHECK(pthread_create(&threads[i], NULL, work, &workers[i]) == 0);
        }
        sleep_ms(60);
        start = now_seconds();
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
        CHECK(is_slow_machine() || now_seconds() - start < 3);
        if (way == 2) {
            FAILS(DEEPSEEK_STATUS_INVALID_STATE, "closed", run_x(session, x, NULL, &outputs, &err));
        }
        deepseek_cancel_free(cancel);
        deepseek_session_free(session);
    }
    deepseek_tensor_free(x);
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

/* What the callbacks of background runs saw; written before on_release. */
struct heard {
    pthread_mutex_t lock;
    int done, released;
    deepseek_status status;
    deepseek_run *free_inside, *wait_inside;
    deepseek_status waited;
};

static void on_done(void *user_data, deepseek_status status, const deepseek_outputs *outputs,
                    const deepseek_error *error)
{
    struct heard *heard = (struct heard *)user_data;
    pthread_mutex_lock(&heard->lock);
    CHECK(heard->released == 0);
    heard->done += 1;
    heard->status = status;
    if (status == DEEPSEEK_STATUS_OK) {
        CHECK(error == NULL);
        check_affine(outputs);
    } else {
        CHECK(outputs == NULL && deepseek_error_code(error) == status);
    }
    if (heard->wait_inside != NULL) {
        deepseek_outputs *taken = NULL;
        int32_t done = 0;
        heard->waited = deepseek_run_wait(heard->wait_inside, -1, &done, &taken, NULL);
    }
    deepseek_run_free(heard->free_inside);
    pthread_mutex_unlock(&heard->lock);
}

static void on_release(void *user_data)
{
    struct heard *heard = (struct heard *)user_data;
    pthread_mutex_lock(&heard->lock);
    heard->released += 1;
    pthread_mutex_unlock(&heard->lock);
}

static void heard_nothing(struct heard *heard)
{
    memset(heard, 0, sizeof *heard);
    CHECK(pthread_mutex_init(&heard->lock, NULL) == 0);
}

static void background_runs_end_once(const deepseek_model *model)
{
    deepseek_session *session = make_session(model);
    deepseek_tensor *x = affine_input();
    const deepseek_tensor *one = x;
    deepseek_outputs *outputs = NULL;
    deepseek_run *run = NULL;
    const char *unknown[] = {"z"};
    struct heard heard;
    int32_t done = 0;
    int i;

    /* Pulled, without callbacks; the inputs and the session may go while it runs. */
    OK(deepseek_session_run_async(session, x_name, &one, 1, NULL, NULL, NULL, NULL, &run, &err));
    OK(deepseek_run_wait(run, -1, &done, &outputs, &err));
    CHECK(done == 1);
    check_affine(outputs);
    deepseek_outputs_free(outputs);
    outputs = NULL;
    FAILS(DEEPSEEK_STATUS_INVALID_STATE, "taken",
          deepseek_run_wait(run, 0, &done, &outputs, &err));
    deepseek_run_free(run);

    /* Pushed. Whoever has waited knows that the callbacks are over. */
    for (i = 0; i < 20; i++) {
        heard_nothing(&heard);
        run = NULL;
        OK(deepseek_session_run_async(session, x_name, &one, 1, NULL, on_done, on_release, &heard,
                                      &run, &err));
        OK(deepseek_run_wait(run, -1, &done, &outputs, &err));
        CHECK(heard.done == 1 && heard.released == 1 && heard.status == DEEPSEEK_STATUS_OK);
        deepseek_outputs_free(outputs);
        outputs = NULL;
        deepseek_run_free(run);
    }

    /* An error is the result of the run, not of the call that starts it. */
    heard_nothing(&heard);
    OK(deepseek_session_run_async(session, unknown, &one, 1, NULL, on_done, on_release, &heard,
                                  &run, &err));
    FAILS(DEEPSEEK_STATUS_NOT_FOUND, "'x'", deepseek_run_wait(run, -1, &done, &outputs, &err));
    CHECK(heard.done == 1 && heard.released == 1 && heard.status == DEEPSEEK_STATUS_NOT_FOUND);
    deepseek_run_free(run);

    /* Freed inside its own callback, and waited for there, which is refused. The lock
       keeps the callback from looking before the handle is there. */
    heard_nothing(&heard);
    pthread_mutex_lock(&heard.lock);
    run = NULL;
    OK(deepseek_session_run_async(session, x_name, &one, 1, NULL, on_done, on_release, &heard,
                                  &run, &err));
    heard.free_inside = heard.wait_inside = run;
    pthread_mutex_unlock(&heard.lock);
    for (i = 0; i < 10000; i++) {
        int released;
        pthread_mutex_lock(&heard.lock);
        released = heard.released;
        pthread_mutex_unlock(&heard.lock);
        if (released) {
            break;
        }
        sleep_ms(1);
    }
    CHECK(heard.done == 1 && heard.released == 1);
    CHECK(heard.waited == DEEPSEEK_STATUS_INVALID_STATE);

    /* A call that fails calls nobody. */
    heard_nothing(&heard);
    run = NULL;
    deepseek_session_close(session);
    FAILS(DEEPSEEK_STATUS_INVALID_STATE, "closed",
          deepseek_session_run_async(session, x_name, &one, 1, NULL, on_done, on_release, &heard,
                                     &run, &err));
    CHECK(heard.done == 0 && heard.released == 0 && run == NULL);
    deepseek_session_free(session);
    deepseek_tensor_free(x);
}

static void background_runs_can_be_cut_short(void)
{
    deepseek_runtime *runtime = make_runtime(2);
    deepseek_model *model = make_chain(runtime, CHAIN, PRODUCTS);
    deepseek_session *session = make_session(model);
    deepseek_tensor *x = make_long_input(CHAIN);
    const deepseek_tensor *one = x;
    deepseek_outputs *outputs = NULL;
    deepseek_run *run = NULL;
    struct heard heard;
    int32_t done = 9;

    heard_nothing(&heard);
    OK(deepseek_session_run_async(session, x_name, &one, 1, NULL, on_done, on_release, &heard,
                                  &run, &err));
    OK(deepseek_run_wait(run, 0, &done, &outputs, &err));
    CHECK(done == 0 && outputs == NULL);
    OK(deepseek_run_wait(run, 20, &done, &outputs, &err));
    CHECK(done == 0 && outputs == NULL);
    deepseek_run_cancel(run);
    deepseek_run_cancel(run);
    FAILS(DEEPSEEK_STATUS_CANCELLED, "cancelled",
          deepseek_run_wait(run, -1, &done, &outputs, &err));
    CHECK(heard.done == 1 && heard.released == 1 && heard.status == DEEPSEEK_STATUS_CANCELLED);
    deepseek_run_free(run);

    /* Freeing a run ends it; no callback follows. */
    heard_nothing(&heard);
    run = NULL;
    OK(deepseek_session_run_async(session, x_name, &one, 1, NULL, on_done, on_release, &heard,
                                  &run, &err));
    deepseek_tensor_free(x);
    deepseek_session_free(session);
    deepseek_model_free(model);
    deepseek_runtime_free(runtime);
    deepseek_run_free(run);
    CHECK(heard.done == 1 && heard.released == 1);
}

int main(void)
{
    deepseek_runtime *runtime = make_runtime(2);
    deepseek_model *model = make_affine(runtime);
    parents_may_go_first();
    inputs_are_checked(model);
    profiles_are_traces(model);
    memory_goes_back();
    budgets_and_deadlines_hold();
    other_threads_may_cancel_and_close();
    threads_take_turns(model);
    background_runs_end_once(model);
    background_runs_can_be_cut_short();
    deepseek_model_free(model);
    deepseek_runtime_free(runtime);
    return 0;
}
