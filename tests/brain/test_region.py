"""The intracranial region against heads whose inside is known, against damage, and on real scans."""

import csv
import math
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from analytic_head import SCALP, draw_head, house_affine
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from hgisam.brain import BrainOptions, brain_median_hu, intracranial_region
from hgisam.io.nifti import read_ct
from hgisam.volume import CTVolume

POSITIVE_SCANS = [*range(49, 54), *range(66, 77), *range(83, 95), 97]
"""The scans of ct_ich/ with at least one slice labelled positive."""


def in_plane_depth_mm(mask: torch.Tensor, spacing_mm: tuple[float, float, float]) -> torch.Tensor:
    """How deep in mm each voxel lies in the mask, within its slice."""
    return torch.from_numpy(
        np.stack([ndimage.distance_transform_edt(plane, sampling=spacing_mm[1:]) for plane in mask.numpy()])
    )


@pytest.mark.parametrize("spacing_mm", [(5.0, 0.45, 0.45), (10.0, 1.2, 1.2), (1.25, 1.0, 1.0), (5.0, 0.6, 1.0)])
def test_the_region_is_the_inside_of_the_skull_to_the_inner_table(spacing_mm: tuple[float, float, float]) -> None:
    head = draw_head(spacing_mm, bottom_mm=-40.0, top_mm=30.0)
    region = intracranial_region(head.ct)
    overlap = 2 * (region & head.inside).sum() / (region.sum() + head.inside.sum())
    assert float(overlap) > 0.98
    missed = in_plane_depth_mm(head.inside, head.ct.spacing_mm)[head.inside & ~region]
    assert missed.numel() == 0 or float(missed.max()) <= 2.0
    assert float((region & ~head.inside).sum() / region.sum()) < 0.005  # the skull itself stays out


def test_the_region_does_not_depend_on_the_voxel_size() -> None:
    fine, coarse = (draw_head((5.0, s, s), bottom_mm=-20.0, top_mm=20.0) for s in (0.5, 1.0))
    fine_ml, coarse_ml = (
        float(intracranial_region(head.ct).sum()) * np.prod(head.ct.spacing_mm) / 1000 for head in (fine, coarse)
    )
    assert fine_ml == pytest.approx(coarse_ml, rel=0.01)


@pytest.mark.parametrize("hu", [65.0, 95.0])
def test_a_thin_subdural_under_the_bone_lies_in_the_region(hu: float) -> None:
    head = draw_head((5.0, 0.5, 0.5), bottom_mm=-20.0, top_mm=30.0)
    film = head.inside & (in_plane_depth_mm(head.inside, head.ct.spacing_mm) <= 3.0) & (head.across_mm > 20)
    region = intracranial_region(head.with_hu(film, hu))
    assert float(region[film].float().mean()) > 0.98


@pytest.mark.parametrize("hu", [90.0, 12.0])
def test_a_very_large_lesion_lies_in_the_region(hu: float) -> None:
    head = draw_head(bottom_mm=-20.0, top_mm=30.0)
    half = head.inside & (head.across_mm > 5)
    region = intracranial_region(head.with_hu(half, hu))
    assert float(region[half].float().mean()) > 0.99


def test_brain_under_a_craniectomy_lies_in_the_region() -> None:
    head = draw_head(bottom_mm=-40.0, top_mm=60.0)
    flap = (head.ct.hu > 300) & (head.across_mm > 30) & (head.up_mm > -10) & (head.up_mm < 40)
    region = intracranial_region(head.with_hu(flap, SCALP))
    assert float(region[head.inside].float().mean()) > 0.98


def test_calcifications_and_air_bubbles_inside_the_brain_are_filled() -> None:
    head = draw_head(bottom_mm=-20.0, top_mm=30.0)
    calcified = ((head.across_mm.abs() - 15) ** 2 + (head.along_mm - 20) ** 2) < 16
    bubble = ((head.across_mm - 30) ** 2 + head.along_mm**2) < 16
    for where, hu in ((calcified, 300.0), (bubble, -900.0)):
        region = intracranial_region(head.with_hu(where & head.inside, hu))
        assert bool(region[where & head.inside].all())


def test_neck_muscle_is_out_and_the_posterior_fossa_is_in() -> None:
    head = draw_head(bottom_mm=-100.0)
    region = intracranial_region(head.ct)
    muscle = (head.up_mm < -60) & ((head.along_mm - 30) ** 2 + head.across_mm**2 > 24**2)
    assert float(region[muscle].float().mean()) < 0.001
    assert float(region[head.inside & (head.up_mm > -45)].float().mean()) > 0.98


@pytest.mark.parametrize("up_mm", [-30.0, 0.0, 35.0])
def test_a_single_slice_is_enough(up_mm: float) -> None:
    head = draw_head(bottom_mm=up_mm, top_mm=up_mm + 5.0)
    region = intracranial_region(head.ct)
    assert head.ct.hu.shape[0] == 1
    assert float((region & head.inside).sum() / (region | head.inside).sum()) > 0.96


def test_a_head_cut_by_the_field_of_view_keeps_its_inside() -> None:
    head = draw_head(fov_mm=170.0, bottom_mm=-20.0, top_mm=30.0)  # the skull's front and back are missing
    assert float(intracranial_region(head.ct)[head.inside].float().mean()) > 0.95


@pytest.mark.parametrize("hu", [-1000.0, 0.0, 40.0, 1000.0, float("nan")])
def test_no_head_no_region(hu: float) -> None:
    volume = CTVolume(torch.full((6, 64, 64), hu), house_affine((5.0, 3.0, 3.0)), "flat")
    assert not bool(intracranial_region(volume).any())


def test_a_head_without_bone_has_no_region() -> None:
    head = draw_head(bottom_mm=-20.0, top_mm=20.0)
    volume = CTVolume(head.ct.hu.clamp(max=100.0), head.ct.affine, "no bone")
    assert not bool(intracranial_region(volume).any())


@settings(max_examples=30, deadline=None)
@given(
    st.tuples(st.integers(1, 4), st.integers(1, 40), st.integers(1, 40)),
    st.tuples(st.floats(0.5, 10), st.floats(0.3, 3), st.floats(0.3, 3)),
    st.integers(0, 1000),
)
def test_any_volume_gives_a_region_of_its_shape(
    shape: tuple[int, int, int], spacing_mm: tuple[float, float, float], seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    blocks = 400.0 * torch.randn(shape, generator=generator)
    region = intracranial_region(CTVolume(blocks, house_affine(spacing_mm), "noise"))
    assert region.shape == blocks.shape
    assert region.dtype == torch.bool


def test_the_scan_is_left_as_it_was() -> None:
    head = draw_head(bottom_mm=0.0, top_mm=20.0)
    before = head.ct.hu.clone()
    intracranial_region(head.ct)
    assert torch.equal(before, head.ct.hu)


def test_settings_change_the_outcome() -> None:
    head = draw_head(bottom_mm=0.0, top_mm=10.0)
    assert not bool(intracranial_region(head.ct, BrainOptions(bone_hu=2000.0)).any())


def test_the_median_is_that_of_brain_not_of_blood_fluid_or_bone() -> None:
    head = draw_head(bottom_mm=-20.0, top_mm=40.0)
    bleed = head.inside & (head.across_mm > 35)
    volume = head.with_hu(bleed, 75.0)
    region = intracranial_region(volume)
    assert brain_median_hu(volume, region) == pytest.approx(35.0, abs=1.5)
    shifted = CTVolume(volume.hu + 4.0, volume.affine, "another scanner")
    assert brain_median_hu(shifted, region) - brain_median_hu(volume, region) == pytest.approx(4.0, abs=0.3)


@given(st.integers(0, 2**31), st.floats(10, 60), st.floats(0.5, 10))
@settings(max_examples=20, deadline=None)
def test_the_median_is_numpys_over_the_soft_tissue(seed: int, middle: float, spread: float) -> None:
    hu = np.random.default_rng(seed).normal(middle, spread, (2, 60, 60)).astype(np.float32)
    volume = CTVolume(torch.from_numpy(hu), house_affine((5.0, 1.0, 1.0)), "noise")
    region = torch.ones(hu.shape, dtype=torch.bool)
    inner = hu[:, 3:-3, 3:-3]  # 3 mm from the region's rim
    expected = np.median(inner[(inner >= 0) & (inner <= 80)])
    assert brain_median_hu(volume, region) == pytest.approx(expected, abs=0.5)


def test_no_region_no_median() -> None:
    head = draw_head(bottom_mm=0.0, top_mm=10.0)
    with pytest.raises(ValueError, match="analytic head: expected soft tissue"):
        brain_median_hu(head.ct, torch.zeros(head.ct.hu.shape, dtype=torch.bool))


@pytest.mark.parametrize("number", POSITIVE_SCANS)
def test_no_positive_slice_is_without_a_region(realdata: Path, number: int) -> None:
    name = f"{number:03d}"
    with (realdata / "ct_ich" / "slice_labels.csv").open(newline="") as file:
        labels = [row for row in csv.DictReader(file) if row["file"] == f"{name}.nii.gz"]
    positive = [int(row["slice_index"]) for row in labels if row["any"] == "1"]
    volume, _ = read_ct(realdata / "ct_ich" / f"{name}.nii.gz")
    region = intracranial_region(volume)
    area_cm2 = region.sum((1, 2)) * math.prod(volume.spacing_mm[1:]) / 100
    assert positive
    assert float(area_cm2[positive].min()) >= 5.0
    assert 600 < float(area_cm2.sum()) * volume.spacing_mm[0] / 10 < 2000  # mL
    assert brain_median_hu(volume, region) == pytest.approx(35.0, abs=13.0)


@pytest.mark.parametrize("name", ["120018", "121025", "136009", "142015", "164019"])
def test_blood_outlined_by_readers_lies_in_the_region(realdata: Path, name: str) -> None:
    image = plt.imread(realdata / "bhsd" / "images" / f"{name}.png")
    grey = torch.from_numpy(image if image.ndim == 2 else image[..., 0]) * 255.0
    outlined = torch.from_numpy(plt.imread(realdata / "bhsd" / "masks" / f"{name}.png")[..., :3].max(axis=-1) > 0.5)
    air, _ = ndimage.label(grey.numpy() <= 2)
    hu = torch.where(torch.from_numpy(air == np.bincount(air[air > 0]).argmax()), -1000.0, grey)
    region = intracranial_region(CTVolume(hu[None], house_affine((5.0, 0.45, 0.45)), name))
    assert bool(outlined.any())
    assert float(region[0][outlined].float().mean()) > 0.99
