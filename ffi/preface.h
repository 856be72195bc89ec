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
