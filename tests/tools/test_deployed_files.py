"""Edge and cloud from nothing but their files, in this process; what they write is COCO's format."""

import json
import os

import deployed
import networks
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.structures import Boxes, Instances
from PIL import Image
from pycocotools.coco import COCO

from d2_featcomp.codecs import FeatureBitstream, ImageSizes
from d2_featcomp.deploy.classes import choose_categories, count_classes, read_categories
from d2_featcomp.engine import export_sub_models, setup_config
from d2_featcomp.serving import ImageTable, make_result, read_annotations
from d2_featcomp.serving.coco_results import collect_answers, open_image_table

CONFIG = networks.MSFC
SMALL = deployed.OPTS
NAMES = ["ball", "cat", "dog", "egg", "fox", "gnu"]
IDS = [7, 3, 90, 12, 15, 18]  # of the data set; Detectron2 counts classes by rising ids
FILES = {41: "b.png", 17: "a.png"}
CPU = ("MODEL.DEVICE", "cpu")


def write_photos(folder, names, seed=0):
    os.makedirs(folder, exist_ok=True)
    rng = np.random.default_rng(seed)
    for index, name in enumerate(sorted(names)):
        pixels = rng.integers(0, 256, (64 + 8 * index, 96, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(os.path.join(folder, name))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Photographs, annotated and not; and a network for them, exported."""
    folder = tmp_path_factory.mktemp("files")
    write_photos(folder / "annotated", FILES.values())
    write_photos(folder / "plain", ["a.png", "b.png"])
    images = [{"id": i, "file_name": n, "height": 64, "width": 96} for i, n in FILES.items()]
    categories = [{"id": i, "name": n} for i, n in zip(sorted(IDS), NAMES, strict=True)]
    data = {"images": images, "annotations": [], "categories": categories[::-1]}
    (folder / "annotated" / "annotations.json").write_text(json.dumps(data))
    opts = [*SMALL, "DATASETS.TEST", f"('images:{folder}/annotated',)"]
    networks.save("msfc", folder / "whole.pth")
    export_sub_models(
        setup_config(CONFIG, [*opts, "MODEL.WEIGHTS", str(folder / "whole.pth")]), str(folder)
    )
    return folder


@pytest.fixture
def run(root, run_tool):
    """Runs tools/edge.py or tools/cloud.py without a configuration."""

    def call(tool, *arguments, weights=None):
        weights = weights or root / f"{tool}.pth"
        return run_tool(f"tools/{tool}.py", "--weights", weights, *arguments, *CPU)

    return call


@pytest.fixture(scope="module")
def variable(tmp_path_factory):
    """edge.pth of a network that codes at any rate, and expects that most symbols are 0."""
    folder = tmp_path_factory.mktemp("variable")
    codec = "MODEL.FEATCOMP.CODEC."
    opts = [*SMALL, f"{codec}NAME", "variable_rate", f"{codec}QUANTIZER", "tensor", f"{codec}BITS", "4"]
    network = networks.build(CONFIG, opts, prepare=networks.calibrate)
    model = network.feature_codec.context_models[0].train()
    with torch.no_grad():
        model.head_bias.view(-1, 16)[:, 8] = 3
    torch.save({"model": network.state_dict()}, folder / "whole.pth")
    export_sub_models(setup_config(CONFIG, [*opts, "MODEL.WEIGHTS", str(folder / "whole.pth")]), folder)
    return folder / "edge.pth"


def test_a_bit_rate_is_held(root, run, variable, tmp_path):
    """Two images at one a second: no rate, the largest and the smallest, then a bit rate in between."""

    def sizes(folder, *more):
        status, told, error = run(
            "edge", "--input", root / "plain", "--output", tmp_path / folder, *more, weights=variable
        )
        assert status == 0, error
        return [os.path.getsize(tmp_path / folder / name) for name in ("a.d2fc", "b.d2fc")], told

    rate = "MODEL.FEATCOMP.CODEC.RATE"
    (largest, _), (smallest, _) = sizes("most", rate, 1), sizes("least", rate, 0)
    assert sizes("exported")[0] == largest and sum(smallest) < 0.8 * sum(largest)
    wanted = (sum(largest) + sum(smallest)) / 4  # bytes of an image
    found, told = sizes("held", "--target-kbit-s", wanted * 8 / 1000, "--fps", 1)
    assert found[0] == pytest.approx(wanted, rel=0.03)
    assert sum(found) == pytest.approx(2 * wanted, rel=0.05)
    assert "0 images could not be brought" in told
    _, told = sizes("little", "--target-kbit-s", 0.01, "--fps", 1)
    assert "2 images could not be brought" in told
    found, told = sizes("each", "--target-kb", wanted / 1000)
    assert found[0] == pytest.approx(wanted, rel=0.03) and "could not" not in told
    found, told = sizes("none", "--target-kb", 0.001)
    ends = " to ".join(f"{size / 1000:.2f}" for size in (min(found), max(found)))
    assert f"2 images could not be brought within 3 % of the target: the nearest are {ends} kB" in told


def test_bit_rates_need_a_rate(root, run, variable, tmp_path):
    arguments = ("edge", "--input", root / "plain", "--output", tmp_path, "--target-kbit-s", 9)
    status, _, error = run(*arguments, "--fps", 1)
    assert status == 2 and "has one rate" in error
    status, _, error = run(*arguments, weights=variable)
    assert status == 2 and "needs --fps" in error
    status, _, error = run(*arguments, "--fps", 0, weights=variable)
    assert status == 2 and "the image rate is 0" in error


def test_results_have_the_ids_of_the_data_set(root, run, tmp_path):
    out, results = tmp_path / "out", tmp_path / "results"
    status, _, error = run("edge", "--input", root / "annotated", "--output", out)
    assert status == 0, error
    assert sorted(os.listdir(out)) == ["a.d2fc", "b.d2fc", "images.json"]
    status, told, error = run("cloud", "--input", out, "--output", results)
    assert status == 0 and "6 instances" in told, error
    found = json.loads((results / "results.json").read_text())
    assert {entry["image_id"] for entry in found} == set(FILES)
    names = dict(zip(sorted(IDS), NAMES, strict=True))
    assert all(names[entry["category_id"]] == entry["category"] for entry in found)
    assert all(0 <= entry["score"] <= 1 for entry in found)
    # Both the data set's own file and the one that was written read them.
    for path in (root / "annotated" / "annotations.json", results / "images.json"):
        loaded = COCO(str(path)).loadRes(str(results / "results.json"))
        assert len(loaded.anns) == 6
        assert {image["file_name"] for image in loaded.loadImgs(loaded.getImgIds())} == set(
            FILES.values()
        )
        assert {category["name"] for category in loaded.loadCats(loaded.getCatIds())} == set(NAMES)


@pytest.mark.parametrize("how", ["--annotations", "--images"])
def test_ids_are_found_by_file_names(root, run, tmp_path, how):
    assert run("edge", "--input", root / "plain", "--output", tmp_path / "out")[0] == 0
    assert sorted(os.listdir(tmp_path / "out")) == ["a.d2fc", "b.d2fc"]
    given = root / "annotated" / ("annotations.json" if how == "--annotations" else "")
    more = (how, given, "--output", tmp_path / "results")
    status, _, error = run("cloud", "--input", tmp_path / "out", *more)
    assert status == 0, error
    found = json.loads((tmp_path / "results" / "results.json").read_text())
    assert {entry["image_id"] for entry in found} == set(FILES)


def test_without_a_data_set_a_mapping_is_written(root, run, tmp_path):
    assert run("edge", "--input", root / "plain", "--output", tmp_path / "out")[0] == 0
    more = ("--output", tmp_path / "results", "--classes", ",".join(NAMES[::-1]))
    assert run("cloud", "--input", tmp_path / "out", *more)[0] == 0
    coco = COCO(str(tmp_path / "results" / "images.json"))
    loaded = coco.loadRes(str(tmp_path / "results" / "results.json"))
    assert [image["id"] for image in coco.dataset["images"]] == [1, 2]
    assert [image["file_name"] for image in coco.dataset["images"]] == ["a", "b"]
    assert len(loaded.anns) == 6
    names = {category["id"]: category["name"] for category in coco.dataset["categories"]}
    assert names == dict(zip(sorted(IDS), NAMES[::-1], strict=True))
    status, _, error = run("cloud", "--input", tmp_path / "out", "--classes", "a,b,c")
    assert status == 2 and "3 class names (a, b, c) for a network of 6 classes" in error
    assert error.count("\n") == 1


def test_names_of_other_than_instances(root, run, tmp_path):
    out = tmp_path / "out"
    assert run("edge", "--input", root / "plain" / "a.png", "--output", out)[0] == 0
    os.rename(out / "a.d2fc", out / "results.d2fc")
    status, _, error = run("cloud", "--input", out, "--output", tmp_path / "results")
    assert status == 2 and "an image is called 'results'" in error


def test_settings_that_change_what_is_sent_are_refused(root, run, tmp_path):
    for tool, source in (("edge", root / "plain"), ("cloud", tmp_path)):
        more = ("--input", source, "--output", tmp_path / "out", "MODEL.FEATCOMP.CODEC.BITS", "8")
        status, _, error = run(tool, *more)
        assert status == 2 and "exported with MODEL.FEATCOMP.CODEC.BITS 2, not 8" in error
    # A configuration beside the weights must agree with them, too: here the test size does not.
    more = ("--input", root / "plain", "--output", tmp_path / "out", "--config-file", CONFIG)
    status, _, error = run("edge", *more, *SMALL[:-2])
    assert status == 2 and "exported with INPUT.MIN_SIZE_TEST 64, not 192" in error
    assert not os.listdir(tmp_path / "out")
    status, _, error = run("edge", *more[:4], weights=root / "whole.pth")
    assert status == 2 and "no configuration that can be read: give --config-file" in error
    assert run("edge", *more, *SMALL)[0] == 0


def test_what_cannot_be_coded_does_not_stop_the_rest(root, run, tmp_path):
    photos = tmp_path / "photos"
    write_photos(photos, ["m.png", "z.png"])
    Image.new("RGB", (3, 2000)).save(photos / "a_strip.png")
    (photos / "n.png").write_bytes(b"no image")
    status, told, error = run("edge", "--input", photos, "--output", tmp_path / "out")
    assert status == 3 and "2 images" in told
    assert "a_strip: an image of 3 x 2000 pixels" in error and "n.png" in error
    assert sorted(os.listdir(tmp_path / "out")) == ["m.d2fc", "z.d2fc"]


def test_no_bitstream_replaces_another_images(root, run, tmp_path):
    out = tmp_path / "out"
    write_photos(tmp_path / "one", ["x.png", "x.jpg", "y.png"])
    write_photos(tmp_path / "two", ["y.png"], seed=1)
    assert run("edge", "--input", tmp_path / "one", tmp_path / "two", "--output", out)[0] == 0
    streams = ["one_y.png.d2fc", "two_y.png.d2fc", "x.jpg.d2fc", "x.png.d2fc"]
    assert sorted(os.listdir(out)) == streams
    assert run("cloud", "--input", out, "--output", tmp_path / "results")[0] == 0
    assert {f"{name[:-5]}.json" for name in streams} < set(os.listdir(tmp_path / "results"))
    # In separate calls: the same image again is no harm, another one is.
    one, two = tmp_path / "one" / "y.png", tmp_path / "two" / "y.png"
    for source, more, status in ((one, (), 0), (one, (), 0), (two, (), 2), (two, ("--overwrite",), 0)):
        before = (out / "y.d2fc").read_bytes() if (out / "y.d2fc").exists() else None
        found, _, error = run("edge", "--input", source, "--output", out, *more)
        assert found == status and ("choose another --output" in error) == (status == 2)
        changed = (out / "y.d2fc").read_bytes() != before
        assert changed == (before is None or bool(more))


def test_answers_of_a_server_become_coco_results(root, tmp_path):
    """As tools/edge.py --connect --output gathers them, in two calls."""
    output = {"instances": [], "height": 64, "width": 96}
    entry = {"bbox": [1, 2, 3, 4], "score": 0.5, "category_id": 15, "category": "fox"}
    for name, digest in (("a", "0" * 16), ("b", "1" * 16)):
        identity = f"{name}-{digest}"
        instances = [{**entry, "image_id": identity}]
        answer = {**output, "instances": instances, "image_id": identity, "name": name}
        (tmp_path / f"{identity}.json").write_text(json.dumps(answer))
        table, categories = open_image_table([str(root / "annotated")], str(tmp_path))
        collect_answers(str(tmp_path), table, categories)
    for path in (root / "annotated" / "annotations.json", tmp_path / "images.json"):
        loaded = COCO(str(path)).loadRes(str(tmp_path / "results.json"))
        assert sorted(a["image_id"] for a in loaded.anns.values()) == [17, 41]
    # Of earlier calls, ids stay, whatever is given now.
    table, _ = open_image_table([], str(tmp_path))
    assert table.find("b", 64, 96) == 41 and table.find("new", 1, 1) == 42


def test_of_several_answers_the_newest_counts(tmp_path):
    """Of the same photograph at another rate, or of a camera that begins again."""
    for time, (digest, x, height) in enumerate([("f" * 16, 1, 64), ("0" * 16, 2, 80)]):
        path = tmp_path / f"a-{digest}.json"
        instances = [{"category_id": 1, "score": 1.0, "bbox": [x, 1, 2, 2]}]
        answer = {"image_id": path.stem, "name": "a", "height": height, "width": 96}
        path.write_text(json.dumps({**answer, "instances": instances}))
        os.utime(path, (time, time))
        table, categories = open_image_table([], str(tmp_path))
        assert table.find("a", height, 96, time=time / 2) == 1
        assert collect_answers(str(tmp_path), table, categories) == 1
        (found,) = json.loads((tmp_path / "results.json").read_text())
        (image,) = json.loads((tmp_path / "images.json").read_text())["images"]
        assert found["bbox"][0] == x and (image["height"], image["time"]) == (height, time / 2)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"image_id": "b", "height": 1, "width": 1, "instances": [3]}', None]
)
def test_an_answer_that_is_damaged_is_told_and_left_out(tmp_path, capsys, text):
    identity = "a-0123456789abcdef"
    answer = {"image_id": identity, "name": "a", "height": 64, "width": 96}
    found = [{"category_id": 1, "score": 1.0, "bbox": [1, 1, 2, 2]}]
    (tmp_path / f"{identity}.json").write_text(json.dumps({**answer, "instances": found}))
    damaged = tmp_path / "b-0123456789abcdef.json"
    damaged.mkdir() if text is None else damaged.write_text(text)
    table, categories = open_image_table([], str(tmp_path))
    assert collect_answers(str(tmp_path), table, categories) == 1
    told = capsys.readouterr().err
    assert f"{str(damaged)!r} is no answer of a server (" in told and told.count("\n") == 1


def test_ids_of_a_table():
    images = [{"id": 5, "file_name": "train/x.jpg"}, {"id": 8, "file_name": "val/x.jpg"}]
    table = ImageTable([*images, {"id": 9, "file_name": "y.tar.png"}])
    assert table.find("train_x.jpg", 1, 1) == 5 and table.find("val/x.jpg", 1, 1) == 8
    assert table.find("y.tar", 1, 1) == 9 and not table.unknown
    assert table.find("x", 1, 1) == 10 and table.find("x", 1, 1) == 10  # of two, nobody knows which
    assert table.unknown == ["x"]


@pytest.mark.parametrize("text", ["[]", "{}", '{"images": [{"id": 1}]}', '{"images": 3}', "no JSON"])
def test_no_annotations(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match="no file in COCO's format"):
        read_annotations(str(tmp_path / "a.json"))


def test_class_names_of_registered_data_sets(root):
    register_coco_instances("own_set", {}, str(root / "annotated" / "annotations.json"), "nowhere")
    DatasetCatalog.register("names_alone", lambda: 1 / 0)
    MetadataCatalog.get("names_alone").set(thing_classes=["one", "two"])
    try:
        # Detectron2 counts classes by rising ids, whatever their order in the file is.
        own = [{"id": i, "name": n} for i, n in zip(sorted(IDS), NAMES, strict=True)]
        assert read_categories("own_set") == own
        assert read_categories("names_alone") == [{"id": 1, "name": "one"}, {"id": 2, "name": "two"}]
        assert read_categories("coco_2017_val")[79] == {"id": 90, "name": "toothbrush"}
        assert len(read_categories("scenes_val")) == 6 and read_categories("never") == []
        opts = ("DATASETS.TEST", "('names_alone', 'own_set')")
        cfg = setup_config(CONFIG, opts)
        assert choose_categories(cfg, 6) == own
        assert [c["name"] for c in choose_categories(cfg, 2)] == ["one", "two"]
        assert choose_categories(cfg, 3) == [{"id": i + 1, "name": str(i)} for i in range(3)]
    finally:
        for name in ("own_set", "names_alone"):
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)


def test_the_embedded_scenes_are_not_drawn_for_their_names(root, run_tool, tmp_path, monkeypatch):
    def draw(*arguments):
        raise AssertionError("the data set is drawn")

    monkeypatch.setattr("d2_featcomp.data.datasets.scenes.ensure_scenes", draw)
    more = ("--config-file", CONFIG, "--output", tmp_path, *SMALL, "MODEL.WEIGHTS", root / "whole.pth")
    assert run_tool("tools/export.py", *more)[0] == 0
    names = [c["name"] for c in torch.load(tmp_path / "cloud.pth", weights_only=True)["categories"]]
    assert names == MetadataCatalog.get("scenes_val").thing_classes and len(set(names)) == 6
    photo = root / "plain" / "a.png"
    status, _, error = run_tool("tools/demo.py", "--input", photo, *more)
    assert status == 0, error
    stream = FeatureBitstream.from_bytes((tmp_path / "a.d2fc").read_bytes())
    assert stream.sizes.original == (64, 96) and (tmp_path / "a_detections.png").exists()


def test_pictures_of_one_name_do_not_replace_each_other(root, run_tool, tmp_path):
    for number in range(2):
        write_photos(tmp_path / str(number), ["x.png"], seed=number)
    folders = (tmp_path / "0", tmp_path / "1")
    more = ("--config-file", CONFIG, "--output", tmp_path / "out", *SMALL)
    status, _, error = run_tool(
        "tools/demo.py", "--input", *folders, *more, "MODEL.WEIGHTS", root / "whole.pth"
    )
    assert status == 0, error
    assert {"0_x.png_detections.png", "1_x.png_detections.png"} < set(os.listdir(tmp_path / "out"))


def test_names_in_a_result_of_more_classes_than_names():
    found = Instances((8, 8), pred_boxes=Boxes(torch.rand(2, 4)), scores=torch.tensor([0.5, 0.25]))
    found.pred_classes = torch.tensor([0, 3])

    sizes = ImageSizes(padded=(8, 8), resized=(8, 8), original=(8, 8))
    stream = FeatureBitstream(fingerprint=bytes(4), sizes=sizes, tensors=[])
    result = make_result("x", {"instances": found, "bitstream": stream}, ["one"])
    assert [i.get("category") for i in result["instances"]] == ["one", None]
    assert [i["category_id"] for i in result["instances"]] == [1, 4]


def test_classes_that_a_backbone_was_trained_for_do_not_count():
    network, backbone, heads = torch.nn.Module(), torch.nn.Module(), torch.nn.Module()
    backbone.num_classes, heads.num_classes = 1000, 3
    network.backbone, network.roi_heads = backbone, heads
    assert count_classes(network) == 3
