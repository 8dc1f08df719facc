"""Patients: soft edges keep volumes, the fine grid keeps its geometry, and a head has the parts of a head."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hgisam.phantom.anatomy import (
    AIR_HU,
    Brain,
    FineGrid,
    Habitus,
    Head,
    Pose,
    draw_brain,
    dural_folds,
    paint_inside,
    paint_outside,
    smooth_noise,
    soft_step,
    tentorium_gap_mm,
)
from hgisam.phantom.structures import Structure


@settings(deadline=None)
@given(st.floats(-50, 50), st.floats(0.1, 5))
def test_soft_step_is_a_fraction_that_is_half_on_the_surface(distance: float, edge: float) -> None:
    inside, outside = (float(soft_step(torch.tensor([d]), edge)) for d in (distance, -distance))
    assert 0 <= inside <= 1
    assert inside + outside == pytest.approx(1, abs=1e-5)
    assert float(soft_step(torch.tensor([0.0]), edge)) == 0.5


def test_soft_step_keeps_the_volume_of_a_ball() -> None:
    axis = torch.arange(-15.0, 15.01, 1.0)
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    volume = float(soft_step(10.0 - torch.sqrt(x**2 + y**2 + z**2), 1.0).sum())
    assert volume == pytest.approx(4 / 3 * np.pi * 1000, rel=0.01)


def test_fine_grid_interpolates_a_linear_field_exactly() -> None:
    grid = FineGrid(shape=(9, 13, 11), first_mm=(20.0, 30.0, -10.0), step_mm=(1.5, 2.0, 2.5))
    lattice = grid.lattice(4.0)
    points = grid.refine(lattice)
    torch.testing.assert_close(points[:, 0, 0, 0], torch.tensor([20.0, 30.0, -10.0]))
    torch.testing.assert_close(points[:, -1, -1, -1], torch.tensor([20 - 10 * 2.5, 30 - 12 * 2.0, -10 + 8 * 1.5]))
    torch.testing.assert_close(grid.at(lattice, points), points, atol=1e-4, rtol=0)
    assert grid.voxel_ml == pytest.approx(1.5 * 2.0 * 2.5 / 1000)


def test_smooth_noise_is_standard_and_smooth() -> None:
    noise = smooth_noise(np.random.default_rng(0), (30, 30, 30), 2.0)
    assert float(noise.std()) == pytest.approx(1, abs=0.01)
    step = (noise[:, 1:] - noise[:, :-1]).std()
    assert step < 0.5


def test_pose_keeps_heads_within_human_sizes() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        shrink = abs(float(torch.linalg.det(Pose.draw(rng).matrix))) ** (-1 / 3)
        assert 0.78 < shrink < 1.05


def test_older_people_have_wider_spaces() -> None:
    people = [Habitus.draw(np.random.default_rng(seed)) for seed in range(200)]
    young = [p for p in people if p.age < 0.3]
    old = [p for p in people if p.age > 0.7]
    assert np.mean([p.gap_mm for p in old]) > np.mean([p.gap_mm for p in young]) + 0.5
    assert np.mean([p.sulcus_centre for p in old]) < np.mean([p.sulcus_centre for p in young])


def test_box_holds_what_is_near_a_point(head: Head) -> None:
    centre = torch.tensor([10.0, -20.0, 5.0])
    box, points = head.box(centre, 12.0)
    lattice = head.grid.refine(head.lattice_mm)
    torch.testing.assert_close(points, lattice[(slice(None), *box)], atol=1e-3, rtol=0)
    near = torch.linalg.vector_norm(lattice - centre[:, None, None, None], dim=0) <= 12.0
    outside = near.clone()
    outside[box] = False
    assert near.any()
    assert not outside.any()


def test_scanner_point_leads_to_the_template_point(head: Head) -> None:
    found = head.scanner_point((20.0, 10.0, 5.0))
    back = head.grid.at(head.skull_lattice, found[:, None, None, None]).flatten()
    assert torch.linalg.vector_norm(back - torch.tensor([20.0, 10.0, 5.0])) < 5.0


def test_brain_is_grey_white_and_fluid(head: Head, brain: Brain) -> None:
    inside = brain.inside > 0.9
    deep = inside & (head.depth_mm > 3)
    brain_ml = float((brain.inside * (1 - brain.csf)).sum()) * head.grid.voxel_ml
    assert 900 < brain_ml < 1700
    assert 0.25 < float(brain.white[deep].mean()) < 0.65
    ventricle_ml = float((brain.ventricle * brain.inside).sum()) * head.grid.voxel_ml
    assert 3 < ventricle_ml < 90


def test_a_push_moves_the_brain_and_not_the_skull(head: Head, brain: Brain) -> None:
    push = torch.zeros_like(head.lattice_mm)
    push[0] = 9.0
    moved = draw_brain(head, push)
    inner = head.depth_mm > 25
    shift = (moved.points - brain.points)[0][inner]
    assert float(shift.mean()) == pytest.approx(-9.0 / 0.9, rel=0.1)  # tissue came from the left of where it is
    assert torch.equal(moved.inside, brain.inside)


def test_tentorium_divides_cerebrum_from_cerebellum(head: Head) -> None:
    cerebellum, occipital = (
        tentorium_gap_mm(head.atlas, torch.tensor(place)[:, None, None, None])
        for place in ([20.0, -65.0, -38.0], [20.0, -85.0, 5.0])
    )
    assert float(cerebellum) < 0 < float(occipital) < 99


def test_dural_folds_lie_inside_and_in_the_midline_or_at_the_tentorium(head: Head) -> None:
    folds = dural_folds(head) > 0.2
    assert folds.any()
    near_middle = head.skull_points[0].abs() < 3
    near_tent = tentorium_gap_mm(head.atlas, head.skull_points).abs() < 5
    assert (near_middle | near_tent)[folds].float().mean() > 0.97


def test_a_painted_head_has_the_hu_of_its_parts(head: Head, brain: Brain) -> None:
    rng = np.random.default_rng(1)
    inside = paint_inside(rng, head, brain)
    hu = paint_outside(rng, head, brain, inside)
    skin = head.structure(Structure.SKIN)
    assert (hu[skin < -10] == AIR_HU).all()
    deep = (head.depth_mm > 5) & (brain.csf < 0.05) & (brain.inside > 0.99)
    upper = torch.zeros_like(deep)
    upper[head.low_planes :] = True
    assert 24 < float(hu[deep & upper].median()) < 44
    bone = (head.depth_mm < -1.5) & (head.depth_mm > -3) & upper
    assert float(hu[bone].median()) > 700
    ventricle = (brain.ventricle > 0.95) & (brain.inside > 0.99)
    assert float(hu[ventricle].median()) < 18
    globe = head.structure(Structure.GLOBE) > 4
    assert 0 < float(hu[: head.low_planes][globe].median()) < 30
