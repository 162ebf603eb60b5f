"""Prints versions, devices and codecs, and how to get what is missing.

It works where Detectron2, PyTorch or an optional package is missing, too.
"""

import argparse
import functools
import importlib
import importlib.metadata
import platform
from collections.abc import Iterator, Mapping

from .. import __version__
from ..errors import DETECTRON2_MISSING, is_missing

TAKES_IMPORTS = False

# What -> (modules, what is lost without them, what to install).
_PACKAGES = {
    "imagecodecs": (("imagecodecs",), "most image codecs", "imagecodecs"),
    "PyAV": (("av",), "codec hevc, videos", "d2_featcomp[hevc]"),
    "constriction": (("constriction",), "codecs learned and variable_rate", "constriction"),
    "OpenCV": (("cv2",), "featcomp demo, videos from cameras", "d2_featcomp[demo]"),
    "onnxruntime": (("onnxruntime",), "featcomp edge with edge.onnx", "d2_featcomp[edge]"),
    "httpx": (("httpx",), "featcomp edge --connect", "d2_featcomp[edge]"),
    "FastAPI, uvicorn": (
        ("fastapi", "fastapi_offline", "uvicorn", "prometheus_client"),
        "featcomp serve",
        "d2_featcomp[serve]",
    ),
    "Ray Serve": (("ray",), "replicas by Ray Serve", "d2_featcomp[serve]"),
    "ONNX": (("onnx", "onnxruntime"), "featcomp export --onnx", "d2_featcomp[onnx]"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    pass


def run(args: argparse.Namespace) -> None:
    print(f"d2_featcomp {__version__}, Python {platform.python_version()}, {platform.platform()}")
    print("\n".join([*_describe_torch(), _describe_detectron2()]))
    print("\npackages")
    for name, (modules, purpose, package) in _PACKAGES.items():
        errors = [error for error in map(_find_import_error, modules) if error]
        broken = [error for error in errors if not is_missing(error, *modules)]
        state = f"missing ({purpose}): {_how(package)}"
        if broken:
            state = f"cannot be loaded ({_describe(broken[0])}): install what it lacks ({purpose})"
        elif not errors:
            state = ", ".join(map(_find_version, modules))
        print(f"  {name:18}{state}")
    print("\ncodecs (MODEL.FEATCOMP.CODEC.NAME)")
    for line in _describe_codecs():
        print(f"  {line}")


def _describe_torch() -> Iterator[str]:
    for name in ("torch", "torchvision"):
        error = _find_import_error(name)
        if not error:
            yield _find_version(name)
        elif is_missing(error, name):
            yield f"{name}: {_describe(error)}: {_how('d2_featcomp[torch]')}"
        else:
            yield f"{name}: it cannot be loaded ({_describe(error)}): install what it lacks"
    if _find_import_error("torch"):
        yield "without PyTorch there is featcomp edge, for edge.onnx of featcomp export --onnx"
        return
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    yield f"CUDA {torch.version.cuda}, {count} devices" if count else "CUDA: no device"
    for index in range(count):
        memory = torch.cuda.get_device_properties(index).total_memory
        yield f"  cuda:{index} {torch.cuda.get_device_name(index)}, {memory / 2**30:.0f} GiB"


def _describe_detectron2() -> str:
    error = _find_import_error("detectron2")
    if error:
        return f"detectron2: {_describe(error)}. {DETECTRON2_MISSING}"
    return f"detectron2 {importlib.import_module('detectron2').__version__}"


def _describe_codecs() -> Iterator[str]:
    """A line for each codec; for what is missing the codec's own words."""
    try:
        from ..codecs import IMAGE_CODEC_REGISTRY
        from ..codecs.entropy.range_coder import require_constriction
    except ImportError as error:
        yield f"they cannot be loaded: {error}: {_how('d2_featcomp')}"
        return
    listed = sorted((name, codec.require_library) for name, codec in IMAGE_CODEC_REGISTRY)
    try:
        from ..codecs import FEATURE_CODEC_REGISTRY

        listed += sorted((name, codec.require_library) for name, codec in FEATURE_CODEC_REGISTRY)
        note = ""
    except ImportError:  # without PyTorch
        listed += [(name, require_constriction) for name in ("learned", "variable_rate")]
        note = ", of an exported edge"
    for name, require_library in listed:
        try:
            require_library()
            yield f"{name:18}ready{note if require_library is require_constriction else ''}"
        except ImportError as error:
            broken = error.__cause__ and not isinstance(error.__cause__, ModuleNotFoundError)
            yield f"{name:18}{'' if broken else 'missing: '}{error}"


def _find_import_error(module: str) -> Exception | None:
    """Why a module cannot be imported, or None."""
    try:
        importlib.import_module(module)
    except Exception as error:  # whatever a broken installation raises
        return error
    return None


def _describe(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _find_version(module: str) -> str:
    """Version of the distribution that a module came with, "?" if it tells none."""
    try:
        distribution = _find_distributions().get(module, [module])[0]
        return f"{distribution} {importlib.metadata.version(distribution)}"
    except importlib.metadata.PackageNotFoundError:
        return f"{module} {getattr(importlib.import_module(module), '__version__', '?')}"


@functools.cache
def _find_distributions() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()


def _how(package: str) -> str:
    return f"pip install '{package}'"
