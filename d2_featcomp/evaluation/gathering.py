"""Rows of evaluators, gathered from all processes."""

from detectron2.utils import comm

__all__ = ["gather_rows"]


def gather_rows(rows, distributed):
    """Gathers rows of all processes.

    Args:
        rows (list): of this process.
        distributed (bool): whether other processes have rows too.

    Returns:
        list or None: the rows of all processes on the main one, None on the others.
    """
    if not distributed:
        return rows
    comm.synchronize()
    rows = [row for part in comm.gather(rows, dst=0) for row in part]
    return rows if comm.is_main_process() else None
