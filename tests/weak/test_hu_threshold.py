"""The baseline without a network, on slices whose answer is known."""

import torch

from hgisam.weak import AT_CONTRAST, HuThreshold

SPACING_MM = (0.5, 0.5)


def saliency(hu: torch.Tensor, region: torch.Tensor, method: HuThreshold) -> torch.Tensor:
    return method(hu, region, 30.0, SPACING_MM)


def test_the_contrast_is_where_the_threshold_cuts() -> None:
    """Median 30, contrast 16: 46 HU is blood, 45 is not, 62 and more cannot be surer."""
    method = HuThreshold(contrast_hu=16.0, smoothing_mm=0.0)
    hu = torch.tensor([[[30.0, 20.0, 45.0, 46.0, 62.0, 90.0]]])
    found = saliency(hu, torch.ones_like(hu, dtype=torch.bool), method)[0, 0].tolist()
    assert found == [0.0, 0.0, 0.46875, AT_CONTRAST, 1.0, 1.0]


def test_bone_is_no_blood_and_does_not_leak() -> None:
    """A calcification in the brain: neither it nor what is about it is taken for blood."""
    hu = torch.full((1, 41, 41), 30.0)
    hu[0, 18:23, 18:23] = 400.0
    found = saliency(hu, torch.ones_like(hu, dtype=torch.bool), HuThreshold())
    assert found.max() == 0.0


def test_smoothing_quiets_noise_and_keeps_a_clot() -> None:
    torch.manual_seed(0)
    hu = 30.0 + 12.0 * torch.randn(1, 81, 81)
    hu[0, 30:50, 30:50] += 35.0
    region = torch.ones_like(hu, dtype=torch.bool)
    clot = torch.zeros_like(region)
    clot[0, 30:50, 30:50] = True
    quiet = saliency(hu, region, HuThreshold(contrast_hu=16.0, smoothing_mm=1.5)) >= AT_CONTRAST
    raw = saliency(hu, region, HuThreshold(contrast_hu=16.0, smoothing_mm=0.0)) >= AT_CONTRAST
    assert quiet[clot].float().mean() > 0.95
    assert quiet[~clot].float().mean() < 0.03 < raw[~clot].float().mean()
