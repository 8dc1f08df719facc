"""Temperature and operating point."""

import pytest
import torch

from hgisam.train.calibration import fit_temperature, pick_operating_point


def test_the_temperature_that_made_the_labels_is_found() -> None:
    generator = torch.Generator().manual_seed(0)
    true_logits = 2 * torch.randn(40_000, generator=generator)
    labels = torch.rand(40_000, generator=generator) < true_logits.sigmoid()
    assert fit_temperature(3.0 * true_logits, labels) == pytest.approx(3.0, rel=0.05)


@pytest.mark.parametrize(("sensitivity", "expected"), [(1.0, 0.2), (0.75, 0.5), (0.5, 0.7), (0.1, 0.9)])
def test_the_operating_point_is_the_highest_that_finds_enough(sensitivity: float, expected: float) -> None:
    probabilities = torch.tensor([0.9, 0.1, 0.7, 0.5, 0.6, 0.2])
    labels = torch.tensor([True, False, True, True, False, True])
    assert pick_operating_point(probabilities, labels, sensitivity) == pytest.approx(expected)
