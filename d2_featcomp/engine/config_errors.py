"""Explains what is wrong with a setting of a config, in the words of whoever wrote it."""

import difflib
import re

__all__ = ["explain_config_error"]

_UNKNOWN = re.compile(r"Non-existent (?:config )?key: ([\w.]+)")
_WRONG_TYPE = re.compile(
    r"Type mismatch \(<class '(\w+)'> vs\. <class '(\w+)'>\) with values \(.* vs\. (.*)\) "
    r"for config key: (\S+)",
    re.DOTALL,
)
_KINDS = {
    "bool": "True or False",
    "float": "a number",
    "int": "a whole number",
    "list": "a list",
    "str": "text",
    "tuple": "a tuple",
}


def explain_config_error(cfg, error, source):
    """Explains why a file or overrides could not be merged into a config.

    Args:
        cfg (CfgNode): with all keys there are.
        error (Exception): what yacs, YAML or a reader of configs raised.
        source (str): where the setting stands: the path of a file, or what the overrides are called.

    Returns:
        ValueError: whose message names the source, the key and, where one is similar, the right key; of
        a wrong type, what the key takes and how that is written.
    """
    # That of a KeyError is quoted by str().
    message = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    if unknown := _UNKNOWN.search(message):
        similar = _find_similar(unknown[1], _list_keys(cfg))
        hint = f": did you mean {' or '.join(similar)}?" if similar else ""
        message = f"{unknown[0]}{hint or '; --import adds those of another project'}"
    elif wrong := _WRONG_TYPE.search(message):
        expected, given, value, key = wrong.groups()
        kind = _KINDS.get(expected, f"a value of type {expected}")
        # In quotes, without which a shell takes the parentheses for its own.
        hint = f': write "{_read_names(value)!r}"' if (expected, given) == ("tuple", "str") else ""
        message = f"{key} takes {kind}, not {_KINDS.get(given, given)} ({value}){hint}"
    return ValueError(f"{source}: {message}")


def _read_names(text):
    """The tuple that a text without quotes means: "a", "a,b" or "(a,)"."""
    names = (name.strip(" '\"") for name in text.strip("()[] ").split(","))
    return tuple(name for name in names if name)


def _list_keys(cfg, prefix=""):
    for key, value in cfg.items():
        if isinstance(value, dict):
            yield from _list_keys(value, f"{prefix}{key}.")
        else:
            yield prefix + key


def _find_similar(wanted, keys):
    """At most two keys: those that end as `wanted`, which may lack its sections, or are spelt alike."""
    keys = list(keys)
    section, _, name = wanted.rpartition(".")
    names = {key.rpartition(".")[2]: key for key in keys if key.rpartition(".")[0] == section}
    return (
        [key for key in keys if key.endswith(f".{wanted}")][:2]
        or [names[similar] for similar in difflib.get_close_matches(name, names, n=2, cutoff=0.75)]
        or difflib.get_close_matches(wanted, keys, n=1, cutoff=0.88)
    )
