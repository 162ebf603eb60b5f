"""Several processes, over gloo, from the command line."""

import re
import uuid

import networks
import processes
import pytest
import torch
from detectron2.modeling import build_model

from d2_featcomp.engine import setup_config

SETTINGS = {
    **networks.TINY,
    "MODEL.FEATCOMP.TRAIN.STEPS": (1, 2),
    "MODEL.FEATCOMP.TRAIN.STEP1.MAX_ITER": 3,
    "MODEL.FEATCOMP.TRAIN.STEP2.MAX_ITER": 2,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0,
    "TEST.DETECTIONS_PER_IMAGE": 10,
    "INPUT.MIN_SIZE_TRAIN": (96,),
    "INPUT.MIN_SIZE_TEST": 96,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.WARMUP_ITERS": 1,
    "DATALOADER.NUM_WORKERS": 0,
    "DATASETS.TRAIN": ("few_train",),
    "DATASETS.TEST": ("few_val",),
    "SEED": 1,
}


@pytest.fixture
def run(few_scenes, tmp_path):
    """Runs a command line: what it writes to the standard output."""

    def command_line(*arguments, config=networks.MSFC, script=None, **settings):
        path, first = "tools/train_net.py", ["--config-file", config]
        if script:
            path, first = script[0], [config, script[1]]
        status, told, errors = processes.call(
            path,
            [*first, *arguments, *networks.listed({**SETTINGS, **settings})],
            tmp_path / uuid.uuid4().hex,
            {"DETECTRON2_DATASETS": str(few_scenes)},
            timeout=600,
        )
        assert status == 0, errors[-3000:]
        return told

    return command_line


def copied(log):
    """Detectron2's own result lines."""
    return re.findall(r"copypaste: (.*)", log)


def test_two_processes_train_and_measure_as_one_does(run, tmp_path):
    trained = run("--num-gpus", "2", OUTPUT_DIR=tmp_path / "out")
    assert "Step 2: iterations 0 to 2" in trained
    weights = {"MODEL.WEIGHTS": tmp_path / "out" / "model_final.pth"}
    alone = run("--eval-only", OUTPUT_DIR=tmp_path / "one", **weights)
    together = run("--eval-only", "--num-gpus", "2", OUTPUT_DIR=tmp_path / "two", **weights)
    assert len(copied(alone)) == 9  # three lines for each of bbox, segm, feature_rate
    assert copied(alone) == copied(together)
    tables = [
        (tmp_path / name / "inference" / "feature_rates.csv").read_text() for name in ("one", "two")
    ]
    assert tables[0] == tables[1]
    assert tables[0].count("\n") == 1 + 5


def test_two_processes_train_where_the_split_makes_modules_useless(run, tmp_path):
    """RetinaNet's own p6 and p7 get no gradient in step 3: MSFR rebuilds these levels."""
    trained = run(
        "--num-gpus",
        "2",
        config="configs/msfc_retinanet_R50.yaml",
        OUTPUT_DIR=tmp_path,
        **{
            "MODEL.WEIGHTS": "",
            "MODEL.RESNETS.DEPTH": 18,
            "MODEL.RESNETS.RES2_OUT_CHANNELS": 64,
            # Frozen batch norm would leave a network of random weights without any: it diverges.
            "MODEL.RESNETS.NORM": "BN",
            "MODEL.FPN.NORM": "BN",
            "MODEL.BACKBONE.FREEZE_AT": 0,
            "MODEL.FEATCOMP.TRAIN.STEP1.BASE_LR": 0.0001,
            "MODEL.FEATCOMP.TRAIN.STEP3.BASE_LR": 0.0001,
            "MODEL.RETINANET.NUM_CLASSES": 6,
            "MODEL.RETINANET.NUM_CONVS": 1,
            "MODEL.FEATCOMP.TRAIN.STEPS": (1, 3),
            "MODEL.FEATCOMP.TRAIN.STEP3.MAX_ITER": 3,
            "INPUT.MASK_FORMAT": "bitmask",
            "TEST.EVAL_PERIOD": -1,
        },
    )
    assert "Step 3: iterations 0 to 3" in trained
    assert (tmp_path / "model_final.pth").exists()


KEEP_EACH_RANK = """
import sys

import torch
from detectron2.engine import launch
from detectron2.utils import comm

from d2_featcomp.engine import end_process_group, setup_config, steps


def main(config, folder, overrides):
    train = steps._train

    def train_and_keep(trainer, step):
        train(trainer, step)
        state = trainer.checkpointer.model.feature_split.state_dict()
        torch.save(state, f"{folder}/rank{comm.get_rank()}.pth")

    steps._train = train_and_keep
    steps.train_steps(setup_config(config, overrides))
    end_process_group()


if __name__ == "__main__":
    launch(main, 2, dist_url="auto", args=(sys.argv[1], sys.argv[2], sys.argv[3:]))
"""


def test_two_processes_train_one_predictor(run, tmp_path, build_yolo):
    """BaF's first weights come from images quantized at random depths: one process must make them."""
    torch.save(
        {"model": build_yolo("MODEL.FEATCOMP.ENABLED", False).state_dict()}, tmp_path / "yolo.pth"
    )
    (tmp_path / "script.py").write_text(KEEP_EACH_RANK)
    run(
        config=networks.BAF,
        script=(tmp_path / "script.py", tmp_path),
        OUTPUT_DIR=tmp_path / "out",
        **{
            "MODEL.WEIGHTS": tmp_path / "yolo.pth",
            "MODEL.FEATCOMP.TRAIN.STEPS": (2,),
            "MODEL.FEATCOMP.BAF.SELECTION_IMAGES": 3,
            "MODEL.FEATCOMP.BAF.FIT_IMAGES": 3,
            "TEST.EVAL_PERIOD": -1,
        },
    )
    first, second = (torch.load(tmp_path / f"rank{rank}.pth", weights_only=True) for rank in (0, 1))
    assert (first["order"] >= 0).all() and first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    saved = torch.load(tmp_path / "out" / "model_final.pth", weights_only=True)["model"]
    assert torch.equal(
        saved["feature_split.predictor.convs.3.weight"], first["predictor.convs.3.weight"]
    )


def test_two_processes_train_and_measure_several_tasks(run, tmp_path):
    settings = {
        "MODEL.RESNETS.DEPTH": 18,
        "INPUT.MIN_SIZE_TRAIN": (48,),
        "INPUT.MIN_SIZE_TEST": 48,
        "SOLVER.IMS_PER_BATCH": 2,
        "SOLVER.WARMUP_ITERS": 0,
        "MODEL.FEATCOMP.TRAIN.STEPS": (3,),
        "MODEL.FEATCOMP.TRAIN.STEP3.MAX_ITER": 5,
        "MODEL.FEATCOMP.TRAIN.IMAGES": 0,
        # Adam's later steps depend on the gradients, so the two must have shared them.
        "MODEL.MULTI_TASK.LOSS_WEIGHTS.UPDATE": "step",
        "MODEL.MULTI_TASK.LOSS_WEIGHTS.BASE_LR": 0.1,
        "DATASETS.TRAIN": ("few_multi_task_train",),
        "DATASETS.TEST": ("few_multi_task_val",),
        "TEST.EVAL_PERIOD": -1,
    }
    script = tmp_path / "script.py"
    script.write_text(KEEP_EACH_RANK.replace("model.feature_split", "model"))
    config = networks.TASKS
    run(config=config, script=(script, tmp_path), OUTPUT_DIR=tmp_path / "out", **settings)
    first, second = (torch.load(tmp_path / f"rank{rank}.pth", weights_only=True) for rank in (0, 1))
    start = build_model(setup_config(config, ["MODEL.DEVICE", "cpu"])).state_dict()
    learned = [name for name in first if name.startswith("loss_weights")]
    assert len(learned) == 4 and all(abs(first[name] - start[name]) > 0.1 for name in learned)
    for name in first:
        if "running" not in name and "num_batches" not in name:
            assert torch.equal(first[name], second[name]), name
    settings["MODEL.WEIGHTS"] = tmp_path / "out" / "model_final.pth"
    alone = run("--eval-only", config=config, OUTPUT_DIR=tmp_path / "one", **settings)
    together = run(
        "--eval-only", "--num-gpus", "2", config=config, OUTPUT_DIR=tmp_path / "two", **settings
    )
    # Three lines for each of sem_seg, disparity, reconstruction, feature_rate.
    assert len(copied(alone)) == 12 and copied(alone) == copied(together)
