"""Where slices of a series lie, which is lowest, and whether one step leads from each to the next."""

import math

import numpy as np
import pytest

from hgisam.io.dicom_geometry import PlaneGeometry, evenly_stacked, slice_order
from hgisam.io.errors import ScanRefused

AXIAL = PlaneGeometry(4, 4, (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.5, 0.5))


def test_slices_are_ordered_upward_whichever_way_rows_and_columns_run() -> None:
    positions = np.array([[0.0, 0.0, 10.0], [0.0, 0.0, -5.0], [0.0, 0.0, 0.0]])
    turned = PlaneGeometry(4, 4, (-1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.5, 0.5))
    assert slice_order(positions, AXIAL).tolist() == [1, 2, 0]
    assert slice_order(positions, turned).tolist() == [1, 2, 0]


def test_a_tilted_gantry_s_slices_are_ordered_along_their_normal() -> None:
    tilt = math.radians(20)
    tilted = PlaneGeometry(4, 4, (1.0, 0.0, 0.0), (0.0, math.cos(tilt), -math.sin(tilt)), (0.5, 0.5))
    positions = np.array([[0.0, 40.0 * k, 5.0 * k] for k in (2, 0, 1)])
    assert slice_order(positions, tilted).tolist() == [1, 2, 0]


def test_two_slices_at_one_place_are_refused() -> None:
    with pytest.raises(ScanRefused, match=r"1 of 2 at the place of another"):
        slice_order(np.array([[0.0, 0.0, 5.0], [9.0, 0.0, 5.0]]), AXIAL)


def test_coronal_slices_are_refused() -> None:
    coronal = PlaneGeometry(4, 4, (1.0, 0.0, 0.0), (0.0, 0.0, -1.0), (0.5, 0.5))
    with pytest.raises(ScanRefused, match="90 degrees off"):
        slice_order(np.zeros((1, 3)), coronal)


def test_uneven_steps_are_told_from_even_ones() -> None:
    def at(*heights_mm: float) -> np.ndarray:
        return np.array([[0.0, 0.0, height] for height in heights_mm])

    assert evenly_stacked(at(0, 5, 10, 15.05))
    assert not evenly_stacked(at(0, 5, 15))
    assert not evenly_stacked(np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 5.0], [0.0, 0.0, 10.0]]))  # beside the others
    assert evenly_stacked(at(3))
