"""The last results and their pictures: few, drawn when somebody looks, and drawn right."""

import io
import threading

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from d2_featcomp.codecs import FeatureBitstream
from d2_featcomp.codecs.structures import ImageSizes
from d2_featcomp.deploy.pictures import draw_feature_map
from d2_featcomp.deploy.pictures.colours import class_colours
from d2_featcomp.serving import BusyError, CloudService, ServiceSettings, make_stream_id
from d2_featcomp.serving import gallery as gallery_module
from d2_featcomp.serving.drawing import draw_on_features
from d2_featcomp.serving.gallery import KEPT, SHOWN_FOR, Gallery


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture(scope="module")
def stream(network):
    image = torch.rand(3, 48, 64, generator=torch.Generator().manual_seed(2)) * 255
    return network.edge_inference([{"image": image}])[0]


def result_of(name, data, **more):
    identity = make_stream_id(name, data)
    return {"id": identity, "name": name, "height": 48, "width": 64, **more}


@pytest.fixture
def service(network, tmp_path):
    service = CloudService(network, ServiceSettings(), str(tmp_path))
    yield service
    service.stop()


def test_few_are_kept_and_shown_for_some_seconds(service, stream, monkeypatch):
    monkeypatch.setattr(gallery_module, "MOST_CLIENTS", 2)
    gallery, data = Gallery(service, clock := Clock()), stream.to_bytes()
    instances = [{"category_id": n, "category": "ring", "score": s} for n, s in ((1, 0.9), (1, 0.1))]
    gallery.add("a", result_of("first", data, instances=instances), data, 0.5)
    (row,) = gallery.rows()
    assert (row["client"], row["name"], row["bytes"], row["seconds"]) == ("a", "first", len(data), 0.5)
    assert row["instances"] == 2 and row["classes"] == [("ring", 1)] and row["maps"] == []
    for n in range(KEPT + 5):
        gallery.add("b", result_of(f"b{n}", data), data, 0.1)
    assert gallery.rows() == [row]  # who looks has time to
    clock.now += SHOWN_FOR
    assert [r["name"] for r in gallery.rows()][:2] == [f"b{KEPT + 4}", f"b{KEPT + 3}"]
    assert len(gallery.rows()) == KEPT + 1
    gallery.add("c", result_of("c", data), data, 0.1)
    for _ in range(2):  # then "a" is gone for good
        clock.now += SHOWN_FOR
        assert {r["client"] for r in gallery.rows()} == {"b", "c"}
    with pytest.raises(KeyError):
        gallery.picture(row["id"], 0.5)
    monkeypatch.setattr(gallery_module, "KEPT_BYTES", 3 * len(data))
    gallery.add("c", result_of("c2", data), data, 0.1)
    clock.now += SHOWN_FOR
    assert len(gallery.rows()) == 3 and gallery._bytes == 3 * len(data)
    gallery.stop()


def test_pictures_are_drawn_when_somebody_looks(service, stream, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        gallery_module,
        "draw_on_features",
        lambda network, stream, result, names, threshold: (
            drawn.append(threshold) or draw_on_features(network, stream, result, names, threshold)
        ),
    )
    gallery, data = Gallery(service), stream.to_bytes()
    identity = make_stream_id("photo", data)
    result, _ = service.submit(identity, data).result(timeout=60)
    gallery.add("a", result, data, 0.1)
    with pytest.raises(KeyError):  # nobody has seen that it is there
        gallery.picture(identity, 0.5)
    gallery.rows()
    assert drawn == []
    first = gallery.picture(identity, 0.5).result(timeout=60)
    with Image.open(io.BytesIO(first)) as picture:
        assert picture.format == "WEBP" and picture.size == (8 * 64, 8 * 48)
    assert gallery.picture(identity, 0.501).result(timeout=60) == first and drawn == [0.5]
    gallery.picture(identity, 0.25).result(timeout=60)
    assert drawn == [0.5, 0.25]
    service.folder.path, kept = "gone", service.folder.path
    with pytest.raises(FileNotFoundError):
        gallery.picture(identity, 0.75).result(timeout=60)
    service.folder.path = kept
    gallery.picture(identity, 0.75).result(timeout=60)  # a failure is not kept
    monkeypatch.setattr(gallery_module, "_MOST_WAITING", 0)
    with pytest.raises(BusyError):
        gallery.picture(identity, 0.1)
    gallery.stop()


def test_what_is_being_drawn_is_shown_longer(service, stream, monkeypatch):
    begun, go = threading.Event(), threading.Event()

    def draw(*arguments):
        begun.set()
        assert go.wait(60)
        return np.zeros((8, 8, 3), np.uint8)

    monkeypatch.setattr(gallery_module, "draw_on_features", draw)
    gallery, data = Gallery(service, clock := Clock()), stream.to_bytes()
    for name in ("old", "new"):
        result, _ = service.submit(make_stream_id(name, data), data).result(timeout=60)
        gallery.add("a", result, data, 0.1)
        assert [row["name"] for row in gallery.rows()] == ["old"]
        if name == "old":
            future = gallery.picture(result["id"], 0.5)
            assert begun.wait(60)
        clock.now += SHOWN_FOR
    assert [row["name"] for row in gallery.rows()] == ["old"]
    go.set()
    assert future.result(timeout=60)[:4] == b"RIFF"
    assert [row["name"] for row in gallery.rows()] == ["new", "old"]
    gallery.stop()


def boxed(category, bbox, score, size):
    mask = np.zeros(size, np.uint8, order="F")
    x, y, width, height = bbox
    mask[y : y + height, x : x + width] = 1
    encoded = coco_mask.encode(mask)
    encoded["counts"] = encoded["counts"].decode()
    return {"category_id": category, "bbox": bbox, "score": score, "segmentation": encoded}


def colour_at(picture, x, y):
    """Of a mask: what its colour adds to gray, as a direction."""
    colour = picture[y, x].astype(float)
    return colour - colour.min()


def test_masks_lie_where_they_were_found(network, stream):
    """The original is 960 x 1280, so what is drawn is smaller."""
    sizes = ImageSizes(stream.sizes.padded, stream.sizes.resized, (960, 1280))
    large = FeatureBitstream(**{**vars(stream), "sizes": sizes})
    entries = [
        boxed(7, [640, 0, 640, 480], 0.9, (960, 1280)),
        boxed(9, [0, 480, 640, 480], 0.4, (960, 1280)),
    ]
    result = {"height": 960, "width": 1280, "instances": entries}
    categories = [{"id": 7, "name": "ring"}, {"id": 9, "name": "disk"}]
    picture = draw_on_features(network, large, result, categories)
    assert picture.shape == (384, 512, 3)
    found = colour_at(picture, 384, 100)
    expected = class_colours(1)[0].astype(float)
    expected -= expected.min()
    assert np.corrcoef(found, expected)[0, 1] > 0.99
    for x, y in ((100, 100), (100, 320), (384, 320)):
        assert colour_at(picture, x, y).max() == 0  # gray; the second one's score is too low
    both = draw_on_features(network, large, result, categories, threshold=0.3)
    assert colour_at(both, 100, 320).max() > 20


@pytest.mark.parametrize("kind", ["tasks", "baf", "pyramid", "image"])
def test_every_kind_of_network_can_be_drawn(random_network, kind):
    from d2_featcomp.serving import make_result

    network = random_network(kind)
    image = torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(2)) * 255
    stream = network.edge_inference([{"image": image}])[0]
    result = make_result("a", network.cloud_inference([stream])[0])
    picture = draw_on_features(network, stream, result, threshold=0.0)
    assert picture.ndim == 3 and picture.dtype == np.uint8 and picture.std() > 1


def test_a_map_of_features_leaves_the_padding_out():
    latent = np.zeros((2, 4, 8), np.float32)
    latent[:, :2, :6] = np.random.default_rng(0).normal(size=(2, 2, 6))
    sizes = ImageSizes(padded=(64, 128), resized=(32, 96), original=(100, 300))
    picture = draw_feature_map([latent], sizes, (100, 300))
    assert picture.shape == (100, 300, 3) and (picture[..., 0] == picture[..., 2]).all()
    whole = draw_feature_map([latent], ImageSizes((64, 128), (64, 128), (64, 128)), (64, 128))
    assert whole[40:, :].std() < whole[:32, :96].std()
    assert picture.std() > 10
    flat = draw_feature_map([np.ones((1, 1, 1), np.float32)], sizes, (1, 1))
    assert flat.shape == (1, 1, 3)
