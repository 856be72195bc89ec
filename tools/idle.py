"""Load the library and a model through the C header; print load time, threads and idle CPU.

usage: idle.py LIBDEEPSEEK_SO MODEL
"""
import ctypes
import os
import sys
import time

library, model = sys.argv[1:]
start = time.perf_counter()
ds = ctypes.CDLL(library)
print(f"load the library: {(time.perf_counter() - start) * 1e3:.1f} ms")


def call(name, *args):
    err = ctypes.c_void_p()
    status = getattr(ds, name)(*args, ctypes.byref(err))
    if status:
        ds.deepseek_error_message.restype = ctypes.c_char_p
        sys.exit(f"{name}: {ds.deepseek_error_message(err).decode()}")


runtime, handle = ctypes.c_void_p(), ctypes.c_void_p()
call("deepseek_runtime_new", None, ctypes.byref(runtime))
start = time.perf_counter()
call("deepseek_model_open", runtime, model.encode(), None, ctypes.byref(handle))
print(f"open {model}: {(time.perf_counter() - start) * 1e3:.1f} ms")
threads = len(os.listdir("/proc/self/task"))
time.sleep(0.2)
before = time.process_time()
time.sleep(1.0)
used = time.process_time() - before
print(f"idle: {threads} threads use {used * 100:.2f} % of a core")
