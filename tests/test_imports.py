import ast
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "d2_featcomp"

# Room -> the rooms that it may import from, beside itself.
ALLOWED = {
    "arguments": set(),
    "config": {"registry"},
    "deprecation": set(),
    "errors": set(),
    "files": set(),
    "images": set(),
    "lazy_names": set(),
    "onnx_session": {"errors"},
    "preprocessing": set(),
    # Reads no name of what it imports, only for what that registers.
    "registration": set(),
    "registry": set(),
    "model_zoo": {"config", "registration"},
    "ops": {"lazy_names"},
    "codecs": {"ops", "deprecation", "errors", "lazy_names", "registry"},
    "modeling": {"ops", "codecs", "deprecation", "onnx_session", "registry"},
    "data": {"ops", "codecs", "files", "images", "registry"},
    "evaluation": {"ops", "codecs", "data", "files", "registry"},
    "engine": {
        *("ops", "codecs", "modeling", "data", "evaluation"),
        *("arguments", "config", "deprecation", "errors", "files", "images", "model_zoo"),
        "preprocessing",
    },
    "deploy": {
        *("ops", "codecs", "modeling", "data", "evaluation", "engine", "config", "files"),
        *("deprecation", "errors", "images", "lazy_names", "onnx_session", "preprocessing"),
    },
    "experiments": {
        "arguments",
        "codecs",
        "modeling",
        "data",
        "evaluation",
        "engine",
        "deploy",
        "files",
        "deprecation",
    },
    "serving": {
        *("codecs", "engine", "deploy", "errors", "files", "images", "deprecation", "lazy_names"),
        "__version__",
    },
    "benchmarks": {
        *("ops", "codecs", "modeling", "data", "engine", "deploy", "experiments", "serving"),
        *("onnx_session", "preprocessing"),
    },
    "cli": {
        *("codecs", "modeling", "data", "evaluation", "engine", "deploy", "experiments", "serving"),
        *("benchmarks", "arguments", "errors", "files", "images", "model_zoo", "__version__"),
    },
    "__main__": {"cli"},
}


def imported_modules(source, module, is_package):
    """Absolute names of all that a module's source imports, at any depth of its code."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                parts = parts[: len(parts) - node.level + is_package]
                base = ".".join([*parts, *base.split(".")]).rstrip(".")
            names |= {f"{base}.{alias.name}" for alias in node.names}
    return names


def room_of(name):
    """The room of a module's absolute name, "" for the package itself, None for other packages."""
    first, _, rest = name.partition(".")
    return rest.partition(".")[0] if first == PACKAGE else None


def violations(source, module, is_package=False):
    room = room_of(module)
    rooms = {room_of(name) for name in imported_modules(source, module, is_package)}
    return rooms - {None, room} - ALLOWED[room]


def modules():
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        yield path, ".".join(parts[:-1] if is_package else parts), is_package


def test_rooms_import_one_way_only():
    wrong, seen = {}, set()
    for path, module, is_package in modules():
        if module == PACKAGE:
            continue
        seen.add(room_of(module))
        found = violations(path.read_text(encoding="utf-8"), module, is_package)
        if found:
            wrong[module] = found
    assert not wrong
    assert seen == set(ALLOWED)


@pytest.mark.parametrize(
    ("source", "module", "expected"),
    [
        ("from ..modeling import MSFC", "d2_featcomp.data.scenes", {"modeling"}),
        ("from ...modeling.splits import MSFC", "d2_featcomp.data.datasets.scenes", {"modeling"}),
        ("from .. import engine", "d2_featcomp.evaluation.build", {"engine"}),
        ("def f():\n    import d2_featcomp.codecs.raw", "d2_featcomp.ops.tiling", {"codecs"}),
        ("from d2_featcomp.engine.steps import train_stages", "d2_featcomp.modeling.x", {"engine"}),
        ("from ..config import add_featcomp_config", "d2_featcomp.modeling.x", {"config"}),
        ("from . import ops", "d2_featcomp.config", {"ops"}),
        ("from d2_featcomp import add_featcomp_config", "d2_featcomp.ops.x", {"add_featcomp_config"}),
        ("from .tiling import tile_channels", "d2_featcomp.ops.quantization", set()),
        ("from ..ops import tile_channels\nimport torch", "d2_featcomp.codecs.raw", set()),
    ],
)
def test_the_check_of_imports_finds_them(source, module, expected):
    assert violations(source, module) == expected


def test_the_check_of_imports_finds_them_in_packages():
    source = "from .splits import MSFC\nfrom ..engine import Trainer"
    assert violations(source, "d2_featcomp.modeling", is_package=True) == {"engine"}


def test_ops_and_codecs_need_no_detectron2():
    for path, module, is_package in modules():
        if room_of(module) in ("ops", "codecs"):
            names = imported_modules(path.read_text(encoding="utf-8"), module, is_package)
            packages = {name.partition(".")[0] for name in names}
            assert "detectron2" not in packages, path
            if room_of(module) == "ops" or module.startswith(f"{PACKAGE}.codecs.images"):
                assert not {name for name in names if name in ("torch.nn", "torch.nn.Module")}, path
            if module.startswith(f"{PACKAGE}.codecs.images"):
                assert "torch" not in packages, path
            if room_of(module) == "ops":
                assert packages - sys.stdlib_module_names <= {"torch", "numpy", PACKAGE}, path


def test_the_engine_goes_on_giving_names_that_moved_above_it():
    from d2_featcomp import engine, experiments

    for package, names in engine._MOVED.items():
        for name in names:
            assert getattr(engine, name) is getattr(importlib.import_module(package), name)
    assert engine.Sweep is engine.Experiment is experiments.Plan
    with pytest.raises(AttributeError, match="no attribute 'sweep'"):
        engine.sweep  # noqa: B018


def test_nothing_in_the_package_imports_tools_or_tests():
    for path, module, is_package in modules():
        names = imported_modules(path.read_text(encoding="utf-8"), module, is_package)
        assert not {name.partition(".")[0] for name in names} & {"tools", "tests", "projects"}, path


def run(*arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


BLOCK = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocker())
"""


def test_without_detectron2_the_import_tells_how_to_install_it():
    done = run("-c", BLOCK.format(blocked=["detectron2"]) + "from d2_featcomp import *")
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ImportError: d2_featcomp needs Detectron2")
    assert "python -m pip install --no-build-isolation 'git+https://github.com" in last


def test_package_metadata_need_no_torch():
    script = BLOCK.format(blocked=["torch", "torchvision", "detectron2"])
    script += """
import setuptools  # brings distutils where Python has none
from distutils.core import run_setup
distribution = run_setup("setup.py", ["--version"], stop_after="commandline")
print(distribution.metadata.get_name(), distribution.metadata.get_version())
print(sorted(distribution.extras_require))
print(*distribution.extras_require["hevc"], *distribution.extras_require["dev"])
print(*[name for name in distribution.packages if "." not in name])
assert "torch" not in sys.modules
"""
    done = run("-c", script)
    assert done.returncode == 0, done.stderr
    version, name, extras, requirements, packages = done.stdout.splitlines()
    source = (ROOT / PACKAGE / "__init__.py").read_text(encoding="utf-8")
    assert f'__version__ = "{version}"' in source
    assert name == f"{PACKAGE} {version}"
    assert {"hevc", "dev"} <= set(ast.literal_eval(extras))
    assert requirements.startswith("av>=") and "pytest" in requirements and "ruff" in requirements
    assert packages == PACKAGE


def test_every_room_is_packaged():
    folders = {path.parent for path, _, _ in modules()}
    assert all((folder / "__init__.py").is_file() for folder in folders)
