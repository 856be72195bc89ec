/* Runs in the background, plain and ragged: results, callbacks, and how they are cut short. */
#include "support.h"
#include <pthread.h>

/* Of `make_looping`. A ragged run has two sequences, of 3 and 1 rows, and one scalar. */
static const char *const names[] = {"x", "rounds"};
static const size_t counts[] = {2, 1};

/* What the callbacks of a run saw; written before on_release. */
struct heard {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int done, released;
    deepseek_status status;
    deepseek_run *free_inside, *wait_inside;
    deepseek_status waited;
};

static void check_plain(const deepseek_outputs *outputs)
{
    static const float want[] = {-1, -2};
    deepseek_tensor *y = NULL;
    deepseek_tensor_view view;
    CHECK(deepseek_outputs_count(outputs) == 2);
    OK(deepseek_outputs_get_tensor(outputs, 0, &y, &err));
    view = view_of(y);
    CHECK(view.rank == 3 && view.bytes == sizeof want);
    CHECK(memcmp(view.data, want, sizeof want) == 0);
    deepseek_tensor_free(y);
}

static void check_ragged(const deepseek_outputs *outputs)
{
    static const float want[] = {-1, -2, -3, -4, -5, -6};
    static const int64_t rows[] = {3, 1};
    size_t i, count = 0;
    CHECK(deepseek_outputs_count(outputs) == 2);
    OK(deepseek_outputs_count_items(outputs, 0, &count, &err));
    CHECK(count == 2);
    for (i = 0; i < count; i++) {
        deepseek_tensor *y = NULL;
        deepseek_tensor_view view;
        OK(deepseek_outputs_get_item(outputs, 0, i, &y, &err));
        view = view_of(y);
        CHECK(view.rank == 2 && view.shape[0] == rows[i] && view.shape[1] == 2);
        CHECK(memcmp(view.data, want, view.bytes) == 0);
        deepseek_tensor_free(y);
    }
    OK(deepseek_outputs_count_items(outputs, 1, &count, &err));
    CHECK(count == 1);
}

static void check(int ragged, const deepseek_outputs *outputs)
{
    if (ragged) {
        check_ragged(outputs);
    } else {
        check_plain(outputs);
    }
}

static void on_done(void *user_data, deepseek_status status, const deepseek_outputs *outputs,
                    const deepseek_error *error)
{
    struct heard *heard = (struct heard *)user_data;
    pthread_mutex_lock(&heard->lock);
    CHECK(heard->released == 0);
    heard->done += 1;
    heard->status = status;
    if (status == DEEPSEEK_STATUS_OK) {
        CHECK(error == NULL && deepseek_outputs_count(outputs) == 2);
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
    pthread_cond_broadcast(&heard->changed);
    pthread_mutex_unlock(&heard->lock);
}

static void heard_nothing(struct heard *heard)
{
    memset(heard, 0, sizeof *heard);
    CHECK(pthread_mutex_init(&heard->lock, NULL) == 0);
    CHECK(pthread_cond_init(&heard->changed, NULL) == 0);
}

/* Starts a run of so many rounds; `heard` may be NULL. The inputs go before it has ended. */
static deepseek_status start(const deepseek_session *session, int ragged, int64_t rounds,
                             const deepseek_run_options *options, struct heard *heard,
                             deepseek_run **out_run, deepseek_error **err)
{
    static const float data[] = {1, 2, 3, 4, 5, 6};
    static const int64_t shapes[][2] = {{3, 2}, {1, 2}};
    deepseek_on_done done = heard == NULL ? NULL : on_done;
    deepseek_on_release release = heard == NULL ? NULL : on_release;
    deepseek_tensor *inputs[2], *rows[2];
    const deepseek_tensor *given[3];
    deepseek_status status;
    make_loop_inputs(rounds, inputs);
    rows[0] = make_f32(shapes[0], 2, data);
    rows[1] = make_f32(shapes[1], 2, data);
    if (ragged) {
        given[0] = rows[0];
        given[1] = rows[1];
        given[2] = inputs[1];
        status = deepseek_session_run_ragged_async(session, names, counts, 2, given, options, done,
                                                   release, heard, out_run, err);
    } else {
        given[0] = inputs[0];
        given[1] = inputs[1];
        status = deepseek_session_run_async(session, names, given, 2, options, done, release, heard,
                                            out_run, err);
    }
    deepseek_tensor_free(inputs[0]);
    deepseek_tensor_free(inputs[1]);
    deepseek_tensor_free(rows[0]);
    deepseek_tensor_free(rows[1]);
    return status;
}

/* Waits for a run that was cut short, and frees it. */
static void ends(deepseek_run *run, deepseek_status want, const char *part)
{
    deepseek_outputs *outputs = NULL;
    int32_t done = 0;
    FAILS(want, part, deepseek_run_wait(run, -1, &done, &outputs, &err));
    CHECK(done == 1 && outputs == NULL);
    deepseek_run_free(run);
}

static void runs_end_once(const deepseek_model *model, int ragged)
{
    deepseek_session *session = make_session(model);
    deepseek_outputs *outputs = NULL;
    deepseek_run *run = NULL;
    struct heard heard;
    int32_t done = 0;
    int i;

    /* Pulled, without callbacks. */
    OK(start(session, ragged, 3, NULL, NULL, &run, &err));
    OK(deepseek_run_wait(run, -1, &done, &outputs, &err));
    CHECK(done == 1);
    check(ragged, outputs);
    deepseek_outputs_free(outputs);
    outputs = NULL;
    FAILS(DEEPSEEK_STATUS_INVALID_STATE, "taken",
          deepseek_run_wait(run, 0, &done, &outputs, &err));
    deepseek_run_free(run);

    /* Pushed. Whoever has waited knows that the callbacks are over. */
    for (i = 0; i < 20; i++) {
        heard_nothing(&heard);
        run = NULL;
        OK(start(session, ragged, 3, NULL, &heard, &run, &err));
        OK(deepseek_run_wait(run, -1, &done, &outputs, &err));
        CHECK(heard.done == 1 && heard.released == 1 && heard.status == DEEPSEEK_STATUS_OK);
        check(ragged, outputs);
        deepseek_outputs_free(outputs);
        outputs = NULL;
        deepseek_run_free(run);
    }

    /* An error is the result of the run, not of the call that starts it. */
    heard_nothing(&heard);
    {
        const char *const unknown[] = {"z"};
        const size_t none[] = {0};
        run = NULL;
        if (ragged) {
            OK(deepseek_session_run_ragged_async(session, unknown, none, 1, NULL, NULL, on_done,
                                                 on_release, &heard, &run, &err));
        } else {
            static const int64_t shape[] = {1};
            static const float data[] = {1};
            deepseek_tensor *z = make_f32(shape, 1, data);
            const deepseek_tensor *one = z;
            OK(deepseek_session_run_async(session, unknown, &one, 1, NULL, on_done, on_release,
                                          &heard, &run, &err));
            deepseek_tensor_free(z);
        }
        ends(run, DEEPSEEK_STATUS_NOT_FOUND, "'z'");
    }
    CHECK(heard.done == 1 && heard.released == 1 && heard.status == DEEPSEEK_STATUS_NOT_FOUND);

    /* Freed inside its own callback, and waited for there, which is refused. The lock
       keeps the callback from looking before the handle is there. */
    heard_nothing(&heard);
    pthread_mutex_lock(&heard.lock);
    run = NULL;
    OK(start(session, ragged, 3, NULL, &heard, &run, &err));
    heard.free_inside = heard.wait_inside = run;
    while (heard.released == 0) {
        pthread_cond_wait(&heard.changed, &heard.lock);
    }
    CHECK(heard.done == 1 && heard.released == 1);
    CHECK(heard.waited == DEEPSEEK_STATUS_INVALID_STATE);
    pthread_mutex_unlock(&heard.lock);

    /* A call that fails calls nobody. */
    heard_nothing(&heard);
    run = NULL;
    deepseek_session_close(session);
    FAILS(DEEPSEEK_STATUS_INVALID_STATE, "closed",
          start(session, ragged, 3, NULL, &heard, &run, &err));
    CHECK(heard.done == 0 && heard.released == 0 && run == NULL);
    deepseek_session_free(session);
}

static void runs_can_be_cut_short(const deepseek_model *model, int ragged)
{
    deepseek_session *session = make_session(model);
    deepseek_outputs *outputs = NULL;
    deepseek_run *run = NULL, *ahead = NULL;
    deepseek_cancel *cancel = NULL;
    deepseek_run_options options;
    struct heard heard;
    int32_t done = 9;

    heard_nothing(&heard);
    OK(start(session, ragged, INT64_MAX, NULL, &heard, &run, &err));
    OK(deepseek_run_wait(run, 0, &done, &outputs, &err));
    CHECK(done == 0 && outputs == NULL);
    OK(deepseek_run_wait(run, 5, &done, &outputs, &err));
    CHECK(done == 0 && outputs == NULL);
    deepseek_run_cancel(run);
    deepseek_run_cancel(run);
    ends(run, DEEPSEEK_STATUS_CANCELLED, "cancelled");
    CHECK(heard.done == 1 && heard.released == 1 && heard.status == DEEPSEEK_STATUS_CANCELLED);

    /* By the session: also right after the start, whether or not it has got anywhere. */
    run = NULL;
    OK(start(session, ragged, INT64_MAX, NULL, NULL, &run, &err));
    deepseek_session_cancel(session);
    ends(run, DEEPSEEK_STATUS_CANCELLED, "cancelled");

    /* By a flag, by a deadline; and while it waits for its turn behind another. */
    deepseek_run_options_init(&options, sizeof options);
    OK(deepseek_cancel_new(&cancel, &err));
    options.cancel = cancel;
    run = NULL;
    OK(start(session, ragged, INT64_MAX, &options, NULL, &run, &err));
    deepseek_cancel_set(cancel);
    ends(run, DEEPSEEK_STATUS_CANCELLED, "cancelled");
    deepseek_cancel_free(cancel);
    options.cancel = NULL;
    options.timeout_ms = 5;
    run = NULL;
    OK(start(session, ragged, INT64_MAX, &options, NULL, &run, &err));
    ends(run, DEEPSEEK_STATUS_TIMEOUT, "deadline");
    OK(start(session, ragged, INT64_MAX, NULL, NULL, &ahead, &err));
    run = NULL;
    OK(start(session, ragged, INT64_MAX, &options, NULL, &run, &err));
    ends(run, DEEPSEEK_STATUS_TIMEOUT, "deadline");
    deepseek_run_cancel(ahead);
    ends(ahead, DEEPSEEK_STATUS_CANCELLED, "cancelled");

    /* Freeing a run ends it; no callback follows. */
    heard_nothing(&heard);
    run = NULL;
    OK(start(session, ragged, INT64_MAX, NULL, &heard, &run, &err));
    deepseek_session_free(session);
    deepseek_run_free(run);
    CHECK(heard.done == 1 && heard.released == 1);
}

int main(void)
{
    deepseek_runtime *runtime = make_runtime(2);
    deepseek_model *model = make_looping(runtime);
    int ragged;
    for (ragged = 0; ragged < 2; ragged++) {
        runs_end_once(model, ragged);
        runs_can_be_cut_short(model, ragged);
    }
    deepseek_model_free(model);
    deepseek_runtime_free(runtime);
    return 0;
}
