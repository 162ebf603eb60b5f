"""Pages for users: their commands, programs and links. As a script it reads one command line."""

import ast
import re
import shlex
import sys
from pathlib import Path

from d2_featcomp.arguments import parse_arguments
from d2_featcomp.cli.program import CommandParser, _load

ROOT = Path(__file__).parents[1]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "projects").glob("*/*.md")),
]
# What is run, where it neither trains nor sends: the rest is read.
QUICK = ("info", "datasets", "bdrate", "export", "edge", "cloud", "demo")
SLOW_OPTIONS = ("--connect", "--onnx", "--int8", "--build", "--target-kb", "--help")
LANGUAGES = ("sh", "python", "text", "yaml", "json", "dockerfile")


def list_blocks(page):
    """[(language, text)] of the code blocks of a page."""
    found = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    for language, _ in found:
        assert language in LANGUAGES, f"{page}: a block of {language!r}"
    return found


def list_shell_lines(text):
    """Whole command lines of a block, without comments."""
    lines = (line.strip() for line in text.replace("\\\n", " ").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def list_lines():
    """[(page, line)] of all shell blocks."""
    return [
        (page, line)
        for page in PAGES
        for language, text in list_blocks(page)
        if language == "sh"
        for line in list_shell_lines(text)
    ]


def list_example_commands(path):
    """[words] of the commands in the first lines of an example."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    lines = [line.strip() for line in text.replace("\\\n", " ").splitlines()]
    return [shlex.split(line) for line in lines if line.startswith("featcomp ")]


def list_programs(page):
    """[("python", text) or ("sh", line)] of a page that can be run at once, in their order."""
    found = []
    for language, text in list_blocks(page):
        if language == "python":
            found.append((language, text))
        elif language == "sh":
            found += [("sh", line) for line in list_shell_lines(text) if _is_quick(line)]
    return found


def _is_quick(line):
    words = shlex.split(line, comments=True)
    slow = set(words) & set(SLOW_OPTIONS) or any(word.endswith(".onnx") for word in words)
    return words[0] == "featcomp" and words[1] in QUICK and not slow


def without_code(text):
    """A page without its code blocks and code spans."""
    return re.sub(r"`[^`\n]*`", "", without_blocks(text))


def list_anchors(page):
    """The anchors of the headings of a page, as GitHub makes them."""
    heads = re.findall(r"^#+ (.*)$", without_blocks(page.read_text(encoding="utf-8")), re.M)
    plain = [re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads]
    return set(plain)


def without_blocks(text):
    """A page without its code blocks."""
    return re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)


def parse(words):
    """Reads a command line as `featcomp` would, but does nothing."""
    name, *given = words
    module, parser = _load(name), CommandParser(prog=name)
    module.add_arguments(parser)
    takes_imports = getattr(module, "TAKES_IMPORTS", True)
    return parse_arguments(parser, given, takes_imports=takes_imports)


def _check_make(words):
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    assert words[1] in targets, words


def _check_pip(words):
    text = (ROOT / "setup.py").read_text(encoding="utf-8")
    for extras in re.findall(r"(?:d2_featcomp\S*|\.)\[([\w,]+)\]", " ".join(words)):
        assert all(f'"{extra}": [' in text for extra in extras.split(",")), words


def _check_file(words):
    """Of programs that get a file of this project."""
    path = {"sh": words[1], "serve": words[-1]}.get(words[0], words[0])
    assert (ROOT / path).is_file(), words


def _check_nothing(words):
    pass


# Programs beside `featcomp` that pages name -> what is checked of them.
OTHERS = {
    "make": _check_make,
    "pip": _check_pip,
    ".venv/bin/python": _check_nothing,
    ".": _check_nothing,  # sources the environment that make has made
    "curl": _check_nothing,
    "openssl": _check_nothing,
    "python": _check_nothing,
    "npm": _check_nothing,
    "tar": _check_nothing,
    "unzip": _check_nothing,
    "sh": _check_file,
    "serve": _check_file,  # Ray's
    "projects/NanoDet/convert_weights.py": _check_file,
    "projects/BaF/recompress_images.py": _check_file,
    "export": _check_nothing,
    "ln": _check_nothing,
    "mkdir": _check_nothing,
}

if __name__ == "__main__":
    args = parse(sys.argv[1:])
    if getattr(args, "config_file", None):
        from d2_featcomp.engine import setup_config

        setup_config(args.config_file, args.opts)
