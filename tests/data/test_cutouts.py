import json
import os
from pathlib import Path

import numpy as np
import processes
import pytest
from PIL import Image, ImageDraw

from d2_featcomp.data.scenes import CutoutObjects, PhotoBackgrounds, list_cutouts, list_photos

RED, BLUE = (200, 30, 30), (30, 30, 200)


def write_cutout(path, color=RED, size=(48, 40)):
    """An opaque ellipse on transparent ground."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGBA", size, (*color, 0))
    ImageDraw.Draw(image).ellipse((2, 2, size[0] - 3, size[1] - 3), fill=(*color, 255))
    image.save(path)


def write_photo(path, seed=0, size=(300, 260)):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)


def write_class(folder, name, count, color=RED):
    for index in range(count):
        write_cutout(folder / name / f"{index}.png", color)


def names(cutouts):
    return {label: [Path(path).stem for path in paths] for label, paths in cutouts.items()}


def stems_of_both_parts(folder, **options):
    train, val = (names(list_cutouts(str(folder), part, **options)) for part in ("train", "val"))
    return {label: sorted(train[label] + val[label]) for label in train}


def test_classes_are_the_folders_with_enough_cutouts(tmp_path):
    write_class(tmp_path, "cats", 8)
    write_class(tmp_path, "dogs", 9)
    write_class(tmp_path, "few", 7)
    write_cutout(tmp_path / "cats" / "wild" / "lion.png")  # at any depth
    write_cutout(tmp_path / "of_no_class.png")
    (tmp_path / "cats" / "notes.txt").write_text("no image")
    # Every fourth, in the order of the paths, is for validation.
    assert names(list_cutouts(str(tmp_path), "train")) == {
        "cats": ["0", "1", "2", "4", "5", "6", "lion"],
        "dogs": ["0", "1", "2", "4", "5", "6", "8"],
    }
    assert names(list_cutouts(str(tmp_path), "val")) == {"cats": ["3", "7"], "dogs": ["3", "7"]}
    assert list(list_cutouts(str(tmp_path), "val", min_per_class=7)) == ["cats", "dogs", "few"]
    assert list(list_cutouts(str(tmp_path), "val", classes=["few", "cats"])) == ["cats", "few"]


def test_cutouts_are_images_with_transparent_and_opaque_pixels(tmp_path):
    write_class(tmp_path, "things", 4)
    folder = tmp_path / "things"
    Image.new("RGBA", (48, 48), (*RED, 255)).save(folder / "opaque.png")
    Image.new("RGBA", (48, 48), (*RED, 0)).save(folder / "invisible.png")
    write_photo(folder / "photo.jpg")
    write_cutout(folder / "small.png", size=(48, 31))
    write_cutout(folder / "smallest.png", size=(32, 32))
    palette = Image.new("P", (40, 40), 0)
    palette.putpalette([255, 255, 255, *RED])
    palette.paste(1, (5, 5, 35, 35))
    palette.save(folder / "palette.png", transparency=0)
    found = stems_of_both_parts(tmp_path, classes=["things"])
    assert found["things"] == ["0", "1", "2", "3", "palette", "smallest"]


def test_excluded_words_are_looked_for_in_the_path_below_the_folder(tmp_path):
    folder = tmp_path / "cartoons"  # not below itself
    write_class(folder, "cats", 8)
    write_cutout(folder / "cats" / "cartoon" / "a.png")
    write_cutout(folder / "cats" / "b-cartoon.png")
    write_cutout(folder / "cats" / "sketch.png")
    found = stems_of_both_parts(folder, exclude=("cartoon", "sketch"))
    assert found == {"cats": [str(index) for index in range(8)]}


def test_mirrored_twins_share_a_part(tmp_path):
    twins = ("", "_left", "-RIGHT", "_mirror", "-flip", "_flipped", "_left_flip")
    for index in range(8):
        for twin in twins:
            write_cutout(tmp_path / "cats" / f"cat{index}{twin}.png")
    write_cutout(tmp_path / "cats" / "copyright.png")  # no twin of "copy"
    write_cutout(tmp_path / "cats" / "copy.webp")
    train, val = (names(list_cutouts(str(tmp_path), part))["cats"] for part in ("train", "val"))
    assert sorted(val) == sorted(f"cat{index}{twin}" for index in (3, 7) for twin in twins)
    rest = [f"cat{index}{twin}" for index in (0, 1, 2, 4, 5, 6) for twin in twins]
    assert sorted(train) == sorted([*rest, "copy", "copyright"])


@pytest.mark.parametrize("count", [2, 3, 4, 5, 11])
def test_parts_share_no_cutout_and_neither_is_empty(tmp_path, count):
    write_class(tmp_path, "cats", count)
    train, val = (
        list_cutouts(str(tmp_path), part, classes=["cats"])["cats"] for part in ("train", "val")
    )
    assert train and val and not set(train) & set(val)
    assert len(train) + len(val) == count


@pytest.mark.parametrize("count", [2, 3, 4, 9])
def test_parts_share_no_photograph_and_neither_is_empty(tmp_path, count):
    for index in range(count):
        write_photo(tmp_path / "deep" / f"{index}.jpg")
    train, val = (list_photos(str(tmp_path), part) for part in ("train", "val"))
    assert train and val and not set(train) & set(val)
    assert len(train) + len(val) == count
    if count == 9:
        assert [Path(path).stem for path in val] == ["3", "7"]


def test_unusable_folders_are_refused(tmp_path):
    missing = str(tmp_path / "missing")
    with pytest.raises(FileNotFoundError, match="missing"):
        list_cutouts(missing, "train")
    with pytest.raises(FileNotFoundError, match="missing"):
        list_photos(missing, "train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="0 images"):
        list_photos(str(tmp_path / "empty"), "train")
    with pytest.raises(ValueError, match="too few RGBA cut-outs of any class"):
        list_cutouts(str(tmp_path / "empty"), "train")

    write_class(tmp_path / "short", "cats", 1)
    with pytest.raises(ValueError, match=r"too few RGBA cut-outs of \['cats', 'dogs'\]"):
        list_cutouts(str(tmp_path / "short"), "train", classes=["dogs", "cats"])
    write_cutout(tmp_path / "short" / "cats" / "0_left.png")  # two images, but of one thing
    with pytest.raises(ValueError, match=r"too few RGBA cut-outs of \['cats'\]"):
        list_cutouts(str(tmp_path / "short"), "train", classes=["cats"])

    for index in range(10):
        write_photo(tmp_path / "opaque" / "cats" / f"{index}.png")
    with pytest.raises(ValueError, match="transparent pixels"):
        list_cutouts(str(tmp_path / "opaque"), "train")
    write_photo(tmp_path / "one" / "only.jpg")
    with pytest.raises(ValueError, match="1 images"):
        list_photos(str(tmp_path / "one"), "train")


def test_files_that_are_cut_short_are_named(tmp_path):
    write_class(tmp_path, "cats", 8)
    write_photo(tmp_path / "photos" / "a.png")
    for path in (tmp_path / "cats" / "3.png", tmp_path / "photos" / "a.png"):
        os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(ValueError, match=r"cats.3\.png' is no image that can be read"):
        list_cutouts(str(tmp_path), "train")
    with pytest.raises(ValueError, match=r"photos.a\.png' is no image that can be read"):
        PhotoBackgrounds([str(tmp_path / "photos" / "a.png")])


def test_cutouts_are_drawn_at_the_size_asked_for(tmp_path):
    write_cutout(tmp_path / "red.png", RED, (64, 48))
    write_cutout(tmp_path / "blue.png", BLUE, (400, 300))
    objects = CutoutObjects({"red": [str(tmp_path / "red.png")], "blue": [str(tmp_path / "blue.png")]})
    assert objects.classes == ("red", "blue")
    light = np.array([1.0, 0.0])
    seen = set()
    for seed in range(12):
        sprite, class_id = objects.draw(np.random.default_rng(seed), 80.0, light)
        again, _ = objects.draw(np.random.default_rng(seed), 80.0, light)
        np.testing.assert_array_equal(sprite, again)
        assert sprite.dtype == np.float32 and sprite.shape[2] == 4
        alpha = sprite[..., 3]
        assert alpha.min() == 0 and alpha.max() == 1
        rows, columns = np.nonzero(alpha > 0.5)
        # An ellipse 80 px wide and 60 px high, turned by 20 degrees at most.
        assert 74 <= np.ptp(columns) + 1 <= 82 and 57 <= np.ptp(rows) + 1 <= 66
        assert abs((alpha > 0.5).sum() / (np.pi * 40 * 30) - 1) < 0.06
        red, _, blue = sprite[alpha > 0.99][:, :3].mean(axis=0)
        assert (red > blue) == (class_id == 0)
        seen.add(class_id)
    assert seen == {0, 1}


def test_photographs_are_cropped_without_knowing_their_depth(tmp_path):
    paths = [str(tmp_path / f"{index}.png") for index in range(2)]
    for index, path in enumerate(paths):
        Image.new("RGB", (300, 260 - 100 * index), (255, 0, 0) if index else (0, 0, 255)).save(path)
    backgrounds = PhotoBackgrounds(paths)
    assert backgrounds.stuff_classes == ("background",)
    seen = set()
    for seed in range(8):
        background = backgrounds.draw(np.random.default_rng(seed), 192, 256)
        assert background.color.shape == (192, 256, 3) and background.color.dtype == np.float32
        assert background.semantic.shape == background.disparity.shape == (192, 256)
        assert background.semantic.dtype == np.uint8 and not background.semantic.any()
        assert background.disparity.dtype == np.float32 and not background.disparity.any()
        assert background.floor.shape == (192,) and (np.diff(background.floor) >= 0).all()
        # The smallest objects, of 44 px (disparity 11), stand at half the height, the largest lowest.
        feet = np.searchsorted(background.floor, (11, 32.5))
        assert 85 <= feet[0] <= 96 and 180 <= feet[1] < 192
        (colour,) = np.unique(background.color.reshape(-1, 3), axis=0)
        seen.add(tuple(colour.tolist()))
    assert seen == {(1, 0, 0), (0, 0, 1)}


def test_pictures_of_cameras_stand_upright(tmp_path):
    """As their EXIF data say: the ground is below, and objects stand on it."""
    rows = np.zeros((256, 192, 4), np.uint8)
    rows[128:] = 255  # the lower half is white, and opaque
    turned = Image.fromarray(rows).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x112] = 6  # a quarter to the right makes it upright
    turned.convert("RGB").save(tmp_path / "photo.png", exif=exif)
    turned.save(tmp_path / "cutout.png", exif=exif)
    (photo,) = PhotoBackgrounds([str(tmp_path / "photo.png")])._photos
    assert np.asarray(photo)[..., 0].mean(axis=1).tolist() == [0] * 128 + [255] * 128
    objects = CutoutObjects({"white": [str(tmp_path / "cutout.png")]})
    assert objects._sprites[0][0][0].size == (192, 128)
    Image.fromarray(np.full((260, 300), 514, np.uint16)).save(tmp_path / "dark.png")
    dark = PhotoBackgrounds([str(tmp_path / "dark.png")]).draw(np.random.default_rng(0), 192, 256)
    assert np.unique(dark.color).tolist() == [np.float32(2 / 255)]


def test_make_scenes_builds_a_data_set_that_another_process_finds(tmp_path):
    datasets = tmp_path / "datasets"
    write_class(tmp_path / "cutouts", "cats", 8, RED)
    write_class(tmp_path / "cutouts", "dogs", 8, BLUE)
    for index in range(5):
        write_photo(tmp_path / "photos" / f"{index}.jpg", seed=index)
    environment = {"DETECTRON2_DATASETS": str(datasets)}
    arguments = (
        *("--name", "my_scenes", "--train", 3, "--val", 2),
        *("--cutouts", tmp_path / "cutouts", "--backgrounds", tmp_path / "photos"),
    )
    status, told, errors = processes.call(
        "tools/make_scenes.py", arguments, tmp_path / "made", environment
    )
    assert status == 0, errors
    assert told == f"{datasets / 'my_scenes'}: 3 training and 2 validation scenes of cats, dogs\n"

    script = """
import json, runpy, sys
import numpy as np
from PIL import Image
from detectron2.data import DatasetCatalog, MetadataCatalog
import d2_featcomp

def is_complete():
    sys.argv = ["make_scenes.py", "--name", "my_scenes", "--check"]
    try:
        runpy.run_path("tools/make_scenes.py", run_name="__main__")
    except SystemExit as exit:
        return exit.code

report = {}
for part in ("train", "val"):
    records = DatasetCatalog.get(f"my_scenes_{part}")
    semantic, disparity = (
        [np.asarray(Image.open(record[f"{kind}_file_name"])) for record in records]
        for kind in ("sem_seg", "disparity")
    )
    report[part] = {
        "images": len(records),
        "objects": sum(len(record["annotations"]) for record in records),
        "known": all(((s > 0) == (d > 0)).all() for s, d in zip(semantic, disparity, strict=True)),
    }
report["things"] = MetadataCatalog.get("my_scenes_val").thing_classes
report["stuff"] = MetadataCatalog.get("my_scenes_val").stuff_classes
report["check"] = [is_complete()]
with open(records[0]["file_name"], "r+b") as file:
    file.seek(1000)
    byte = file.read(1)[0]
    file.seek(1000)
    file.write(bytes([byte ^ 1]))
report["check"].append(is_complete())
for name in ("my_scenes_train", "photo_scenes_val"):
    try:
        DatasetCatalog.get(name)
    except FileNotFoundError as error:
        report[name] = str(error)
print(json.dumps(report))
"""
    (tmp_path / "report.py").write_text(script)
    status, told, errors = processes.call(tmp_path / "report.py", (), tmp_path / "found", environment)
    assert status == 0, errors
    report = json.loads(told.splitlines()[-1])
    assert report["train"]["images"] == 3 and report["val"]["images"] == 2
    assert report["train"]["objects"] > 3 and report["val"]["objects"] > 2
    # The disparity of a photograph is not known, that of every object is.
    assert report["train"]["known"] and report["val"]["known"]
    assert report["things"] == ["cats", "dogs"]
    assert report["stuff"] == ["background", "cats", "dogs"]
    assert report["check"] == [0, 1]
    for name, folder in (("my_scenes_train", "my_scenes"), ("photo_scenes_val", "photo_scenes")):
        message = report[name]
        assert name in message and str(datasets / folder) in message and "\n" not in message
        assert "missing, incomplete or damaged" in message and "featcomp make-scenes" in message


def test_make_scenes_reports_unusable_folders_in_one_line(tmp_path):
    write_class(tmp_path / "cutouts", "cats", 1)
    write_photo(tmp_path / "photos" / "0.jpg")
    folders = ("--cutouts", tmp_path / "cutouts", "--backgrounds", tmp_path / "photos")
    status, _, errors = processes.call(
        "tools/make_scenes.py",
        ("--name", "none", *folders),
        tmp_path / "made",
        {"DETECTRON2_DATASETS": str(tmp_path / "datasets")},
    )
    assert status == 2
    assert errors.startswith("make_scenes.py: error: ") and errors.count("\n") == 1
    assert str(tmp_path / "cutouts") in errors
    assert not (tmp_path / "datasets").exists()


def test_cutouts_have_sizes_relative_to_each_other(tmp_path):
    wren, cow, nut = (
        str(tmp_path / path) for path in ("animals/birds/wren.png", "animals/cow.png", "food/nut.png")
    )
    for path in (wren, cow, nut):
        write_cutout(Path(path), size=(60, 48))
    cutouts = {"animals": [wren, cow], "food": [nut]}
    objects = CutoutObjects(cutouts, {"animals/": 1.5, "animals/birds": 0.5})
    plain = CutoutObjects(cutouts)
    ratios = {0: set(), 1: set()}
    for seed in range(24):
        sprite, class_id = objects.draw(np.random.default_rng(seed), 80.0, None)
        same, _ = plain.draw(np.random.default_rng(seed), 80.0, None)
        ratios[class_id].add(round(sprite.shape[1] / same.shape[1] * 2) / 2)
    assert ratios == {0: {0.5, 1.5}, 1: {1.0}}


def test_photographs_can_be_chosen(tmp_path):
    for name in ("a/Dune", "a/Storm", "b/Wood", "b/Flower"):
        write_photo(tmp_path / f"{name}.png")
    chosen = ("a/", "Wood")
    found = [list_photos(str(tmp_path), part, include=chosen) for part in ("train", "val")]
    assert [[Path(path).stem for path in paths] for paths in found] == [["Dune", "Storm"], ["Wood"]]
    with pytest.raises(ValueError, match="holds 1 images of Wood: two or more"):
        list_photos(str(tmp_path), "val", include=("Wood",))
