"""MSFC is trained from principal components."""

import json

import networks
import pytest
import torch
from detectron2.modeling import build_model
from distributed import SETTINGS

from d2_featcomp.engine import setup_config, train_stages
from d2_featcomp.engine.importance import measure_channel_weights

FITTED = {
    "MODEL.FEATCOMP.MSFR.LATERAL": True,
    "MODEL.FEATCOMP.MSFC.FIT_IMAGES": 3,
    "MODEL.FEATCOMP.TRAIN.STEPS": (2,),
    "MODEL.FEATCOMP.TRAIN.STEP2.MAX_ITER": 1,
    "MODEL.FEATCOMP.TRAIN.STEP2.LOSS": "distill",
    "TEST.EVAL_PERIOD": -1,
}


def make_config(output, **more):
    settings = {**SETTINGS, **FITTED, "OUTPUT_DIR": output, **networks.dotted(more)}
    return setup_config(networks.MSFC, networks.listed(settings))


@pytest.fixture(scope="module")
def detector(few_scenes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("detector")
    train_stages(make_config(folder, MODEL__FEATCOMP__TRAIN__STEPS=(1,)))
    return str(folder / "model_final.pth")


def test_the_first_loss_is_that_of_fitted_weights_and_they_are_fitted_once(detector, tmp_path, caplog):
    slowly = {"MODEL__FEATCOMP__TRAIN__STEP2__BASE_LR": 1e-9}
    fitted = tmp_path / "fitted" / "model_final.pth"
    for weights, folder in ((detector, fitted.parent), (str(fitted), tmp_path / "more")):
        caplog.clear()
        with caplog.at_level("INFO", "d2_featcomp"):
            train_stages(make_config(folder, MODEL__WEIGHTS=weights, **slowly))
        told = "MSFC starts from principal components of 3 images" in caplog.text
        assert told == (weights == detector)
        with open(folder / "step2" / "metrics.json") as file:
            assert json.loads(file.readline())["total_loss"] < 0.7  # a constant has 1
    before, after = (
        torch.load(path, weights_only=True)["model"]["feature_split.encoder.conv.weight"]
        for path in (fitted, tmp_path / "more" / "model_final.pth")
    )
    torch.testing.assert_close(before, after)


def test_no_iterations_leave_the_fitted_weights(detector, tmp_path):
    for resume in (False, True):
        cfg = make_config(tmp_path, MODEL__WEIGHTS=detector, MODEL__FEATCOMP__TRAIN__STEP2__MAX_ITER=0)
        assert train_stages(cfg, resume=resume) == {}
        fitted = torch.load(tmp_path / "model_final.pth", weights_only=True)["model"]
        before = torch.load(detector, weights_only=True)["model"]
        assert all(torch.equal(value, fitted[name]) for name, value in before.items())
        assert (fitted["feature_split.msff.attention.excite.weight"] == 0).all()


def test_a_latent_for_each_level_is_trained_from_components(detector, tmp_path, caplog):
    settings = {
        "MODEL__FEATCOMP__SPLIT": "PyramidTransform",
        "MODEL__FEATCOMP__PYRAMID_TRANSFORM__CHANNELS": (6, 6, 8, 8),
        "MODEL__FEATCOMP__PYRAMID_TRANSFORM__FIT_IMAGES": 3,
        "MODEL__FEATCOMP__PYRAMID_TRANSFORM__FIT_IMPORTANCE": True,
        "MODEL__FEATCOMP__CODEC__NAME": "variable_rate",
        "MODEL__FEATCOMP__CODEC__BITS": 6,
        "MODEL__FEATCOMP__TRAIN__RATE_WEIGHT": 1e-5,
        "MODEL__FEATCOMP__TRAIN__STEP2__BASE_LR": 1e-9,
    }
    with caplog.at_level("INFO", "d2_featcomp"):
        train_stages(make_config(tmp_path, MODEL__WEIGHTS=detector, **settings))
    assert "PyramidTransform starts from principal components of 3 images" in caplog.text
    with open(tmp_path / "step2" / "metrics.json") as file:
        first = json.loads(file.readline())
    assert first["loss_distill"] < 0.7  # a constant has 1
    assert first["loss_entropy"] < 3  # bits a symbol; 6 where nothing is known of them


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"FIT_IMAGES": -1}, "PYRAMID_TRANSFORM.FIT_IMAGES is -1: give a number of images"),
        ({"FIT_IMPORTANCE": True}, "PYRAMID_TRANSFORM.FIT_IMPORTANCE is True, and FIT_IMAGES 0"),
        ({}, "STEP2.MAX_ITER is 0, and PyramidTransform would keep random weights"),
    ],
)
def test_a_start_that_cannot_be_is_refused(detector, tmp_path, overrides, message):
    settings = {f"MODEL__FEATCOMP__PYRAMID_TRANSFORM__{key}": v for key, v in overrides.items()}
    cfg = make_config(
        tmp_path,
        MODEL__WEIGHTS=detector,
        MODEL__FEATCOMP__SPLIT="PyramidTransform",
        MODEL__FEATCOMP__PYRAMID_TRANSFORM__CHANNELS=(4,),
        MODEL__FEATCOMP__TRAIN__STEP2__MAX_ITER=0,
        **settings,
    )
    with pytest.raises(ValueError, match=message):
        train_stages(cfg)


def test_measuring_importance_changes_nothing(few_scenes, tmp_path):
    cfg = make_config(tmp_path)
    network = build_model(cfg).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    weights = measure_channel_weights(cfg, network, 2)
    assert torch.cat(list(weights.values())).mean() == pytest.approx(1)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(module.training for module in network.modules())


def test_components_may_be_those_that_the_task_needs(detector, tmp_path, caplog):
    more = {"MODEL__FEATCOMP__MSFC__FIT_IMPORTANCE": True, "MODEL__FEATCOMP__TRAIN__STEPS": (2, 3)}
    more |= {"MODEL__FEATCOMP__TRAIN__STEP3__MAX_ITER": 1, "MODEL__FEATCOMP__TRAIN__STEP2__MAX_ITER": 0}
    with caplog.at_level("INFO", "d2_featcomp"):
        train_stages(make_config(tmp_path / "weighted", MODEL__WEIGHTS=detector, **more))
    assert caplog.text.count("Importance of channels, measured on 3 images") == 1
    more["MODEL__FEATCOMP__MSFC__FIT_IMPORTANCE"] = False
    train_stages(make_config(tmp_path / "alike", MODEL__WEIGHTS=detector, **more))
    weighted, alike = (
        torch.load(tmp_path / name / "step2" / "model_final.pth", weights_only=True)["model"]
        for name in ("weighted", "alike")
    )
    name = "feature_split.msff.fuse.weight"
    assert not torch.allclose(weighted[name].abs(), alike[name].abs(), rtol=0.1)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (
            {"MODEL__FEATCOMP__MSFC__FIT_IMAGES": 0, "MODEL__FEATCOMP__MSFC__FIT_IMPORTANCE": True},
            "FIT_IMPORTANCE is True, and FIT_IMAGES 0",
        ),
        (
            {"MODEL__FEATCOMP__MSFC__FIT_IMAGES": 0, "MODEL__FEATCOMP__TRAIN__STEP2__MAX_ITER": 0},
            r"STEP2\.MAX_ITER is 0, and MSFC would keep random weights: set .*MSFC\.FIT_IMAGES",
        ),
        ({"MODEL__FEATCOMP__MSFR__LATERAL": False}, r"needs MODEL\.FEATCOMP\.MSFR\.LATERAL True"),
        ({"MODEL__FEATCOMP__MSFC__FIT_IMAGES": -1}, "FIT_IMAGES is -1: give a number of images"),
    ],
)
def test_what_cannot_be_fitted_is_told_before_anything_is_read(tmp_path, settings, told):
    weights = "not_there.pth"
    with pytest.raises(ValueError, match=told):
        train_stages(make_config(tmp_path, MODEL__WEIGHTS=weights, **settings))


@pytest.mark.slow
def test_two_processes_start_from_the_same_weights(run_processes, detector, tmp_path):
    told = run_processes(
        *("--num-gpus", "2"),
        spawns=True,
        config=networks.MSFC,
        OUTPUT_DIR=tmp_path,
        **{**FITTED, "MODEL.WEIGHTS": detector},
    )
    assert told.count("MSFC starts from principal components") == 1
