import pickle

import pytest
import torch
from torch import nn

from d2_featcomp.engine import CheckpointError, FeatCompCheckpointer, load_weights


class Network(nn.Module):
    def __init__(self, width=3):
        super().__init__()
        self.head = nn.Linear(2, width)
        self.feature_split = nn.Linear(2, 2)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"set MODEL\.WEIGHTS to an existing file"):
        load_weights(Network(), str(tmp_path / "none.pth"))


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut short"])
def test_a_file_that_is_no_checkpoint(tmp_path, content):
    path = tmp_path / "bad.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="no checkpoint that can be read"):
        load_weights(Network(), str(path))


def test_a_checkpoint_of_another_model(tmp_path):
    path = str(tmp_path / "other.pth")
    torch.save({"model": Network(width=4).state_dict()}, path)
    with pytest.raises(CheckpointError, match=r"belongs to another model.*config that it was trained"):
        load_weights(Network(), path)


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
