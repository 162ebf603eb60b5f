"""tools/edge.py where the address, the names or the cloud's weights are not what one hopes for."""

import json

import networks
import pytest
from deployed import CONFIG, IMAGES, OPTS, call
from PIL import Image

from d2_featcomp.engine import export_sub_models, setup_config
from d2_featcomp.serving import Spool

pytest.importorskip("httpx")
pytest.importorskip("fastapi_offline")
pytest.importorskip("prometheus_client")
pytest.importorskip("uvicorn")

TOGETHER = ("images.json", "results.json")  # of all images, beside a file for each


@pytest.mark.parametrize("address", ["host:abc", "::1:8000"])
def test_an_address_that_is_none_is_told_before_the_weights_are_read(run_tool, tmp_path, address):
    more = ("--config-file", CONFIG, "--weights", tmp_path / "none.pth", "--input", tmp_path)
    status, told, errors = run_tool(
        "tools/edge.py", "--connect", address, "--spool", tmp_path / "spool", *more
    )
    assert (status, told) == (2, "") and errors.startswith(f"edge.py: error: '{address}' is no address")
    assert list(tmp_path.iterdir()) == []


def test_requeue_alone(run_tool, tmp_path):
    spool = Spool(str(tmp_path))
    spool.reject(identity := spool.add("photo", b"bytes"), "too early")
    status, told, _ = run_tool("tools/edge.py", "--requeue", "--spool", tmp_path)
    assert status == 0 and told == f"1 put back into {tmp_path}\n" and spool.waiting() == [identity]
    status, _, errors = run_tool("tools/edge.py", "--requeue", "--input", tmp_path)
    assert status == 2 and "nowhere to put bitstreams" in errors


def test_a_cloud_of_other_weights_empties_no_spool(root, server, tmp_path):
    (tmp_path / "other").mkdir()
    whole = tmp_path / "whole.pth"
    networks.save("msfc", whole, seed=1)
    other = export_sub_models(setup_config(CONFIG, [*OPTS, "MODEL.WEIGHTS", str(whole)]), str(tmp_path))
    spool = Spool(str(tmp_path / "spool"))
    foreign = server("--weights", other["cloud"])
    more = ("--spool", spool.folder)
    status, told, errors = call(
        root, "edge", "--input", root / "photos", "--connect", foreign.address, *more
    )
    assert status == 3 and f"0 sent, 0 refused, {IMAGES} waiting" in told
    assert errors.count("the server has another model") == 1 and "Traceback" not in errors
    assert len(spool.waiting()) == IMAGES and foreign.metric("refused_total") == 1
    right = server()
    status, told, errors = call(root, "edge", "--connect", right.address, *more)
    assert status == 0 and f"{IMAGES} sent, 0 refused, 0 waiting" in told, errors


def test_results_carry_the_names_of_their_images(root, server, tmp_path):
    names = ["写真甲", "写真乙", "снимок", "a b=c", "長い名前" * 16, "x" * 240]
    (tmp_path / "photos").mkdir()
    for name in names:  # equal pictures, so that nothing but the name tells them apart
        Image.new("RGB", (96, 64), "gray").save(tmp_path / "photos" / f"{name}.png")
    one = server()
    status, told, errors = call(
        *(root, "edge", "--input", tmp_path / "photos", "--connect", one.address),
        *("--spool", tmp_path / "spool", "--output", tmp_path / "answers"),
    )
    assert status == 0 and f"{len(names)} sent" in told, errors
    for folder in ("results", "answers"):
        paths = [path for path in (tmp_path / folder).glob("*.json") if path.name not in TOGETHER]
        found = [json.loads(path.read_text()) for path in paths]
        assert sorted(result["name"] for result in found) == sorted(names)
    assert list((tmp_path / "spool").iterdir()) == []
