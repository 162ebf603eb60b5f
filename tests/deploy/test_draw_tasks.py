import networks
import numpy as np
import pytest
from PIL import Image

from d2_featcomp.codecs import FeatureBitstream
from d2_featcomp.engine import draw_images, setup_config


@pytest.fixture
def picture(tmp_path):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (40, 72, 3), dtype=np.uint8)).save(tmp_path / "own.png")
    return str(tmp_path / "own.png")


@pytest.mark.parametrize("heads", [None, ["DisparityHead"], ["SegmentationHead", "ReconstructionHead"]])
def test_ones_own_image_is_drawn_without_the_data_set(picture, tmp_path, heads):
    overrides = [*networks.listed(networks.TINY_TASKS), "INPUT.MIN_SIZE_TEST", 64]
    if heads:
        overrides += ["MODEL.MULTI_TASK.HEADS", heads]
    path = "configs/mtl_R34_encoder2.yaml"
    cfg, model = setup_config(path, overrides), networks.build(path, overrides)
    draw_images(cfg, model, [{"file_name": picture}], str(tmp_path / "out"))
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["own.d2fc", "own_features.png", "own_tasks.png"]
    FeatureBitstream.from_bytes((tmp_path / "out" / "own.d2fc").read_bytes())
    with Image.open(tmp_path / "out" / "own_tasks.png") as drawn:
        width, _ = drawn.size
    shown = 115 * 3  # of 64 x 115 pixels, enlarged to leave room for captions
    columns = len(heads) if heads else 3
    assert width == columns * shown + (columns - 1) * 4
