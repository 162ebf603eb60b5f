"""Options that several sub-commands have."""

import argparse

__all__ = [
    "add_config_file",
    "add_edge_factor",
    "add_launch_options",
    "add_overrides",
    "add_sampling",
    "add_sub_model",
    "add_verbose",
    "split_list",
]


def add_config_file(
    parser: argparse.ArgumentParser,
    what: str = "config of the split network",
    *,
    required: bool = True,
    default: str | None = None,
) -> None:
    """Adds --config-file, for short --config: `config_file`.

    Args:
        parser (ArgumentParser): gets the option.
        what (str): begins its help.
        required (bool): whether it has to be given.
        default (str or None): what stands for one that is not given.
    """
    parser.add_argument(
        "--config-file",
        "--config",
        dest="config_file",
        required=required,
        default=default,
        metavar="FILE",
        help=f"{what}: a file, or a name in the model zoo, e.g. msfc_R50",
    )


def add_sub_model(parser: argparse.ArgumentParser, name: str) -> None:
    """Adds --config-file and --weights of a program that runs an exported sub-model, "edge" or
    "cloud"."""
    add_config_file(
        parser,
        "config of the split network (default: the one in the file of weights)",
        required=False,
    )
    files = "edge.pth, edge.onnx" if name == "edge" else f"{name}.pth"
    parser.add_argument("--weights", help=f"{files}, or a whole checkpoint (default: MODEL.WEIGHTS)")


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Adds config overrides, anywhere on the command line: `opts`."""
    parser.add_argument(
        "opts", nargs="*", metavar="KEY VALUE", help="config overrides, e.g. MODEL.WEIGHTS model.pth"
    )


def add_edge_factor(parser: argparse.ArgumentParser) -> None:
    """Adds --edge-factor, of commands that time both sub-models on one machine."""
    parser.add_argument(
        "--edge-factor",
        type=float,
        default=1,
        help="how many times slower the edge device is than this machine (default: 1)",
    )


def add_launch_options(parser: argparse.ArgumentParser) -> None:
    """Adds Detectron2's options of several processes and machines."""
    parser.add_argument(
        "--num-gpus", type=int, default=1, help="GPUs per machine; on CPUs, processes (default: 1)"
    )
    parser.add_argument("--num-machines", type=int, default=1, help="number of machines (default: 1)")
    parser.add_argument("--machine-rank", type=int, default=0, help="its number, from 0 (default: 0)")
    parser.add_argument(
        "--dist-url",
        default="auto",
        help="address at which several machines meet: tcp://HOST:PORT (default: auto)",
    )


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """Adds --stride and --fps: which frames of videos are taken."""
    parser.add_argument(
        "--stride",
        type=int,
        default=1,
        metavar="N",
        help="take every Nth frame of videos and cameras (default: 1)",
    )
    parser.add_argument(
        "--fps",
        type=float,
        help="take at most this many frames per second of videos and cameras (default: all)",
    )


def add_verbose(parser: argparse.ArgumentParser) -> None:
    """Adds --verbose, of commands that write a log file."""
    parser.add_argument(
        "--verbose", action="store_true", help="print everything that is written to the log file"
    )


def split_list(text: str) -> list[str]:
    """Splits "A,B"."""
    return text.split(",")
