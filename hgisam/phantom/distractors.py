"""What is bright and no blood, and what is dark and no harm: calcifications, dense vessels, old lesions, air."""

import numpy as np
import torch
from torch import Tensor

from hgisam.phantom.anatomy import Brain, Head, smooth_noise, soft_step
from hgisam.phantom.atlas import Structure

Point = tuple[float, float, float]


def _spot(
    head: Head, brain: Brain, hu: Tensor, place: Point, radius_mm: tuple[float, float, float], spot_hu: float
) -> None:
    """Paint an ellipsoid at a template point, in the brain as it lies now."""
    centre = head.scanner_point(place)
    box, _ = head.box(centre, 14.0 + 1.4 * max(radius_mm))
    points = brain.points[(slice(None), *box)]
    scaled = torch.stack([(points[i] - place[i]) / radius_mm[i] for i in range(3)])
    field = (1.0 - torch.linalg.vector_norm(scaled, dim=0)) * min(radius_mm)
    weight = soft_step(field, head.edge_mm) * brain.inside[box]
    hu[box] += (spot_hu - hu[box]) * weight


def paint_calcifications(rng: np.random.Generator, head: Head, brain: Brain, hu: Tensor, *, certain: bool) -> None:
    """Pineal, choroid plexus, falx and basal ganglia, more often in the old; all of them where `certain`.

    Source: Daghighi et al. 2007, Folia Morphol 66:115-9 (pineal 71 %, choroid 66 %, falx 7 %, globus pallidus 1 %).
    """
    age = head.habitus.age
    chance = 1.0 if certain else 0.25 + 0.6 * age

    def often(share: float) -> bool:
        return certain or bool(rng.random() < share)

    for side in (-1.0, 1.0):  # the plexus itself is a little brighter than CSF; its glomus may be calcified
        place = (23.0 * side, -42.0 + float(rng.normal(0, 2)), 8.0 + float(rng.normal(0, 2)))
        _spot(head, brain, hu, place, (3.5, 7.0, 5.0), 38.0)
        if often(0.65 * chance):
            for _ in range(int(rng.integers(1, 4))):
                near = (place[0] + float(rng.normal(0, 1.5)), place[1] + float(rng.normal(0, 3)), place[2] + float(rng.normal(0, 2)))
                size = float(rng.uniform(0.9, 2.6))
                _spot(head, brain, hu, near, (size, size, size), float(rng.uniform(70.0, 450.0)))
        if often(0.15 + 0.1 * age):
            place = (18.0 * side + float(rng.normal(0, 1.5)), -2.0 + float(rng.normal(0, 2)), 0.0)
            _spot(head, brain, hu, place, (3.0, 6.0, 3.5), float(rng.uniform(48.0, 130.0)))
    if often(0.9 * chance):
        size = float(rng.uniform(1.5, 4.0))
        _spot(head, brain, hu, (float(rng.normal(0, 0.7)), -30.0, 1.0), (size, 1.3 * size, size), float(rng.uniform(90.0, 500.0)))
    if often(0.3 * age):
        for _ in range(int(rng.integers(1, 4))):
            place = (float(rng.normal(0, 0.8)), float(rng.uniform(-60, 55)), float(rng.uniform(30, 60)))
            _spot(head, brain, hu, place, (1.8, float(rng.uniform(2, 8)), float(rng.uniform(2, 6))), float(rng.uniform(90, 700)))


def paint_vessels(rng: np.random.Generator, head: Head, brain: Brain, hu: Tensor) -> None:
    """Arteries at the base; now and then one is dense (a clot) or its wall calcified."""
    field = head.structure(Structure.ARTERY)
    arterial = head.habitus.arterial_hu + (float(rng.uniform(8.0, 25.0)) if rng.random() < 0.12 else 0.0)
    weight = soft_step(field, head.edge_mm) * brain.inside
    hu += (arterial - hu).clamp_min(0.0) * weight
    if rng.random() < 0.35 * head.habitus.age + 0.05:
        side = 1.0 if rng.random() < 0.5 else -1.0
        for place in ((9.0 * side, 2.0, -25.0), (-9.0 * side, 2.0, -25.0), (6.0 * side, -24.0, -58.0)):
            size = float(rng.uniform(1.0, 2.2))
            _spot(head, brain, hu, place, (size, size, size), float(rng.uniform(150.0, 800.0)))


def paint_dark_lesions(rng: np.random.Generator, head: Head, brain: Brain, hu: Tensor) -> None:
    """Old infarcts and lacunes, white-matter disease, arachnoid cysts and hygromas."""
    age = head.habitus.age
    csf = head.habitus.csf_hu
    nodes = tuple(head.lattice_mm.shape[1:])
    if rng.random() < 0.15 + 0.6 * age:  # leukoaraiosis: deep white matter near the ventricles
        x, y, z = head.skull_lattice
        near = torch.exp(-(((x.abs() - 22.0) / 13.0) ** 2) - ((y + 15.0) / 55.0) ** 2 - ((z - 22.0) / 15.0) ** 2)
        patches = head.grid.refine((near * (0.8 + 0.5 * smooth_noise(rng, nodes, 2.0)[0]))[None])[0]
        hu -= float(rng.uniform(2.0, 10.0)) * patches.clamp_(0.0, 1.3) * brain.white * (1.0 - brain.csf)
    if rng.random() < 0.08 + 0.2 * age:  # an infarct: wedge to the cortex, from edema to cavity
        side = 1.0 if rng.random() < 0.5 else -1.0
        size = float(rng.uniform(8.0, 32.0))
        place = (side * float(rng.uniform(30, 58)), float(rng.uniform(-80, 45)), float(rng.uniform(-20, 45)))
        x, y, z = head.skull_lattice
        distance = ((x - place[0]) ** 2 + (y - place[1]) ** 2 + (z - place[2]) ** 2).sqrt()
        field = head.grid.refine((size * (1.0 + 0.25 * smooth_noise(rng, nodes, 2.5)[0]) - distance)[None])[0]
        loss = float(rng.choice([rng.uniform(0.15, 0.4), rng.uniform(0.6, 0.95)]))
        hu += (csf + 2.0 - hu) * (soft_step(field, 4.0) * loss) * (hu > csf) * brain.inside
    for _ in range(int(rng.poisson(0.8 * age))):  # lacunes
        side = 1.0 if rng.random() < 0.5 else -1.0
        place = (side * float(rng.uniform(8, 30)), float(rng.uniform(-30, 25)), float(rng.uniform(-5, 22)))
        size = float(rng.uniform(1.5, 5.0))
        _spot(head, brain, hu, place, (size, size, size), csf + 8.0)
    if rng.random() < 0.04:  # arachnoid cyst of a temporal pole or behind the cerebellum
        side = 1.0 if rng.random() < 0.5 else -1.0
        place = (50.0 * side, 18.0, -28.0) if rng.random() < 0.6 else (10.0 * side, -92.0, -40.0)
        size = float(rng.uniform(8.0, 20.0))
        _spot(head, brain, hu, place, (size, size, 1.2 * size), csf + 2.0)
    if rng.random() < 0.05 + 0.06 * age:  # hygroma: CSF between skull and brain over a hemisphere
        side = 1.0 if rng.random() < 0.5 else -1.0
        thickness = float(rng.uniform(2.0, 8.0))
        x, y, z = head.skull_lattice
        where = ((x * side - 6.0) / 12.0).clamp(0, 1) * torch.exp(-(((y - 25.0) / 45.0) ** 2)) * ((z + 5.0) / 15.0).clamp(0, 1)
        limit = head.grid.refine((where * thickness)[None])[0]
        hu += (csf + 3.0 - hu) * (soft_step(limit - head.depth_mm, head.edge_mm) * brain.inside)


def paint_catheter(rng: np.random.Generator, head: Head, brain: Brain, hu: Tensor) -> None:
    """A ventricular drain: a thin bright line from the frontal skull to the front horn."""
    side = 1.0 if rng.random() < 0.5 else -1.0
    start = torch.tensor([float(rng.uniform(20.0, 32.0)) * side, float(rng.uniform(25.0, 45.0)), 66.0])
    end = torch.tensor([6.0 * side, float(rng.uniform(0.0, 20.0)), 10.0])
    box, _ = head.box(head.scanner_point((float(start[0]), float(start[1]), 40.0)), 55.0)
    points = brain.points[(slice(None), *box)] - start[:, None, None, None]
    line = end - start
    along = (torch.einsum("i,idhw->dhw", line, points) / (line @ line)).clamp(0.0, 1.0)
    distance = torch.linalg.vector_norm(points - along * line[:, None, None, None], dim=0)
    weight = soft_step(1.3 - distance, head.edge_mm) * brain.inside[box]
    hu[box] += (float(rng.uniform(120.0, 500.0)) - hu[box]) * weight


def paint_air(rng: np.random.Generator, head: Head, brain: Brain, hu: Tensor) -> None:
    """A few bubbles of air inside the skull, as after trauma or surgery."""
    for _ in range(int(rng.integers(2, 12))):
        place = (float(rng.uniform(-55, 55)), float(rng.uniform(-60, 70)), float(rng.uniform(-20, 60)))
        size = float(rng.uniform(0.8, 3.0))
        _spot(head, brain, hu, place, (size, size, size), -900.0)
