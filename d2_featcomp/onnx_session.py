"""Exported edge networks in onnxruntime."""

import os
from typing import Any

__all__ = ["open_session"]


def open_session(path: str, threads: int | None = None) -> Any:
    """Opens an ONNX file in onnxruntime, on the CPU.

    Args:
        path (str): of the file.
        threads (int or None): that compute it. None is what the environment variable OMP_NUM_THREADS
            says, or else all cores.

    Returns:
        onnxruntime.InferenceSession

    Raises:
        ImportError: onnxruntime is not installed. FileNotFoundError: no such file. ValueError: it cannot
        be read.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(
            "edge.onnx is computed by onnxruntime, which is missing: pip install 'd2_featcomp[edge]'"
        ) from error
    if not os.path.isfile(path):
        raise FileNotFoundError(f"no file {path!r}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or int(os.environ.get("OMP_NUM_THREADS") or 0)
    options.log_severity_level = 3  # errors alone
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own kinds, for damaged files and unknown operators
        raise ValueError(f"{path!r} is no ONNX file that onnxruntime can read ({error})") from error
