"""Trainings that are resumed with other settings than they began with."""

import json

import networks
import pytest
import torch

from d2_featcomp.engine import CheckpointError, setup_config, train_stages

TRAIN = "MODEL.FEATCOMP.TRAIN"
TINY = {
    **networks.TINY,
    "INPUT.MIN_SIZE_TRAIN": (64,),
    "INPUT.MIN_SIZE_TEST": 64,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 8,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.WARMUP_ITERS": 1,
    "SOLVER.CHECKPOINT_PERIOD": 2,
    "SOLVER.LR_SCHEDULER_NAME": "WarmupMultiStepLR",
    "DATALOADER.NUM_WORKERS": 0,
    "DATASETS.TRAIN": ("few_train",),
    "DATASETS.TEST": ("few_val",),
    "TEST.EVAL_PERIOD": -1,
    f"{TRAIN}.STEPS": (1,),
    f"{TRAIN}.STEP1.MAX_ITER": 4,
    f"{TRAIN}.STEP1.BASE_LR": 1e-3,
}


@pytest.fixture
def train(few_scenes, tmp_path):
    def run(resume=False, **more):
        settings = {**TINY, "OUTPUT_DIR": str(tmp_path), **networks.dotted(more)}
        train_stages(setup_config(networks.MSFC, networks.listed(settings)), resume=resume)

    return run


def interrupt(folder, number=1):
    """Leaves what is there after iteration `number` of stage 1."""
    (folder / "step1" / "last_checkpoint").write_text(f"model_{number:07}.pth")
    (folder / "step1" / "model_final.pth").unlink()


def read_optimizer(folder):
    saved = torch.load(folder / "step1" / "model_final.pth", weights_only=True)
    return saved["trainer"]["_trainer"]["optimizer"]


def test_settings_of_the_optimizer_are_the_configs(train, tmp_path, caplog):
    train()
    first = read_optimizer(tmp_path)
    interrupt(tmp_path)
    train(resume=True)
    assert "Settings of the optimizer changed" not in caplog.text
    assert read_optimizer(tmp_path)["param_groups"] == first["param_groups"]

    interrupt(tmp_path)
    more = {"MODEL__FEATCOMP__TRAIN__STEP1__BASE_LR": 1e-5, "SOLVER__WEIGHT_DECAY": 0.25}
    more["MODEL__FEATCOMP__TRAIN__STEP1__MAX_ITER"] = 3  # so that the first iteration is logged
    train(resume=True, **more)
    assert "learning rate 1e-05 in place of 0.001" in caplog.text
    groups = read_optimizer(tmp_path)["param_groups"]
    assert {group["initial_lr"] for group in groups} == {1e-5}
    assert 0.25 in {group["weight_decay"] for group in groups}
    with open(tmp_path / "step1" / "metrics.json", encoding="utf-8") as file:
        assert json.loads(file.readlines()[-1])["lr"] == pytest.approx(1e-5)


@pytest.mark.parametrize(
    ("first", "later"),
    [
        ({"MODEL__FEATCOMP__TRAIN__OPTIMIZER": "SGD"}, {"MODEL__FEATCOMP__TRAIN__OPTIMIZER": "Adam"}),
        ({"MODEL__FEATCOMP__TRAIN__OPTIMIZER": "Adam"}, {"MODEL__FEATCOMP__TRAIN__OPTIMIZER": "SGD"}),
        ({}, {"MODEL__FPN__NORM": ""}),
    ],
)
def test_another_optimizer_or_network_is_refused(train, tmp_path, first, later):
    train(**first)
    interrupt(tmp_path)
    with pytest.raises(CheckpointError, match="another optimizer, or of another network"):
        train(resume=True, **later)


def test_a_training_that_diverged_goes_on_from_before(train, tmp_path):
    """What was saved last is not what no training can go on from."""
    train()
    interrupt(tmp_path)
    more = {"MODEL__FEATCOMP__TRAIN__STEP1__BASE_LR": 1e43, "SOLVER__CHECKPOINT_PERIOD": 1}
    with pytest.raises(FloatingPointError, match="stage 1 diverged"):
        train(resume=True, **more)
    assert (tmp_path / "step1" / "last_checkpoint").read_text() == "model_0000001.pth"
    train(resume=True)
    assert (tmp_path / "model_final.pth").exists()


def read_weights(path):
    return torch.load(path, weights_only=True)["model"]


def test_a_training_may_end_where_it_was_interrupted(train, tmp_path):
    train()
    interrupt(tmp_path)
    train(resume=True, MODEL__FEATCOMP__TRAIN__STEP1__MAX_ITER=2)
    saved = read_weights(tmp_path / "step1" / "model_0000001.pth")
    final = read_weights(tmp_path / "model_final.pth")
    assert all(torch.equal(final[name], value) for name, value in saved.items())


def test_what_follows_a_longer_stage_is_trained_again(train, tmp_path, caplog):
    both = {"MODEL__FEATCOMP__TRAIN__STEPS": (1, 3), "MODEL__FEATCOMP__TRAIN__STEP3__MAX_ITER": 1}
    train(**both)
    first = read_weights(tmp_path / "model_final.pth")
    train(resume=True, **both)
    assert "starts anew" not in caplog.text  # both were complete
    train(resume=True, **both, MODEL__FEATCOMP__TRAIN__STEP1__MAX_ITER=5)
    assert "what follows stage 1, which was not complete, starts anew" in caplog.text
    name = "roi_heads.box_predictor.cls_score.weight"
    assert not torch.equal(first[name], read_weights(tmp_path / "model_final.pth")[name])
