/* Adds two numbers, and says which library did it. */
#include <deepseek/deepseek.h>
#include <stdio.h>

int main(void)
{
    const float two = 2;
    const char *name = "x";
    deepseek_runtime *runtime = NULL;
    deepseek_graph *graph = NULL;
    deepseek_model *model = NULL;
    deepseek_session *session = NULL;
    deepseek_tensor *tensor = NULL;
    deepseek_outputs *outputs = NULL;
    deepseek_tensor_view view;
    deepseek_value x[2], sum;

    if (deepseek_version_number() != DEEPSEEK_VERSION_NUMBER
        || deepseek_runtime_new(NULL, &runtime, NULL) != DEEPSEEK_STATUS_OK
        || deepseek_graph_new("sum", &graph, NULL) != DEEPSEEK_STATUS_OK
        || deepseek_graph_add_input(graph, name, DEEPSEEK_DTYPE_F32, NULL, 0, &x[0], NULL)
               != DEEPSEEK_STATUS_OK) {
        return 1;
    }
    x[1] = x[0];
    if (deepseek_graph_add_node(graph, "Add", NULL, NULL, x, 2, &sum, 1, NULL) != DEEPSEEK_STATUS_OK
        || deepseek_graph_add_output(graph, "sum", sum, NULL) != DEEPSEEK_STATUS_OK
        || deepseek_graph_build(graph, runtime, NULL, &model, NULL) != DEEPSEEK_STATUS_OK
        || deepseek_session_new(model, NULL, &session, NULL) != DEEPSEEK_STATUS_OK
        || deepseek_tensor_new(DEEPSEEK_DTYPE_F32, NULL, 0, &two, sizeof two, &tensor, NULL)
               != DEEPSEEK_STATUS_OK
        || deepseek_session_run(session, &name, (const deepseek_tensor *const *)&tensor, 1, NULL,
                                &outputs, NULL)
               != DEEPSEEK_STATUS_OK) {
        return 1;
    }
    deepseek_tensor_free(tensor);
    tensor = NULL;
    if (deepseek_outputs_get_tensor(outputs, 0, &tensor, NULL) != DEEPSEEK_STATUS_OK
        || deepseek_tensor_get_view(tensor, &view, NULL) != DEEPSEEK_STATUS_OK
        || *(const float *)view.data != 4) {
        return 1;
    }
    deepseek_tensor_free(tensor);
    deepseek_outputs_free(outputs);
    deepseek_session_free(session);
    deepseek_model_free(model);
    deepseek_graph_free(graph);
    deepseek_runtime_free(runtime);
    printf("2 + 2 = 4, says libdeepseek %s\n", deepseek_version());
    return 0;
}
