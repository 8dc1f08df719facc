"""Random changes keep what must be kept."""

import pytest
import torch
from still import STILL

from hgisam.train.augment import AugmentOptions, augment


def a_slice_with_blood() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    hu = torch.zeros(4, 64, 64)
    hu[:, 20:40, 36:50] = 40.0
    region = torch.zeros(4, 64, 64, dtype=torch.bool)
    region[:, 4:60, 8:56] = True
    return hu, region, hu > 20


def test_with_all_ranges_zero_nothing_changes() -> None:
    hu, region, blood = a_slice_with_blood()
    moved = augment(hu, region, blood, 1.0, STILL, torch.Generator().manual_seed(0))
    torch.testing.assert_close(moved[0], hu, atol=1e-3, rtol=0)
    assert torch.equal(moved[1], region)
    assert torch.equal(moved[2], blood)


def test_a_certain_flip_exchanges_left_and_right_of_all_three() -> None:
    hu, region, blood = a_slice_with_blood()
    options = STILL.model_copy(update={"flip_probability": 1.0})
    moved = augment(hu, region, blood, 1.0, options, torch.Generator().manual_seed(0))
    torch.testing.assert_close(moved[0], hu.flip(2), atol=1e-3, rtol=0)
    assert torch.equal(moved[2], blood.flip(2))


def test_blood_stays_on_the_bright_pixels_however_the_slice_moves() -> None:
    hu, region, blood = a_slice_with_blood()
    options = AugmentOptions(gain=0, offset_hu=0, noise_hu=0, blur_px=0)
    moved_hu, _, moved_blood = augment(hu, region, blood, 1.0, options, torch.Generator().manual_seed(3))
    assert moved_blood.any(dim=(1, 2)).all()
    agree = ((moved_hu > 20) == moved_blood).float().mean()
    assert float(agree) > 0.995


def test_one_seed_gives_one_result_and_slices_differ() -> None:
    hu, region, blood = a_slice_with_blood()
    first, again = (
        augment(hu, region, blood, 1.0, AugmentOptions(), torch.Generator().manual_seed(5))[0] for _ in "ab"
    )
    assert torch.equal(first, again)
    assert not torch.allclose(first[0], first[1])


def test_noise_has_the_drawn_strength() -> None:
    flat = torch.zeros(64, 64, 64)
    mask = torch.ones_like(flat, dtype=torch.bool)
    options = STILL.model_copy(update={"noise_hu": 4.0})
    noisy = augment(flat, mask, mask, 1.0, options, torch.Generator().manual_seed(1))[0]
    strengths = noisy.std(dim=(1, 2))
    assert float(strengths.max()) <= 4.01
    assert float(strengths.mean()) == pytest.approx(2.0, abs=0.4)
