"""Training with the codec "learned": stage 4, the rate among the losses, what comes of it."""

import json
import os

import networks
import pytest
import torch
from detectron2.modeling import build_model

from d2_featcomp.codecs import FeatureBitstream
from d2_featcomp.deploy import export_sub_models, load_sub_model
from d2_featcomp.engine import (
    CheckpointError,
    choose_stages,
    entropy_stage,
    evaluate,
    setup_config,
    train_stages,
)
from d2_featcomp.engine.checkpoint import load_weights

SETTINGS = {
    **networks.TINY,
    "DATASETS.TRAIN": ("few_train",),
    "DATASETS.TEST": ("few_val",),
    "INPUT.MIN_SIZE_TRAIN": (96,),
    "INPUT.MIN_SIZE_TEST": 96,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 8,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.WARMUP_ITERS": 1,
    "SOLVER.CHECKPOINT_PERIOD": 10,
    "DATALOADER.NUM_WORKERS": 0,
    "MODEL.FEATCOMP.CODEC.NAME": "learned",
    "MODEL.FEATCOMP.TRAIN.STEPS": (4,),
    "MODEL.FEATCOMP.TRAIN.STEP3.MAX_ITER": 2,
    "MODEL.FEATCOMP.TRAIN.STEP4.IMAGES": 6,
    "MODEL.FEATCOMP.TRAIN.STEP4.IMS_PER_BATCH": 2,
    "MODEL.FEATCOMP.TRAIN.STEP4.MAX_ITER": 30,
}


@pytest.fixture(scope="module")
def untrained(few_scenes, tmp_path_factory):
    """A checkpoint of a network without a learned codec, as they were before there was one."""
    cfg = setup_config(networks.MSFC, networks.listed(networks.TINY))
    torch.manual_seed(3)
    path = str(tmp_path_factory.mktemp("untrained") / "model.pth")
    torch.save({"model": build_model(cfg).state_dict()}, path)
    return path


@pytest.fixture
def make_config(untrained, tmp_path):
    def make(folder="out", **more):
        more = {key.replace("__", "."): value for key, value in more.items()}
        settings = {"MODEL.WEIGHTS": untrained, "OUTPUT_DIR": str(tmp_path / folder), **SETTINGS, **more}
        return setup_config(networks.MSFC, networks.listed(settings))

    return make


def final_weights(cfg):
    path = os.path.join(cfg.OUTPUT_DIR, "model_final.pth")
    return path, torch.load(path, weights_only=True)["model"]


def with_weights(cfg, path):
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS = path
    return cfg


@pytest.fixture(scope="module")
def fitted(untrained, tmp_path_factory):
    """Config and results of a finished stage 4."""
    folder = str(tmp_path_factory.mktemp("fitted"))
    settings = {"MODEL.WEIGHTS": untrained, "OUTPUT_DIR": folder, **SETTINGS}
    cfg = setup_config(networks.MSFC, networks.listed(settings))
    results = train_stages(cfg)
    path, weights = final_weights(cfg)
    return with_weights(cfg, path), results, weights


def test_stage_4_lowers_the_rate_and_leaves_the_network_alone(fitted, untrained):
    cfg, results, weights = fitted
    before = torch.load(untrained, weights_only=True)["model"]
    for name, value in before.items():
        assert torch.equal(weights[name], value), name
    assert any(name.startswith("feature_codec.context_models.0.integer_") for name in weights)
    raw = cfg.clone()
    raw.defrost()
    raw.MODEL.FEATCOMP.CODEC.NAME = "raw"
    learned, fixed = evaluate(cfg), evaluate(raw)
    assert learned["bbox"] == fixed["bbox"]  # the same symbols
    rate = learned["feature_rate"]
    assert rate["BPFE_payload"] < 0.7 * fixed["feature_rate"]["BPFE_payload"]
    # Other images than it was fitted to: not the same, but alike.
    assert rate["kB"] == pytest.approx(results["entropy"]["kB/image"], rel=0.4)


def test_a_checkpoint_without_the_codec_is_refused_before_it_is_measured(make_config, untrained):
    with pytest.raises(CheckpointError, match=r"its codec was not trained.*STEPS \"\(4,\)\""):
        evaluate(make_config())


def test_a_checkpoint_of_another_bit_depth_is_refused(fitted):
    cfg = with_weights(fitted[0], fitted[0].MODEL.WEIGHTS)
    cfg.MODEL.FEATCOMP.CODEC.BITS = 3
    with pytest.raises(CheckpointError, match=r"CODEC\.BITS"):
        evaluate(cfg)


def test_stage_4_goes_on_where_it_stopped(make_config, fitted, monkeypatch):
    """Stopped after iteration 13, so that 3 iterations are repeated from the last file of state."""
    cfg, done = make_config(), 0
    step = entropy_stage._Fitting.step

    def stopped(self):
        nonlocal done
        done += 1
        if done > 13:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(entropy_stage._Fitting, "step", stopped)
    with pytest.raises(KeyboardInterrupt):
        train_stages(cfg)
    done = -1000
    train_stages(cfg, resume=True)
    assert done == -1000 + 20
    found = final_weights(cfg)[1]
    for name, value in fitted[2].items():
        assert torch.equal(found[name], value), name
    train_stages(cfg, resume=True)
    assert done == -1000 + 20  # it is complete


def test_stage_4_keeps_its_state_every_few_minutes(make_config, fitted, monkeypatch):
    """Whatever SOLVER.CHECKPOINT_PERIOD is, by default more iterations than it has."""
    monkeypatch.setattr(entropy_stage, "_SAVE_PERIOD", 0.0)
    cfg, step = make_config(SOLVER__CHECKPOINT_PERIOD=5000), entropy_stage._Fitting.step

    def stopped(self):
        if self.iteration == 4:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(entropy_stage._Fitting, "step", stopped)
    with pytest.raises(KeyboardInterrupt):
        train_stages(cfg)
    state = torch.load(os.path.join(cfg.OUTPUT_DIR, "step4", "fit.pth"), weights_only=True)
    assert state["iteration"] == 4


def test_the_state_of_an_earlier_version_is_not_continued(make_config, fitted, caplog):
    cfg = make_config()
    folder = os.path.join(cfg.OUTPUT_DIR, "step4")
    os.makedirs(folder)
    torch.save({"optimizer": {}, "iteration": 20}, os.path.join(folder, "fit.pth"))
    train_stages(cfg, resume=True)
    assert "is of an earlier version: stage 4 begins anew" in caplog.text
    found = final_weights(cfg)[1]
    for name, value in fitted[2].items():
        assert torch.equal(found[name], value), name


def test_all_of_an_entropy_model_is_fitted(make_config):
    cfg = make_config(MODEL__FEATCOMP__CODEC__LEARNED__HYPER=2)
    codec = build_model(cfg).feature_codec
    maps = [[torch.randint(2**codec.bits, (codec.context_models[0].channels, 12, 16))]] * 2
    fitting = entropy_stage._Fitting(codec, maps, cfg.MODEL.FEATCOMP.TRAIN.STEP4, seed=0)
    fitted = [
        parameter
        for optimizer in fitting.optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
    ]
    assert len(set(map(id, fitted))) == len(fitted) == len(list(codec.context_models.parameters()))
    before = {name: value.clone() for name, value in codec.context_models.named_parameters()}
    for _ in range(3):
        fitting.step()
    for name, value in codec.context_models.named_parameters():
        assert not torch.equal(before[name], value), name


def test_the_rate_is_logged_and_stage_4_starts_from_what_was_learned(make_config, caplog):
    cfg = make_config(MODEL__FEATCOMP__TRAIN__STEPS=(3, 4), MODEL__FEATCOMP__TRAIN__RATE_WEIGHT=0.001)
    train_stages(cfg)
    with open(os.path.join(cfg.OUTPUT_DIR, "step3", "metrics.json"), encoding="utf-8") as file:
        logged = [json.loads(line) for line in file]
    assert logged[-1]["bytes_per_image"] > 0 and logged[-1]["loss_entropy"] > 0
    third = torch.load(os.path.join(cfg.OUTPUT_DIR, "step3", "model_final.pth"), weights_only=True)[
        "model"
    ]
    # The integers are of the weights that they lie beside.
    model = build_model(cfg)
    model.load_state_dict(third)
    codec = model.feature_codec
    codec.context_models[0].integer_source.fill_(-1)
    codec.update()
    for name, value in codec.state_dict().items():
        assert torch.equal(third[f"feature_codec.{name}"].to(value.dtype), value), name


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"MODEL__FEATCOMP__CODEC__NAME": "jpegxl"},
            "stage 4 fits the entropy model of codec 'learned'",
        ),
        (
            {
                "MODEL__FEATCOMP__CODEC__NAME": "png",
                "MODEL__FEATCOMP__TRAIN__STEPS": (3,),
                "MODEL__FEATCOMP__TRAIN__RATE_WEIGHT": 0.1,
            },
            "codec 'png' has no model of its rate",
        ),
        ({"MODEL__FEATCOMP__TRAIN__STEP4__IMAGES": 0}, r"STEP4\.IMAGES is 0: it must be 1 or more"),
        ({"MODEL__FEATCOMP__TRAIN__STEP4__IMS_PER_BATCH": 0}, r"STEP4\.IMS_PER_BATCH is 0: .* 1 or"),
        ({"MODEL__FEATCOMP__TRAIN__STEP4__BASE_LR": -0.1}, r"STEP4\.BASE_LR is -0\.1: .* above 0"),
    ],
)
def test_settings_that_do_not_suit_are_told_first(make_config, settings, words):
    with pytest.raises(ValueError, match=words):
        train_stages(make_config(**settings))


def test_stages_are_chosen_with_the_codec(make_config, untrained):
    assert choose_stages(make_config(MODEL__FEATCOMP__TRAIN__STEPS=())) == (2, 3, 4)
    assert choose_stages(make_config(MODEL__FEATCOMP__TRAIN__STEPS=(3, "entropy"))) == (3, 4)
    other = make_config(MODEL__FEATCOMP__TRAIN__STEPS=(), MODEL__FEATCOMP__CODEC__NAME="jpegxl")
    assert choose_stages(other) == (2, 3)


def test_every_rate_is_trained_and_deployed(make_config, tmp_path, caplog):
    caplog.set_level("INFO")
    cfg = make_config(
        MODEL__FEATCOMP__CODEC__NAME="variable_rate",
        MODEL__FEATCOMP__CODEC__QUANTIZER="tensor",
        MODEL__FEATCOMP__CODEC__BITS=4,
        MODEL__FEATCOMP__TRAIN__STEPS=(3, 4),
        MODEL__FEATCOMP__TRAIN__RATE_WEIGHT=0.001,
        MODEL__FEATCOMP__TRAIN__STEP4__MAX_ITER=60,
        MODEL__FEATCOMP__CODEC__RATE=0.75,
    )
    train_stages(cfg)
    assert "at rates 0.0, 0.25, 0.5, 0.75, 1.0" in caplog.text
    cfg = with_weights(cfg, final_weights(cfg)[0])
    paths = export_sub_models(cfg, str(tmp_path))
    edge = load_sub_model(None, paths["edge"], "edge")
    cloud = load_sub_model(None, paths["cloud"], "cloud")
    image = torch.rand(3, 96, 128, generator=torch.Generator().manual_seed(0)) * 255
    (features,) = edge.edge_features([{"image": image}])
    sizes = {}
    for rate in (None, 1.0, 0.0):  # None: as it was exported
        if rate is not None:
            edge.feature_codec.rate = rate
        stream = edge.encode(features)
        sizes[rate] = len(stream.to_bytes())
        received = FeatureBitstream.from_bytes(stream.to_bytes())
        (output,) = cloud.cloud_inference([received])
        assert output["bitstream"].fingerprint == stream.fingerprint and "instances" in output
        (decoded,) = cloud.decode(received)
        (step,) = cloud.feature_codec.step_sizes(received.tensors, [decoded.shape])
        assert ((decoded - features.tensors[0]).abs() <= step / 2 * 1.001).all()
    assert sizes[1.0] > sizes[None] > sizes[0.0]

    edge.feature_codec.target_bytes = target = (sizes[1.0] + sizes[0.0]) / 2
    assert len(edge.encode(features).to_bytes()) == pytest.approx(target, rel=0.03)
    assert edge.feature_codec.rate == 0.0  # what was set stays
    edge.feature_codec.target_bytes = 10 * sizes[1.0]
    assert len(edge.encode(features).to_bytes()) == sizes[1.0]


@pytest.mark.parametrize(
    ("codec", "target", "words"),
    [
        ("learned", 1, "codec 'learned' has one rate"),
        ("jpegxl", 0.5, "codec 'jpegxl' has one rate"),
        ("variable_rate", -1.0, "TARGET_KB is -1"),
    ],
)
def test_targets_that_cannot_be_met_are_told(make_config, codec, target, words):
    with pytest.raises(ValueError, match=words):
        build_model(
            make_config(MODEL__FEATCOMP__CODEC__NAME=codec, MODEL__FEATCOMP__CODEC__TARGET_KB=target)
        )


def test_edge_and_cloud_files_hold_the_entropy_model(fitted, tmp_path):
    cfg = fitted[0]
    paths = export_sub_models(cfg, str(tmp_path))
    edge = load_sub_model(None, paths["edge"], "edge")
    cloud = load_sub_model(None, paths["cloud"], "cloud")
    image = torch.rand(3, 96, 128, generator=torch.Generator().manual_seed(0)) * 255
    (stream,) = edge.edge_inference([{"image": image}])
    data = stream.to_bytes()
    (output,) = cloud.cloud_inference([FeatureBitstream.from_bytes(data)])
    model = build_model(cfg).eval()
    load_weights(model, cfg.MODEL.WEIGHTS)
    (whole,) = model.edge_inference([{"image": image}])
    assert whole.to_bytes() == data
    assert len(output["instances"]) == len(model.cloud_inference([whole])[0]["instances"])


def test_other_entropy_models_are_another_network(fitted):
    cfg = fitted[0]
    model = build_model(cfg).eval()
    load_weights(model, cfg.MODEL.WEIGHTS)
    fingerprint = model.fingerprint()
    with torch.no_grad():
        model.feature_codec.context_models[0].integer_head_bias += 1
    assert model.fingerprint() != fingerprint


def test_onnx_files_hold_the_entropy_model(fitted, tmp_path):
    onnx = pytest.importorskip("onnx")
    import base64

    from d2_featcomp.codecs.entropy import IntegerModel
    from d2_featcomp.deploy import export_onnx

    cfg = fitted[0]
    model = build_model(cfg).eval()
    load_weights(model, cfg.MODEL.WEIGHTS)
    path = str(tmp_path / "edge.onnx")
    export_onnx(model, path)
    properties = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    (text,) = json.loads(properties["entropy_models"])
    image = torch.rand(3, 96, 128, generator=torch.Generator().manual_seed(1)) * 255
    (features,) = model.edge_features([{"image": image}])
    symbols = model.feature_codec.find_symbols(features.tensors[0])
    payload = model.feature_codec.encode_symbols(symbols, 0)
    assert IntegerModel.from_bytes(base64.b64decode(text)).encode(symbols.numpy()) == payload
