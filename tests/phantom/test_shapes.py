"""Bleeds lie where their names say, have the volume asked for, and push the brain away from themselves."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from hgisam.labels import SUBTYPES, Subtype
from hgisam.phantom.anatomy import Brain, Head, tentorium_gap_mm
from hgisam.phantom.bleeds import plan_bleed
from hgisam.phantom.shapes import (
    SHEET_MOST_ML,
    Plan,
    plan_epidural,
    plan_intraparenchymal,
    plan_intraventricular,
    plan_subarachnoid,
    plan_subdural,
)

Hurt = Callable[[Plan], tuple[Brain, torch.Tensor]]
SEEDS = (0, 1, 2)


def volume_ml(head: Head, blood: torch.Tensor) -> float:
    return float(blood.double().sum()) * head.grid.voxel_ml


@pytest.mark.parametrize("subtype", SUBTYPES)
@pytest.mark.parametrize("requested", [1.0, 12.0])
def test_volume_is_the_one_asked_for(head: Head, hurt: Hurt, subtype: Subtype, requested: float) -> None:
    plan = plan_bleed(np.random.default_rng(11), head, subtype, requested)
    _, blood = hurt(plan)
    assert float(blood.min()) >= 0
    assert float(blood.max()) < 1 + 1e-5
    assert volume_ml(head, blood) == pytest.approx(requested, rel=0.05)


def test_any_is_no_place(head: Head) -> None:
    with pytest.raises(ValueError, match="expected one of the five subtypes"):
        plan_bleed(np.random.default_rng(0), head, Subtype.ANY, 1.0)


@pytest.mark.parametrize("seed", SEEDS)
def test_intraparenchymal_blood_lies_in_the_brain(head: Head, hurt: Hurt, seed: int) -> None:
    plan = plan_intraparenchymal(np.random.default_rng(seed), head, 10.0)
    brain, blood = hurt(plan)
    found = blood > 0.5
    assert (brain.inside[found] > 0.5).all()
    assert (brain.ventricle[found] < 0.5).all()
    assert float(head.depth_mm[found].min()) > 0
    assert plan.rim_mm > 0


@pytest.mark.parametrize("seed", SEEDS)
def test_intraparenchymal_blood_pushes_outwards(head: Head, hurt: Hurt, seed: int) -> None:
    plan = plan_intraparenchymal(np.random.default_rng(seed), head, 30.0)
    _, blood = hurt(plan)
    middle = (head.grid.refine(head.lattice_mm) * blood).flatten(1).sum(dim=1) / blood.sum()
    outwards = head.lattice_mm - middle[:, None, None, None]
    far = torch.linalg.vector_norm(outwards, dim=0) > 25
    along = (plan.displacement_mm * outwards).sum(dim=0)[far]
    assert float(along.min()) > -1e-3
    assert float(torch.linalg.vector_norm(plan.displacement_mm, dim=0).max()) > 2


@pytest.mark.parametrize("seed", SEEDS)
def test_intraventricular_blood_lies_in_the_ventricles(head: Head, hurt: Hurt, seed: int) -> None:
    brain, blood = hurt(plan_intraventricular(np.random.default_rng(seed), head, 6.0))
    assert (blood <= brain.ventricle + 1e-6).all()


def test_intraventricular_blood_settles_at_the_back(head: Head, hurt: Hurt) -> None:
    behind = 0
    for seed in range(5):
        brain, blood = hurt(plan_intraventricular(np.random.default_rng(seed), head, 3.0))
        rows = torch.arange(blood.shape[1])[None, :, None]
        behind += bool((blood * rows).sum() / blood.sum() > (brain.ventricle * rows).sum() / brain.ventricle.sum())
    assert behind >= 3


def test_intraventricular_blood_cannot_exceed_the_ventricles(head: Head, hurt: Hurt) -> None:
    brain, blood = hurt(plan_intraventricular(np.random.default_rng(0), head, 500.0))
    capacity = volume_ml(head, brain.ventricle * brain.inside)
    assert 0.8 * capacity < volume_ml(head, blood) <= capacity


@pytest.mark.parametrize("seed", SEEDS)
def test_subarachnoid_blood_lies_in_fluid_spaces_outside_the_ventricles(head: Head, hurt: Hurt, seed: int) -> None:
    brain, blood = hurt(plan_subarachnoid(np.random.default_rng(seed), head, 6.0))
    found = blood > 0.5
    assert (brain.fluid[found] > 0.3).all()
    assert (brain.ventricle[found] < 0.3).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_epidural_blood_is_a_lens_under_the_skull(head: Head, hurt: Hurt, seed: int) -> None:
    _, blood = hurt(plan_epidural(np.random.default_rng(seed), head, 15.0))
    found = blood > 0.5
    depth = head.depth_mm[found]
    assert float(depth.min()) < 2.5
    assert 5 < float(depth.max()) < 45
    thin_share = float((depth < 0.25 * depth.max()).float().mean())
    assert thin_share < 0.65  # thick in the middle, not a film


@pytest.mark.parametrize("seed", range(8))
def test_subdural_blood_stays_on_one_side(head: Head, hurt: Hurt, seed: int) -> None:
    _, blood = hurt(plan_subdural(np.random.default_rng(seed), head, 15.0))
    sides = torch.sign(head.skull_points[0][blood > 0.5])
    assert abs(float(sides.mean())) > 0.95


def test_subdural_blood_is_a_crescent_or_a_sheet(head: Head, hurt: Hurt) -> None:
    crescents = sheets = 0
    for seed in range(8):
        _, blood = hurt(plan_subdural(np.random.default_rng(seed), head, 15.0))
        found = blood > 0.5
        at_falx = head.skull_points[0][found].abs().median() < 8
        at_tentorium = tentorium_gap_mm(head.atlas, head.skull_points)[found].abs().median() < 8
        if at_falx or at_tentorium:
            sheets += 1
            assert volume_ml(head, blood) <= SHEET_MOST_ML * 1.02
        else:
            crescents += 1
            assert float(head.depth_mm[found].quantile(0.5)) < 9  # thin
    assert crescents > 0
    assert sheets > 0


@pytest.mark.parametrize("plan_of", [plan_epidural])
def test_a_collection_pushes_the_brain_inwards_and_shifts_the_midline(
    head: Head, brain: Brain, hurt: Hurt, plan_of: Callable[[np.random.Generator, Head, float], Plan]
) -> None:
    plan = plan_of(np.random.default_rng(1), head, 60.0)
    pushed, blood = hurt(plan)
    side = float(torch.sign(head.skull_points[0][blood > 0.5]).mean().sign())
    middle = (brain.points[0].abs() < 4) & (head.depth_mm > 30)
    shift = side * (pushed.points - brain.points)[0][middle]
    assert float(shift.quantile(0.9)) > 1.0  # what is in the middle now came from the side of the blood
