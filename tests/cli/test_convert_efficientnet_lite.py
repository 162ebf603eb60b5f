"""featcomp convert-efficientnet-lite, on weights of random numbers under the published names."""

import published_efficientnet_lite as published
import pytest
import torch
from detectron2.modeling import build_model

from d2_featcomp import cli
from d2_featcomp.engine import FeatCompCheckpointer, setup_config

CONFIG = "configs/photo_scenes_msfc_EFLite0.yaml"


@pytest.fixture
def convert(tmp_path, capsys):
    def call(weights):
        torch.save(weights, tmp_path / "published.pth")
        status = 0
        try:
            arguments = ("--weights", tmp_path / "published.pth", "--output", tmp_path / "out.pth")
            cli.main(["convert-efficientnet-lite", *map(str, arguments)])
        except SystemExit as ended:
            status = ended.code
        return status, *capsys.readouterr()

    return call


def test_a_network_with_that_backbone_starts_from_it(convert, tmp_path):
    weights = published.make_weights(published.LITE0)
    status, told, _ = convert(weights)
    assert status == 0 and told == f"{tmp_path / 'out.pth'}: EfficientNet-lite0, 247 tensors\n"
    network = build_model(setup_config(CONFIG, ["MODEL.DEVICE", "cpu"]))
    checkpointer = FeatCompCheckpointer(network)
    checkpointer.load(str(tmp_path / "out.pth"))
    assert checkpointer.missing_task_network
    assert not [name for name in checkpointer.missing if "bottom_up" in name]
    held = network.state_dict()
    for name, published_name in (
        ("stem.0.weight", "_conv_stem.weight"),
        ("stem.1.project.norm.running_var", "_blocks.0._bn2.running_var"),
        ("res4.5.depthwise.weight", "_blocks.10._depthwise_conv.weight"),
        ("res5.4.expand.norm.bias", "_blocks.15._bn0.bias"),
    ):
        assert torch.equal(held[f"backbone.bottom_up.{name}"], weights[published_name])


class Hidden:
    """What must not be read."""

    def __reduce__(self):
        return print, ("code of the file was run",)


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({"a": torch.zeros(1)}, "published.pth': these are not the weights of an EfficientNet-lite"),
        ([1, 2], "holds no dictionary of weights"),
        ({"a": Hidden()}, "is no file of weights that can be read"),
    ],
)
def test_other_files_are_told_in_one_line(convert, tmp_path, weights, words):
    status, told, error = convert(weights)
    assert status == 2 and told == "" and error.count("\n") == 1 and words in error
    assert not (tmp_path / "out.pth").exists()


def test_no_such_file(capsys, tmp_path):
    arguments = ["--weights", str(tmp_path / "no.pth"), "--output", str(tmp_path / "out.pth")]
    with pytest.raises(SystemExit):
        cli.main(["convert-efficientnet-lite", *arguments])
    assert "no such file" in capsys.readouterr().err
