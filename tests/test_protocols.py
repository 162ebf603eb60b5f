"""Which images each config trains and tests on, how many these are, and where its weights start.

Numbers are those of the data sets' authors and of the papers, not of this package:

COCO (cocodataset.org): train2014 82783, val2014 40504, of which "minival" 5000 and the other 35504;
train2017 118287, val2017 5000. Cityscapes: 2975 and 500, as in MTL sec. 4. Open Images, 80 classes:
176107 and 8746, MSFC sec. 4. BaF sec. 4: "about 5k images from the 2014 COCO validation dataset
(separate from the training dataset)".
"""

from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from d2_featcomp.data.datasets.scenes import SIZES
from d2_featcomp.engine import setup_config
from d2_featcomp.experiments import read_sweep

ROOT = Path(__file__).parents[1]

IMAGES = {
    "coco_2014_train": 82783,
    "coco_2014_minival": 5000,
    "coco_2017_train": 118287,
    "coco_2017_val": 5000,
    "coco_2017_train_panoptic_separated": 118287,
    "coco_2017_val_panoptic_separated": 5000,
    "keypoints_coco_2017_train": 118287,
    "keypoints_coco_2017_val": 5000,
    "cityscapes_multi_task_train": 2975,
    "cityscapes_multi_task_val": 500,
    "images:openimages/train": 176107,
    "images:openimages/validation": 8746,
    "scenes_train": 2000,
    "scenes_val": 200,
    "scenes_multi_task_train": 2000,
    "scenes_multi_task_val": 200,
    "photo_scenes_train": 2000,
    "photo_scenes_val": 200,
    "photo_scenes_multi_task_train": 2000,
    "photo_scenes_multi_task_val": 200,
    "stereo:middlebury": 8,
    "images:baf_photos/train": 273,  # where coco/train2017 is the subset of 192 images
    "images:baf_photos/val": 133,
}

# Where a set's files are, below DETECTRON2_DATASETS.
ANNOTATIONS = {
    "coco_2014_train": "coco/annotations/instances_train2014.json",
    "coco_2014_minival": "coco/annotations/instances_minival2014.json",
    "coco_2017_train": "coco/annotations/instances_train2017.json",
    "coco_2017_val": "coco/annotations/instances_val2017.json",
    "keypoints_coco_2017_val": "coco/annotations/person_keypoints_val2017.json",
    "coco_2017_val_panoptic_separated": "coco/annotations/instances_val2017.json",
}

COCO = ("coco_2017_train", "coco_2017_val", 118287, 5000)
CITYSCAPES = ("cityscapes_multi_task_train", "cityscapes_multi_task_val", 2975, 500)
SCENES = ("scenes_train", "scenes_val", 2000, 200)
LITE0 = "efficientnet_lite/efficientnet-lite0.pth"
R34 = "https://download.pytorch.org/models/resnet34-b627a593.pth"  # torchvision's, for ImageNet
R50 = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"
R101 = "detectron2://ImageNetPretrained/MSRA/R-101.pkl"

# Training set, test set, images of both, and MODEL.WEIGHTS: ImageNet's as in Detectron2's model zoo, or
# "" where none come with the config (BaF: the user's YOLO-v3, by tools/convert_darknet.py).
PROTOCOLS = {
    "Base-MSFC-FPN": (*COCO, ""),
    "Base-MTL-R34": (*CITYSCAPES, ""),
    "baf_yolov3": ("coco_2014_train", "coco_2014_minival", 82783, 5000, ""),
    "baf_yolov3_tiny": ("coco_2014_train", "coco_2014_minival", 82783, 5000, ""),
    "coco_baf_yolov3_tiny": ("images:baf_photos/train", "coco_2017_val", 273, 5000, ""),
    "lmsfc_R50": (*COCO, R50),
    "fctm_v1_R50": (*COCO, R50),
    "msfc_R101": (*COCO, R101),
    "msfc_R50": (*COCO, R50),
    "msfc_R50_C16": (*COCO, R50),
    "msfc_R50_C32": (*COCO, R50),
    "msfc_R50_C8": (*COCO, R50),
    "msfc_R50_openimages": (
        *("images:openimages/train", "images:openimages/validation", 176107, 8746),
        R50,
    ),
    "msfc_cascade_R50": (*COCO, R50),
    "msfc_keypoint_R50": ("keypoints_coco_2017_train", "keypoints_coco_2017_val", 118287, 5000, R50),
    "msfc_panoptic_R50": (
        *("coco_2017_train_panoptic_separated", "coco_2017_val_panoptic_separated", 118287, 5000),
        R50,
    ),
    "msfc_pointrend_R50": (*COCO, R50),
    "msfc_retinanet_R50": (*COCO, R50),
    "mtl_R34_encoder1": (*CITYSCAPES, ""),
    "mtl_R34_encoder1_benchmark": (*CITYSCAPES, ""),
    "mtl_R34_encoder1_imagenet": (*CITYSCAPES, R34),
    "mtl_R34_encoder2": (*CITYSCAPES, ""),
    "mtl_R34_encoder2_imagenet": (*CITYSCAPES, R34),
    "mtl_R34_encoder2_benchmark": (*CITYSCAPES, ""),
    # ImageNet's, by featcomp convert-efficientnet-lite.
    "photo_scenes_fctm_v1_EFLite0": ("photo_scenes_train", "photo_scenes_val", 2000, 200, ""),
    "photo_scenes_msfc_EFLite0": ("photo_scenes_train", "photo_scenes_val", 2000, 200, ""),
    "photo_scenes_lmsfc_EFLite0": ("photo_scenes_train", "photo_scenes_val", 2000, 200, ""),
    "photo_scenes_mtl_EFLite0": (
        *("photo_scenes_multi_task_train", "photo_scenes_multi_task_val", 2000, 200),
        "",
    ),
    "middlebury_mtl_EFLite0": ("photo_scenes_multi_task_train", "stereo:middlebury", 2000, 8, ""),
    "photo_scenes_msfc_R18": ("photo_scenes_train", "photo_scenes_val", 2000, 200, ""),
    "pyramid_R50": (*COCO, R50),
    "video_baf_yolov3_tiny": ("images:baf_photos/train", "images:baf_photos/val", 273, 133, ""),
    "quick/Base-R18": (*SCENES, ""),
    "quick/baf_yolov3_tiny": (*SCENES, ""),
    "quick/lmsfc_R18": (*SCENES, ""),
    "quick/lmsfc_R18_variable": (*SCENES, ""),
    "quick/fctm_v1_R18": (*SCENES, ""),
    "quick/msfc_R18": (*SCENES, ""),
    "quick/msfc_R18_learned": (*SCENES, ""),
    "quick/msfc_R18_variable": (*SCENES, ""),
    # Trained on the first 200 (MODEL.FEATCOMP.TRAIN.IMAGES).
    "quick/mtl_R34": ("scenes_multi_task_train", "scenes_multi_task_val", 200, 200, ""),
    "quick/yolov3_tiny": (*SCENES, ""),
    "scenes_msfc_R18": (*SCENES, ""),
    "scenes_msfc_R18_variable": (*SCENES, ""),
}

# Below projects/, of networks that are not in the package.
PROJECT_PROTOCOLS = {
    "NanoDet/configs/nanodet_levels": (*COCO, ""),
    "NanoDet/configs/nanodet_msfc": (*COCO, ""),
}

# Config, and the weights that the trainings start from where these are not the experiment's own.
EXPERIMENTS = {
    "BaF/coco": ("coco_baf_yolov3_tiny", ["baf_photos/yolov3-tiny.pth"]),
    "BaF/quarter": ("coco_baf_yolov3_tiny", ["baf_photos/yolov3-tiny.pth"]),
    "BaF/quickstart": ("quick/baf_yolov3_tiny", []),
    "BaF/split_points": ("coco_baf_yolov3_tiny", ["baf_photos/yolov3-tiny.pth"]),
    "BaF/video": ("video_baf_yolov3_tiny", ["baf_photos/yolov3-tiny.pth"]),
    "CompressibleMTL/learned_rate": ("quick/mtl_R34", []),
    "CompressibleMTL/middlebury": ("middlebury_mtl_EFLite0", [LITE0]),
    "CompressibleMTL/photo_scenes": ("photo_scenes_mtl_EFLite0", [LITE0]),
    "CompressibleMTL/quickstart": ("quick/mtl_R34", []),
    "CompressibleMTL/scenes": ("quick/mtl_R34", []),
    "CompressibleMTL/scenes_encoder1": ("quick/mtl_R34", []),
    "MSFC/photo_scenes": ("photo_scenes_msfc_R18", []),
    "MSFC/photo_scenes_anchors": ("photo_scenes_msfc_EFLite0", [LITE0]),
    "MSFC/photo_scenes_pretrained": ("photo_scenes_msfc_EFLite0", [LITE0]),
    "MSFC/quickstart": ("quick/msfc_R18_learned", []),
    "MSFC/rates": ("quick/msfc_R18_variable", []),
    "MSFC/scenes": ("scenes_msfc_R18", []),
    "MSFC/scenes_long": ("scenes_msfc_R18_variable", []),
    "MSFC/scenes_long_anchors": ("scenes_msfc_R18_variable", []),
    "MSFC/single_rates": ("quick/msfc_R18_variable", []),
    "MSFC/stride32_learned": ("quick/msfc_R18_learned", []),
    "NanoDet/plans/coco": ("../projects/NanoDet/configs/nanodet_msfc", ["nanodet/nanodet-g.pth"]),
}


def names_of(folder):
    return {str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.yaml")}


def test_no_config_and_no_experiment_is_left_out():
    assert names_of(ROOT / "configs") == set(PROTOCOLS)
    others = {*PROJECT_PROTOCOLS, "MSFC/deployment/ray_serve"}
    assert names_of(ROOT / "projects") == {*EXPERIMENTS, *others}


@pytest.mark.parametrize("name", PROTOCOLS)
def test_protocol(name):
    check_protocol(ROOT / "configs" / f"{name}.yaml", *PROTOCOLS[name])


@pytest.mark.parametrize("name", PROJECT_PROTOCOLS)
def test_protocol_of_a_project(name, nanodet):
    check_protocol(ROOT / "projects" / f"{name}.yaml", *PROJECT_PROTOCOLS[name])


def check_protocol(path, train, test, train_images, test_images, weights):
    cfg = setup_config(str(path))
    assert ((train,), (test,)) == (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST)
    assert (cfg.MODEL.FEATCOMP.TRAIN.IMAGES or IMAGES[train]) == train_images
    assert IMAGES[test] == test_images
    assert weights == cfg.MODEL.WEIGHTS
    assert train in DatasetCatalog and test in DatasetCatalog


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiment(name):
    config, checkpoints = EXPERIMENTS[name]
    description = read_sweep(str(ROOT / "projects" / f"{name}.yaml"))
    expected = ROOT / "configs" / f"{config}.yaml"
    assert Path(description["config_file"]).resolve() == expected.resolve()
    trainings = description["trainings"].values()
    assert [training["checkpoint"] for training in trainings if "checkpoint" in training] == checkpoints
    points = [point for curve in description["curves"] for point in (curve, *curve.get("points", []))]
    levels = description.get("levels", [])
    for part in (*trainings, *points, *levels):
        changed = part.get("overrides", {})
        assert not [key for key in changed if key.startswith("DATASETS.") or key == "MODEL.WEIGHTS"]


def test_names_stand_for_the_files_that_their_authors_publish():
    for name, path in ANNOTATIONS.items():
        assert MetadataCatalog.get(name).json_file.endswith(path)
    # Those 5000 are of val2014, and Darknet's weights have not seen them.
    assert MetadataCatalog.get("coco_2014_minival").image_root.endswith("coco/val2014")


def test_the_embedded_scenes_are_as_many_as_said():
    assert {"train": IMAGES["scenes_train"], "val": IMAGES["scenes_val"]} == SIZES


def test_baf_of_the_paper_starts_from_random_weights():
    for name, images in (
        ("baf_yolov3", 0),
        ("coco_baf_yolov3_tiny", 100),
        ("quick/baf_yolov3_tiny", 200),
    ):
        cfg = setup_config(str(ROOT / "configs" / f"{name}.yaml"))
        assert images == cfg.MODEL.FEATCOMP.BAF.FIT_IMAGES
