"""The two halves as files: each does its part without the other's weights."""

import hashlib
import pickle
import zipfile

import networks
import pytest
import torch
from detectron2.modeling import build_model

from d2_featcomp.codecs import BitstreamError, FeatureBitstream
from d2_featcomp.deploy import export_sub_models, find_categories, load_sub_model, read_config
from d2_featcomp.engine import CheckpointError
from d2_featcomp.modeling import format_channel_order

HALVES = ("edge", "cloud")
NETWORKS = ("msfc", "pyramid", "image", "baf", "layer", "tasks", "gains")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, configured, random_network):
    root = tmp_path_factory.mktemp("halves")
    for name in NETWORKS:
        torch.save({"model": random_network(name).state_dict()}, root / f"{name}.pth")
        export_sub_models(configured(name, root / f"{name}.pth"), str(root / name))
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

    # Built from nothing but the files: these hold the configuration, too.
    edge, cloud = (load_sub_model(None, str(folder / name / f"{half}.pth"), half) for half in HALVES)
    data = edge.edge_inference([record])[0].to_bytes()
    assert data == expected["bitstream"].to_bytes()
    found = cloud.cloud_inference([FeatureBitstream.from_bytes(data)])[0]
    for key in expected.keys() - {"bitstream"}:
        same(found[key], expected[key])

    # Neither can do what the other does.
    with pytest.raises(RuntimeError, match="of its cloud sub-model only"):
        cloud.edge_inference([record])
    with pytest.raises(RuntimeError, match="of its edge sub-model only"):
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
    for key in parts["edge"].keys() - {"model", "half"}:
        assert parts["edge"][key] == parts["cloud"][key]


def test_a_whole_checkpoint_serves_either_half(folder, configured):
    edge = load_sub_model(configured("msfc"), str(folder / "msfc.pth"), "edge")
    cloud = load_sub_model(configured("msfc"), str(folder / "msfc" / "cloud.pth"), "cloud")
    stream = edge.edge_inference([{"image": torch.zeros(3, 64, 64)}])[0]
    assert "instances" in cloud.cloud_inference([stream])[0]


def test_halves_of_different_networks_refuse_each_other(folder, configured, random_network, tmp_path):
    torch.save({"model": random_network("msfc", seed=5).state_dict()}, tmp_path / "other.pth")
    export_sub_models(configured("msfc", tmp_path / "other.pth"), str(tmp_path))
    edge = load_sub_model(configured("msfc"), str(tmp_path / "edge.pth"), "edge")
    cloud = load_sub_model(configured("msfc"), str(folder / "msfc" / "cloud.pth"), "cloud")
    with pytest.raises(BitstreamError, match="another model"):
        cloud.cloud_inference(edge.edge_inference([{"image": torch.zeros(3, 64, 64)}]))


def test_files_that_do_not_fit(folder, configured, tmp_path):
    edge, cloud = (str(folder / "msfc" / f"{half}.pth") for half in ("edge", "cloud"))
    with pytest.raises(CheckpointError, match="the cloud sub-model of a network, not the edge"):
        load_sub_model(configured("msfc"), cloud, "edge")
    with pytest.raises(CheckpointError, match="'MSFC', but the configuration asks for 'PyramidSplit'"):
        load_sub_model(configured("pyramid"), edge, "edge")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_sub_model(configured("msfc"), str(tmp_path / "nowhere.pth"), "edge")
    (tmp_path / "text.pth").write_text("not a checkpoint")
    with pytest.raises(CheckpointError, match="can be read"):
        load_sub_model(configured("msfc"), str(tmp_path / "text.pth"), "edge")
    data = torch.load(edge, weights_only=True)
    data["model"]["feature_split.encoder.conv.weight"][0] += 1
    torch.save(data, tmp_path / "changed.pth")
    with pytest.raises(CheckpointError, match="damaged"):
        load_sub_model(None, str(tmp_path / "changed.pth"), "edge")
    with pytest.raises(CheckpointError, match="damaged"):
        load_sub_model(configured("msfc"), str(tmp_path / "changed.pth"), "edge")
    with pytest.raises(ValueError, match="no weights"):
        export_sub_models(configured("msfc"), str(tmp_path))


@pytest.mark.parametrize("half", HALVES)
def test_a_bit_that_changed_on_the_way_is_told(folder, tmp_path, half):
    data = bytearray((folder / "msfc" / f"{half}.pth").read_bytes())
    with zipfile.ZipFile(folder / "msfc" / f"{half}.pth") as archive:
        largest = archive.read(max(archive.infolist(), key=lambda entry: entry.file_size))
    data[data.index(largest) + len(largest) // 2] ^= 1
    (tmp_path / "changed.pth").write_bytes(data)
    with pytest.raises(CheckpointError, match="is damaged"):
        load_sub_model(None, str(tmp_path / "changed.pth"), half)


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize(
    ("name", "override"),
    [
        ("msfc", ("INPUT.MIN_SIZE_TEST", 64)),
        ("msfc", ("INPUT.FORMAT", "RGB")),
        ("msfc", ("MODEL.PIXEL_MEAN", [1.0, 2.0, 3.0])),
        ("msfc", ("MODEL.FEATCOMP.CODEC.BITS", 8)),
        ("msfc", ("MODEL.FEATCOMP.CODEC.NAME", "png")),
        ("msfc", ("MODEL.FEATCOMP.SSFC.CHANNELS", 8)),
        ("msfc", ("MODEL.ANCHOR_GENERATOR.SIZES", [[8], [16], [32], [64]])),
        ("baf", ("MODEL.YOLOV3.LETTERBOX", 64)),
        ("image", ("MODEL.FEATCOMP.CODEC.QUALITY", 10)),
    ],
)
def test_settings_that_change_what_is_sent_are_refused(folder, configured, half, name, override):
    path = str(folder / name / f"{half}.pth")
    key, value = override
    with pytest.raises(CheckpointError, match=f"exported with {key} .*featcomp export"):
        load_sub_model(configured(name, "", key, value), path, half)
    with pytest.raises(CheckpointError, match=f"exported with {key} "):
        load_sub_model(read_config(path, overrides=["MODEL.DEVICE", "cpu", key, str(value)]), path, half)


def test_other_settings_are_accepted(folder, configured):
    path = str(folder / "msfc" / "cloud.pth")
    free = {
        "MODEL.DEVICE": "cpu",
        "MODEL.FEATCOMP.INFERENCE": "fused",
        "MODEL.FEATCOMP.SERVER.MAX_BATCH": "3",
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST": "0.25",
        "TEST.DETECTIONS_PER_IMAGE": "4",
        "INPUT.MIN_SIZE_TRAIN": "(64,)",
        "DATALOADER.NUM_WORKERS": "0",
        "DATASETS.TEST": "('coco_2017_val',)",
        "SOLVER.MAX_ITER": "1",
    }
    for config_file in ("", networks.MSFC):
        own = networks.TINY if config_file else {}
        overrides = networks.listed({**own, **free})
        cfg = read_config(path, config_file, overrides)
        assert (path, 3) == (cfg.MODEL.WEIGHTS, cfg.MODEL.FEATCOMP.SERVER.MAX_BATCH)
        modules = load_sub_model(cfg, path, "cloud").modules()
        assert [m.test_score_thresh for m in modules if hasattr(m, "test_score_thresh")] == [0.25]


def test_a_configuration_holds_no_path_of_the_machine_that_exported(folder, tmp_path, configured):
    order = tmp_path / "order.json"
    known = torch.load(folder / "baf.pth", weights_only=True)["model"]["feature_split.order"]
    order.write_text(format_channel_order(8, known, torch.rand(len(known)), 1))
    opts = ("MODEL.FEATCOMP.BAF.CHANNEL_ORDER", order, "OUTPUT_DIR", tmp_path)
    paths = export_sub_models(configured("baf", folder / "baf.pth", *opts), str(tmp_path / "out"))
    order.unlink()
    for half, path in paths.items():
        assert str(tmp_path) not in torch.load(path, weights_only=True)["config"]
        load_sub_model(None, path, half)


def legacy(path, to):
    """A file as releases wrote it that knew nothing of configurations: weights, and their own digest."""
    data = torch.load(path, weights_only=True)
    edge = torch.load(path.parent / "edge.pth", weights_only=True)["model"]
    digest = hashlib.blake2b(digest_size=4)
    for name, tensor in edge.items():
        if not name.endswith("num_batches_tracked"):
            digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            digest.update(tensor.numpy().tobytes())
    kept = {key: data[key] for key in ("model", "half", "split")}
    torch.save({**kept, "fingerprint": digest.hexdigest()}, to)
    return str(to)


@pytest.mark.parametrize("name", ["msfc", "baf", "tasks", "image"])
def test_files_of_earlier_releases(folder, configured, tmp_path, name):
    paths = {half: legacy(folder / name / f"{half}.pth", tmp_path / f"{half}.pth") for half in HALVES}
    for path in paths.values():
        with pytest.raises(ValueError, match="no configuration that can be read: give --config-file"):
            read_config(path)
    edge, cloud = (load_sub_model(configured(name), path, half) for half, path in paths.items())
    record = {"image": torch.rand(3, 64, 96) * 255}
    assert cloud.cloud_inference(edge.edge_inference([record]))[0]
    if name != "image":  # of which the edge has no weights
        data = torch.load(paths["edge"], weights_only=True)
        next(iter(data["model"].values()))[0] += 1
        torch.save(data, tmp_path / "changed.pth")
        with pytest.raises(CheckpointError, match="damaged"):
            load_sub_model(configured(name), str(tmp_path / "changed.pth"), "edge")


def test_a_whole_checkpoint_in_the_model_zoos_format(folder, configured, tmp_path, random_network):
    state = random_network("msfc").state_dict()
    with open(tmp_path / "whole.pkl", "wb") as file:
        weights = {name: value.numpy() for name, value in state.items()}
        pickle.dump({"model": weights, "__author__": "zoo"}, file)
    edge = load_sub_model(configured("msfc"), str(tmp_path / "whole.pkl"), "edge")
    cloud = load_sub_model(configured("msfc"), str(folder / "msfc" / "cloud.pth"), "cloud")
    assert (
        "instances" in cloud.cloud_inference(edge.edge_inference([{"image": torch.zeros(3, 64, 64)}]))[0]
    )


def test_class_names_travel_in_the_files(folder, configured, tmp_path):
    cfg = configured("msfc", folder / "msfc.pth")
    names = ["a", "b", "c", "d", "e", "f"]
    paths = export_sub_models(cfg, str(tmp_path), names)
    cloud = load_sub_model(None, paths["cloud"], "cloud")
    ids = {name: number for number, name in enumerate(names, start=1)}
    found = find_categories(read_config(paths["cloud"]), paths["cloud"], cloud)
    assert {entry["name"]: entry["id"] for entry in found} == ids
    renamed = find_categories(cfg, paths["cloud"], cloud, names[::-1])
    assert [entry["name"] for entry in renamed] == names[::-1]
    assert [entry["id"] for entry in renamed] == [1, 2, 3, 4, 5, 6]
    with pytest.raises(ValueError, match=r"3 class names \(a, b, c\) for a network of 6 classes"):
        find_categories(cfg, paths["cloud"], cloud, names[:3])
    with pytest.raises(ValueError, match="3 class names"):
        export_sub_models(cfg, str(tmp_path / "none"), names[:3])
    assert not (tmp_path / "none").exists()
