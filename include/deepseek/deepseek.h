/*
 * libdeepseek: load a model, compile it for this machine, run it.
 *
 * Generated from Rust; do not edit. `make header` writes it.
 *
 * Conventions. Functions say only what differs from them.
 *
 * Names.     deepseek_<object>_<verb>; the object comes first, then inputs, then outputs
 *            (out_...), `err` last.
 * Handles.   Pointers to opaque structs. Shared handles are immutable and counted: _ref adds
 *            one, _free takes one, any thread may use them. Exclusive handles serve one thread
 *            at a time and may move between threads. `const T *` may be used by several threads
 *            at once, `T *` may not. A type's comment says which it is.
 * Free.      _free(NULL) does nothing; _free never fails. Children keep what they need of their
 *            parents, so the order of freeing does not matter. What the library made only the
 *            library frees.
 * Errors.    A deepseek_status is enough to branch on. `err` may be NULL; else it must point to
 *            NULL before the call, and receives an error, owned by the caller, if the call
 *            fails. When a call fails its outputs are untouched, and there is nothing to free
 *            but the error. Functions that return a value instead of a status cannot fail; for
 *            NULL they return 0 or NULL.
 * Pointers.  NULL, misaligned pointers and text that is not UTF-8 are
 *            DEEPSEEK_STATUS_INVALID_ARGUMENT. NULL is allowed where the text says so, and for
 *            arrays of no elements. Dangling pointers are undefined behaviour, as ever in C.
 * Text.      UTF-8. Names and paths end in NUL; contents come with a length in bytes. Inputs are
 *            borrowed for the call only. Borrowed results say how long they are valid.
 * Options.   Begin with struct_size; fill them with their _init function or pass NULL. Zero
 *            means default in every field. A program compiled against another version of this
 *            header keeps working: fields are only added, at the end; setting one that the
 *            loaded library does not know is DEEPSEEK_STATUS_UNSUPPORTED_OPTION.
 * Units.     _bytes and _ms as named; lengths and counts in elements; strides in elements.
 * Threads.   There is no state beside the handles. In the child of a fork no handle of the parent
 *            may be used.
 * Panics.    Should the library fail inside, the call returns DEEPSEEK_STATUS_PANIC and the process
 *            lives on; an exclusive handle that was in use is DEEPSEEK_STATUS_POISONED from then on
 *            and can only be freed.
 * Untrusted. Model files, tensors and text may be hostile: they are checked. See docs/security.md.
 */

#ifndef DEEPSEEK_DEEPSEEK_H
#define DEEPSEEK_DEEPSEEK_H

#include <stddef.h>
#include <stdint.h>

/** Version of this header. */
#define DEEPSEEK_VERSION_MAJOR 0
#define DEEPSEEK_VERSION_MINOR 1
#define DEEPSEEK_VERSION_PATCH 0
#define DEEPSEEK_VERSION "0.1.0"
/** Version of this header as one number, see deepseek_version_number. */
#define DEEPSEEK_VERSION_NUMBER 1000

#if defined(_WIN32)
#define DEEPSEEK_API
#else
#define DEEPSEEK_API __attribute__((visibility("default")))
#endif

/** Values of deepseek_status. Never reused; new ones are only added. */
enum {
    /** The call succeeded. */
    DEEPSEEK_STATUS_OK = 0,
    /** An argument is malformed: NULL, misaligned, out of range, not UTF-8. */
    DEEPSEEK_STATUS_INVALID_ARGUMENT = 100,
    /** A shape does not match what the model or operator requires. */
    DEEPSEEK_STATUS_SHAPE_MISMATCH = 101,
    /** An element type does not match what the model or operator requires. */
    DEEPSEEK_STATUS_DTYPE_MISMATCH = 102,
    /** No input, output, node or tensor has the given name. */
    DEEPSEEK_STATUS_NOT_FOUND = 103,
    /** The object cannot do this in its present state (closed, busy, already run). */
    DEEPSEEK_STATUS_INVALID_STATE = 104,
    /** The caller's buffer is too small; the message says how much is needed. */
    DEEPSEEK_STATUS_BUFFER_TOO_SMALL = 105,
    /** A file or its contents could not be read or written. */
    DEEPSEEK_STATUS_IO = 200,
    /** A file is not what it claims to be: truncated, corrupt or contradictory. */
    DEEPSEEK_STATUS_INVALID_FILE = 201,
    /** A graph is well-formed as a file but breaks a rule of the representation. */
    DEEPSEEK_STATUS_INVALID_GRAPH = 202,
    /** The operator, attribute, type or format is valid but not implemented. */
    DEEPSEEK_STATUS_UNSUPPORTED = 300,
    /** An options struct carries fields that this version does not know. */
    DEEPSEEK_STATUS_UNSUPPORTED_OPTION = 301,
    /** Memory could not be allocated. */
    DEEPSEEK_STATUS_OUT_OF_MEMORY = 400,
    /** The run would exceed the byte budget that the caller set. */
    DEEPSEEK_STATUS_BUDGET_EXCEEDED = 401,
    /** A device could not be used. */
    DEEPSEEK_STATUS_DEVICE = 500,
    /** The call was cancelled. */
    DEEPSEEK_STATUS_CANCELLED = 600,
    /** The call's deadline passed. */
    DEEPSEEK_STATUS_TIMEOUT = 601,
    /** An invariant of the library is broken; please report it. */
    DEEPSEEK_STATUS_INTERNAL = 900,
    /** The library panicked inside a call; the process lives on. */
    DEEPSEEK_STATUS_PANIC = 901,
    /** An earlier panic left this object unusable; it can only be freed. */
    DEEPSEEK_STATUS_POISONED = 902,
};

/** Values of deepseek_dtype. Never reused; new ones are only added. */
enum {
    /** IEEE 754 binary32. */
    DEEPSEEK_DTYPE_F32 = 1,
    /** IEEE 754 binary64. */
    DEEPSEEK_DTYPE_F64 = 2,
    /** IEEE 754 binary16. */
    DEEPSEEK_DTYPE_F16 = 3,
    /** bfloat16: the upper half of a binary32. */
    DEEPSEEK_DTYPE_BF16 = 4,
    /** Signed 8-bit integer. */
    DEEPSEEK_DTYPE_I8 = 5,
    /** Signed 16-bit integer. */
    DEEPSEEK_DTYPE_I16 = 6,
    /** Signed 32-bit integer. */
    DEEPSEEK_DTYPE_I32 = 7,
    /** Signed 64-bit integer. */
    DEEPSEEK_DTYPE_I64 = 8,
    /** Unsigned 8-bit integer. */
    DEEPSEEK_DTYPE_U8 = 9,
    /** Unsigned 16-bit integer. */
    DEEPSEEK_DTYPE_U16 = 10,
    /** Unsigned 32-bit integer. */
    DEEPSEEK_DTYPE_U32 = 11,
    /** Unsigned 64-bit integer. */
    DEEPSEEK_DTYPE_U64 = 12,
    /** One byte, 0 or 1. */
    DEEPSEEK_DTYPE_BOOL = 13,
    /** UTF-8 text. */
    DEEPSEEK_DTYPE_STRING = 14,
    /** Signed 4-bit integer, packed. */
    DEEPSEEK_DTYPE_I4 = 15,
    /** Unsigned 4-bit integer, packed. */
    DEEPSEEK_DTYPE_U4 = 16,
    /** Signed 2-bit integer, packed. */
    DEEPSEEK_DTYPE_I2 = 17,
    /** Unsigned 2-bit integer, packed. */
    DEEPSEEK_DTYPE_U2 = 18,
    /** 8-bit float, 4 exponent bits, finite and NaN only (OCP E4M3FN). */
    DEEPSEEK_DTYPE_F8E4M3FN = 19,
    /** 8-bit float, 4 exponent bits, one NaN, no negative zero. */
    DEEPSEEK_DTYPE_F8E4M3FNUZ = 20,
    /** 8-bit float, 5 exponent bits, with infinities (OCP E5M2). */
    DEEPSEEK_DTYPE_F8E5M2 = 21,
    /** 8-bit float, 5 exponent bits, one NaN, no negative zero. */
    DEEPSEEK_DTYPE_F8E5M2FNUZ = 22,
    /** 8-bit power-of-two scale (OCP E8M0). */
    DEEPSEEK_DTYPE_F8E8M0 = 23,
    /** 4-bit float (OCP E2M1), packed. */
    DEEPSEEK_DTYPE_F4E2M1 = 24,
};

/**
 * Flag of a model: run nothing in blocks of rows, unless the budget asks for it.
 */
#define DEEPSEEK_MODEL_WHOLE 1

/**
 * The best instruction set that the processor has.
 */
#define DEEPSEEK_ISA_BEST 0

/**
 * Portable code.
 */
#define DEEPSEEK_ISA_SCALAR 1

/**
 * AVX2 with FMA.
 */
#define DEEPSEEK_ISA_AVX2 2

/**
 * AVX-512 (F, BW, VL, DQ).
 */
#define DEEPSEEK_ISA_AVX512 3

/**
 * AVX-VNNI over AVX2: 8-bit products.
 */
#define DEEPSEEK_ISA_AVX_VNNI 4

/**
 * AVX512-VNNI over AVX-512: 8-bit products.
 */
#define DEEPSEEK_ISA_AVX512_VNNI 5

/**
 * AVX512-BF16 over AVX512-VNNI: bf16 products.
 */
#define DEEPSEEK_ISA_AVX512_BF16 6

/**
 * AMX-INT8 and AMX-BF16 over AVX512-BF16: products of tiles.
 */
#define DEEPSEEK_ISA_AMX 7

/**
 * Host memory.
 */
#define DEEPSEEK_DEVICE_CPU 0

/**
 * Text or bytes of any length that the library made. Owned by the caller, immutable.
 */
typedef struct deepseek_buffer deepseek_buffer;

/**
 * A flag that any thread may raise to end the runs that were given it. Shared: any
 * thread may use it. It stays raised: make one for each run, or for each group of runs
 * that ends together.
 */
typedef struct deepseek_cancel deepseek_cancel;

/**
 * A sentence encoder with its tokenizer. Shared, immutable: any thread may use it.
 */
typedef struct deepseek_embedder deepseek_embedder;

/**
 * What went wrong, in words. Owned by the caller.
 */
typedef struct deepseek_error deepseek_error;

/**
 * A graph under construction. Exclusive: one thread at a time. Extents may be
 * expressions over named symbols (`batch`, `2*seq + 1`), so one model serves every length.
 * Shape errors are reported by the call that makes them.
 */
typedef struct deepseek_graph deepseek_graph;

/**
 * A model lowered for a runtime, with its weights. Shared, immutable.
 */
typedef struct deepseek_model deepseek_model;

/**
 * Named outputs of a run, in the model's order. Owned by the caller, immutable: any
 * thread may read it.
 */
typedef struct deepseek_outputs deepseek_outputs;

/**
 * What ran, when and over how many bytes. Owned by the caller, immutable: any thread may
 * read it.
 */
typedef struct deepseek_profile deepseek_profile;

/**
 * A run in the background. Owned by the caller; any thread may wait for it or cancel it.
 */
typedef struct deepseek_run deepseek_run;

/**
 * Threads, instruction set and byte budget, for all models opened with it. Shared. Make
 * one a process.
 */
typedef struct deepseek_runtime deepseek_runtime;

/**
 * Working memory to run a model. Any thread may use it; runs take turns, so a service
 * makes one session a thread. Freeing it must not race with the start of another call;
 * closing it may.
 */
typedef struct deepseek_session deepseek_session;

/**
 * A tensor: element type, shape, and elements in row-major order without gaps. Shared,
 * immutable.
 */
typedef struct deepseek_tensor deepseek_tensor;

/**
 * What became of a call: `DEEPSEEK_STATUS_OK` or the code of an error.
 */
typedef int32_t deepseek_status;

/**
 * Element type of a tensor: one of `DEEPSEEK_DTYPE_…`.
 */
typedef int32_t deepseek_dtype;

/**
 * How a runtime is set up. NULL and zero fields mean the defaults.
 */
typedef struct deepseek_runtime_options {
    /**
     * Bytes of this struct, as the caller was compiled.
     */
    size_t struct_size;
    /**
     * Bytes that all sessions together may hold for working memory; 0 sets no bound.
     */
    uint64_t memory_budget_bytes;
    /**
     * Computing threads, the caller's among them. 0: `DEEPSEEK_NUM_THREADS` if it is set,
     * else what the machine has.
     */
    uint32_t threads;
    /**
     * Instruction set, one of `DEEPSEEK_ISA_…`. 0: the best this processor has.
     */
    int32_t isa;
} deepseek_runtime_options;

/**
 * How a model is opened. NULL and zero fields mean the defaults.
 */
typedef struct deepseek_model_options {
    /**
     * Bytes of this struct, as the caller was compiled.
     */
    size_t struct_size;
    /**
     * 0, or `DEEPSEEK_MODEL_WHOLE`.
     */
    uint64_t flags;
    /**
     * Bytes that a run may take beyond the weights; 0 sets no bound. What is too large is cut
     * into blocks of rows until a run of the shapes below fits, or opening fails with
     * `DEEPSEEK_STATUS_BUDGET_EXCEEDED` and the least number of bytes that would do. Runs that
     * take more, because of other shapes or because there were none to cut for, are refused.
     */
    uint64_t memory_budget_bytes;
    /**
     * The largest shapes that the budget must hold for: input `shape_names[i]` has the
     * `shape_ranks[i]` extents `shapes[i]`. Inputs whose shapes say nothing new may be left out;
     * if all are, the upper bounds of the model's symbols count. NULL if `shape_count` is 0.
     * Borrowed for the call. Since 0.1.
     */
    const char *const *shape_names;
    /**
     * See `shape_names`. Since 0.1.
     */
    const int64_t *const *shapes;
    /**
     * See `shape_names`. Since 0.1.
     */
    const size_t *shape_ranks;
    /**
     * Number of shapes. Since 0.1.
     */
    size_t shape_count;
    /**
     * Ranges of symbols that every run keeps to: `bound_symbols[i]` is from `bound_mins[i]`
     * to `bound_maxs[i]`, both included. A run outside fails with
     * `DEEPSEEK_STATUS_SHAPE_MISMATCH`; what is planned within bounds is planned within these.
     * NULL if `bound_count` is 0. Borrowed for the call. Since 0.1.
     */
    const char *const *bound_symbols;
    /**
     * Least values; 0 leaves the model's own. Since 0.1.
     */
    const int64_t *bound_mins;
    /**
     * Greatest values; a negative one leaves the model's own, if it has one. Since 0.1.
     */
    const int64_t *bound_maxs;
    /**
     * Number of bounds. Since 0.1.
     */
    size_t bound_count;
    /**
     * What the layers of a model in f32 compute in: `bf16`, `f16`, `int8`, or `auto`, which takes
     * int8 where it is faster on this machine, inside the accuracy budget. NULL or `f32` leaves
     * the model as it is. `deepseek_model_get_precision_report` says what was chosen and why.
     * Borrowed for the call. Since 0.1.
     */
    const char *precision;
    /**
     * Path of inputs to calibrate with: an `.npz` file, or a directory of them, whose arrays are
     * named after the inputs and hold samples along the first axis; for an encoder a `.txt` file
     * of one text a line, or a `.jsonl` file of strings or objects with `text`. NULL makes inputs
     * up; where the model leaves extents open they have the shapes above. Borrowed for the call.
     * Since 0.1.
     */
    const char *calibration;
    /**
     * What the metric must reach on the calibration data, 1 being f32; 0.95 at least. 0 is the
     * default: 0.99 for `auto`, else 0.95. Since 0.1.
     */
    double accuracy_budget;
    /**
     * What accuracy is measured by: `cosine` of outputs, or `top1` agreement. NULL is `cosine`.
     * Borrowed for the call. Since 0.1.
     */
    const char *metric;
} deepseek_model_options;

/**
 * How a session is made. NULL and zero fields mean the defaults.
 */
typedef struct deepseek_session_options {
    /**
     * Bytes of this struct, as the caller was compiled.
     */
    size_t struct_size;
    /**
     * Reserved; must be 0.
     */
    uint64_t flags;
} deepseek_session_options;

/**
 * How an embedder is opened. NULL and zero fields mean the defaults.
 */
typedef struct deepseek_embedder_options {
    /**
     * Bytes of this struct, as the caller was compiled.
     */
    size_t struct_size;
    /**
     * Reserved; must be 0.
     */
    uint64_t flags;
} deepseek_embedder_options;

/**
 * How one run is made. NULL and zero fields mean the defaults.
 */
typedef struct deepseek_run_options {
    /**
     * Bytes of this struct, as the caller was compiled.
     */
    size_t struct_size;
    /**
     * Milliseconds the run may take, waiting for its turn included; 0 sets no limit.
     */
    uint64_t timeout_ms;
    /**
     * Flag that ends the run early, or NULL. Borrowed for the call that starts the run.
     */
    const struct deepseek_cancel *cancel;
    /**
     * 1 runs a padded batch without its padding: the mask of each row must be ones, then
     * zeros; outputs are zero where it hides. Fails for models that `deepseek_model_check_ragged`
     * refuses. 0 runs the model as it is. Since 0.1.
     */
    uint64_t ragged;
} deepseek_run_options;

/**
 * Called once when the library no longer needs memory that it was lent. `ctx` and `data`
 * are what the caller passed. May come from any thread; must not throw.
 */
typedef void (*deepseek_release)(void *ctx,
                                 void *data);

/**
 * A look into a tensor. Borrowed: valid until the tensor is freed. This struct never
 * grows.
 */
typedef struct deepseek_tensor_view {
    /**
     * First element; NULL for strings, see `deepseek_tensor_get_string`. Elements of 4 and 2
     * bits are packed, the first in the low bits.
     */
    const void *data;
    /**
     * Extents, outermost first; `rank` of them.
     */
    const int64_t *shape;
    /**
     * Steps between neighbours along each axis, in elements; `rank` of them.
     */
    const int64_t *strides;
    /**
     * Bytes at `data`; 0 for strings.
     */
    size_t bytes;
    /**
     * Number of elements.
     */
    size_t count;
    /**
     * Number of dimensions; 0 for a scalar.
     */
    size_t rank;
    /**
     * Element type, one of `DEEPSEEK_DTYPE_…`.
     */
    deepseek_dtype dtype;
    /**
     * Where the elements are, one of `DEEPSEEK_DEVICE_…`.
     */
    int32_t device;
} deepseek_tensor_view;

/**
 * An input or output of a model. Borrowed: valid until the model is freed. This struct
 * never grows.
 */
typedef struct deepseek_model_value {
    /**
     * Name.
     */
    const char *name;
    /**
     * Type as text, e.g. `f32[batch, 2*seq + 1]`, `seq(i64[...])`.
     */
    const char *type;
    /**
     * Extents, outermost first, -1 where an extent is symbolic; `rank` of them. NULL if the
     * rank is unknown.
     */
    const int64_t *shape;
    /**
     * Number of dimensions; -1 if it is unknown, or if the value is not a tensor.
     */
    int64_t rank;
    /**
     * Element type, one of `DEEPSEEK_DTYPE_…`; 0 if the value is not a tensor.
     */
    deepseek_dtype dtype;
    /**
     * Zero.
     */
    int32_t reserved;
} deepseek_model_value;

/**
 * Bytes that a run takes. This struct never grows.
 */
typedef struct deepseek_memory {
    /**
     * Bytes of the arena: intermediate values and scratch.
     */
    uint64_t arena_bytes;
    /**
     * Bytes of the outputs.
     */
    uint64_t output_bytes;
    /**
     * `arena_bytes + output_bytes`: what a run takes beyond the weights.
     */
    uint64_t planned_bytes;
    /**
     * Bytes of the weights, mapped ones included.
     */
    uint64_t constant_bytes;
    /**
     * Number of values whose extents depend on data; they come on top.
     */
    uint64_t dynamic_values;
} deepseek_memory;

/**
 * Called once when a background run has ended: with `DEEPSEEK_STATUS_OK` and outputs, or with a
 * status and an error. Both are borrowed for the call; take tensors from the outputs to
 * keep them. Must not throw. Freeing the run inside is allowed, waiting for it is not.
 */
typedef void (*deepseek_on_done)(void *user_data,
                                 deepseek_status status,
                                 const struct deepseek_outputs *outputs,
                                 const struct deepseek_error *error);

/**
 * Called once when a callback's `user_data` is no longer needed. Must not throw.
 */
typedef void (*deepseek_on_release)(void *user_data);

/**
 * A value of a graph under construction. Means nothing to another graph.
 */
typedef uint32_t deepseek_value;

/**
 * No value: an optional input that is absent.
 */
#define DEEPSEEK_VALUE_NONE 4294967295

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * Version of the loaded library, `major.minor.patch`. Static. The macro
 * `DEEPSEEK_VERSION` is the version of the header. Since 0.1.
 */
DEEPSEEK_API
const char *deepseek_version(void);

/**
 * Version of the loaded library as one number, `major * 1000000 + minor * 1000 + patch`,
 * to compare with `DEEPSEEK_VERSION_NUMBER`. Since 0.1.
 */
DEEPSEEK_API
uint32_t deepseek_version_number(void);

/**
 * Bytes that tensors of this process hold on the library's heap right now. Mapped
 * files and memory that the caller owns do not count. Since 0.1.
 */
DEEPSEEK_API
uint64_t deepseek_heap_bytes(void);

/**
 * Code of an error, as the failed call returned it; `DEEPSEEK_STATUS_OK` for NULL.
 * Since 0.1.
 */
DEEPSEEK_API
deepseek_status deepseek_error_code(const struct deepseek_error *error);

/**
 * Message of an error: one line of UTF-8. Empty for NULL. Valid until the error is
 * freed. Since 0.1.
 */
DEEPSEEK_API
const char *deepseek_error_message(const struct deepseek_error *error);

/**
 * Node of the graph that an error arose in, nested ones from the outside in
 * (`/encoder/loop > add`). NULL if it arose in none, and for NULL. Valid until the
 * error is freed. Since 0.1.
 */
DEEPSEEK_API
const char *deepseek_error_node(const struct deepseek_error *error);

/**
 * Frees an error. Since 0.1.
 */
DEEPSEEK_API
void deepseek_error_free(struct deepseek_error *error);

/**
 * Name of a status, e.g. `SHAPE_MISMATCH`; `UNKNOWN` for a number that is none. Static.
 * Since 0.1.
 */
DEEPSEEK_API
const char *deepseek_status_name(deepseek_status status);

/**
 * Short name of an element type, e.g. `f32`; NULL for a number that is none. Static.
 * Since 0.1.
 */
DEEPSEEK_API
const char *deepseek_dtype_name(deepseek_dtype dtype);

/**
 * The bytes of a buffer. A NUL, not counted in the length, follows them. Empty for NULL.
 * Valid until the buffer is freed. Since 0.1.
 */
DEEPSEEK_API
const char *deepseek_buffer_data(const struct deepseek_buffer *buffer);

/**
 * Number of bytes of a buffer; 0 for NULL. Since 0.1.
 */
DEEPSEEK_API
size_t deepseek_buffer_len(const struct deepseek_buffer *buffer);

/**
 * Frees a buffer. Since 0.1.
 */
DEEPSEEK_API
void deepseek_buffer_free(struct deepseek_buffer *buffer);

/**
 * Makes a flag that is not raised. Since 0.1.
 */
DEEPSEEK_API
deepseek_status deepseek_cancel_new(struct deepseek_cancel **out_cancel,
                                    struct deepseek_error **err);

/**
 * Raises the flag: runs that were given it end with `DEEPSEEK_STATUS_CANCELLED` at their
 * next kernel boundary. Any thread, any number of times; returns at once. Nothing for
 * NULL. Since 0.1.
 */
DEEPSEEK_API
void deepseek_cancel_set(const struct deepseek_cancel *cancel);

/**
 * Whether the flag is raised: 1 or 0; 0 for NULL. Since 0.1.
 */
DEEPSEEK_API
int32_t deepseek_cancel_get(const struct deepseek_cancel *cancel);

/**
 * Frees a flag. Runs that were given it go on. Since 0.1.
 */
DEEPSEEK_API
void deepseek_cancel_free(struct deepseek_cancel *cancel);

/**
 * Fills options of `size` bytes (`sizeof options`) with defaults. Since 0.1.
 */
DEEPSEEK_API
void deepseek_runtime_options_init(struct deepseek_runtime_options *options,
                                   size_t size);

/**
 * Fills options of `size` bytes (`sizeof options`) with defaults. Since 0.1.
 */
DEEPSEEK_API
void deepseek_model_options_init(struct deepseek_model_options *options,
                                 size_t size);

/**
 * Fills options of `size` bytes (`sizeof options`) with defaults. Since 0.1.
 */
DEEPSEEK_API
void deepseek_session_options_init(struct deepseek_session_options *options,
                                   size_t size);

/**
 * Fills options of `size` bytes (`sizeof options`) with defaults. Since 0.1.
 */
DEEPSEEK_API
void deepseek_embedder_options_init(struct deepseek_embedder_options *options,
                                    size_t size);

/**
 * Fills options of `size` bytes (`sizeof options`) with defaults. Since 0.1.
 */
DEEPSEEK_API
void deepseek_run_options_init(struct deepseek_run_options *options,
                               size_t size);

/**
 * Makes a runtime. `options` may be NULL. Fails with `DEEPSEEK_STATUS_INVALID_ARGUMENT`
 * for more than 1024 threads or an unknown instruction set,
 * `DEEPSEEK_STATUS_UNSUPPORTED` for one that the processor lacks. Since 0.1.
 */
DEEPSEEK_API
deepseek_status deepseek_runtime_new(const struct deepseek_runtime_options *options,
                                     struct deepseek_runtime **out_runtime,
                                     struct deepseek_error **err);

/**
 * Number of computing threads, the caller's among them; 0 for NULL. Since 0.1.
 */
DEEPSEEK_API
uint32_t deepseek_runtime_get_threads(const struct deepseek_runtime *runtime);

/**
 * Instruction set in use, one of `DEEPSEEK_ISA_…` but never `DEEPSEEK_ISA_BEST`; 0 for
 * NULL. Since 0.1.
 */
DEEPSEEK_API
int32_t deepseek_runtime_get_isa(const struct deepseek_runtime *runtime);

/**
 * Bytes of working memory that sessions of this runtime hold now; 0 for NULL. Since 0.1.
 */
DEEPSEEK_API
uint64_t deepseek_runtime_get_reserved_bytes(const struct deepseek_runtime *runtime);

/**
 * Adds one to the count of a runtime and returns it; NULL for NULL. Since 0.1.
 */
DEEPSEEK_API
struct deepseek_runtime *deepseek_runtime_ref(const struct deepseek_runtime *runtime);

/**
 * Takes one from the count of a runtime. Models keep theirs. Since 0.1.
 */
DEEPSEEK_API
void deepseek_runtime_free(struct deepseek_runtime *runtime);

/**
 * Makes a tensor with a copy of `data`, `bytes` long, row-major; or, if `data` is NULL and
 * `bytes` 0, a tensor of zeros (of empty strings). Bytes of `bool` other than 0 become 1.
 * Fails with `DEEPSEEK_STATUS_SHAPE_MISMATCH` if `bytes` is not what type and shape take,
 * `DEEPSEEK_STATUS_OUT_OF_MEMORY`. Since 0.1.
 */
DEEPSEEK_API
deepseek_status deepseek_tensor_new(deepseek_dtype dtype,
                                    const int64_t *shape,
                                    size_t rank,
                                    const void *data,
                                    size_t bytes,
                                    struct deepseek_tensor **out_tensor,
                                    struct deepseek_error **err);

/**
 * Makes a tensor over memory of the caller, without a copy where `data` is aligned for the
 * element type. If the call succeeds, `release(ctx, data)` is called exactly once, when
 * the last user is gone (perhaps before this call returns, where a copy was made); until
 * then the memory must stay as it is. If the call fails, it is not called. `release` may
 * be NULL for memory that outlives every use. Fails as `deepseek_tensor_new`.
 * Since 0.1.
 */
DEEPSEEK_API
deepseek_status deepseek_tensor_wrap(deepseek_dtype dtype,
                                     const int64_t *shape,
                                     size_t rank,
                                     void *data,
                                     size_t bytes,
                                     deepseek_release release,
                                     void *ctx,
                                     struct deepseek_tensor **out_tensor,
                                     struct deepseek_error **err);

/**
 * Makes a tensor of `count` strings, row-major. `lengths` holds their lengths in bytes;
 * NULL if they end in NUL. Fails with `DEEPSEEK_STATUS_SHAPE_MISMATCH` if `count` is not what the
 * shape takes. Since 0.1.
 */
DEEPSEEK_API
deepseek_status deepseek_tensor_new_strings(const int64_t *shape,
                                            size_t rank,
                                            const char *const *strings,
                                            const size_t *lengths,
                                            size_t count,
                                            struct deepseek_tensor **out_tensor,
                                            struct deepseek_error **err);

/**
 * Looks into a tensor. Since 0.1.
 */
DEEPSEEK_API
deepseek_status deepseek_tensor_get_view(const struct deepseek_tensor *tensor,
                                         struct deepseek_tensor_view *out_view,
                                         struct deepseek_error **err);

/**
 * Looks at one string of a tensor, by its index in row-major order: `*out_len` bytes at
 * `*out_data`, not followed by NUL, valid until the tensor is freed. Fails with
 * `DEEPSEEK_STATUS_DTYPE_MISMATCH` if the elements are not strings. Since 0.1.
 */
DEEPSEEK_API
deepseek_status deepseek_tensor_get_string(const struct deepseek_tensor *tensor,
                                           size_t index,
                                           const char **out_data,
                                           size_t *out_len,
                                           struct deepseek_error **err);

/**
 * Adds one to the count of a tensor and returns it; NULL for NULL. Since 0.1.
 */
DEEPSEEK_API
struct deepseek_tensor *deepseek_tensor_ref(const struct deepseek_tensor *tensor);

/**
 * Takes one from the count of a tensor. Since 0.1.
 */
DEEPSEEK_API
void deepseek_tensor_free(struct deepseek_tensor *tensor);

/**
 * Opens a model: an `.onnx` file, a `.deepseek` file, or a directory with a Hugging Face
 * `config.json` and safetensors weights. `options` may be NULL. Fails with `DEEPSEEK_STATUS_IO`,
 * `DEEPSEEK_STATUS_INVALID_FILE`, `DEEPSEEK_STATUS_INVALID_GRAPH`, or
 * `DEEPSEEK_STATUS_UNSUPPORTED` naming the format, operator or field;
 * `DEEPSEEK_STATUS_BUDGET_EXCEEDED` naming the least budget that would do;
 * `DEEPSEEK_STATUS_NOT_FOUND`, `DEEPSEEK_STATUS_SHAPE_MISMATCH` for a shape that fits no input;
 * `DEEPSEEK_STATUS_NOT_FOUND`, `DEEPSEEK_STATUS_INVALID_ARGUMENT` for bounds of a symbol that no
 * input has, or that are not within the model's own; for a precision
 * `DEEPSEEK_STATUS_INVALID_ARGUMENT` for a name that there is not, calibration data that does not
 * fit, or a budget that cannot be met, with the best that can be reached.
 * Since 0.1.
 */
DEEPSEEK_API
deepseek_status deepseek_model_open(const struct deepseek_runtime *runtime,
                                    const char *path,
                                    const struct deepseek_model_options *options,
                                    struct deepseek_model **out_model,
                                    struct deepseek_error **err);

/**
 * As `deepseek_model_open`, from an ONNX model in memory, which is borrowed for the call.
 * External data is refused: it has no directory. Since 0.1.
 */
DEEPSEEK_API
deepseek_status deepseek_model_open_bytes(const struct deepseek_runtime *runtime,
                                          const void *data,
                                          size_t len,
                                          const struct deepseek_model_options *options,
                                          struct deepseek_model **out_model,
                                          struct deepseek_error **err);

/**
 * Number of inputs; 0 for NULL. Since 0.1.
 */
DEEPSEEK_API
size_t deepseek_model_count_inputs(const struct deepseek_model *model);

/**
 * Number of outputs; 0 for NULL. Since 0.1.
 */
DEEPSEEK_API
size_t deepseek_model_count_outputs(const struct deepseek_model *model);

/**
 * Describes an input. Fails with `DEEPSEEK_STATUS_INVALID_ARGUMENT` if there are not so
 * many. Since 0.1.
 */
DEEPSEEK_API
deepseek_status deepseek_model_get_input(const struct deepseek_model *model,
                                         size_t index,
                                         struct deepseek_model_value *out_value,
                                         struct deepseek_error **err);

/**
 * Describes an output. Fails with `DEEPSEEK_STATUS_INVALID_ARGUMENT` if there are not so
 * many. Since 0.1.
 */
DEEPSEEK_API
deepseek_status deepseek_model_get_output(const struct deepseek_model *model,
                                          size_t index,
                                          struct deepseek_model_value *out_value,
                                          struct deepseek_error **err);

/**
 * Exact bytes of a run whose symbols have the given values: `symbols[i]` is
 * `values[i]`. If `out_details` is not NULL it receives a JSON object with the same
 * numbers and the largest values. Fails with `DEEPSEEK_STATUS_NOT_FOUND` for a symbol
 * that the model does not have, `DEEPSEEK_STATUS_INVALID_ARGUMENT` naming one without a
 * value, `DEEPSEEK_STATUS_SHAPE_MISMATCH` for a value outside its bounds. Since 0.1.
 */
DEEPSEEK_API
deepseek_status deepseek_model_get_memory(const struct deepseek_model *model,
                                          const char *const *symbols,
                                          const int64_t *values,
                                          size_t count,
                                          struct deepseek_memory *out_memory,
                                          struct deepseek_buffer **out_details,
                                          struct deepseek_error **err);

/**
 * Bytes that no run within the bounds of the model's symbols exceeds: what the run at the upper
 * bounds takes, where all sizes grow with every symbol. Fails with
 * `DEEPSEEK_STATUS_INVALID_ARGUMENT` naming a symbol without an upper bound, which
 * `deepseek_model_options` can set. Since 0.1.
 */
DEEPSEEK_API
deepseek_status deepseek_model_get_memory_within_bounds(const struct deepseek_model *model,
                                                        struct deepseek_memory *out_memory,
                                                        struct deepseek_buffer **out_details,
                                                        struct deepseek_error **err);

/**
 * As `deepseek_model_get_memory`, for inputs of the given shapes: input `names[i]` has the
 * `ranks[i]` extents `shapes[i]`. Inputs whose shapes say nothing new may be left out.
 * Since 0.1.
 */
DEEPSEEK_API
deepseek_status deepseek_model_get_memory_for_shapes(const struct deepseek_model *model,
                                                     const char *const *names,
                                                     const int64_t *const *shapes,
                                                     const size_t *ranks,
                                                     size_t count,
                                                     struct deepseek_memory *out_memory,
                                                     struct deepseek_buffer **out_details,
                                                     struct deepseek_error **err);

/**
 * Whether the model runs sequences of different lengths without padding
 * (`deepseek_session_run_ragged`, or the run option `ragged`). Fails with
 * `DEEPSEEK_STATUS_UNSUPPORTED` if it does not, naming the node that mixes the rows of sequences
 * and why. Since 0.1.
 */
DEEPSEEK_API
deepseek_status deepseek_model_check_ragged(const struct deepseek_model *model,
                                            struct deepseek_error **err);

/**
 * As `deepseek_model_get_memory`, for a ragged run of `count` sequences of `lengths[i]` rows.
 * Fails as `deepseek_model_check_ragged` too. Since 0.1.
 */
DEEPSEEK_API
deepseek_status deepseek_model_get_memory_for_lengths(const struct deepseek_model *model,
                                                      const size_t *lengths,
                                                      size_t count,
                                                      struct deepseek_memory *out_memory,
                                                      struct deepseek_buffer **out_details,
                                                      struct deepseek_error **err);

/**
 * Bytes of a run beyond the weights, as a formula over the model's symbols, e.g.
 * `1536*batch*seq + 4096`; an upper bound where the exact formula is too long to write, as
 * `formula_exact` in the details of `deepseek_model_get_memory` says. Since 0.1.
 */
DEEPSEEK_API
deepseek_status deepseek_model_get_memory_formula(const struct deepseek_model *model,
                                                  struct deepseek_buffer **out_formula,
                                                  struct deepseek_error **err);

/**
 * Writes a model to a `.deepseek` file: its graph as the compiler has prepared it, its weights,
 * and what came with them, such as the files of a tokenizer. What is at `path`, whose name must
 * end in `.deepseek`, is replaced when all is written; the same model always gives the same
 * bytes. Fails with `DEEPSEEK_STATUS_IO` naming the path. Since 0.1.
 */
DEEPSEEK_API
deepseek_status deepseek_model_save(const struct deepseek_model *model,
                                    const char *path,
                                    struct deepseek_error **err);

/**
 * As `deepseek_model_save`, and stores the weights a second time, packed for the kernels of this
 * machine: on machines with the same instruction set, opening the file packs nothing, and
 * processes share the packed weights. Other machines open it as any other. Since 0.1.
 */
DEEPSEEK_API
deepseek_status deepseek_model_save_packed(const struct deepseek_model *model,
                                           const char *path,
                                           struct deepseek_error **err);

/**
 * What a model consists of, as a JSON object: source, name, inputs, outputs, symbols with
 * their bounds, operators with how often each occurs and on how many of those nodes a
 * kernel of this machine runs, parameters. Keys are only added. Since 0.1.
 */
DEEPSEEK_API
deepseek_status deepseek_model_get_summary(const struct deepseek_model *model,
                                           struct deepseek_buffer **out_json,
                                           struct deepseek_error **err);

/**
 * Why the layers of a model have the precisions that they have, as a JSON object: `requested`,
 * `synthetic` (whether the calibration data was made up), `calibrated_with` and `verified_with`
 * samples, `metric`, `budget`, the `accuracy` reached, milliseconds of a run `ms_before` and
 * `ms_after` where they were measured, and for each of `layers` that had a choice `node`, `op`,
 * `precision`, `error`, and `why`. Keys are only added. It travels with a saved model. Fails with
 * `DEEPSEEK_STATUS_NOT_FOUND` for a model that was not compiled for less than f32. Since 0.1.
 */
DEEPSEEK_API
deepseek_status deepseek_model_get_precision_report(const struct deepseek_model *model,
                                                    struct deepseek_buffer **out_json,
                                                    struct deepseek_error **err);

/**
 * Adds one to the count of a model and returns it; NULL for NULL. Since 0.1.
 */
DEEPSEEK_API
struct deepseek_model *deepseek_model_ref(const struct deepseek_model *model);

/**
 * Takes one from the count of a model. Sessions keep theirs. Since 0.1.
 */
DEEPSEEK_API
void deepseek_model_free(struct deepseek_model *model);

/**
 * Number of outputs; 0 for NULL. Since 0.1.
 */
DEEPSEEK_API
size_t deepseek_outputs_count(const struct deepseek_outputs *outputs);

/**
 * Name of an output; NULL if there are not so many, and for NULL. Valid until the
 * outputs are freed. Since 0.1.
 */
DEEPSEEK_API
const char *deepseek_outputs_get_name(const struct deepseek_outputs *outputs,
                                      size_t index);

/**
 * Type of an output as text, e.g. `f32[2, 3]`, `seq(i64[...])`; NULL if there are not so
 * many, and for NULL. Valid until the outputs are freed. Since 0.1.
 */
DEEPSEEK_API
const char *deepseek_outputs_get_type(const struct deepseek_outputs *outputs,
                                      size_t index);

/**
 * Index of the output with a name. Fails with `DEEPSEEK_STATUS_NOT_FOUND`. Since 0.1.
 */
DEEPSEEK_API
deepseek_status deepseek_outputs_find(const struct deepseek_outputs *outputs,
                                      const char *name,
                                      size_t *out_index,
                                      struct deepseek_error **err);

/**
 * A new reference to the tensor of an output. Fails with `DEEPSEEK_STATUS_UNSUPPORTED` for a
 * sequence or an optional value, see `deepseek_outputs_get_item`. Since 0.1.
 */
DEEPSEEK_API
deepseek_status deepseek_outputs_get_tensor(const struct deepseek_outputs *outputs,
                                            size_t index,
                                            struct deepseek_tensor **out_tensor,
                                            struct deepseek_error **err);

/**
 * Number of items of an output that is a sequence; 1 or 0 for an optional value that is
 * there or not. Fails with `DEEPSEEK_STATUS_UNSUPPORTED` for a tensor. Since 0.1.
 */
DEEPSEEK_API
deepseek_status deepseek_outputs_count_items(const struct deepseek_outputs *outputs,
                                             size_t index,
                                             size_t *out_count,
                                             struct deepseek_error **err);

/**
 * A new reference to the tensor that is one item of a sequence, or the value of an
 * optional. Fails with `DEEPSEEK_STATUS_UNSUPPORTED` for a tensor, and for an item that is not
 * one. Since 0.1.
 */
DEEPSEEK_API
deepseek_status deepseek_outputs_get_item(const struct deepseek_outputs *outputs,
                                          size_t index,
                                          size_t item,
                                          struct deepseek_tensor **out_tensor,
                                          struct deepseek_error **err);

/**
 * Frees outputs. Tensors taken from them stay. Since 0.1.
 */
DEEPSEEK_API
void deepseek_outputs_free(struct deepseek_outputs *outputs);

/**
 * The profile in the Chrome trace format (JSON), which Perfetto opens. Since 0.1.
 */
DEEPSEEK_API
deepseek_status deepseek_profile_get_trace(const struct deepseek_profile *profile,
                                           struct deepseek_buffer **out_trace,
                                           struct deepseek_error **err);

/**
 * All figures of the run as a JSON object: `graph`, `formula`, `planned_bytes`,
 * `observed_bytes`, `arena_bytes`, `output_bytes`, `constant_bytes`, `duration_us`; `peak`
 * with the tensors alive then; time by operator and kernel in `kernels`; each node with
 * its tensors in `events`. What is not known is null. Keys are only added. Since 0.1.
 */
DEEPSEEK_API
deepseek_status deepseek_profile_get_json(const struct deepseek_profile *profile,
                                          struct deepseek_buffer **out_json,
                                          struct deepseek_error **err);

/**
 * An HTML page that shows the run: memory over time, the arena, the largest tensors at
 * the peak, time by operator and node. It refers to nothing outside itself. Since 0.1.
 */
DEEPSEEK_API
deepseek_status deepseek_profile_get_html(const struct deepseek_profile *profile,
                                          struct deepseek_buffer **out_html,
                                          struct deepseek_error **err);

/**
 * Frees a profile. Since 0.1.
 */
DEEPSEEK_API
void deepseek_profile_free(struct deepseek_profile *profile);

/**
 * Waits until a background run has ended, its callbacks included, and takes the result.
 * Waits at most `timeout_ms` milliseconds, 0 only looks, a negative number waits as long
 * as it takes. If the run has not ended, `*out_done` is 0 and the status is
 * `DEEPSEEK_STATUS_OK`; if it has, `*out_done` is 1, and the status is that of the run, with
 * `*out_outputs` on success. Fails with `DEEPSEEK_STATUS_INVALID_STATE` if the result was taken
 * before, and inside the run's own callback. Since 0.1.
 */
DEEPSEEK_API
deepseek_status deepseek_run_wait(const struct deepseek_run *run,
                                  int64_t timeout_ms,
                                  int32_t *out_done,
                                  struct deepseek_outputs **out_outputs,
                                  struct deepseek_error **err);

/**
 * Cancels a background run. Any thread, any number of times; returns at once; the run
 * ends at its next kernel boundary with `DEEPSEEK_STATUS_CANCELLED`. Nothing for NULL.
 * Since 0.1.
 */
DEEPSEEK_API
void deepseek_run_cancel(const struct deepseek_run *run);

/**
 * Frees a background run. One that has not ended is cancelled and waited for, so no
 * callback follows; inside the run's own callback it does not wait. Since 0.1.
 */
DEEPSEEK_API
void deepseek_run_free(struct deepseek_run *run);

/**
 * Makes a session. It holds no memory until its first run. `options` may be NULL.
 * Since 0.1.
 */
DEEPSEEK_API
deepseek_status deepseek_session_new(const struct deepseek_model *model,
                                     const struct deepseek_session_options *options,
                                     struct deepseek_session **out_session,
                                     struct deepseek_error **err);

/**
 * Runs the model on `count` inputs, in any order: input `names[i]` is `tensors[i]`.
 * `options` may be NULL. Fails with `DEEPSEEK_STATUS_NOT_FOUND` for an unknown name;
 * `DEEPSEEK_STATUS_INVALID_ARGUMENT` for a missing or doubled one;
 * `DEEPSEEK_STATUS_DTYPE_MISMATCH`, `DEEPSEEK_STATUS_SHAPE_MISMATCH` naming the input and both
 * sides; `DEEPSEEK_STATUS_CANCELLED`, `DEEPSEEK_STATUS_TIMEOUT`,
 * `DEEPSEEK_STATUS_BUDGET_EXCEEDED`, `DEEPSEEK_STATUS_OUT_OF_MEMORY`;
 * `DEEPSEEK_STATUS_INVALID_STATE` once closed; `DEEPSEEK_STATUS_POISONED` after a panic; or what a
 * node reports. Since 0.1.
 */
DEEPSEEK_API
deepseek_status deepseek_session_run(const struct deepseek_session *session,
                                     const char *const *names,
                                     const struct deepseek_tensor *const *tensors,
                                     size_t count,
                                     const struct deepseek_run_options *options,
                                     struct deepseek_outputs **out_outputs,
                                     struct deepseek_error **err);

/**
 * Runs sequences of different lengths together, without padding. Each gives the bits that
 * `deepseek_session_run` gives for it alone: batch 1, masks all ones.
 *
 * Input `names[i]` has `counts[i]` tensors, which follow those of the input before in
 * `tensors`: for an input `[batch, seq, …]` one `[len, …]` for each sequence, for one
 * `[batch, …]` one `[…]` for each, for others one. Masks may be left out. Every output is a
 * sequence (`deepseek_outputs_count_items`, `deepseek_outputs_get_item`) in the same form.
 * `options` may be NULL; its field `ragged` has no effect here. Fails as
 * `deepseek_model_check_ragged` and `deepseek_session_run`, with
 * `DEEPSEEK_STATUS_SHAPE_MISMATCH` for lengths that contradict each other or that the model does
 * not take, `DEEPSEEK_STATUS_INVALID_ARGUMENT` for no or an empty sequence and for a mask that
 * hides something. Since 0.1.
 */
DEEPSEEK_API
deepseek_status deepseek_session_run_ragged(const struct deepseek_session *session,
                                            const char *const *names,
                                            const size_t *counts,
                                            size_t count,
                                            const struct deepseek_tensor *const *tensors,
                                            const struct deepseek_run_options *options,
                                            struct deepseek_outputs **out_outputs,
                                            struct deepseek_error **err);

/**
 * As `deepseek_session_run`, and `*out_profile` receives what ran, when and over how many
 * bytes (`deepseek_profile_get_trace`, `deepseek_profile_get_json`,
 * `deepseek_profile_get_html`). Since 0.1.
 */
DEEPSEEK_API
deepseek_status deepseek_session_run_profiled(const struct deepseek_session *session,
                                              const char *const *names,
                                              const struct deepseek_tensor *const *tensors,
                                              size_t count,
                                              const struct deepseek_run_options *options,
                                              struct deepseek_outputs **out_outputs,
                                              struct deepseek_profile **out_profile,
                                              struct deepseek_error **err);

/**
 * Starts a run in the background, see `deepseek_session_run`. The inputs are kept as long
 * as needed. `on_done` (may be NULL) is called exactly once, on a thread of the library,
 * whether the run succeeds, fails or is cancelled; then `on_release(user_data)` (may be
 * NULL), exactly once. If this call itself fails, neither is called. Free `*out_run` with
 * `deepseek_run_free`. Since 0.1.
 */
DEEPSEEK_API
deepseek_status deepseek_session_run_async(const struct deepseek_session *session,
                                           const char *const *names,
                                           const struct deepseek_tensor *const *tensors,
                                           size_t count,
                                           const struct deepseek_run_options *options,
                                           deepseek_on_done on_done,
                                           deepseek_on_release on_release,
                                           void *user_data,
                                           struct deepseek_run **out_run,
                                           struct deepseek_error **err);

/**
 * As `deepseek_session_run_async`, for `deepseek_session_run_ragged`. Since 0.1.
 */
DEEPSEEK_API
deepseek_status deepseek_session_run_ragged_async(const struct deepseek_session *session,
                                                  const char *const *names,
                                                  const size_t *counts,
                                                  size_t count,
                                                  const struct deepseek_tensor *const *tensors,
                                                  const struct deepseek_run_options *options,
                                                  deepseek_on_done on_done,
                                                  deepseek_on_release on_release,
                                                  void *user_data,
                                                  struct deepseek_run **out_run,
                                                  struct deepseek_error **err);

/**
 * Cancels every run of this session that is under way or waiting for its turn. Any
 * thread; returns at once; the runs end at their next kernel boundary with
 * `DEEPSEEK_STATUS_CANCELLED`. Flags that those runs were given are raised. Nothing for
 * NULL. Since 0.1.
 */
DEEPSEEK_API
void deepseek_session_cancel(const struct deepseek_session *session);

/**
 * Cancels running calls, refuses new ones (`DEEPSEEK_STATUS_INVALID_STATE`) and gives the
 * working memory back when the last has ended. Any thread, any number of times. Nothing
 * for NULL. Since 0.1.
 */
DEEPSEEK_API
void deepseek_session_close(const struct deepseek_session *session);

/**
 * Gives the working memory back unless a run is under way; the next run allocates it
 * again. Nothing for NULL. Since 0.1.
 */
DEEPSEEK_API
void deepseek_session_trim(const struct deepseek_session *session);

/**
 * Most bytes that the last successful run had in use at once beyond the weights; 0
 * before one, and for NULL. Since 0.1.
 */
DEEPSEEK_API
uint64_t deepseek_session_get_observed_bytes(const struct deepseek_session *session);

/**
 * Frees a session. Background runs go on. Since 0.1.
 */
DEEPSEEK_API
void deepseek_session_free(struct deepseek_session *session);

/**
 * Makes an empty graph. `name` may be NULL. Since 0.1.
 */
DEEPSEEK_API
deepseek_status deepseek_graph_new(const char *name,
                                   struct deepseek_graph **out_graph,
                                   struct deepseek_error **err);

/**
 * Adds an input. Each of the `rank` extents is a number (`"512"`) or an expression over
 * symbols (`"batch"`, `"2*seq + 1"`). Fails with `DEEPSEEK_STATUS_INVALID_ARGUMENT` for a
 * malformed extent, `DEEPSEEK_STATUS_INVALID_GRAPH` if the name is taken. Since 0.1.
 */
DEEPSEEK_API
deepseek_status deepseek_graph_add_input(struct deepseek_graph *graph,
                                         const char *name,
                                         deepseek_dtype dtype,
                                         const char *const *shape,
                                         size_t rank,
                                         deepseek_value *out_value,
                                         struct deepseek_error **err);

/**
 * Declares that a symbol lies between `min` and `max`, both included; a negative `max`
 * sets no upper bound. Since 0.1.
 */
DEEPSEEK_API
deepseek_status deepseek_graph_set_bound(struct deepseek_graph *graph,
                                         const char *symbol,
                                         int64_t min,
                                         int64_t max,
                                         struct deepseek_error **err);

/**
 * Adds a constant. Since 0.1.
 */
DEEPSEEK_API
deepseek_status deepseek_graph_add_constant(struct deepseek_graph *graph,
                                            const char *name,
                                            const struct deepseek_tensor *tensor,
                                            deepseek_value *out_value,
                                            struct deepseek_error **err);

/**
 * Applies the operator `op`, an ONNX operator name. `name` names the node; NULL or empty
 * takes the operator's. `attributes` is text such as `axis = 1, mode = "linear"`; NULL
 * takes the defaults. Absent optional inputs are `DEEPSEEK_VALUE_NONE`. Writes
 * `output_count` values. Fails with `DEEPSEEK_STATUS_UNSUPPORTED` for an unknown operator or
 * attribute, or with what the operator's shape rule finds. Since 0.1.
 */
DEEPSEEK_API
deepseek_status deepseek_graph_add_node(struct deepseek_graph *graph,
                                        const char *op,
                                        const char *name,
                                        const char *attributes,
                                        const deepseek_value *inputs,
                                        size_t input_count,
                                        deepseek_value *out_values,
                                        size_t output_count,
                                        struct deepseek_error **err);

/**
 * Names a value as an output. Since 0.1.
 */
DEEPSEEK_API
deepseek_status deepseek_graph_add_output(struct deepseek_graph *graph,
                                          const char *name,
                                          deepseek_value value,
                                          struct deepseek_error **err);

/**
 * Type of a value as inferred, e.g. `f32[batch, 2*seq + 1]`, with a NUL at the end, into a
 * buffer of `cap` bytes. `*out_len` receives the length without the NUL, also when the
 * call fails with `DEEPSEEK_STATUS_BUFFER_TOO_SMALL`, for which nothing else is written.
 * `buffer` may be NULL if `cap` is 0. Since 0.1.
 */
DEEPSEEK_API
deepseek_status deepseek_graph_get_type(const struct deepseek_graph *graph,
                                        deepseek_value value,
                                        char *buffer,
                                        size_t cap,
                                        size_t *out_len,
                                        struct deepseek_error **err);

/**
 * Lowers the graph for a runtime. `options` may be NULL. The graph may grow on and be built
 * again. Fails with `DEEPSEEK_STATUS_INVALID_GRAPH` if there is no output, and for its options as
 * `deepseek_model_open`. Since 0.1.
 */
DEEPSEEK_API
deepseek_status deepseek_graph_build(const struct deepseek_graph *graph,
                                     const struct deepseek_runtime *runtime,
                                     const struct deepseek_model_options *options,
                                     struct deepseek_model **out_model,
                                     struct deepseek_error **err);

/**
 * Frees a graph. Models built from it stay. Since 0.1.
 */
DEEPSEEK_API
void deepseek_graph_free(struct deepseek_graph *graph);

/**
 * Opens a directory with `config.json`, safetensors weights and `tokenizer.json`. `options`
 * may be NULL. Fails with `DEEPSEEK_STATUS_IO`, `DEEPSEEK_STATUS_INVALID_FILE`, or
 * `DEEPSEEK_STATUS_UNSUPPORTED` naming the file and field. Since 0.1.
 */
DEEPSEEK_API
deepseek_status deepseek_embedder_open(const struct deepseek_runtime *runtime,
                                       const char *path,
                                       const struct deepseek_embedder_options *options,
                                       struct deepseek_embedder **out_embedder,
                                       struct deepseek_error **err);

/**
 * Number of elements of a vector; 0 for NULL. Since 0.1.
 */
DEEPSEEK_API
size_t deepseek_embedder_get_dim(const struct deepseek_embedder *embedder);

/**
 * Most tokens of a text that are looked at, longer texts are truncated; 0 for NULL.
 * Since 0.1.
 */
DEEPSEEK_API
size_t deepseek_embedder_get_max_tokens(const struct deepseek_embedder *embedder);

/**
 * One vector for each of `count` texts, in order, row-major `[count, dim]`, into a buffer
 * of `cap` floats. `lengths` holds the lengths of the texts in bytes; NULL if they end in
 * NUL. `*out_len` receives `count * dim`, also when the call fails with
 * `DEEPSEEK_STATUS_BUFFER_TOO_SMALL`, for which nothing else is written and nothing computed.
 * `options` may be NULL; `vectors` may be NULL if `cap` is 0. The vector of a text has
 * the same bits whatever else is in the call. Since 0.1.
 */
DEEPSEEK_API
deepseek_status deepseek_embedder_run(const struct deepseek_embedder *embedder,
                                      const char *const *texts,
                                      const size_t *lengths,
                                      size_t count,
                                      const struct deepseek_run_options *options,
                                      float *vectors,
                                      size_t cap,
                                      size_t *out_len,
                                      struct deepseek_error **err);

/**
 * Token ids of a text of `len` bytes, special tokens included, truncated to
 * `deepseek_embedder_get_max_tokens`, into a buffer of `cap` ids. `*out_len` receives their
 * number, also when the call fails with `DEEPSEEK_STATUS_BUFFER_TOO_SMALL`, for which nothing
 * else is written. `ids` may be NULL if `cap` is 0. Since 0.1.
 */
DEEPSEEK_API
deepseek_status deepseek_embedder_get_tokens(const struct deepseek_embedder *embedder,
                                             const char *text,
                                             size_t len,
                                             uint32_t *ids,
                                             size_t cap,
                                             size_t *out_len,
                                             struct deepseek_error **err);

/**
 * Adds one to the count of an embedder and returns it; NULL for NULL. Since 0.1.
 */
DEEPSEEK_API
struct deepseek_embedder *deepseek_embedder_ref(const struct deepseek_embedder *embedder);

/**
 * Takes one from the count of an embedder. Since 0.1.
 */
DEEPSEEK_API
void deepseek_embedder_free(struct deepseek_embedder *embedder);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* DEEPSEEK_DEEPSEEK_H */
