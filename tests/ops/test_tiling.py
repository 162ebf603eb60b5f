import numpy as np
import pytest
import torch

from d2_featcomp.ops import tile_channels, tile_grid, untile_channels

PAPER_GRIDS = {
    1: (1, 1),
    2: (1, 2),
    4: (2, 2),
    8: (2, 4),
    16: (4, 4),
    32: (4, 8),
    64: (8, 8),
    128: (8, 16),
    256: (16, 16),
    512: (16, 32),
}


@pytest.mark.parametrize("channels, grid", PAPER_GRIDS.items())
def test_powers_of_two_take_the_grid_of_the_papers(channels, grid):
    assert tile_grid(channels) == grid
    image = tile_channels(torch.zeros(channels, 3, 5))
    assert image.shape == (grid[0] * 3, grid[1] * 5)


@pytest.mark.parametrize(
    "channels, grid", [(3, (1, 3)), (5, (2, 3)), (12, (2, 6)), (17, (4, 5)), (63, (4, 16))]
)
def test_hand_worked_grids_of_other_numbers(channels, grid):
    assert tile_grid(channels) == grid


def test_channels_lie_in_raster_order():
    x = torch.arange(8 * 2 * 1).reshape(8, 2, 1)
    assert tile_channels(x).tolist() == [
        [0, 2, 4, 6],
        [1, 3, 5, 7],
        [8, 10, 12, 14],
        [9, 11, 13, 15],
    ]


def test_tiles_beyond_the_last_channel_are_zero():
    x = torch.arange(1, 11).reshape(5, 1, 2)
    assert tile_channels(x).tolist() == [[1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 0, 0]]


@pytest.mark.parametrize("height, width", [(1, 1), (3, 5), (4, 2)])
@pytest.mark.parametrize("channels", range(1, 71))
def test_untiling_is_the_inverse(channels, height, width):
    x = torch.arange(1, channels * height * width + 1).reshape(channels, height, width)
    rows, columns = tile_grid(channels)
    assert 0 <= rows * columns - channels < rows
    image = tile_channels(x)
    assert image.sum() == x.sum()
    for channel in range(channels):
        top, left = channel // columns * height, channel % columns * width
        assert torch.equal(image[top : top + height, left : left + width], x[channel])
    restored = untile_channels(image, channels)
    assert torch.equal(restored, x)
    assert restored.is_contiguous()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.float32, torch.bool])
def test_the_type_is_kept(dtype):
    x = torch.ones(3, 2, 2, dtype=dtype)
    image = tile_channels(x)
    assert image.dtype == dtype
    assert untile_channels(image, 3).dtype == dtype


def test_memory_layout_does_not_matter():
    x = torch.arange(4 * 3 * 5).reshape(3, 5, 4).permute(2, 0, 1)
    assert torch.equal(tile_channels(x), tile_channels(x.contiguous()))
    assert torch.equal(untile_channels(tile_channels(x), 4), x)


@pytest.mark.parametrize("channels", [0, -1])
def test_no_channels_are_refused(channels):
    with pytest.raises(ValueError, match="at least one"):
        tile_grid(channels)
    with pytest.raises(ValueError, match="at least one"):
        untile_channels(torch.zeros(4, 4), channels)


@pytest.mark.parametrize("shape", [(5, 8), (4, 7), (5, 7)])
def test_an_image_that_is_no_grid_is_refused(shape):
    """Eight channels lie in two rows of four."""
    with pytest.raises(ValueError, match=r"2 x 4"):
        untile_channels(torch.zeros(shape), 8)


@pytest.mark.parametrize("channels", [1, 3, 5, 8])
def test_arrays_are_tiled_as_tensors(channels):
    x = np.arange(channels * 6, dtype=np.uint16).reshape(channels, 2, 3)
    found = tile_channels(x)
    assert isinstance(found, np.ndarray) and found.dtype == np.uint16
    np.testing.assert_array_equal(found, tile_channels(torch.from_numpy(x.astype(np.int32))).numpy())
