"""Single lesions: what is one, when it is found, and the policy for empty masks."""

import pytest
import torch

from hgisam.evaluate.lesions import match_lesions


def mask(text: str) -> torch.Tensor:
    """Slices divided by spaces, rows by slashes, one character per voxel: # is in the mask."""
    return torch.tensor([[[c == "#" for c in row] for row in plane.split("/")] for plane in text.split()])


def test_lesions_found_and_right_by_hand() -> None:
    """Three lesions, of 10, 2 and 1 voxels; the first is covered by 1 of 10, the second by both, the third not."""
    empty = ".........."
    reference = mask(f"##########/{empty} {empty}/{empty} ##......../........#.")
    prediction = torch.zeros_like(reference)
    prediction[0, 0, 0] = True
    prediction[2, 0, :4] = True
    found = match_lesions(prediction, reference, voxel_ml=0.5)
    assert found.reference.n_voxels == (10, 2, 1)
    assert found.reference.n_covered == (1, 2, 0)
    assert found.reference.volumes_ml == (5.0, 1.0, 0.5)
    assert found.reference.covered == (True, True, False)
    assert found.prediction.n_voxels == (1, 4)
    assert found.prediction.covered == (True, True)
    assert (found.sensitivity, found.precision) == (pytest.approx(2 / 3), 1.0)
    assert found.f1 == pytest.approx(2 * (2 / 3) / (2 / 3 + 1))


def test_below_a_tenth_nothing_is_found() -> None:
    found = match_lesions(mask("#.........."), mask("###########"), voxel_ml=1.0)
    assert (found.sensitivity, found.precision, found.f1) == (0.0, 1.0, 0.0)


def test_a_flood_finds_all_and_is_not_right() -> None:
    found = match_lesions(mask("###########"), mask("#.........."), voxel_ml=1.0)
    assert (found.sensitivity, found.precision, found.f1) == (1.0, 0.0, 0.0)


def test_voxels_that_touch_by_a_corner_are_one_lesion() -> None:
    assert match_lesions(mask("#./.. ../.#"), mask("#./.. ../.."), voxel_ml=1.0).prediction.n_voxels == (2,)


def test_voxels_outside_the_lesion_s_box_cover_nothing() -> None:
    found = match_lesions(mask(".../..#"), mask("##./##."), voxel_ml=1.0)
    assert (found.reference.n_covered, found.prediction.n_covered) == ((0,), (0,))


@pytest.mark.parametrize(
    ("prediction", "reference", "sensitivity", "precision", "f1"),
    [
        ("...", "...", None, None, None),
        ("#..", "...", None, 0.0, 0.0),
        ("...", "#..", 0.0, None, 0.0),
        ("..#", "#..", 0.0, 0.0, 0.0),
    ],
    ids=["both empty", "nothing to find", "complete miss", "beside it"],
)
def test_the_policy_for_empty_masks(
    prediction: str, reference: str, sensitivity: float | None, precision: float | None, f1: float | None
) -> None:
    found = match_lesions(mask(prediction), mask(reference), voxel_ml=1.0)
    assert (found.sensitivity, found.precision, found.f1) == (sensitivity, precision, f1)
