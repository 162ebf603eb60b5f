import pytest
from detectron2.data import DatasetCatalog

from d2_featcomp.data.coco_annotations import normalize_coco


def data_of(*annotations):
    return {"images": [{"id": 7, "height": 40, "width": 50}], "annotations": list(annotations)}


def test_what_is_missing_is_added():
    square = [[10, 10, 20, 10, 20, 30, 10, 30]]
    data = data_of(
        {"id": 3, "image_id": 7, "bbox": [1, 2, 3.5, 4]},
        {"id": 4, "image_id": 7, "segmentation": square},
        {"id": 5, "image_id": 7, "bbox": [0, 0, 50, 40], "segmentation": square, "iscrowd": 1},
        {"id": 6, "image_id": 7, "segmentation": {"size": [40, 50], "counts": [80, 20, 1900]}},
        {
            "id": 8,
            "image_id": 7,
            "bbox": [0, 0, 9, 9],
            "area": 5,
            "keypoints": [1, 1, 2, 0, 0, 0, 3, 3, 1],
        },
    )
    assert not normalize_coco(data, "a.json")
    box, polygon, crowd, lengths, points = data["annotations"]
    assert data["info"] == {}
    assert (box["area"], box["iscrowd"]) == (14.0, 0)
    assert (polygon["bbox"], polygon["area"]) == ([10, 10, 10, 20], 200.0)
    assert (crowd["bbox"], crowd["area"], crowd["iscrowd"]) == ([0, 0, 50, 40], 200.0, 1)
    assert (lengths["bbox"], lengths["area"]) == ([2, 0, 1, 20], 20.0)  # the upper half of column 2
    assert (points["area"], points["num_keypoints"]) == (5, 2)
    assert [annotation["id"] for annotation in data["annotations"]] == [3, 4, 5, 6, 8]


def test_ids_from_0_are_numbered_anew():
    boxes = [{"id": number, "image_id": 7, "bbox": [0, 0, 1, 1]} for number in (0, 5, 1)]
    data = data_of(*boxes)
    assert normalize_coco(data, "a.json")
    assert [annotation["id"] for annotation in data["annotations"]] == [1, 2, 3]


def test_an_annotation_of_nothing_is_named():
    with pytest.raises(ValueError, match=r"'a.json': annotation 9 has neither 'bbox' nor a mask"):
        normalize_coco(data_of({"id": 9, "image_id": 7, "segmentation": []}), "a.json")


def without(key, group="annotations"):
    def edit(data):
        del data[group][1][key]

    return edit


def same_id(data):
    data["annotations"][1]["id"] = 1


def ignored(data):
    data["annotations"][0]["ignore"] = 1


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (without("id"), "an entry lacks 'id'"),
        (without("image_id"), "an entry lacks 'image_id'"),
        (without("height", "images"), "an entry lacks 'height'"),
        (without("name", "categories"), "an entry lacks 'name'"),
        (same_id, "not unique"),
        (ignored, '"ignore" in COCO json file is not supported'),
        (lambda data: data.pop("categories"), "lacks 'categories'|empty"),
    ],
)
def test_mistakes_in_a_folders_file_are_told_with_its_name(coco_folder, edit, words):
    with pytest.raises(ValueError, match=rf"annotations\.json' does not follow COCO.*({words})"):
        DatasetCatalog.get(coco_folder(edit))


def test_a_file_that_is_no_json(coco_folder, tmp_path):
    name = coco_folder()
    (tmp_path / "set" / "annotations.json").write_text("{")
    with pytest.raises(ValueError, match=r"annotations\.json' does not follow COCO.*no JSON"):
        DatasetCatalog.get(name)
