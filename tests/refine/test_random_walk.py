"""The random walk, against a solution by hand and against what it is for."""

import numpy as np
import pytest
import torch

from hgisam.refine import Components, RandomWalk, refine
from hgisam.refine.random_walk import _reaches_blood
from hgisam.volume import CTVolume


def test_on_a_line_the_probability_is_that_of_the_gamblers_ruin() -> None:
    """Blood, three voxels in doubt, brain; even HU: 3/4, 2/4, 1/4."""
    blood = np.array([[[True, False, False, False, False]]])
    doubtful = np.array([[[False, True, True, True, False]]])
    known = np.ones_like(blood)
    flat = np.full(blood.shape, 10.0, dtype=np.float32)
    reached = _reaches_blood(flat, known, blood, doubtful, (np.zeros(1), 1.0, 0.7), 6.0)
    assert reached == pytest.approx([0.75, 0.5, 0.25], abs=1e-4)


def test_a_step_counts_less_by_the_square_of_its_length() -> None:
    """One voxel in doubt, blood 2 mm above it and brain 1 mm below: 1/4 against 1, which is 1/5."""
    blood, doubtful = np.zeros((3, 1, 1), dtype=bool), np.zeros((3, 1, 1), dtype=bool)
    blood[0], doubtful[1] = True, True
    known, flat = np.ones_like(blood), np.zeros(blood.shape, dtype=np.float32)
    reached = _reaches_blood(flat, known, blood, doubtful, (np.array([0.0, 2.0, 3.0]), 1.0, 1.0), 6.0)
    assert reached == pytest.approx([0.2], abs=1e-4)


def test_a_step_in_hu_is_shunned() -> None:
    """Blood 6 HU away and brain 0 HU away, sigma 6: exp(-1/2) against 1."""
    blood = np.array([[[True, False, False]]])
    doubtful = np.array([[[False, True, False]]])
    excess = np.array([[[12.0, 6.0, 6.0]]], dtype=np.float32)
    reached = _reaches_blood(excess, np.ones_like(blood), blood, doubtful, (np.zeros(1), 1.0, 1.0), 6.0)
    weight = np.exp(-0.5)
    assert reached == pytest.approx([weight / (1 + weight)], abs=1e-4)


def test_the_dim_edge_of_a_clot_is_gained_and_brain_is_not() -> None:
    hu = torch.full((3, 40, 40), 30.0)
    hu[1, 10:30, 10:30] = 40.0  # too dim for a component
    hu[1, 12:28, 12:28] = 44.0
    region = torch.ones(3, 40, 40, dtype=torch.bool)
    ct = CTVolume(hu, torch.diag(torch.tensor([5.0, 1.0, 1.0, 1.0], dtype=torch.float64)), "a dim edge")
    saliency = torch.where(region, 0.5, 0.0)
    start = Components(smoothing_mm=0, rim_mm=0, edge_mm=0)
    plain = refine(saliency, ct, region, 30.0, 0.5, start).voxels
    mask = refine(saliency, ct, region, 30.0, 0.5, RandomWalk(start=start)).voxels
    assert int(plain.sum()) == 16 * 16
    assert not bool((mask & (hu < 35.0)).any())
    assert int((mask & ~plain).sum()) > 0.9 * (20 * 20 - 16 * 16)  # corners have brain on two sides
