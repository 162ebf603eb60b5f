"""What is known of each image, where an evaluator kept how detections were matched."""

import types

import numpy as np
import pytest
from detectron2.data import DatasetCatalog

from d2_featcomp.evaluation import ImageMatches
from d2_featcomp.experiments.image_rows import collect_image_rows


def save_matches(folder, hits):
    """Three images; the first two with an object, for which there is one detection, right or wrong."""
    hits = np.array([hits])
    folder.joinpath("inference").mkdir(parents=True)
    ImageMatches(
        image_ids=np.array([7, 8, 9]),
        thresholds=np.array([0.5]),
        recalls=np.linspace(0, 1, 101),
        objects=np.array([[1, 1, 0]]),
        categories=np.zeros(2, np.int64),
        images=np.array([0, 1]),
        hits=hits,
        misses=~hits,
    ).save(folder / "inference" / "matches_bbox.npz")


@pytest.fixture
def report(tmp_path):
    lines = [
        f"{name},old/{n}.jpg,{n + size}\n" for name, size in (("b", 10), ("a", 20)) for n in (7, 8, 9)
    ]
    (tmp_path / "per_image.csv").write_text("setting,image,bytes\n" + "".join(lines))
    records = [{"image_id": n, "file_name": f"new/{n}.jpg"} for n in (9, 8, 7)]
    DatasetCatalog.register("image_rows", lambda: records)
    names = ("a", "b", "level")
    yield types.SimpleNamespace(
        output=str(tmp_path),
        plan=types.SimpleNamespace(points=dict.fromkeys(names), ys=("kB/image", "box AP50")),
        qualities=lambda: ["PQ", "box AP", "box AP50"],
        configs={
            name: types.SimpleNamespace(
                OUTPUT_DIR=str(tmp_path / name), DATASETS=types.SimpleNamespace(TEST=("image_rows",))
            )
            for name in names
        },
    )
    DatasetCatalog.remove("image_rows")


def test_images_have_bytes_and_the_quality_of_their_own_objects(report, tmp_path):
    save_matches(tmp_path / "a", [True, False])
    save_matches(tmp_path / "level", [True, True])
    assert collect_image_rows(report) == {
        "column": "box AP50",
        "images": ["7.jpg", "8.jpg", "9.jpg"],
        "settings": {
            "a": {"bytes": [27, 28, 29], "quality": [100.0, 0.0, None]},
            "b": {"bytes": [17, 18, 19], "quality": [None] * 3},
            "level": {"bytes": [None] * 3, "quality": [100.0, 100.0, None]},
        },
    }


def test_bytes_alone_where_no_matches_can_be_read(report, tmp_path):
    (tmp_path / "a" / "inference").mkdir(parents=True)
    (tmp_path / "a" / "inference" / "matches_bbox.npz").write_bytes(b"damaged")
    found = collect_image_rows(report)
    assert found["column"] == "" and list(found["settings"]) == ["a", "b"]
    assert found["settings"]["b"]["bytes"] == [17, 18, 19]


def test_paths_where_two_images_have_one_file_name(report, tmp_path):
    (tmp_path / "per_image.csv").write_text("setting,image,bytes\na,x/1.jpg,1\na,y/1.jpg,2\n")
    assert collect_image_rows(report)["images"] == ["x/1.jpg", "y/1.jpg"]


def test_nothing_where_nothing_was_written(report, tmp_path):
    (tmp_path / "per_image.csv").unlink()
    assert collect_image_rows(report) == {"column": "", "images": [], "settings": {}}
