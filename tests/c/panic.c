/* A panic inside the library: a code, a process that lives on, a handle that is poisoned.
   Needs a library with the feature `test-hooks`. */
#include "support.h"

#ifdef __cplusplus
extern "C"
#endif
    deepseek_status
    deepseek_test_panic(deepseek_graph *graph, const deepseek_session *session,
                        deepseek_error **err);

int main(void)
{
    deepseek_runtime *runtime = make_runtime(2);
    deepseek_model *model = make_affine(runtime);
    deepseek_session *session = make_session(model), *other = make_session(model);
    deepseek_graph *graph = NULL;
    deepseek_outputs *outputs = NULL;
    deepseek_value value;
    static const float data[] = {1, 2, 3};
    static const int64_t shape[] = {1, 3};
    deepseek_tensor *x = make_f32(shape, 2, data);
    const deepseek_tensor *one = x;
    const char *names[] = {"x"};

    OK(deepseek_graph_new("g", &graph, &err));
    FAILS(DEEPSEEK_STATUS_PANIC, "provoked", deepseek_test_panic(NULL, NULL, &err));
    OK(deepseek_graph_add_constant(graph, "c", x, &value, &err));

    FAILS(DEEPSEEK_STATUS_PANIC, "provoked", deepseek_test_panic(graph, NULL, &err));
    FAILS(DEEPSEEK_STATUS_POISONED, "new one",
          deepseek_graph_add_constant(graph, "d", x, &value, &err));
    FAILS(DEEPSEEK_STATUS_POISONED, "new one", deepseek_graph_add_output(graph, "c", value, &err));
    deepseek_graph_free(graph);

    FAILS(DEEPSEEK_STATUS_PANIC, "provoked inside a session",
          deepseek_test_panic(NULL, session, &err));
    FAILS(DEEPSEEK_STATUS_POISONED, "new one",
          deepseek_session_run(session, names, &one, 1, NULL, &outputs, &err));
    CHECK(outputs == NULL);
    deepseek_session_free(session);

    /* Everything else goes on. */
    OK(deepseek_session_run(other, names, &one, 1, NULL, &outputs, &err));
    deepseek_outputs_free(outputs);
    deepseek_session_free(other);
    deepseek_tensor_free(x);
    deepseek_model_free(model);
    deepseek_runtime_free(runtime);
    return 0;
}
