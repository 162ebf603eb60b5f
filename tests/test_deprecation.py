import importlib

import pytest

from d2_featcomp import codecs, deploy, engine, experiments, modeling, serving
from d2_featcomp.deprecation import make_getattr
from d2_featcomp.modeling.yolo.darknet import Darknet

# Package -> names of earlier releases, with those of today.
RENAMED = {
    codecs: {"stream_step_sizes": "read_step_sizes"},
    deploy: {
        "export_halves": "export_sub_models",
        "fastest_ranges": "find_fastest_ranges",
        "load_half": "load_sub_model",
    },
    engine: {
        "as_input": "make_input",
        "export_halves": "export_sub_models",
        "fastest_ranges": "find_fastest_ranges",
        "file_digest": "hash_file",
        "load_half": "load_sub_model",
        "timed": "time_call",
        "config_of_step": "make_stage_config",
        "require_step_settings": "require_stage_settings",
        "steps_to_run": "choose_stages",
        "train_steps": "train_stages",
    },
    experiments: {"file_digest": "hash_file"},
    modeling: {
        "Image": "ImageSplit",
        "Layer": "IntermediateLayerSplit",
        "Pyramid": "PyramidSplit",
    },
    modeling.splits: {"Layer": "IntermediateLayerSplit"},
    serving: {
        "all_frames": "read_all_frames",
        "class_names": "find_class_names",
        "frames_of": "read_frames",
        "result_of": "make_result",
        "stream_id": "make_stream_id",
    },
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


@pytest.mark.parametrize(
    ("owner", "earlier", "today"),
    [
        (codecs.FeatureBitstream, "packed_bits", "fixed_length_bits"),
        (experiments.Plan, "config_of", "build_config"),
        (modeling.CompressibleMultiTask, "weigh_losses", "weight_losses"),
        (modeling.SplitNetwork, "edge_features_of_batch", "compute_batch_features"),
        (modeling.SplitNetwork, "half_state", "sub_model_names"),
        (modeling.SplitNetwork, "keep_half", "keep_sub_model"),
        (modeling.SplitNetwork, "outputs_of", "compute_outputs"),
        (modeling.SplitNetwork, "outputs_of_batch", "compute_batch_outputs"),
        (modeling.BaF, "sent_channels", "latent_channels"),
        (Darknet, "cut_layers", "list_split_layers"),
        (Darknet, "input_of", "compute_input"),
        (Darknet, "stride_of", "find_stride"),
    ],
)
def test_classes_keep_earlier_names(owner, earlier, today):
    assert getattr(owner, earlier) is getattr(owner, today)
