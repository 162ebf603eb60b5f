"""Measurements of speed. They are found when they are asked for: this imports none of them."""

import importlib

__all__ = ["BENCHMARKS", "find_benchmark"]

# Name -> module here that holds `benchmark_<name>`.
BENCHMARKS = {
    "edge": "networks",
    "baf_edge": "networks",
    "cloud": "networks",
    "onnx": "exported",
    "codec": "codecs",
    "learned": "codecs",
    "quantizer": "codecs",
    "lossless": "codecs",
    "hevc": "codecs",
    "training": "training",
    "compressibility_loss": "losses",
    "sweep": "evaluation",
    "processes": "evaluation",
    "pipeline": "evaluation",
    "throughput": "throughput",
}


def find_benchmark(name):
    """Imports the function of a benchmark.

    Args:
        name (str): one of BENCHMARKS.

    Returns:
        callable: :class:`~d2_featcomp.benchmarks.common.Settings` -> list[dict], rows of the table.
    """
    module = importlib.import_module(f".{BENCHMARKS[name]}", __name__)
    return getattr(module, f"benchmark_{name}")
