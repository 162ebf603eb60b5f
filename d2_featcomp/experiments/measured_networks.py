"""Runs networks over their test sets, for several settings at once.

The edge sub-model runs once an image for all settings of one network; settings that decode to the same
symbols, as those of all lossless codecs at one bit depth do, share one pass through the cloud sub-model
and one evaluation.
"""

import hashlib
import json
import logging
import os
import shutil
from collections import OrderedDict

import torch
from detectron2.data import build_detection_test_loader
from detectron2.modeling import build_model
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from tqdm import tqdm

from ..codecs import FeatureBitstream, build_feature_codec
from ..codecs.structures import OWN_LIMITS
from ..data.mappers import build_test_mapper
from ..engine.checkpoint import load_weights
from ..engine.inference import prepare_for_inference, require_split
from ..evaluation.answers import decode_answers, encode_answers, make_answer_stream
from ..evaluation.build import build_rate_evaluator, build_task_evaluators
from ..evaluation.feature_rate import RATE_FILE, find_rate_file
from ..files import write_text
from .collecting import collect, evaluate_collected
from .differences import copy_matches, remove_matches
from .keys import digest
from .records import Records

__all__ = ["LiveNetwork", "RecordedNetwork"]


class _MeasuredNetwork:
    """Settings of one network and its weights: all that the edge sub-model runs once for."""

    def __init__(self, cfg, key, dataset, folder):
        self.cfg, self.key, self.dataset, self.folder = cfg, key, dataset, folder
        self.settings = []
        self.task = "images"  # of the progress bar
        self.trained = None  # the setting whose codec the network is built with, for its weights

    def can_hold(self, setting):
        """Whether the network has the weights of a setting's codec, or can be built with them."""
        return self.trained is None or self.trained.codec_key == setting.codec_key

    def add(self, setting):
        if setting.has_weights:
            self.trained, self.cfg = setting, setting.cfg
        self.settings.append(setting)

    def _run(self, positions):
        """Takes the images at these positions, this process its share of them."""
        if self.cfg.SEED >= 0:
            seed_all_rng(self.cfg.SEED)
        model = build_model(self.cfg)
        require_split(model, self.cfg.MODEL.FEATCOMP.ENABLED)
        self._require_known_weights(model)
        load_weights(model, self.cfg.MODEL.WEIGHTS)
        prepare_for_inference(model, self.cfg)
        loader = build_detection_test_loader(
            dataset=[{**self.dataset[position], "position": position} for position in positions],
            mapper=build_test_mapper(self.cfg),
            num_workers=self.cfg.DATALOADER.NUM_WORKERS,
        )
        hidden = not comm.is_main_process()
        with torch.no_grad(), tqdm(loader, desc=self.task, mininterval=1, disable=hidden) as progress:
            for inputs in progress:
                for record in inputs:
                    self._take(model, record)

    def _require_known_weights(self, model):
        """Raises ValueError for a codec of which it is not known that it is trained."""
        for setting in self.settings:
            if setting.codec is None or setting.has_weights:
                continue
            if build_feature_codec(setting.cfg, model.feature_split).has_weights:
                name = setting.cfg.MODEL.FEATCOMP.CODEC.NAME
                raise ValueError(
                    f"codec {name!r} has parameters when it is built for a network, and none when it is "
                    "built for the class of a split: write has_weights = True into the class "
                    f"{type(setting.codec).__name__}, so that those of the checkpoint are used"
                )

    def _pass(self, model, record, settings):
        """Codes an image, through the bytes of a bitstream.

        Yields:
            (setting, hash of its symbols, its bitstream, a function that gives the network's outputs)
        """
        features, whole, known = None, None, {}
        for setting in settings:
            if setting.codec is None:
                whole = whole or model([record])[0]
            if setting.answers is not None:
                data = encode_answers(whole, setting.answers)
                symbols = hashlib.sha256(data).hexdigest()[:16]
                stream = make_answer_stream(data, record)
                yield setting, symbols, stream, lambda data=data: decode_answers(data)
                continue
            if setting.codec is None:
                yield setting, "", None, lambda whole=whole: whole
                continue
            if features is None:
                features = model.edge_features([record])[0]
            codec = setting.codec
            if setting.has_weights:
                own = model.feature_codec
                own.rate, own.target_bytes, codec = codec.rate, codec.target_bytes, None
            data = model.encode(features, codec).to_bytes()
            stream = model.describe_stream(FeatureBitstream.from_bytes(data, OWN_LIMITS), codec)
            tensors = model.decode(stream, codec)
            symbols = setting.hash_symbols(tensors)

            def outputs(symbols=symbols, tensors=tensors, stream=stream, codec=codec):
                if symbols not in known:
                    known[symbols] = model.compute_outputs(tensors, stream, codec)
                return known[symbols]

            yield setting, symbols, stream, outputs

    def _path(self, key):
        return os.path.join(self.folder, f"{key}.result.json")

    def _read(self, path):
        try:
            with open(path, encoding="utf-8") as file:
                return json.load(file)
        except FileNotFoundError:
            return None
        except ValueError:
            logging.getLogger("d2_featcomp").warning("%s is damaged: it is measured again", path)
            return None


class LiveNetwork(_MeasuredNetwork):
    """Keeps whole results alone: without a folder not even these."""

    def measure(self):
        """Yields (name of a setting, results), on the main process."""
        known = {}
        if self.folder and comm.is_main_process():
            complete = (s for s in self.settings if not s.sends or os.path.exists(self._kept_rates(s)))
            known = {s.key: self._read(self._path(s.key)) for s in complete}
        known = {key: found for key, found in comm.all_gather(known)[0].items() if found is not None}
        self.evaluators = {}
        for setting in self.settings:
            if setting.key not in known and setting.key not in self.evaluators:
                cfg = setting.cfg
                evaluators = build_task_evaluators(cfg, cfg.DATASETS.TEST[0])
                evaluators += [build_rate_evaluator(cfg)] if setting.sends else []
                for evaluator in evaluators:
                    evaluator.reset()
                self.evaluators[setting.key] = setting, evaluators
        if self.evaluators:
            self._run(range(len(self.dataset)))
        for key, (setting, evaluators) in self.evaluators.items():
            found = OrderedDict()
            for evaluator in evaluators:
                found.update(evaluator.evaluate() or {})
            known[key] = found
            if self.folder and comm.is_main_process():
                if setting.sends:
                    shutil.copyfile(find_rate_file(setting.cfg), self._kept_rates(setting))
                write_text(json.dumps(found, default=float), self._path(key))
        if comm.is_main_process():
            for setting in self.settings:
                if setting.sends:
                    self._place_rates(setting)
                yield setting.name, known[setting.key]

    def _kept_rates(self, setting):
        return os.path.join(self.folder, f"{setting.key}.{RATE_FILE}")

    def _place_rates(self, setting):
        """Gives a setting the rates of images, which another one with the same key may have written."""
        own = find_rate_file(setting.cfg)
        if self.folder:
            source = self._kept_rates(setting)
        else:
            source = find_rate_file(self.evaluators[setting.key][0].cfg)
        if source != own:
            os.makedirs(os.path.dirname(own), exist_ok=True)
            shutil.copyfile(source, own)

    def _take(self, model, record):
        settings = [setting for setting, _ in self.evaluators.values()]
        for setting, _, stream, outputs in self._pass(model, record, settings):
            output = outputs() if stream is None else {**outputs(), "bitstream": stream}
            for evaluator in self.evaluators[setting.key][1]:
                evaluator.process([record], [output])


class RecordedNetwork(_MeasuredNetwork):
    """Keeps what evaluators collect from each image."""

    def measure(self):
        """Yields (name of a setting, results), on the main process."""
        self.outputs = Records(self.folder, f"{self.key}-outputs")
        for setting in self.settings:
            setting.records = Records(self.folder, setting.key)
        # Once, but where an image's symbols are those of a finished result and another image's are not.
        while positions := self._find_pending():
            self.evaluators = build_task_evaluators(self.cfg, self.cfg.DATASETS.TEST[0])
            self.rate_evaluator = build_rate_evaluator(self.cfg)
            try:
                self._run(positions)
            finally:
                for records in (self.outputs, *(setting.records for setting in self.settings)):
                    records.close()
            comm.synchronize()
        for setting in self.settings:
            found = {**self._conclude(setting), **self._conclude_rate(setting)}
            if comm.is_main_process():
                yield setting.name, found
        if comm.is_main_process():
            self.outputs.remove()

    def _find_pending(self):
        """Looks for what was done, by all processes and earlier calls.

        Returns:
            list[int]: positions of the images that are not.
        """
        found = self._find() if comm.is_main_process() else None
        pending, self.collected, self.settled, state = comm.all_gather(found)[0]
        for setting, (symbols, owed) in zip(self.settings, state, strict=True):
            setting.symbols, setting.owed = symbols, owed
        return pending

    def _find(self):
        everything = range(len(self.dataset))
        self.places = self.outputs.find()
        results = [self._read(os.path.join(self.folder, name)) for name in self._finished()]
        lists = {tuple(result["symbols"]) for result in results if result}
        settled = {pair for symbols in lists for pair in enumerate(symbols)}
        pending, state = set(), []
        for setting in self.settings:
            symbols = dict.fromkeys(everything, "")
            if setting.sends:
                symbols = dict(setting.records.find())
                setting.places = {position: place for (position, _), place in symbols.items()}
                symbols = {position: name for position, name in symbols if position in everything}
            owed = set()
            if len(symbols) == len(everything) and tuple(symbols[p] for p in everything) not in lists:
                owed = {pair[0] for pair in symbols.items() if pair not in self.places}
            pending |= owed | (set(everything) - symbols.keys())
            state.append((symbols, owed))
        return sorted(pending), set(self.places), settled, state

    def _finished(self):
        start = f"{self.key}-"
        return [
            n
            for n in sorted(os.listdir(self.folder))
            if n.startswith(start) and n.endswith(".result.json")
        ]

    def _take(self, model, record):
        position = record["position"]
        wanted = [s for s in self.settings if position not in s.symbols or position in s.owed]
        for setting, symbols, stream, outputs in self._pass(model, record, wanted):
            pair = position, symbols
            if pair not in self.collected and (position in setting.owed or pair not in self.settled):
                output = outputs()
                taken = [collect(evaluator, record, output) for evaluator in self.evaluators]
                self.outputs.append(*pair, taken)
                self.collected.add(pair)
            if position not in setting.symbols:  # after the outputs: whoever sees this finds those
                taken = collect(self.rate_evaluator, record, {"bitstream": stream})
                setting.records.append(*pair, taken)
                setting.symbols[position] = symbols

    def _conclude(self, setting):
        """Evaluates a setting's records, unless one of the same symbols was. All processes must call it;
        the main one gets the result."""
        order = [setting.symbols.get(position, "") for position in range(len(self.dataset))]
        path = self._path(f"{self.key}-{digest(order)}")
        found = self._read(path) if comm.is_main_process() else None
        stem = path.removesuffix("result.json")
        own = os.path.join(setting.cfg.OUTPUT_DIR, "inference", "")
        if comm.all_gather(found is not None)[0]:
            if found:
                copy_matches(stem, own)
            return found["results"] if found else {}
        if comm.is_main_process():
            remove_matches(own)
        places = {}
        if comm.is_main_process():
            places = self._places(self.places, enumerate(order))
        results = OrderedDict()
        for index, evaluator in enumerate(
            build_task_evaluators(setting.cfg, setting.cfg.DATASETS.TEST[0])
        ):
            evaluator.match_again = True  # of COCO's
            collected = (taken[index] for taken in Records.read(places))
            results.update(evaluate_collected(evaluator, collected) or {})
        results = json.loads(json.dumps(results, default=float))
        if comm.is_main_process():
            copy_matches(own, stem)
            write_text(json.dumps({"symbols": order, "results": results}), path)
        return results

    def _conclude_rate(self, setting):
        if not setting.sends:
            return {}
        places = []
        if comm.is_main_process():
            places = self._places(setting.places, range(len(self.dataset)))
        return evaluate_collected(build_rate_evaluator(setting.cfg), Records.read(places)) or {}

    def _places(self, places, wanted):
        wanted = list(wanted)
        missing = sum(each not in places for each in wanted)
        if missing:
            raise ValueError(
                f"{missing} of {len(wanted)} images are missing in {self.folder!r}: all processes "
                "must see this folder, and nothing else may change it; run the command again"
            )
        return [places[each] for each in wanted]
