"""Heads with exact truth that the ablations measure on, with no mask of a patient among them.

Phantoms that bled, and others that did not. And real scans whose slices are labelled to hold no blood: one bleed is
painted into each, as for training, and grown into the slices beside it; and the same scans as they are. What is for
choosing are phantoms of seeds from 410 and every other patient; for judging, seeds from 2,000,000 and the patients
between.
"""

import argparse
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

from hgisam.brain import brain_median_hu, intracranial_region
from hgisam.evaluate.statistics import MeanInterval
from hgisam.io.nifti import read_ct
from hgisam.phantom import PhantomOptions, generate_phantoms
from hgisam.train.layouts import read_cohort
from hgisam.train.painting import COVERED, SKULL_HU, PaintingOptions, paint_slice
from hgisam.volume import CTVolume

FIRST_SEED = {"choosing": 410, "judging": 2_000_000}
FIRST_NORMAL_SEED = {"choosing": 420, "judging": 2_000_100}
PAINTING = PaintingOptions(radius_mm=(12.0, 24.0), contrast_hu=(15.0, 45.0))
"""Large enough that the gate opens for most of them: what it misses says nothing about an outline."""
EDGE_MM = 0.8
"""Blur of a painted bleed in the slices beside its own."""
BLED = {"phantom": "normal", "painted": "unpainted"}
"""The kinds that bled, each with the kind beside it that did not."""


@dataclass(frozen=True)
class Head:
    """A head, made when it is asked for: the scan, and where it bled.

    Attributes:
        patient: the real scan's name; None for a phantom.
    """

    kind: str
    name: str
    patient: str | None
    make: Callable[[], tuple[CTVolume, torch.Tensor]]


@dataclass(frozen=True)
class Compared:
    """A row of an ablation, held against another one; the first against none."""

    against: str | None


def with_compared(names: Sequence[str], rows: Mapping[str, Compared]) -> list[str]:
    """Rows in the order of all, with those that they are compared with; for no names, all."""
    wanted = {*(names or rows)}
    for name in reversed(list(rows)):
        against = rows[name].against
        if name in wanted and against is not None:
            wanted.add(against)
    return [name for name in rows if name in wanted]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which heads, and where what was seen of them is kept."""
    parser.add_argument("--for", dest="purpose", choices=tuple(FIRST_SEED), default="judging")
    parser.add_argument("--phantoms", type=int, default=20, help="how many that bled")
    parser.add_argument("--normal", type=int, default=4, help="how many that did not")
    parser.add_argument("--patients", type=int, default=20, help="at most so many real scans")
    parser.add_argument("--data", type=Path, help="real scans (NIfTI) and their slice labels, as training reads them")
    parser.add_argument("--cache", type=Path, required=True)


def heads(purpose: str, n_phantoms: int, n_normal: int, n_patients: int, data: Path | None) -> Iterator[Head]:
    """All heads of a purpose."""
    for kind, n, first in (
        ("phantom", n_phantoms, FIRST_SEED[purpose]),
        ("normal", n_normal, FIRST_NORMAL_SEED[purpose]),
    ):
        for seed in range(first, first + n):
            yield Head(kind, str(seed), None, partial(phantom, kind, seed))
    if data is None:
        return
    quiet = [scan for scan in read_cohort(data).scans if scan.negative.all()]
    for scan in quiet[purpose == "judging" :: 2][:n_patients]:
        (path,) = scan.voxels.files
        for kind in ("painted", "unpainted"):
            yield Head(kind, scan.name, scan.name, partial(real, kind, path))


def phantom(kind: str, seed: int) -> tuple[CTVolume, torch.Tensor]:
    """A phantom that bled, or one that did not."""
    options = PhantomOptions(bleed_probability=1.0 if kind == "phantom" else 0.0)
    (made,) = generate_phantoms(1, seed, options, workers=1)
    return made.ct, made.labels > 0


def real(kind: str, path: Path) -> tuple[CTVolume, torch.Tensor]:
    """A real scan without blood, or with one painted bleed."""
    ct, _ = read_ct(path)
    if kind == "painted":
        return painted(ct, int(path.name.split(".")[0]))
    return ct, torch.zeros(ct.hu.shape, dtype=torch.bool)


def painted(ct: CTVolume, seed: int) -> tuple[CTVolume, torch.Tensor]:
    """A scan with one bleed painted in, and where it is.

    In the slices beside its own, the bleed is drawn in towards them as an ellipsoid is.

    Raises:
        SystemExit: where no slice has room.
    """
    region = intracranial_region(ct)
    median_hu = brain_median_hu(ct, region)
    chance = np.random.default_rng(seed)
    step_mm, pixel_mm, _ = ct.spacing_mm
    for depth in chance.permutation(torch.nonzero(region.any(dim=2).any(dim=1)).flatten().tolist()).tolist():
        found = paint_slice(ct.hu[depth] - median_hu, region[depth], pixel_mm, 1.0, PAINTING, chance)
        if found is None:
            continue
        hu, blood = ct.hu.clone(), torch.zeros_like(region)
        hu[depth], blood[depth] = found.relative_hu + median_hu, found.blood
        inner_mm = ndimage.distance_transform_edt(found.blood.numpy(), sampling=pixel_mm)
        level_hu = float(found.relative_hu[found.blood].median())
        reach_mm = math.sqrt(float(found.blood.sum()) * pixel_mm**2 / math.pi)
        for index in range(len(hu)):
            away = abs(index - depth) * step_mm / reach_mm
            if index == depth or away >= 1.0:
                continue
            inside = region[index].numpy()
            shape = (inner_mm > inner_mm.max() * (1 - math.sqrt(1 - away**2))) & inside
            share = ndimage.gaussian_filter(shape.astype(np.float32), EDGE_MM / pixel_mm)
            relative = (ct.hu[index] - median_hu).numpy()
            tissue = inside & (relative < SKULL_HU)
            weight = ndimage.gaussian_filter(tissue.astype(np.float32), 2.5 / pixel_mm).clip(0.05)
            under = ndimage.gaussian_filter(relative * tissue, 2.5 / pixel_mm) / weight
            hu[index] += torch.from_numpy((share * tissue * (level_hu - under).clip(0)).astype(np.float32))
            blood[index] = torch.from_numpy((share >= COVERED) & inside)
        return CTVolume(hu, ct.affine, ct.source), blood
    raise SystemExit(f"{ct.source}: expected room for a bleed; got none; leave the scan out")


def shown(mean: MeanInterval, sign: str = "") -> str:
    """A mean with its interval."""
    if mean.mean is None or mean.low is None or mean.high is None:
        return "-" if mean.mean is None else f"{mean.mean:{sign}.3f}"
    return f"{mean.mean:{sign}.3f} [{mean.low:{sign}.3f}, {mean.high:{sign}.3f}]"
