"""Measures settings of networks on their test sets, through real bitstreams.

With a folder, what was measured is kept there image by image, and a stop loses nothing. Two kinds of
records are written for an image: what the evaluators collect from the network's outputs (see
`collecting.py`), once for each different set of decoded symbols; and, for each setting, its rate and the
hash of its symbols. A later call does only what is missing, and evaluates the records, in the order of
the data set, as an uninterrupted call does. So one process or several, with or without a stop, give the
same numbers.
"""

import logging
import os
from collections import OrderedDict

from detectron2.evaluation import print_csv_format, verify_results
from detectron2.utils import comm

from ..data.requirements import load_records
from ..engine.steps import require_data
from ..evaluation.build import build_task_evaluators
from ..evaluation.tradeoff import format_results
from .collecting import can_collect
from .keys import describe_versions, digest, digest_data, digest_imports, hash_file, pick_measured_keys
from .measured_networks import LiveNetwork, RecordedNetwork
from .records import locked
from .schema import file_name
from .settings import Setting, build_codec

__all__ = ["evaluate", "measure_settings"]


def evaluate(cfg):
    """Evaluates MODEL.WEIGHTS on DATASETS.TEST, through real bitstreams.

    Args:
        cfg (CfgNode): with the keys of :func:`add_featcomp_config`. Evaluators write below its
            OUTPUT_DIR; of several data sets, below a folder there with the name of each.

    Returns:
        dict: {group: {metric: value}} on the main process; of several data sets, one such for each.

    Raises:
        ValueError: no test set, or an unknown one. FileNotFoundError, CheckpointError: see
            :func:`load_weights`.
    """
    if not cfg.DATASETS.TEST:
        raise ValueError("DATASETS.TEST names no data set to measure on")
    require_data(cfg.DATASETS.TEST)
    found = OrderedDict()
    for dataset in cfg.DATASETS.TEST:
        of_one = cfg.clone()
        of_one.defrost()
        of_one.DATASETS.TEST = (dataset,)
        if len(cfg.DATASETS.TEST) > 1:  # else each would overwrite the files of the one before
            of_one.OUTPUT_DIR = os.path.join(cfg.OUTPUT_DIR, file_name(dataset))
        found |= measure_settings({dataset: of_one})
    if not comm.is_main_process():
        return {}
    for dataset, results in found.items():
        logging.getLogger("d2_featcomp").info("\n\n%s\n", format_results({dataset: results}))
        print_csv_format(results)
    results = next(iter(found.values())) if len(found) == 1 else found
    verify_results(cfg, results)
    return results


def measure_settings(settings, folder=None, on_measured=None):
    """Measures settings on their test sets. It may run in several processes, as under Detectron2's
    `launch`; they share the images.

    Args:
        settings (dict): name -> CfgNode, with MODEL.WEIGHTS; evaluators write below its OUTPUT_DIR.
        folder (str or None): cache of measurements, see above; None keeps nothing. Its keys hold all
            that a number depends on: weights, data set, config, versions of this package and of its
            libraries, and the code of modules that --import named (not of what these import).
        on_measured (callable or None): called on the main process with name and results, as soon as
            they are there.

    Returns:
        dict: name -> {group: {metric: value}}; empty on all processes but the main one.

    Raises:
        ValueError: no data set of that name, not exactly one test set, a codec that does not suit.
        FileNotFoundError, CheckpointError: see :func:`load_weights`. OSError: the disk is full.
    """
    networks = _find_networks(settings, folder)
    if folder is not None and comm.is_main_process():
        os.makedirs(folder, exist_ok=True)
    comm.synchronize()
    results = {}
    with locked(folder):
        for number, network in enumerate(networks, start=1):
            if len(networks) > 1:
                network.task = f"network {number} of {len(networks)}, images"
            for name, found in network.measure():
                results[name] = found
                if on_measured:
                    on_measured(name, found)
    return {name: results[name] for name in settings if name in results}


def _find_networks(settings, folder):
    """Groups settings by network, in the order of their first settings."""
    found, datasets = {}, {}
    versions = describe_versions() if folder else {}
    if folder and (imports := digest_imports()):
        versions["--import"] = imports
    for cfg in settings.values():
        build_codec(cfg)  # so that a mistake is told before data sets are drawn
    for name, cfg in settings.items():
        if len(cfg.DATASETS.TEST) != 1:
            raise ValueError(f"{name}: DATASETS.TEST must name one data set, not {cfg.DATASETS.TEST}")
        dataset = cfg.DATASETS.TEST[0]
        if dataset not in datasets:
            require_data([dataset])
            records = load_records([dataset], filter_empty=False)
            datasets[dataset] = records, digest_data(dataset, records) if folder else ""
        records, data = datasets[dataset]
        key = digest([pick_measured_keys(cfg), hash_file(cfg.MODEL.WEIGHTS), data, versions])
        setting = Setting.of(name, cfg, key)
        if setting.has_weights and key in found and not found[key].can_hold(setting):
            key = setting.key
        if key not in found:
            recorded = folder and all(map(can_collect, build_task_evaluators(cfg, dataset)))
            found[key] = (RecordedNetwork if recorded else LiveNetwork)(cfg, key, records, folder)
        found[key].add(setting)
    return list(found.values())
