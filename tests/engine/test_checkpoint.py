import argparse
import pickle
from urllib.error import URLError

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

from d2_featcomp.engine import CheckpointError, FeatCompCheckpointer, load_weights
from d2_featcomp.engine.weight_files import read_weight_file


class Network(nn.Module):
    def __init__(self, width=3):
        super().__init__()
        self.head = nn.Linear(2, width)
        self.feature_split = nn.Linear(2, 2)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"set MODEL\.WEIGHTS to an existing file"):
        load_weights(Network(), str(tmp_path / "none.pth"))


def test_a_failed_download_is_told_with_what_to_do(monkeypatch):
    def fail(*_):
        raise URLError("Name or service not known")

    monkeypatch.setattr(DetectionCheckpointer, "load", fail)
    words = r"cannot download 'https://a/b.pkl' \(Name or .*set MODEL\.WEIGHTS to the file"
    with pytest.raises(OSError, match=words):
        load_weights(Network(), "https://a/b.pkl")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut short"])
def test_a_file_that_is_no_checkpoint(tmp_path, content):
    path = tmp_path / "bad.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="no checkpoint that can be read"):
        load_weights(Network(), str(path))


def test_a_checkpoint_of_another_model(tmp_path, caplog):
    caplog.set_level("WARNING", "d2")  # whatever another test left behind
    path = str(tmp_path / "other.pth")
    torch.save({"model": Network(width=4).state_dict()}, path)
    with pytest.raises(CheckpointError, match=r"belongs to another model.*config that it was trained"):
        load_weights(Network(), path)
    assert not caplog.records  # the error tells it all


def test_a_checkpoint_without_split(tmp_path):
    path = str(tmp_path / "plain.pth")
    state = {k: v for k, v in Network().state_dict().items() if not k.startswith("feature_split")}
    torch.save({"model": state}, path)
    with pytest.raises(CheckpointError, match="holds the task network alone"):
        load_weights(Network(), path)
    checkpointer = FeatCompCheckpointer(Network())
    checkpointer.load(path)
    checkpointer.require_complete(path, split=False)


@pytest.mark.parametrize("wrap", [lambda state: {"model": state}, lambda state: state])
def test_round_trip(tmp_path, wrap):
    source, target = Network(), Network()
    path = str(tmp_path / "good.pth")
    torch.save(wrap(source.state_dict()), path)
    load_weights(target, path)
    assert all(torch.equal(v, target.state_dict()[k]) for k, v in source.state_dict().items())


def test_a_failed_write_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    model = Network()
    checkpointer = FeatCompCheckpointer(model, str(tmp_path))
    checkpointer.save("model_0000001", iteration=1)

    def full_disk(*args, **kwargs):
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match=r"cannot write checkpoint model_0000002\.pth.*--resume"):
        checkpointer.save("model_0000002", iteration=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last_checkpoint", "model_0000001.pth"]
    assert checkpointer.get_checkpoint_file().endswith("model_0000001.pth")


def test_an_incomplete_checkpoint_is_never_the_last(tmp_path):
    checkpointer = FeatCompCheckpointer(Network(), str(tmp_path))
    marks = []
    tag, checkpointer.tag_last_checkpoint = checkpointer.tag_last_checkpoint, marks.append
    checkpointer.save("model_0000001")
    assert marks == ["model_0000001.partial.pth", "model_0000001.pth"]
    for mark in marks:
        tag(mark)
        assert checkpointer.has_checkpoint() == (mark == "model_0000001.pth")


def test_no_code_runs_when_a_checkpoint_is_read(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "written"), "w"))

    path = str(tmp_path / "evil.pth")
    torch.save({"model": {"x": Evil()}}, path)
    with pytest.raises(CheckpointError):
        load_weights(Network(), path)
    assert not (tmp_path / "written").exists()


class Evil:
    """Pickled, it opens a file for writing when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.parametrize("name", ["evil.pth", "evil.pkl", "evil.pyth", "evil.weights"])
@pytest.mark.parametrize("place", ["model", "model_state", "__author__"])
def test_no_code_runs_whatever_the_name(tmp_path, name, place):
    data = {"model": {}, "model_state": {}, "__author__": "zoo", place: Evil(str(tmp_path / "written"))}
    with open(tmp_path / name, "wb") as file:
        pickle.dump(data, file) if name.endswith(".pkl") else torch.save(data, file)
    with pytest.raises(CheckpointError, match=r"it holds _?io\.open, where only .* so that no code"):
        load_weights(Network(), str(tmp_path / name))
    assert not (tmp_path / "written").exists()


@pytest.mark.parametrize("name", ["a.pkl", "a.pth"])
@pytest.mark.parametrize(
    "code", [b"cos\nsystem\n(S'true'\ntR.", b"cbuiltins\neval\n(S'1'\ntR.", b"cnumpy\nload\n."]
)
def test_no_name_is_looked_up(tmp_path, name, code):
    (tmp_path / name).write_bytes(code)
    with pytest.raises(CheckpointError, match="can be read"):
        load_weights(Network(), str(tmp_path / name))


@pytest.mark.parametrize(("name", "protocol"), [("best.pth", 2), ("best.pkl", 2), ("best.pkl", 4)])
def test_numbers_of_numpy_are_read(tmp_path, name, protocol):
    source, target = Network(), Network()
    more = {
        "__author__": "me",
        "best_ap": np.float64(38.5),
        "epoch": np.int32(3),
        "sizes": np.arange(3, dtype=">i2"),
        "done": np.bool_(True),
        "names": np.array(["a", "bc"]),
    }
    path = str(tmp_path / name)
    if name.endswith(".pkl"):
        state = {key: value.numpy() for key, value in source.state_dict().items()}
        with open(path, "wb") as file:
            pickle.dump({"model": state, **more}, file, protocol)
    else:
        torch.save({"model": source.state_dict(), **more}, path, pickle_protocol=protocol)
    load_weights(target, path)
    assert torch.equal(target.head.weight, source.head.weight)
    found = read_weight_file(path)
    assert found["best_ap"] == 38.5 and found["sizes"].tolist() == [0, 1, 2] and found["done"]
    # As NumPy of another main version would have named it.
    with open(tmp_path / "other.pkl", "wb") as file:
        text = pickle.dumps(np.float64(2.5), 0)
        file.write(text.replace(b"numpy._core", b"numpy.core"))
    assert read_weight_file(str(tmp_path / "other.pkl")) == 2.5


def test_other_objects_are_named(tmp_path):
    path = str(tmp_path / "namespace.pth")
    torch.save({"model": {}, "args": argparse.Namespace(lr=1)}, path)
    with pytest.raises(CheckpointError, match=r"argparse\.Namespace.*save its weights alone") as raised:
        load_weights(Network(), path)
    assert len(str(raised.value)) < 500 and "Re-running" not in str(raised.value)


def test_names_are_matched_where_the_path_asks_for_it(tmp_path):
    """Detectron2's "?matching_heuristics=True"."""
    source, target = Network(), Network()
    state = {f"teacher.{key}": value for key, value in source.state_dict().items()}
    torch.save(state, tmp_path / "other.pth")
    FeatCompCheckpointer(target).load(f"{tmp_path}/other.pth")
    assert not torch.equal(target.head.weight, source.head.weight)
    torch.save({key: state[f"teacher.{key}"] for key in ("head.weight",)}, tmp_path / "b.pth")
    wrapped = nn.ModuleDict({"backbone": target})
    FeatCompCheckpointer(wrapped).load(f"{tmp_path}/b.pth?matching_heuristics=True")
    assert torch.equal(target.head.weight, source.head.weight)


def test_model_zoo_weights_are_pickled_arrays(tmp_path):
    source, target = Network(), Network()
    plain = {k: v.numpy() for k, v in source.state_dict().items() if k.startswith("head.")}
    path = str(tmp_path / "model_final_f10217.pkl")
    with open(path, "wb") as file:
        pickle.dump({"model": plain, "__author__": "Detectron2 Model Zoo"}, file)
    checkpointer = FeatCompCheckpointer(target)
    checkpointer.load(path)
    assert not checkpointer.missing_task_network
    assert torch.equal(target.head.weight, source.head.weight)
