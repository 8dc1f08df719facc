"""Overlap measures: values derived by hand, the policy for empty masks, and MONAI where it has one answer."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hgisam.evaluate.overlap import Overlap, overlap


def mask(text: str) -> torch.Tensor:
    """Slices divided by spaces, one character per voxel: # is in the mask."""
    return torch.tensor([[[c == "#" for c in row]] for row in text.split()])


def test_values_derived_by_hand() -> None:
    found = overlap(mask("##.# ...."), mask(".#.# .##."), voxel_ml=0.5)
    assert (found.n_prediction, found.n_reference, found.n_both) == (3, 4, 2)
    assert found.dice == pytest.approx(4 / 7)
    assert found.iou == pytest.approx(2 / 5)
    assert found.sensitivity == pytest.approx(1 / 2)
    assert found.precision == pytest.approx(2 / 3)
    assert (found.prediction_ml, found.reference_ml, found.difference_ml) == (1.5, 2.0, -0.5)


def test_too_much_is_a_difference_above_zero() -> None:
    assert overlap(mask("####"), mask("#..."), voxel_ml=2.0).difference_ml == 6.0


@pytest.mark.parametrize(
    ("prediction", "reference", "dice", "iou", "sensitivity", "precision"),
    [
        ("....", "....", None, None, None, None),
        ("##..", "....", 0.0, 0.0, None, 0.0),
        ("....", "##..", 0.0, 0.0, 0.0, None),
        ("##..", "..##", 0.0, 0.0, 0.0, 0.0),
        ("##..", "##..", 1.0, 1.0, 1.0, 1.0),
    ],
    ids=["both empty", "nothing to find", "complete miss", "beside it", "all of it"],
)
def test_the_policy_for_empty_masks(
    prediction: str,
    reference: str,
    dice: float | None,
    iou: float | None,
    sensitivity: float | None,
    precision: float | None,
) -> None:
    found = overlap(mask(prediction), mask(reference), voxel_ml=1.0)
    assert (found.dice, found.iou, found.sensitivity, found.precision) == (dice, iou, sensitivity, precision)


def test_masks_of_two_shapes_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="one shape"):
        overlap(torch.ones(2, 2, 2, dtype=torch.bool), torch.ones(2, 2, 3, dtype=torch.bool), 1.0)


@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 50))
def test_dice_and_iou_are_one_measure_and_symmetric(only_p: int, only_r: int, both: int) -> None:
    found = Overlap(only_p + both, only_r + both, both, 0.0, 0.0)
    turned = Overlap(only_r + both, only_p + both, both, 0.0, 0.0)
    assert (found.dice, found.iou) == (turned.dice, turned.iou)
    assert (found.sensitivity, found.precision) == (turned.precision, turned.sensitivity)
    if found.dice is not None and found.iou is not None:
        assert 0 <= found.iou <= found.dice <= 1
        assert found.dice == pytest.approx(2 * found.iou / (1 + found.iou))


def test_monai_agrees_where_no_mask_is_empty() -> None:
    from monai.metrics import compute_dice, compute_iou

    noise = torch.Generator().manual_seed(0)
    for share in (0.02, 0.3, 0.9):
        prediction, reference = (torch.rand(6, 9, 7, generator=noise) < share for _ in range(2))
        found = overlap(prediction, reference, voxel_ml=1.0)
        assert found.dice == pytest.approx(compute_dice(prediction[None, None], reference[None, None]).item(), abs=1e-6)
        assert found.iou == pytest.approx(compute_iou(prediction[None, None], reference[None, None]).item(), abs=1e-6)
