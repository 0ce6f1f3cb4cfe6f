"""Independent calls in several threads: those PyTorch has already, where they can be had.

PyTorch's OpenMP threads spin for milliseconds after they finish, waiting for more work. Other
threads would have to share the cores with them: on two cores nothing is gained by a second one.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import torch

__all__ = ["run"]

_Work = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def run(function: Callable, tasks: Iterable[tuple], *, threads: int) -> None:
    """Call ``function(*task)`` for every task; an error is raised when the others have ended."""
    tasks, errors = list(tasks), []
    waiting = iter(tasks)  # taking the next of a list iterator is atomic

    def work(*_) -> None:
        try:
            for task in waiting:
                function(*task)
        except BaseException as error:
            errors.append(error)

    threads = min(threads, len(tasks))
    if threads <= 1:
        work()
    elif openmp := _openmp_of_torch():
        openmp(_Work(work), None, threads, 0)
    else:
        pool = _pool(os.getpid(), threads - 1)
        others = [pool.submit(work) for _ in range(threads - 1)]
        work()
        for other in others:
            other.result()
    if errors:
        raise errors[0]


@cache
def _openmp_of_torch() -> Callable | None:
    """Return ``GOMP_parallel(work, data, threads, flags)`` of the OpenMP that torch runs on.

    GNU's library has it, and LLVM's and Intel's imitate it. Elsewhere than on Linux: none.
    """
    library = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    try:
        parallel = ctypes.CDLL(str(library)).GOMP_parallel  # found among its dependencies
    except (AttributeError, OSError):
        return None
    parallel.argtypes = (_Work, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
    parallel.restype = None
    return parallel


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    # One per process, as threads do not survive a fork.
    return ThreadPoolExecutor(threads, thread_name_prefix="splat")
