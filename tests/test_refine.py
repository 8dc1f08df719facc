"""From saliency to mask."""

import pytest
import torch

from hgisam.refine import RefineOptions, choose_components, refine, remove_small_components, threshold_mask
from hgisam.volume import CTVolume

VOXEL_MM3 = torch.full((3,), 5.0, dtype=torch.float64)
AFFINE = torch.diag(torch.tensor([5.0, 1.0, 1.0, 1.0], dtype=torch.float64))


def head_with_two_clots(contrast_hu: float = 30.0) -> tuple[CTVolume, torch.Tensor, torch.Tensor]:
    """Brain of 30 HU, a clot that the map points at, and one it does not; each 10 x 10 x 2 voxels of 5 mm3."""
    hu = torch.full((6, 60, 60), 30.0)
    hu[2:4, 20:30, 20:30] += contrast_hu
    hu[2:4, 40:50, 40:50] += contrast_hu
    region = torch.zeros(6, 60, 60, dtype=torch.bool)
    region[:, 5:55, 5:55] = True
    saliency = torch.zeros(6, 60, 60)
    saliency[2:4, 5:55, 5:55] = 0.01
    saliency[2:4, 22:26, 18:24] = 1.0
    return CTVolume(hu=hu, affine=AFFINE, source="two clots"), region, saliency


def test_the_whole_clot_under_the_map_is_taken_and_no_other() -> None:
    ct, region, saliency = head_with_two_clots()
    options = RefineOptions(smoothing_mm=0.0)
    mask = refine(saliency, ct, region, 30.0, 0.5, options)
    expected = torch.zeros_like(region)
    expected[2:4, 20:30, 20:30] = True
    assert torch.equal(mask.voxels, expected)
    assert mask.volume_ml == pytest.approx(1.0)


def test_smoothing_moves_the_outline_by_less_than_a_voxel_layer() -> None:
    ct, region, saliency = head_with_two_clots()
    mask = refine(saliency, ct, region, 30.0, 0.5, RefineOptions(smoothing_mm=0.8))
    assert 0.8 < mask.volume_ml < 1.45


def test_where_nothing_is_dense_nothing_is_outlined() -> None:
    ct, region, saliency = head_with_two_clots(contrast_hu=0.0)
    assert not refine(saliency, ct, region, 30.0, 0.5, RefineOptions()).voxels.any()


def test_threshold_method_ignores_density() -> None:
    ct, region, saliency = head_with_two_clots()
    mask = refine(saliency, ct, region, 30.0, 0.5, RefineOptions(method="threshold"))
    assert torch.equal(mask.voxels, saliency >= 0.5)


@pytest.mark.parametrize("method", ["components", "threshold"])
def test_an_empty_map_gives_an_empty_mask(method: str) -> None:
    ct, region, saliency = head_with_two_clots()
    mask = refine(torch.zeros_like(saliency), ct, region, 30.0, 0.5, RefineOptions.model_validate({"method": method}))
    assert mask.volume_ml == 0.0


def head_with_a_bright_rim() -> tuple[CTVolume, torch.Tensor, torch.Tensor]:
    """Brain of 30 HU that rises to 60 within 3 mm of the skull, and a crescent of 25 HU more over a fifth of it."""
    rows, columns = torch.meshgrid(torch.arange(120.0), torch.arange(120.0), indexing="ij")
    from_middle = torch.hypot(rows - 59.5, columns - 59.5)
    depth_mm = 50.0 - from_middle
    region = (depth_mm > 0).expand(4, -1, -1).clone()
    hu = torch.where(depth_mm > 0, 30.0 + 10.0 * (3.0 - depth_mm).clamp(0.0, 3.0), 1000.0).expand(4, -1, -1).clone()
    crescent = region & (depth_mm < 6.0) & (rows < 30.0)
    hu[crescent] += 25.0
    return CTVolume(hu=hu, affine=AFFINE, source="bright rim"), region, crescent


def test_the_bright_rim_of_the_skull_is_left_out_and_a_crescent_in_it_is_not() -> None:
    ct, region, crescent = head_with_a_bright_rim()
    saliency = torch.where(region, 0.5, 0.0)
    plain = refine(saliency, ct, region, 30.0, 0.9, RefineOptions(smoothing_mm=0.0, rim_mm=0.0)).voxels
    assert bool(plain[:, 100:].any())
    mask = refine(saliency, ct, region, 30.0, 0.9, RefineOptions(smoothing_mm=0.0)).voxels
    assert not bool((mask & ~crescent).any())
    assert float((mask & crescent).sum() / crescent.sum()) > 0.95


def test_a_calcification_is_no_blood_and_does_not_leak() -> None:
    ct, region, _ = head_with_two_clots(contrast_hu=0.0)
    ct.hu[2:4, 20:30, 20:30] = 300.0
    saliency = torch.where(region, 0.1, 0.0)
    mask = refine(saliency, ct, region, 30.0, 0.5, RefineOptions(smoothing_mm=1.0))
    assert not mask.voxels.any()


def test_slices_that_the_gate_closed_hold_no_mask() -> None:
    ct, region, saliency = head_with_two_clots()
    saliency[3] = 0.0
    mask = refine(saliency, ct, region, 30.0, 0.5, RefineOptions(smoothing_mm=0.0))
    assert mask.voxels[2].any()
    assert not mask.voxels[3].any()


def test_components_are_ranked_by_what_they_gather_not_by_a_hot_spot() -> None:
    candidates = torch.zeros(1, 10, 20, dtype=torch.bool)
    candidates[0, 2:8, 2:8] = True
    candidates[0, 5, 15] = True
    saliency = torch.where(candidates, 0.2, 0.0)
    saliency[0, 5, 15] = 1.0
    chosen = choose_components(candidates, saliency, min_share=0.3)
    assert chosen[0, 4, 4]
    assert not chosen[0, 5, 15]


def test_no_saliency_on_any_candidate_chooses_none() -> None:
    candidates = torch.ones(1, 4, 4, dtype=torch.bool)
    assert not choose_components(candidates, torch.zeros(1, 4, 4), 0.3).any()


def test_the_smallest_component_that_stays_is_measured_in_mm3() -> None:
    mask = torch.zeros(3, 20, 20, dtype=torch.bool)
    mask[1, 2:4, 2:7] = True
    mask[1, 10:13, 10:13] = True
    kept = remove_small_components(mask, VOXEL_MM3, min_component_mm3=50.0)
    assert int(kept.sum()) == 10
    assert kept[1, 2, 2]
    assert torch.equal(remove_small_components(mask, VOXEL_MM3, 0.0), mask)


def test_of_uneven_slices_each_component_is_measured_with_its_own_slices() -> None:
    mask = torch.zeros(3, 20, 20, dtype=torch.bool)
    mask[0, 2:4, 2:7] = True  # 10 voxels of 2 mm3
    mask[2, 2:4, 2:7] = True  # 10 voxels of 7 mm3
    mask[0:3, 12, 12] = True  # 3 voxels: 2 + 3 + 7 mm3
    kept = remove_small_components(mask, torch.tensor([2.0, 3.0, 7.0], dtype=torch.float64), min_component_mm3=21.0)
    assert kept.any(dim=2).any(dim=1).tolist() == [False, False, True]
    assert int(kept.sum()) == 10
    unknown = torch.full((3,), float("nan"), dtype=torch.float64)
    assert torch.equal(remove_small_components(mask, unknown, 1000.0), mask)


def test_threshold_zero_never_marks_voxels_without_saliency() -> None:
    saliency = torch.tensor([[[0.0, 0.04, 0.05, 1.0]]])
    assert threshold_mask(saliency, 0.05).flatten().tolist() == [False, False, True, True]
    assert threshold_mask(saliency, 0.0).flatten().tolist() == [False, True, True, True]
