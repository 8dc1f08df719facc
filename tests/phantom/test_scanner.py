"""The scanner: it averages slices, places pixels, adds noise of the stated size, and hardens the beam between bones."""

import numpy as np
import pytest
import torch

from hgisam.phantom.anatomy import FineGrid
from hgisam.phantom.scanner import (
    Protocol,
    average_slices,
    beam_hardening,
    kernel_response,
    motion_streaks,
    noise_texture,
    scan,
    slow_shading,
    to_pixels,
    with_tails,
)

QUIET = Protocol(
    noise_hu=0.0, blur_mm=0.5, noise_grain_mm=0.6, cupping_hu=0.0, streak_hu=0.0, slice_tail=0.0, shading_hu=0.0,
    offset_hu=0.0, gain=1.0, head_rest_hu=None, motion_hu=0.0, clip_radius_mm=None,
)  # fmt: skip
GRID = FineGrid(shape=(8, 60, 60), first_mm=(29.5, 29.5, 0.0), step_mm=(2.5, 1.0, 1.0))


def scanned(protocol: Protocol, planes: torch.Tensor) -> torch.Tensor:
    """Four slices of 128 x 128 pixels with the planes in their middle."""
    rng = np.random.default_rng(0)
    return scan(rng, protocol, planes, GRID, per_slice=2, zoom=1, first_px=(34, 34), size_px=128, pixel_mm=1.0)


def replaced(**changes: float | None) -> Protocol:
    return Protocol(**{**vars(QUIET), **changes})  # type: ignore[arg-type]


def test_slices_are_the_mean_of_their_planes() -> None:
    planes = torch.arange(6.0)[:, None, None].expand(6, 2, 2)
    assert average_slices(planes, 3)[:, 0, 0].tolist() == [1.0, 4.0]


def test_pixels_go_where_the_box_lies_and_the_rest_is_filled() -> None:
    canvas = to_pixels(torch.ones(1, 2, 3), 1, (4, 5), 10, -1000.0)
    assert canvas[0, 4:6, 5:8].eq(1).all()
    assert canvas.eq(1).sum() == 6
    assert canvas.eq(-1000).sum() == 94


def test_a_finer_matrix_keeps_the_area() -> None:
    values = torch.zeros(1, 8, 8)
    values[0, 3:5, 3:5] = 1.0
    fine = to_pixels(values, 2, (0, 0), 16, 0.0)
    assert float(fine.sum()) == pytest.approx(4 * float(values.sum()))


def test_kernel_keeps_the_mean_and_dampens_the_fine() -> None:
    frequency = torch.linspace(0, 0.5, 20)
    response = kernel_response(frequency, 0.7)
    assert float(response[0]) == 1.0
    assert (response.diff() < 0).all()


def test_noise_is_standard_and_correlated() -> None:
    noise = noise_texture(np.random.default_rng(0), (4, 128, 128), 0.9, 0.7)
    assert float(noise.std()) == pytest.approx(1, abs=1e-3)
    assert abs(float(noise.mean())) < 0.02
    neighbours = float((noise[:, :, 1:] * noise[:, :, :-1]).mean())
    assert 0.1 < neighbours < 0.9


def test_a_quiet_scanner_shows_water_as_it_is() -> None:
    hu = scanned(QUIET, torch.zeros(8, 60, 60))
    assert hu.shape == (4, 128, 128)
    assert hu[:, 50:80, 50:80].eq(0).all()
    assert hu[:, 0, 0].eq(-1000).all()


def test_noise_of_a_scan_is_the_protocols() -> None:
    hu = scanned(replaced(noise_hu=4.0), torch.full((8, 60, 60), 30.0))
    assert 0.6 * 4 < float(hu[:, 48:80, 48:80].std()) < 1.1 * 4
    assert hu[:, 0, 0].eq(-1000).all()  # none in the air around


def test_calibration_shifts_and_stretches() -> None:
    hu = scanned(replaced(offset_hu=3.0, gain=1.02), torch.full((8, 60, 60), 50.0))
    assert float(hu[2, 64, 64]) == 54.0


def test_a_narrow_field_of_view_cuts_to_air() -> None:
    hu = scanned(replaced(clip_radius_mm=20.0), torch.full((8, 60, 60), 50.0))
    assert float(hu[0, 64, 64]) == 50.0
    assert float(hu[0, 64, 90]) == -1000.0


def test_a_head_rest_lies_below_the_head_only() -> None:
    planes = torch.full((8, 60, 60), -1000.0)
    planes[:, 5:50, 10:50] = 30.0
    hu = scanned(replaced(head_rest_hu=100.0), planes)
    plain = scanned(QUIET, planes)
    changed = (hu - plain).abs() > 100
    assert changed.any()
    assert torch.nonzero(changed)[:, 1].min() > 70


def test_beam_hardening_is_dark_between_dense_bones_and_bright_beside_bone() -> None:
    hu = torch.full((2, 96, 96), 30.0)
    hu[0, 40:56, 12:28] = 1400.0
    hu[0, 40:56, 68:84] = 1400.0
    rng = np.random.default_rng(0)
    change = beam_hardening(rng, hu, 1.0, cupping_hu=0.0, streak_hu=10.0)
    between, above = float(change[0, 40:56, 40:56].mean()), float(change[0, 10, 48])
    assert between < -1
    assert above == pytest.approx(0, abs=0.3)
    assert change[1].abs().max() == 0
    bright = beam_hardening(rng, hu, 1.0, cupping_hu=10.0, streak_hu=0.0)
    assert float(bright[0, 60, 20]) > float(bright[0, 90, 48]) >= 0


def test_slice_tails_take_from_both_neighbours_and_keep_what_is_even() -> None:
    slices = torch.zeros(5, 2, 2)
    slices[2] = 100.0
    assert with_tails(slices, 0.1)[:, 0, 0].tolist() == pytest.approx([0.0, 10.0, 80.0, 10.0, 0.0])
    assert with_tails(torch.full((3, 2, 2), 7.0), 0.1).flatten().tolist() == pytest.approx([7.0] * 12)
    assert torch.equal(with_tails(slices[2:3], 0.1), slices[2:3])


def test_shading_is_slow_and_of_about_unit_size() -> None:
    shading = slow_shading(np.random.default_rng(0), (40, 128, 128), 1.0)
    assert float(shading.std()) == pytest.approx(1.0, abs=0.35)
    assert float((shading[:, 1:] - shading[:, :-1]).abs().max()) < 0.25


def test_motion_streaks_run_along_lines_of_some_slices() -> None:
    streaks = motion_streaks(np.random.default_rng(3), (20, 64, 64), 1.0)
    touched = streaks.flatten(1).abs().sum(dim=1) > 0
    assert 1 <= int(touched.sum()) <= 5


def test_protocols_span_the_noise_of_real_scanners() -> None:
    drawn = [Protocol.draw(np.random.default_rng(seed)) for seed in range(200)]
    noise = np.array([p.noise_hu for p in drawn])
    assert noise.min() >= 1.8
    assert noise.max() <= 6.5
    assert np.std([p.offset_hu for p in drawn]) == pytest.approx(2, rel=0.3)
    assert any(p.clip_radius_mm is not None for p in drawn)
    assert any(p.head_rest_hu is None for p in drawn)
