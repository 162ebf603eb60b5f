import numpy as np
import pytest
import torch

from d2_featcomp.codecs import ImageSizes, QuantizedFeatureCodec, build_image_codec, compress_stream
from d2_featcomp.evaluation import FeatureRateEvaluator


def stream(shape, *, bits, quantizer, original, feature_elements, codec="raw"):
    codec = QuantizedFeatureCodec(image_codec=build_image_codec(codec, bits=bits), quantizer=quantizer)
    features = torch.linspace(-1, 1, int(np.prod(shape))).reshape(shape)
    return compress_stream(
        [features],
        codec,
        split="MSFC",
        fingerprint=b"abcd",
        sizes=ImageSizes(padded=(32, 64), resized=(20, 40), original=original),
        feature_elements=feature_elements,
    )


def small():
    """24 bytes: 16 of header, no range, 16 symbols of 4 bits.

    Header: 4 fixed bytes, 4 of fingerprint, the resized and the original size of 2 bytes each, 4 of
    checksum.
    """
    return stream((2, 2, 4), bits=4, quantizer="fixed", original=(10, 20), feature_elements=1000)


def large():
    """48 bytes: a header of 22, two ranges of 4, 18 symbols of a byte.

    Header: 16 as above, one more for a width of 200, 5 for the table: one tensor, one string, its empty
    name, its length, two ranges.
    """
    return stream((2, 3, 3), bits=8, quantizer="channel", original=(20, 200), feature_elements=200)


def test_the_streams_have_the_sizes_counted_by_hand():
    assert len(small().to_bytes()) == 24
    assert len(large().to_bytes()) == 48


@pytest.mark.parametrize("distributed", [False, True])
def test_rates_of_one_image(distributed):
    evaluator = FeatureRateEvaluator(distributed=distributed)
    evaluator.reset()
    evaluator.process([{"file_name": "a.jpg"}], [{"bitstream": small()}])
    assert evaluator.evaluate() == {
        "feature_rate": {
            "BPFE": 192 / 1000,
            "BPFE_header": 128 / 1000,
            "BPFE_side_info": 0,
            "BPFE_payload": 64 / 1000,
            "BPFE_packed": 64 / 1000,
            "bpp": 192 / 200,
            "kB": 0.024,
            "times_smaller": 32000 / 192,
        }
    }


def test_rates_of_several_images_are_all_bits_over_all_elements(tmp_path):
    evaluator = FeatureRateEvaluator(str(tmp_path / "new" / "folder"))
    evaluator.reset()
    evaluator.process([{"file_name": "b.jpg"}], [{"bitstream": large(), "instances": None}])
    evaluator.process([{"file_name": "a, 1.jpg", "image_id": 3}], [{"bitstream": small()}])
    rates = evaluator.evaluate()["feature_rate"]
    assert rates["BPFE"] == pytest.approx(8 * 72 / 1200)
    assert rates["BPFE_header"] == pytest.approx(8 * (16 + 22) / 1200)
    assert rates["BPFE_side_info"] == pytest.approx(8 * (0 + 8) / 1200)
    assert rates["BPFE_payload"] == pytest.approx(8 * (8 + 18) / 1200)
    assert rates["BPFE_packed"] == pytest.approx(8 * (8 + 18) / 1200)
    parts = rates["BPFE_header"] + rates["BPFE_side_info"] + rates["BPFE_payload"]
    assert parts == pytest.approx(rates["BPFE"])
    assert rates["bpp"] == pytest.approx(8 * 72 / (200 + 4000))
    assert rates["kB"] == pytest.approx(0.036)
    assert rates["times_smaller"] == pytest.approx(32 * 1200 / (8 * 72))
    assert (tmp_path / "new" / "folder" / "feature_rates.csv").read_text().splitlines() == [
        "image,bytes,header_bits,side_info_bits,payload_bits,packed_bits,feature_elements,pixels",
        '"a, 1.jpg",24,128,0,64,64,1000,200',
        "b.jpg,48,176,64,144,144,200,4000",
    ]


def test_the_packed_rate_knows_no_entropy_coding():
    coded = stream(
        (4, 33, 33), bits=3, quantizer="fixed", original=(9, 9), feature_elements=1000, codec="png"
    )
    evaluator = FeatureRateEvaluator()
    evaluator.process([{}], [{"bitstream": coded}])
    rates = evaluator.evaluate()["feature_rate"]
    assert rates["BPFE_packed"] == 8 * 1634 / 1000  # 4356 symbols of 3 bits: 13068 bits, in 1634 bytes
    assert 0 < rates["BPFE_payload"] < 0.5 * rates["BPFE_packed"]  # a smooth ramp


def test_images_are_named_by_file_or_number(tmp_path):
    evaluator = FeatureRateEvaluator(str(tmp_path))
    evaluator.process([{"image_id": 17}, {}], [{"bitstream": small()}] * 2)
    evaluator.evaluate()
    lines = (tmp_path / "feature_rates.csv").read_text().splitlines()[1:]
    assert [line.split(",")[0] for line in lines] == ["1", "17"]


def test_reset_forgets_earlier_images():
    evaluator = FeatureRateEvaluator()
    evaluator.process([{}], [{"bitstream": large()}])
    evaluator.reset()
    evaluator.process([{}], [{"bitstream": small()}])
    assert evaluator.evaluate()["feature_rate"]["kB"] == 0.024


def test_no_images_give_no_rates(tmp_path):
    evaluator = FeatureRateEvaluator(str(tmp_path))
    evaluator.reset()
    evaluator.process([], [])
    assert evaluator.evaluate() == {"feature_rate": {}}
    assert list(tmp_path.iterdir()) == []


def test_outputs_without_a_bitstream_are_refused():
    evaluator = FeatureRateEvaluator()
    with pytest.raises(ValueError, match=r"'bitstream'.*MODEL\.FEATCOMP\.ENABLED"):
        evaluator.process([{"file_name": "a.jpg"}], [{"instances": None}])
    with pytest.raises(ValueError, match="zip"):
        evaluator.process([{}, {}], [{"bitstream": small()}])
