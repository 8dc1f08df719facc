"""From slices to the scan, by hand."""

import pytest
import torch

from hgisam.model.scan_head import ScanHead, scan_features

SLICES = torch.tensor([0.0, 9.0, -3.0, 3.0, 6.0])


def test_features_are_means_of_the_highest_slices() -> None:
    assert scan_features(SLICES).tolist() == [9.0, 6.0, 3.0, 3.0]


def test_the_default_is_the_highest_slice() -> None:
    assert float(ScanHead()(SLICES)) == 9.0


def test_weights_and_bias_are_linear() -> None:
    assert float(ScanHead(weights=(0.5, 1.0, 0.0, 2.0), bias=-1.0)(SLICES)) == pytest.approx(4.5 + 6.0 + 6.0 - 1.0)


def test_a_scan_without_slices_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one slice"):
        scan_features(torch.zeros(0))
