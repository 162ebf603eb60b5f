"""Measures many settings at once: what they have in common is computed once, and a stop loses nothing.

The edge half runs once an image for all settings of one network; settings whose decoded symbols are the
same, those of all lossless codecs at one bit depth, share one pass through the cloud half.
"""

import dataclasses
import json
import logging
import os

import torch
from detectron2.data import (
    build_detection_test_loader,
    get_detection_dataset_dicts,
)
from detectron2.modeling import build_model
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from tqdm import tqdm

from ..codecs import FeatureBitstream
from ..data.mappers import build_test_mapper
from ..evaluation.build import rate_evaluator, task_evaluators
from ..evaluation.recording import ImageRecords, UnrecordableError
from ..files import write_text
from ..modeling import build_feature_codec, find_feature_split
from .checkpoint import load_weights
from .command_line import plain_config
from .digests import digest, digest_of_data, file_digest
from .inference import prepare_for_inference, require_split
from .records import Records, locked
from .steps import require_data

__all__ = ["measure_settings"]


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
    with locked(folder):
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
            done = everything & {position for position, _ in Records(folder, group.key).lines()}
            rates = [
                everything & {position for position, _ in Records(folder, setting.key).lines()}
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
        records = Records(folder, group.key)
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
        records = dict(Records(folder, setting.key).lines()) if comm.is_main_process() else {}
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
            key: Records(folder, key)
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
                    stream = model.describe_stream(FeatureBitstream.from_bytes(data), setting.codec)
                    tensors = model.decode(stream, setting.codec)
                    first = first or tensors
                    if first is not tensors and not all(map(torch.equal, first, tensors)):
                        raise ValueError(
                            f"{' and '.join(group.names())} are lossless at {setting.codec.bits} bits, "
                            f"but decode to different features: codec {stream.codec!r} is not lossless"
                        )
                    outputs = model.outputs_of(tensors, stream, setting.codec) if wants_outputs else None
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
        mapper=build_test_mapper(cfg),
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
            datasets[dataset] = records, digest_of_data(dataset, records)
        key = digest([_plain_without_codec(cfg), file_digest(cfg.MODEL.WEIGHTS), datasets[dataset][1]])
        network = found.setdefault(key, _Network(cfg, [], datasets[dataset][0]))
        codec, group_key, setting_key = None, digest([key, "outputs"]), ""
        if cfg.MODEL.FEATCOMP.ENABLED:
            split = find_feature_split(cfg.MODEL.FEATCOMP.SPLIT)
            codec = build_feature_codec(cfg, split)
            setting_key = digest([key, "rates", dict(cfg.MODEL.FEATCOMP.CODEC)])
            alike = [codec.bits, codec.quantizer] if codec.image_codec.lossless else setting_key
            group_key = digest([key, "outputs", alike])
        setting = _Setting(name, cfg, setting_key, codec)
        group = next((group for group in network.groups if group.key == group_key), None)
        if group is None:
            network.groups.append(_Group(group_key, [setting]))
        else:
            group.settings.append(setting)
    return list(found.values())


def _plain_without_codec(cfg):
    plain = plain_config(cfg)
    del plain["OUTPUT_DIR"], plain["MODEL"]["WEIGHTS"], plain["MODEL"]["FEATCOMP"]["CODEC"]
    return plain


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
