"""Data sets of scenes: whole, damaged, interrupted, and made by several processes at once."""

import json
import os
import shutil
import signal
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import processes
import pycocotools.mask as mask_util
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from PIL import Image
from scene_kinds import COUNTS, RECIPE, ROOT, STUFF, procedural_scene, window_of

from d2_featcomp.data.datasets.scenes import register_scenes
from d2_featcomp.data.scenes import (
    ProceduralObjects,
    Scene,
    SceneObject,
    ensure_scenes,
    is_complete,
    read_manifest,
    write_scenes,
)


def files_of(root):
    return {str(p.relative_to(root)): p.read_bytes() for p in Path(root).rglob("*") if p.is_file()}


def python(script, *arguments, **options):
    """A process of its own, with pipes; PYTHONHASHSEED as a user's, not as this one's."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "12345"}
    command = [sys.executable, "-c", script, *map(str, arguments)]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen(command, text=True, cwd=ROOT, env=environment, **pipes, **options)


@pytest.fixture(scope="module")
def data_set(tmp_path_factory):
    root = tmp_path_factory.mktemp("whole") / "scenes"
    ensure_scenes(str(root), RECIPE)
    return root


def test_the_data_set_loads_through_the_catalog(data_set):
    register_scenes("loaded_scenes", str(data_set))
    names = list(ProceduralObjects.classes)
    for part, count in COUNTS.items():
        records = DatasetCatalog.get(f"loaded_scenes_{part}")
        metadata = MetadataCatalog.get(f"loaded_scenes_{part}")
        assert len(records) == count
        assert metadata.thing_classes == names
        assert metadata.stuff_classes == ["wall", "floor", *names]
        assert metadata.evaluator_type == "coco"
        assert metadata.json_file == str(data_set / f"instances_{part}.json")
        assert len({record["image_id"] for record in records}) == count
        for record in records:
            check_record(record)
    train, val = (
        {record["file_name"] for record in DatasetCatalog.get(f"loaded_scenes_{part}")}
        for part in COUNTS
    )
    assert not train & val


def check_record(record):
    """The masks, boxes and categories of a record against its semantic and disparity maps."""
    shape = record["height"], record["width"]
    with Image.open(record["file_name"]) as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", shape[::-1])
    semantic = np.asarray(Image.open(record["sem_seg_file_name"]))
    disparity = np.asarray(Image.open(record["disparity_file_name"]))
    assert semantic.dtype == np.uint8 and disparity.dtype == np.uint16
    assert semantic.shape == disparity.shape == shape
    assert disparity.min() > 0  # known everywhere
    things = np.zeros(shape, dtype=int)
    for annotation in record["annotations"]:
        mask = mask_util.decode(annotation["segmentation"]).astype(bool)
        assert mask.shape == shape and not things[mask].any()
        things[mask] = STUFF + annotation["category_id"]
        rows, columns = window_of(mask)
        assert annotation["bbox"] == [
            columns.start,
            rows.start,
            columns.stop - columns.start,
            rows.stop - rows.start,
        ]
        assert annotation["bbox_mode"] == BoxMode.XYWH_ABS
        assert annotation["iscrowd"] == 0
    np.testing.assert_array_equal(np.where(semantic >= STUFF, semantic, 0), things)


class Fixed:
    """Composes one known scene of 2 x 4 pixels, again and again."""

    class objects:  # noqa: N801 - stands for the attribute of a composer
        classes = ("thing", "other")

    class backgrounds:  # noqa: N801
        stuff_classes = ("ground",)

    def compose(self, rng):
        mask = np.array([[0, 1, 1, 0], [0, 1, 0, 0]], dtype=bool)
        disparity = np.array([[0, 1, 2.5, 1 / 256], [255, 0.0039, 7.001, 0]], dtype=np.float32)
        semantic = np.where(mask, 2, 0).astype(np.uint8)
        return Scene(np.zeros((2, 4, 3), np.uint8), semantic, disparity, [SceneObject(1, mask)])


def test_files_of_a_known_scene(tmp_path):
    root = tmp_path / "known"
    description = {"counts": {"train": 1, "val": 2}, "seed": 3, "remark": "by hand"}
    write_scenes(str(root), {"train": Fixed(), "val": Fixed()}, description)
    # p = 256 d + 1, rounded; 0 where the disparity is not known
    disparity = np.asarray(Image.open(root / "val/disparity/000001.png"))
    np.testing.assert_array_equal(disparity, [[0, 257, 641, 2], [65281, 2, 1793, 0]])
    semantic = np.asarray(Image.open(root / "val/semantic/000001.png"))
    np.testing.assert_array_equal(semantic, [[0, 2, 2, 0], [0, 2, 0, 0]])
    coco = json.loads((root / "instances_val.json").read_text())
    assert coco["categories"] == [{"id": 1, "name": "thing"}, {"id": 2, "name": "other"}]
    assert coco["images"] == [
        {"id": 1, "file_name": "000000.jpg", "height": 2, "width": 4},
        {"id": 2, "file_name": "000001.jpg", "height": 2, "width": 4},
    ]
    assert [(a["id"], a["image_id"], a["category_id"]) for a in coco["annotations"]] == [
        (1, 1, 2),
        (2, 2, 2),
    ]
    assert all(a["area"] == 3 and a["bbox"] == [1, 0, 2, 2] for a in coco["annotations"])
    manifest = read_manifest(str(root))
    assert (manifest["seed"], manifest["remark"]) == (3, "by hand")
    assert set(manifest["files"]) | {"scenes.json"} == set(files_of(root))
    assert is_complete(str(root))


def test_a_whole_data_set_is_left_alone(data_set, tmp_path):
    root = tmp_path / "scenes"
    shutil.copytree(data_set, root)
    before = (root / "scenes.json").stat().st_ino

    def recipe():
        raise AssertionError("nothing is to be built")

    ensure_scenes(str(root), recipe)
    assert (root / "scenes.json").stat().st_ino == before
    assert files_of(root) == files_of(data_set)


def flip_a_byte(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-1])


def empty(path):
    path.write_bytes(b"")


def replace_by_list(path):
    path.write_text("[1, 2]")


def lose_the_file_list(path):
    path.write_text(path.read_text().replace('"files"', '"filed"'))


def damage_the_file_list(path):
    path.write_text(json.dumps({**json.loads(path.read_text()), "files": {"a": 3}}))


def lose_the_class_names(path):
    path.write_text(path.read_text().replace('"stuff_classes"', '"stuff_clasres"'))


def age(path):
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 0}))


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("train/images/000004.jpg", flip_a_byte),
        ("val/disparity/000002.png", cut_short),
        ("val/semantic/000000.png", empty),
        ("instances_train.json", flip_a_byte),
        ("instances_val.json", os.remove),
        ("train/images", shutil.rmtree),
        ("scenes.json", os.remove),
        ("scenes.json", cut_short),
        ("scenes.json", replace_by_list),
        ("scenes.json", lose_the_file_list),
        ("scenes.json", damage_the_file_list),
        ("scenes.json", lose_the_class_names),
        ("scenes.json", age),
    ],
)
def test_a_damaged_data_set_is_rebuilt_byte_for_byte(data_set, tmp_path, name, damage):
    root = tmp_path / "scenes"
    shutil.copytree(data_set, root)
    assert is_complete(str(root))
    damage(root / name)
    assert not is_complete(str(root))
    ensure_scenes(str(root), RECIPE)
    assert files_of(root) == files_of(data_set)


def test_a_damaged_data_set_without_recipe_is_refused(data_set, tmp_path):
    root = tmp_path / "scenes"
    shutil.copytree(data_set, root)
    flip_a_byte(root / "val/images/000001.jpg")
    register_scenes("broken_scenes", str(root))
    with pytest.raises(FileNotFoundError, match=r"broken_scenes_val.*featcomp make-scenes"):
        DatasetCatalog.get("broken_scenes_val")


def test_processes_that_start_together_make_one_data_set(data_set, tmp_path):
    script = """
import sys, zlib
import numpy as np
from d2_featcomp.data.datasets.scenes import procedural_recipe
from d2_featcomp.data.scenes import ensure_scenes, is_complete
calls = []
def recipe():
    calls.append(1)
    return procedural_recipe({"train": 6, "val": 3}, seed=7)()
composers, _ = procedural_recipe()()
scene = composers["train"].compose(np.random.default_rng([2021, 0, 0]))
print(*[zlib.crc32(x.tobytes()) for x in (scene.image, scene.semantic, scene.disparity)], flush=True)
sys.stdin.readline()
ensure_scenes(sys.argv[1], recipe)
print(len(calls), is_complete(sys.argv[1]))
"""
    root = tmp_path / "below" / "scenes"
    running = [python(script, root) for _ in range(2)]
    scene = procedural_scene(2021, 0, 0)
    checksums = [zlib.crc32(x.tobytes()) for x in (scene.image, scene.semantic, scene.disparity)]
    for process in running:  # ready, and drawing what this process draws
        line = process.stdout.readline()
        assert line and [int(word) for word in line.split()] == checksums, process.stderr.read()
    for process in running:
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = [process.communicate() for process in running]
    assert sorted(output for output, _ in outputs) == ["0 True\n", "1 True\n"], outputs
    assert files_of(root) == files_of(data_set)
    assert {path.name for path in root.parent.iterdir()} == {"scenes", "scenes.lock"}


def test_what_an_interruption_leaves_is_not_taken_for_a_data_set(data_set, tmp_path, tmp_path_factory):
    told = tmp_path_factory.mktemp("told")
    # First the disk refuses to grow a file any further, then the process is killed.
    script = """
import os, resource, signal, sys
from d2_featcomp.data.datasets.scenes import procedural_recipe
from d2_featcomp.data.scenes import write_scenes
root = sys.argv[1]
composers, description = procedural_recipe({"train": 6, "val": 3}, seed=7)()
_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, most))
try:
    write_scenes(root, composers, description)
except OSError as error:
    print(type(error).__name__, error.errno, os.listdir(os.path.dirname(root)))
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

class Killed:
    objects, backgrounds = composers["val"].objects, composers["val"].backgrounds

    def compose(self, rng):
        print("killed", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

write_scenes(root, {"train": composers["train"], "val": Killed()}, description)
"""
    root = tmp_path / "scenes"
    (told / "script.py").write_text(script)
    status, output, errors = processes.call(told / "script.py", [root], told / "told")
    assert output.splitlines()[0] == "OSError 27 ['scenes.lock']", errors  # 27: EFBIG
    assert output.splitlines()[1].startswith("killed"), errors  # by two threads, at times
    assert status == -signal.SIGKILL
    assert not root.exists() and not is_complete(str(root))
    left = list(tmp_path.iterdir())
    assert left and not any(is_complete(str(path)) for path in left)
    ensure_scenes(str(root), RECIPE)
    assert files_of(root) == files_of(data_set)
    assert {path.name for path in tmp_path.iterdir()} == {"scenes", "scenes.lock"}


def test_a_failed_rebuild_keeps_the_data_set_that_is_there(data_set, tmp_path):
    root = tmp_path / "scenes"
    shutil.copytree(data_set, root)
    composers, description = RECIPE()

    class Failing(Fixed):
        objects, backgrounds = composers["train"].objects, composers["train"].backgrounds

        def compose(self, rng):
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_scenes(str(root), {"train": composers["train"], "val": Failing()}, description)
    assert files_of(root) == files_of(data_set)
    assert {path.name for path in tmp_path.iterdir()} == {"scenes", "scenes.lock"}
