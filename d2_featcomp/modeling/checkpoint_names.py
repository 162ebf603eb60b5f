"""Names of weights in checkpoints: those of the network before it was split.

A split network holds its backbone as `network.backbone.backbone`, split and codec beside it, and all
else below `network`; in checkpoints they are `backbone`, `feature_split`, `feature_codec` and the
network's own names, so that a checkpoint serves the split network and the network before it was split.
"""

__all__ = ["make_saved_name", "rename_on_load", "rename_on_save", "rename_reported"]

_INNER = {
    "network.backbone.backbone.": "backbone.",
    "network.backbone.feature_split.": "feature_split.",
    "network.backbone.feature_codec.": "feature_codec.",
    "network.": "",
}
_OUTER = {saved: inner for inner, saved in list(_INNER.items())[:3]}


def make_saved_name(name):
    """Converts the name of a weight of a split network to its name in checkpoints."""
    for inner, saved in _INNER.items():
        if name.startswith(inner):
            return saved + name[len(inner) :]
    return name


def _inner_name(name):
    for saved, inner in _OUTER.items():
        if name.startswith(saved):
            return inner + name[len(saved) :]
    return name if name.startswith("network.") else f"network.{name}"


def _rename(state, prefix, rename):
    """Renames keys below a prefix, in place; the order stays."""
    entries = list(state.items())
    state.clear()
    for key, value in entries:
        if key.startswith(prefix):
            key = prefix + rename(key[len(prefix) :])
        state[key] = value


def _rename_versions(state, prefix, rename):
    """Returns dict: versions of modules that go with a state dict, by new names of the modules."""
    renamed = {}
    for module, version in getattr(state, "_metadata", {}).items():
        name = f"{module}." if module else ""
        if name.startswith(prefix):
            name = prefix + rename(name[len(prefix) :])
        renamed[name.removesuffix(".")] = version  # of the innermost, where two get one name
    return renamed


def rename_on_save(module, state_dict, prefix, local_metadata):
    """Renames weights in `state_dict`, and the modules whose versions it tells (a hook)."""
    if versions := _rename_versions(state_dict, prefix, make_saved_name):
        state_dict._metadata.clear()
        state_dict._metadata.update(versions)
    _rename(state_dict, prefix, make_saved_name)
    # As it always was: split and codec last.
    last = [
        key
        for key in state_dict
        if key.startswith((f"{prefix}feature_split.", f"{prefix}feature_codec."))
    ]
    for key in last:
        state_dict[key] = state_dict.pop(key)


def rename_on_load(
    module, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
):
    """Renames weights before they are loaded, and adds the versions of modules by their names here (a
    hook)."""
    for name, version in _rename_versions(state_dict, prefix, _inner_name).items():
        state_dict._metadata.setdefault(name, version)
    _rename(state_dict, prefix, _inner_name)


def rename_reported(module, incompatible_keys):
    """Renames reported keys after weights were loaded (a hook): by their names in checkpoints."""
    for keys in incompatible_keys:
        keys[:] = [make_saved_name(key) for key in keys]
