"""What `featcomp edge` tells at its end: bytes of images, and times."""

import statistics

from tabulate import tabulate

from ..codecs.rate_control import TOLERANCE

__all__ = ["Rates", "count_images", "make_table"]


class Rates:
    """Bytes of all images together, however many they are."""

    def __init__(self):
        self._images = self._bytes = 0
        self._off_target = ()  # least and most bytes of those that missed their targets; their number

    def add(self, size, target=None):
        """Counts an image of `size` bytes, where `target` (float or None: any) were aimed at."""
        self._images += 1
        self._bytes += size
        if target is not None and abs(size / target - 1) > TOLERANCE:
            least, most, count = self._off_target or (size, size, 0)
            self._off_target = min(least, size), max(most, size), count + 1

    def tell(self, args):
        """Prints bytes of an image, the bit rate where one is held, and how many missed their targets.

        Args:
            args (Namespace): target_kbit_s and fps of `featcomp edge`.
        """
        if not self._images:
            return
        mean = self._bytes / self._images
        print(f"{count_images(self._images)}, {mean / 1000:.2f} kB an image")
        least, most, count = self._off_target or (0, 0, 0)
        if args.target_kbit_s is not None:
            print(
                f"{mean * args.fps * 8 / 1000:.1f} kbit/s at {args.fps:g} images a second, of "
                f"{args.target_kbit_s:g}; {count} images could not be brought within 3 % of their share"
            )
        elif count:
            print(
                f"{count_images(count)} could not be brought within 3 % of the target: the nearest are "
                f"{least / 1000:.2f} to {most / 1000:.2f} kB"
            )


def count_images(count):
    """Words for a number of images."""
    return "1 image" if count == 1 else f"{count} images"


def make_table(rows):
    """Tables milliseconds of each image, and their medians.

    Args:
        rows (list[tuple]): of each image its name, bytes, and the seconds of edge network, codec,
            transfer and cloud (None: not known).

    Returns:
        str: in Markdown.
    """
    head = ["image", "bytes", "edge network", "codec", "transfer", "cloud", "end to end (ms)"]
    lines = []
    for name, size, *seconds in rows:
        total = sum(part or 0.0 for part in seconds)
        lines.append([name, size, *(None if s is None else 1000 * s for s in (*seconds, total))])
    medians = [
        statistics.median([line[column] for line in lines if line[column] is not None] or [float("nan")])
        for column in range(1, len(head))
    ]
    cells = [
        [
            line[0],
            f"{line[1]:.0f}",
            *("-" if value is None or value != value else f"{value:.1f}" for value in line[2:]),
        ]
        for line in [*lines, ["median", *medians]]
    ]
    align = ("left", *("right" for _ in head[1:]))
    return tabulate(cells, head, tablefmt="pipe", colalign=align, disable_numparse=True)
