"""A stream of training data that goes on where it was."""

import random

import numpy as np
import pytest
import torch
from detectron2.data import build_detection_train_loader
from detectron2.data.samplers import TrainingSampler
from torch import nn

from d2_featcomp.engine.resuming import ResumableLoader, ResumableMapper, ResumptionHook

RECORDS = [
    {"width": 4 + number % 3, "height": 5, "number": number} for number in range(11)
]  # of both shapes


class Mapper:
    """Draws from each generator, and remembers what it read."""

    def __init__(self):
        self.read = []

    def __call__(self, record):
        self.read.append(record["number"])
        drawn = random.random(), float(np.random.rand()), float(torch.rand(()))
        return {**record, "drawn": drawn}


def loader_of(grouping, workers, seed, mapper=None, records=RECORDS, batch=3):
    wrapped = ResumableMapper(mapper or Mapper())
    loader = build_detection_train_loader(
        records,
        mapper=wrapped,
        sampler=TrainingSampler(len(records), seed=seed),
        total_batch_size=batch,
        aspect_ratio_grouping=grouping,
        num_workers=workers,
    )
    return ResumableLoader(loader, wrapped)


def drawn_by_a_step():
    return float(torch.rand(())), float(np.random.normal()), random.gauss(0, 1)


def run(stream, count):
    """As training does: a batch, then what the network draws."""
    return [(next(stream), drawn_by_a_step()) for _ in range(count)]


def seed_all(seed):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes")
@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("grouping", [True, False])
def test_a_stream_goes_on_bit_for_bit(tmp_path, workers, grouping):
    seed_all(1)
    loader = loader_of(grouping, workers, seed=5)
    stream, whole = iter(loader), []
    for done in (1, 5, 9):
        whole += run(stream, done - len(whole))
        torch.save(loader.state_dict(), tmp_path / f"{done}.pth")
    whole += run(stream, 6 + 4)
    assert all(set(record) == {"width", "height", "number", "drawn"} for record in whole[0][0])

    for done in (1, 5, 9):
        seed_all(2)  # another process
        mapper = Mapper()
        again = loader_of(grouping, workers, seed=6, mapper=mapper)
        again.load_state_dict(torch.load(tmp_path / f"{done}.pth", weights_only=True))
        assert run(iter(again), 6) == whole[done : done + 6]
        if workers == 0:  # what was trained on is not read again
            waiting = 3 * (done + 6) + len(again.state_dict()["waiting"]) - 3 * done
            assert len(mapper.read) == waiting
        # A second interruption, of the resumed stream.
        torch.save(again.state_dict(), tmp_path / "state.pth")
        third = loader_of(grouping, workers, seed=7)
        third.load_state_dict(torch.load(tmp_path / "state.pth", weights_only=True))
        assert run(iter(third), 4) == whole[done + 6 : done + 10]


@pytest.mark.parametrize("changed", ["records", "workers"])
def test_other_data_come_in_a_new_order(caplog, changed):
    loader = loader_of(True, 0, seed=5)
    next(iter(loader))
    other = {"records": RECORDS[:7]} if changed == "records" else {}
    again = loader_of(True, 1 if changed == "workers" else 0, seed=5, **other)
    again.load_state_dict(loader.state_dict())
    assert "data come in a new order" in caplog.text
    assert len(next(iter(again))) == 3


@pytest.mark.parametrize(("grouping", "batch"), [(True, 2), (True, 4), (False, 2), (False, 3)])
def test_other_batches_come_in_a_new_order(caplog, grouping, batch):
    loader = loader_of(grouping, 0, seed=5)
    run(iter(loader), 4)
    again = loader_of(grouping or batch == 3, 0, seed=5, batch=batch)
    again.load_state_dict(loader.state_dict())
    assert "data come in a new order" in caplog.text
    assert all("drawn" in record for found, _ in run(iter(again), 4) for record in found)


def test_other_images_of_the_same_number_are_read():
    """They make other batches, and what was trained on does not end with one of them."""
    loader = loader_of(True, 0, seed=5, batch=4)
    run(iter(loader), 6)
    others = [{**record, "width": 9 - record["width"] + record["number"] % 4} for record in RECORDS]
    for place in range(len(others)):
        again = loader_of(True, 0, seed=5, batch=4, records=others[place:] + others[:place])
        again.load_state_dict(loader.state_dict())
        assert all("drawn" in record for found, _ in run(iter(again), 4) for record in found)


def test_another_number_of_processes_is_told(caplog):
    model = nn.Identity()
    state = ResumptionHook(loader_of(True, 0, seed=1), model, 10).state_dict()
    place = loader_of(True, 0, seed=1).state_dict()
    ResumptionHook(loader_of(True, 0, seed=1), model, 10).load_state_dict(state)
    assert "new order" not in caplog.text  # of a checkpoint before the first
    ResumptionHook(loader_of(True, 0, seed=1), model, 10).load_state_dict(
        {**state, "processes": [place, place]}
    )
    assert "data come in a new order" in caplog.text


def test_numbers_that_modules_remember_are_saved():
    def make():
        model = nn.Sequential(nn.Identity(), nn.Identity())
        model[0].mean, model[1].scale = 1.0, 2.0
        return model, ResumptionHook(loader_of(True, 0, seed=1), model, 10)

    model, hook = make()
    model[0].mean = 1.5
    model[1].later = 0.25  # as RetinaNet sets it in its first step
    state = hook.state_dict()
    assert state["numbers"] == {("0", "mean"): 1.5, ("1", "later"): 0.25}
    other, hook = make()
    hook.load_state_dict(state)
    assert (other[0].mean, other[1].scale, other[1].later) == (1.5, 2.0, 0.25)
