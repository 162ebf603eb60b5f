"""The command lines, as a user calls them."""

import json
import os
import runpy
import subprocess
import sys

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image

from d2_featcomp.codecs import FeatureBitstream
from d2_featcomp.engine import setup_config

SMALL = ["MODEL.DEVICE", "cpu", "MODEL.FPN.OUT_CHANNELS", "16", "MODEL.FEATCOMP.SSFC.CHANNELS", "4"]
CONFIG = "configs/quick/msfc_R18.yaml"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Holds random weights, cut and uncut, and two images."""
    root = tmp_path_factory.mktemp("demo")
    torch.manual_seed(0)
    model = build_model(setup_config(CONFIG, SMALL))
    state = model.state_dict()
    torch.save({"model": state}, root / "cut.pth")
    plain = {key: value for key, value in state.items() if not key.startswith("feature_split.")}
    torch.save({"model": plain}, root / "plain.pth")
    (root / "images").mkdir()
    rng = np.random.default_rng(0)
    for name, size in (("a.png", (60, 90, 3)), ("b.jpg", (80, 50, 3))):
        Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)).save(root / "images" / name)
    return root


def call(folder, *arguments):
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "DETECTRON2_DATASETS": str(folder / "data"), "OMP_NUM_THREADS": "1"},
        check=False,
    )


@pytest.fixture
def exit_status(monkeypatch):
    """Runs a tool that ends at once, in this process: to start another takes seconds."""

    def run(tool, *arguments):
        monkeypatch.setattr(sys, "argv", [tool, *map(str, arguments)])
        monkeypatch.syspath_prepend("tools")
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(tool, run_name="__main__")
        return ended.value.code

    return run


def register_tiny(folder):
    """The embedded data set, small, where the command line looks for it."""
    root = folder / "data" / "few"
    if not root.exists():
        from d2_featcomp.data.datasets.scenes import procedural_recipe
        from d2_featcomp.data.scenes import write_scenes

        composers, description = procedural_recipe({"train": 1, "val": 1})()
        os.makedirs(root.parent, exist_ok=True)
        write_scenes(str(root), composers, description)
    return ["DATASETS.TEST", "('few_val',)"]


def test_demo_writes_pictures_and_bitstreams(folder, tmp_path):
    done = call(
        folder,
        "tools/demo.py",
        "--config-file",
        CONFIG,
        "--input",
        folder / "images",
        "--output",
        tmp_path,
        "--reference",
        folder / "plain.pth",
        "MODEL.WEIGHTS",
        folder / "cut.pth",
        *SMALL,
        *register_tiny(folder),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert sorted(os.listdir(tmp_path)) == [
        f"{stem}{end}" for stem in "ab" for end in (".d2fc", "_detections.png", "_features.png")
    ]
    stream = FeatureBitstream.from_bytes((tmp_path / "a.d2fc").read_bytes())
    assert stream.sizes.original == (60, 90) and list(stream.tensors[0].strings) == ["y"]
    with Image.open(tmp_path / "a_detections.png") as picture:
        assert picture.width == 2 * 7 * 90 + 4  # two pictures side by side, 7 times enlarged
        assert picture.height > 7 * 60
    with Image.open(tmp_path / "a_features.png") as picture:
        height, width = stream.sizes.padded  # 4 channels, tiled 2 x 2
        assert picture.width * height == picture.height * width


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--input", "nowhere.png"], "no image or folder 'nowhere.png'"),
        (["--input", "configs"], "no images in 'configs'"),
    ],
)
def test_demo_says_what_is_wrong(folder, tmp_path, arguments, words):
    done = call(
        folder, "tools/demo.py", "--config-file", CONFIG, "--output", tmp_path / "out", *arguments
    )
    assert done.returncode == 1 or done.returncode == 2
    assert words in done.stderr and done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


TOOLS = sorted(name[:-3] for name in os.listdir("tools") if name.endswith(".py"))


@pytest.mark.parametrize("tool", TOOLS)
def test_help(exit_status, capsys, tool):
    assert exit_status(f"tools/{tool}.py", "--help") == 0
    told = capsys.readouterr().out
    assert told.startswith("usage:")
    # All that build networks or read data sets load what a user has registered.
    own = ("bdrate", "benchmark", "gpu_check", "gpu_training", "make_scenes")
    assert ("--import MODULE" in told) == (tool not in own)


@pytest.mark.parametrize("name", ["..", "", "a/b", "coco_2017", "scenes"])
def test_make_scenes_takes_no_foreign_name(exit_status, capsys, name):
    arguments = "--name", name, "--cutouts", "c", "--backgrounds", "b"
    assert exit_status("tools/make_scenes.py", *arguments) == 2
    assert "choose a" in capsys.readouterr().err.splitlines()[-1]


def test_scenes_replace_nothing_but_scenes(tmp_path):
    from d2_featcomp.data.scenes import write_scenes

    (tmp_path / "coco").mkdir()
    (tmp_path / "coco" / "precious.jpg").write_bytes(b"photo")
    with pytest.raises(FileExistsError, match="something else than scenes"):
        write_scenes(str(tmp_path / "coco"), {}, {})
    assert (tmp_path / "coco" / "precious.jpg").read_bytes() == b"photo"


def test_convert_darknet(tmp_path, build_yolo, write_darknet):
    write_darknet(build_yolo(seed=1), tmp_path / "a.weights")
    arguments = ["tools/convert_darknet.py", "--config-file", "configs/quick/yolov3_tiny.yaml"]
    done = call(
        tmp_path, *arguments, "--weights", tmp_path / "a.weights", "--output", tmp_path / "a.pth"
    )
    assert done.returncode == 0, done.stderr
    network = build_yolo("MODEL.WEIGHTS", tmp_path / "a.pth", seed=2)
    missing = network.load_state_dict(torch.load(tmp_path / "a.pth", weights_only=True)["model"])
    assert not missing.missing_keys and not missing.unexpected_keys
    (tmp_path / "short.weights").write_bytes((tmp_path / "a.weights").read_bytes()[:5000])
    for weights, output, words in (
        ("short.weights", "b.pth", "ends in layer backbone.layers."),
        ("none.weights", "b.pth", "none.weights"),
        ("a.weights", "a.weights/b.pth", "cannot write"),
    ):
        done = call(tmp_path, *arguments, "--weights", tmp_path / weights, "--output", tmp_path / output)
        assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr
        assert done.stderr.count("\n") == 1
    assert not (tmp_path / "b.pth").exists()
    done = call(
        tmp_path,
        *("tools/convert_darknet.py", "--config-file", CONFIG),
        *("--weights", tmp_path / "a.weights", "--output", tmp_path / "b.pth"),
    )
    assert done.returncode == 2 and "not a YOLOV3" in done.stderr


def test_select_channels_and_label_images(tmp_path, build_yolo):
    network = build_yolo("MODEL.FEATCOMP.ENABLED", False)
    torch.save({"model": network.state_dict()}, tmp_path / "yolo.pth")
    (tmp_path / "photos").mkdir()
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")
    config = ("--config-file", "configs/quick/baf_yolov3_tiny.yaml")
    small = ("MODEL.YOLOV3.LETTERBOX", 64, "INPUT.MIN_SIZE_TEST", 48, "INPUT.MAX_SIZE_TEST", 64)
    images = ("DATASETS.TRAIN", f"('images:{tmp_path}/photos',)")
    weights = ("MODEL.WEIGHTS", tmp_path / "yolo.pth")
    select = ("tools/select_channels.py", *config, "--output")
    done = call(tmp_path, *select, tmp_path / "order.json", *small, *images, *weights)
    assert done.returncode == 0, done.stderr
    assert "256 channels of layer 8, from 2 images" in done.stdout
    named = ("MODEL.FEATCOMP.ENABLED", True, "MODEL.FEATCOMP.BAF.CHANNEL_ORDER", tmp_path / "order.json")
    assert build_yolo(*named).feature_split.has_channel_order
    label = ("tools/label_images.py", *config, "--images")
    done = call(tmp_path, *label, tmp_path / "photos", "--score", 0.01, *small, *weights)
    assert done.returncode == 0, done.stderr
    assert "labels in 2 images" in done.stdout
    assert len(json.loads((tmp_path / "photos" / "annotations.json").read_text())["images"]) == 2
    for arguments, words in (
        ((*select, tmp_path / "yolo.pth" / "a.json", *images, *weights), "cannot write"),
        (
            (*select, tmp_path / "a.json", *images, *weights, "MODEL.FEATCOMP.LAYER", 7),
            "split in its layers",
        ),
        ((*label, tmp_path / "photos", "--score", 2, *weights), "from 0 to 1"),
        ((*label, tmp_path / "photos"), "no weights"),
    ):
        done = call(tmp_path, *arguments)
        assert done.returncode == 2 and words in done.stderr, done.stderr
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "a.json").exists()


def test_export_writes_both_halves(folder, tmp_path):
    done = call(
        folder,
        *("tools/export.py", "--config-file", CONFIG, "--output", tmp_path / "new"),
        *("MODEL.WEIGHTS", folder / "cut.pth", *SMALL),
    )
    assert done.returncode == 0, done.stderr
    assert "the edge sub-model" in done.stdout and "the cloud sub-model" in done.stdout
    whole = torch.load(folder / "cut.pth", weights_only=True)["model"]
    edge, cloud = (
        torch.load(tmp_path / "new" / f"{half}.pth", weights_only=True) for half in ("edge", "cloud")
    )
    assert edge["fingerprint"] == cloud["fingerprint"]
    for half in (edge, cloud):
        assert 0 < len(half["model"]) < len(whole)
        assert all(torch.equal(value, whole[name]) for name, value in half["model"].items())
    done = call(folder, "tools/export.py", "--config-file", CONFIG, "--output", tmp_path / "b", *SMALL)
    assert done.returncode == 2 and "no weights" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "b").exists()


def test_a_tool_loads_the_users_own_split(folder, tmp_path):
    (tmp_path / "my_split.py").write_text(
        "from d2_featcomp.modeling import FEATURE_SPLIT_REGISTRY, MSFC\n\n"
        "@FEATURE_SPLIT_REGISTRY.register()\n"
        "class MySplit(MSFC):\n"
        "    pass\n"
    )
    chosen = ["MODEL.FEATCOMP.SPLIT", "MySplit", "MODEL.WEIGHTS", folder / "cut.pth", *SMALL]
    arguments = ["--config-file", CONFIG, "--output", tmp_path / "new"]
    known = ["--import", tmp_path / "my_split.py"]
    done = call(folder, "tools/export.py", *chosen, *known, *arguments)
    assert done.returncode == 0, done.stderr
    assert torch.load(tmp_path / "new" / "edge.pth", weights_only=True)["split"] == "MySplit"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["speed"], "unknown benchmarks ['speed']: choose of edge, baf_edge"),
        (["--threads", 0], "must be at least 1"),
        (["--repeats", 0], "must be at least 1"),
    ],
)
def test_benchmark_says_what_is_wrong(exit_status, capsys, arguments, words):
    assert exit_status("tools/benchmark.py", *arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("benchmark.py: error: ") and words in said
