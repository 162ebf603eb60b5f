"""`featcomp info`, where all is there and where something is missing."""

import os
import subprocess
import sys
from pathlib import Path

from d2_featcomp import __version__, cli
from d2_featcomp.codecs import FEATURE_CODEC_REGISTRY, IMAGE_CODEC_REGISTRY

ROOT = Path(__file__).parents[2]


def test_versions_and_every_codec(capsys):
    assert cli.main(["info"]) == 0
    told = capsys.readouterr().out
    assert told.startswith(f"d2_featcomp {__version__}, Python ")
    assert "\ntorch " in told and "\ndetectron2 " in told and "\nCUDA" in told
    for name, _ in (*IMAGE_CODEC_REGISTRY, *FEATURE_CODEC_REGISTRY):
        assert f"\n  {name} " in told


def test_optional_packages_that_are_missing(capsys, monkeypatch):
    for name in ("detectron2", "av", "httpx"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr("d2_featcomp.codecs.images.hevc.av", None)
    assert cli.main(["info"]) == 0
    told = capsys.readouterr().out
    assert "\ndetectron2: " in told and "--no-build-isolation" in told
    assert "missing (featcomp edge --connect): pip install 'd2_featcomp[edge]'" in told
    assert told.count("missing: codec 'hevc' needs PyAV") == 2


def test_without_anything():
    modules = ["torch", "torchvision", "detectron2", "cv2", "fastapi", "onnx", "ray", "imagecodecs"]
    blocked = f"sys.modules.update(dict.fromkeys({modules!r}))"
    script = f"import sys; {blocked}; from d2_featcomp.cli import main; sys.exit(main(['info']))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "pip install 'd2_featcomp[torch]'" in done.stdout and "they cannot be loaded: " in done.stdout
