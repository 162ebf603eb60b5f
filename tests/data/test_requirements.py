import os
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from d2_featcomp.data.datasets.image_folders import register_image_folders
from d2_featcomp.data.datasets.scenes import find_data_root
from d2_featcomp.data.mappers import build_train_mapper, train_dicts
from d2_featcomp.engine import setup_config

RCNN = "configs/quick/msfc_R18.yaml"
POLYGONS = ("INPUT.MASK_FORMAT", "polygon")


def config_for(name, *overrides, config=RCNN):
    return setup_config(config, ["DATASETS.TRAIN", (name,), *POLYGONS, *overrides])


def each(change):
    def edit(data):
        for annotation in data["annotations"]:
            change(annotation)

    return edit


def one_without(key):
    return lambda data: data["annotations"][2].pop(key)


def test_what_is_complete_is_taken(coco_folder):
    name = coco_folder()
    assert len(train_dicts(config_for(name))) == 2
    assert len(train_dicts(config_for(name, config="configs/quick/yolov3_tiny.yaml"))) == 2


def test_images_without_objects(coco_folder):
    """Without any, or with crowds alone, there is nothing to train on, unless it is asked for."""
    yolo, keep = "configs/quick/yolov3_tiny.yaml", ("DATALOADER.FILTER_EMPTY_ANNOTATIONS", False)
    empty = coco_folder(lambda data: data["annotations"].clear(), "empty")
    crowds = coco_folder(each(lambda annotation: annotation.update(iscrowd=1)), "crowds")
    for name in (empty, crowds):
        with pytest.raises(ValueError, match=r"no image has an object .*FILTER_EMPTY_ANNOTATIONS to"):
            train_dicts(config_for(name, config=yolo))
        assert len(train_dicts(config_for(name, *keep, config=yolo))) == 2


def test_images_with_and_without_annotations_together(coco_folder):
    """In either order: a training of features takes all of them, one of boxes none."""
    keep = ("DATALOADER.FILTER_EMPTY_ANNOTATIONS", False)
    labelled, bare = coco_folder(), coco_folder(None, "bare")
    folder = bare.removeprefix("images:")
    os.remove(os.path.join(folder, "annotations.json"))
    bare = f"images:{folder}/"  # of another name, so that it is looked at anew
    register_image_folders([bare])
    for names in ([labelled, bare], [bare, labelled]):
        given = ["DATASETS.TRAIN", names]
        cfg = config_for(labelled, *given, *keep, "MODEL.FEATCOMP.LOSS", "distill")
        assert len(train_dicts(cfg)) == 4
        with pytest.raises(ValueError, match=r"2 of 4 images .* no annotations, which GeneralizedRCNN"):
            train_dicts(config_for(labelled, *given, *keep))
    with pytest.raises(ValueError, match=r"some have no annotations: set DATALOADER\.FILTER_EMPTY"):
        train_dicts(config_for(labelled, "DATASETS.TRAIN", [labelled, bare]))


def test_masks_are_needed_where_they_are_trained(coco_folder):
    some = coco_folder(one_without("segmentation"), "some")
    with pytest.raises(ValueError, match=r"1 of 4 annotations .*without a mask .*MODEL.MASK_ON is True"):
        train_dicts(config_for(some))
    empty = coco_folder(each(lambda annotation: annotation.update(segmentation=[])), "empty")
    with pytest.raises(ValueError, match=r"4 of 4 annotations .*without a mask"):
        train_dicts(config_for(empty))
    for name in (some, empty):
        assert train_dicts(config_for(name, "MODEL.MASK_ON", False))
        assert train_dicts(config_for(name, config="configs/quick/yolov3_tiny.yaml"))
        # The split alone, trained to restore features, needs none.
        assert train_dicts(config_for(name, "MODEL.FEATCOMP.LOSS", "distill"))


def test_run_lengths_are_no_polygons(coco_folder):
    lengths = {"size": [64, 96], "counts": [650, 20, 5474]}
    name = coco_folder(each(lambda annotation: annotation.update(segmentation=lengths)))
    with pytest.raises(ValueError, match=r"set INPUT.MASK_FORMAT to bitmask"):
        train_dicts(config_for(name))
    assert train_dicts(config_for(name, "INPUT.MASK_FORMAT", "bitmask"))


def test_boxes_and_keypoints_are_needed_too(coco_folder):
    with pytest.raises(ValueError, match=r"1 of 4 annotations .*without a box \('bbox'\)"):
        train_dicts(config_for(coco_folder(one_without("bbox"), "boxes")))
    with pytest.raises(
        ValueError, match=r"4 of 4 annotations .*without keypoints .*MODEL.KEYPOINT_ON is"
    ):
        keypoints = ("MODEL.KEYPOINT_ON", True, "MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE", 0)
        train_dicts(config_for(coco_folder(name="points"), *keypoints))


@pytest.mark.parametrize(
    ("key", "settings"),
    [
        ("MODEL.ROI_HEADS.NUM_CLASSES", {}),
        ("MODEL.YOLOV3.NUM_CLASSES", {"config": "configs/quick/yolov3_tiny.yaml"}),
        ("MODEL.RETINANET.NUM_CLASSES", {"config": "configs/msfc_retinanet_R50.yaml"}),
    ],
)
def test_too_few_classes_are_told_with_both_numbers(coco_folder, key, settings):
    name = coco_folder()
    with pytest.raises(ValueError, match=rf"{key} is 1, but .* have 2 classes \(a, b\): set it to 2"):
        train_dicts(config_for(name, key, 1, **settings))
    assert train_dicts(config_for(name, key, 2, **settings))


def test_classes_that_the_data_lack_are_told_once(coco_folder, caplog):
    name = coco_folder()
    for _stage in range(2):
        assert train_dicts(config_for(name, "MODEL.ROI_HEADS.NUM_CLASSES", 5))
    told = [record.getMessage() for record in caplog.records if record.name == "d2_featcomp"]
    assert (
        len(told) == 1 and "NUM_CLASSES is 5" in told[0] and "2 classes (a, b): set it to 2" in told[0]
    )


@pytest.mark.parametrize("lost", [["1.png", "2.png"], ["2.png"]])
def test_missing_images_are_told_before_a_training(coco_folder, tmp_path, lost):
    name = coco_folder()
    for file in lost:
        (tmp_path / "set" / file).unlink()
    with pytest.raises(
        FileNotFoundError, match=rf"no image .*{lost[0]}', which is of .*correct its path"
    ):
        train_dicts(config_for(name))


def test_records_of_other_projects_may_hold_path_objects(coco_folder):
    """As Detectron2 takes them."""
    records = DatasetCatalog.get(coco_folder())
    for record in records:
        record["file_name"] = Path(record["file_name"])
    DatasetCatalog.register("of_paths", lambda: records)
    try:
        assert len(train_dicts(config_for("of_paths", "MODEL.ROI_HEADS.NUM_CLASSES", 2))) == 2
        records[1]["file_name"] = Path("nowhere.png")
        with pytest.raises(FileNotFoundError, match=r"no image 'nowhere\.png', which is of 'of_paths'"):
            train_dicts(config_for("of_paths"))
    finally:
        DatasetCatalog.remove("of_paths")


def test_a_training_without_a_data_set_is_told():
    with pytest.raises(ValueError, match=r"DATASETS\.TRAIN names no data set"):
        train_dicts(setup_config(RCNN, ["DATASETS.TRAIN", ()]))


def test_annotations_may_lie_elsewhere(coco_folder, tmp_path, monkeypatch):
    coco_folder()
    (tmp_path / "set" / "annotations.json").rename(tmp_path / "instances_train.json")
    monkeypatch.chdir(tmp_path)
    name = "images:set:instances_train.json"
    records = train_dicts(config_for(name, "MODEL.ROI_HEADS.NUM_CLASSES", 2))
    assert [record["file_name"] for record in records] == ["set/1.png", "set/2.png"]
    assert MetadataCatalog.get(name).json_file == "instances_train.json"
    with pytest.raises(
        FileNotFoundError, match=r"no file 'instances.json', which is of 'images:set:inst"
    ):
        train_dicts(config_for("images:set:instances.json"))


def test_networks_that_are_not_cut_and_unknown_ones(coco_folder):
    name = coco_folder()
    with pytest.raises(ValueError, match=r"ROI_HEADS.NUM_CLASSES is 1"):
        plain = ("MODEL.META_ARCHITECTURE", "GeneralizedRCNN", "MODEL.ROI_HEADS.NUM_CLASSES", 1)
        train_dicts(config_for(name, *plain))
    assert train_dicts(config_for(name, "MODEL.META_ARCHITECTURE", "SomeoneElses"))


def test_a_folder_without_annotations_trains_what_needs_none(coco_folder, tmp_path):
    coco_folder(name="set")
    (tmp_path / "set").rename(tmp_path / "bare")
    (tmp_path / "bare" / "annotations.json").unlink()
    name = f"images:{tmp_path / 'bare'}"
    with pytest.raises(ValueError, match=r"bare' .DATASETS.TRAIN. have no annotations"):
        train_dicts(config_for(name))
    assert len(train_dicts(config_for(name, "MODEL.FEATCOMP.LOSS", "distill"))) == 2
    # The reconstruction task's target is the image itself.
    images = ("MODEL.FEATCOMP.TRAIN.IMAGES", 0)
    assert len(train_dicts(config_for(name, *images, config="configs/quick/mtl_R34.yaml"))) == 2


def test_a_missing_data_set_is_told_with_where_it_is_looked_for(tmp_path):
    advice = {
        os.path.join(
            find_data_root(), "nowhere.json"
        ): f"DETECTRON2_DATASETS (now {find_data_root()!r})",
        str(tmp_path / "nowhere.json"): "correct its path, where the data set is registered",
        "nowhere/some.json": f"correct its path, which begins at {os.getcwd()!r}, where the data set is",
    }
    for path, words in advice.items():
        register_coco_instances("nowhere", {}, path, str(tmp_path))
        try:
            with pytest.raises(FileNotFoundError) as raised:
                train_dicts(config_for("nowhere"))
        finally:
            DatasetCatalog.remove("nowhere")
            MetadataCatalog.remove("nowhere")
        assert str(raised.value).startswith(f"no file {path!r}, which is of 'nowhere':")
        assert words in str(raised.value)


def add_keypoints(data):
    for annotation in data["annotations"]:
        annotation["keypoints"] = [20, 20, 2, 30, 20, 2, 25, 30, 2]
    for category in data["categories"]:
        category["keypoints"] = ["left_eye", "right_eye", "nose"]


def test_keypoints_of_a_folder_are_named(coco_folder):
    """By which they are flipped, and counted."""
    name = coco_folder(add_keypoints)
    settings = ["MODEL.KEYPOINT_ON", True, "TEST.KEYPOINT_OKS_SIGMAS", (0.1, 0.1, 0.1)]
    with pytest.raises(ValueError, match=r"NUM_KEYPOINTS is 17, but objects of .* have 3 keypoints"):
        train_dicts(config_for(name, *settings))
    cfg = config_for(name, *settings, "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS", 3)
    (record, _) = train_dicts(cfg)
    metadata = MetadataCatalog.get(name)
    assert metadata.keypoint_names == ["left_eye", "right_eye", "nose"]
    assert metadata.keypoint_flip_map == [("left_eye", "right_eye")]
    keypoints = build_train_mapper(cfg)(record)["instances"].gt_keypoints
    assert keypoints.tensor.shape == (2, 3, 3)


def test_panoptic_networks_need_semantic_maps(coco_folder):
    name, config = coco_folder(), "configs/msfc_panoptic_R50.yaml"
    with pytest.raises(ValueError, match=rf"2 of 2 images .*'{name}'.* without a semantic map .*Panop"):
        train_dicts(config_for(name, config=config))
    assert train_dicts(config_for(name, "MODEL.FEATCOMP.LOSS", "distill", config=config))
