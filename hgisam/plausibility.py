"""Whether numbers can be Hounsfield units of a head: the gate that every scan passes before anything is made of it.

A scan's histogram tells: air near -1000, one narrow peak of brain between 0 and 80, some bone, nothing else in bulk.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hgisam.volume import HIGHEST_HU, LOWEST_HU, CTVolume, voxel_volume_ml

AIR_BELOW_HU = -700
TISSUE_ABOVE_HU = -300
SOLID_ABOVE_HU = -20
SOFT_TISSUE_HU = (0, 80)
BONE_ABOVE_HU = 300

BRAIN_PEAK_HU = (10, 65)
"""Where the peak of a head without an offset lies, with room for edema, old and noisy scans. Brain is 20 to 45 HU."""

KEPT_OFFSETS_HU = (1024, 1000)
"""What scanners add so that air is stored as no negative number; a converter that forgets it leaves it in."""

MAX_PEAK_WIDTH_HU = 100
"""Brain's peak is 15 to 30 HU wide at half its height, 90 in a noisy thin slice."""

SOFT_SHARE_REFUSED, SOFT_SHARE_DOUBTED = 0.20, 0.30
"""Share of SOFT_TISSUE_HU in all tissue. Measured: whole heads 0.57 to 0.77, a plastic phantom 0.07 to 0.09."""

BONE_SHARE_REFUSED = (0.005, 0.70)
BONE_SHARE_DOUBTED = (0.03, 0.50)
"""Share of bone in all tissue. Measured: whole heads 0.08 to 0.28."""

AIR_NEAR_HU, CLIPPED_FROM_HU = -850, -300
"""Air is darker than the first. Where what is dark has its peak between the two, every number is too near to 0: a slope
of 0.5 makes air of -500. From the second on, the picture may have been cut off at a window's lower end."""

DARK_SHARE = 0.05
"""So much of a picture must lie about that peak for it to be the air around the head."""

NEGATIVE_SHARE_REFUSED = 1e-4
"""Fewer voxels below -50 HU than this: no air in the sinuses, no fat. Magnitude MR and pictures have none at all."""

HEAD_MM_REFUSED = (20.0, 350.0)
HEAD_MM_DOUBTED = (90.0, 280.0)
"""The head's longer side in the slice plane: a newborn's is about 110 mm, a large adult's 230, the vertex less."""

STACK_MM_DOUBTED, STACK_MM_REFUSED = 350.0, 600.0
"""Height of what the scan shows: a head with neck and shoulders is up to 400 mm."""

TISSUE_ML_DOUBTED, TISSUE_ML_REFUSED = 8_000.0, 25_000.0
"""All that is no air: a head is 3 to 6 litres, with neck and shoulders some more."""

NOISE_DOUBTED_HU = 12.0
"""Blood that is faint or blurred is 10 to 15 HU denser than brain: in as much noise no voxel of it stands out. Real
heads in slices of 5 mm have 3.6 to 6.7, single slices 3.0 to 9.1. Of 43 slices with blood in six of these heads, 34 are
found as they are, 27 with 10 HU of noise added, 21 with 15, and 12 with 25."""

SMALLEST_JUDGED_ML = 100.0
"""With less tissue than this (one slice, the vertex) odd shares say little: they are a warning, not a refusal."""

_HU = np.arange(int(LOWEST_HU), int(HIGHEST_HU) + 1)
_MAX_SAMPLES = 2**20
_SMOOTHING_HU = 3.0
_AIR_WIDTH_HU = 25


@dataclass(frozen=True)
class Plausibility:
    """The verdict on a scan's numbers.

    Attributes:
        verdict: ok; warning: usable, with the reasons to be shown; refused: not the HU of a head.
        reasons: what was expected and what was found, a sentence each; empty where all is well.
        figures: what was measured, in HU, mm and shares; NaN where there was nothing to measure.
    """

    verdict: Literal["ok", "warning", "refused"]
    reasons: tuple[str, ...]
    figures: dict[str, float]


def check_hu(volume: CTVolume) -> Plausibility:
    """Judge a scan by its histogram and the size of what it shows, from about a million of its voxels.

    Args:
        volume: any scan, its HU already within LOWEST_HU..HIGHEST_HU.

    Returns:
        The verdict. A volume of one value throughout is refused.
    """
    depth, height, width = volume.hu.shape
    step_d = max(1, depth // 96)
    step = max(1, round((depth / step_d * height * width / _MAX_SAMPLES) ** 0.5))
    sample = volume.hu[::step_d, ::step, ::step].numpy()
    counts = _histogram(sample)
    profile = _profile(counts, offset_hu=0)
    size_mm = _solid_extent_mm(sample, volume.spacing_mm, (step_d, step, step))
    tissue_ml = float(counts[_HU > TISSUE_ABOVE_HU].sum()) * voxel_volume_ml(volume.affine) * step_d * step * step
    figures = {
        "air_peak_hu": profile.air_peak_hu,
        "air_share": profile.air_share,
        "soft_tissue_peak_hu": profile.peak_hu,
        "soft_tissue_peak_width_hu": profile.peak_width_hu,
        "soft_tissue_share": profile.soft_share,
        "bone_share": profile.bone_share,
        "head_length_mm": size_mm[1],
        "head_width_mm": size_mm[2],
        "stack_height_mm": size_mm[0],
        "tissue_ml": tissue_ml,
    }
    refusals = _offset_kept(counts) or _no_ct(sample) or _scaled(counts)
    if not refusals:
        enough = tissue_ml >= SMALLEST_JUDGED_ML
        judged = [*_size(size_mm, tissue_ml), *((grave and enough, text) for grave, text in _shares(profile))]
        refusals = [text for grave, text in judged if grave]
        warnings = [text for grave, text in judged if not grave]
        if not refusals:
            return Plausibility("warning" if warnings else "ok", tuple(warnings), figures)
    return Plausibility("refused", tuple(refusals), figures)


def with_noise(found: Plausibility, noise_hu: float) -> Plausibility:
    """A verdict with the noise inside the skull among its figures, and a warning where that hides blood.

    Args:
        found: `check_hu` of the scan, not refused.
        noise_hu: `hgisam.brain.noise_hu` of it; NaN where that is not known.
    """
    figures = found.figures | {"noise_hu": noise_hu}
    if not noise_hu > NOISE_DOUBTED_HU:
        return replace(found, figures=figures)
    reason = (
        f"expected noise of at most {NOISE_DOUBTED_HU:.0f} HU inside the skull; got a standard deviation of"
        f" {noise_hu:.0f} HU: small or faint blood may be missed; thicker slices or a softer kernel show more"
    )
    return Plausibility("warning", (*found.reasons, reason), figures)


@dataclass(frozen=True)
class _Profile:
    """A histogram in a few numbers."""

    air_peak_hu: float
    air_share: float
    peak_hu: float
    peak_width_hu: float
    soft_share: float
    bone_share: float

    @property
    def like_a_head(self) -> bool:
        """Whether nothing but a CT of a head looks so, whatever the offset."""
        return (
            BRAIN_PEAK_HU[0] <= self.peak_hu <= BRAIN_PEAK_HU[1]
            and self.peak_width_hu <= MAX_PEAK_WIDTH_HU
            and self.soft_share >= SOFT_SHARE_DOUBTED
            and BONE_SHARE_REFUSED[0] <= self.bone_share <= BONE_SHARE_DOUBTED[1]
        )


def _histogram(sample: NDArray[np.float32]) -> NDArray[np.float64]:
    """Voxels at each whole HU from LOWEST_HU to HIGHEST_HU."""
    index = np.rint(np.clip(sample, LOWEST_HU, HIGHEST_HU)).astype(np.int64).ravel() - _HU[0]
    return np.bincount(index, minlength=len(_HU)).astype(np.float64)


def _profile(counts: NDArray[np.float64], offset_hu: int) -> _Profile:
    """The numbers that a histogram gives if `offset_hu` is taken off every voxel."""
    hu = _HU - offset_hu
    air, tissue = counts[hu < AIR_BELOW_HU], float(counts[hu > TISSUE_ABOVE_HU].sum())
    soft = (hu >= SOFT_TISSUE_HU[0]) & (hu <= SOFT_TISSUE_HU[1])
    peak_hu, peak_width_hu = _peak(counts, hu)
    return _Profile(
        air_peak_hu=float(hu[hu < AIR_BELOW_HU][air.argmax()]) if air.sum() else float("nan"),
        air_share=float(air.sum() / counts.sum()),
        peak_hu=peak_hu,
        peak_width_hu=peak_width_hu,
        soft_share=float(counts[soft].sum()) / max(tissue, 1.0),
        bone_share=float(counts[hu > BONE_ABOVE_HU].sum()) / max(tissue, 1.0),
    )


def _peak(counts: NDArray[np.float64], hu: NDArray[np.int64]) -> tuple[float, float]:
    """Place and full width at half height of the highest peak between fat and bone; NaN where there is nothing."""
    offsets = np.arange(-9, 10)
    kernel = np.exp(-0.5 * (offsets / _SMOOTHING_HU) ** 2)
    smooth = np.convolve(counts, kernel / kernel.sum(), mode="same")
    between = np.flatnonzero((hu > -200) & (hu < BONE_ABOVE_HU))
    top = int(between[smooth[between].argmax()])
    if smooth[top] == 0:
        return float("nan"), float("nan")
    below_half = np.flatnonzero(smooth < smooth[top] / 2)
    left, right = below_half[below_half < top], below_half[below_half > top]
    width = (right[0] if right.size else len(hu)) - (left[-1] if left.size else -1) - 1
    return float(hu[top]), float(width)


def _offset_kept(counts: NDArray[np.float64]) -> list[str]:
    """The refusal of numbers that are a head's once an offset is taken off them."""
    heads = {offset: _profile(counts, offset) for offset in KEPT_OFFSETS_HU}
    likely = {offset: abs(head.peak_hu - 35.0) for offset, head in heads.items() if head.like_a_head}
    if not likely:
        return []
    offset = min(likely, key=lambda candidate: likely[candidate])
    peak_hu = heads[offset].peak_hu + offset
    return [
        f"expected a soft-tissue peak within 0..80 HU; got {peak_hu:.0f}: an offset of {offset} seems to be kept; take"
        f" {offset} off every voxel (--hu-offset -{offset})"
    ]


def _no_ct(sample: NDArray[np.float32]) -> list[str]:
    """The refusal of numbers that no CT gives."""
    lowest, highest = float(sample.min()), float(sample.max())
    if float((sample < -50).mean()) >= NEGATIVE_SHARE_REFUSED:
        return []
    likely = "an 8-bit or windowed picture" if highest <= 255 else "an MR, or a picture scaled to other numbers"
    return [f"expected air or fat below -50 HU; got values from {lowest:.0f} to {highest:.0f}, likely {likely}"]


def _scaled(counts: NDArray[np.float64]) -> list[str]:
    """The refusal of numbers whose air is no air."""
    dark = np.flatnonzero((_HU > LOWEST_HU) & (_HU < CLIPPED_FROM_HU))  # what is outside of the field is the lowest HU
    peak = int(dark[counts[dark].argmax()])
    about = counts[max(0, peak - _AIR_WIDTH_HU) : peak + _AIR_WIDTH_HU + 1].sum() / counts.sum()
    if _HU[peak] <= AIR_NEAR_HU or about < DARK_SHARE:
        return []
    return [
        f"expected air near -1000 HU; got the peak of what is dark at {_HU[peak]} HU: a wrong rescale slope, or numbers"
        " that were scaled"
    ]


def _shares(profile: _Profile) -> list[tuple[bool, str]]:
    """What is odd about the histogram: (grave enough to refuse, why)."""
    found = []
    peak_is_brain = BRAIN_PEAK_HU[0] <= profile.peak_hu <= BRAIN_PEAK_HU[1]
    if profile.soft_share < SOFT_SHARE_DOUBTED:
        found.append(
            (
                profile.soft_share < SOFT_SHARE_REFUSED,
                f"expected most tissue within 0..80 HU; got {profile.soft_share:.0%} of it there, and the peak at"
                f" {profile.peak_hu:.0f} HU: a plastic phantom, another body part, or no HU",
            )
        )
    elif not peak_is_brain or profile.peak_width_hu > MAX_PEAK_WIDTH_HU:
        outside = not SOFT_TISSUE_HU[0] <= profile.peak_hu <= SOFT_TISSUE_HU[1]
        found.append(
            (
                outside,
                f"expected a narrow soft-tissue peak near 35 HU; got one at {profile.peak_hu:.0f} HU,"
                f" {profile.peak_width_hu:.0f} HU wide: noise, contrast medium or a wrong calibration",
            )
        )
    low, high = BONE_SHARE_DOUBTED
    if not low <= profile.bone_share <= high:
        refused = not BONE_SHARE_REFUSED[0] <= profile.bone_share <= BONE_SHARE_REFUSED[1]
        found.append(
            (
                refused,
                f"expected {low:.0%} to {high:.0%} of tissue above {BONE_ABOVE_HU} HU, the bone; got"
                f" {profile.bone_share:.1%}: windowed, without its skull, or no head",
            )
        )
    return found


def _size(size_mm: tuple[float, float, float], tissue_ml: float) -> list[tuple[bool, str]]:
    """What is odd about the head's size: (grave enough to refuse, why)."""
    found = []
    longest = max(size_mm[1:])
    low, high = HEAD_MM_DOUBTED
    if not low <= longest <= high:
        refused = not HEAD_MM_REFUSED[0] <= longest <= HEAD_MM_REFUSED[1]
        instead = "is only a part of a head shown" if longest < low else "is it another part of the body"
        why = f"expected a head of {low:.0f} to {high:.0f} mm; got {longest:.0f} mm: is the pixel spacing right, or"
        found.append((refused, f"{why} {instead}?"))
    for measured, doubted, refused_from, what, ask in (
        (
            size_mm[0],
            STACK_MM_DOUBTED,
            STACK_MM_REFUSED,
            "mm from the lowest to the highest slice",
            "is the slice spacing right, or does the scan go on below the neck?",
        ),
        (
            tissue_ml,
            TISSUE_ML_DOUBTED,
            TISSUE_ML_REFUSED,
            "mL of tissue",
            "are pixel and slice spacing right, or is more than head and neck in the picture?",
        ),
    ):
        if measured > doubted:
            why = f"expected at most {doubted:.0f} {what}; got {measured:.0f}: {ask}"
            found.append((measured > refused_from, why))
    return found


def _solid_extent_mm(
    sample: NDArray[np.float32], spacing_mm: tuple[float, float, float], steps: tuple[int, int, int]
) -> tuple[float, float, float]:
    """Size of what is denser than fat along each axis, between the 0.5th and the 99.5th percentile: no head rest."""
    solid = sample > SOLID_ABOVE_HU
    extents = []
    for axis, (spacing, step) in enumerate(zip(spacing_mm, steps, strict=True)):
        along = np.cumsum(solid.sum(axis=tuple(other for other in range(3) if other != axis), dtype=np.int64))
        first, last = np.searchsorted(along, [0.005 * along[-1], 0.995 * along[-1]])
        extents.append(float(last - first + 1) * step * spacing if along[-1] else 0.0)
    return extents[0], extents[1], extents[2]
