"""Training in steps: real trainings of a few iterations, as subprocesses where they are killed."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import networks
import processes
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model

from d2_featcomp.engine import (
    CheckpointError,
    choose_stages,
    evaluate,
    make_stage_config,
    require_stage_settings,
    setup_config,
    steps,
    train_stages,
)
from d2_featcomp.engine.importance import measure_channel_weights

TINY = {
    **networks.TINY,
    "INPUT.MIN_SIZE_TRAIN": (96,),
    "INPUT.MIN_SIZE_TEST": 96,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 8,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.WARMUP_ITERS": 1,
    "SOLVER.AMP.ENABLED": False,
    "DATALOADER.NUM_WORKERS": 0,
    "MODEL.FEATCOMP.TRAIN.STEPS": (1, 2, 3),
    "MODEL.FEATCOMP.TRAIN.STEP1.MAX_ITER": 2,
    "MODEL.FEATCOMP.TRAIN.STEP2.MAX_ITER": 2,
    "MODEL.FEATCOMP.TRAIN.STEP3.MAX_ITER": 2,
}


def overrides(output, **more):
    keyed = {key.replace("__", "."): value for key, value in more.items()}
    settings = {**TINY, "OUTPUT_DIR": str(output), **keyed}
    return [part for item in settings.items() for part in item]


def config(output, **more):
    return setup_config(networks.MSFC, overrides(output, **more))


@pytest.fixture
def train(few_scenes, tmp_path):
    def run(resume=False, **more):
        more = {"DATASETS__TRAIN": ("few_train",), "DATASETS__TEST": ("few_val",), **more}
        cfg = config(tmp_path / "out", **more)
        train_stages(cfg, resume=resume)
        return cfg

    return run


@pytest.fixture(scope="module")
def trained(few_scenes, tmp_path_factory):
    """Folder of a training in three steps, and the devices of the networks that it built before them."""
    folder = tmp_path_factory.mktemp("trained")
    built = []

    def build(cfg):
        built.append(cfg.MODEL.DEVICE)
        return build_model(cfg)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "build_model", build)
        train_stages(config(folder, DATASETS__TRAIN=("few_train",), DATASETS__TEST=("few_val",)))
    return folder, built


def weights(path):
    return torch.load(path, weights_only=True)["model"]


def changed(before, after):
    return {key for key in after if key not in before or not torch.equal(before[key], after[key])}


def test_three_steps_train_what_the_paper_says(trained):
    folder, _ = trained
    first, second, third = (weights(folder / f"step{step}" / "model_final.pth") for step in (1, 2, 3))
    assert not any(key.startswith("feature_split.") for key in first)
    # Stage 2 leaves the detector alone, batch norm statistics included.
    assert all(key.startswith("feature_split.") for key in changed(first, second))
    assert "feature_split.encoder.conv.weight" in second
    # Stage 3 trains everything.
    moved = changed(second, third)
    for part in ("backbone.", "proposal_generator.", "roi_heads.", "feature_split."):
        assert any(key.startswith(part) for key in moved), part
    final = weights(folder / "model_final.pth")
    assert not changed(third, final) and set(final) == set(third)


def test_distillation_is_chosen_by_the_config(train):
    cfg = train(
        MODEL__FEATCOMP__TRAIN__STEP2__LOSS="distill", MODEL__FEATCOMP__TRAIN__STEP3__LOSS="both"
    )

    def losses(step):
        with open(os.path.join(cfg.OUTPUT_DIR, f"step{step}", "metrics.json"), encoding="utf-8") as file:
            return {key for line in file for key in json.loads(line) if key.startswith("loss_")}

    assert losses(2) == set()  # Detectron2 logs a single loss as the total alone
    assert {"loss_mask", "loss_distill"} <= losses(3)
    assert "loss_mask" in losses(1) and "loss_distill" not in losses(1)


def test_errors_count_by_what_they_matter_to_the_task(train, trained, monkeypatch):
    measured = []

    def measure(cfg, network, images):
        before = torch.get_rng_state()
        measured.append(measure_channel_weights(cfg, network, images))
        assert torch.equal(torch.get_rng_state(), before)
        return measured[-1]

    monkeypatch.setattr(steps, "measure_channel_weights", measure)
    settings = {
        "MODEL__WEIGHTS": str(trained[0] / "step1" / "model_final.pth"),
        "MODEL__FEATCOMP__TRAIN__STEPS": (2,),
        "MODEL__FEATCOMP__TRAIN__STEP2__LOSS": "distill",
        "SOLVER__CHECKPOINT_PERIOD": 1,
        "MODEL__FEATCOMP__TRAIN__STEP2__IMPORTANCE_IMAGES": 2,
    }
    cfg = train(**settings)
    weights_of_levels = torch.cat(list(measured[0].values()))
    assert set(measured[0]) == {"p2", "p3", "p4", "p5", "p6"} and len(weights_of_levels) == 5 * 16
    assert weights_of_levels.mean() == pytest.approx(1) and weights_of_levels.std() > 0.1
    weighted = weights(os.path.join(cfg.OUTPUT_DIR, "step2", "model_final.pth"))
    assert set(weighted) == set(weights(trained[0] / "step2" / "model_final.pth"))
    # Interrupted after the first iteration: the same weights are measured again.
    folder = Path(cfg.OUTPUT_DIR, "step2")
    (folder / "model_final.pth").unlink()
    (folder / "last_checkpoint").write_text("model_0000000.pth")
    train(resume=True, **settings)
    assert len(measured) == 2
    assert all(torch.equal(x, measured[1][name]) for name, x in measured[0].items())
    assert not changed(weighted, weights(folder / "model_final.pth"))
    train(**{**settings, "MODEL__FEATCOMP__TRAIN__STEP2__IMPORTANCE_IMAGES": 0})
    assert len(measured) == 2 and changed(weighted, weights(folder / "model_final.pth"))


@pytest.mark.parametrize(("loss", "images"), [("task", 2), ("distill", -1)])
def test_importance_needs_a_distance_to_weight(train, loss, images):
    with pytest.raises(ValueError, match=r"STEP2\.IMPORTANCE_IMAGES is .* with LOSS distill or both"):
        train(
            MODEL__FEATCOMP__TRAIN__STEP2__LOSS=loss,
            MODEL__FEATCOMP__TRAIN__STEP2__IMPORTANCE_IMAGES=images,
        )


def test_a_training_can_be_repeated(train, trained):
    first = weights(trained[0] / "model_final.pth")
    second = weights(os.path.join(train().OUTPUT_DIR, "model_final.pth"))
    assert not changed(first, second)


def test_finished_detector_skips_step_1(train, trained):
    start = str(trained[0] / "step1" / "model_final.pth")
    cfg = train(MODEL__FEATCOMP__TRAIN__STEPS=(), MODEL__WEIGHTS=start)
    assert choose_stages(cfg) == (2, 3)
    assert sorted(n for n in os.listdir(cfg.OUTPUT_DIR) if n.startswith("step")) == ["step2", "step3"]


@pytest.mark.parametrize("wrong", [(2, 1), (1, 1), (5,), (0,)])
def test_bad_steps(tmp_path, wrong):
    with pytest.raises(ValueError, match="give rising stage numbers"):
        choose_stages(config(tmp_path, MODEL__FEATCOMP__TRAIN__STEPS=wrong))


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("MODEL__FEATCOMP__CODEC__BITS", 17, "cannot carry 17 bits"),
        ("MODEL__FEATCOMP__TRAIN__STEP2__LOSS", "nothing", r"unknown training loss .*STEP2\.LOSS"),
        ("MODEL__FEATCOMP__TRAIN__STEP3__LOSS", "nothing", r"unknown training loss .*STEP3\.LOSS"),
        ("MODEL__FEATCOMP__SSFC__KERNEL_SIZE", 2, "it must be odd"),
        ("MODEL__FEATCOMP__SSFC__CHANNELS", 0, "must be at least 1"),
        ("DATASETS__TEST", ("nowhere",), r"unknown data sets \['nowhere'\] .* need --import"),
        ("DATASETS__TEST", ("scenes_vall",), r"did you mean 'scenes_val'"),
        ("MODEL__META_ARCHITECTURE", "GeneralizedRCNN", "set it to SplitNetwork"),
        ("MODEL__FEATCOMP__TRAIN__STEP3__MAX_ITER", 0, r"STEP3\.MAX_ITER is 0: it must be 1 or more"),
        ("MODEL__FEATCOMP__TRAIN__STEP2__MAX_ITER", -1, r"STEP2\.MAX_ITER is -1: it must be 0 or more"),
        ("MODEL__FEATCOMP__TRAIN__STEP3__BASE_LR", 0.0, r"STEP3\.BASE_LR is 0\.0: .* above 0"),
        ("MODEL__FEATCOMP__TRAIN__ENTROPY_LR", -0.1, r"ENTROPY_LR is -0\.1: .* above 0"),
        ("SOLVER__CHECKPOINT_PERIOD", 0, r"CHECKPOINT_PERIOD is 0: it must be 1 or more"),
        ("SOLVER__IMS_PER_BATCH", 0, r"IMS_PER_BATCH is 0: it must be 1 or more"),
    ],
)
def test_mistakes_are_found_before_step_1(train, tmp_path, key, value, words):
    with pytest.raises(ValueError, match=words):
        train(**{key: value})
    assert not (tmp_path / "out" / "step1").exists()


def test_whole_numbers_name_stages_whatever_their_type(tmp_path):
    chosen = choose_stages(config(tmp_path, MODEL__FEATCOMP__TRAIN__STEPS=(2.0, 3)))
    assert list(map(str, chosen)) == ["2", "3"]


@pytest.mark.parametrize("steps", [(2,), (3,)])
def test_later_stages_need_a_trained_network(train, steps):
    with pytest.raises(ValueError, match=r"stages 2 to 4 without stage 1 need .*: set MODEL\.WEIGHTS"):
        train(MODEL__FEATCOMP__TRAIN__STEPS=steps, MODEL__WEIGHTS="")


@pytest.mark.parametrize(
    ("key", "value", "own"),
    [("MAX_ITER", 7, "MAX_ITER"), ("BASE_LR", 0.5, "BASE_LR"), ("STEPS", (3,), "LR_STEPS")],
)
def test_settings_that_no_step_uses_are_refused(train, tmp_path, key, value, own):
    with pytest.raises(ValueError, match=rf"SOLVER\.{key}: set MODEL\.FEATCOMP\.TRAIN\.STEP1\.{own}, "):
        train(**{f"SOLVER__{key}": value})
    assert not (tmp_path / "out" / "step1").exists()


def test_a_command_line_may_not_even_repeat_their_defaults(tmp_path):
    cfg = config(tmp_path)
    require_stage_settings(cfg, ["MODEL.WEIGHTS", "SOLVER.BASE_LR", "SEED", "3"])  # no key
    with pytest.raises(ValueError, match=r"leave SOLVER\.BASE_LR out.* set it back to 0\.001"):
        require_stage_settings(cfg, ["SEED", "3", "SOLVER.BASE_LR", "0.001"])
    step = make_stage_config(cfg, 2, "")
    assert step.SOLVER.MAX_ITER == 2 and step.SOLVER.BASE_LR == 0.02


def test_only_one_network_is_built_before_the_first_step(trained):
    assert trained[1] == ["cpu"]


def test_steps_2_and_3_need_a_detector(train):
    with pytest.raises(CheckpointError, match="parameters are absent"):
        train(MODEL__FEATCOMP__TRAIN__STEPS=(2,))


def test_resume_after_a_kill_goes_on_in_the_right_step(train, few_scenes, tmp_path):
    """A training killed in step 2 goes on there, repeats nothing that was finished, and ends with the
    weights of one that was not killed."""
    more = {
        "MODEL__FEATCOMP__TRAIN__STEP2__MAX_ITER": 12,
        "INPUT__MIN_SIZE_TRAIN": (64, 80, 96),  # drawn for each image, like the flip
        "SOLVER__CHECKPOINT_PERIOD": 2,
        "DATASETS__TRAIN": ("few_train",),
        "DATASETS__TEST": ("few_val",),
    }
    output = tmp_path / "out"
    command = ["--config-file", networks.MSFC, "--resume", *overrides(output, **more)]
    environment = {"DETECTRON2_DATASETS": str(few_scenes)}
    running = processes.start("tools/train_net.py", command, tmp_path / "log", environment)
    mark = output / "step2" / "last_checkpoint"
    while running.process.is_alive() and not mark.exists():
        time.sleep(0.002)
    running.kill()
    status, _, errors = running.wait()
    assert status == -signal.SIGKILL, errors[-2000:]
    step1 = os.stat(output / "step1" / "model_final.pth").st_mtime_ns
    assert not (output / "model_final.pth").exists()
    status, told, errors = processes.call("tools/train_net.py", command, tmp_path / "log", environment)
    assert status == 0, errors[-2000:]
    assert os.stat(output / "step1" / "model_final.pth").st_mtime_ns == step1
    assert "Stage 1 is complete" in told
    with open(output / "step2" / "metrics.json", encoding="utf-8") as file:
        iterations = [json.loads(line)["iteration"] for line in file]
    assert iterations[-1] == 11
    whole = train(OUTPUT_DIR=str(tmp_path / "whole"), **more)
    final = (os.path.join(folder, "model_final.pth") for folder in (output, whole.OUTPUT_DIR))
    assert not changed(*map(weights, final))


@pytest.mark.parametrize(("iterations", "words"), [(1, "weights became"), (3, "(Loss|has diverged)")])
def test_a_training_that_diverges_says_what_to_do(iterations, words, train):
    """By its last update, after which no loss tells, or before."""
    with pytest.raises(
        FloatingPointError, match=f"(?s)lower MODEL.FEATCOMP.TRAIN.STEP1.BASE_LR.*{words}"
    ):
        train(
            MODEL__FEATCOMP__TRAIN__STEPS=(1, 3),
            MODEL__FEATCOMP__TRAIN__STEP1__MAX_ITER=iterations,
            MODEL__FEATCOMP__TRAIN__STEP1__BASE_LR=1e43,
        )


def test_a_mistake_costs_neither_data_nor_what_was_trained(train, tmp_path):
    """It is told before data sets are drawn, and --resume still knows where to go on."""
    mark = tmp_path / "out" / "step1" / "last_checkpoint"
    mark.parent.mkdir(parents=True)
    mark.write_text("model_0000001.pth")
    DatasetCatalog.register("undrawn", lambda: pytest.fail("data sets were drawn"))
    try:
        with pytest.raises(ValueError, match="cannot carry 17 bits"):
            train(DATASETS__TRAIN=("undrawn",), MODEL__FEATCOMP__CODEC__BITS=17)
    finally:
        DatasetCatalog.remove("undrawn")
    assert mark.read_text() == "model_0000001.pth"


def test_without_resume_a_training_starts_again(train, trained, tmp_path, caplog):
    shutil.copytree(trained[0], tmp_path / "out")
    path = tmp_path / "out" / "step1" / "model_final.pth"
    first = weights(path)
    with caplog.at_level("WARNING", "d2_featcomp"):
        train(MODEL__FEATCOMP__TRAIN__STEPS=(1,), SEED=7)
    assert changed(first, weights(path))
    assert f"{tmp_path / 'out'} holds an earlier training" in caplog.text
    assert setup_config(str(tmp_path / "out" / "config.yaml")).SEED == 7


def test_evaluation_prints_rates_beside_ap(trained, tmp_path):
    data = {
        "DATASETS__TEST": ("few_val",),
        "MODEL__WEIGHTS": str(trained[0] / "step1" / "model_final.pth"),
    }
    with pytest.raises(CheckpointError, match="holds the task network alone"):
        evaluate(config(tmp_path, **data))
    for codec, bits in (("raw", 4), ("jpegxl", 8), ("jpeg", 8)):
        results = evaluate(
            config(
                tmp_path,
                MODEL__FEATCOMP__SPLIT="PyramidSplit",
                MODEL__FEATCOMP__CODEC__NAME=codec,
                MODEL__FEATCOMP__CODEC__BITS=bits,
                **data,
            )
        )
        assert {"bbox", "segm", "feature_rate"} <= set(results)
        rate = results["feature_rate"]
        parts = [rate[f"BPFE_{part}"] for part in ("header", "side_info", "payload")]
        assert rate["BPFE"] == pytest.approx(sum(parts))
        assert rate["BPFE_payload"] <= rate["BPFE_packed"] == pytest.approx(bits, rel=0.01)
