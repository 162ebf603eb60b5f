#!/usr/bin/env python
"""How much each level of a feature pyramid matters: AP with Gaussian noise on one of them (Fig. 3).

    projects/MSFC/level_noise.py --config-file configs/msfc_R50.yaml \\
        MODEL.WEIGHTS output/step1/model_final.pth

Takes the network without a split. --output gets a table (CSV and Markdown) and a plot. The noise is
drawn from a seed, the same in every call.
"""

import argparse
import os

import torch
from detectron2.data import build_detection_test_loader
from detectron2.evaluation import inference_on_dataset
from detectron2.utils.logger import setup_logger

from d2_featcomp.data.mappers import build_test_mapper
from d2_featcomp.engine import (
    build_for_inference,
    parse_arguments,
    report_errors,
    require_weights,
    setup_config,
)
from d2_featcomp.evaluation import build_evaluator
from d2_featcomp.evaluation.tradeoff import format_table, make_rows
from d2_featcomp.files import write_csv, write_text


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, help="config of the network")
    parser.add_argument(
        "--output", default="output/level-noise", help="folder (default: output/level-noise)"
    )
    parser.add_argument(
        "--variance", type=float, default=100.0, help="variance of the noise (default: 100)"
    )
    parser.add_argument(
        "--relative",
        action="store_true",
        help="--variance is a multiple of the variance of the level's own features, in each image",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise (default: 0)")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="config overrides: KEY VALUE ...")
    return parse_arguments(parser)


def add_noise(features, level, variance, relative, generator):
    """Features with noise on one level; on none for a level of None."""
    if level is None:
        return features
    clean = features[level]
    if relative:
        variance = variance * clean.var()
    noise = torch.randn(clean.shape, generator=generator).to(clean)
    return {**features, level: clean + noise * variance**0.5}


def measure(cfg, network, level, args):
    """{group: {metric: value}} of the network with noise on a level of its backbone's features."""
    generator = torch.Generator().manual_seed(args.seed)

    def hook(module, inputs, features):
        return add_noise(features, level, args.variance, args.relative, generator)

    handle = network.backbone.register_forward_hook(hook)
    try:
        dataset = cfg.DATASETS.TEST[0]
        loader = build_detection_test_loader(cfg, dataset, mapper=build_test_mapper(cfg))
        return inference_on_dataset(network, loader, build_evaluator(cfg, dataset))
    finally:
        handle.remove()


def draw(rows, columns, path, title):
    """A bar a level and column, and the accuracy without noise as a line; writes `.png` and `.svg`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    levels = list(rows)[1:]
    width = 0.8 / len(columns)
    for index, column in enumerate(columns):
        places = [place + (index - (len(columns) - 1) / 2) * width for place in range(len(levels))]
        bars = axes.bar(places, [rows[level][column] for level in levels], width, label=column)
        clean = next(iter(rows.values()))[column]
        colour = bars[0].get_facecolor()
        axes.axhline(clean, color=colour, linestyle="--", linewidth=1, label=f"{column}, no noise")
    axes.set_xticks(range(len(levels)), levels)
    axes.set(xlabel="level with noise", ylabel="AP (%)", ylim=(0, None))
    axes.set_title(title, fontsize="medium")
    axes.grid(True, axis="y", alpha=0.25)
    figure.legend(loc="outside right upper", fontsize="small")
    figure.savefig(f"{path}.png", dpi=120)
    figure.savefig(f"{path}.svg", metadata={"Date": None})


def main(args):
    if args.variance < 0:
        raise ValueError(f"--variance is {args.variance}: it cannot be negative")
    setup_logger(name="detectron2")
    opts = [*args.opts, "MODEL.FEATCOMP.ENABLED", "False", "OUTPUT_DIR", args.output]
    cfg = setup_config(args.config_file, opts)
    require_weights(cfg)
    network = build_for_inference(cfg, cfg.MODEL.WEIGHTS, enabled=False)
    levels = list(network.backbone.output_shape())
    os.makedirs(args.output, exist_ok=True)
    results = {level or "no noise": measure(cfg, network, level, args) for level in (None, *levels)}
    rows = make_rows(results)
    columns = [column for column in ("box AP", "mask AP") if column in next(iter(rows.values()))]
    for row in rows.values():  # a network that finds nothing has no AP
        row.update({column: 0.0 for column in columns if not row.get(column, 0.0) >= 0})
        row.update({column: 0.0 for column in columns if column not in row})
    if not columns:
        raise ValueError(f"{args.config_file}: its evaluators give no box AP")
    table = format_table(rows, columns)
    print(table)
    stem = os.path.join(args.output, "level_noise")
    write_text(f"{table}\n", f"{stem}.md")
    lines = ([level, *(row[column] for column in columns)] for level, row in rows.items())
    write_csv(["level", *columns], lines, f"{stem}.csv")
    unit = " times its own" if args.relative else ""
    draw(rows, columns, stem, f"Gaussian noise of variance {args.variance:g}{unit} on one level")
    print(f"{stem}.png")


if __name__ == "__main__":
    arguments = parse_args()
    with report_errors():
        main(arguments)
