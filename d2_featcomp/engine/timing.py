"""Wall-clock times of calls."""

import time

import torch

__all__ = ["time_call", "wait_for_gpu"]


def wait_for_gpu():
    """Returns when all work on a GPU is done; at once where there is none."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def time_call(function, *args):
    """Calls a function; returns (its result, the seconds that it took, its work on a GPU included)."""
    wait_for_gpu()
    start = time.perf_counter()
    result = function(*args)
    wait_for_gpu()
    return result, time.perf_counter() - start
