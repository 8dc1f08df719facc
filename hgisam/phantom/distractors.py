"""What is bright and no blood, and what is dark: calcifications, dense vessels, drains, old lesions, air."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hgisam.phantom.anatomy import Brain, Head, smooth_noise, soft_step
from hgisam.phantom.structures import Point, Structure

HU = Float[Tensor, "depth height width"]


def paint_calcifications(rng: np.random.Generator, head: Head, brain: Brain, hu: HU, *, certain: bool) -> None:
    """Pineal, choroid plexus, falx and basal ganglia, more often in the old; all of them where `certain`.

    Source: Daghighi et al. 2007, Folia Morphol 66:115-9 (pineal 71 %, choroid plexus 66 %, falx 7 % of adults; basal
    ganglia 1 %, made more frequent here, since they pass for blood).
    """
    age = head.habitus.age
    chance = 0.25 + 0.6 * age
    for side in (-1.0, 1.0):
        glomus = _near(rng, (23.0 * side, -42.0, 8.0), 2.0)
        _spot(head, brain, hu, glomus, (3.5, 7.0, 5.0), 38.0)  # the plexus itself, brighter than CSF
        if certain or rng.random() < 0.65 * chance:
            for _ in range(int(rng.integers(1, 4))):
                size = float(rng.uniform(0.9, 2.6))
                _spot(head, brain, hu, _near(rng, glomus, 2.2), (size, size, size), float(rng.uniform(70.0, 450.0)))
        if certain or rng.random() < 0.15 + 0.1 * age:
            pallidum = _near(rng, (18.0 * side, -2.0, 0.0), 1.5)
            _spot(head, brain, hu, pallidum, (3.0, 6.0, 3.5), float(rng.uniform(48.0, 130.0)))
    if certain or rng.random() < 0.9 * chance:
        size = float(rng.uniform(1.5, 4.0))
        pineal = _near(rng, (0.0, -30.0, 1.0), 0.7)
        _spot(head, brain, hu, pineal, (size, 1.3 * size, size), float(rng.uniform(90.0, 500.0)))
    if certain or rng.random() < 0.3 * age:
        for _ in range(int(rng.integers(1, 4))):
            x, y, z = rng.normal(0.0, 0.8), rng.uniform(-60.0, 55.0), rng.uniform(30.0, 60.0)
            radii = (1.8, float(rng.uniform(2.0, 8.0)), float(rng.uniform(2.0, 6.0)))
            _spot(head, brain, hu, (float(x), float(y), float(z)), radii, float(rng.uniform(90.0, 700.0)))


def paint_vessels(rng: np.random.Generator, head: Head, brain: Brain, hu: HU) -> None:
    """Arteries at the base; now and then one is dense (a clot) or its wall is calcified."""
    dense = float(rng.uniform(8.0, 25.0)) if rng.random() < 0.12 else 0.0
    weight = soft_step(head.structure(Structure.ARTERY), head.edge_mm) * brain.inside
    hu += (head.habitus.arterial_hu + dense - hu).clamp_min(0.0) * weight
    if rng.random() < 0.05 + 0.35 * head.habitus.age:
        side = _side(rng)
        for place in ((9.0 * side, 2.0, -25.0), (-9.0 * side, 2.0, -25.0), (6.0 * side, -24.0, -58.0)):
            size = float(rng.uniform(1.0, 2.2))
            _spot(head, brain, hu, place, (size, size, size), float(rng.uniform(150.0, 800.0)))


def paint_dark_lesions(rng: np.random.Generator, head: Head, brain: Brain, hu: HU) -> None:
    """White-matter disease, old and recent infarcts, lacunes, arachnoid cysts and hygromas."""
    age, csf = head.habitus.age, head.habitus.csf_hu
    if rng.random() < 0.15 + 0.6 * age:
        _paint_white_matter_disease(rng, head, brain, hu)
    if rng.random() < 0.08 + 0.2 * age:
        _paint_infarct(rng, head, brain, hu)
    for _ in range(int(rng.poisson(0.8 * age))):  # lacunes
        place = (
            _side(rng) * float(rng.uniform(8.0, 30.0)),
            float(rng.uniform(-30.0, 25.0)),
            float(rng.uniform(-5, 22)),
        )
        size = float(rng.uniform(1.5, 5.0))
        _spot(head, brain, hu, place, (size, size, size), csf + 8.0)
    if rng.random() < 0.04:  # an arachnoid cyst: temporal pole, or behind the cerebellum
        side = _side(rng)
        place = (50.0 * side, 18.0, -28.0) if rng.random() < 0.6 else (10.0 * side, -92.0, -40.0)
        size = float(rng.uniform(8.0, 20.0))
        _spot(head, brain, hu, place, (size, size, 1.2 * size), csf + 2.0)
    if rng.random() < 0.05 + 0.06 * age:
        _paint_hygroma(rng, head, brain, hu)


def paint_catheter(rng: np.random.Generator, head: Head, brain: Brain, hu: HU) -> None:
    """A ventricular drain: a thin bright line from the frontal skull to the front horn."""
    side = _side(rng)
    start = torch.tensor([float(rng.uniform(20.0, 32.0)) * side, float(rng.uniform(25.0, 45.0)), 66.0])
    end = torch.tensor([6.0 * side, float(rng.uniform(0.0, 20.0)), 10.0])
    box, _ = head.box(head.scanner_point((float(start[0]), float(start[1]), 40.0)), 55.0)
    points = brain.points[(slice(None), *box)] - start[:, None, None, None]
    line = end - start
    along = (torch.einsum("i,idhw->dhw", line, points) / (line @ line)).clamp(0.0, 1.0)
    distance = torch.linalg.vector_norm(points - along * line[:, None, None, None], dim=0)
    weight = soft_step(1.3 - distance, head.edge_mm) * brain.inside[box]
    hu[box] += (float(rng.uniform(120.0, 500.0)) - hu[box]) * weight


def paint_air(rng: np.random.Generator, head: Head, brain: Brain, hu: HU) -> None:
    """A few bubbles of air inside the skull, as after trauma or surgery."""
    for _ in range(int(rng.integers(2, 12))):
        x, y, z = rng.uniform([-55.0, -60.0, -20.0], [55.0, 70.0, 60.0])
        size = float(rng.uniform(0.8, 3.0))
        _spot(head, brain, hu, (float(x), float(y), float(z)), (size, size, size), -900.0)


def _paint_white_matter_disease(rng: np.random.Generator, head: Head, brain: Brain, hu: HU) -> None:
    """Leukoaraiosis: the deep white matter beside the ventricles is darker, in patches."""
    x, y, z = head.skull_lattice
    near = torch.exp(-(((x.abs() - 22.0) / 13.0) ** 2) - ((y + 15.0) / 55.0) ** 2 - ((z - 22.0) / 15.0) ** 2)
    near *= 0.8 + 0.5 * smooth_noise(rng, head.nodes, 2.0)[0]
    patches = head.grid.refine(near[None])[0].clamp_(0.0, 1.3)
    hu -= float(rng.uniform(2.0, 10.0)) * patches * brain.white * (1.0 - brain.csf) * brain.inside


def _paint_infarct(rng: np.random.Generator, head: Head, brain: Brain, hu: HU) -> None:
    """A ball of lost tissue in one hemisphere, anything from early edema to a cavity of fluid."""
    size = float(rng.uniform(8.0, 32.0))
    place = (
        _side(rng) * float(rng.uniform(30.0, 58.0)),
        float(rng.uniform(-80.0, 45.0)),
        float(rng.uniform(-20.0, 45.0)),
    )
    distance = torch.linalg.vector_norm(head.skull_lattice - torch.tensor(place)[:, None, None, None], dim=0)
    field = size * (1.0 + 0.25 * smooth_noise(rng, head.nodes, 2.5)[0]) - distance
    loss = float(rng.choice([rng.uniform(0.15, 0.4), rng.uniform(0.6, 0.95)]))
    weight = soft_step(head.grid.refine(field[None])[0], 4.0) * loss * brain.inside
    hu += (head.habitus.csf_hu + 2.0 - hu).clamp_max(0.0) * weight


def _paint_hygroma(rng: np.random.Generator, head: Head, brain: Brain, hu: HU) -> None:
    """CSF between skull and brain over the front of one hemisphere."""
    side, thickness = _side(rng), float(rng.uniform(2.0, 8.0))
    x, y, z = head.skull_lattice
    where = ((x * side - 6.0) / 12.0).clamp(0.0, 1.0) * ((z + 5.0) / 15.0).clamp(0.0, 1.0)
    where = where * torch.exp(-(((y - 25.0) / 45.0) ** 2))
    limit = head.grid.refine((where * thickness)[None])[0]
    hu += (head.habitus.csf_hu + 3.0 - hu) * (soft_step(limit - head.depth_mm, head.edge_mm) * brain.inside)


def _side(rng: np.random.Generator) -> float:
    return 1.0 if rng.random() < 0.5 else -1.0


def _near(rng: np.random.Generator, place: Point, sigma_mm: float) -> Point:
    x, y, z = np.asarray(place) + rng.normal(0.0, sigma_mm, 3)
    return float(x), float(y), float(z)


def _spot(head: Head, brain: Brain, hu: HU, place: Point, radii_mm: Point, spot_hu: float) -> None:
    """Paint an ellipsoid at a template point, in the brain as it lies now."""
    box, _ = head.box(head.scanner_point(place), 14.0 + 1.4 * max(radii_mm))
    points = brain.points[(slice(None), *box)]
    scaled = (points - torch.tensor(place)[:, None, None, None]) / torch.tensor(radii_mm)[:, None, None, None]
    field = (1.0 - torch.linalg.vector_norm(scaled, dim=0)) * min(radii_mm)
    hu[box] += (spot_hu - hu[box]) * soft_step(field, head.edge_mm) * brain.inside[box]
