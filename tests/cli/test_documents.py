"""What is written beside the code: the pages for users, the citation, the Dockerfiles."""

import json
import re
import shlex
import shutil
import subprocess

import networks
import numpy as np
import pages
import processes
import pytest
import torch
import yaml
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model
from PIL import Image

from d2_featcomp import __version__
from d2_featcomp.cli import COMMANDS, main
from d2_featcomp.codecs import QUANTIZER_REGISTRY
from d2_featcomp.engine import setup_config
from d2_featcomp.model_zoo import find_plan_file

ROOT = pages.ROOT
DOCKERFILES = sorted((ROOT / "docker").iterdir())
LINES = pages.list_lines()


def name_page(page):
    return page.relative_to(ROOT).as_posix()


def test_the_pages_show_most_commands():
    shown = {line.split()[1] for _, line in LINES if line.startswith("featcomp ")}
    assert set(COMMANDS) - {"select-channels"} <= shown


@pytest.mark.parametrize("page", pages.PAGES, ids=name_page)
def test_tables_are_whole(page):
    """Each begins with a line of names and one of dashes, and has as many cells in each row."""
    text = pages.without_blocks(page.read_text(encoding="utf-8"))
    for table in re.findall(r"(?:^\|.*\n?)+", text, flags=re.MULTILINE):
        rows = table.splitlines()
        assert len(rows) > 2 and re.fullmatch(r"\|(?::?-+:?\|)+", rows[1]), table
        counts = {len(re.findall(r"(?<!\\)\|", row)) for row in rows}
        assert len(counts) == 1, f"{counts}: {table}"


@pytest.mark.parametrize(
    ("page", "line"), LINES, ids=[f"{name_page(page)}: {line}" for page, line in LINES]
)
def test_commands_are_known(page, line, tmp_path):
    """Each line of a shell block is a command of this package, whose options, config and overrides are
    read as it would, or of a program in `pages.OTHERS`."""
    words = shlex.split(line, comments=True)
    if words[0] != "featcomp":
        assert words[0] in pages.OTHERS, f"{page}: say in tests/pages.py what {words[0]!r} is"
        pages.OTHERS[words[0]](words)
    elif words[-1] == "--help":
        assert words[1:-1] == [] or words[1] in COMMANDS
    elif "--import examples/" in line:  # that tests/examples runs
        path = ROOT / words[words.index("--import") + 1]
        assert words in pages.list_example_commands(path)
    elif "--import" in words:  # in a process of its own: what it registers stays there
        status, _, errors = processes.call("tests/pages.py", words[1:], tmp_path / "told")
        assert status == 0, errors
    else:
        check_command(words[1:])


def check_command(words):
    args = pages.parse(words)
    if words[0] == "reproduce":
        assert find_plan_file(args.experiment)
    if getattr(args, "config_file", None):
        # What a training writes has all keys, as any config.
        written = args.config_file == "output/config.yaml"
        setup_config("" if written else args.config_file, args.opts)


@pytest.mark.parametrize("line", ["featcomp tarin", "featcomp train --confg x", "apt install x"])
def test_mistakes_in_a_page_are_found(line, tmp_path):
    with pytest.raises((AssertionError, SystemExit, KeyError, ModuleNotFoundError)):
        test_commands_are_known(ROOT / "README.md", line, tmp_path)


def test_overrides_in_a_page_are_checked():
    with pytest.raises(ValueError, match="CODECS"):
        check_command(["eval", "--config", "msfc_R50", "MODEL.FEATCOMP.CODECS.NAME", "raw"])


@pytest.mark.parametrize("page", pages.PAGES, ids=name_page)
def test_links_lead_somewhere(page):
    text = pages.without_code(page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in pages.list_anchors(found), f"{page.name}: {target}"


@pytest.mark.parametrize("page", filter(pages.list_programs, pages.PAGES), ids=name_page)
def test_programs_run(page, tmp_path, monkeypatch, capsys):
    """The Python of a page, and those of its commands that are quick, one after the other."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("D2_FEATCOMP_TRACEBACK", "1")
    for registry in (QUANTIZER_REGISTRY, DatasetCatalog):  # what is registered is of this test alone
        kept = "_obj_map" if hasattr(registry, "_obj_map") else "data"
        monkeypatch.setattr(registry, kept, dict(getattr(registry, kept)))
    prepare(tmp_path)
    if page.name == "light-edge.md":
        prepare_light_edge(tmp_path)
    if page.name == "own-network.md":
        prepare_notebook(tmp_path)
    names = {"__name__": "page"}
    for kind, text in pages.list_programs(page):
        if kind == "python":
            exec(compile(text, str(page), "exec"), names)
        else:
            words = shlex.split(text, comments=True)[1:]
            more = TINY if "--config" in words else []
            assert main([*words, *more]) == 0, capsys.readouterr().err
    capsys.readouterr()


# Of any config of the paper's networks.
TINY = [*networks.listed(networks.SHRUNK), "INPUT.MIN_SIZE_TEST", "64"]
del TINY[(place := TINY.index("MODEL.WEIGHTS")) : place + 2]


def prepare(folder):
    """Files under the names that the pages give them."""
    quickstart, scenes = "output/quickstart/trainings/msfc", "datasets/scenes/val/images"
    for name in ("photos", "output/step1", quickstart, scenes):
        (folder / name).mkdir(parents=True)
    network = networks.shrunk_network()
    torch.save({"model": network.state_dict()}, folder / "output" / "model_final.pth")
    state = {k: v for k, v in network.state_dict().items() if not k.startswith("feature_")}
    torch.save({"model": state}, folder / "output" / "step1" / "model_final.pth")
    learned = networks.shrunk_network("configs/quick/msfc_R18_learned.yaml")
    torch.save({"model": learned.state_dict()}, folder / quickstart / "model_final.pth")
    rng = np.random.default_rng(0)
    for name in ("image.jpg", "photos/a.png", f"{scenes}/000000.jpg"):
        Image.fromarray(rng.integers(0, 256, (64, 96, 3), dtype=np.uint8)).save(folder / name)
    write_video(folder / "walk.mp4", rng)
    for name, share in (("anchor.csv", 1.0), ("test.csv", 0.5)):
        rows = [f"{share * rate},{quality}" for rate, quality in ((1, 10), (2, 20), (4, 30), (8, 40))]
        (folder / name).write_text("\n".join(["bpfe,bbox/AP", *rows, ""]))
    rows = [
        f'"MSFC, {codec}",{share * rate},{quality}'
        for codec, share in (("jpegxl", 1.0), ("hevc", 0.5))
        for rate, quality in ((1, 10), (2, 20), (4, 30), (8, 40))
    ]
    (folder / "output" / "codecs").mkdir(parents=True, exist_ok=True)
    curves = folder / "output" / "codecs" / "curves.csv"
    curves.write_text("\n".join(["curve,kB,bbox/AP", *rows, ""]))
    shutil.copy(ROOT / "tests" / "fixtures" / "jpegxl.v2.d2fc", folder / "example.d2fc")


def prepare_light_edge(folder):
    pytest.importorskip("onnxruntime")
    options = ["--output", "deployed", "--onnx", "MODEL.WEIGHTS", "output/model_final.pth", *TINY]
    assert main(["export", "--config", "msfc_R50", *options]) == 0
    for name in ("edge.onnx", "deployed/edge.int8.onnx"):
        shutil.copy(folder / "deployed" / "edge.onnx", folder / name)
    shutil.copy(folder / "image.jpg", folder / "photo.jpg")


def prepare_notebook(folder):
    """A trained network, and a data set of one image."""
    cfg = setup_config("quick/msfc_R18_variable", ["MODEL.WEIGHTS", "", "MODEL.DEVICE", "cpu"])
    (folder / "output" / "variable").mkdir()
    state = build_model(cfg).state_dict()
    torch.save({"model": state}, folder / "output" / "variable" / "model_final.pth")
    (folder / "mine" / "test").mkdir(parents=True)
    shutil.copy(folder / "image.jpg", folder / "mine" / "test")
    classes = range(1, cfg.MODEL.ROI_HEADS.NUM_CLASSES + 1)
    box, corners = [10, 10, 30, 30], [10, 10, 40, 10, 40, 40, 10, 40]
    thing = {"id": 1, "image_id": 1, "category_id": 1, "bbox": box, "segmentation": [corners]}
    truth = {
        "images": [{"id": 1, "file_name": "image.jpg", "height": 64, "width": 96}],
        "annotations": [thing],
        "categories": [{"id": number, "name": f"class {number}"} for number in classes],
    }
    (folder / "mine" / "test" / "annotations.json").write_text(json.dumps(truth))


def write_video(path, rng):
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=4)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for _ in range(4):
            picture = rng.integers(0, 256, (64, 96, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


def test_every_command_has_its_file_in_tools():
    own = {"gpu_check", "gpu_training"}
    tools = {path.stem for path in (ROOT / "tools").glob("*.py")} - own
    found = {name.replace("_", "-").replace("train-net", "train") for name in tools}
    assert found == set(COMMANDS) - {"eval", "serve", "datasets", "info", "convert-efficientnet-lite"}


def test_the_citation():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["version"] == __version__ and len(cited["references"]) == 3
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    for paper in cited["references"]:
        assert paper["title"] in readme and str(paper["year"]) in readme
        assert all(author["family-names"].split()[-1] in readme for author in paper["authors"])


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_dockerfiles(path, tmp_path):
    """Their programs and files are there; what is installed is what runs, without what tests."""
    lines = path.read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    program, arguments = (
        json.loads(line.partition(" ")[2])
        for key in ("ENTRYPOINT", "CMD")
        for line in lines
        if line.startswith(f"{key} ")
    )
    assert program[0] == "featcomp"
    if arguments != ["--help"]:
        assert pages.parse([*program[1:], *arguments]).serve == "0.0.0.0:8000"
    (run,) = (line for line in lines if line.startswith("RUN sed"))
    (pins,) = (line.split()[1:-1] for line in lines if line.startswith("COPY tools"))
    script = " && ".join(run.removeprefix("RUN ").split("&&")[:3])
    for name in pins:
        shutil.copy(ROOT / name, tmp_path)
    subprocess.run(["sh", "-c", script.replace("/tmp/", f"{tmp_path}/")], check=True)
    # pip takes no constraints with checksums beside requirements without.
    (constraints,) = re.findall(r"--constraint /tmp/(\S+)", run)
    versions = (tmp_path / constraints).read_text()
    assert "--hash" not in versions and re.search(r"^typing-extensions==\S+$", versions, re.MULTILINE)
    installed = (tmp_path / "runtime.txt").read_text()
    names = {line.partition("==")[0] for line in installed.splitlines() if "==" in line}
    assert {"torch", "omegaconf", "constriction", "httpx"} <= names and "pytest" not in names
    served = {"uvicorn", "fastapi", "fastapi-offline", "prometheus_client"}
    assert (served <= names) == (program[1] == "serve") == bool(served & names)
