"""Exported edge networks in onnxruntime."""

import json
import logging
import os
import platform
import re
from typing import Any

from .errors import describe_import_error

__all__ = ["has_vnni", "open_session"]


def has_vnni() -> bool:
    """Tells whether the processor multiplies and adds 8-bit integers in one instruction (VNNI), as Linux
    lists its abilities; False where that is not known."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            return re.search(r"\bavx(512)?_vnni\b", file.read()) is not None
    except OSError:
        return False


def open_session(path: str, threads: int | None = None) -> Any:
    """Opens an ONNX file in onnxruntime, on the CPU. Logs a warning if its weights have 8 bits and this
    processor adds up products of these wrongly.

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
        need, how = "edge.onnx is computed by onnxruntime", "pip install 'd2_featcomp[edge]'"
        raise ImportError(describe_import_error(error, need, how, "onnxruntime")) from error
    if not os.path.isfile(path):
        raise FileNotFoundError(f"no file {path!r}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or _read_threads()
    options.log_severity_level = 3  # errors alone
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own kinds, for damaged files and unknown operators
        raise ValueError(f"{path!r} is no ONNX file that onnxruntime can read ({error})") from error
    about = session.get_modelmeta().custom_metadata_map
    if _weight_bits(about) == 8 and platform.machine() in ("x86_64", "AMD64") and not has_vnni():
        logging.getLogger("d2_featcomp").warning(
            "%r has weights of 8 bits, and this processor no VNNI: sums of products overflow, so that "
            "more symbols differ from those of edge.onnx; export it again without --vnni",
            os.path.basename(path),
        )
    return session


def _read_threads() -> int:
    """OMP_NUM_THREADS, of several levels the outermost one's; 0 if it is not set."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    outermost = given.partition(",")[0].strip()
    if outermost and not (outermost.isdecimal() and int(outermost)):
        raise ValueError(f"the environment variable OMP_NUM_THREADS is {given!r}: give a number, e.g. 2")
    return int(outermost or 0)


def _weight_bits(about: dict[str, str]) -> int | None:
    """Bits of the weights of `edge.int8.onnx`, by its metadata; None of other files."""
    if about.get("precision") != "int8":
        return None
    return json.loads(about.get("calibration", "{}")).get("weight_bits", 8)  # 8: of earlier releases
