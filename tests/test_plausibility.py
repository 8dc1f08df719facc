"""The gate on Hounsfield units: heads pass, whatever their padding; what is no HU of a head does not."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from hgisam.io.nifti import read_ct
from hgisam.plausibility import check_hu, with_noise
from hgisam.volume import CTVolume

SPACING_MM = (5.0, 1.6, 1.6)


@cache
def head_hu() -> torch.Tensor:
    """A made-up head: brain of 34 HU with ventricles, a skull, fat and skin, noise of 6 HU, and air around it."""
    d, h, w = torch.meshgrid(
        torch.linspace(-1.05, 1.05, 30), torch.linspace(-1.3, 1.3, 160), torch.linspace(-1.6, 1.6, 160), indexing="ij"
    )
    radius = (d**2 + h**2 + w**2).sqrt()
    hu = torch.full_like(radius, -1000.0)
    for outer, value in ((1.0, 40.0), (0.97, -80.0), (0.92, 1000.0), (0.84, 34.0), (0.2, 8.0)):
        hu[radius < outer] = value
    return hu + 6 * torch.randn(hu.shape, generator=torch.Generator().manual_seed(0))


def scan(hu: torch.Tensor, spacing_mm: tuple[float, float, float] = SPACING_MM) -> CTVolume:
    """A scan as the reader gives it: clipped to 12 bits, in house axes."""
    depth, height, width = spacing_mm
    affine = torch.tensor([[0, 0, -width, 0], [0, -height, 0, 0], [depth, 0, 0, 0], [0, 0, 0, 1]], dtype=torch.float64)
    return CTVolume(hu.clamp(-1024, 3071), affine, "made up")


def with_padding(hu: torch.Tensor, value: float) -> torch.Tensor:
    """What lies outside the round field of view, set to one value."""
    rows, columns = torch.meshgrid(torch.arange(160) - 79.5, torch.arange(160) - 79.5, indexing="ij")
    padded = hu.clone()
    padded[:, rows**2 + columns**2 > 80**2] = value
    return padded


def magnetic_resonance(hu: torch.Tensor) -> torch.Tensor:
    """Brain and fat bright, bone and air dark, magnitudes only."""
    signal = torch.zeros_like(hu)
    signal[(hu > -10) & (hu < 90)] = 420
    signal[(hu < -40) & (hu > -300)] = 900
    noise = torch.Generator().manual_seed(1)
    real, imaginary = (12 * torch.randn(hu.shape, generator=noise) for _ in range(2))
    return ((signal + real) ** 2 + imaginary**2).sqrt()


HEADS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "as scanned": lambda hu: hu,
    "padded with -1024": lambda hu: with_padding(hu, -1024),
    "padded with -2000": lambda hu: with_padding(hu, -2000),
    "padded with -3024": lambda hu: with_padding(hu, -3024),
    "cut at the skull by the field of view": lambda hu: hu[:, 45:115, 45:115],
    "three slices": lambda hu: hu[14:17],
    "15 HU too bright": lambda hu: hu + 15,
    "on a large cushion of foam": lambda hu: torch.where((hu < -950) & (torch.arange(160) < 60), hu + 60, hu),
    "a large bleed": lambda hu: torch.where((hu > 10) & (torch.arange(160) < 70), hu + 30, hu),
    "a flat skull": lambda hu: torch.where(hu > 300, torch.full_like(hu, 1000.0), hu),
}

NO_HEADS: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], str]] = {
    "offset 1024 kept": (lambda hu: hu + 1024, "an offset of 1024 seems to be kept"),
    "offset 1000 kept": (lambda hu: hu + 1000, "an offset of 1000 seems to be kept"),
    "offset kept beside padding": (lambda hu: with_padding(hu + 1024, -2000), "an offset of 1024 seems to be kept"),
    "magnetic resonance": (magnetic_resonance, "an MR"),
    "normalised magnetic resonance": (lambda hu: magnetic_resonance(hu) / 300 - 1, "expected air or fat"),
    "window 0..80": (lambda hu: hu.clamp(0, 80), "8-bit or windowed"),
    "window 0..255": (lambda hu: hu.clamp(0, 255), "8-bit or windowed"),
    "window -20..180": (lambda hu: hu.clamp(-20, 180), "8-bit or windowed"),
    "slope of a half": (lambda hu: hu * 0.5, "expected air near -1000 HU; got the peak of what is dark at -"),
    "slope of 0.8 beside padding": (lambda hu: with_padding(hu * 0.8, -2000), "a wrong rescale slope"),
    "window -60..140": (lambda hu: hu.clamp(-60, 140), "the bone"),
    "scaled to 8 bit": (lambda hu: (hu + 1000) / 3300 * 255, "8-bit or windowed"),
    "scaled to 0..1": (lambda hu: hu.clamp(0, 80) / 80, "8-bit or windowed"),
    "without its skull": (lambda hu: torch.where(hu > 90, torch.full_like(hu, -1000.0), hu), "the bone"),
    "plastic": (lambda hu: torch.where((hu > 0) & (hu < 90), hu + 100, hu), "a plastic phantom"),
    "one value": (torch.zeros_like, "values from 0 to 0"),
    "air only": (lambda hu: torch.full_like(hu, -1000.0), "got 0 mm"),
}


@pytest.mark.parametrize("change", HEADS.values(), ids=HEADS.keys())
def test_a_head_passes(change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    found = check_hu(scan(change(head_hu())))
    assert found.verdict == "ok", found
    assert found.reasons == ()
    assert 10 <= found.figures["soft_tissue_peak_hu"] <= 65


@pytest.mark.parametrize(("change", "reason"), NO_HEADS.values(), ids=NO_HEADS.keys())
def test_what_is_no_head_in_hu_is_refused_with_its_reason(
    change: Callable[[torch.Tensor], torch.Tensor], reason: str
) -> None:
    found = check_hu(scan(change(head_hu())))
    assert found.verdict == "refused", found
    assert any(reason in text for text in found.reasons), found.reasons
    assert not any("\n" in text for text in found.reasons)


def test_a_kept_offset_comes_with_the_way_to_mend_it() -> None:
    (reason,) = check_hu(scan(head_hu() + 1024)).reasons
    assert "got 1058" in reason or "got 1057" in reason or "got 1059" in reason
    assert "--hu-offset -1024" in reason


def test_the_figures_are_those_of_the_head() -> None:
    figures = check_hu(scan(head_hu())).figures
    assert figures["air_peak_hu"] == pytest.approx(-1000, abs=3)
    assert figures["soft_tissue_peak_hu"] == pytest.approx(34, abs=2)
    within_99_percent = 0.918  # of a ball's radius: x where (2 + 3x - x^3) / 4 = 0.995
    assert figures["head_length_mm"] == pytest.approx(within_99_percent * 160 * 1.6 / 1.3, rel=0.05)
    assert figures["head_width_mm"] == pytest.approx(within_99_percent * 160 * 1.6 / 1.6, rel=0.05)


@pytest.mark.parametrize(
    ("factor", "verdict"), [(0.05, "refused"), (0.4, "warning"), (1.0, "ok"), (1.7, "warning"), (3.0, "refused")]
)
def test_a_head_of_another_size_is_a_matter_of_its_spacing(factor: float, verdict: str) -> None:
    found = check_hu(scan(head_hu(), (5.0, 1.6 * factor, 1.6 * factor)))
    assert found.verdict == verdict
    assert all("pixel" in reason and "spacing right" in reason for reason in found.reasons)


def test_strong_noise_is_a_warning() -> None:
    noise = torch.randn(head_hu().shape, generator=torch.Generator().manual_seed(2))
    found = check_hu(scan(head_hu() + 45 * noise))
    assert found.verdict == "warning"
    assert "narrow soft-tissue peak" in found.reasons[0]


@pytest.mark.parametrize(("noise_hu", "verdict"), [(6.7, "ok"), (12.0, "ok"), (25.0, "warning"), (float("nan"), "ok")])
def test_noise_in_which_blood_hides_is_a_warning_with_its_figure(noise_hu: float, verdict: str) -> None:
    found = with_noise(check_hu(scan(head_hu())), noise_hu)
    assert found.verdict == verdict
    assert found.figures["noise_hu"] == pytest.approx(noise_hu, nan_ok=True)
    assert [("of 25 HU" in text, "blood may be missed" in text) for text in found.reasons] in ([], [(True, True)])
    assert bool(found.reasons) == (verdict == "warning")


def test_a_slice_of_the_vertex_alone_is_judged_mildly() -> None:
    bone = torch.full((2, 160, 160), -1000.0)
    bone[:, 60:90, 60:90] = 900.0
    found = check_hu(scan(bone))
    assert found.verdict == "warning"


def test_a_scan_of_any_size_is_judged_alike() -> None:
    small, large = scan(head_hu()), scan(head_hu().repeat_interleave(4, dim=0), (1.25, 1.6, 1.6))
    first, second = check_hu(small).figures, check_hu(large).figures
    for name in ("air_share", "soft_tissue_share", "bone_share"):
        assert first[name] == pytest.approx(second[name], abs=0.01)
    assert first["tissue_ml"] == pytest.approx(second["tissue_ml"], rel=0.02)


def test_real_heads_pass_and_spoilt_ones_do_not(realdata: Path) -> None:
    paths = sorted((realdata / "ct_ich").glob("*.nii.gz"))
    chosen = {*paths[::6], *(path for path in paths if path.name[:3] in {"050", "085"})}
    for path in sorted(chosen):
        ct, _ = read_ct(path)
        assert check_hu(ct).verdict == "ok", path.name
        assert check_hu(CTVolume(ct.hu[10:13].contiguous(), ct.affine, ct.source)).verdict != "refused", path.name
        for spoilt in (ct.hu + 1024, ct.hu + 1000, ct.hu.clamp(0, 80), (ct.hu + 1000) / 13):
            volume = CTVolume(spoilt.clamp(-1024, 3071), ct.affine, ct.source)
            assert check_hu(volume).verdict == "refused", path.name


def test_a_volume_smaller_than_the_sampling_is_no_obstacle() -> None:
    assert check_hu(scan(torch.full((1, 1, 1), 30.0))).verdict == "refused"
    assert np.isnan(check_hu(scan(torch.full((1, 1, 1), 30.0))).figures["air_peak_hu"])


@pytest.mark.parametrize(("slices_mm", "verdict"), [(5.0, "ok"), (14.0, "warning"), (40.0, "refused")])
def test_a_head_as_tall_as_no_head_is_doubted_then_refused(slices_mm: float, verdict: str) -> None:
    found = check_hu(scan(head_hu(), (slices_mm, 1.6, 1.6)))
    assert found.verdict == verdict
    assert [("slice spacing right" in reason, "pixel" in reason) for reason in found.reasons] in ([], [(True, False)])
