"""Pieces of a mask: which are chosen, and which are too small."""

import math

import numpy as np
import torch

from hgisam.refine import remove_small_components
from hgisam.refine.pieces import box_about, chosen_components, ranks, split_at_necks

VOXEL_MM3 = torch.full((3,), 5.0, dtype=torch.float64)


def test_components_are_ranked_by_what_they_gather_in_sum_and_on_average() -> None:
    """Ranks by hand: a bleed 0.2 x 12, a hot spot 1 x 1, a sheet four times as large at a tenth 0.02 x 24."""
    pieces = np.zeros((1, 40, 60), dtype=np.int64)
    pieces[0, 2:14, 2:14] = 1
    pieces[0, 20, 20] = 2
    pieces[0, 14:38, 30:54] = 3
    saliency = np.choose(pieces, [0.0, 0.2, 1.0, 0.02]).astype(np.float32)
    for min_share, expected in ((0.19, {0, 1, 2, 3}), (0.21, {0, 1, 2}), (0.41, {0, 1, 2}), (0.43, {0, 1})):
        assert (
            set(np.unique(chosen_components(pieces, ranks(pieces, saliency, 0.0), min_share)).tolist()) == expected
        ), min_share
    assert set(np.unique(chosen_components(pieces, ranks(pieces, saliency, 0.021), 0.19)).tolist()) == {0, 1, 2}


def test_no_saliency_on_any_candidate_chooses_none() -> None:
    nothing = np.zeros((1, 4, 4), dtype=np.float32)
    whole = np.ones((1, 4, 4), dtype=np.int64)
    assert not chosen_components(whole, ranks(whole, nothing, 0.1), 0.3).any()


def test_cutting_loses_no_voxel_and_what_has_no_thick_part_stays_whole() -> None:
    mask = torch.zeros(2, 30, 40, dtype=torch.bool)
    mask[0, 5:15, 5:15] = True
    mask[0, 9:11, 15:25] = True
    mask[0, 5:15, 25:35] = True
    mask[1, 20, 2:38] = True  # a film, one voxel thin
    pieces = split_at_necks(mask, (1.0, 1.0), 2.0)
    assert np.array_equal(pieces > 0, mask.numpy())
    assert pieces[0, 10, 10] != pieces[0, 10, 30]
    assert len(np.unique(pieces[1, 20, 2:38])) == 1
    assert len(np.unique(split_at_necks(mask, (1.0, 1.0), 0.0))) == 3  # nothing, the two squares as one, the film


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


def test_a_box_holds_the_mask_and_a_margin_in_mm() -> None:
    mask = np.zeros((4, 20, 30), dtype=np.bool_)
    assert box_about(mask, (5.0, 1.0, 0.5), 2.0) is None
    mask[1:3, 10, 1] = True
    found = box_about(mask, (math.inf, 1.0, 0.5), 2.0)
    assert found == (slice(1, 3), slice(8, 13), slice(0, 6))  # cut off at the picture's edge


def test_a_neck_is_cut_also_where_it_runs_along_the_edge_of_all_that_there_is() -> None:
    mask = torch.zeros(1, 12, 30, dtype=torch.bool)
    mask[0, :, :12] = mask[0, :, 18:] = mask[0, :2, :] = True
    pieces = split_at_necks(mask, (1.0, 1.0), 1.5)[0]
    assert pieces[6, 5] != pieces[6, 24]
