"""Training data and random numbers that go on, after an interruption, where they were."""

import contextlib
import logging
import random

import numpy as np
import torch
from detectron2.data.common import AspectRatioGroupedDataset, ToIterableDataset
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch.utils.data import get_worker_info

__all__ = ["ResumableLoader", "ResumableMapper", "ResumptionHook", "same_generators_after"]

_KEY = "_featcomp_place"  # in a mapped record, until it is handed on


def read_generator_states(device=True):
    """States of the random number generators of Python, NumPy and PyTorch.

    Args:
        device (bool): of the current GPU, too, if there is one.

    Returns:
        dict: of tensors, tuples and numbers, as checkpoints may hold them.
    """
    version, python, gauss = random.getstate()
    name, numpy, *rest = np.random.get_state()
    states = {
        "python": (version, torch.tensor(python), gauss),
        "numpy": (name, torch.from_numpy(numpy.astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
    }
    if device and torch.cuda.is_available() and torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def set_generator_states(states):
    """Sets the states of all random number generators.

    Args:
        states (dict): of :func:`read_generator_states`.
    """
    version, python, gauss = states["python"]
    random.setstate((version, tuple(python.tolist()), gauss))
    name, numpy, *rest = states["numpy"]
    np.random.set_state((name, numpy.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


@contextlib.contextmanager
def same_generators_after():
    """Leaves the random number generators, at the end, as they were."""
    states = read_generator_states()
    try:
        yield
    finally:
        set_generator_states(states)


class ResumableMapper:
    """A mapper that tells where in the stream a record was, and skips those that were trained on.

    Records that it skips come back as their sizes alone, by which Detectron2 groups them. Each process
    that loads data has its own copy, and counts its own records.

    Args:
        mapper (callable): dict -> dict.
    """

    def __init__(self, mapper):
        self._mapper = mapper
        self._count = 0
        self._arrived, self._after, self._waiting = {}, {}, {}

    def skip(self, arrived, after, waiting):
        """Skips the records that an interrupted training had.

        Args:
            arrived (dict[int, int]): process that loads data -> its records that were handed on.
            after (dict[int, dict]): its generators' states after the last of them.
            waiting (dict[tuple[int, int], dict]): (process, number) of records that were not in any
                batch yet -> the generators' states before they were mapped.
        """
        self._arrived, self._after, self._waiting = arrived, after, waiting

    def __call__(self, record):
        worker = get_worker_info()
        process = worker.id if worker else 0
        place = process, self._count
        arrived = self._arrived.get(process, 0)
        if self._count < arrived and place not in self._waiting and {"width", "height"} <= record.keys():
            self._count += 1
            skipped = {"width": record["width"], "height": record["height"]}
            return {**skipped, _KEY: (place, None, self._after.get(process) if worker else None)}
        if place in self._waiting:
            set_generator_states(self._waiting[place])
        elif worker and arrived and self._count == arrived:
            set_generator_states(self._after[process])
        before = read_generator_states(device=False)
        mapped = self._mapper(record)
        if mapped is None:  # Detectron2 takes another record in its place
            return None
        self._count += 1
        after = read_generator_states(device=False) if worker else None
        return {**mapped, _KEY: (place, before, after)}


class ResumableLoader:
    """A loader of training data that can be saved, and go on where it was.

    What follows after :meth:`load_state_dict` is bit for bit what would have followed, augmentations
    included, if the data set, SOLVER.IMS_PER_BATCH, DATALOADER.NUM_WORKERS and ASPECT_RATIO_GROUPING and
    the number of processes are the same and the mapper drops no record. What was trained on is skipped
    without being read.

    Args:
        loader (AspectRatioGroupedDataset or DataLoader): of `build_detection_train_loader`.
        mapper (ResumableMapper): of that loader.
    """

    def __init__(self, loader, mapper):
        self.loader = loader
        self._mapper = mapper
        self._batches = 0
        self._waiting = {}  # place -> states before; of records that are in no batch yet
        self._arrived, self._after = {}, {}
        self._start = None  # states when iteration began: of these come the seeds of processes
        self._resumed = None
        self._grouped = isinstance(loader, AspectRatioGroupedDataset)
        self._source = loader.dataset if self._grouped else loader
        if self._grouped:
            loader.dataset = _Through(self._source, self._note)

    def __iter__(self):
        resumed, self._resumed = self._resumed, None
        if resumed and resumed["start"]:
            set_generator_states(resumed["start"])
        self._start = read_generator_states(device=False)
        batches = iter(self.loader)
        if resumed:
            for _ in range(resumed["batches"]):
                self._hand_on(next(batches))
            set_generator_states(resumed["now"])
        while True:
            batch = next(batches)
            skipped = any(record[_KEY][1] is None for record in batch)
            self._hand_on(batch)
            if not skipped:  # as it is where other data, of the same number, make other batches
                yield batch

    def _hand_on(self, batch):
        for record in batch:
            if not self._grouped:
                self._note(record)
            self._waiting.pop(record.pop(_KEY)[0], None)
        self._batches += 1
        return batch

    def _note(self, record):
        place, before, after = record[_KEY]
        self._waiting[place] = before
        self._arrived[place[0]] = place[1] + 1
        self._after[place[0]] = after

    def state_dict(self):
        """Returns dict: of this process, between two iterations."""
        workers = getattr(self._source, "num_workers", 0)
        return {
            "batches": self._batches,
            "setting": (workers, comm.get_world_size(), *_numbers(self._sampler())),
            "batch": self._describe_batches(),
            "seed": getattr(self._sampler(), "_seed", None),
            "start": self._start,
            "now": read_generator_states(),
            "arrived": dict(self._arrived),
            "after": dict(self._after) if workers else {},
            "waiting": dict(self._waiting),
        }

    def load_state_dict(self, state):
        """Restores the state of this process.

        Args:
            state (dict): of :meth:`state_dict` of this process.
        """
        batch = self._describe_batches()  # which earlier checkpoints do not tell
        setting = tuple(state["setting"]), tuple(state.get("batch", batch))
        if setting != (tuple(self.state_dict()["setting"]), batch):
            _tell_new_order()
            return
        if state["seed"] is not None:
            self._sampler()._seed = state["seed"]
        self._resumed = state
        self._mapper.skip(state["arrived"], state["after"], state["waiting"])

    def _describe_batches(self):
        return self.loader.batch_size, self._grouped

    def _sampler(self):
        dataset = self._source.dataset
        return dataset.sampler if isinstance(dataset, ToIterableDataset) else None


class ResumptionHook(HookBase):
    """Puts into checkpoints what a training needs, beside weights and optimizer, to go on as if it had
    not been interrupted: of each process the place in the data and the generators' states, and the
    numbers that modules keep of past iterations as attributes, e.g. RetinaNet's running mean of objects.

    It belongs right before the hook that writes checkpoints, in all processes.

    Args:
        loader (ResumableLoader): of the training.
        model (nn.Module): that is trained.
        period (int): iterations between checkpoints; one more is written at the end.
    """

    def __init__(self, loader, model, period):
        self._loader, self._model, self._period = loader, model, period
        self._first = _plain_numbers(model)
        self._processes = []

    def after_step(self):
        done = self.trainer.iter + 1
        if done % self._period == 0 or done >= self.trainer.max_iter:
            self._processes = comm.gather(self._loader.state_dict())

    def state_dict(self):
        now = _plain_numbers(self._model)
        changed = {key: value for key, value in now.items() if self._first.get(key) != value}
        return {"processes": self._processes, "numbers": changed}

    def load_state_dict(self, state):
        modules = dict(self._model.named_modules())
        for (module, name), value in state["numbers"].items():
            if module in modules:
                setattr(modules[module], name, value)
        if len(state["processes"]) == comm.get_world_size():
            self._loader.load_state_dict(state["processes"][comm.get_rank()])
        elif state["processes"]:
            _tell_new_order()


def _tell_new_order():
    logging.getLogger("d2_featcomp").warning(
        "The data set, SOLVER.IMS_PER_BATCH, DATALOADER.NUM_WORKERS or ASPECT_RATIO_GROUPING, or the "
        "number of processes changed since the checkpoint: data come in a new order"
    )


def _plain_numbers(model):
    """Finds numbers, dict[tuple[str, str], float]: (module, attribute) -> its value."""
    return {
        (name, key): value
        for name, module in model.named_modules()
        for key, value in vars(module).items()
        if type(value) is float
    }


class _Through:
    """An iterable, each of whose elements is shown to a function."""

    def __init__(self, source, show):
        self._source, self._show = source, show

    def __iter__(self):
        for element in self._source:
            self._show(element)
            yield element


def _numbers(sampler):
    """Identifies the stream of a sampler, but for its seed."""
    return type(sampler).__name__, getattr(sampler, "_size", 0)
