import networks
import pytest
import torch
from detectron2.modeling import build_model

from d2_featcomp.codecs import FeatureBitstream
from d2_featcomp.engine import setup_config
from d2_featcomp.modeling import FEATURE_SPLIT_REGISTRY, TASK_HEAD_REGISTRY, TaskHead
from d2_featcomp.ops import compressibility_loss

FEATCOMP = "MODEL.FEATCOMP."


def build(*overrides, config=networks.TASKS):
    """In training mode."""
    return networks.build(config, [*networks.listed(networks.TINY_TASKS), *overrides]).train()


def record(height=32, width=48, seed=0, **more):
    generator = torch.Generator().manual_seed(seed)
    return {
        "image": torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator),
        "sem_seg": torch.randint(0, 8, (height, width), generator=generator),
        "disparity": torch.rand(height, width, generator=generator) * 20,
        **more,
    }


@pytest.mark.parametrize(
    ("config", "shape"),
    [("configs/mtl_R34_encoder1.yaml", (512, 8, 16)), ("configs/mtl_R34_encoder2.yaml", (256, 16, 32))],
)
def test_encoders_of_the_paper(config, shape):
    model = build_model(setup_config(config, ["MODEL.DEVICE", "cpu"])).eval()
    (stream,) = model.edge_inference([{"image": torch.zeros(3, 256, 512)}])
    assert stream.description.shapes == (shape,)
    assert stream.feature_elements == shape[0] * shape[1] * shape[2]
    assert (stream.codec, stream.bits, stream.split) == ("png", 8, "QLayer")
    assert stream.side_info_bits == 32
    encoder = sum(p.numel() for p in model.backbone.backbone.parameters())
    if shape[0] == 256:
        assert encoder == 8_170_304  # as in the summary that the authors' published results begin with


def test_the_benchmark_differs_in_the_loss_alone():
    for encoder in (1, 2):
        ours, benchmark = (
            setup_config(f"configs/mtl_R34_encoder{encoder}{twin}.yaml").clone()
            for twin in ("", "_benchmark")
        )
        assert ours.MODEL.FEATCOMP.COMPRESSIBILITY.WEIGHT == 1
        assert benchmark.MODEL.FEATCOMP.COMPRESSIBILITY.WEIGHT == 0
        benchmark.defrost()
        benchmark.MODEL.FEATCOMP.COMPRESSIBILITY.WEIGHT = 1.0
        assert ours == benchmark


def test_outputs_come_from_bytes_alone_and_have_the_original_size():
    model = build().eval()
    inputs = [record(height=80, width=100)["image"], record(seed=1)["image"]]
    inputs = [{"image": inputs[0], "height": 160, "width": 200}, {"image": inputs[1]}]
    together = model(inputs)
    for item, output, size in zip(inputs, together, [(160, 200), (32, 48)], strict=True):
        assert output["sem_seg"].shape == (8, *size)
        assert output["disparity"].shape == size and output["disparity"].min() >= 0
        assert output["reconstruction"].shape == item["image"].shape
        data = model.edge_inference([item])[0].to_bytes()
        (again,) = model.cloud_inference([FeatureBitstream.from_bytes(data)])
        for name in ("sem_seg", "disparity", "reconstruction"):
            assert torch.equal(output[name], again[name])


def test_losses_are_weighed_and_summed():
    model = build().train()
    losses = model([record(), record(seed=1, width=40)])
    tasks = ("segmentation", "disparity", "reconstruction", "compressibility")
    assert set(losses) == {f"{kind}_{task}" for kind in ("loss", "penalty") for task in tasks}
    sum(losses.values()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


def test_any_subset_of_the_tasks():
    model = build("MODEL.MULTI_TASK.HEADS", ["DisparityHead"]).train()
    assert set(model([record()])) == {
        f"{kind}_{task}" for kind in ("loss", "penalty") for task in ("disparity", "compressibility")
    }
    assert set(model.eval()([record()])[0]) == {"disparity", "bitstream"}


def test_the_benchmark_has_no_weight_for_compressibility():
    model = build(f"{FEATCOMP}COMPRESSIBILITY.WEIGHT", 0.0).train()
    assert set(model.loss_weights.log_weights) == {"segmentation", "disparity", "reconstruction"}
    assert not any("compressibility" in name for name in model([record()]))


def test_uncut_network_trains_and_predicts():
    model = build(f"{FEATCOMP}ENABLED", False).train()
    assert set(model.loss_weights.log_weights) == {"segmentation", "disparity", "reconstruction"}
    sum(model([record()]).values()).backward()
    assert set(model.eval()([record()])[0]) == {"sem_seg", "disparity", "reconstruction"}


def test_initial_weights():
    initial = "MODEL.MULTI_TASK.LOSS_WEIGHTS.INITIAL"
    given = [["segmentation", 0.5], ["reconstruction", 3]]
    model = build(initial, given, f"{FEATCOMP}COMPRESSIBILITY.WEIGHT", 2.0)
    assert model.loss_weights.weights() == pytest.approx(
        {"segmentation": 0.5, "disparity": 1, "reconstruction": 3, "compressibility": 2}
    )
    # Of tasks that are left out a weight may be given.
    model = build(initial, given, "MODEL.MULTI_TASK.HEADS", ["DisparityHead"])
    assert set(model.loss_weights.weights()) == {"disparity", "compressibility"}
    for wrong in (["disparity"], "disparity", ["disparity", "much"], ["disparity", -1.0], [1, 1.0]):
        with pytest.raises(ValueError, match=r"INITIAL holds .*pairs of a task \(disparity, recon"):
            build(initial, [wrong])
    with pytest.raises(ValueError, match="INITIAL names 'depth': choose among disparity, recon"):
        build(initial, [["depth", 1.0]])


def noise_of(model, features):
    torch.manual_seed(1)
    y_hats, _ = model.feature_codec.train()(model.feature_split.reduce(features))
    return model.feature_split.restore(y_hats, (32, 48))["res4"] - features["res4"]


def test_training_adds_noise_of_one_quantization_step():
    model = build(f"{FEATCOMP}CODEC.BITS", 4)
    features = {"res4": torch.rand(2, 256, 6, 8) * torch.tensor([1.0, 30.0]).view(2, 1, 1, 1)}
    noise = noise_of(model, features)
    for image in range(2):
        x = features["res4"][image]
        step = (x.max() - x.min()) / 15
        assert noise[image].abs().max() <= step / 2 + 1e-6
        assert noise[image].std() == pytest.approx(float(step) / 12**0.5, rel=0.05)


def test_other_surrogates():
    features = {"res4": torch.rand(1, 256, 6, 8)}
    assert noise_of(build(f"{FEATCOMP}TRAIN_QUANTIZATION", "none"), features).abs().max() == 0
    rounded = noise_of(
        build(f"{FEATCOMP}TRAIN_QUANTIZATION", "ste", f"{FEATCOMP}CODEC.BITS", 2), features
    )
    assert rounded.abs().max() > 0.1
    with pytest.raises(ValueError, match="TRAIN_QUANTIZATION is 'dither'"):
        build(f"{FEATCOMP}TRAIN_QUANTIZATION", "dither")


def sent_by(model, records):
    return model.split_point.head(model.preprocess_image(records).tensor)["res4"]


@pytest.mark.parametrize("units", ["features", "steps"])
def test_the_compressibility_loss_is_that_of_what_is_sent(units):
    without_noise = f"{FEATCOMP}TRAIN_QUANTIZATION", "none"
    model = build(f"{FEATCOMP}COMPRESSIBILITY.UNITS", units, *without_noise).train()
    records = [record(), record(seed=1)]
    model(records)
    x = sent_by(model, records).detach()  # batch statistics again, so the same features
    expected = compressibility_loss(x)
    if units == "steps":
        extent = x.amax(dim=(1, 2, 3)) - x.amin(dim=(1, 2, 3))
        expected = compressibility_loss(x / extent.view(-1, 1, 1, 1)) * 255
    found = model.loss_weights.latest["compressibility"]
    assert float(found) == pytest.approx(float(expected), rel=1e-4)


def test_other_networks_take_the_loss_with_a_fixed_weight(small_config, make_record):
    model = build_model(small_config(MODEL__FEATCOMP__COMPRESSIBILITY__WEIGHT=0.5)).train()
    records = [make_record()]
    sent = []
    model.feature_split.encoder.register_forward_hook(lambda module, inputs, z: sent.append(z.detach()))
    losses = model(records)
    assert float(losses["loss_compressibility"].detach()) == pytest.approx(
        0.5 * float(compressibility_loss(sent[0])), rel=1e-5
    )
    losses["loss_compressibility"].backward()
    assert model.feature_split.encoder.conv.weight.grad.abs().sum() > 0


def test_splits_that_training_leaves_unchanged_take_no_such_loss():
    with pytest.raises(ValueError, match="SPLIT BaF codes what training does not change"):
        build(f"{FEATCOMP}COMPRESSIBILITY.WEIGHT", 1.0, config="configs/quick/baf_yolov3_tiny.yaml")


def test_mistakes():
    with pytest.raises(ValueError, match=r"unknown task head 'DepthHead'.*DisparityHead"):
        build("MODEL.MULTI_TASK.HEADS", ["DepthHead"])
    with pytest.raises(ValueError, match="each for another task"):
        build("MODEL.MULTI_TASK.HEADS", ["DisparityHead", "DisparityHead"])
    with pytest.raises(ValueError, match="each for another task"):
        build("MODEL.MULTI_TASK.HEADS", [])
    with pytest.raises(ValueError, match=r"gives res4, res5: name one in MODEL\.RESNETS\.OUT_FEATURES"):
        build("MODEL.RESNETS.OUT_FEATURES", ["res4", "res5"])
    with pytest.raises(ValueError, match="UNITS is 'bits'"):
        build(f"{FEATCOMP}COMPRESSIBILITY.UNITS", "bits")
    with pytest.raises(ValueError, match=r"'compressibility' is -1\.0: it must be positive"):
        build(f"{FEATCOMP}COMPRESSIBILITY.WEIGHT", -1.0)


def test_a_head_of_ones_own(small_config):
    class BrightnessHead(TaskHead):
        task = "brightness"

        def __init__(self, cfg, input_shape):
            super().__init__()
            self.layer = torch.nn.Conv2d(input_shape.channels, 1, 1)

        def forward(self, features):
            return self.layer(features).mean(dim=(2, 3))

        def loss(self, predictions, batched_inputs):
            return predictions.square().mean()

        def finish(self, prediction, image_size, output_size):
            return {"brightness": float(prediction)}

    TASK_HEAD_REGISTRY.register(BrightnessHead)
    try:
        model = build("MODEL.MULTI_TASK.HEADS", ["BrightnessHead", "SegmentationHead"]).train()
        assert "loss_brightness" in model([record()])
        assert isinstance(model.eval()([record()])[0]["brightness"], float)
    finally:
        TASK_HEAD_REGISTRY._obj_map.pop("BrightnessHead")


def test_q_layer_works_on_pyramids_too(small_model, make_record):
    assert "QLayer" in FEATURE_SPLIT_REGISTRY
    model = small_model(
        MODEL__FEATCOMP__SPLIT="QLayer",
        MODEL__FEATCOMP__TRAIN_QUANTIZATION="noise",
        MODEL__FEATCOMP__CODEC__BITS=8,
    )
    (output,) = model([make_record()])
    assert len(output["bitstream"].tensors) == 4
    losses = model.train()([make_record()])
    sum(losses.values()).backward()
