import measuring
import networks
import pytest
from detectron2.data import DatasetCatalog

from d2_featcomp.data.datasets.scenes import procedural_recipe, register_scenes


@pytest.fixture(scope="session")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("measured")
    parts = {"train": 1, "val": measuring.IMAGES}
    register_scenes("measured", str(folder / "scenes"), procedural_recipe(parts))
    DatasetCatalog.get("measured_val")
    for kind in ("msfc", "tasks"):
        networks.save(kind, folder / f"{kind}.pth")
    return folder


@pytest.fixture
def msfc(root, tmp_path):
    def make(codec, bits, name="", **more):
        return measuring.configured(
            "configs/quick/msfc_R18.yaml",
            measuring.TINY,
            MODEL__FEATCOMP__CODEC__NAME=codec,
            MODEL__FEATCOMP__CODEC__BITS=bits,
            OUTPUT_DIR=str(tmp_path / (name or f"{codec}{bits}")),
            **{"MODEL__WEIGHTS": str(root / "msfc.pth"), **more},
        )

    return make
