"""What is deployed: shared by the tests of edge and cloud."""

import signal

import networks
import numpy as np
import pytest
import torch
from deployed import CONFIG, IMAGES, OPTS, Server
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from PIL import Image

from d2_featcomp.engine import export_sub_models, make_input, setup_config
from d2_featcomp.serving import make_result


@pytest.fixture(scope="session")
def root(tmp_path_factory):
    """Weights of both halves, and photographs of several sizes."""
    folder = tmp_path_factory.mktemp("deployed")
    networks.save("msfc", folder / "whole.pth")
    export_sub_models(
        setup_config(CONFIG, [*OPTS, "MODEL.WEIGHTS", str(folder / "whole.pth")]), str(folder)
    )
    (folder / "photos").mkdir()
    rng = np.random.default_rng(0)
    for index in range(IMAGES):
        size = (64 + 8 * index, 96, 3)
        pixels = rng.integers(0, 256, size, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / f"photo{index}.png")
    return folder


@pytest.fixture(scope="session")
def expected(root):
    """Name of each photograph -> result of the whole network, its bitstream."""
    cfg = setup_config(CONFIG, [*OPTS, "MODEL.WEIGHTS", str(root / "whole.pth")])
    network = build_model(cfg).eval()
    network.load_state_dict(torch.load(root / "whole.pth", weights_only=True)["model"])
    found = {}
    names = MetadataCatalog.get("scenes_val").thing_classes
    for path in sorted((root / "photos").iterdir()):
        with Image.open(path) as image:
            output = network([make_input(np.asarray(image), cfg)])[0]
        found[path.stem] = make_result(path.stem, output, names), output["bitstream"].to_bytes()
    return found


@pytest.fixture
def server(root, tmp_path):
    started = []

    def start(*more, output=tmp_path / "results", port=None):
        started.append(Server(root, output, *more, port=port))
        return started[-1]

    yield start
    for one in started:
        one.stop(signal.SIGKILL)
