"""What is bright or dark and no bleed: it lies inside the skull and has the HU that it is known for."""

import numpy as np
import torch

from hgisam.phantom.anatomy import Brain, Head
from hgisam.phantom.distractors import (
    paint_air,
    paint_calcifications,
    paint_catheter,
    paint_dark_lesions,
    paint_vessels,
)


def flat(brain: Brain, level_hu: float = 30.0) -> torch.Tensor:
    return torch.full_like(brain.inside, level_hu)


def test_calcifications_are_small_bright_and_inside(head: Head, brain: Brain) -> None:
    hu = flat(brain)
    paint_calcifications(np.random.default_rng(0), head, brain, hu, certain=True)
    bright = hu > 60
    assert 0 < float(bright.sum()) * head.grid.voxel_ml < 8
    assert float(head.depth_mm[bright].min()) > 0
    assert (brain.points[0][bright].abs() < 40).all()


def test_vessels_brighten_the_base_and_darken_nothing(head: Head, brain: Brain) -> None:
    hu = flat(brain)
    paint_vessels(np.random.default_rng(0), head, brain, hu)
    assert (hu >= 30).all()
    assert (hu > 33).any()
    assert float(head.skull_points[2][hu > 33].max()) < 25


def test_dark_lesions_only_darken_and_stay_inside(head: Head, brain: Brain) -> None:
    darker = 0
    for seed in range(4):
        hu = flat(brain)
        paint_dark_lesions(np.random.default_rng(seed), head, brain, hu)
        assert float(hu.max()) < 30.5
        assert hu[brain.inside == 0].eq(30).all()
        darker += bool((hu < 28).any())
    assert darker >= 1


def test_a_drain_is_a_thin_bright_line(head: Head, brain: Brain) -> None:
    hu = flat(brain)
    paint_catheter(np.random.default_rng(0), head, brain, hu)
    bright = torch.nonzero(hu > 60)
    assert len(bright) > 10
    extent = (bright.max(dim=0).values - bright.min(dim=0).values) * torch.tensor(head.grid.step_mm)
    assert float(extent[0]) > 20
    assert len(bright) * head.grid.voxel_ml < 6


def test_bubbles_are_air(head: Head, brain: Brain) -> None:
    hu = flat(brain)
    paint_air(np.random.default_rng(1), head, brain, hu)
    assert float(hu.min()) < 0
    assert hu[brain.inside == 0].eq(30).all()
