import importlib

import pytest

from d2_featcomp import codecs, engine, modeling
from d2_featcomp.deprecation import make_getattr

# Package -> names of earlier releases, with those of today.
RENAMED = {
    codecs: {"stream_step_sizes": "read_step_sizes"},
    engine: {
        "config_of_step": "make_stage_config",
        "require_step_settings": "require_stage_settings",
        "steps_to_run": "choose_stages",
        "train_steps": "train_stages",
    },
    modeling: {
        "Image": "ImageSplit",
        "Layer": "IntermediateLayerSplit",
        "Pyramid": "PyramidSplit",
    },
    modeling.splits: {"Layer": "IntermediateLayerSplit"},
}


@pytest.mark.parametrize("package", RENAMED, ids=lambda package: package.__name__)
def test_earlier_names_stay_importable(package):
    for earlier, today in RENAMED[package].items():
        with pytest.warns(DeprecationWarning, match=f"{earlier} is now called {today}"):
            found = getattr(package, earlier)
        assert found is getattr(package, today)
        assert earlier not in vars(package)  # one thing, not a copy


def test_names_that_never_were_are_missing():
    for package in RENAMED:
        with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
            package.nothing  # noqa: B018
        with pytest.raises(ImportError):
            exec(f"from {package.__name__} import nothing")


def test_moved_names_are_given_without_a_warning():
    find = make_getattr("d2_featcomp.engine", {}, {"d2_featcomp.ops": ("tile_channels",)})
    assert find("tile_channels") is importlib.import_module("d2_featcomp.ops").tile_channels


def test_bitstreams_keep_an_earlier_property():
    stream = codecs.FeatureBitstream
    assert stream.packed_bits is stream.fixed_length_bits
