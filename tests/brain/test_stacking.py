"""Slices out of order are told from slices in order, and from a head that is merely noisy, thin or short."""

from pathlib import Path

import numpy as np
import pytest
import torch
from analytic_head import draw_head
from numpy.typing import NDArray

from hgisam.brain import is_out_of_order
from hgisam.io.nifti import read_ct
from hgisam.volume import CTVolume

N = 29
IN_ORDER = np.arange(N)


def stacked(order: NDArray[np.intp], spacing_mm: tuple[float, float, float] = (5.0, 4.0, 4.0)) -> bool:
    head = draw_head(spacing_mm, noise_hu=8.0)
    return is_out_of_order(CTVolume(head.ct.hu[torch.from_numpy(order.copy())], head.ct.affine, "stacked"))


@pytest.mark.parametrize("order", [IN_ORDER, IN_ORDER[::-1], IN_ORDER[:14], IN_ORDER[14:]], ids=str)
def test_slices_in_order_raise_no_doubt(order: NDArray[np.intp]) -> None:
    assert not stacked(order)


@pytest.mark.parametrize(
    "order",
    [
        np.r_[0:N:2, 1:N:2],
        np.r_[1:N:2, 0:N:2],
        np.r_[0:N:2, 1:N:2][::-1],
        np.r_[0:N:3, 1:N:3, 2:N:3],
        np.r_[0:N:4, 1:N:4, 2:N:4, 3:N:4],
        np.array([i ^ 1 if i ^ 1 < N else i for i in range(N)]),
        np.random.default_rng(0).permutation(N),
    ],
    ids=str,
)
def test_slices_out_of_order_are_doubted(order: NDArray[np.intp]) -> None:
    assert stacked(order)


def test_thin_noisy_slices_are_judged_by_what_lies_a_centimetre_away() -> None:
    spacing_mm = (1.0, 4.0, 4.0)
    n = len(draw_head(spacing_mm).ct.hu)
    assert not stacked(np.arange(n), spacing_mm)
    assert stacked(np.r_[0:n:2, 1:n:2], spacing_mm)


def test_a_few_slices_and_empty_ones_are_not_judged() -> None:
    assert not stacked(np.random.default_rng(0).permutation(8))
    air = CTVolume(torch.full((30, 10, 10), -1000.0), draw_head().ct.affine, "air")
    assert not is_out_of_order(air)


def test_real_scans_are_in_order_until_they_are_put_out_of_it(realdata: Path) -> None:
    for path in sorted((realdata / "ct_ich").glob("*.nii.gz"))[::20]:
        ct, _ = read_ct(path)
        assert not is_out_of_order(ct), path.name
        interleaved = torch.cat([ct.hu[::2], ct.hu[1::2]])
        assert is_out_of_order(CTVolume(interleaved, ct.affine, ct.source)), path.name
