"""Components of dense tissue: which are kept, and how far they reach."""

import pytest
import torch
from scipy.ndimage import gaussian_filter

from hgisam.refine import Components, RandomWalk, Refiner, refine
from hgisam.volume import CTVolume

WHOLE = Components(smoothing_mm=0, rim_mm=0, split_mm=0, faint_split_mm=0, edge_mm=0)
"""Neither cut nor moved."""
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
    options = Components(smoothing_mm=0.0)
    mask = refine(saliency, ct, region, 30.0, 0.5, options)
    expected = torch.zeros_like(region)
    expected[2:4, 20:30, 20:30] = True
    assert torch.equal(mask.voxels, expected)
    assert mask.volume_ml == pytest.approx(1.0)


def test_smoothing_moves_the_outline_by_less_than_a_voxel_layer() -> None:
    ct, region, saliency = head_with_two_clots()
    mask = refine(saliency, ct, region, 30.0, 0.5, Components(smoothing_mm=0.8))
    assert 0.8 < mask.volume_ml < 1.45


def test_a_spot_of_the_map_does_not_bring_in_a_brain_that_is_all_dense() -> None:
    """Beam hardening under a thick vertex: a clot, and elsewhere brain that is all above the threshold, with a spot."""
    ct, region, saliency = head_with_two_clots()
    ct.hu[0, region[0]] += 15.0
    saliency[0] = torch.where(region[0], 0.02, 0.0)
    saliency[0, 30:40, 30:40] = 1.0
    clot = torch.zeros_like(region)
    clot[2:4, 20:30, 20:30] = True
    assert torch.equal(refine(saliency, ct, region, 30.0, 0.5, WHOLE).voxels, clot)
    without = WHOLE.model_copy(update={"min_mean": 0.0})
    assert bool(refine(saliency, ct, region, 30.0, 0.5, without).voxels[0].any())


def test_where_nothing_is_dense_nothing_is_outlined() -> None:
    ct, region, saliency = head_with_two_clots(contrast_hu=0.0)
    assert not refine(saliency, ct, region, 30.0, 0.5, Components()).voxels.any()


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
    plain = refine(saliency, ct, region, 30.0, 0.9, Components(smoothing_mm=0.0, rim_mm=0.0)).voxels
    assert bool(plain[:, 100:].any())
    mask = refine(saliency, ct, region, 30.0, 0.9, Components(smoothing_mm=0.0)).voxels
    assert not bool((mask & ~crescent).any())
    assert float((mask & crescent).sum() / crescent.sum()) > 0.95


def head_with_blood_on_the_skull(
    skull_mm: float = 8.0, bone_hu: float = 1000.0, pixel_mm: tuple[float, float] = (0.5, 0.5)
) -> tuple[CTVolume, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A round head, blood of 65 HU on a fifth of its skull, scalp outside, all blurred by 0.7 mm; the depth in mm."""
    places = [(torch.arange(round(132 / mm)) - (round(132 / mm) - 1) / 2) * mm for mm in pixel_mm]
    y, x = places[0][:, None], places[1][None, :]
    depth_mm = 50.0 - torch.hypot(y, x)
    blood = (depth_mm > 0) & (depth_mm < 5.0) & (y < -30.0)
    outside = torch.where(depth_mm > -skull_mm, bone_hu, torch.where(depth_mm > -skull_mm - 6.0, 40.0, -1000.0))
    sharp = torch.where(depth_mm > 0, torch.where(blood, 65.0, 30.0), outside)
    blurred = gaussian_filter(sharp.numpy(), [0.7 / mm for mm in pixel_mm])
    hu = torch.from_numpy(blurred).expand(3, -1, -1).clone()
    region = (hu < 130.0) & (depth_mm > -min(2.0, skull_mm / 2))
    affine = torch.diag(torch.tensor([5.0, *pixel_mm, 1.0], dtype=torch.float64))
    ct = CTVolume(hu=hu, affine=affine, source="blood on the skull")
    return ct, region, blood.expand(3, -1, -1), depth_mm.expand(3, -1, -1)


@pytest.mark.parametrize("method", [Components(), RandomWalk()], ids=["components", "random walk"])
@pytest.mark.parametrize("pixel_mm", [(0.5, 0.5), (0.4, 1.0)])
def test_blood_reaches_the_inner_table_through_the_blur_and_brain_beside_it_does_not(
    method: Refiner, pixel_mm: tuple[float, float]
) -> None:
    ct, region, blood, _ = head_with_blood_on_the_skull(pixel_mm=pixel_mm)
    saliency = torch.where(region & blood, 0.9, 0.0)
    none = Components(skull_mm=0.0)
    without = none if isinstance(method, Components) else RandomWalk(start=none)
    short, mask = (refine(saliency, ct, region, 30.0, 0.5, m).voxels for m in (without, method))
    found = [float((m & blood).sum() / blood.sum()) for m in (short, mask)]
    right = [float((m & blood).sum() / m.sum()) for m in (short, mask)]
    assert found[0] < 0.82
    assert found[1] > 0.92
    assert right[1] > right[0] > 0.8
    assert not bool((mask & (ct.hu > 400.0)).any())
    assert torch.equal(mask & (ct.hu <= 100.0), short & (ct.hu <= 100.0))  # of soft tissue, nothing more is marked


@pytest.mark.parametrize(
    ("skull_mm", "bone_hu"), [(1.0, 1000.0), (1.5, 1000.0), (3.0, 350.0), (3.0, 450.0), (8.0, 400.0)]
)
def test_a_thin_a_soft_and_a_cut_off_skull_is_not_filled_with_blood(skull_mm: float, bone_hu: float) -> None:
    ct, region, blood, depth_mm = head_with_blood_on_the_skull(skull_mm, bone_hu)
    mask = refine(torch.where(region & blood, 0.9, 0.0), ct, region, 30.0, 0.5, Components()).voxels
    assert float((mask & blood).sum() / blood.sum()) > 0.85
    assert float((mask & blood).sum() / mask.sum()) > 0.88
    assert not bool((mask & (depth_mm < -skull_mm)).any())


def test_the_picture_s_edge_is_no_skull() -> None:
    ct, region, saliency = head_with_two_clots()
    region = torch.ones_like(region)
    ct.hu[2:4, 20:30, :20] = 60.0
    ct.hu[2:4, 20:30, 0] = 120.0  # a calcification, or what the scan's edge cuts off
    saliency[2:4, 20:30, 10:30] = 1.0
    mask = refine(saliency, ct, region, 30.0, 0.5, WHOLE).voxels
    assert bool(mask[2:4, 20:30, 1:30].all())
    assert not bool(mask[2:4, 20:30, 0].any())


def test_a_calcification_beside_blood_is_left_out() -> None:
    ct, region, saliency = head_with_two_clots()
    ct.hu[2:4, 30:33, 20:30] = 300.0
    ct.hu[:, :, :17] = 900.0
    region[:, :, :17] = False  # 3 mm from the clot, so that the skull is looked for
    mask = refine(saliency * region, ct, region, 30.0, 0.5, Components(smoothing_mm=0.0)).voxels
    assert bool(mask[2:4, 20:30, 20:30].all())
    assert not bool(mask[2:4, 30:33].any())


def test_a_calcification_is_no_blood_and_does_not_leak() -> None:
    ct, region, _ = head_with_two_clots(contrast_hu=0.0)
    ct.hu[2:4, 20:30, 20:30] = 300.0
    saliency = torch.where(region, 0.1, 0.0)
    mask = refine(saliency, ct, region, 30.0, 0.5, Components(smoothing_mm=1.0))
    assert not mask.voxels.any()


def test_slices_that_the_gate_closed_hold_no_mask() -> None:
    ct, region, saliency = head_with_two_clots()
    saliency[3] = 0.0
    mask = refine(saliency, ct, region, 30.0, 0.5, Components(smoothing_mm=0.0))
    assert mask.voxels[2].any()
    assert not mask.voxels[3].any()


def two_clots_joined_by_a_bridge() -> tuple[CTVolume, torch.Tensor, torch.Tensor]:
    """Two squares of 12 x 12 px of 1 mm in one slice, joined by a bridge 2 px wide; the map points at the first."""
    hu = torch.full((3, 60, 60), 30.0)
    hu[1, 20:32, 10:22] += 30.0
    hu[1, 20:32, 34:46] += 30.0
    hu[1, 25:27, 22:34] += 30.0
    region = torch.ones(3, 60, 60, dtype=torch.bool)
    saliency = torch.where(region, 0.01, 0.0)
    saliency[1, 22:30, 12:20] = 1.0
    return CTVolume(hu=hu, affine=AFFINE, source="a bridge"), region, saliency


def test_dense_tissue_is_cut_at_a_neck_where_that_is_asked_for() -> None:
    ct, region, saliency = two_clots_joined_by_a_bridge()
    whole = refine(saliency, ct, region, 30.0, 0.5, WHOLE).voxels[1]
    assert torch.equal(whole, ct.hu[1] > 45.0)
    cut = refine(saliency, ct, region, 30.0, 0.5, WHOLE.model_copy(update={"split_mm": 2.0})).voxels[1]
    assert bool(cut[20:32, 10:22].all())
    assert not bool(cut[:, 34:].any())


def test_only_what_is_too_faint_as_a_whole_is_cut_where_that_is_asked_for() -> None:
    """The mean over both clots is 0.21 of the highest, over the first with its half of the bridge 0.41."""
    ct, region, saliency = two_clots_joined_by_a_bridge()
    options = WHOLE.model_copy(update={"min_mean": 0.25})
    assert not refine(saliency, ct, region, 30.0, 0.5, options).voxels.any()
    cut = refine(saliency, ct, region, 30.0, 0.5, options.model_copy(update={"faint_split_mm": 2.0})).voxels[1]
    assert bool(cut[20:32, 10:22].all())
    assert not bool(cut[:, 34:].any())
    bright = WHOLE.model_copy(update={"min_mean": 0.2, "faint_split_mm": 2.0})
    assert torch.equal(refine(saliency, ct, region, 30.0, 0.5, bright).voxels[1], ct.hu[1] > 45.0)


def test_a_part_of_what_is_too_faint_takes_nothing_from_what_was_kept() -> None:
    """A small bright bleed, and a large sheet: one half has a mean of 0.12, one of 0.01; a neck of 2 mm joins them.

    The bleed ranks at a quarter of that half, so that among equals it would be left out.
    """
    hu = torch.full((3, 120, 120), 30.0)
    hu[1, 5:10, 5:10] += 30.0
    hu[1, 20:100, 10:55] += 30.0
    hu[1, 59:61, 55:65] += 30.0
    hu[1, 20:100, 65:110] += 30.0
    saliency = torch.full((3, 120, 120), 0.01)
    saliency[1, 5:10, 5:10] = 0.35
    saliency[1, 7, 7] = 1.0
    saliency[1, 20:100, 10:55] = 0.12
    ct, region = CTVolume(hu=hu, affine=AFFINE, source="a sheet"), torch.ones(3, 120, 120, dtype=torch.bool)
    options = WHOLE.model_copy(update={"min_mean": 0.1})
    alone = refine(saliency, ct, region, 30.0, 0.5, options).voxels[1]
    assert torch.equal(alone.nonzero().amax(dim=0), torch.tensor([9, 9]))
    with_parts = refine(saliency, ct, region, 30.0, 0.5, options.model_copy(update={"faint_split_mm": 2.0})).voxels[1]
    assert bool(with_parts[alone].all())
    assert bool(with_parts[20:100, 10:55].all())
    assert not bool(with_parts[20:100, 65:].any())


def test_a_neck_is_measured_in_mm() -> None:
    ct, region, saliency = two_clots_joined_by_a_bridge()
    wide = CTVolume(ct.hu, torch.diag(torch.tensor([5.0, 3.0, 3.0, 1.0], dtype=torch.float64)), "3 mm pixels")
    mask = refine(saliency, wide, region, 30.0, 0.5, Components(smoothing_mm=0, rim_mm=0, split_mm=2.0)).voxels[1]
    assert bool(mask[20:32, 34:46].all())  # the bridge is 6 mm wide: no neck of 4


@pytest.mark.parametrize("contrast_hu", [20.0, 60.0])
def test_the_edge_of_a_blurred_clot_is_found_where_it_is_whatever_its_contrast(contrast_hu: float) -> None:
    away_mm = torch.arange(80.0) - 40.0
    profile = torch.special.ndtr((15.2 - away_mm.abs()) / 2.0)  # a slab of 30.4 mm behind a blur of 2 mm
    hu = (30.0 + contrast_hu * profile).expand(3, 80, 80).clone()
    region = torch.ones(3, 80, 80, dtype=torch.bool)
    saliency = torch.where(region, 0.5, 0.0)
    ct = CTVolume(hu=hu, affine=AFFINE, source="a blurred slab")
    options = WHOLE.model_copy(update={"edge_mm": 3.0, "edge_share": 0.5})
    mask = refine(saliency, ct, region, 30.0, 0.5, options).voxels
    assert torch.equal(mask, (away_mm.abs() < 15.2).expand(3, 80, 80))
    plain = refine(saliency, ct, region, 30.0, 0.5, WHOLE).voxels
    assert not torch.equal(mask, plain)


def test_an_edge_that_moves_does_not_enter_a_component_that_was_left_out() -> None:
    ct, region, saliency = two_clots_joined_by_a_bridge()
    options = Components(smoothing_mm=0, rim_mm=0, split_mm=2.0, edge_mm=50.0)
    mask = refine(saliency, ct, region, 30.0, 0.5, options).voxels[1]
    assert not bool(mask[20:32, 36:46].any())
