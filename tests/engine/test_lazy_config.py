"""Detectron2's LazyConfig files, here of its newer backbones: trained, measured and deployed."""

import json
import os
from importlib.util import find_spec

import networks
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model

from d2_featcomp.codecs import FeatureBitstream
from d2_featcomp.data.datasets.scenes import procedural_recipe, register_scenes
from d2_featcomp.engine import (
    CheckpointError,
    export_sub_models,
    load_sub_model,
    setup_config,
    train_stages,
)
from d2_featcomp.experiments.keys import pick_measured_keys, pick_trained_keys

COMMON = """
from detectron2 import model_zoo
from detectron2.config import LazyCall as L

dataloader = model_zoo.get_config("common/data/coco.py").dataloader
dataloader.train.dataset.names = "lazy_scenes_train"
dataloader.test.dataset.names = "lazy_scenes_val"
dataloader.train.total_batch_size = 2
dataloader.train.num_workers = 0
dataloader.train.mapper.instance_mask_format = "bitmask"
dataloader.train.mapper.augmentations[0].update(short_edge_length=[64], max_size=96)
dataloader.test.mapper.augmentations[0].update(short_edge_length=64, max_size=96)
optimizer = model_zoo.get_config("common/optim.py").AdamW
train = model_zoo.get_config("common/train.py").train
train.init_checkpoint = ""
train.device = "cpu"
train.eval_period = -1
featcomp = dict(
    SSFC=dict(CHANNELS=4),
    MSFF=dict(SE_REDUCTION=4),
    CODEC=dict(NAME="png", BITS=6),
    TRAIN=dict(
        STEPS=(1, 3),
        STEP1=dict(MAX_ITER=2, BASE_LR=1e-4, LR_STEPS=()),
        STEP3=dict(MAX_ITER=2, BASE_LR=1e-4, LR_STEPS=()),
    ),
)
settings = dict(SOLVER=dict(WARMUP_ITERS=1), SEED=3)


def shrink(model, channels=16):
    model.roi_heads.num_classes = 6
    model.roi_heads.batch_size_per_image = 8
    model.roi_heads.box_head.conv_dims, model.roi_heads.box_head.fc_dims = [], [16]
    from detectron2.layers import ShapeSpec

    model.roi_heads.box_head.input_shape = ShapeSpec(channels=channels, height=7, width=7)
    model.roi_heads.box_predictor.input_shape = ShapeSpec(channels=16)
    model.roi_heads.box_predictor.test_score_thresh = 0.0
    model.roi_heads.box_predictor.test_topk_per_image = 3
    model.roi_heads.mask_head.input_shape = ShapeSpec(channels=channels, width=14, height=14)
    model.roi_heads.mask_head.conv_dims = [8, 8]
    model.proposal_generator.head.in_channels = channels
    model.proposal_generator.post_nms_topk = (20, 10)
    model.backbone.out_channels = channels
    return model
"""
VITDET = """
model = shrink(model_zoo.get_config("common/models/mask_rcnn_vitdet.py").model)
model.backbone.square_pad = 96
model.backbone.net.update(
    img_size=96, embed_dim=16, depth=2, num_heads=2, window_size=2, window_block_indexes=[0]
)
"""
SWIN = """
from detectron2.modeling.backbone import SwinTransformer

model = shrink(model_zoo.get_config("common/models/mask_rcnn_fpn.py").model)
model.backbone.bottom_up = L(SwinTransformer)(
    embed_dim=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2), window_size=2, drop_path_rate=0.0
)
model.backbone.in_features = ["p0", "p1", "p2", "p3"]
"""


@pytest.fixture(scope="module", autouse=True)
def lazy_scenes(tmp_path_factory):
    root = tmp_path_factory.mktemp("lazy")
    register_scenes("lazy_scenes", str(root / "scenes"), procedural_recipe({"train": 4, "val": 2}))
    DatasetCatalog.get("lazy_scenes_train")


VITDET_NEEDS = pytest.mark.skipif(find_spec("timm") is None, reason="Detectron2's ViTDet needs timm")


@pytest.fixture(params=[pytest.param("vitdet", marks=VITDET_NEEDS), "swin"])
def path(request, tmp_path):
    path = tmp_path / f"{request.param}.py"
    path.write_text(COMMON + {"vitdet": VITDET, "swin": SWIN}[request.param])
    return str(path)


def test_a_network_is_trained_and_deployed(path, tmp_path):
    output = ["OUTPUT_DIR", str(tmp_path / "out")]
    cfg = setup_config(path, output)
    assert tuple(cfg.DATASETS.TRAIN) == ("lazy_scenes_train",) and cfg.SOLVER.IMS_PER_BATCH == 2
    assert (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST, cfg.SEED) == (64, 96, 3)
    train_stages(cfg)
    first = torch.load(tmp_path / "out" / "step1" / "model_final.pth", weights_only=True)["model"]
    trained = torch.load(tmp_path / "out" / "model_final.pth", weights_only=True)["model"]
    assert any(name.startswith("feature_split.") for name in trained)
    moved = [name for name in first if not torch.equal(first[name], trained[name])]
    assert any("attn" in name for name in moved)  # the transformer itself

    done = setup_config(path, [*output, "MODEL.WEIGHTS", str(tmp_path / "out" / "model_final.pth")])
    halves = export_sub_models(done, str(tmp_path))
    edge, cloud = (load_sub_model(done, halves[half], half) for half in ("edge", "cloud"))
    record = {"image": torch.randint(0, 256, (3, 64, 96)), "height": 64, "width": 96}
    (stream,) = edge.edge_inference([record])
    data = stream.to_bytes()
    (output,) = cloud.cloud_inference([FeatureBitstream.from_bytes(data)])
    whole = build_model(done).eval()
    whole.load_state_dict(trained)
    (expected,) = whole([record])
    assert len(expected["instances"]) > 0
    assert torch.equal(output["instances"].scores, expected["instances"].scores)
    assert len(data) < 5000 and os.path.getsize(halves["edge"]) > 0


def test_an_exported_network_is_moved_with_its_file(path, tmp_path):
    cfg = setup_config(path)
    weights = str(tmp_path / "weights.pth")
    torch.save({"model": build_model(cfg).state_dict()}, weights)
    paths = export_sub_models(setup_config(path, ["MODEL.WEIGHTS", weights]), str(tmp_path / "out"))
    assert str(tmp_path) not in torch.load(paths["cloud"], weights_only=True)["config"]
    with pytest.raises(FileNotFoundError, match=r"LazyConfig file of this network: give it by --config"):
        load_sub_model(None, paths["cloud"], "cloud")
    moved = tmp_path / "elsewhere" / "renamed.py"
    moved.parent.mkdir()
    os.rename(path, moved)
    for half, exported in paths.items():
        load_sub_model(setup_config(str(moved)), exported, half)
    other = setup_config(str(moved), ["model.roi_heads.box_predictor.test_score_thresh=0.5"])
    with pytest.raises(CheckpointError, match=r"exported with the LazyConfig file's model"):
        load_sub_model(other, paths["cloud"], "cloud")


def test_what_a_file_says_tells_trainings_and_measurements_apart(path):
    def keys():
        cfg = setup_config(path)
        return pick_trained_keys(cfg), pick_measured_keys(cfg)

    def add(line):
        with open(path, "a") as file:
            file.write(f"\n{line}\n")

    first = keys()
    assert keys() == first
    add("optimizer.weight_decay = 0.5")
    second = keys()
    assert second[0] != first[0] and second[1] == first[1]
    add("model.roi_heads.box_predictor.test_nms_thresh = 0.7")
    assert all(now != before for now, before in zip(keys(), second, strict=True))


LEARNED = {
    "CODEC.NAME": "learned",
    "CODEC.BITS": 2,
    "MSFF.LEVEL": "p3",
    "TRAIN.STEPS": (1, 3, 4),
    "TRAIN.RATE_WEIGHT": 0.001,
    "TRAIN.STEP4.IMAGES": 4,
    "TRAIN.STEP4.IMS_PER_BATCH": 2,
    "TRAIN.STEP4.MAX_ITER": 30,
}


def test_the_learned_codec_is_trained_with_it(path, tmp_path):
    output = tmp_path / "out"
    overrides = {f"MODEL.FEATCOMP.{key}": value for key, value in LEARNED.items()}
    cfg = setup_config(path, networks.listed({**overrides, "OUTPUT_DIR": output}))
    train_stages(cfg)
    with open(output / "step3" / "metrics.json", encoding="utf-8") as file:
        logged = [json.loads(line) for line in file]
    assert logged[-1]["bytes_per_image"] > 0 and logged[-1]["loss_entropy"] > 0
    first, third, last = (
        torch.load(output / folder / "model_final.pth", weights_only=True)["model"]
        for folder in ("step1", "step3", "")
    )
    changed = {name for name in third if not torch.equal(third[name], last[name])}
    assert changed and all(name.startswith("feature_codec.") for name in changed)
    assert any(not torch.equal(first[name], third[name]) for name in first)

    images = torch.randint(0, 256, (2, 3, 64, 96), generator=torch.Generator().manual_seed(0))
    records = [{"image": image, "height": 64, "width": 96} for image in images]
    sizes = []
    for weights in (third, last):
        model = build_model(cfg).eval()
        model.load_state_dict(weights)
        streams = model.edge_inference(records)
        sizes.append(sum(stream.payload_bits for stream in streams) / 8)
    assert sizes[1] < sizes[0]
    for record, stream in zip(records, streams, strict=True):
        (tensor,) = stream.tensors
        assert (stream.codec, tensor.fixed_length) == ("learned", False)
        (features,) = model.edge_features([record])
        codec = model.feature_codec
        symbols = codec.find_symbols(features.tensors[0])
        # ViTDet pads to a square.
        assert symbols.shape == (4, 12 if "vitdet" in path else 8, 12)
        assert tensor.payload == codec.encode_symbols(symbols, 0)
        (decoded,) = codec.decompress([tensor], [tuple(symbols.shape)])
        (expected,), _, _ = codec.quantize([features.tensors[0][None]])
        assert torch.equal(decoded, expected[0])
    read = [FeatureBitstream.from_bytes(stream.to_bytes()) for stream in streams]
    for output, expected in zip(model.cloud_inference(read), model(records), strict=True):
        assert len(expected["instances"]) > 0
        assert torch.equal(output["instances"].scores, expected["instances"].scores)


def test_both_kinds_of_overrides(path):
    overrides = ["model.roi_heads.num_classes=4", "MODEL.FEATCOMP.CODEC.BITS", "3"]
    cfg = setup_config(path, overrides)
    assert cfg.MODEL.FEATCOMP.CODEC.BITS == 3 and cfg.MODEL.FEATCOMP.SSFC.CHANNELS == 4
    assert build_model(cfg).roi_heads.num_classes == 4
    assert ("RGB" if "vitdet" in path else "BGR") == cfg.INPUT.FORMAT
    with pytest.raises(ValueError, match=r"train\.max_iter=7' is not used.*TRAIN\.STEP1\.MAX_ITER"):
        train_stages(setup_config(path, ["train.max_iter=7"]))
    with pytest.raises(ValueError, match="is for Detectron2's LazyConfig files alone"):
        setup_config("configs/quick/msfc_R18.yaml", ["model.roi_heads.num_classes=4"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1 / 0", "ZeroDivisionError"),
        ("import nowhere_at_all", "nowhere_at_all"),
        ("train = dict(seed=1)", "has no `model`"),
        (COMMON + SWIN + "featcomp = dict(SPLITS='MSFC')", "SPLITS"),
    ],
)
def test_mistakes_in_a_file_are_told_with_its_name(tmp_path, text, words):
    path = tmp_path / "config.py"
    path.write_text(text)
    with pytest.raises(ValueError) as raised:
        setup_config(str(path))
    assert str(path) in str(raised.value) and words in str(raised.value)


def test_no_yaml_file_runs_a_program(tmp_path):
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'written')!r}, 'w')\nmodel = dict()\n")
    (tmp_path / "config.yaml").write_text(
        "MODEL:\n  META_ARCHITECTURE: LazyNetwork\n  DEVICE: cpu\n"
        f"  LAZY:\n    CONFIG_FILE: {tmp_path}/evil.py\nVERSION: 2\n"
    )
    with pytest.raises(ValueError, match="it is run only where it is given itself"):
        build_model(setup_config(str(tmp_path / "config.yaml")))
    assert not (tmp_path / "written").exists()


def test_none_is_a_value():
    overrides = ["MODEL.FEATCOMP.CODEC.NAME", "jpeg", "MODEL.FEATCOMP.CODEC.QUALITY", 50]
    overrides += ["MODEL.FEATCOMP.CODEC.QUALITY", None, "MODEL.FEATCOMP.CODEC.BITS", 8]
    codec = setup_config("", overrides).MODEL.FEATCOMP.CODEC
    assert (codec.NAME, codec.QUALITY, codec.BITS) == ("jpeg", None, 8)
    with pytest.raises(ValueError, match="odd length"):
        setup_config("", ["MODEL.FEATCOMP.CODEC.NAME"])
