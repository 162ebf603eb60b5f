"""Trainings of a few iterations on a GPU: mixed precision, DDP, every kind of network."""

import json
import math
import sys

import networks
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.utils import comm
from torch.multiprocessing import spawn
from torch.nn.parallel import DistributedDataParallel

from d2_featcomp.data.datasets.scenes import procedural_recipe, register_scenes
from d2_featcomp.engine import evaluate, setup_config, train_stages

pytestmark = pytest.mark.gpu

COMMON = {
    "DATASETS.TRAIN": ("gpu_scenes_train",),
    "DATASETS.TEST": ("gpu_scenes_val",),
    "DATALOADER.NUM_WORKERS": 0,
    "INPUT.MIN_SIZE_TRAIN": (96,),
    "INPUT.MAX_SIZE_TRAIN": 128,
    "INPUT.MIN_SIZE_TEST": 96,
    "INPUT.MAX_SIZE_TEST": 128,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.WARMUP_ITERS": 1,
    "TEST.EVAL_PERIOD": -1,
    "SEED": 1,
}
DETECTOR = {
    **networks.NARROW,
    "MODEL.FPN.OUT_CHANNELS": 16,
    "MODEL.FEATCOMP.SSFC.CHANNELS": 4,
    "MODEL.FEATCOMP.TRAIN.STEPS": (1, 3),
    "MODEL.FEATCOMP.TRAIN.STEP1.MAX_ITER": 4,
    "MODEL.FEATCOMP.TRAIN.STEP3.MAX_ITER": 4,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 16,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 8,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0,
}
TASKS = {
    "DATASETS.TRAIN": ("gpu_scenes_multi_task_train",),
    "DATASETS.TEST": ("gpu_scenes_multi_task_val",),
    **networks.NARROW,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 64,
    "MODEL.FEATCOMP.TRAIN.IMAGES": 0,
    "MODEL.FEATCOMP.TRAIN.STEP3.MAX_ITER": 8,
}
YOLO = {
    "MODEL.YOLOV3.LETTERBOX": 128,
    "MODEL.FEATCOMP.TRAIN.STEPS": (1, 2),
    "MODEL.FEATCOMP.TRAIN.STEP1.MAX_ITER": 8,
    "MODEL.FEATCOMP.TRAIN.STEP2.MAX_ITER": 4,
    "MODEL.FEATCOMP.BAF.CHANNELS": 16,
    "MODEL.FEATCOMP.BAF.SELECTION_IMAGES": 4,
    "MODEL.FEATCOMP.BAF.FIT_IMAGES": 4,
}
CASES = {
    "Mask R-CNN, MSFC": ("configs/quick/msfc_R18.yaml", DETECTOR, {"bbox", "segm"}),
    "YOLO-v3, BaF": ("configs/quick/baf_yolov3_tiny.yaml", YOLO, {"bbox"}),
    "several tasks": (
        "configs/quick/mtl_R34.yaml",
        TASKS,
        {"sem_seg", "disparity", "reconstruction"},
    ),
}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    root = str(tmp_path_factory.mktemp("gpu") / "scenes")
    register_scenes("gpu_scenes", root, procedural_recipe({"train": 8, "val": 4}))
    DatasetCatalog.get("gpu_scenes_train")
    return root


def configured(case, device, folder, **more):
    config, settings, _ = CASES[case]
    keyed = {key.replace("__", "."): value for key, value in more.items()}
    merged = {**COMMON, **settings, "MODEL.DEVICE": str(device), "OUTPUT_DIR": str(folder), **keyed}
    return setup_config(config, [part for item in merged.items() for part in item])


def losses_of(folder):
    """list[float]: of the lines that were logged."""
    with open(folder / "metrics.json", encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    return [line["total_loss"] for line in lines if "total_loss" in line]


def last_step(cfg):
    return f"step{cfg.MODEL.FEATCOMP.TRAIN.STEPS[-1] if cfg.MODEL.FEATCOMP.TRAIN.STEPS else 3}"


@pytest.mark.parametrize("mixed_precision", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_training_and_evaluation(case, mixed_precision, scenes, device, tmp_path, exact_float32):
    cfg = configured(case, device, tmp_path / "out", SOLVER__AMP__ENABLED=mixed_precision)
    train_stages(cfg)
    folder = tmp_path / "out" / last_step(cfg)
    losses = losses_of(folder)
    assert losses and all(math.isfinite(loss) and loss > 0 for loss in losses)
    saved = torch.load(folder / "model_final.pth", map_location="cpu", weights_only=False)
    assert all(torch.isfinite(value).all() for value in saved["model"].values())
    scaler = saved["trainer"]["_trainer"].get("grad_scaler")
    if mixed_precision and device.type == "cuda":
        assert scaler["scale"] >= 1  # gradients were scaled, and did not overflow again and again
    else:
        assert scaler is None
    # Measured on both devices: the rates and the dense tasks hardly depend on where they are computed.
    weights = str(tmp_path / "out" / "model_final.pth")
    found, expected = (
        evaluate(configured(case, where, tmp_path / f"on {where.type}", MODEL__WEIGHTS=weights))
        for where in (device, torch.device("cpu"))
    )
    assert found.keys() == expected.keys() == {*CASES[case][2], "feature_rate"}
    assert found["feature_rate"]["kB"] == pytest.approx(expected["feature_rate"]["kB"], rel=0.05)
    for group in ("disparity", "reconstruction"):
        for key, value in expected.get(group, {}).items():
            assert found[group][key] == pytest.approx(value, rel=0.02), (group, key)


def test_training_goes_on_where_it_stopped(scenes, device, tmp_path):
    case = "Mask R-CNN, MSFC"
    settings = {"SOLVER__AMP__ENABLED": True, "MODEL__FEATCOMP__TRAIN__STEPS": (1,)}
    train_stages(configured(case, device, tmp_path, **settings))
    more = {"MODEL__FEATCOMP__TRAIN__STEP1__MAX_ITER": 6}
    train_stages(configured(case, device, tmp_path, **settings, **more), resume=True)
    saved = torch.load(tmp_path / "step1" / "model_final.pth", map_location="cpu", weights_only=False)
    assert saved["iteration"] == 5


def train_in_ddp(rank, folder, scenes, device, mixed_precision):
    """In a process of its own: one process wraps its network as several would."""
    from d2_featcomp.engine import trainer

    register_scenes("gpu_scenes", scenes, procedural_recipe({"train": 8, "val": 4}))
    on_gpu = torch.device(device).type == "cuda"
    torch.distributed.init_process_group(
        "nccl" if on_gpu else "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=1
    )
    comm.create_local_process_group(1)
    wrapped = []

    def wrap(model, **options):  # Detectron2's own leaves a single process's network as it is
        devices = {"device_ids": [torch.cuda.current_device()]} if on_gpu else {}
        wrapped.append(DistributedDataParallel(model, **{**options, **devices}))
        return wrapped[-1]

    trainer.create_ddp_model = wrap
    cfg = configured("Mask R-CNN, MSFC", device, f"{folder}/out", SOLVER__AMP__ENABLED=mixed_precision)
    train_stages(cfg)
    torch.distributed.destroy_process_group()
    if len(wrapped) != 2:
        sys.exit(f"{len(wrapped)} networks were wrapped, not those of the two steps")


@pytest.mark.parametrize("mixed_precision", [True, False])
def test_ddp_trains_as_one_process_does(mixed_precision, scenes, device, tmp_path):
    spawn(train_in_ddp, (str(tmp_path), scenes, str(device), mixed_precision), nprocs=1)
    case = "Mask R-CNN, MSFC"
    train_stages(configured(case, device, tmp_path / "alone", SOLVER__AMP__ENABLED=mixed_precision))
    for step in ("step1", "step3"):
        found, expected = (losses_of(tmp_path / name / step) for name in ("out", "alone"))
        assert len(found) == len(expected) > 0
        # Sums of gradients on a GPU are not the same in each run, and proposals depend on them.
        assert found == pytest.approx(expected, rel=0.3 if device.type == "cuda" else 1e-4)
    saved = torch.load(tmp_path / "out" / "model_final.pth", map_location="cpu", weights_only=True)
    assert not any(name.startswith("module.") for name in saved["model"])
    assert all(torch.isfinite(value).all() for value in saved["model"].values())
