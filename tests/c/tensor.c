/* Tensors: every element type, borrowed memory, strings, what is refused. */
#include "support.h"

static int released;
static void *released_data;

static void on_release(void *ctx, void *data)
{
    CHECK(ctx == &released);
    released += 1;
    released_data = data;
}

static void every_dtype_keeps_its_bytes(void)
{
    static const int64_t shape[] = {2, 3};
    unsigned char bytes[48];
    int dtype;
    size_t i;
    for (i = 0; i < sizeof bytes; i++) {
        bytes[i] = (unsigned char)(i * 7 % 2);
    }
    for (dtype = 1; deepseek_dtype_name(dtype) != NULL; dtype++) {
        deepseek_tensor *zeros = NULL, *copy = NULL;
        deepseek_tensor_view view;
        OK(deepseek_tensor_new(dtype, shape, 2, NULL, 0, &zeros, &err));
        view = view_of(zeros);
        CHECK(view.dtype == dtype && view.rank == 2 && view.count == 6);
        CHECK(view.shape[0] == 2 && view.shape[1] == 3);
        CHECK(view.strides[0] == 3 && view.strides[1] == 1);
        CHECK(view.device == DEEPSEEK_DEVICE_CPU);
        if (dtype == DEEPSEEK_DTYPE_STRING) {
            CHECK(view.data == NULL && view.bytes == 0);
            FAILS(DEEPSEEK_STATUS_DTYPE_MISMATCH, "string",
                  deepseek_tensor_new(dtype, shape, 2, bytes, 6, &copy, &err));
        } else {
            size_t size = view.bytes;
            CHECK(size >= 2 && size <= sizeof bytes);
            OK(deepseek_tensor_new(dtype, shape, 2, bytes, size, &copy, &err));
            view = view_of(copy);
            CHECK(view.bytes == size && memcmp(view.data, bytes, size) == 0);
            deepseek_tensor_free(copy);
            copy = NULL;
            FAILS(DEEPSEEK_STATUS_SHAPE_MISMATCH, "bytes",
                  deepseek_tensor_new(dtype, shape, 2, bytes, size - 1, &copy, &err));
            FAILS(DEEPSEEK_STATUS_SHAPE_MISMATCH, "bytes",
                  deepseek_tensor_wrap(dtype, shape, 2, bytes, size + 1, on_release, &released,
                                       &copy, &err));
        }
        CHECK(copy == NULL);
        deepseek_tensor_free(zeros);
    }
    CHECK(dtype == 25 && released == 0);
}

static void scalars_and_empty_tensors(void)
{
    static const int64_t shape[] = {0, 5};
    const float seven = 7;
    deepseek_tensor *tensor = NULL;
    deepseek_tensor_view view;
    OK(deepseek_tensor_new(DEEPSEEK_DTYPE_F32, NULL, 0, &seven, sizeof seven, &tensor, &err));
    view = view_of(tensor);
    CHECK(view.rank == 0 && view.count == 1 && *(const float *)view.data == 7);
    deepseek_tensor_free(tensor);
    OK(deepseek_tensor_new(DEEPSEEK_DTYPE_I64, shape, 2, NULL, 0, &tensor, &err));
    view = view_of(tensor);
    CHECK(view.count == 0 && view.bytes == 0 && view.shape[1] == 5);
    deepseek_tensor_free(tensor);
}

static void bool_bytes_become_0_and_1(void)
{
    static const unsigned char bytes[] = {0, 1, 200};
    static const int64_t shape[] = {3};
    deepseek_tensor *tensor = NULL;
    const unsigned char *data;
    OK(deepseek_tensor_new(DEEPSEEK_DTYPE_BOOL, shape, 1, bytes, 3, &tensor, &err));
    data = (const unsigned char *)view_of(tensor).data;
    CHECK(data[0] == 0 && data[1] == 1 && data[2] == 1);
    deepseek_tensor_free(tensor);
}

static void lent_memory_is_given_back_once(void)
{
    static const int64_t shape[] = {2};
    float aligned[2] = {1, 2};
    char raw[3 * sizeof(float)];
    deepseek_tensor *tensor = NULL, *again;

    released = 0;
    OK(deepseek_tensor_wrap(DEEPSEEK_DTYPE_F32, shape, 1, aligned, sizeof aligned, on_release,
                            &released, &tensor, &err));
    CHECK(view_of(tensor).data == aligned && released == 0);
    again = deepseek_tensor_ref(tensor);
    CHECK(again == tensor);
    deepseek_tensor_free(tensor);
    CHECK(released == 0);
    deepseek_tensor_free(again);
    CHECK(released == 1 && released_data == aligned);

    /* Memory that is not aligned is copied, and given back at once. */
    memcpy(raw + 1, aligned, sizeof aligned);
    OK(deepseek_tensor_wrap(DEEPSEEK_DTYPE_F32, shape, 1, raw + 1, sizeof aligned, on_release,
                            &released, &tensor, &err));
    CHECK(released == 2 && released_data == raw + 1);
    CHECK(memcmp(view_of(tensor).data, aligned, sizeof aligned) == 0);
    deepseek_tensor_free(tensor);
    CHECK(released == 2);

    /* A call that fails keeps nothing. */
    tensor = NULL;
    FAILS(DEEPSEEK_STATUS_INVALID_ARGUMENT, "element type",
          deepseek_tensor_wrap(99, shape, 1, aligned, sizeof aligned, on_release, &released,
                               &tensor, &err));
    CHECK(released == 2 && tensor == NULL);

    OK(deepseek_tensor_wrap(DEEPSEEK_DTYPE_F32, shape, 1, aligned, sizeof aligned, NULL, NULL,
                            &tensor, &err));
    deepseek_tensor_free(tensor);
}

static void strings_keep_their_bytes(void)
{
    static const int64_t shape[] = {2, 2};
    const char *strings[] = {"one", "z\0wei", "", "drei \xe2\x82\xac"};
    const size_t lengths[] = {3, 5, 0, 8};
    deepseek_tensor *tensor = NULL;
    const char *data = NULL;
    size_t len = 0, i;
    OK(deepseek_tensor_new_strings(shape, 2, strings, lengths, 4, &tensor, &err));
    for (i = 0; i < 4; i++) {
        OK(deepseek_tensor_get_string(tensor, i, &data, &len, &err));
        CHECK(len == lengths[i] && memcmp(data, strings[i], len) == 0);
    }
    FAILS(DEEPSEEK_STATUS_INVALID_ARGUMENT, "4",
          deepseek_tensor_get_string(tensor, 4, &data, &len, &err));
    deepseek_tensor_free(tensor);

    OK(deepseek_tensor_new_strings(shape, 2, strings, NULL, 4, &tensor, &err));
    OK(deepseek_tensor_get_string(tensor, 1, &data, &len, &err));
    CHECK(len == 1 && data[0] == 'z');
    deepseek_tensor_free(tensor);
    tensor = NULL;
    FAILS(DEEPSEEK_STATUS_SHAPE_MISMATCH, "3",
          deepseek_tensor_new_strings(shape, 2, strings, lengths, 3, &tensor, &err));
    strings[2] = "\xff";
    FAILS(DEEPSEEK_STATUS_INVALID_ARGUMENT, "strings[2]",
          deepseek_tensor_new_strings(shape, 2, strings, NULL, 4, &tensor, &err));
    CHECK(tensor == NULL);
}

static void nonsense_is_refused(void)
{
    static const int64_t negative[] = {2, -1}, huge[] = {INT64_MAX, INT64_MAX};
    static const int unknown[] = {0, -1, 25, 1 << 30, -2147483647};
    const float one = 1;
    int64_t deep[65];
    deepseek_tensor *tensor = NULL;
    deepseek_error *stale;
    size_t i;
    for (i = 0; i < 65; i++) {
        deep[i] = 1;
    }
    for (i = 0; i < sizeof unknown / sizeof unknown[0]; i++) {
        FAILS(DEEPSEEK_STATUS_INVALID_ARGUMENT, "element type",
              deepseek_tensor_new(unknown[i], NULL, 0, &one, 4, &tensor, &err));
        CHECK(deepseek_dtype_name(unknown[i]) == NULL);
    }
    FAILS(DEEPSEEK_STATUS_INVALID_ARGUMENT, "shape[1] is -1",
          deepseek_tensor_new(DEEPSEEK_DTYPE_F32, negative, 2, NULL, 0, &tensor, &err));
    FAILS(DEEPSEEK_STATUS_SHAPE_MISMATCH, "address space",
          deepseek_tensor_new(DEEPSEEK_DTYPE_F32, huge, 2, NULL, 0, &tensor, &err));
    FAILS(DEEPSEEK_STATUS_SHAPE_MISMATCH, "rank 65",
          deepseek_tensor_new(DEEPSEEK_DTYPE_F32, deep, 65, &one, 4, &tensor, &err));
    FAILS(DEEPSEEK_STATUS_INVALID_ARGUMENT, "data is NULL",
          deepseek_tensor_new(DEEPSEEK_DTYPE_F32, NULL, 0, NULL, 4, &tensor, &err));

    /* An error that was not freed is kept, and the call refused. */
    stale = NULL;
    CHECK(deepseek_tensor_new(0, NULL, 0, &one, 4, &tensor, &stale)
          == DEEPSEEK_STATUS_INVALID_ARGUMENT);
    {
        deepseek_error *kept = stale;
        CHECK(deepseek_tensor_new(DEEPSEEK_DTYPE_F32, NULL, 0, &one, 4, &tensor, &stale)
              == DEEPSEEK_STATUS_INVALID_ARGUMENT);
        CHECK(stale == kept);
    }
    CHECK(deepseek_error_node(stale) == NULL);
    deepseek_error_free(stale);
    /* Without a place for the error the status is enough. */
    CHECK(deepseek_tensor_new(0, NULL, 0, &one, 4, &tensor, NULL)
          == DEEPSEEK_STATUS_INVALID_ARGUMENT);
    CHECK(tensor == NULL);
}

int main(void)
{
    uint64_t before = deepseek_heap_bytes();
    every_dtype_keeps_its_bytes();
    scalars_and_empty_tensors();
    bool_bytes_become_0_and_1();
    lent_memory_is_given_back_once();
    strings_keep_their_bytes();
    nonsense_is_refused();
    CHECK(deepseek_heap_bytes() == before);
    CHECK(strcmp(deepseek_version(), DEEPSEEK_VERSION) == 0);
    CHECK(deepseek_version_number() == DEEPSEEK_VERSION_NUMBER);
    CHECK(strcmp(deepseek_status_name(DEEPSEEK_STATUS_SHAPE_MISMATCH), "SHAPE_MISMATCH") == 0);
    CHECK(strcmp(deepseek_status_name(DEEPSEEK_STATUS_OK), "OK") == 0);
    CHECK(strcmp(deepseek_status_name(12345), "UNKNOWN") == 0);
    CHECK(strcmp(deepseek_dtype_name(DEEPSEEK_DTYPE_BF16), "bf16") == 0);
    return 0;
}
