"""The command lines, as a user calls them."""

import json
import os
import runpy
import sys

import networks
import numpy as np
import processes
import pytest
import torch
from PIL import Image

from d2_featcomp.codecs import FeatureBitstream

SMALL = networks.listed(networks.TINY)
CONFIG = networks.MSFC


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Holds random weights, cut and uncut, and two images."""
    root = tmp_path_factory.mktemp("demo")
    state = networks.save("msfc", root / "cut.pth").state_dict()
    plain = {key: value for key, value in state.items() if not key.startswith("feature_split.")}
    torch.save({"model": plain}, root / "plain.pth")
    (root / "images").mkdir()
    rng = np.random.default_rng(0)
    for name, size in (("a.png", (60, 90, 3)), ("b.jpg", (80, 50, 3))):
        Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)).save(root / "images" / name)
    return root


@pytest.fixture
def call(few_scenes, tmp_path_factory):
    """Runs a command line: (exit status, standard output, standard error)."""

    def run(script, *arguments):
        output = tmp_path_factory.mktemp("called") / "told"
        return processes.call(script, arguments, output, {"DETECTRON2_DATASETS": str(few_scenes)})

    return run


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


def test_demo_writes_pictures_and_bitstreams(call, folder, tmp_path):
    status, _, errors = call(
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
        *("DATASETS.TEST", "('few_val',)"),
    )
    assert status == 0, errors[-2000:]
    assert sorted(os.listdir(tmp_path)) == [
        f"{stem}{end}" for stem in "ab" for end in (".d2fc", "_detections.png", "_features.png")
    ]
    stream = FeatureBitstream.from_bytes((tmp_path / "a.d2fc").read_bytes())
    assert stream.sizes.original == (60, 90) and list(stream.tensors[0].strings) == ["y"]
    with Image.open(tmp_path / "a_detections.png") as picture:
        # Of the network before, after, and for a compressed image, side by side, 7 times enlarged.
        assert picture.width == 3 * 7 * 90 + 2 * 6
        assert picture.height > 7 * 60
    with Image.open(tmp_path / "a_features.png") as picture:
        height, width = stream.sizes.padded  # 4 channels, 2 x 2
        assert picture.width / picture.height == pytest.approx(width / height, rel=0.15)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--input", "nowhere.png"], "no image, folder or video 'nowhere.png'"),
        (["--input", "configs"], "no images in 'configs'"),
        (["--input", "configs", "--limit", "-1"], "--limit is -1"),  # not all images but the last
    ],
)
def test_demo_says_what_is_wrong(call, folder, tmp_path, arguments, words):
    status, _, errors = call(
        "tools/demo.py", "--config-file", CONFIG, "--output", tmp_path / "out", *arguments
    )
    assert status == 1 or status == 2
    assert words in errors and errors.count("\n") == 1
    assert "Traceback" not in errors


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


def test_convert_darknet(call, tmp_path, build_yolo, write_darknet):
    write_darknet(build_yolo(seed=1), tmp_path / "a.weights")
    arguments = ["tools/convert_darknet.py", "--config-file", "configs/quick/yolov3_tiny.yaml"]
    status, _, errors = call(
        *arguments, "--weights", tmp_path / "a.weights", "--output", tmp_path / "a.pth"
    )
    assert status == 0, errors
    network = build_yolo("MODEL.WEIGHTS", tmp_path / "a.pth", seed=2)
    missing = network.load_state_dict(torch.load(tmp_path / "a.pth", weights_only=True)["model"])
    assert not missing.missing_keys and not missing.unexpected_keys
    (tmp_path / "short.weights").write_bytes((tmp_path / "a.weights").read_bytes()[:5000])
    for weights, output, words in (
        ("short.weights", "b.pth", "ends in layer backbone.layers."),
        ("none.weights", "b.pth", "none.weights"),
        ("a.weights", "a.weights/b.pth", "cannot write"),
    ):
        status, _, errors = call(
            *arguments, "--weights", tmp_path / weights, "--output", tmp_path / output
        )
        assert status == 2 and words in errors and "Traceback" not in errors
        assert errors.count("\n") == 1
    assert not (tmp_path / "b.pth").exists()
    status, _, errors = call(
        *("tools/convert_darknet.py", "--config-file", CONFIG),
        *("--weights", tmp_path / "a.weights", "--output", tmp_path / "b.pth"),
    )
    assert status == 2 and "not a YOLOV3" in errors


def test_select_channels_and_label_images(call, tmp_path, build_yolo):
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
    status, told, errors = call(*select, tmp_path / "order.json", *small, *images, *weights)
    assert status == 0, errors
    assert "256 channels of layer 8, from 2 images" in told
    named = ("MODEL.FEATCOMP.ENABLED", True, "MODEL.FEATCOMP.BAF.CHANNEL_ORDER", tmp_path / "order.json")
    assert build_yolo(*named).feature_split.has_channel_order
    label = ("tools/label_images.py", *config, "--images")
    status, told, errors = call(*label, tmp_path / "photos", "--score", 0.01, *small, *weights)
    assert status == 0, errors
    assert "labels in 2 images" in told
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
        status, told, errors = call(*arguments)
        assert status == 2 and words in errors, errors
        assert "Traceback" not in errors
    assert not (tmp_path / "a.json").exists()


def test_export_writes_both_halves(call, folder, tmp_path):
    status, told, errors = call(
        *("tools/export.py", "--config-file", CONFIG, "--output", tmp_path / "new"),
        *("MODEL.WEIGHTS", folder / "cut.pth", *SMALL),
    )
    assert status == 0, errors
    assert "the edge sub-model" in told and "the cloud sub-model" in told
    whole = torch.load(folder / "cut.pth", weights_only=True)["model"]
    edge, cloud = (
        torch.load(tmp_path / "new" / f"{half}.pth", weights_only=True) for half in ("edge", "cloud")
    )
    assert edge["fingerprint"] == cloud["fingerprint"]
    for half in (edge, cloud):
        assert 0 < len(half["model"]) < len(whole)
        assert all(torch.equal(value, whole[name]) for name, value in half["model"].items())
    status, told, errors = call(
        "tools/export.py", "--config-file", CONFIG, "--output", tmp_path / "b", *SMALL
    )
    assert status == 2 and "no weights" in errors and "Traceback" not in errors
    assert not (tmp_path / "b").exists()


def test_a_tool_loads_the_users_own_split(call, folder, tmp_path):
    (tmp_path / "my_split.py").write_text(
        "from d2_featcomp.modeling import FEATURE_SPLIT_REGISTRY, MSFC\n\n"
        "@FEATURE_SPLIT_REGISTRY.register()\n"
        "class MySplit(MSFC):\n"
        "    pass\n"
    )
    chosen = ["MODEL.FEATCOMP.SPLIT", "MySplit", "MODEL.WEIGHTS", folder / "cut.pth", *SMALL]
    arguments = ["--config-file", CONFIG, "--output", tmp_path / "new"]
    known = ["--import", tmp_path / "my_split.py"]
    status, _, errors = call("tools/export.py", *chosen, *known, *arguments)
    assert status == 0, errors
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
