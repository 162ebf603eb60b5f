"""Before d2_featcomp is imported: one thread, and a folder of our own for data sets."""

import gc
import importlib.util
import os
import runpy
import shutil
import sys
import tempfile

import numpy as np
import pytest
import torch

_DATASETS = tempfile.mkdtemp(prefix="d2_featcomp-tests-")
os.environ["DETECTRON2_DATASETS"] = _DATASETS
torch.set_num_threads(1)
gc.disable()  # until all tests are collected: hardly anything of what is imported is garbage


def pytest_addoption(parser):
    parser.addoption(
        "--device", default="cuda", help="where tests marked gpu run: cuda (default), cuda:N or cpu"
    )


def pytest_collection_modifyitems(items):
    """Files with few tests that take long first, so that no worker begins one of them last."""
    items.sort(key=lambda item: item.path.parent.name not in ("engine", "experiments", "tools"))


def pytest_collection_finish():
    """What was imported stays: the garbage collector need not look through it again and again."""
    gc.freeze()
    gc.enable()


def pytest_unconfigure():
    shutil.rmtree(_DATASETS, ignore_errors=True)


@pytest.fixture(scope="session")
def device(request):
    """torch.device: where a test marked gpu runs what it compares with the CPU."""
    chosen = torch.device(request.config.getoption("device"))
    if chosen.type == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU that PyTorch can use")
    return chosen


@pytest.fixture
def exact_float32():
    """Convolutions and matrix products on GPUs keep all bits of float32, as those on CPUs do."""
    backends = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = False
    yield
    for backend, allowed in zip(backends, before, strict=True):
        backend.allow_tf32 = allowed


@pytest.fixture(scope="session")
def networks():
    """The module networks: small networks of every kind. It imports d2_featcomp, so not at the top."""
    import networks

    return networks


@pytest.fixture(scope="session")
def configured(networks):
    """A function: kind of a small network, weights, config overrides -> CfgNode."""
    return networks.config_of


@pytest.fixture(scope="session")
def random_network(networks):
    """A function: kind of a small network, seed -> the network, in evaluation mode."""
    return networks.random_network


@pytest.fixture(scope="session")
def small_config(networks):
    """A function: path of a config, overrides -> config, made small."""
    return networks.shrunk_config


@pytest.fixture(scope="session")
def small_model(networks):
    """A function: path of a config, overrides -> seeded model in evaluation mode."""
    return networks.calibrated_network


@pytest.fixture(scope="session")
def build_yolo(networks):
    """Builds a YOLO-v3, the quick one unless told otherwise, with weights of a seed."""

    def build(*overrides, config=networks.YOLO, seed=0):
        return networks.build(config, ["MODEL.DEVICE", "cpu", *map(str, overrides)], seed)

    return build


@pytest.fixture(scope="module")
def nanodet():
    """The package of projects/NanoDet, imported as the tools do it; its config keys are there for the
    tests of one file alone."""
    from d2_featcomp.arguments import import_modules
    from d2_featcomp.config import CONFIG_REGISTRY

    import_modules(["projects/NanoDet/nanodet"])
    package, name = sys.modules["nanodet"], "add_nanodet_config"
    CONFIG_REGISTRY._obj_map[name] = package.add_nanodet_config
    yield package
    del CONFIG_REGISTRY._obj_map[name]


@pytest.fixture
def write_darknet():
    """Writes a network's own parameters as Darknet does; norms get random statistics first."""

    from detectron2.layers import Conv2d

    from d2_featcomp.modeling.split_backbone import unsplit_backbone

    def write(network, path, version=(0, 2, 0), seen=7, seed=0):
        generator = torch.Generator().manual_seed(seed)
        convolutions = [m for m in unsplit_backbone(network).layers if isinstance(m, Conv2d)]
        convolutions += [layer for _, layer in network.head.layers_in_file_order()]
        with open(path, "wb") as file:
            file.write(np.array(version, "<i4").tobytes())
            file.write(np.array([seen], "<i8" if version[0] * 10 + version[1] >= 2 else "<i4").tobytes())
            for layer in convolutions:
                parts = [layer.bias]
                if layer.norm is not None:
                    norm = layer.norm
                    for values, low, high in (
                        (norm.weight, 0.5, 1.5),
                        (norm.bias, -0.2, 0.2),
                        (norm.running_mean, -0.2, 0.2),
                        (norm.running_var, 0.5, 1.5),
                    ):
                        values.data.uniform_(low, high, generator=generator)
                    parts = [norm.bias, norm.weight, norm.running_mean, norm.running_var]
                for part in [*parts, layer.weight]:
                    file.write(part.detach().numpy().astype("<f4").tobytes())

    return write


@pytest.fixture(scope="session")
def load_tool():
    """Imports a script by its path."""

    def load(script):
        spec = importlib.util.spec_from_file_location("tool", script)
        tool = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(tool)
        return tool

    return load


@pytest.fixture
def run_tool(monkeypatch, capsys):
    """Runs a command line in this process: (exit status, standard output, standard error)."""

    def run(script, *arguments):
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        monkeypatch.syspath_prepend(os.path.dirname(script))
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as ended:
            return ended.code or 0, *capsys.readouterr()
        return 0, *capsys.readouterr()

    return run


@pytest.fixture(scope="session")
def few_scenes(tmp_path_factory):
    """A folder, as DETECTRON2_DATASETS names one, of the data sets few_train and few_val (and of both
    for several tasks), of 8 and 5 scenes. They are registered in this process, too."""
    from detectron2.data import DatasetCatalog

    from d2_featcomp.data.datasets.scenes import procedural_recipe, register_scenes

    root = tmp_path_factory.mktemp("datasets")
    register_scenes("few", str(root / "few"), procedural_recipe({"train": 8, "val": 5}))
    DatasetCatalog.get("few_train")  # draws them
    return root


@pytest.fixture
def coco_folder(tmp_path):
    """A function: edit of the annotations -> name of a data set of 2 images, 4 objects, 2 classes."""
    import json

    from PIL import Image

    from d2_featcomp.data.datasets.image_folders import register_image_folders

    def write(edit=None, name="set"):
        folder = tmp_path / name
        folder.mkdir()
        data = {"info": {}, "images": [], "annotations": [], "categories": []}
        for number in (1, 2):
            data["categories"].append({"id": number, "name": "ab"[number - 1]})
            pixels = np.random.default_rng(number).integers(0, 256, (64, 96, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
            file = {"id": number, "file_name": f"{number}.png", "height": 64, "width": 96}
            data["images"].append(file)
            for label, x in ((1, 10), (2, 40)):
                data["annotations"].append(
                    {
                        "id": len(data["annotations"]) + 1,
                        "image_id": number,
                        "category_id": label,
                        "bbox": [x, 10, 24, 30],
                        "area": 720,
                        "iscrowd": 0,
                        "segmentation": [[x, 10, x + 24, 10, x + 24, 40, x, 40]],
                    }
                )
        if edit is not None:
            edit(data)
        (folder / "annotations.json").write_text(json.dumps(data))
        register_image_folders([f"images:{folder}"])
        return f"images:{folder}"

    return write
