"""Surface distances: published cases derived again by hand, the policy for empty masks, MONAI on random ones."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hgisam.evaluate.surface import (
    SurfaceDistances,
    SurfaceScore,
    grid_diagonal_mm,
    measure_surfaces,
    surface_distances,
)


def axes(*spacing_mm: float) -> torch.Tensor:
    """Square axes with these steps, as columns."""
    return torch.eye(3, len(spacing_mm), dtype=torch.float64) * torch.tensor(spacing_mm, dtype=torch.float64)


def box(shape: tuple[int, ...], *ranges: tuple[int, int]) -> torch.Tensor:
    """A mask that is True from the first to before the second index along each axis."""
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[tuple(slice(*r) for r in ranges)] = True
    return mask


def distances(prediction: torch.Tensor, reference: torch.Tensor, axes_mm: torch.Tensor) -> SurfaceDistances:
    """Of masks that are not empty."""
    found = surface_distances(prediction, reference, axes_mm)
    assert found is not None
    return found


def test_two_pixels_two_mm_apart() -> None:
    """Each pixel has four corners, and at each the outline cuts half a diagonal off: sqrt(2^2 + 1^2) / 2 mm."""
    found = distances(box((9, 9), (4, 5), (3, 4)), box((9, 9), (4, 5), (5, 6)), axes(2, 1))
    assert sorted(found.from_prediction_mm) == sorted(found.from_reference_mm) == [1.0, 1.0, 2.0, 2.0]
    assert found.prediction_sizes.tolist() == pytest.approx([math.sqrt(5) / 2] * 4)
    assert (found.hausdorff_mm(), found.hausdorff_mm(1.0), found.average_mm()) == (2.0, 2.0, pytest.approx(1.5))
    assert found.agreement(1.0) == pytest.approx(0.5)


@pytest.mark.parametrize(("apart_mm", "at_1_mm", "at_2_mm"), [(2, 0.5, 1.0), (3, 0.0, 0.5), (4, 0.0, 0.0)])
def test_the_two_tolerances_are_one_and_two_mm(apart_mm: int, at_1_mm: float, at_2_mm: float) -> None:
    """Two pixels as above: half of each outline is as far off as they are apart, the other half 1 mm less."""
    other = box((9, 12), (4, 5), (3 + apart_mm, 4 + apart_mm))
    found = measure_surfaces(box((9, 12), (4, 5), (3, 4)), other, axes(2, 1))
    assert (found.nsd_1mm, found.nsd_2mm) == (pytest.approx(at_1_mm), pytest.approx(at_2_mm))


def test_two_rectangles_of_which_one_is_a_row_longer() -> None:
    """2 x 2 and 3 x 2 pixels of 2 x 1 mm: the longer's lower side is 2 mm off, the middle of the other's 1 mm."""
    short, long = box((6, 6), (1, 3), (1, 3)), box((6, 6), (1, 4), (1, 3))
    found = distances(long, short, axes(2, 1))
    half_diagonal = math.sqrt(5) / 2
    assert found.reference_sizes.sum() == pytest.approx(4 * half_diagonal + 2 * 1 + 2 * 2)
    assert found.prediction_sizes.sum() == pytest.approx(4 * half_diagonal + 2 * 1 + 4 * 2)
    assert sorted(found.from_prediction_mm) == [0.0] * 7 + [2.0] * 3
    assert sorted(found.from_reference_mm) == [0.0] * 7 + [1.0]
    apart = (2 * half_diagonal + 1) * 2.0 + 1 * 1.0
    assert found.average_mm() == pytest.approx(apart / (8 * half_diagonal + 4 + 12))
    assert found.agreement(0.5) == pytest.approx(1 - (2 * half_diagonal + 2) / (8 * half_diagonal + 16))


def test_two_blocks_of_which_one_is_a_layer_thicker() -> None:
    """The case that the surface-distance library publishes, with its figures."""
    thin, thick = box((100, 100, 100), (0, 50), (0, 100), (0, 100)), box((100, 100, 100), (0, 51), (0, 100), (0, 100))
    found = distances(thick, thin, axes(2, 1, 1))
    assert np.average(found.from_reference_mm, weights=found.reference_sizes) == pytest.approx(0.322, abs=5e-4)
    assert np.average(found.from_prediction_mm, weights=found.prediction_sizes) == pytest.approx(0.339, abs=5e-4)
    assert (found.hausdorff_mm(), found.hausdorff_mm(1.0)) == (2.0, 2.0)
    assert found.agreement(1.0) == pytest.approx(0.836, abs=5e-4)


def test_the_surface_of_a_block_by_hand() -> None:
    """4 x 3 x 2 voxels of 5 x 2 x 1 mm: flat pieces inside the faces, bevels along the edges, 8 cut corners."""
    block = box((6, 5, 4), (1, 5), (1, 4), (1, 3))
    found = distances(block, block, axes(5, 2, 1))
    flat = 2 * (3 * 2 * 5 * 2 + 3 * 1 * 5 * 1 + 2 * 1 * 2 * 1)
    bevels = 4 * (3 * 5 * math.hypot(2, 1) / 2 + 2 * 2 * math.hypot(5, 1) / 2 + 1 * 1 * math.hypot(5, 2) / 2)
    corners = 8 * math.hypot(2 * 1, 5 * 1, 5 * 2) / 8
    assert found.prediction_sizes.sum() == pytest.approx(flat + bevels + corners)
    assert (found.hausdorff_mm(), found.average_mm(), found.agreement(0.0)) == (0.0, 0.0, 1.0)


def test_a_percentile_is_of_area_and_not_of_points() -> None:
    ones = np.ones(4)
    found = SurfaceDistances(np.array([9.0, 1.0, 2.0, 3.0]), np.array([0.04, 1, 1, 1]), np.zeros(4), ones)
    assert (found.hausdorff_mm(), found.hausdorff_mm(1.0), found.hausdorff_mm(0.5)) == (3.0, 9.0, 2.0)


def test_a_tilted_gantry_is_measured_in_the_patient() -> None:
    """Each slice lies 5 mm above the last and 2 mm, one pixel, further along the rows' axis.

    Of two voxels above each other four corners are shared. The lower four of the lower voxel are 5 mm straight below a
    corner of the upper voxel where the shift leads back to it, else sqrt(5^2 + 2^2) mm.
    """
    tilted = torch.tensor([[0.0, 0.0, 1.0], [2.0, 2.0, 0.0], [5.0, 0.0, 0.0]], dtype=torch.float64)
    lower, upper = box((4, 4, 4), (1, 2), (1, 2), (1, 2)), box((4, 4, 4), (2, 3), (1, 2), (1, 2))
    found = distances(upper, lower, tilted)
    assert sorted(found.from_reference_mm) == pytest.approx([0.0] * 4 + [5.0] * 2 + [math.sqrt(29)] * 2)
    square = distances(upper, lower, axes(math.sqrt(29), 2, 1))
    assert sorted(square.from_reference_mm) == pytest.approx([0.0] * 4 + [math.sqrt(29)] * 4)


def test_turning_the_patient_changes_nothing() -> None:
    noise = torch.Generator().manual_seed(4)
    prediction, reference = (torch.rand(5, 9, 8, generator=noise) < share for share in (0.2, 0.3))
    turn, _ = torch.linalg.qr(torch.rand(3, 3, generator=noise, dtype=torch.float64))
    found, turned = (measure_surfaces(prediction, reference, a) for a in (axes(5, 2, 1), turn @ axes(5, 2, 1)))
    assert (turned.hd95_mm, turned.assd_mm, turned.nsd_2mm) == pytest.approx(
        (found.hd95_mm, found.assd_mm, found.nsd_2mm)
    )


def test_the_policy_for_empty_masks() -> None:
    nothing, something = box((4, 3, 12), (0, 0)), box((4, 3, 12), (1, 2), (1, 2), (4, 6))
    spacing = axes(1, 1, 1)
    assert measure_surfaces(nothing, nothing, spacing) == SurfaceScore(None, None, None, None)
    for found in (measure_surfaces(nothing, something, spacing), measure_surfaces(something, nothing, spacing)):
        assert found == SurfaceScore(13.0, 13.0, 0.0, 0.0)  # sqrt(4^2 + 3^2 + 12^2)
    assert measure_surfaces(something, something, spacing) == SurfaceScore(0.0, 0.0, 1.0, 1.0)
    assert measure_surfaces(nothing[0], something[1], spacing[:, 1:]).hd95_mm == pytest.approx(math.hypot(3, 12))


def test_the_diagonal_of_a_sheared_grid_is_its_longest() -> None:
    sheared = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    assert grid_diagonal_mm((2, 2, 1), sheared) == pytest.approx(math.hypot(4, 2, 1))


def test_masks_that_do_not_belong_together_are_an_error() -> None:
    with pytest.raises(ValueError, match="one shape"):
        measure_surfaces(box((3, 3, 3), (0, 1)), box((3, 3, 4), (0, 1)), axes(1, 1, 1))
    with pytest.raises(ValueError, match="a column for each"):
        measure_surfaces(box((3, 3), (0, 1)), box((3, 3), (0, 1)), axes(1, 1, 1))


SPACINGS = [(1.0, 1.0, 1.0), (5.0, 0.45, 0.45), (0.7, 1.9, 3.1)]


@pytest.mark.parametrize("spacing_mm", [*SPACINGS, *(s[1:] for s in SPACINGS)])
@pytest.mark.parametrize("share", [0.1, 0.4, 0.8])
def test_monai_agrees_where_no_mask_is_empty(spacing_mm: tuple[float, ...], share: float) -> None:
    """Noise holds every pattern of neighbours. MONAI has the published table of areas; ours follows from rules."""
    from monai.metrics import compute_surface_dice
    from monai.metrics.utils import get_edge_surface_distance

    noise = torch.Generator().manual_seed(1)
    shape = (7, 13, 11)[-len(spacing_mm) :]
    prediction, reference = (torch.rand(shape, generator=noise) < share for _ in range(2))
    found = distances(prediction, reference, axes(*spacing_mm))
    (edge_p, edge_r), (d_p, d_r), (area_p, area_r) = get_edge_surface_distance(
        prediction, reference, spacing=spacing_mm, use_subvoxels=True, symmetric=True
    )
    assert found.prediction_sizes.sum() == pytest.approx(area_p[edge_p].sum().item(), rel=1e-5)
    areas = torch.cat([area_p[edge_p], area_r[edge_r]])
    pooled = (torch.cat([d_p, d_r]) * areas).sum() / areas.sum()
    assert found.average_mm() == pytest.approx(pooled.item(), rel=1e-5)
    directions = ((d_p, area_p[edge_p]), (d_r, area_r[edge_r]))
    for share_within in (0.5, 0.95):
        farthest = max(within(share_within, of_side, sizes) for of_side, sizes in directions)
        assert found.hausdorff_mm(share_within) == pytest.approx(farthest, rel=1e-5)
    for tolerance_mm in (0.3, 1.01, 2.01):
        theirs = compute_surface_dice(
            prediction[None, None], reference[None, None], [tolerance_mm], include_background=True,
            spacing=spacing_mm, use_subvoxels=True,
        )  # fmt: skip
        assert found.agreement(tolerance_mm) == pytest.approx(theirs.item(), abs=1e-5)


def within(share: float, distances_mm: torch.Tensor, sizes: torch.Tensor) -> float:
    """The least distance within which this share of a surface lies, found by trying each."""
    return min(d for d in distances_mm.tolist() if sizes[distances_mm <= d].sum() >= share * sizes.sum())


masks = st.lists(st.booleans(), min_size=24, max_size=24).map(lambda bits: torch.tensor(bits).reshape(2, 3, 4))


@given(masks, masks)
def test_neither_mask_is_preferred_and_all_stays_in_its_bounds(first: torch.Tensor, second: torch.Tensor) -> None:
    spacing = axes(5, 1, 0.5)
    found, turned = measure_surfaces(first, second, spacing), measure_surfaces(second, first, spacing)
    assert (found.hd95_mm is None) == (not first.any() and not second.any())
    if found.hd95_mm is not None and found.assd_mm is not None and found.nsd_1mm is not None:
        assert (turned.hd95_mm, turned.nsd_1mm) == pytest.approx((found.hd95_mm, found.nsd_1mm))
        assert turned.assd_mm == pytest.approx(found.assd_mm)
        assert 0 <= found.assd_mm <= grid_diagonal_mm((2, 3, 4), spacing)
        assert found.nsd_2mm is not None and 0 <= found.nsd_1mm <= found.nsd_2mm <= 1
        assert found.assd_mm == 0 or bool((first != second).any())
