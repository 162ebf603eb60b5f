"""Several tasks: real trainings of a few iterations, and how the weights of their losses are updated."""

import math
import os
from types import SimpleNamespace

import networks
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model
from torch import nn

from d2_featcomp.data.datasets.scenes import procedural_recipe, register_scenes
from d2_featcomp.data.mappers import train_dicts
from d2_featcomp.engine import (
    CheckpointError,
    FeatCompCheckpointer,
    Trainer,
    choose_stages,
    evaluate,
    setup_config,
    train_stages,
)
from d2_featcomp.engine.loss_weights import RATES, LossWeightUpdate
from d2_featcomp.modeling import UncertaintyWeighting

TINY = {
    **networks.TINY_TASKS,
    "INPUT.MIN_SIZE_TRAIN": (48,),
    "INPUT.MAX_SIZE_TRAIN": 64,
    "INPUT.MIN_SIZE_TEST": 48,
    "INPUT.MAX_SIZE_TEST": 64,
    "DATASETS.TRAIN": ("few_tasks_multi_task_train",),
    "DATASETS.TEST": ("few_tasks_multi_task_val",),
    "DATALOADER.NUM_WORKERS": 0,
    "MODEL.FEATCOMP.TRAIN.IMAGES": 0,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.AMP.ENABLED": False,
    "MODEL.FEATCOMP.TRAIN.STEP3.MAX_ITER": 4,
}


# Of the quick config.
FIRST = {"segmentation": 1.0, "disparity": 5.0, "reconstruction": 4.0, "compressibility": 0.3}


@pytest.fixture(scope="module")
def few_tasks(tmp_path_factory):
    root = tmp_path_factory.mktemp("few_tasks")
    register_scenes("few_tasks", str(root / "scenes"), procedural_recipe({"train": 8, "val": 3}))
    return root


@pytest.fixture
def config(few_tasks, tmp_path):
    def make(**more):
        keyed = {key.replace("__", "."): value for key, value in more.items()}
        settings = {**TINY, "OUTPUT_DIR": str(tmp_path / "out"), **keyed}
        return setup_config(
            "configs/quick/mtl_R34.yaml", [part for item in settings.items() for part in item]
        )

    return make


def trained_weights(cfg):
    path = os.path.join(cfg.OUTPUT_DIR, "model_final.pth")
    state = torch.load(path, weights_only=True)["model"]
    return {
        key.rpartition(".")[2]: float(value.exp())
        for key, value in state.items()
        if key.startswith("loss_weights")
    }


def test_scenes_without_instances_but_with_all_targets(few_tasks):
    (record, *others) = DatasetCatalog.get("few_tasks_multi_task_train")
    assert len(others) == 7 and "annotations" not in record
    assert os.path.isfile(record["sem_seg_file_name"]) and os.path.isfile(record["disparity_file_name"])


def test_training_from_nothing_and_evaluation(config):
    cfg = config()
    assert choose_stages(cfg) == (3,)
    train_stages(cfg)
    cfg = config(MODEL__WEIGHTS=os.path.join(cfg.OUTPUT_DIR, "model_final.pth"))
    results = evaluate(cfg)
    assert set(results) == {"sem_seg", "disparity", "reconstruction", "feature_rate"}
    assert 0 <= results["sem_seg"]["mIoU"] <= 100
    assert results["disparity"]["IRMSE"] == pytest.approx(1 / results["disparity"]["RMSE"])
    assert 0 < results["reconstruction"]["PSNR"] < 60
    assert results["feature_rate"]["BPFE_packed"] == pytest.approx(8)


def test_only_what_is_predicted_is_measured(config):
    cfg = config(MODEL__MULTI_TASK__HEADS=("ReconstructionHead",))
    assert set(evaluate(cfg)) == {"reconstruction", "feature_rate"}


def test_weights_change_once_an_epoch(config):
    # 8 images, 2 at a time: an epoch is 4 iterations.
    cfg = config(MODEL__FEATCOMP__TRAIN__STEP3__MAX_ITER=3)
    train_stages(cfg)
    assert trained_weights(cfg) == pytest.approx(FIRST)
    cfg = config(MODEL__MULTI_TASK__LOSS_WEIGHTS__BASE_LR=0.1)
    train_stages(cfg)
    # Adam's first step is its learning rate, whatever the gradient's size.
    for name, weight in trained_weights(cfg).items():
        assert abs(math.log(weight / FIRST[name])) == pytest.approx(0.1, rel=1e-3)


@pytest.mark.parametrize(("update", "differ"), [("step", True), ("never", False)])
def test_other_ways_to_update_weights(config, update, differ):
    cfg = config(
        MODEL__MULTI_TASK__LOSS_WEIGHTS__UPDATE=update, MODEL__FEATCOMP__TRAIN__STEP3__MAX_ITER=2
    )
    train_stages(cfg)
    for name, weight in trained_weights(cfg).items():
        assert (weight == pytest.approx(FIRST[name], rel=1e-5)) != differ


def test_unknown_update_is_told_before_training(config):
    with pytest.raises(
        ValueError, match=r"UPDATE is 'daily': choose one of 'epoch', 'iteration', 'never'"
    ):
        train_stages(config(MODEL__MULTI_TASK__LOSS_WEIGHTS__UPDATE="daily"))


def run_hook(hook, weighting, losses, start=0):
    for iteration, loss in enumerate(losses, start):
        weighting({"a": torch.tensor(loss), "b": torch.tensor(loss * 2)})
        hook.trainer = SimpleNamespace(iter=iteration)
        hook.after_step()


def make_hook(period=3):
    weighting = UncertaintyWeighting({"a": "regression", "b": "segmentation"})
    return LossWeightUpdate(weighting, period=period, learning_rate=0.1), weighting


def test_a_resumed_update_goes_on_where_it_stopped():
    losses = [1.0, 0.2, 0.4, 3.0, 0.1, 0.7, 0.2]
    straight, expected = make_hook()
    run_hook(straight, expected, losses)
    for stop in range(1, len(losses)):
        first, before = make_hook()
        run_hook(first, before, losses[:stop])
        second, after = make_hook()
        after.load_state_dict(before.state_dict())
        second.load_state_dict(first.state_dict())
        run_hook(second, after, losses[stop:], start=stop)
        assert after.weights() == expected.weights()


@pytest.mark.parametrize(
    ("update", "epochs"), [("epoch", 250), pytest.param("iteration", 37200, marks=pytest.mark.slow)]
)
def test_weights_arrive_at_their_optimum(update, epochs):
    """At 1 / (2 L) within the paper's training, which is far from where they begin."""
    cfg = setup_config("configs/mtl_R34_encoder2.yaml", ["MODEL.MULTI_TASK.LOSS_WEIGHTS.UPDATE", update])
    assert cfg.MODEL.MULTI_TASK.LOSS_WEIGHTS.BASE_LR is None
    weighting = UncertaintyWeighting({"a": "regression", "b": "segmentation"})
    hook = LossWeightUpdate(weighting, period=1, learning_rate=RATES[update])
    losses = {"a": torch.tensor(0.05), "b": torch.tensor(5.0)}
    for iteration in range(min(epochs, 6500)):
        weighting(losses)
        hook.trainer = SimpleNamespace(iter=iteration)
        hook.after_step()
    assert weighting.weights() == pytest.approx({"a": 10.0, "b": 0.1}, rel=0.03)


def test_losses_that_did_not_occur_leave_their_weights_as_they_are():
    hook, weighting = make_hook(period=1)
    weighting({"a": torch.tensor(3.0)})
    hook.trainer = SimpleNamespace(iter=0)
    hook.after_step()
    assert weighting.weights()["a"] != 1 and weighting.weights()["b"] == 1


def test_losses_that_overflow_are_left_out():
    hook, weighting = make_hook(period=2)
    run_hook(hook, weighting, [0.25, float("inf")])
    other, expected = make_hook(period=2)
    run_hook(other, expected, [0.25, 0.25])
    assert weighting.weights() == expected.weights()
    run_hook(hook, weighting, [float("nan")] * 2, start=2)  # nothing to learn from
    assert weighting.weights() == expected.weights()


def test_mean_gradient_is_that_of_the_mean_loss():
    hook, weighting = make_hook(period=2)
    run_hook(hook, weighting, [0.1, 0.5])
    # Mean losses 0.3 and 0.6, so w L - 1/2 is -0.2 and 0.1: one weight rises, the other falls.
    assert weighting.log_weights["a"].grad == pytest.approx(-0.2)
    assert weighting.log_weights["b"].grad == pytest.approx(0.1)


def test_polynomial_decay(config):
    cfg = config(SOLVER__MAX_ITER=100, SOLVER__BASE_LR=0.001)
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.Adam([parameter], lr=0.001)
    scheduler = Trainer.build_lr_scheduler(cfg, optimizer)
    for iteration in range(100):
        expected = 0.001 * (1 - iteration / 100) ** 0.9
        assert optimizer.param_groups[0]["lr"] == pytest.approx(expected)
        optimizer.step()
        scheduler.step()


def test_optimizers(config):
    model = nn.Linear(2, 2)
    for kind in ("Adam", "AdamW", "SGD"):
        cfg = config(MODEL__FEATCOMP__TRAIN__OPTIMIZER=kind)
        assert type(Trainer.build_optimizer(cfg, model)).__name__ == kind
    with pytest.raises(ValueError, match="OPTIMIZER is 'Lion': choose SGD, Adam or AdamW"):
        Trainer.build_optimizer(config(MODEL__FEATCOMP__TRAIN__OPTIMIZER="Lion"), model)


def test_the_paper_in_iterations():
    cfg = setup_config("configs/mtl_R34_encoder2.yaml")
    # 250 epochs of 2975 images, 20 at a time.
    assert pytest.approx(250 * 2975 / 20, rel=0.001) == cfg.MODEL.FEATCOMP.TRAIN.STEP3.MAX_ITER
    assert (cfg.SOLVER.IMS_PER_BATCH, cfg.MODEL.FEATCOMP.TRAIN.STEP3.BASE_LR) == (20, 0.001)
    assert (cfg.MODEL.FEATCOMP.TRAIN.OPTIMIZER, cfg.SOLVER.LR_SCHEDULER_NAME) == ("Adam", "WarmupPolyLR")
    assert cfg.MODEL.MULTI_TASK.LOSS_WEIGHTS.UPDATE == "epoch"
    assert cfg.MODEL.FEATCOMP.COMPRESSIBILITY.UNITS == "features"
    assert cfg.MODEL.MULTI_TASK.ACTIVATION == ""


@pytest.mark.parametrize(("number", "last"), [(1, "res5"), (2, "res4")])
def test_the_authors_encoder_starts_from_torchvisions(tmp_path, number, last):
    """The features are torchvision's own network's."""
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    theirs = torchvision.models.resnet34(weights=None).eval()
    for name, value in theirs.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            value.uniform_(0.5, 1.5)
    torch.save(theirs.state_dict(), tmp_path / "resnet34.pth")
    cfg = setup_config(f"configs/mtl_R34_encoder{number}_imagenet.yaml", ["MODEL.DEVICE", "cpu"])
    assert cfg.MODEL.WEIGHTS.startswith("https://download.pytorch.org/models/resnet34-")
    ours = build_model(cfg).eval()
    checkpointer = FeatCompCheckpointer(ours)
    checkpointer.load(str(tmp_path / "resnet34.pth"))
    checkpointer.require_backbone(str(tmp_path / "resnet34.pth"))  # nothing of it is absent
    images = torch.randint(0, 256, (1, 3, 64, 96)).float()
    mean, std = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    with torch.no_grad():
        x = (images / 255 - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)
        x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(x))))
        for stage in range(1, int(last[-1])):
            x = getattr(theirs, f"layer{stage}")(x)
        found = ours.backbone((images - ours.pixel_mean) / ours.pixel_std)[last]
    torch.testing.assert_close(found, x, rtol=1e-3, atol=1e-3)


def test_gains_are_trained_alone_for_a_network_that_was_trained_without_the_loss(config, tmp_path):
    benchmark = config(MODEL__FEATCOMP__COMPRESSIBILITY__WEIGHT=0.0)
    train_stages(benchmark)
    start = os.path.join(benchmark.OUTPUT_DIR, "model_final.pth")
    before = torch.load(start, weights_only=True)["model"]
    assert "loss_weights.log_weights.compressibility" not in before
    cfg = config(
        MODEL__WEIGHTS=start,
        OUTPUT_DIR=str(tmp_path / "gains"),
        MODEL__FEATCOMP__CHANNEL_GAINS=True,
        MODEL__FEATCOMP__TRAIN__STEPS=(2,),
        MODEL__FEATCOMP__TRAIN__STEP2__MAX_ITER=2,
        MODEL__FEATCOMP__TRAIN__STEP2__BASE_LR=0.01,
    )
    train_stages(cfg)
    after = torch.load(os.path.join(cfg.OUTPUT_DIR, "model_final.pth"), weights_only=True)["model"]
    assert (after["feature_split.gains.res4"] != 0).any()
    assert all(torch.equal(after[name], before[name]) for name in before if "loss_weights" not in name)


def test_first_weights_are_those_of_the_config_whatever_training_starts_from(config, tmp_path):
    first = config(MODEL__FEATCOMP__TRAIN__STEP3__MAX_ITER=1)
    train_stages(first)
    cfg = config(
        MODEL__WEIGHTS=os.path.join(first.OUTPUT_DIR, "model_final.pth"),
        OUTPUT_DIR=str(tmp_path / "second"),
        MODEL__FEATCOMP__COMPRESSIBILITY__WEIGHT=0.5,
        MODEL__FEATCOMP__TRAIN__STEP3__MAX_ITER=1,
    )
    train_stages(cfg)
    assert trained_weights(cfg) == pytest.approx({**FIRST, "compressibility": 0.5})


def test_a_checkpoint_of_another_network_is_refused(config, tmp_path):
    torch.save({"model": {"backbone.other.weight": torch.zeros(3)}}, tmp_path / "foreign.pth")
    with pytest.raises(CheckpointError, match=r"foreign\.pth' does not fit.*of its backbone are absent"):
        train_stages(config(MODEL__WEIGHTS=str(tmp_path / "foreign.pth")))


def test_training_on_the_first_images_only(config):
    assert len(train_dicts(config(MODEL__FEATCOMP__TRAIN__IMAGES=0))) == 8
    few = train_dicts(config(MODEL__FEATCOMP__TRAIN__IMAGES=3))
    assert [record["file_name"] for record in few] == [
        record["file_name"] for record in DatasetCatalog.get("few_tasks_multi_task_train")[:3]
    ]
    for wrong in (9, -1):
        with pytest.raises(ValueError, match=rf"IMAGES is {wrong}: .* hold 8 images"):
            Trainer.build_train_loader(config(MODEL__FEATCOMP__TRAIN__IMAGES=wrong))


def test_without_gains_there_is_nothing_to_train_alone(config):
    with pytest.raises(ValueError, match=r"SPLIT QLayer has nothing to train.*"):
        train_stages(config(MODEL__FEATCOMP__TRAIN__STEPS=(2,)))
