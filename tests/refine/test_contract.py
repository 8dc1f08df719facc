"""What every method of refinement keeps to, whatever it does."""

from typing import get_args

import pytest
import torch

from hgisam.cli import RefineName
from hgisam.pipeline import SegmentOptions
from hgisam.refine import Components, RefineMethod, Refiner, refine
from hgisam.volume import CTVolume, SlicePlanes

METHODS: list[type[Refiner]] = [get_args(member)[0] for member in get_args(get_args(RefineMethod)[0])]
NAMES = [method().model_dump()["method"] for method in METHODS]
CANDIDATES = [
    *(pytest.param(method(), id=name) for method, name in zip(METHODS, NAMES, strict=True)),
    pytest.param(Components(split_mm=0, edge_mm=0), id="whole components"),
]
EVEN = (5.0, 0.7, 1.1)


def head(spacing_mm: tuple[float, float, float] = EVEN) -> tuple[CTVolume, torch.Tensor, torch.Tensor]:
    """A ball of brain with noise, a bright rim, a clot that the map points at and one that it does not."""
    chance = torch.Generator().manual_seed(7)
    hu = 30.0 + 2.0 * torch.randn(9, 90, 70, generator=chance)
    z, y, x = (((torch.arange(n) - (n - 1) / 2) * mm) for n, mm in zip(hu.shape, spacing_mm, strict=True))
    z, y, x = z[:, None, None], y[None, :, None], x[None, None, :]
    from_middle = torch.sqrt(z**2 + y**2 + x**2)
    region = from_middle < 28.0
    hu = torch.where(region, hu, 900.0)
    hu[region & (from_middle > 26.5)] += 25.0
    hu[torch.sqrt(z**2 + (y - 6) ** 2 + (x - 9) ** 2) < 8.0] += 30.0
    hu[torch.sqrt(z**2 + (y + 9) ** 2 + (x + 11) ** 2) < 6.0] += 30.0
    saliency = 0.9 * torch.exp(-((z**2 + (y - 4) ** 2 + (x - 8) ** 2) / 90.0)) * region
    affine = torch.diag(torch.tensor([*spacing_mm, 1.0], dtype=torch.float64))
    return CTVolume(hu, affine, "a head"), region, saliency


def uneven(ct: CTVolume) -> CTVolume:
    """The same slices at uneven places, 2 and 7 mm apart in turn."""
    places = torch.cumsum(torch.tensor([0.0, *([2.0, 7.0] * 4)], dtype=torch.float64), dim=0)
    affines = torch.zeros(len(places), 3, 3, dtype=torch.float64)
    affines[:, 1, 0], affines[:, 0, 1], affines[:, 2, 2] = -EVEN[1], -EVEN[2], places
    stands_for = torch.full_like(places, 4.5)
    stands_for[0], stands_for[-1] = 2.0, 7.0
    n = len(places)
    planes = SlicePlanes(affines, stands_for, stands_for, ("",) * n, (1,) * n, regular=False, complete=True)
    return CTVolume(ct.hu, ct.affine, ct.source, planes)


def test_the_command_line_knows_every_method_and_the_default_is_one() -> None:
    assert sorted(RefineName) == sorted(NAMES)
    assert SegmentOptions().refine.method in NAMES


@pytest.mark.parametrize("method", CANDIDATES)
def test_a_mask_lies_under_the_map_inside_the_region_on_the_scans_own_grid(method: Refiner) -> None:
    ct, region, saliency = head()
    mask = refine(saliency, ct, region, 30.0, 0.2, method)
    assert mask.voxels.dtype == torch.bool
    assert mask.voxels.shape == ct.hu.shape
    assert torch.equal(mask.affine, ct.affine)
    assert 1.0 < mask.volume_ml < 8.0
    assert not bool((mask.voxels & ~region).any())
    clot_beside = mask.voxels[4, 30:35, 20:25]  # 11 mm to the right, 9 mm anterior
    assert not bool(clot_beside.any())


@pytest.mark.parametrize("method", CANDIDATES)
def test_nothing_is_marked_where_there_is_no_map_or_no_region(method: Refiner) -> None:
    ct, region, saliency = head()
    assert not refine(torch.zeros_like(saliency), ct, region, 30.0, 0.2, method).voxels.any()
    assert not refine(saliency, ct, torch.zeros_like(region), 30.0, 0.2, method).voxels.any()


@pytest.mark.parametrize("method", CANDIDATES)
def test_slices_that_the_gate_closed_hold_nothing(method: Refiner) -> None:
    ct, region, saliency = head()
    saliency[5] = 0.0
    mask = refine(saliency, ct, region, 30.0, 0.2, method).voxels
    assert mask[4].any()
    assert not mask[5].any()


@pytest.mark.parametrize("method", CANDIDATES)
def test_the_same_gives_the_same_and_arguments_stay_as_they_are(method: Refiner) -> None:
    ct, region, saliency = head()
    before = [tensor.clone() for tensor in (ct.hu, region, saliency)]
    masks = [refine(saliency, ct, region, 30.0, 0.2, method).voxels for _ in range(2)]
    assert torch.equal(masks[0], masks[1])
    assert all(torch.equal(a, b) for a, b in zip(before, (ct.hu, region, saliency), strict=True))


@pytest.mark.parametrize("method", CANDIDATES)
@pytest.mark.parametrize("axis", [1, 2])
def test_a_mirrored_scan_gives_the_mirrored_mask(method: Refiner, axis: int) -> None:
    ct, region, saliency = head()
    mask = refine(saliency, ct, region, 30.0, 0.2, method).voxels
    flipped = CTVolume(ct.hu.flip(axis), ct.affine, ct.source)
    mirrored = refine(saliency.flip(axis), flipped, region.flip(axis), 30.0, 0.2, method).voxels.flip(axis)
    assert float(2 * (mask & mirrored).sum() / (mask.sum() + mirrored.sum())) > 0.99


@pytest.mark.parametrize("method", CANDIDATES)
def test_uneven_slices_are_taken_where_they_are(method: Refiner) -> None:
    ct, region, saliency = head()
    even = refine(saliency, ct, region, 30.0, 0.2, method)
    mask = refine(saliency, uneven(ct), region, 30.0, 0.2, method)
    assert mask.slices is not None
    assert float(2 * (mask.voxels & even.voxels).sum() / (mask.voxels.sum() + even.voxels.sum())) > 0.9
    assert not bool((mask.voxels & ~region).any())


@pytest.mark.parametrize("method", CANDIDATES)
def test_no_voxel_of_an_even_head_is_marked_by_methods_that_look_at_hu(method: Refiner) -> None:
    ct, region, saliency = head()
    flat = CTVolume(torch.where(region, 30.0, 900.0), ct.affine, ct.source)
    marked = bool(refine(saliency, flat, region, 30.0, 0.2, method).voxels.any())
    assert marked == (method.model_dump()["method"] == "threshold")
