"""Which codec settings the points of a curve have: its own keys, its overrides, the config's."""

import pytest

from d2_featcomp.experiments.curves import expand_anchor, expand_curve
from d2_featcomp.experiments.schema import make_config

MSFC = "configs/quick/msfc_R18.yaml"  # jpegxl, 2 bits
FCTM = "configs/quick/fctm_v1_R18.yaml"  # hevc, 10 bits, QP 28
VARIABLE = "configs/quick/msfc_R18_variable.yaml"
CODEC = "MODEL.FEATCOMP.CODEC."
BIT_DEPTHS = [2, 3, 4, 6, 8]


def settings_of(entry, config=MSFC, overrides=None, key=None):
    """(NAME, BITS, QUALITY, EFFORT), or one key, of the points of curves that an entry describes."""
    overrides = {CODEC + name: value for name, value in (overrides or {}).items()}
    cfg = make_config(config, overrides)
    found = []
    for curve in expand_curve(entry, cfg):
        for point in curve.points:
            codec = make_config(config, {**overrides, **point.overrides}).MODEL.FEATCOMP.CODEC
            found.append(codec[key] if key else (codec.NAME, codec.BITS, codec.QUALITY, codec.EFFORT))
    return found


def override(**settings):
    return {"overrides": {CODEC + key: value for key, value in settings.items()}}


def test_overrides_of_a_curve_count_as_its_own_keys():
    assert settings_of({"name": "D", **override(NAME="png", BITS=3)}) == [("png", 3, None, None)]
    assert settings_of(override(BITS="3")) == [("jpegxl", 3, None, None)]
    assert settings_of(override(EFFORT=9)) == [("jpegxl", n, None, 9) for n in BIT_DEPTHS]
    assert settings_of({"codec": "png", **override(EFFORT=9)}, key="EFFORT") == [9] * 5
    assert settings_of({"codec": "jpeg", **override(QUALITY=30)}) == [("jpeg", 8, 30, None)]
    assert settings_of({"quality": [1, 2], **override(NAME="hevc")}, key="QUALITY") == [1, 2]
    assert settings_of({"codec": "jpeg", "quality": [1, 2], **override(BITS=4)}, key="BITS") == [4, 4]
    assert settings_of(override(NAME="jpeg", QUALITY=None)) == [("jpeg", 8, None, None)]
    assert settings_of(override(RATE=0.3), VARIABLE, key="RATE") == [0.3]
    assert settings_of(override(RATE=1), VARIABLE, key="RATE") == [1]
    assert settings_of(override(QUALITY=30), FCTM) == [("hevc", 10, 30, None)]
    assert settings_of(override(QUALITY="None"), FCTM, key="BITS") == BIT_DEPTHS
    assert settings_of({"codec": "variable_rate", **override(RATE=0.3)}, key="RATE") == [0.3]


def test_settings_of_the_config_are_those_of_its_own_codec():
    effort = {"EFFORT": 9}
    assert settings_of({}, MSFC, effort) == [("jpegxl", n, None, 9) for n in BIT_DEPTHS]
    assert settings_of({"codec": ["jpegxl", "png"]}, MSFC, effort, "EFFORT") == [9] * 5 + [None] * 5
    assert settings_of({"effort": [None, 7], "bits": 4}, MSFC, effort, "EFFORT") == [None, 7]
    assert settings_of({}, MSFC, {"QUALITY": 2}) == [("jpegxl", 2, 2, None)]
    qualities = [18, 24, 28, 30, 36, 42, 48]
    assert settings_of({}, FCTM) == [("hevc", 10, quality, None) for quality in qualities]
    assert settings_of({"codec": "hevc"}, FCTM, key="QUALITY") == qualities
    assert settings_of({"bits": [4]}, FCTM, key="BITS") == [4] * len(qualities)
    assert settings_of({"quality": None}, FCTM) == [("hevc", n, None, None) for n in BIT_DEPTHS]
    assert settings_of({"codec": "jpegxl"}, FCTM) == [("jpegxl", n, None, None) for n in BIT_DEPTHS]
    assert settings_of({}, VARIABLE, key="RATE") == [0, 0.25, 0.5, 0.75, 1]
    assert settings_of({}, VARIABLE, {"RATE": 0.3}, "RATE") == [0, 0.25, 0.3, 0.5, 0.75, 1]


def test_points_keep_the_quality_of_their_own_training():
    configs = {"hevc": make_config(FCTM, {}), "jpegxl": make_config(MSFC, {})}
    points = [{"training": "hevc"}, {"training": "jpegxl"}]
    entry = {"name": "two", "codec": "hevc", "bits": 10, "points": points}
    (curve,) = expand_curve(entry, configs["hevc"], configs.get)
    kept, other = (point.overrides for point in curve.points)
    assert f"{CODEC}QUALITY" not in kept and other[f"{CODEC}QUALITY"] is None


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({"bits": [2, 4], **override(BITS=3)}, r"it has bits \[2, 4\] and, .*CODEC\.BITS 3: leave one"),
        ({"codec": "png", **override(NAME="jpeg")}, r"codec png and, .*CODEC\.NAME jpeg"),
        (
            {"name": "a", "bits": 4, "points": [override(BITS=3)]},
            r"points\[0\] has bits 4 and, .*CODEC\.BITS 3",
        ),
    ],
)
def test_a_setting_is_given_once(entry, told):
    with pytest.raises(ValueError, match=told):
        settings_of(entry)


def test_a_target_takes_the_place_of_rates():
    target = {"TARGET_KB": 20.0}
    assert settings_of({}, VARIABLE, target, "TARGET_KB") == [20]
    assert settings_of(override(TARGET_KB=30), VARIABLE, target, "TARGET_KB") == [30]
    assert settings_of({"codec": "variable_rate", **override(TARGET_KB=30)}, key="TARGET_KB") == [30]
    assert settings_of({"rate": [0, 1], **override(TARGET_KB=0)}, VARIABLE, target, "RATE") == [0, 1]
    points = {"name": "a", "points": [{"rate": 0.5}]}
    for entry in ({"rate": [0, 1]}, override(RATE=0.5), points):
        with pytest.raises(ValueError, match=r"no effect beside .*TARGET_KB 20, .*leave the rates out"):
            settings_of(entry, VARIABLE, target)


def test_a_target_is_of_the_networks_own_codec_alone():
    target = {"TARGET_KB": 20.0}
    assert settings_of({"codec": ["png", "jpeg"]}, VARIABLE, target, "TARGET_KB") == [0] * 12
    points = [{"codec": "png"}, {"codec": "variable_rate"}]
    entry = {"name": "a", "points": points}
    assert settings_of(entry, VARIABLE, target, "TARGET_KB") == [0, 20]
    cfg = make_config(VARIABLE, {f"{CODEC}TARGET_KB": 20.0})
    for anchor in ("raw", "image:jpeg420", "features:jpeg"):
        (curve,) = expand_anchor(anchor, cfg, {}, "")
        assert {point.overrides[f"{CODEC}TARGET_KB"] for point in curve.points} == {0}


@pytest.mark.parametrize("codec", ["jpegxl", "learned"])
def test_a_codec_of_one_rate_takes_no_rates(codec):
    for entry in (
        {"codec": codec, "rate": [0, 0.5]},
        {"name": "a", "rate": 0.5, "points": [{"codec": codec}]},
    ):
        with pytest.raises(ValueError, match=f"codec '{codec}' has one rate: leave rate"):
            settings_of(entry)
