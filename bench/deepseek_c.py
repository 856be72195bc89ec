"""The C library for benchmarks, through ctypes: what deepseek.h says, no more than they need."""

import ctypes
import os

import numpy as np

DTYPES = {"float32": 1, "int64": 8}


class Library:
    """libdeepseek.so with a runtime; calls raise with the library's message."""

    def __init__(self, path, threads):
        self.lib = ctypes.CDLL(str(path))
        self.lib.deepseek_error_message.restype = ctypes.c_char_p
        self.lib.deepseek_version.restype = ctypes.c_char_p
        self.version = self.lib.deepseek_version().decode()
        os.environ["DEEPSEEK_NUM_THREADS"] = str(threads)
        self.runtime = ctypes.c_void_p()
        self.call("deepseek_runtime_new", None, ctypes.byref(self.runtime))

    def call(self, name, *arguments):
        err = ctypes.c_void_p()
        if getattr(self.lib, name)(*arguments, ctypes.byref(err)):
            raise RuntimeError(f"{name}: {self.lib.deepseek_error_message(err).decode()}")

    def tensor(self, array):
        array = np.ascontiguousarray(array)
        shape, out = (ctypes.c_int64 * array.ndim)(*array.shape), ctypes.c_void_p()
        self.call("deepseek_tensor_new", DTYPES[array.dtype.name], shape, ctypes.c_size_t(array.ndim),
                  ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes), ctypes.byref(out))
        return out

    def open(self, path):
        model = ctypes.c_void_p()
        self.call("deepseek_model_open", self.runtime, os.fsencode(path), None, ctypes.byref(model))
        return Session(self, model)

    def graph(self, inputs, nodes, outputs):
        """A session over a recorded graph: inputs {name: extents}, all f32; nodes
        (result, operator, attributes, operands); outputs are results."""
        graph, model, values = ctypes.c_void_p(), ctypes.c_void_p(), {}
        self.call("deepseek_graph_new", b"bench", ctypes.byref(graph))
        for name, extents in inputs.items():
            shape, value = (ctypes.c_char_p * len(extents))(*(str(e).encode() for e in extents)), ctypes.c_uint32()
            self.call("deepseek_graph_add_input", graph, name.encode(), DTYPES["float32"], shape,
                      ctypes.c_size_t(len(extents)), ctypes.byref(value))
            values[name] = value
        for result, op, attributes, operands in nodes:
            handles, value = (ctypes.c_uint32 * len(operands))(*(values[o] for o in operands)), ctypes.c_uint32()
            self.call("deepseek_graph_add_node", graph, op.encode(), None, attributes.encode(), handles,
                      ctypes.c_size_t(len(operands)), ctypes.byref(value), ctypes.c_size_t(1))
            values[result] = value
        for name in outputs:
            self.call("deepseek_graph_add_output", graph, name.encode(), values[name])
        self.call("deepseek_graph_build", graph, self.runtime, None, ctypes.byref(model))
        self.lib.deepseek_graph_free(graph)
        return Session(self, model)


class Session:
    def __init__(self, library, model):
        self.library, self.model, self.handle = library, model, ctypes.c_void_p()
        library.call("deepseek_session_new", model, None, ctypes.byref(self.handle))
        library.lib.deepseek_session_get_observed_bytes.restype = ctypes.c_uint64

    def _run(self, call, columns):
        """Runs and drops the outputs; `columns` maps names to lists of arrays or tensors."""
        lib = self.library.lib
        names = (ctypes.c_char_p * len(columns))(*(name.encode() for name in columns))
        given = [x for column in columns.values() for x in column]
        tensors = [x if isinstance(x, ctypes.c_void_p) else self.library.tensor(x) for x in given]
        handles, outputs = (ctypes.c_void_p * len(tensors))(*tensors), ctypes.c_void_p()
        counts = (ctypes.c_size_t * len(columns))(*(len(column) for column in columns.values()))
        count = ctypes.c_size_t(len(columns))
        arguments = (handles, count) if call == "deepseek_session_run" else (counts, count, handles)
        self.library.call(call, self.handle, names, *arguments, None, ctypes.byref(outputs))
        lib.deepseek_outputs_free(outputs)
        for tensor, x in zip(tensors, given):
            if tensor is not x:
                lib.deepseek_tensor_free(tensor)

    def run(self, inputs):
        self._run("deepseek_session_run", {name: [x] for name, x in inputs.items()})

    def run_ragged(self, columns):
        """`columns` maps each input to one array a sequence."""
        self._run("deepseek_session_run_ragged", columns)

    def observed_bytes(self):
        return self.library.lib.deepseek_session_get_observed_bytes(self.handle)
