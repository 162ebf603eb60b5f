"""The edge program on an exported edge.onnx, where neither PyTorch nor Detectron2 can be imported."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import networks
import numpy as np
import pytest
import torch
from PIL import Image

from d2_featcomp.cli import main
from d2_featcomp.codecs import FeatureBitstream
from d2_featcomp.deploy import OnnxEdge
from d2_featcomp.deploy.onnx_export import ROUNDING
from d2_featcomp.deploy.torch_edge import TorchEdge
from d2_featcomp.images import read_picture
from d2_featcomp.modeling import MSFC

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

ROOT = Path(__file__).parents[2]
# What an edge.onnx needs of all that is installed here, and what it is not to need.
BLOCKED = """
import sys
blocked = "torch torchvision detectron2 fvcore iopath pycocotools yacs matplotlib omegaconf onnx scipy"

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked.split():
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
from d2_featcomp.cli import main
sys.exit(main(sys.argv[1:]))
"""
KINDS = {
    "learned": ("msfc", {"MODEL.FEATCOMP.CODEC.NAME": "learned"}),
    "baf": ("baf", {}),
    "levels": ("levels", {}),
}
SIZES = ((70, 96), (64, 64), (90, 61), (64, 130))


def run_light(*arguments, **variables):
    """(exit status, output, errors) of featcomp, without what is blocked."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables}
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for index, (height, width) in enumerate(SIZES):
        coarse = rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((width, height)).save(folder / f"photo{index}.png")
    return folder


@pytest.fixture(scope="module")
def export(tmp_path_factory, photos):
    """A function: a name of KINDS -> the folder of its edge.pth and edge.onnx, of "baf" edge.int8.onnx,
    too."""
    made = {}

    def make(name):
        if name not in made:
            folder = made[name] = tmp_path_factory.mktemp(name)
            kind, more = KINDS[name]
            path, settings = networks.KINDS[kind]
            settings = {**settings, "INPUT.MIN_SIZE_TEST": 64, **more}
            network = networks.build(path, networks.listed(settings), 0, enliven)
            torch.save({"model": network.state_dict()}, folder / "whole.pth")
            settings["MODEL.WEIGHTS"] = folder / "whole.pth"
            command = ["export", "--config", path, "--output", str(folder), "--onnx"]
            command += ["--int8", "--calibrate", str(photos)] if name == "baf" else []
            assert main([*command, *networks.listed(settings)]) == 0
            (folder / "whole.pth").unlink()
        return made[name]

    return make


def enliven(network):
    """Norms that fit random images, so that features vary, and an entropy model that tells symbols
    apart."""
    networks.randomize(network)
    generator = networks.show_noise(network, [(64, 96)] * 2)
    if isinstance(network.feature_split, MSFC):
        # Where tanh saturates, what crosses zero does so steeply, and multiplies its rounding.
        image = torch.rand(3, 64, 96, generator=generator) * 255
        while network.edge_features([{"image": image}])[0].tensors[0].abs().max() > 0.9:
            network.feature_split.encoder.conv.weight.data /= 2
    for parameter in network.feature_codec.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    network.feature_codec.update()


def compare(edge, light, picture):
    """Asserts that an image's latents are equal but for rounding, and so is what they are coded to:
    returns whether the bytes of the two edges are equal."""
    wanted, found = edge.compute(picture), light.compute(picture)
    assert wanted.sizes == found.sizes
    for ours, theirs in zip(found.tensors, wanted.tensors, strict=True):
        assert ours.shape == tuple(theirs.shape) and ours.std() > 1e-3
        assert np.abs(ours - theirs.numpy()).max() <= ROUNDING * np.abs(ours).max()
    same = found._replace(tensors=[tensor.numpy() for tensor in wanted.tensors])
    expected = edge.encode(wanted).to_bytes()
    assert light.encode(same).to_bytes() == expected  # of the same latents
    return light.encode(found).to_bytes() == expected


@pytest.mark.parametrize("name", KINDS)
def test_both_edges_send_the_same(export, photos, name):
    edge = TorchEdge(str(export(name) / "edge.pth"), overrides=["MODEL.DEVICE", "cpu"])
    light = OnnxEdge(str(export(name) / "edge.onnx"), ["MODEL.DEVICE", "cpu"])
    equal = [compare(edge, light, read_picture(path)) for path in map(str, sorted(photos.iterdir()))]
    assert sum(equal) >= len(equal) - 1  # one may have a symbol on a border
    assert light.categories == edge.categories


@pytest.mark.parametrize("name", ["learned", "baf"])
def test_the_program_without_pytorch(export, photos, tmp_path, name):
    folder = export(name)
    more = ("--input", photos, "--output")
    light = run_light("edge", "--weights", folder / "edge.onnx", *more, tmp_path / "light")
    assert light[0] == 0, light[2]
    assert "4 images, " in light[1]
    full = ["edge", "--weights", folder / "edge.pth", *more, tmp_path / "full"]
    assert main(list(map(str, full))) == 0
    names = sorted(path.name for path in (tmp_path / "full").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "light").iterdir()) and len(names) == 4
    pairs = [
        ((tmp_path / "light" / name).read_bytes(), (tmp_path / "full" / name).read_bytes())
        for name in names
    ]
    assert sum(ours == theirs for ours, theirs in pairs) >= 3  # one may have a symbol on a border
    for ours, theirs in pairs:
        ours, theirs = map(FeatureBitstream.from_bytes, (ours, theirs))
        assert (ours.fingerprint, ours.sizes) == (theirs.fingerprint, theirs.sizes)


def test_int8_without_pytorch(export, photos, tmp_path):
    """Other symbols, decoded by the same cloud."""
    folder = export("baf")
    weights = ("--weights", folder / "edge.int8.onnx")
    status, _, errors = run_light("edge", *weights, "--input", photos, "--output", tmp_path / "out")
    assert status == 0, errors
    cloud = ["cloud", "--weights", folder / "cloud.pth", "--input", tmp_path / "out"]
    cloud += ["--output", tmp_path / "results", "MODEL.DEVICE", "cpu"]
    assert main(list(map(str, cloud))) == 0
    assert len(list((tmp_path / "results").glob("photo*.json"))) == 4


def test_what_cannot_be_sent_stays_in_the_spool(export, photos, tmp_path):
    pytest.importorskip("httpx")
    sending = ("--connect", "127.0.0.1:9", "--spool", tmp_path / "spool", "--attempts", 1)
    weights = ("--weights", export("learned") / "edge.onnx")
    status, told, errors = run_light("edge", *weights, "--input", photos, *sending)
    assert status == 3 and "0 sent, 0 refused, 4 waiting" in told, errors
    assert len(list((tmp_path / "spool").glob("*.d2fc"))) == 4


def test_what_is_missing_is_told():
    status, told, errors = run_light("info")
    assert (status, errors) == (0, "")
    assert told.count("pip install 'd2_featcomp[torch]'") == 2 and "\ndetectron2: No module" in told
    assert "there is featcomp edge, for edge.onnx" in told and "\n  jpegxl " in told
    assert "\n  learned           ready, of an exported edge\n" in told


@pytest.mark.parametrize(
    "command",
    [
        ["cloud", "--weights", "cloud.pth", "--input", "out"],
        ["eval", "--config", "msfc_R50"],
        ["datasets"],
        ["edge", "--weights", "edge.pth", "--input", "photos", "--output", "out"],
    ],
)
def test_other_commands_say_what_to_install(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "edge.pth").touch()
    status, told, errors = run_light(*command, D2_FEATCOMP_TRACEBACK="")
    assert status == 2 and errors.count("\n") == 1 and not told
    assert "pip install 'd2_featcomp[torch]'" in errors


def test_mistakes(export, photos, tmp_path, capsys):
    path = export("learned") / "edge.onnx"
    command = ["edge", "--weights", path, "--input", photos, "--output", tmp_path / "out"]
    for more, words in [
        (["--config", "msfc_R50"], "holds its configuration: leave out --config-file"),
        (["MODEL.FEATCOMP.CODEC.BITS", "3"], "CODEC.BITS is 2 in"),
        (["--target-kb", "3"], "TARGET_KB is 3, but codec 'learned' has one rate"),
        (["--target-kbit-s", "3", "--fps", "2"], "codec 'learned' has one rate"),
        (["MODEL.FEATCOMP.CODEC.RATE", "0.3"], "RATE has no effect: codec 'learned' has one rate"),
        (None, "--vnni chooses the weights of --int8"),
        (None, "--int8 and --calibrate FOLDER belong together"),
    ]:
        if more is None:
            command, more = ["export", "--config", "quick/msfc_R18", words.split()[0]], []
        with pytest.raises(SystemExit):
            main(list(map(str, [*command, *more])))
        told = capsys.readouterr().err
        assert words in told and told.count("\n") == 1


@pytest.mark.slow
def test_a_fresh_environment(export, photos, tmp_path):
    """pip install d2_featcomp[edge], from a package index: below 300 MB, without PyTorch, the same
    bitstreams."""
    source, venv = tmp_path / "source", tmp_path / "venv"
    source.mkdir()
    for name in ("setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("d2_featcomp", "configs", "projects"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    python = venv / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--no-cache-dir", f"{source}[edge]"]
    done = subprocess.run(install, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    size = sum(path.lstat().st_size for path in venv.rglob("*") if path.is_file()) / 1e6
    assert size < 300, f"{size:.0f} MB"

    def run(*arguments):
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        command = [str(venv / "bin" / "featcomp"), *map(str, arguments)]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    told = run("info")
    assert told.returncode == 0, told.stderr
    assert "torch: No module named 'torch'" in told.stdout and "onnxruntime 1." in told.stdout
    folder = export("learned")
    done = run("edge", "--weights", folder / "edge.onnx", "--input", photos, "--output", "out")
    assert done.returncode == 0, done.stderr
    edge = TorchEdge(str(folder / "edge.pth"), overrides=["MODEL.DEVICE", "cpu"])
    equal = [
        edge.encode(edge.compute(read_picture(str(path)))).to_bytes()
        == (tmp_path / "out" / f"{path.stem}.d2fc").read_bytes()
        for path in photos.iterdir()
    ]
    assert sum(equal) >= len(equal) - 1
