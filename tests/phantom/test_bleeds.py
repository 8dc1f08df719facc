"""Bleeds look as blood does: their size, density, edema and settling."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hgisam.labels import SUBTYPES, Subtype
from hgisam.phantom.anatomy import Brain, Head
from hgisam.phantom.bleeds import VOLUME_RANGE_ML, Density, draw_volume_ml, paint_bleed

EVEN = Density(mean_hu=65.0, uneven_hu=0.0, settling_hu=0.0, edema_hu=0.0)


def ball(head: Head, radius_mm: float) -> torch.Tensor:
    """A ball of blood in the left frontal lobe."""
    centre = head.scanner_point((-25.0, 30.0, 25.0))
    away = head.grid.refine(head.lattice_mm) - centre[:, None, None, None]
    return (torch.linalg.vector_norm(away, dim=0) < radius_mm).float()


def painted(head: Head, brain: Brain, density: Density, blood: torch.Tensor, rim_mm: float = 0.0) -> torch.Tensor:
    hu = torch.full_like(blood, 30.0)
    paint_bleed(np.random.default_rng(0), head, brain, density, blood, rim_mm, hu)
    return hu


def test_volumes_are_log_normal_around_six_ml() -> None:
    rng = np.random.default_rng(0)
    volumes = np.array([draw_volume_ml(rng) for _ in range(4000)])
    assert np.median(volumes) == pytest.approx(6, rel=0.1)
    assert np.log(volumes).std() == pytest.approx(1.2, rel=0.1)
    assert VOLUME_RANGE_ML[0] <= volumes.min()
    assert volumes.max() <= VOLUME_RANGE_ML[1]


@pytest.mark.parametrize("subtype", SUBTYPES)
def test_blood_is_clot_of_50_to_90_hu_and_faint_where_asked_for(subtype: Subtype) -> None:
    def means(faint_probability: float) -> NDArray[np.float64]:
        rng = np.random.default_rng(0)
        return np.array([Density.draw(rng, subtype, 34.0, faint_probability).mean_hu for _ in range(1000)])

    floor = 48.0 if subtype is Subtype.SUBARACHNOID else 50.0
    assert floor <= means(0.0).min()
    assert means(0.0).max() <= 90
    assert np.mean(means(0.2) < means(0.0) - 1e-9) == pytest.approx(0.2, abs=0.04)
    assert means(1.0).min() >= 34 + 5
    assert means(1.0).max() <= 34 + 15


def test_blood_has_its_density_and_nothing_else_changes(head: Head, brain: Brain) -> None:
    blood = ball(head, 15.0)
    hu = painted(head, brain, EVEN, blood)
    assert hu[blood == 1].eq(65).all()
    assert hu[blood == 0].eq(30).all()


def test_edema_is_a_dark_rim(head: Head, brain: Brain) -> None:
    blood = ball(head, 15.0)
    hu = painted(head, brain, Density(65.0, 0.0, 0.0, 12.0), blood, rim_mm=8.0)
    dark = hu < 27
    assert dark.any()
    assert not (dark & (blood == 1)).any()
    assert not (dark & (ball(head, 35.0) == 0)).any()


def test_settled_blood_is_denser_behind(head: Head, brain: Brain) -> None:
    blood = ball(head, 15.0)
    hu = painted(head, brain, Density(65.0, 0.0, 15.0, 0.0), blood)
    rows = torch.nonzero(blood)[:, 1].float()
    values = hu[blood == 1]
    assert float(values[rows > rows.median() + 2].mean()) > float(values[rows < rows.median() - 2].mean()) + 8


def test_no_blood_paints_nothing(head: Head, brain: Brain) -> None:
    blood = torch.zeros_like(brain.inside)
    assert painted(head, brain, Density(65.0, 2.0, 9.0, 9.0), blood, rim_mm=5.0).eq(30).all()
