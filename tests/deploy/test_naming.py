"""Names of results: none twice."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from d2_featcomp.deploy.naming import name_files


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a/x.png", "a/y.png"], ["x", "y"]),
        (["a/x.png", "a/x.jpg", "a/y.jpg"], ["x.png", "x.jpg", "y"]),
        (["a/x.png", "b/x.png", "c/z.png"], ["a_x.png", "b_x.png", "z"]),
        (["1/a/x.png", "2/a/x.png"], ["1_a_x.png", "2_a_x.png"]),
        (["a/x.png", "a/X.jpg"], ["x.png", "X.jpg"]),
        (["a/x.png", "a/x.jpg", "a/x.png.jpg"], ["a_x.png", "x.jpg", "x.png.jpg"]),
        (["/a/x.png", "/a/x.png"], ["a_x.png_1", "a_x.png_2"]),
    ],
)
def test_as_short_as_may_be(paths, names):
    # Where a longer name meets another's, that one grows as well.
    assert name_files(paths) == names


PARTS = st.text(st.sampled_from("aA_.1"), min_size=1, max_size=3).filter(lambda p: p.strip("."))
PATHS = st.lists(st.lists(PARTS, min_size=1, max_size=3).map("/".join), max_size=8)


@given(PATHS)
def test_no_two_are_equal(paths):
    names = name_files(paths)
    assert len({name.lower() for name in names}) == len(paths)
    assert all(name and os.sep not in name for name in names)
    assert name_files(paths) == names
