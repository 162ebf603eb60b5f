import pytest
import torch
from detectron2.modeling import build_model


def test_float_pyramid_gives_the_uncut_outputs(small_model, small_config, make_record):
    """Sending p2..p5 as float32 changes nothing: p6 is pooled again in the cloud."""
    cut = small_model(
        "configs/pyramid_R50.yaml",
        MODEL__FEATCOMP__CODEC__NAME="raw",
        MODEL__FEATCOMP__CODEC__BITS=32,
        MODEL__FEATCOMP__CODEC__QUALITY=None,
    )
    uncut = build_model(small_config("configs/pyramid_R50.yaml", MODEL__FEATCOMP__ENABLED=False))
    uncut.load_state_dict(cut.state_dict())
    record = make_record()
    with torch.no_grad():
        expected = uncut.eval()([record])[0]["instances"]
    (found,) = cut([record])
    assert len(expected) > 0
    assert torch.equal(found["instances"].pred_boxes.tensor, expected.pred_boxes.tensor)
    assert torch.equal(found["instances"].pred_masks, expected.pred_masks)
    stream = found["bitstream"]
    assert stream.description.shapes == ((32, 16, 24), (32, 8, 12), (32, 4, 6), (32, 2, 3))
    sent = 32 * (16 * 24 + 8 * 12 + 4 * 6 + 2 * 3)
    assert stream.payload_bits == 32 * sent
    assert stream.feature_elements == sent + 32 * 1 * 2  # p6 is counted, though not sent


@pytest.mark.parametrize("bits", [8, 4])
def test_jpeg_quality_trades_rate_for_error(small_model, make_record, bits):
    model = small_model("configs/pyramid_R50.yaml", MODEL__FEATCOMP__CODEC__BITS=bits)
    record = make_record()
    with torch.no_grad():
        exact = model.split_point.head(model.preprocess_image([record]).tensor)["p2"][0]
    rates, errors = [], []
    for quality in (5, 50, 95):
        model.feature_codec.image_codec.quality = quality
        (stream,) = model.edge_inference([record])
        rates.append(stream.total_bits)
        decoded = model.decode(stream)[0]
        errors.append(float((decoded - exact).square().mean()))
    assert rates == sorted(set(rates))
    assert errors == sorted(set(errors), reverse=True)
    assert stream.side_info_bits == 4 * 32  # one float16 pair a level
