"""What needs PyTorch is imported when it is asked for; registries without fvcore."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from d2_featcomp.registry import Registry

ROOT = Path(__file__).parents[1]
PACKAGES = ("ops", "codecs", "codecs.entropy", "deploy", "serving")


@pytest.mark.parametrize("name", PACKAGES)
def test_names_that_need_pytorch_are_the_packages(name):
    package = importlib.import_module(f"d2_featcomp.{name}")
    module = importlib.import_module(f"d2_featcomp.{name}.needs_torch")
    names = [name for name in vars(module) if not name.startswith("_")]
    assert names and all(getattr(package, name) is getattr(module, name) for name in names)
    with pytest.raises(AttributeError, match=f"module 'd2_featcomp.{name}' has no attribute 'nothing'"):
        package.nothing  # noqa: B018


def test_nothing_else_imports_pytorch():
    """Modules of packages are found as ever; a codec that is registered by PyTorch's side is there."""
    script = f"""
import sys
for name in {PACKAGES!r}:
    __import__(f"d2_featcomp.{{name}}")
from d2_featcomp.codecs import images, rate_control
from d2_featcomp.deploy import OnnxEdge, naming
from d2_featcomp.serving import Sender, edge_program
assert not {{"torch", "detectron2", "fvcore", "onnxruntime"}} & set(sys.modules)
from d2_featcomp.codecs import FEATURE_CODEC_REGISTRY
assert "torch" in sys.modules and "variable_rate" in FEATURE_CODEC_REGISTRY
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_a_registry():
    registry = Registry("CODEC")

    @registry.register()
    class First:
        pass

    def second():
        pass

    assert registry.register(second) is second
    assert registry.get("First") is First and "second" in registry and "third" not in registry
    assert list(registry) == [("First", First), ("second", second)]
    assert repr(registry) == "Registry of CODEC: First, second"
    with pytest.raises(KeyError, match="'third' is not registered in 'CODEC'"):
        registry.get("third")
    with pytest.raises(AssertionError, match="'First' is registered in 'CODEC' already"):
        registry.register(First)


def test_a_cell_of_a_notebook_may_run_again():
    registry = Registry("CODEC")

    def run(value):
        @registry.register()
        class Own:
            number = value

        return Own

    first, again = run(1), run(2)
    assert first is not again and list(registry) == [("Own", again)]

    class Own:
        pass

    with pytest.raises(AssertionError, match="'Own' is registered in 'CODEC' already"):
        registry.register(Own)
