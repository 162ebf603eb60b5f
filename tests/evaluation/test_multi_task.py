import math

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from d2_featcomp.evaluation import DisparityEvaluator, ReconstructionEvaluator


def write_disparity(path, values):
    """values in pixels, NaN for unknown."""
    values = np.asarray(values, dtype=np.float64)
    stored = np.where(np.isnan(values), 0, np.round(np.nan_to_num(values) * 256) + 1)
    Image.fromarray(stored.astype(np.uint16)).save(path)
    return str(path)


def disparity_record(path, values):
    return {"file_name": f"{path}.jpg", "disparity_file_name": write_disparity(path, values)}


def evaluated(evaluator, inputs, outputs):
    evaluator.reset()
    evaluator.process(inputs, outputs)
    return evaluator.evaluate()


def test_disparity_of_two_images(tmp_path):
    nan = math.nan
    first = disparity_record(tmp_path / "a.png", [[10.0, nan], [20.0, 0.0]])
    second = disparity_record(tmp_path / "b.png", [[4.0, 4.0]])
    # Errors 3 and 4 (what is unknown or 0 does not count), then 1 and 1.
    outputs = [
        {"disparity": torch.tensor([[13.0, 99.0], [16.0, 50.0]])},
        {"disparity": torch.tensor([[5.0, 3.0]])},
    ]
    found = evaluated(DisparityEvaluator(), [first, second], outputs)["disparity"]
    # Roots of 12.5 and of 1: 3.535534 and 1; their mean, and 1 over it.
    assert found["RMSE"] == pytest.approx(2.267767, abs=1e-6)
    assert found["IRMSE"] == pytest.approx(0.440962, abs=1e-6)


def test_perfect_disparity_and_images_without_any(tmp_path):
    known = disparity_record(tmp_path / "a.png", [[1.0]])
    unknown = disparity_record(tmp_path / "b.png", [[math.nan]])
    outputs = [{"disparity": torch.ones(1, 1)}, {"disparity": torch.ones(1, 1)}]
    found = evaluated(DisparityEvaluator(), [known, unknown], outputs)["disparity"]
    assert found == {"RMSE": 0, "IRMSE": math.inf}
    nothing = evaluated(DisparityEvaluator(), [unknown], outputs[:1])["disparity"]
    assert math.isnan(nothing["RMSE"])


def test_disparity_mistakes(tmp_path):
    record = disparity_record(tmp_path / "a.png", [[1.0, 2.0]])
    evaluator = DisparityEvaluator()
    with pytest.raises(ValueError, match=r"shape \(1, 1\), the map of shape \(1, 2\)"):
        evaluator.process([record], [{"disparity": torch.ones(1, 1)}])
    with pytest.raises(ValueError, match="needs outputs with 'disparity'"):
        evaluator.process([record], [{"sem_seg": torch.ones(1, 1, 1)}])
    with pytest.raises(ValueError, match="data set with disparity_file_name"):
        evaluator.process([{"file_name": "a"}], [{"disparity": torch.ones(1, 1)}])


def test_reconstruction_is_the_mean_of_decibels():
    image = torch.full((3, 2, 2), 255, dtype=torch.uint8)
    outputs = [
        {"reconstruction": torch.full((3, 2, 2), 0.9)},  # 20 dB
        {"reconstruction": torch.full((3, 2, 2), 0.99)},  # 40 dB
        {"reconstruction": torch.full((3, 2, 2), 1.5)},  # clamped: perfect
    ]
    found = evaluated(ReconstructionEvaluator(), [{"image": image}] * 3, outputs)
    assert found["reconstruction"]["PSNR"] == pytest.approx((20 + 40 + 100) / 3, abs=1e-4)


def test_reconstruction_is_opencvs_psnr():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    other = np.clip(image + rng.normal(0, 9, image.shape).round(), 0, 255).astype(np.uint8)
    record = {"image": torch.from_numpy(image.transpose(2, 0, 1).copy())}
    output = {"reconstruction": torch.from_numpy(other.transpose(2, 0, 1).copy()) / 255}
    found = evaluated(ReconstructionEvaluator(), [record], [output])["reconstruction"]["PSNR"]
    assert found == pytest.approx(cv2.PSNR(image, other), abs=1e-4)
    assert 25 < found < 35


def test_a_broken_reconstruction_is_not_perfect():
    record, output = {"image": torch.zeros(3, 1, 1)}, {"reconstruction": torch.full((3, 1, 1), math.nan)}
    assert math.isnan(evaluated(ReconstructionEvaluator(), [record], [output])["reconstruction"]["PSNR"])


def test_reconstruction_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"shape \(3, 2, 2\), its image of shape \(3, 2, 3\)"):
        ReconstructionEvaluator().process(
            [{"image": torch.zeros(3, 2, 3)}], [{"reconstruction": torch.zeros(3, 2, 2)}]
        )


def test_reset_forgets():
    evaluator = ReconstructionEvaluator()
    image = torch.zeros(3, 1, 1)
    evaluated(evaluator, [{"image": image}], [{"reconstruction": torch.ones(3, 1, 1)}])
    found = evaluated(evaluator, [{"image": image}], [{"reconstruction": torch.full((3, 1, 1), 0.1)}])
    assert found["reconstruction"]["PSNR"] == pytest.approx(20)
