"""Selecting channels and training the predictor, on photographs without labels; labelling; measuring."""

import json
import os

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, DatasetMapper
from detectron2.data.detection_utils import read_image
from PIL import Image

from d2_featcomp.data.datasets.image_folders import register_image_folders
from d2_featcomp.engine import (
    CheckpointError,
    build_for_inference,
    evaluate,
    label_images,
    read_experiment,
    run_experiment,
    save_weights,
    select_channels,
    setup_config,
    train_stages,
)
from d2_featcomp.images import list_images
from d2_featcomp.modeling import format_channel_order
from d2_featcomp.modeling.split_backbone import unsplit_backbone
from d2_featcomp.ops import ChannelCorrelation, rank_channels

CONFIG = "configs/quick/baf_yolov3_tiny.yaml"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images of slow random waves, of different sizes, and no labels."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for number in range(6):
        small = rng.integers(0, 256, (5, 6 + number % 2, 3), dtype=np.uint8)
        image = Image.fromarray(small).resize((120 + 8 * number, 90), Image.Resampling.BICUBIC)
        image.save(root / f"{number}.{'png' if number % 2 else 'jpg'}")
    (root / "notes.txt").write_text("no image")
    return root


@pytest.fixture(scope="module")
def yolo(build_yolo, tmp_path_factory):
    """Weights of a network whose norms fit its activations."""
    network = build_yolo("MODEL.FEATCOMP.ENABLED", False)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None
                module.train()
        network.predict(network.backbone(torch.rand(4, 3, 128, 128)))
    path = tmp_path_factory.mktemp("yolo") / "yolo.pth"
    save_weights(network.state_dict(), str(path))
    return path


@pytest.fixture
def settings(folder, yolo, tmp_path):
    """Overrides: small images, few of them, and the weights `yolo`, which are in `tmp_path`, too."""
    os.link(yolo, tmp_path / "yolo.pth")

    def make(**more):
        keyed = {
            "MODEL.DEVICE": "cpu",
            "MODEL.WEIGHTS": str(tmp_path / "yolo.pth"),
            "MODEL.YOLOV3.LETTERBOX": 128,
            "INPUT.MIN_SIZE_TRAIN": (96,),
            "INPUT.MIN_SIZE_TEST": 96,
            "INPUT.MAX_SIZE_TRAIN": 128,
            "INPUT.MAX_SIZE_TEST": 128,
            "DATASETS.TRAIN": (f"images:{folder}",),
            "DATALOADER.NUM_WORKERS": 0,
            "SOLVER.IMS_PER_BATCH": 2,
            "SOLVER.WARMUP_ITERS": 1,
            "TEST.EVAL_PERIOD": -1,
            "MODEL.FEATCOMP.TRAIN.STEPS": (2,),
            "MODEL.FEATCOMP.TRAIN.STEP2.MAX_ITER": 2,
            "MODEL.FEATCOMP.BAF.CHANNELS": 16,
            "MODEL.FEATCOMP.BAF.SELECTION_IMAGES": 4,
            "OUTPUT_DIR": str(tmp_path / "out"),
            **{key.replace("__", "."): value for key, value in more.items()},
        }
        return [part for item in keyed.items() for part in item]

    return make


def test_channels_are_those_of_eq_2_and_3_on_the_images(settings, folder):
    cfg = setup_config(CONFIG, settings(MODEL__FEATCOMP__SPLIT="IntermediateLayerSplit"))
    network = build_for_inference(cfg, cfg.MODEL.WEIGHTS)
    order, scores, count = select_channels(cfg, network, images=100)
    assert count == 6 and sorted(order.tolist()) == list(range(256))
    seen = []
    layer = unsplit_backbone(network).layers[8]
    hook = layer.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
    split = network.split_point
    correlation = ChannelCorrelation(1)
    mapper = DatasetMapper(cfg, is_train=False)
    with torch.no_grad():
        for record in DatasetCatalog.get(f"images:{folder}"):
            unsplit_backbone(network)(network.normalized_images([mapper(record)]).tensor)
            correlation.update(split.layer(seen[-1][0]), seen[-1][0])
    hook.remove()
    expected_order, expected = rank_channels(correlation.coefficients())
    torch.testing.assert_close(scores, expected, rtol=1e-6, atol=1e-9)
    assert torch.equal(order[:50], expected_order[:50])
    again = select_channels(cfg, network, images=3)
    assert all(
        torch.equal(a, b) for a, b in zip(again[:2], select_channels(cfg, network, 3)[:2], strict=True)
    )
    assert again[2] == 3 and not torch.equal(again[1], scores)
    with pytest.raises(ValueError, match="at least one"):
        select_channels(cfg, network, images=0)


def test_the_file_names_the_layer_that_was_looked_at(settings, run_tool, tmp_path):
    """By the config of the network alone, and a split point that LAYER does not say."""
    path, layer = tmp_path / "order.json", ["MODEL.FEATCOMP.SPLIT_POINT", "layer6"]
    given = [*settings(), *layer, "MODEL.FEATCOMP.ENABLED", False]
    status, told, _ = run_tool(
        "tools/select_channels.py", "--config", CONFIG, "--images", 2, "--output", path, *given
    )
    assert status == 0 and "128 channels of layer 6, from 2 images" in told
    cfg = setup_config(CONFIG, settings(MODEL__FEATCOMP__BAF__CHANNEL_ORDER=str(path)) + layer)
    order = build_for_inference(cfg, "").feature_split.order
    assert order.tolist() == json.loads(path.read_text())["order"]


def test_channels_of_a_network_cut_after_its_backbone_cannot_be_selected():
    with pytest.raises(ValueError, match="SPLIT is BaF or IntermediateLayerSplit"):
        select_channels(None, torch.nn.Identity())


@pytest.mark.parametrize("fit", [4, 0])
def test_step_2_trains_the_predictor_and_nothing_else(settings, tmp_path, fit):
    changed = {"MODEL__FEATCOMP__TRAIN__STEP2__MAX_ITER": 30, "MODEL__FEATCOMP__BAF__FIT_IMAGES": fit}
    train_stages(setup_config(CONFIG, settings(**changed)))
    start = torch.load(tmp_path / "yolo.pth", weights_only=True)["model"]
    final = torch.load(tmp_path / "out" / "model_final.pth", weights_only=True)["model"]
    assert all(torch.equal(final[name], value) for name, value in start.items())
    with open(tmp_path / "out" / "step2" / "channel_order.json", encoding="utf-8") as file:
        data = json.load(file)
    assert data["layer"] == 8 and data["images"] == 4
    assert final["feature_split.order"].tolist() == data["order"]
    with open(tmp_path / "out" / "step2" / "metrics.json", encoding="utf-8") as file:
        losses = [line["total_loss"] for line in map(json.loads, file) if "total_loss" in line]
    assert losses[-1] < losses[0]
    # With the order from a file, the same training again.
    named = {"MODEL__FEATCOMP__BAF__CHANNEL_ORDER": str(tmp_path / "out/step2/channel_order.json")}
    train_stages(setup_config(CONFIG, settings(OUTPUT_DIR=str(tmp_path / "two"), **changed, **named)))
    again = torch.load(tmp_path / "two" / "model_final.pth", weights_only=True)["model"]
    assert all(torch.equal(again[name], value) for name, value in final.items())


def test_the_linear_start_is_better_than_a_random_one(settings, tmp_path):
    first = {}
    for fit in (6, 0):
        out = str(tmp_path / str(fit))
        train_stages(
            setup_config(CONFIG, settings(MODEL__FEATCOMP__BAF__FIT_IMAGES=fit, OUTPUT_DIR=out))
        )
        with open(tmp_path / str(fit) / "step2" / "metrics.json", encoding="utf-8") as file:
            first[fit] = next(line["total_loss"] for line in map(json.loads, file))
    assert first[6] < 0.7 * first[0], first


def test_no_iterations_leave_the_linear_start(settings, tmp_path):
    none = {"MODEL__FEATCOMP__TRAIN__STEP2__MAX_ITER": 0, "MODEL__FEATCOMP__BAF__FIT_IMAGES": 4}
    train_stages(setup_config(CONFIG, settings(**none)))
    with open(tmp_path / "out" / "step2" / "channel_order.json", encoding="utf-8") as file:
        order = json.load(file)["order"]
    final = torch.load(tmp_path / "out" / "model_final.pth", weights_only=True)["model"]
    assert final["feature_split.order"].tolist() == order
    assert final["feature_split.predictor.convs.0.weight"].abs().sum() > 0


def test_a_trained_predictor_goes_on_from_where_it_is(settings, tmp_path):
    train_stages(setup_config(CONFIG, settings()))
    first = str(tmp_path / "out" / "model_final.pth")
    more = settings(MODEL__WEIGHTS=first, OUTPUT_DIR=str(tmp_path / "two"))
    train_stages(setup_config(CONFIG, [*more, "MODEL.FEATCOMP.TRAIN.STEP2.BASE_LR", 1e-30]))
    before, after = (
        torch.load(path, weights_only=True)["model"]
        for path in (first, tmp_path / "two" / "model_final.pth")
    )
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert not (tmp_path / "two" / "step2" / "channel_order.json").exists()


def test_a_predictor_for_something_else_is_refused(settings, tmp_path):
    train_stages(setup_config(CONFIG, settings()))
    trained = {
        "MODEL__WEIGHTS": str(tmp_path / "out" / "model_final.pth"),
        "OUTPUT_DIR": str(tmp_path / "two"),
    }
    with pytest.raises(CheckpointError, match="with other settings"):
        train_stages(setup_config(CONFIG, settings(MODEL__FEATCOMP__BAF__CHANNELS=32, **trained)))
    path = tmp_path / "order.json"
    path.write_text(format_channel_order(8, torch.arange(256), torch.zeros(256), 1))
    with pytest.raises(CheckpointError, match="another order of channels"):
        train_stages(
            setup_config(CONFIG, settings(MODEL__FEATCOMP__BAF__CHANNEL_ORDER=str(path), **trained))
        )


def test_what_cannot_be_trained_is_refused_at_once(settings, tmp_path):
    for more, words in (
        ({"MODEL__FEATCOMP__SPLIT": "IntermediateLayerSplit"}, "LayerSplit has nothing to train"),
        ({"MODEL__FEATCOMP__BAF__HIDDEN_CHANNELS": 100}, "HIDDEN_CHANNELS is 100"),
    ):
        with pytest.raises(ValueError, match=words):
            train_stages(setup_config(CONFIG, settings(**more)))
    assert not (tmp_path / "out" / "step2" / "channel_order.json").exists()


# ---- folders of images, and labels for them ----------------------------------------------------------


def test_a_folder_is_a_data_set(folder, tmp_path, monkeypatch):
    assert [path[-5:] for path in list_images(str(folder))] == [
        f"{i}.{'jp'[i % 2]}{'pn'[i % 2]}g" for i in range(6)
    ]
    register_image_folders([f"images:{folder}", "scenes_train"])
    records = DatasetCatalog.get(f"images:{folder}")
    assert [(r["width"], r["height"]) for r in records] == [(120 + 8 * i, 90) for i in range(6)]
    # Relative to the data sets' root, where the current folder has none of that name.
    monkeypatch.setenv("DETECTRON2_DATASETS", str(folder.parent))
    register_image_folders([f"images:{folder.name}"])
    assert len(DatasetCatalog.get(f"images:{folder.name}")) == 6
    # Cameras say in EXIF how a photograph is turned; Detectron2 turns it.
    (tmp_path / "turned").mkdir()
    exif = Image.Exif()
    exif[0x112] = 6
    Image.new("RGB", (30, 20)).save(tmp_path / "turned" / "a.jpg", exif=exif)
    register_image_folders([f"images:{tmp_path}/turned"])
    (record,) = DatasetCatalog.get(f"images:{tmp_path}/turned")
    assert (record["width"], record["height"]) == (20, 30)
    assert read_image(record["file_name"]).shape[:2] == (30, 20)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_text("no image")
    register_image_folders([f"images:{tmp_path}/bad", f"images:{tmp_path}/none", f"images:{tmp_path}"])
    for name, words, kind in (
        ("/bad", "no image that can be read", ValueError),
        ("/none", "no folder", FileNotFoundError),
        ("", "no images in", FileNotFoundError),
    ):
        with pytest.raises(kind, match=words):
            DatasetCatalog.get(f"images:{tmp_path}{name}")


@pytest.fixture
def labelled(settings, folder, tmp_path):
    """A copy of the folder, labelled by the network of `settings`; and overrides to measure on it."""
    copy = tmp_path / "labelled"
    copy.mkdir()
    for path in folder.glob("*.*g"):
        (copy / path.name).write_bytes(path.read_bytes())
    overrides = settings(DATASETS__TEST=(f"images:{copy}",))
    cfg = setup_config(CONFIG, settings())
    network = build_for_inference(cfg, cfg.MODEL.WEIGHTS, enabled=False)
    with torch.no_grad():
        scores = network([{"image": torch.full((3, 96, 128), 128.0)}])[0]["instances"].scores
    images, labels = label_images(cfg, network, str(copy), score=float(scores.median()))
    assert images == 6 and labels > 0
    return copy, overrides


def test_the_network_that_labelled_reaches_100_ap(labelled):
    copy, overrides = labelled
    with open(copy / "annotations.json", encoding="utf-8") as file:
        data = json.load(file)
    assert [image["file_name"] for image in data["images"]] == sorted(p.name for p in copy.glob("*.*g"))
    assert len(data["categories"]) == 6
    cfg = setup_config(CONFIG, overrides)
    with pytest.raises(ValueError, match="1 class names for a network of 6 classes"):
        network = build_for_inference(cfg, cfg.MODEL.WEIGHTS, enabled=False)
        label_images(cfg, network, str(copy), class_names=["a"])
    more = ("MODEL.FEATCOMP.SPLIT", "IntermediateLayerSplit", "MODEL.FEATCOMP.CODEC.NAME", "raw")
    results = evaluate(setup_config(CONFIG, [*overrides, *more, "MODEL.FEATCOMP.CODEC.BITS", 32]))
    assert results["bbox"]["AP50"] > 99
    more = ("MODEL.FEATCOMP.SPLIT", "IntermediateLayerSplit", "MODEL.FEATCOMP.CODEC.BITS", 2)
    coarse = evaluate(setup_config(CONFIG, [*overrides, *more]))
    assert coarse["bbox"]["AP"] < results["bbox"]["AP"]


def test_an_experiment_on_a_checkpoint_that_is_there(labelled, tmp_path, monkeypatch):
    _, overrides = labelled
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    pairs = dict(zip(overrides[::2], overrides[1::2], strict=True))
    del pairs["OUTPUT_DIR"], pairs["MODEL.WEIGHTS"]
    pairs = {key: list(value) if isinstance(value, tuple) else value for key, value in pairs.items()}
    description = {
        "config_file": os.path.abspath(CONFIG),
        "trainings": {
            "yolo": {"checkpoint": "yolo.pth", "overrides": pairs},
            "baf": {"start": "yolo", "overrides": pairs},
        },
        "settings": [
            {
                "name": "image",
                "training": "yolo",
                "overrides": {
                    "MODEL.FEATCOMP.SPLIT": "ImageSplit",
                    "MODEL.FEATCOMP.CODEC.NAME": "png",
                    "MODEL.FEATCOMP.CODEC.BITS": 8,
                },
            },
            {"name": "BaF", "training": "baf", "curve": "BaF"},
        ],
        "plot": {"x": "kB/image", "y": "box AP50"},
        "columns": ["box AP50", "kB/image"],
    }
    path = tmp_path / "experiment.yaml"
    path.write_text(json.dumps(description))
    assert run_experiment(read_experiment(str(path)), str(tmp_path / "run")) == []
    table = (tmp_path / "run" / "table.md").read_text().splitlines()
    assert [cell.strip() for cell in table[0].strip("|").split("|")] == [
        "setting",
        "box AP50",
        "kB/image",
    ]
    assert float(table[2].split("|")[2]) > 99 and len(table) == 4
    assert not (tmp_path / "run" / "trainings" / "yolo").exists()
    description["trainings"]["yolo"]["checkpoint"] = "none.pth"
    path.write_text(json.dumps(description))
    with pytest.raises(FileNotFoundError, match=r"none\.pth"):
        run_experiment(read_experiment(str(path)), str(tmp_path / "run"))
