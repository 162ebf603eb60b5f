"""What is written beside the code: commands of the README, the citation, the Dockerfiles."""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from d2_featcomp import __version__
from d2_featcomp.arguments import parse_arguments
from d2_featcomp.cli import COMMANDS
from d2_featcomp.cli.program import CommandParser, _load
from d2_featcomp.model_zoo import find_plan_file, get_config_file

ROOT = Path(__file__).parents[2]
DOCKERFILES = sorted((ROOT / "docker").iterdir())


def read_commands(path):
    """The lines of shell blocks that call featcomp."""
    blocks = re.findall(r"^```sh\n(.*?)^```", path.read_text(encoding="utf-8"), re.M | re.S)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith("featcomp ")]


COMMAND_LINES = read_commands(ROOT / "README.md")


def parse(words):
    """Reads a command line as `featcomp` would, but does nothing."""
    name, *given = words
    module, parser = _load(name), CommandParser(prog=name)
    module.add_arguments(parser)
    return parse_arguments(parser, given)


def test_the_readme_shows_most_commands():
    shown = {line.split()[1] for line in COMMAND_LINES}
    assert {"train", "eval", "sweep", "bdrate", "export", "edge", "cloud", "serve"} <= shown


@pytest.mark.parametrize("line", COMMAND_LINES)
def test_commands_of_the_readme_are_read(line):
    words = shlex.split(line, comments=True)[1:]
    if words[-1] == "--help" or "..." in words:
        return
    assert words[0] in COMMANDS
    args = parse(words)
    config = getattr(args, "config_file", None)
    if config and config != "NAME.py":
        assert get_config_file(config)
    if words[0] == "reproduce":
        assert find_plan_file(args.experiment)
    opts = getattr(args, "opts", [])
    assert len(opts) % 2 == 0 and all(key.isupper() for key in opts[::2])


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
        assert parse([*program[1:], *arguments]).serve == "0.0.0.0:8000"
    (run,) = (line for line in lines if line.startswith("RUN sed"))
    (requirements,) = (line.split()[1] for line in lines if line.startswith("COPY tools"))
    script = " && ".join(run.removeprefix("RUN ").split("&&")[:2])
    shutil.copy(ROOT / requirements, tmp_path / "requirements.txt")
    subprocess.run(["sh", "-c", script.replace("/tmp/", f"{tmp_path}/")], check=True)
    installed = (tmp_path / "runtime.txt").read_text()
    names = {line.partition("==")[0] for line in installed.splitlines() if "==" in line}
    assert {"torch", "omegaconf", "constriction", "httpx"} <= names and "pytest" not in names
    assert ("uvicorn" in names and "fastapi" in names) == (program[1] == "serve")
