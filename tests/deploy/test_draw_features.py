import networks
import numpy as np
import pytest
import torch

from d2_featcomp.deploy.pictures import draw_features
from d2_featcomp.deploy.pictures.colours import heat_colours
from d2_featcomp.deploy.pictures.features import choose_columns, describe_latent, draw_latent
from d2_featcomp.deploy.pictures.layout import arrange, draw_colour_bar, draw_legend, load_font, wrap


def latent_of(channels, height=6, width=8):
    return np.random.default_rng(0).normal(size=(channels, height, width)).astype(np.float32)


def is_gray(picture):
    """Of hatching: no colour of the colour bar is gray."""
    return (picture == picture[..., :1]).all(axis=-1) & (picture[..., 0] < 255)


def test_caption_of_a_latent():
    latent = latent_of(3)
    latent[0], latent[1] = 2.5, 0
    latent[2], latent[2, 0, 0] = 0, -1
    text = describe_latent(latent, "MSFC latent", 4, np.float32([[[0.5]]]))
    assert text == (
        "MSFC latent, 3 x 6 x 8, 4 bits: values -1 to 2.5 in steps of 0.5; "
        "2 of 3 channels constant (hatched)"
    )
    # Floats have no steps; a quantizer may have one for each channel.
    assert describe_latent(latent[2:], "x", 32, np.zeros(1)) == "x, 1 x 6 x 8, 32 bits: values -1 to 0"
    assert describe_latent(latent[2:], "x", 8, np.float32([0.25, 0, 0.5])).endswith(
        "steps of 0.25 to 0.5"
    )


def test_channels_have_their_own_contrast_and_constant_ones_are_hatched():
    latent = latent_of(5)
    latent[1] *= 1000
    latent[3] = 7
    drawn = draw_latent(latent)
    columns = choose_columns(5, 6, 8)
    assert columns == 3
    height, width = (drawn.shape[0] - 2) // 2, (drawn.shape[1] - 4) // 3
    ends = heat_colours(np.float64([0, 1]))
    for index in range(5):
        y, x = index // columns * (height + 2), index % columns * (width + 2)
        tile = drawn[y : y + height, x : x + width]
        assert is_gray(tile).all() == (index == 3)
        for end in ends:  # smallest and largest value
            assert (tile == end).all(axis=-1).any() == (index != 3)
    assert (drawn[height + 2 :, 2 * (width + 2) :] == 255).all()  # there is no sixth channel
    assert (drawn[:, width : width + 2] == 255).all() and (drawn[height : height + 2] == 255).all()


@pytest.mark.parametrize("channels", [1, 4, 5, 64, 100, 256])
@pytest.mark.parametrize("size", [(6, 8), (8, 6), (8, 8), (4, 9)])
def test_grids_are_near_four_to_three(channels, size):
    columns = choose_columns(channels, *size)
    rows = -(-channels // columns)
    assert rows * columns - channels < max(columns, rows)
    if channels >= 64:
        assert columns * size[1] / (rows * size[0]) == pytest.approx(4 / 3, rel=0.35)


def test_large_latents_are_averaged_and_small_ones_enlarged():
    large = np.zeros((256, 160, 240), np.float32)
    large[:, :80] = 1
    drawn = draw_latent(large)
    assert max(drawn.shape) < 3000
    assert 900 < draw_latent(latent_of(3)).shape[1] < 1100
    assert draw_latent(np.zeros((1, 1, 1), np.float32)).shape == (960, 960, 3)


@pytest.mark.parametrize("kind", sorted(networks.KINDS))
def test_latents_of_every_kind_of_split_are_drawn(kind):
    model = networks.random_network(kind)
    image = torch.randint(256, (3, 96, 128), generator=torch.Generator().manual_seed(0)).float()
    with torch.no_grad():
        stream = model([{"image": image, "height": 96, "width": 128}])[0]["bitstream"]
    drawn = draw_features(stream, model.feature_codec)
    assert drawn.dtype == np.uint8 and drawn.shape[2] == 3 and 600 < drawn.shape[1] < 2600
    bar = heat_colours(np.linspace(0, 1, 256))
    line = drawn[-13]  # across the colour bar
    assert (line[:, None] == bar[None, [0, 255]]).all(axis=-1).any(axis=0).all()


def test_captions_break_between_words_and_pictures_keep_their_size():
    assert wrap("one two", 1000) == ["one two"] and wrap("", 10) == [""]
    lines = wrap("some words that are too long for a line", 100)
    assert len(lines) > 1 and " ".join(lines) == "some words that are too long for a line"
    assert all(load_font().getlength(line) <= 100 for line in lines)
    picture = np.full((50, 100, 3), (9, 0, 0), np.uint8)
    grid = arrange([("a", picture), ("a caption of several lines", picture), ("c", picture)], 2)
    assert grid.shape[1] == 2 * 100 + 6
    assert (grid == (9, 0, 0)).all(axis=-1).sum() == 3 * 50 * 100


def test_legend_and_colour_bar():
    entries = [("road", (1, 2, 3)), ("sky", (4, 5, 6))]
    wide, narrow = draw_legend(entries, 300), draw_legend(entries, 70)
    assert wide.shape[1] == 300 and narrow.shape[0] > wide.shape[0]
    for legend in (wide, narrow):
        for _, colour in entries:
            assert (legend == np.uint8(colour)).all(axis=-1).sum() > 100
    bar = draw_colour_bar("0", "7.5 px", 200)
    assert bar.shape[1] == 200
    for end in heat_colours(np.float64([0, 1])):
        assert (bar == end).all(axis=-1).sum() >= 14
