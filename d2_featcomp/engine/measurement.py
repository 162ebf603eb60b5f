"""Measures many settings at once: what they have in common is computed once, and a stop loses nothing.

The edge half runs once an image for all settings of one network; settings whose decoded symbols are the
same, those of all lossless codecs at one bit depth, share one pass through the cloud half.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import logging
import os

import torch
from detectron2.checkpoint.detection_checkpoint import PathManager
from detectron2.data import (
    DatasetMapper,
    MetadataCatalog,
    build_detection_test_loader,
    get_detection_dataset_dicts,
)
from detectron2.modeling import build_model
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from tqdm import tqdm

from ..codecs import FeatureBitstream
from ..evaluation.build import rate_evaluator, task_evaluators
from ..evaluation.recording import ImageRecords, UnrecordableError
from ..files import write_text
from ..modeling import build_feature_codec, find_feature_split
from .checkpoint import load_weights
from .command_line import plain_config
from .inference import prepare_for_inference
from .steps import require_data, require_split

__all__ = ["file_digest", "measure_settings"]


def measure_settings(settings, folder, on_measured=None):
    """Measures settings on their test set, through real bitstreams.

    What was measured is kept in `folder`, image by image: a later call goes on where an earlier one was
    stopped, and does nothing twice, whatever other settings it is given. It may run in several
    processes, as under Detectron2's `launch`; they share the images.

    Args:
        settings (dict): name -> CfgNode, with MODEL.WEIGHTS; evaluators write below its OUTPUT_DIR.
        folder (str): for the records.
        on_measured (callable or None): called on the main process with name and results, as soon as
            they are there.

    Returns:
        dict: name -> {group: {metric: value}}, as :func:`evaluate` gives; empty on all processes but
        the main one.

    Raises:
        ValueError: no data set of that name, not exactly one test set, a codec that does not suit.
        FileNotFoundError, CheckpointError: see :func:`load_weights`. OSError: the disk is full.
    """
    networks = _networks(settings)
    if comm.is_main_process():
        os.makedirs(folder, exist_ok=True)
    comm.synchronize()
    results = {}
    with _locked(folder):
        for network in networks:
            network.find_pending(folder)
        # Each process takes its share of the images.
        total = round(sum(len(network.pending) for network in networks) / comm.get_world_size())
        hidden = not comm.is_main_process() or not total
        with tqdm(total=total, desc="images", mininterval=1, disable=hidden) as progress:
            for network in networks:
                for name, found in network.measure(folder, progress):
                    results[name] = found
                    if on_measured:
                        on_measured(name, found)
    return {name: results[name] for name in settings if name in results}


@contextlib.contextmanager
def _locked(folder):
    """Keeps other programs from measuring into the same folder at the same time."""
    if not comm.is_main_process():
        yield
        return
    with open(os.path.join(folder, "lock"), "w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ValueError(
                f"another program is measuring into {folder!r}: wait for it, or choose another folder"
            ) from error
        yield


class _Records:
    """Lines "position of the image, tab, JSON" in a file a process; a line counts when it is whole."""

    def __init__(self, folder, key):
        self._stem = os.path.join(folder, key)
        self._file = None

    def _paths(self):
        folder, start = os.path.split(self._stem)
        names = (name for name in os.listdir(folder) if name.startswith(f"{start}."))
        return [os.path.join(folder, name) for name in sorted(names) if name.endswith(".records")]

    def lines(self):
        """Yields (position, JSON) of all processes."""
        for path in self._paths():
            with open(path, encoding="utf-8", newline="\n") as file:
                for line in file:
                    position, tab, text = line.partition("\t")
                    if line.endswith("\n") and tab and position.isdecimal():
                        yield int(position), text

    def append(self, position, value):
        if self._file is None:
            path = f"{self._stem}.{comm.get_rank()}.records"
            _cut_torn_line(path)
            # One write a line, so that a full disk is noticed at once.
            self._file = open(path, "ab", buffering=0)  # noqa: SIM115 - closed below
        line = f"{position}\t{json.dumps(value, separators=(',', ':'))}\n".encode()
        if self._file.write(line) != len(line):
            raise OSError(f"cannot write to {self._file.name!r}: free disk space, then run it again")

    def close(self):
        if self._file is not None:
            self._file.close()
            self._file = None

    def remove(self):
        for path in self._paths():
            os.remove(path)


def _cut_torn_line(path):
    """Removes what an interrupted write left behind the last whole line."""
    if not os.path.exists(path):
        return
    with open(path, "rb+") as file:
        data = file.read()
        file.truncate(data.rfind(b"\n") + 1)


@dataclasses.dataclass
class _Setting:
    name: str
    cfg: object
    key: str
    codec: object  # FeatureCodec; None for a network that is not cut
    done: set = dataclasses.field(default_factory=set)  # positions of images


@dataclasses.dataclass
class _Group:
    """Settings that give the same outputs."""

    key: str
    settings: list
    evaluators: list = dataclasses.field(default_factory=list)  # of ImageRecords
    live: list = dataclasses.field(default_factory=list)  # evaluators that cannot be recorded
    done: set = dataclasses.field(default_factory=set)
    result: dict | None = None

    def names(self):
        return [setting.name for setting in self.settings]


class _Network:
    """Settings of one network and its weights: all that the edge half runs once for."""

    def __init__(self, cfg, groups, records):
        self.cfg = cfg
        self.groups = groups
        self.dataset = records
        self.pending = []

    def find_pending(self, folder):
        """Looks for what an earlier call has done."""
        found = None
        if comm.is_main_process():
            found = self._find(folder)
        self.pending, *state = comm.all_gather(found)[0]
        for group, (result, done, done_settings) in zip(self.groups, state, strict=True):
            group.result, group.done = result, done
            for setting, positions in zip(group.settings, done_settings, strict=True):
                setting.done = positions

    def _find(self, folder):
        pending, state = set(), []
        everything = set(range(len(self.dataset)))
        for group in self.groups:
            result = _read_result(folder, group)
            done = everything & {position for position, _ in _Records(folder, group.key).lines()}
            rates = [
                everything & {position for position, _ in _Records(folder, setting.key).lines()}
                if setting.codec
                else everything
                for setting in group.settings
            ]
            state.append((result, done, rates))
            if result is None:
                pending |= everything - done
            for positions in rates:
                pending |= everything - positions
        return sorted(pending), *state

    def measure(self, folder, progress):
        """Yields (name of a setting, results)."""
        if self.pending:
            self._run(folder, progress)
        for group in self.groups:
            self._conclude(folder, group)
            for setting in group.settings:
                rates = self._rates(folder, setting)
                if comm.is_main_process():
                    yield setting.name, {**group.result, **rates}

    def _conclude(self, folder, group):
        """Evaluates a group from the records of all processes, keeps the result."""
        if group.result is not None:
            return
        if not group.evaluators and not group.live:  # all images were there, but not the result
            self._build_evaluators(group)
        records = _Records(folder, group.key)
        result = {}
        lines = dict(records.lines()) if comm.is_main_process() else {}
        if comm.is_main_process() and not group.live:
            self._require_all(lines, folder)
        taken = [json.loads(lines.pop(position)) for position in sorted(lines)]
        for index, evaluator in enumerate(group.evaluators):
            result.update(evaluator.evaluate(parts[index] for parts in taken) or {})
        for evaluator in group.live:
            result.update(evaluator.evaluate() or {})
        if comm.is_main_process():
            group.result = json.loads(json.dumps(result, default=float))
            write_text(json.dumps(group.result), _result_path(folder, group))
            records.remove()

    def _require_all(self, lines, folder):
        missing = set(range(len(self.dataset))) - lines.keys()
        if missing:
            raise ValueError(
                f"{len(missing)} of {len(self.dataset)} images are missing in {folder!r}: all processes "
                "must see this folder, and nothing else may change it; run the command again"
            )

    def _rates(self, folder, setting):
        if setting.codec is None:
            return {}
        records = dict(_Records(folder, setting.key).lines()) if comm.is_main_process() else {}
        if comm.is_main_process():
            self._require_all(records, folder)
        evaluator = ImageRecords(rate_evaluator(setting.cfg))
        return evaluator.evaluate(json.loads(records[position]) for position in sorted(records)) or {}

    def _build_evaluators(self, group):
        cfg = group.settings[0].cfg
        evaluators = task_evaluators(cfg, cfg.DATASETS.TEST[0])
        recorded = [ImageRecords(evaluator) for evaluator in evaluators]
        if all(record.possible for record in recorded):
            group.evaluators = recorded
        else:
            group.live, group.done = evaluators, set()
            for evaluator in evaluators:
                evaluator.reset()

    def _run(self, folder, progress):
        for group in self.groups:
            if group.result is None:
                self._build_evaluators(group)
        if any(group.live for group in self.groups):
            self.pending = list(range(len(self.dataset)))
        rates = {
            setting.name: ImageRecords(rate_evaluator(setting.cfg))
            for group in self.groups
            for setting in group.settings
            if setting.codec
        }
        if self.cfg.SEED >= 0:
            seed_all_rng(self.cfg.SEED)
        model = build_model(self.cfg)
        require_split(model, self.cfg.MODEL.FEATCOMP.ENABLED)
        load_weights(model, self.cfg.MODEL.WEIGHTS)
        prepare_for_inference(model, self.cfg)
        files = {
            key: _Records(folder, key)
            for group in self.groups
            for key in (group.key, *(setting.key for setting in group.settings))
        }
        try:
            with torch.no_grad():
                for inputs in _test_loader(self.cfg, self.dataset, self.pending):
                    for record in inputs:
                        self._measure_image(model, record, rates, files)
                        progress.update()
        finally:
            for file in files.values():
                file.close()
        comm.synchronize()

    def _measure_image(self, model, record, rates, files):
        position = record["position"]
        features = None
        for group in self.groups:
            wants_outputs = group.result is None and position not in group.done
            first = None
            for setting in group.settings:
                wants_rate = position not in setting.done
                if not (wants_outputs or wants_rate):
                    continue
                if setting.codec is None:
                    outputs = model([record])[0]
                else:
                    if features is None:
                        features = model.edge_features([record])[0]
                    # Through the bytes that would be sent.
                    data = model.encode(features, setting.codec).to_bytes()
                    stream = FeatureBitstream.from_bytes(data)
                    tensors = model.decode(stream)
                    first = first or tensors
                    if first is not tensors and not all(map(torch.equal, first, tensors)):
                        raise ValueError(
                            f"{' and '.join(group.names())} are lossless at {setting.codec.bits} bits, "
                            f"but decode to different features: codec {stream.codec!r} is not lossless"
                        )
                    outputs = model.outputs_of(tensors, stream) if wants_outputs else None
                if wants_outputs:
                    self._take(group, record, outputs, files[group.key])
                    wants_outputs = False
                if wants_rate:
                    taken = rates[setting.name].of_image(record, {"bitstream": stream})
                    files[setting.key].append(position, taken)

    @staticmethod
    def _take(group, record, outputs, file):
        if group.live:
            for evaluator in group.live:
                evaluator.process([record], [outputs])
            return
        try:
            taken = [evaluator.of_image(record, outputs) for evaluator in group.evaluators]
        except UnrecordableError as error:
            raise ValueError(
                f"an evaluator of {' and '.join(group.names())} keeps what cannot be written "
                f"({error}): measure this network with tools/train_net.py --eval-only"
            ) from error
        file.append(record["position"], taken)


def _test_loader(cfg, dataset, positions):
    records = [{**dataset[position], "position": position} for position in positions]
    return build_detection_test_loader(
        dataset=records,
        mapper=DatasetMapper(cfg, is_train=False),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )


def _networks(settings):
    """list[_Network], in the order of their first settings."""
    found, datasets = {}, {}
    for name, cfg in settings.items():
        if len(cfg.DATASETS.TEST) != 1:
            raise ValueError(f"{name}: DATASETS.TEST must name one data set, not {cfg.DATASETS.TEST}")
        dataset = cfg.DATASETS.TEST[0]
        if dataset not in datasets:
            require_data([dataset])
            records = get_detection_dataset_dicts([dataset], filter_empty=False)
            datasets[dataset] = records, _digest_of_data(dataset, records)
        key = _digest([_plain_without_codec(cfg), file_digest(cfg.MODEL.WEIGHTS), datasets[dataset][1]])
        network = found.setdefault(key, _Network(cfg, [], datasets[dataset][0]))
        codec, group_key, setting_key = None, _digest([key, "outputs"]), ""
        if cfg.MODEL.FEATCOMP.ENABLED:
            split = find_feature_split(cfg.MODEL.FEATCOMP.SPLIT)
            codec = build_feature_codec(cfg, split)
            setting_key = _digest([key, "rates", dict(cfg.MODEL.FEATCOMP.CODEC)])
            alike = [codec.bits, codec.quantizer] if codec.image_codec.lossless else setting_key
            group_key = _digest([key, "outputs", alike])
        setting = _Setting(name, cfg, setting_key, codec)
        group = next((group for group in network.groups if group.key == group_key), None)
        if group is None:
            network.groups.append(_Group(group_key, [setting]))
        else:
            group.settings.append(setting)
    return list(found.values())


def _digest_of_data(dataset, records):
    """Tells a data set: its records with their annotations, and the state of the files they name."""
    files = {str(MetadataCatalog.get(dataset).get("json_file", ""))}
    for record in records:
        files |= {value for key, value in record.items() if key.endswith("file_name")}
    states = [
        (path, os.stat(path).st_size, os.stat(path).st_mtime_ns)
        for path in sorted(files)
        if os.path.isfile(path)
    ]
    return _digest([json.dumps(records, sort_keys=True, default=str), states])


def _plain_without_codec(cfg):
    plain = plain_config(cfg)
    del plain["OUTPUT_DIR"], plain["MODEL"]["WEIGHTS"], plain["MODEL"]["FEATCOMP"]["CODEC"]
    return plain


def _digest(value):
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:24]


_DIGESTS = {}


def file_digest(path):
    """str: tells the content of a weight file; "" for no file.

    Raises:
        FileNotFoundError: there is none of that name.
    """
    if not path:
        return ""
    local = PathManager.get_local_path(path)
    if not os.path.isfile(local):
        raise FileNotFoundError(f"no checkpoint {path!r}: set MODEL.WEIGHTS to an existing file")
    about = os.stat(local)
    key = local, about.st_mtime_ns, about.st_size
    if key not in _DIGESTS:
        with open(local, "rb") as file:
            digest = hashlib.sha256()
            while chunk := file.read(2**20):
                digest.update(chunk)
        _DIGESTS[key] = digest.hexdigest()
    return _DIGESTS[key]


def _result_path(folder, group):
    return os.path.join(folder, f"{group.key}.result.json")


def _read_result(folder, group):
    try:
        with open(_result_path(folder, group), encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        return None
    except ValueError:
        logging.getLogger("d2_featcomp").warning("%s is damaged", _result_path(folder, group))
        return None
