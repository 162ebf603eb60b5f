"""The two halves as files: each does its part without the other's weights."""

import pytest
import torch
from detectron2.modeling import build_model

from d2_featcomp.codecs import BitstreamError, FeatureBitstream
from d2_featcomp.engine import CheckpointError, export_halves, load_half

NETWORKS = ("msfc", "pyramid", "image", "baf", "layer", "tasks", "gains")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, configured, random_network):
    root = tmp_path_factory.mktemp("halves")
    for name in NETWORKS:
        torch.save({"model": random_network(name).state_dict()}, root / f"{name}.pth")
        export_halves(configured(name, root / f"{name}.pth"), str(root / name))
    return root


def same(first, second):
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second)
    elif hasattr(first, "get_fields"):
        assert first.get_fields().keys() == second.get_fields().keys()
        for key, value in first.get_fields().items():
            same(getattr(value, "tensor", value), getattr(second.get(key), "tensor", second.get(key)))
    else:
        assert first == second


@pytest.mark.parametrize("name", NETWORKS)
def test_the_halves_together_are_the_network(folder, configured, name):
    whole = build_model(configured(name)).eval()
    whole.load_state_dict(torch.load(folder / f"{name}.pth", weights_only=True)["model"])
    record = {"image": torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(1)) * 255}
    expected = whole([record])[0]

    edge = load_half(configured(name), str(folder / name / "edge.pth"), "edge")
    cloud = load_half(configured(name), str(folder / name / "cloud.pth"), "cloud")
    data = edge.edge_inference([record])[0].to_bytes()
    assert data == expected["bitstream"].to_bytes()
    found = cloud.cloud_inference([FeatureBitstream.from_bytes(data)])[0]
    for key in expected.keys() - {"bitstream"}:
        same(found[key], expected[key])

    # Neither can do what the other does.
    with pytest.raises(RuntimeError, match="of its cloud half only"):
        cloud.edge_inference([record])
    with pytest.raises(RuntimeError, match="of its edge half only"):
        edge.cloud_inference([FeatureBitstream.from_bytes(data)])


@pytest.mark.parametrize("name", NETWORKS)
def test_each_file_holds_its_own_weights_only(folder, name):
    parts = {
        half: torch.load(folder / name / f"{half}.pth", weights_only=True) for half in ("edge", "cloud")
    }
    whole = torch.load(folder / f"{name}.pth", weights_only=True)["model"]
    keys = {half: set(part["model"]) for half, part in parts.items()}
    used = {key for key in whole if not key.startswith("loss_weights.")}
    assert keys["edge"] | keys["cloud"] == used
    both = keys["edge"] & keys["cloud"]
    if name == "baf":
        assert both and all(key.startswith(("backbone.layers.", "feature_split.order")) for key in both)
        assert len({key.split(".")[2] for key in both if key.startswith("backbone")}) == 1
    elif name == "gains":
        assert both and all(key.startswith("feature_split.gains") for key in both)
    else:
        assert not both
    assert parts["edge"]["fingerprint"] == parts["cloud"]["fingerprint"]


def test_a_whole_checkpoint_serves_either_half(folder, configured):
    edge = load_half(configured("msfc"), str(folder / "msfc.pth"), "edge")
    cloud = load_half(configured("msfc"), str(folder / "msfc" / "cloud.pth"), "cloud")
    stream = edge.edge_inference([{"image": torch.zeros(3, 64, 64)}])[0]
    assert "instances" in cloud.cloud_inference([stream])[0]


def test_halves_of_different_networks_refuse_each_other(folder, configured, random_network, tmp_path):
    torch.save({"model": random_network("msfc", seed=5).state_dict()}, tmp_path / "other.pth")
    export_halves(configured("msfc", tmp_path / "other.pth"), str(tmp_path))
    edge = load_half(configured("msfc"), str(tmp_path / "edge.pth"), "edge")
    cloud = load_half(configured("msfc"), str(folder / "msfc" / "cloud.pth"), "cloud")
    with pytest.raises(BitstreamError, match="another model"):
        cloud.cloud_inference(edge.edge_inference([{"image": torch.zeros(3, 64, 64)}]))


def test_files_that_do_not_fit(folder, configured, tmp_path):
    edge, cloud = (str(folder / "msfc" / f"{half}.pth") for half in ("edge", "cloud"))
    with pytest.raises(CheckpointError, match="the cloud half of a network, not the edge"):
        load_half(configured("msfc"), cloud, "edge")
    with pytest.raises(CheckpointError, match="'MSFC', but the configuration asks for 'Pyramid'"):
        load_half(configured("pyramid"), edge, "edge")
    with pytest.raises(CheckpointError, match="weights do not fit"):
        load_half(configured("msfc", "", "MODEL.FEATCOMP.SSFC.CHANNELS", 8), edge, "edge")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_half(configured("msfc"), str(tmp_path / "nowhere.pth"), "edge")
    (tmp_path / "text.pth").write_text("not a checkpoint")
    with pytest.raises(CheckpointError, match="can be read"):
        load_half(configured("msfc"), str(tmp_path / "text.pth"), "edge")
    data = torch.load(edge, weights_only=True)
    data["model"]["feature_split.encoder.conv.weight"][0] += 1
    torch.save(data, tmp_path / "changed.pth")
    with pytest.raises(CheckpointError, match="damaged"):
        load_half(configured("msfc"), str(tmp_path / "changed.pth"), "edge")
    with pytest.raises(ValueError, match="no weights"):
        export_halves(configured("msfc"), str(tmp_path))
