"""Config files that are read again and again, such as by a plan of many settings."""

import os
import pickle
import re

__all__ = ["merge_config_file"]

_BASE = re.compile(r"^_BASE_: *([\w.-][\w./-]*) *$", re.MULTILINE)
_MOST = 32
_merged = {}  # texts of a file and of those below it -> (config before, config after, pickled)


def merge_config_file(cfg, path):
    """CfgNode.merge_from_file, but without what a tag such as !!python/object asks for. A file that was
    merged into an equal config before, and is as it was, is not parsed again: that takes the most time.

    Args:
        cfg (CfgNode): not frozen; it is not changed.
        path (str): of a YAML file.

    Returns:
        CfgNode: not frozen, the caller's own.
    """
    texts = _read_texts(path)
    before, after = _merged.get(texts, (None, b""))
    if after and before == cfg:
        return pickle.loads(after)  # quicker than a copy
    merged = cfg.clone()
    merged.merge_from_file(path, allow_unsafe=False)
    if texts is not None:
        while len(_merged) >= _MOST:
            del _merged[next(iter(_merged))]
        _merged[texts] = cfg.clone(), pickle.dumps(merged)
    return merged


def _read_texts(path):
    """tuple[str] or None: the text of a file and of those that it is based on, one after the other; None
    where it names them in another way than a file of this project does."""
    texts = []
    while len(texts) < 10:
        try:
            with open(path, encoding="utf-8") as file:
                texts.append(file.read())
        except (OSError, UnicodeDecodeError):  # Detectron2 tells what is wrong
            return None
        bases = _BASE.findall(texts[-1])
        if texts[-1].count("_BASE_") != len(bases) or len(bases) > 1:
            return None
        if not bases:
            return tuple(texts)
        path = os.path.join(os.path.dirname(path), bases[0])
    return None
