"""Several processes train what is one for all of them: BaF's predictor, weights of tasks' losses."""

import networks
import torch
from detectron2.modeling import build_model
from distributed import SETTINGS, copied

from d2_featcomp.engine import setup_config

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
        model = trainer.checkpointer.model
        state = {**model.feature_split.state_dict(), **dict(model.feature_codec.named_parameters())}
        torch.save(state, f"{folder}/rank{comm.get_rank()}.pth")

    steps._train = train_and_keep
    steps.train_stages(setup_config(config, overrides))
    end_process_group()


if __name__ == "__main__":
    launch(main, 2, dist_url="auto", args=(sys.argv[1], sys.argv[2], sys.argv[3:]))
"""


def write_random_weights(path, settings):
    torch.manual_seed(0)
    cfg = setup_config(networks.MSFC, networks.listed(settings))
    torch.save({"model": build_model(cfg).state_dict()}, path)


def train_two(run_processes, folder, config, settings):
    """What each of two processes has of split and codec after a training."""
    script = folder / "script.py"
    script.write_text(KEEP_EACH_RANK)
    settings = {**settings, "OUTPUT_DIR": folder / "out", "TEST.EVAL_PERIOD": -1}
    run_processes(config=config, script=(script, folder), **settings)
    return [torch.load(folder / f"rank{rank}.pth", weights_only=True) for rank in (0, 1)]


def test_two_processes_train_one_predictor(run_processes, tmp_path, build_yolo):
    """BaF's first weights come from images quantized at random depths: one process must make them."""
    torch.save(
        {"model": build_yolo("MODEL.FEATCOMP.ENABLED", False).state_dict()}, tmp_path / "yolo.pth"
    )
    first, second = train_two(
        run_processes,
        tmp_path,
        networks.BAF,
        {
            "MODEL.WEIGHTS": tmp_path / "yolo.pth",
            "MODEL.FEATCOMP.TRAIN.STEPS": (2,),
            "MODEL.FEATCOMP.BAF.SELECTION_IMAGES": 3,
            "MODEL.FEATCOMP.BAF.FIT_IMAGES": 3,
        },
    )
    assert (first["order"] >= 0).all() and first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    saved = torch.load(tmp_path / "out" / "model_final.pth", weights_only=True)["model"]
    assert torch.equal(
        saved["feature_split.predictor.convs.3.weight"], first["predictor.convs.3.weight"]
    )


def test_two_processes_start_one_codec(run_processes, tmp_path):
    """Its entropy models start from the components that one process has seen."""
    detector = {**SETTINGS, "MODEL.FEATCOMP.ENABLED": False}
    write_random_weights(tmp_path / "detector.pth", detector)
    first, second = train_two(
        run_processes,
        tmp_path,
        networks.MSFC,
        {
            **networks.KINDS["levels"][1],
            "MODEL.WEIGHTS": tmp_path / "detector.pth",
            "MODEL.FEATCOMP.TRAIN.STEPS": (3,),
            "MODEL.FEATCOMP.TRAIN.STEP3.MAX_ITER": 1,
            "MODEL.FEATCOMP.PYRAMID_TRANSFORM.FIT_IMAGES": 3,
        },
    )
    assert any("head_bias" in name for name in first)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_two_processes_train_and_measure_several_tasks(run_processes, tmp_path):
    settings = {
        **networks.TINY_TASKS,
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
    run_processes(config=config, script=(script, tmp_path), OUTPUT_DIR=tmp_path / "out", **settings)
    first, second = (torch.load(tmp_path / f"rank{rank}.pth", weights_only=True) for rank in (0, 1))
    start = build_model(setup_config(config, ["MODEL.DEVICE", "cpu"])).state_dict()
    learned = [name for name in first if name.startswith("loss_weights")]
    assert len(learned) == 4 and all(abs(first[name] - start[name]) > 0.05 for name in learned)
    for name in first:
        if "running" not in name and "num_batches" not in name:
            assert torch.equal(first[name], second[name]), name
    settings["MODEL.WEIGHTS"] = tmp_path / "out" / "model_final.pth"
    alone = run_processes(
        "--eval-only", "--verbose", config=config, OUTPUT_DIR=tmp_path / "one", **settings
    )
    together = run_processes(
        "--eval-only",
        "--verbose",
        "--num-gpus",
        "2",
        config=config,
        OUTPUT_DIR=tmp_path / "two",
        **settings,
    )
    # Three lines for each of sem_seg, disparity, reconstruction, feature_rate.
    assert len(copied(alone)) == 12 and copied(alone) == copied(together)


def test_two_processes_train_one_entropy_model(run_processes, tmp_path):
    """In stage 3 both lower the rate; stage 4 fits the entropy model once."""
    write_random_weights(tmp_path / "start.pth", networks.TINY)
    first, second = train_two(
        run_processes,
        tmp_path,
        networks.MSFC,
        {
            "MODEL.WEIGHTS": tmp_path / "start.pth",
            "MODEL.FEATCOMP.CODEC.NAME": "learned",
            "MODEL.FEATCOMP.TRAIN.STEPS": (3, 4),
            "MODEL.FEATCOMP.TRAIN.STEP3.MAX_ITER": 2,
            "MODEL.FEATCOMP.TRAIN.RATE_WEIGHT": 0.001,
            "MODEL.FEATCOMP.TRAIN.STEP4.IMAGES": 4,
            "MODEL.FEATCOMP.TRAIN.STEP4.MAX_ITER": 3,
        },
    )
    name = "context_models.0.head_weight"
    assert first[name].abs().sum() > 0 and torch.equal(first[name], second[name])
    third, last = (
        torch.load(tmp_path / "out" / path, weights_only=True)["model"]
        for path in ("step3/model_final.pth", "model_final.pth")
    )
    assert not torch.equal(third[f"feature_codec.{name}"], last[f"feature_codec.{name}"])
    same = [key for key in last if not key.startswith("feature_codec.")]
    assert all(torch.equal(third[key], last[key]) for key in same)
