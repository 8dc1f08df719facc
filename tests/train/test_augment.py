"""Random changes keep what must be kept."""

import pytest
import torch
from still import STILL

from hgisam.train.augment import AugmentOptions, SliceChanger


def a_slice_with_blood() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    hu = torch.zeros(64, 64)
    hu[20:40, 36:50] = 40.0
    region = torch.zeros(64, 64, dtype=torch.bool)
    region[4:60, 8:56] = True
    return hu, region, hu > 20


def test_with_all_ranges_zero_nothing_changes() -> None:
    hu, region, blood = a_slice_with_blood()
    moved = SliceChanger(STILL, 1.0)(hu, region, blood, 0)
    torch.testing.assert_close(moved[0], hu, atol=1e-3, rtol=0)
    assert torch.equal(moved[1], region)
    assert torch.equal(moved[2], blood)


def test_a_certain_flip_exchanges_left_and_right_of_all_three() -> None:
    hu, region, blood = a_slice_with_blood()
    options = STILL.model_copy(update={"flip_probability": 1.0})
    moved = SliceChanger(options, 1.0)(hu, region, blood, 0)
    torch.testing.assert_close(moved[0], hu.flip(1), atol=1e-3, rtol=0)
    assert torch.equal(moved[1], region.flip(1))
    assert torch.equal(moved[2], blood.flip(1))


def test_blood_stays_on_the_bright_pixels_however_the_slice_moves() -> None:
    hu, region, blood = a_slice_with_blood()
    change = SliceChanger(AugmentOptions(gain=0, offset_hu=0, noise_hu=0, blur_px=0), 1.0)
    for seed in range(4):
        moved_hu, _, moved_blood = change(hu, region, blood, seed)
        assert moved_blood.any()
        assert float(((moved_hu > 20) == moved_blood).float().mean()) > 0.995


def test_one_seed_gives_one_result_and_another_another() -> None:
    change, given = SliceChanger(AugmentOptions(), 1.0), a_slice_with_blood()
    first, other, again = (change(*given, seed)[0] for seed in (5, 6, 5))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


def test_a_slice_and_its_twin_are_changed_alike() -> None:
    hu, region, blood = a_slice_with_blood()
    change = SliceChanger(AugmentOptions(blur_px=0), 1.0)
    bled, before = change(hu, region, blood, 9), change(torch.zeros_like(hu), region, torch.zeros_like(blood), 9)
    assert torch.equal(bled[1], before[1])
    far_from_blood = torch.ones_like(blood)
    rows, columns = torch.nonzero(bled[0] - before[0] > 1e-3, as_tuple=True)
    far_from_blood[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = False
    torch.testing.assert_close(bled[0][far_from_blood], before[0][far_from_blood], atol=1e-3, rtol=0)


def test_noise_has_the_drawn_strength() -> None:
    flat, mask = torch.zeros(64, 64), torch.ones(64, 64, dtype=torch.bool)
    change = SliceChanger(STILL.model_copy(update={"noise_hu": 4.0}), 1.0)
    strengths = torch.stack([change(flat, mask, mask, seed)[0].std() for seed in range(100)])
    assert float(strengths.max()) <= 4.3
    assert float(strengths.mean()) == pytest.approx(2.0, abs=0.4)


def test_holes_are_cut_to_the_brain_median_and_nowhere_else() -> None:
    hu, mask = torch.full((64, 64), 30.0), torch.ones(64, 64, dtype=torch.bool)
    options = STILL.model_copy(update={"dropout_holes": 1, "dropout_mm": 10.0})
    changed = SliceChanger(options, 1.0)(hu, mask, mask, 3)[0]
    holes = changed.abs() < 1e-3
    assert int(holes.sum()) == 100
    torch.testing.assert_close(changed[~holes], hu[~holes], atol=1e-3, rtol=0)
