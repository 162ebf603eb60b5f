"""Data sets that the project knows, and those that it builds."""

import os

import numpy as np
import pytest
from PIL import Image

from d2_featcomp import cli
from d2_featcomp.data import debian, known
from d2_featcomp.data.datasets.scenes import procedural_recipe
from d2_featcomp.data.scenes import is_complete, read_manifest


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "sets"))
    return tmp_path / "sets"


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(known, "procedural_recipe", lambda: procedural_recipe({"train": 1, "val": 1}))
    photos = known.photo_recipe
    counts = {"train": 1, "val": 1}
    monkeypatch.setattr(known, "photo_recipe", lambda *a, **k: photos(*a, **k, counts=counts))


def test_listing_and_building(root, few, capsys):
    states = {entry.name: entry.present for entry in known.list_data_sets()}
    assert set(states) == {"scenes", "photo_scenes", "coco", "cityscapes", "openimages", "baf_photos"}
    assert not any(states.values())
    (root / "coco" / "annotations").mkdir(parents=True)
    assert cli.main(["datasets", "--build", "scenes"]) == 0
    assert capsys.readouterr().out == f"scenes: {root / 'scenes'}\n"
    assert is_complete(str(root / "scenes"))
    os.rename(root / "scenes", root / "mine")
    states = {entry.name: entry.present for entry in known.list_data_sets()}
    assert states["mine"] and states["coco"] and not states["scenes"]
    assert cli.main(["datasets"]) == 0
    told = capsys.readouterr().out
    assert "mine_train, mine_val" in told and "missing" in told and "there" in told


DPKG = """#!/bin/sh
mkdir -p "$3/usr/share/tuxpaint/stamps" "$3/usr/share/backgrounds/mate"
case "$2" in
    *stamps*) cp -r "$FILES"/stamps/* "$3/usr/share/tuxpaint/stamps" ;;
    *mate*) cp -r "$FILES/photos" "$3/usr/share/backgrounds/mate/nature" ;;
    *) cp "$FILES"/photos/* "$3/usr/share/backgrounds" ;;
esac
"""


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Programs that stand for apt-get and dpkg-deb, and what they unpack."""
    rng = np.random.default_rng(0)
    for number, name in enumerate((*known._PHOTO_CLASSES, "seasonal")):
        folder = tmp_path / "files" / "stamps" / name
        folder.mkdir(parents=True)
        for index in range(8):
            pixels = np.zeros((40, 40, 4), np.uint8)
            pixels[5:35, 5:35] = (30 * number, 8 * index, 90, 255)
            Image.fromarray(pixels).save(folder / f"{index}.png")
    (tmp_path / "files" / "photos").mkdir()
    for name in ("Dune", "Storm", "aitzgorri_by_somebody", "FreshFlower"):
        pixels = rng.integers(0, 256, (300, 400, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "files" / "photos" / f"{name}.jpg")
    programs = tmp_path / "bin"
    programs.mkdir()
    calls = tmp_path / "calls"
    apt = f'#!/bin/sh\necho "$*" >> {calls}\nshift\nfor name; do touch "$name.deb"; done\n'
    for name, text in (("apt-get", apt), ("dpkg-deb", DPKG)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FILES", str(tmp_path / "files"))
    return programs, calls


def test_photo_scenes_are_built_from_packages(root, few, packages, monkeypatch):
    _, calls = packages
    folder = known.build_data_set("photo_scenes")
    assert folder == str(root / "photo_scenes") and is_complete(folder)
    assert read_manifest(folder)["thing_classes"] == sorted(known._PHOTO_CLASSES)
    assert not list((root / "photo_scenes_sources").glob("*.deb"))
    known.build_data_set("photo_scenes")  # complete
    os.rename(folder, root / "elsewhere")
    known.build_data_set("photo_scenes")  # nothing is downloaded again
    manifest = os.path.join(folder, "scenes.json")
    before = os.stat(manifest).st_ino
    known.build_data_set("photo_scenes")
    assert os.stat(manifest).st_ino == before
    monkeypatch.setattr(known, "PHOTO_LAYOUT", 0)  # objects are placed otherwise: drawn again
    known.build_data_set("photo_scenes")
    assert os.stat(manifest).st_ino != before
    packages = "tuxpaint-stamps-default mate-backgrounds lomiri-wallpapers-16.04"
    assert calls.read_text() == f"download {packages}\n"


def test_other_packages_are_downloaded_though_some_were(tmp_path, packages):
    _, calls = packages
    for names in (["a-stamps"], ["a-stamps"], ["a-stamps", "mate"], ["a-stamps", "mate"]):
        debian.fetch_debian_packages(names, str(tmp_path / "sources"))
    assert calls.read_text() == "download a-stamps\ndownload a-stamps mate\n"


def test_a_download_that_fails_is_told(tmp_path, packages):
    programs, _ = packages
    (programs / "apt-get").write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(OSError, match=r"cannot download .* run apt-get update"):
        debian.fetch_debian_packages(["a"], str(tmp_path / "sources"))
    assert not (tmp_path / "sources" / ".complete").exists()


def test_a_machine_without_debians_tools(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="apt-get and dpkg-deb"):
        debian.fetch_debian_packages(["a"], str(tmp_path / "sources"))
