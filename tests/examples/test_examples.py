"""Examples: the commands in their first lines, run as they stand, on less data and smaller networks."""

import json

import networks
import numpy as np
import pages
import processes
import pytest
from PIL import Image

FOLDER = pages.ROOT / "examples"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py"))
STAGES = [f"MODEL.FEATCOMP.TRAIN.STEP{stage}.MAX_ITER" for stage in (1, 2, 3)]
SMALL = networks.listed(
    {
        "MODEL.DEVICE": "cpu",
        "SOLVER.IMS_PER_BATCH": 2,
        "DATALOADER.NUM_WORKERS": 0,
        **dict.fromkeys(STAGES, 1),
        "INPUT.MIN_SIZE_TRAIN": (64,),
        "INPUT.MIN_SIZE_TEST": 64,
        "TEST.EVAL_PERIOD": -1,
    }
)
FEW = networks.listed({"DATASETS.TRAIN": "('few_train',)", "DATASETS.TEST": "('few_val',)"})
FEW_TASKS = [word.replace("few_", "few_multi_task_") for word in FEW]
DETECTOR = networks.listed(networks.SHRUNK | {"MODEL.ROI_HEADS.NUM_CLASSES": 2})
LAZY = [
    *("train.device=cpu", "train.init_checkpoint=", "train.eval_period=-1"),
    "model.roi_heads.box_predictor.test_topk_per_image=3",
    "dataloader.train.total_batch_size=2",
    *("dataloader.train.num_workers=0", "dataloader.train.mapper.instance_mask_format=bitmask"),
    *("dataloader.train.dataset.names=few_train", "dataloader.test.dataset.names=few_val"),
    "dataloader.train.mapper.augmentations.0.short_edge_length=[64]",
    *("dataloader.test.mapper.augmentations.0.short_edge_length=64", "model.roi_heads.num_classes=6"),
    *(f"model.backbone.bottom_up.{key}" for key in ("depth=6", "w_a=16", "w_0=16", "w_m=1.7")),
    "model.backbone.bottom_up.group_width=8",
    *("model.roi_heads.batch_size_per_image=8", "model.proposal_generator.post_nms_topk=[20,10]"),
    *(
        f"featcomp.TRAIN.STEP{stage}.{key}"
        for stage in (1, 2, 3)
        for key in ("MAX_ITER=1", "LR_STEPS=[]")
    ),
]
LESS = {
    "own_codec": [*networks.listed(networks.TINY), "INPUT.MIN_SIZE_TEST", "64", *FEW],
    "own_data": [*SMALL, *DETECTOR],
    "own_head": [
        *SMALL,
        *networks.listed(networks.TINY_TASKS),
        *FEW_TASKS,
        "MODEL.FEATCOMP.TRAIN.IMAGES",
        "0",
    ],
    "own_split": [*SMALL, *networks.listed(networks.TINY), *FEW],
    "lazy_config": LAZY,
}


@pytest.fixture
def run_example(few_scenes, tmp_path):
    """Runs the commands of an example, with what makes them smaller: what the last of them wrote."""

    def run(name, **environment):
        commands = pages.list_example_commands(FOLDER / f"{name}.py")
        assert commands
        for number, (_, *words) in enumerate(commands):
            words = [word.replace("output/", f"{tmp_path}/") for word in words]
            less = [*LESS[name]]
            if "--num-gpus" in words:
                words[words.index("--num-gpus") + 1] = "1"
            if words[0] != "train" and "MODEL.WEIGHTS" in less:
                del less[(place := less.index("MODEL.WEIGHTS")) : place + 2]
            status, told, errors = processes.call(
                "tests/featcomp.py",
                [*words, *less],
                tmp_path / f"told{number}",
                {"DETECTRON2_DATASETS": str(few_scenes), **environment},
            )
            assert status == 0, (told + errors)[-3000:]
        return told + errors

    return run


def write_coco_folder(root):
    """Two images a part, each with one box of one of two classes."""
    for part in ("train", "val"):
        (root / part).mkdir(parents=True)
        data = {"images": [], "annotations": [], "categories": []}
        for number in (1, 2):
            pixels = np.random.default_rng(number).integers(0, 256, (64, 96, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / part / f"{number}.png")
            data["categories"].append({"id": 10 * number, "name": f"class {number}"})
            data["images"].append(
                {"id": number, "file_name": f"{number}.png", "height": 64, "width": 96}
            )
            box = {"id": number, "image_id": number, "category_id": 10 * number, "bbox": [8, 8, 32, 40]}
            data["annotations"].append({**box, "area": 1280, "iscrowd": 0})
        (root / f"{part}.json").write_text(json.dumps(data))


def test_every_example_is_run():
    assert sorted(LESS) == NAMES


def test_own_codec(run_example, tmp_path):
    folder = tmp_path / "quickstart" / "trainings" / "msfc"
    folder.mkdir(parents=True)
    sees_all = {"MODEL.FEATCOMP.MSFF.DOWNSAMPLE": "space_to_depth", "MODEL.FEATCOMP.MSFF.KERNEL_SIZE": 1}
    networks.save("msfc", folder / "model_final.pth", **sees_all)
    assert "BPFE" in run_example("own_codec")
    assert "NAME: jpeg2000" in (tmp_path / "own_codec" / "config.yaml").read_text()


def test_own_split(run_example):
    told = run_example("own_split")
    assert "BPFE" in told and "box AP" in told


def test_own_head(run_example):
    told = run_example("own_head")
    assert "boundary" in told and "precision" in told and "mIoU" in told


def test_own_data(run_example, tmp_path):
    write_coco_folder(tmp_path / "data")
    assert "BPFE" in run_example("own_data", MY_DATA=str(tmp_path / "data"))


def test_lazy_config(run_example):
    assert "BPFE" in run_example("lazy_config")
