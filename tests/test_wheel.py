"""The wheel holds the product: package, command, configs and plans."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from d2_featcomp import __version__, model_zoo

ROOT = Path(__file__).parents[1]
PIP = ("-m", "pip", "--disable-pip-version-check", "--no-cache-dir")


def run_python(*arguments, folder, **variables):
    """Standard output of a Python program."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built in a copy: building leaves files behind."""
    folder = tmp_path_factory.mktemp("source")
    for name in ("setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    for name in ("d2_featcomp", "configs", "projects"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    stale = folder / "build" / "lib" / "d2_featcomp" / "model_zoo" / "configs" / "removed.yaml"
    stale.parent.mkdir(parents=True)
    stale.touch()
    options = ("--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", "out")
    run_python(*PIP, "wheel", *options, ".", folder=folder)
    (path,) = (folder / "out").iterdir()
    return path


def test_what_is_inside(wheel):
    assert wheel.name == f"d2_featcomp-{__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        about = f"d2_featcomp-{__version__}.dist-info"
        entry_points = archive.read(f"{about}/entry_points.txt").decode()
    assert "featcomp = d2_featcomp.cli:main" in entry_points
    files = {path.relative_to(ROOT).as_posix() for path in (ROOT / "d2_featcomp").rglob("*.py")}
    assert files <= names and {"d2_featcomp/py.typed", "d2_featcomp/serving/status_page.html"} <= names
    yaml = {name.removeprefix("d2_featcomp/model_zoo/") for name in names if name.endswith(".yaml")}
    assert yaml == {f"configs/{name}.yaml" for name in model_zoo.list_configs()} | {
        f"projects/{name}.yaml" for name in model_zoo.list_plans()
    }
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"d2_featcomp", about}


def test_what_is_installed_runs_anywhere(wheel, tmp_path):
    site = tmp_path / "site"
    options = ("--quiet", "--no-deps", "--no-index", "--no-compile", "--target")
    run_python(*PIP, "install", *options, site, wheel, folder=tmp_path)
    assert (site / "bin" / "featcomp").is_file()
    assert list(site.glob("d2_featcomp-*.dist-info"))
    installed = {"folder": tmp_path, "PYTHONPATH": str(site)}
    assert "usage: featcomp" in run_python("-m", "d2_featcomp", "--help", **installed)
    script = f"""
import sys
sys.modules["onnxruntime"] = sys.modules["fastapi"] = None  # quicker
from d2_featcomp import __file__ as here, cli, model_zoo
from d2_featcomp.experiments import read_experiment
assert here.startswith({str(site)!r}), here
assert cli.main(["info"]) == 0
assert model_zoo.get_config("msfc_R50").MODEL.META_ARCHITECTURE == "SplitNetwork"
plan = read_experiment(model_zoo.find_plan_file("msfc/quickstart"))
print(plan.trainings["msfc"].config_file)
"""
    told = run_python("-c", script, **installed)
    assert told.startswith(f"d2_featcomp {__version__}, Python") and "jpegxl" in told
    assert Path(told.splitlines()[-1]).resolve() == (
        site / "d2_featcomp/model_zoo/configs/quick/msfc_R18_learned.yaml"
    )
