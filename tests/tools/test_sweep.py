"""tools/sweep.py and tools/bdrate.py, as a user calls them."""

import csv
import json
import os
import signal
import time
import uuid

import deployed
import networks
import processes
import pytest
from deployed import CONFIG
from detectron2.data import DatasetCatalog

from d2_featcomp.data.datasets.scenes import procedural_recipe, register_scenes

SMALL = {
    **deployed.SMALL,
    "TEST.DETECTIONS_PER_IMAGE": "10",
    "INPUT.MIN_SIZE_TEST": "96",
    "DATALOADER.NUM_WORKERS": "0",
    "DATASETS.TEST": "('swept_val',)",
}
IMAGES = 5


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("swept")
    register_scenes("swept", str(folder / "swept"), procedural_recipe({"train": 1, "val": IMAGES}))
    DatasetCatalog.get("swept_val")
    networks.save("msfc", folder / "cut.pth")
    return folder


def command(root, script, *arguments, **changes):
    """The script, and its arguments."""
    if script == "tools/sweep.py":
        opts = {**SMALL, "MODEL.WEIGHTS": root / "cut.pth", **changes}
        arguments = ("--config-file", CONFIG, *arguments, *networks.listed(opts))
    return script, arguments


def start(root, *arguments, **changes):
    """A process of its own."""
    output = root / f"told-{uuid.uuid4().hex}"
    environment = {"DETECTRON2_DATASETS": str(root)}
    return processes.start(*command(root, *arguments, **changes), output, environment)


@pytest.fixture
def in_process(root, run_tool):
    """The same without a process of its own: (exit status, output, errors)."""

    def run(*arguments, **changes):
        script, arguments = command(root, *arguments, **changes)
        return run_tool(script, *arguments)

    return run


def sweep(root, output, *arguments, **changes):
    running = start(root, "tools/sweep.py", "--output", output, *arguments, **changes)
    status, told, errors = running.wait(600)
    assert status == 0, errors[-3000:]
    return told


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


CURVES = """
curves:
  - codec: [png, jpegxl]
    bits: [2, 4]
  - codec: jpeg
    bits: 8
    quality: [10, 50, 90]
anchors: [image:jpeg420, raw]
anchor_weights: cut.pth
"""


# The same measurements, and one plot of them in place of six.
ONE_PLOT = "plot: {x: BPFE, y: box AP}\n"


@pytest.fixture(scope="module")
def swept(root):
    """A sweep that nothing disturbed."""
    (root / "curves.yaml").write_text(CURVES)
    (root / "one_plot.yaml").write_text(CURVES + ONE_PLOT)
    sweep(root, root / "whole", "--curves", root / "curves.yaml")
    return root / "whole"


def test_what_a_sweep_writes(swept):
    curves = read(swept / "curves.csv")
    assert [row["curve"] for row in curves] == [
        *["MSFC, png"] * 2,
        *["MSFC, jpegxl"] * 2,
        *["MSFC, jpeg"] * 3,
        *["image, jpeg420"] * 6,
        "raw features, float32",
        "",
    ]
    rows = {row["setting"]: row for row in curves}
    for row in curves[:-1]:
        counted = [row[f"BPFE{part}"] for part in ("", "_header", "_side_info", "_payload", "_packed")]
        if row["curve"] == "image, jpeg420":  # images have no elements of features
            assert not any(counted) and not row["times_smaller"] and float(row["bpp"]) > 0
        else:
            assert float(counted[0]) == pytest.approx(sum(map(float, counted[1:4])))
        assert 0 <= float(row["bbox/AP"]) <= 100 and 0 <= float(row["segm/AP"]) <= 100
    for n in (2, 4):
        png, jpegxl = rows[f"MSFC, png, n = {n}"], rows[f"MSFC, jpegxl, n = {n}"]
        assert png["bbox/AP"] == jpegxl["bbox/AP"] and png["BPFE"] != jpegxl["BPFE"]
    kb = [float(row["kB"]) for row in curves if row["curve"] == "image, jpeg420"]
    assert kb == sorted(kb) and kb[0] < kb[-1]
    assert rows["uncompressed"]["BPFE"] == "" and rows["uncompressed"]["codec"] == ""
    assert float(rows["raw features, float32"]["BPFE_packed"]) == pytest.approx(32 * 1020 / 1024)

    images = read(swept / "per_image.csv")
    assert len(images) == IMAGES * (len(curves) - 1)
    of_png = [int(row["bytes"]) for row in images if row["setting"] == "MSFC, png, n = 2"]
    assert sum(of_png) / len(of_png) / 1000 == pytest.approx(float(rows["MSFC, png, n = 2"]["kB"]))

    summary = json.loads((swept / "summary.json").read_text())
    assert summary["command"][0] == "tools/sweep.py" and summary["versions"]["torch"]
    assert summary["settings"]["MSFC, png, n = 2"]["MODEL"]["FEATCOMP"]["CODEC"]["BITS"] == 2
    pairs = {(entry["test"], entry["anchor"]) for entry in summary["bd_rates"]}
    assert pairs == {(test, "image, jpeg420") for test in ("MSFC, png", "MSFC, jpegxl", "MSFC, jpeg")}
    assert summary["images"] == "all"
    assert "the anchor curve has" in (swept / "bd_rates.md").read_text()
    lines = (swept / "table.md").read_text().splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if "|" in line]
    table = {row[0]: row for row in cells}
    heads = table["setting"]
    image = next(cells for name, cells in table.items() if name.startswith("image, jpeg420"))
    for head in ("BPFE", "BPFE fixed-length", "compression ratio", "kB/image"):
        at = heads.index(head)
        assert table["MSFC, png, n = 2"][at].strip("-")
        assert bool(image[at].strip("-")) == (head == "kB/image")  # images have no elements of features
    plots = {
        f"{y}_{x}.{end}"
        for y in ("box_AP", "mask_AP")
        for x in ("BPFE", "bpp")
        for end in ("png", "svg")
    }
    assert plots <= set(os.listdir(swept))
    assert "image, jpeg420" in (swept / "box_AP_bpp.svg").read_text()
    assert "image, jpeg420" not in (swept / "box_AP_BPFE.svg").read_text()


def test_a_killed_sweep_goes_on_and_gives_the_same(root, swept):
    output = root / "killed"
    running = start(root, "tools/sweep.py", "--output", output, "--curves", root / "one_plot.yaml")
    records = output / "records"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and running.process.is_alive():
        found = (
            [name for name in os.listdir(records) if name.endswith(".records")]
            if records.is_dir()
            else []
        )
        if sum((records / name).read_bytes().count(b"\n") for name in found) >= 8:
            break
        time.sleep(0.01)
    running.kill()
    assert running.wait()[0] == -signal.SIGKILL and not (output / "curves.csv").exists()
    with open(records / sorted(found)[0], "ab") as file:
        file.write(b"4\t{")
    sweep(root, output, "--curves", root / "one_plot.yaml")
    for name in ("curves.csv", "per_image.csv", "bd_rates.csv"):
        assert (output / name).read_bytes() == (swept / name).read_bytes()


def test_two_processes_give_the_same(root, swept):
    output = root / "two"
    sweep(root, output, "--curves", root / "one_plot.yaml", "--num-gpus", "2")
    for name in ("curves.csv", "per_image.csv", "bd_rates.csv"):
        assert (output / name).read_bytes() == (swept / name).read_bytes()


def test_a_budget_names_a_setting_and_how_to_use_it(root, swept):
    rows = {row["setting"]: row for row in read(swept / "curves.csv")}
    least = min(float(rows[name]["kB"]) for name in rows if name.startswith("MSFC"))
    told = sweep(root, swept, "--curves", root / "one_plot.yaml", "--target-kb", least)
    name, overrides = told.strip().splitlines()[-2:]
    assert float(rows[name.split(":")[0]]["kB"]) == pytest.approx(least)
    assert "MODEL.FEATCOMP.CODEC.NAME" in overrides


@pytest.mark.parametrize(
    ("arguments", "changes", "words"),
    [
        (("--codecs", "gif"), {}, "unknown image codec 'gif'"),
        (("--bits", "two"), {}, "--bits takes numbers"),
        (("--bits", "40", "--anchors", "none"), {}, "cannot carry 40 bits"),
        (
            ("--codecs", "jpeg", "--qualities", "101", "--anchors", "none"),
            {},
            "out of range for codec 'jpeg'",
        ),
        (("--anchors", "picture"), {}, "unknown anchor 'picture'"),
        (("--anchors", "image:png", "--anchor-weights", "a.pth"), {}, "has no quality to vary"),
        (("--anchors", "image:jpeg", "--anchor-weights", "a.pth"), {}, "for images choose one of"),
        ((), {}, "--anchor-weights"),
        (("--anchors", "none"), {"MODEL.WEIGHTS": "''"}, "no weights"),
        (("--anchors", "none"), {"MODEL.WEIGHTS": "nowhere.pth"}, "no checkpoint 'nowhere.pth'"),
        (("--curves", "nowhere.yaml"), {}, "no plan 'nowhere.yaml'"),
        (("--target-kb", "1", "--max-drop", "1"), {}, "either --target-kb or --max-drop"),
    ],
)
def test_mistakes_are_told(in_process, tmp_path, arguments, changes, words):
    out = tmp_path / "out"
    status, _, error = in_process("tools/sweep.py", "--output", out, *arguments, **changes)
    assert status == 2 and words in error and not out.exists()


RATES = (0.01, 0.02, 0.05, 0.1, 0.3)
QUALITIES = (20.0, 31.0, 40.0, 44.0, 47.0)


def write_curve(path, rates, qualities, **more):
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["BPFE", "bbox/AP", *more])
        writer.writerows([*pair, *more.values()] for pair in zip(rates, qualities, strict=True))
    return path


def test_half_the_rate_is_minus_fifty_percent(root, in_process, tmp_path):
    anchor = write_curve(tmp_path / "anchor.csv", RATES, QUALITIES)
    test = write_curve(tmp_path / "test.csv", [rate / 2 for rate in RATES], QUALITIES, curve="mine")
    columns = ("--rate", "bpfe", "--quality", "bbox/AP")
    status, told, errors = start(root, "tools/bdrate.py", anchor, test, *columns).wait()
    assert (status, told) == (0, "BD-rate: -50.00 %\n"), errors
    for method in ("cubic", "pchip", "akima"):
        status, told, _ = in_process("tools/bdrate.py", anchor, test, *columns, "--method", method)
        assert (status, told) == (0, "BD-rate: -50.00 %\n")


def test_curves_of_a_sweep_are_compared(swept, in_process):
    file = swept / "curves.csv"
    arguments = ("tools/bdrate.py", file, file, "--rate", "kb", "--quality", "bbox/ap")
    assert "holds several curves" in in_process(*arguments)[2]
    arguments += ("--anchor-curve", "image, jpeg420", "--test-curve")
    assert "no curve 'nothing'" in in_process(*arguments, "nothing")[2]
    arguments = (*arguments[:4], "bpfe", *arguments[5:])
    error = in_process(*arguments, "MSFC, jpeg")[2]
    assert "no line of curve 'image, jpeg420' has both 'bpfe' and 'bbox/ap'" in error


def test_curves_of_several_seeds_are_not_mixed(in_process, tmp_path):
    path = tmp_path / "curves.csv"
    rows = [
        ("ours", seed, factor * rate, quality)
        for seed, factor in ((1, 1), (2, 0.5))
        for rate, quality in zip(RATES, QUALITIES, strict=True)
    ]
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([("curve", "seed", "BPFE", "bbox/AP"), *rows])
    arguments = ("tools/bdrate.py", path, path, "--rate", "bpfe", "--quality", "bbox/AP")
    status, _, error = in_process(*arguments, "--anchor-seed", "1")
    assert status == 2
    assert "holds several seeds: name one of '1', '2' by --anchor-seed or --test-seed" in error
    arguments += ("--anchor-seed", "1", "--test-seed")
    assert in_process(*arguments, "2")[:2] == (0, "BD-rate: -50.00 %\n")
    assert "no seed '3'; there are '1', '2'" in in_process(*arguments, "3")[2]


def test_spaces_around_names_of_columns_do_not_matter(in_process, tmp_path):
    path = tmp_path / "by_hand.csv"
    lines = [f"{rate}, {quality}\n" for rate, quality in zip(RATES, QUALITIES, strict=True)]
    path.write_text("BPFE , bbox/AP\n" + "".join(lines))
    columns = ("--rate", "bpfe", "--quality", "bbox/AP")
    assert in_process("tools/bdrate.py", path, path, *columns)[:2] == (0, "BD-rate: +0.00 %\n")


def test_curves_of_other_images_are_told(in_process, tmp_path):
    """As a sweep tells them; other files have no such columns."""

    def write(name, *more):
        rows = [(*pair, *more) for pair in zip(RATES, QUALITIES, strict=True)]
        head = ("BPFE", "bbox/AP", "dataset", "images")[: 2 + len(more)]
        with open(tmp_path / name, "w", newline="") as file:
            csv.writer(file).writerows([head, *rows])
        return tmp_path / name

    first, fewer, plain = write("a", "val", 20), write("b", "val, first 4", 4), write("c")
    for test, told in ((first, False), (fewer, True), (plain, False)):
        columns = ("--rate", "bpfe", "--quality", "bbox/AP")
        status, printed, _ = in_process("tools/bdrate.py", first, test, *columns)
        assert status == 0 and printed.endswith("BD-rate: +0.00 %\n")
        expected = "warning: the curves were measured on other images, 20 of val and 4 of val, first 4:"
        assert (expected in printed) == told == ("warning" in printed)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "no file"),
        ("", "no column 'bpfe'; there are none"),
        ("BPFE,AP\n1,2\n", "no column 'bbox/AP'; there are BPFE, AP"),
        ("BPFE,bbox/AP\n1,2\nx,3\n", "could not convert"),
        ("BPFE,bbox/AP\n1,2\n2,3\n", "needs at least 4"),
        ("BPFE,bbox/AP\n,2\n1,\n", "no line has both 'bpfe' and 'bbox/AP'"),
        ("BPFE,bbox/AP\n1,70\n2,80\n3,90\n4,95\n", "share no quality"),
        ("BPFE,bbox/AP\n0,20\n2,30\n3,40\n4,45\n", "not positive"),
    ],
)
def test_bad_files_are_told(in_process, tmp_path, text, words):
    anchor = write_curve(tmp_path / "anchor.csv", RATES, QUALITIES)
    test = tmp_path / "test.csv"
    if text is not None:
        test.write_text(text)
    columns = ("--rate", "bpfe", "--quality", "bbox/AP")
    status, _, error = in_process("tools/bdrate.py", anchor, test, *columns)
    assert status == 2 and words in error
