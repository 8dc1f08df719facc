"""The canvas: geometry that inverts, averages that do not alias, channels with the values they promise."""

import math

import numpy as np
import pytest
import torch
from analytic_head import AnalyticHead, draw_head, house_affine
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hgisam.brain import Midline
from hgisam.preprocess import PreprocessOptions, SliceBatch, neighbour_rows, network_images, preprocess
from hgisam.volume import CTVolume

STRAIGHT = Midline(angle_deg=0.0, offset_mm=0.0, offset_step_mm=0.0)

angles = st.floats(-45, 45)
offsets = st.floats(-12, 12)
spacings = st.tuples(st.floats(2, 8), st.floats(0.4, 1.6), st.floats(0.4, 1.6))


def disc_scan(
    spacing_mm: tuple[float, float, float] = (5.0, 0.8, 0.8),
    fov_mm: float = 200.0,
    depth: int = 3,
    radius_mm: float = 70.0,
) -> tuple[CTVolume, Tensor]:
    """Flat slices of 30 HU and their region, a disc about the middle of the picture."""
    rows, columns = round(fov_mm / spacing_mm[1]), round(fov_mm / spacing_mm[2])
    y = ((torch.arange(rows) - (rows - 1) / 2) * spacing_mm[1])[:, None]
    x = ((torch.arange(columns) - (columns - 1) / 2) * spacing_mm[2])[None, :]
    region = (y**2 + x**2 <= radius_mm**2).expand(depth, -1, -1).clone()
    return CTVolume(torch.full((depth, rows, columns), 30.0), house_affine(spacing_mm), "disc"), region


def prepared(head: AnalyticHead, line: Midline, **settings: object) -> SliceBatch:
    return preprocess(head.ct, head.inside, line, 35.0, PreprocessOptions.model_validate(settings))


def native_coordinates_mm(volume: CTVolume) -> tuple[Tensor, Tensor]:
    """(y, x) in mm of every pixel from the middle of the picture."""
    _, height, width = volume.hu.shape
    y = (torch.arange(height) - (height - 1) / 2) * volume.spacing_mm[1]
    x = (torch.arange(width) - (width - 1) / 2) * volume.spacing_mm[2]
    return y[:, None].expand(height, width), x[None, :].expand(height, width)


@settings(max_examples=40, deadline=None)
@given(spacings, angles, offsets, st.floats(-2, 2), st.floats(0.5, 2.0), st.booleans())
def test_an_index_goes_to_the_scan_and_back_unchanged(
    spacing_mm: tuple[float, float, float], angle: float, offset: float, step: float, canvas_mm: float, align: bool
) -> None:
    volume, region = disc_scan(spacing_mm, fov_mm=60.0, radius_mm=20.0)
    line = Midline(angle_deg=angle, offset_mm=offset, offset_step_mm=step)
    options = PreprocessOptions(spacing_mm=canvas_mm, fov_px=48, align=align)
    batch = preprocess(volume, region, line, 30.0, options)
    indices = torch.tensor([[0.0, 0.0, 1.0], [17.5, 40.0, 1.0], [47.0, 3.25, 1.0]], dtype=torch.float64).T
    for sampling in batch.sampling:
        homogeneous = torch.cat([sampling, torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64)])
        native = homogeneous @ indices
        torch.testing.assert_close(torch.linalg.inv(homogeneous) @ native, indices, atol=1e-6, rtol=0)
        steps_mm = homogeneous[:2, :2] * torch.tensor(volume.spacing_mm[1:], dtype=torch.float64)[:, None]
        torch.testing.assert_close(steps_mm.T @ steps_mm, canvas_mm**2 * torch.eye(2, dtype=torch.float64))


@settings(max_examples=25, deadline=None)
@given(angles, offsets, st.floats(-1.5, 1.5))
def test_the_line_is_the_canvas_centre_column_in_every_slice(angle: float, offset: float, step: float) -> None:
    volume, region = disc_scan(depth=4)
    line = Midline(angle_deg=angle, offset_mm=offset, offset_step_mm=step)
    batch = preprocess(volume, region, line, 30.0)
    centre = (batch.region.shape[2] - 1) / 2
    _, height, width = volume.hu.shape
    for depth, sampling in enumerate(batch.sampling):
        for row in (0.0, 50.0, 191.0):
            h, w = sampling @ torch.tensor([row, centre, 1.0], dtype=torch.float64)
            y, x = (h - (height - 1) / 2) * 0.8, (w - (width - 1) / 2) * 0.8
            distance = x * math.cos(math.radians(angle)) + y * math.sin(math.radians(angle))
            assert float(distance) == pytest.approx(line.offset_at_mm(depth), abs=1e-6)


def test_rows_run_to_posterior_and_columns_to_left() -> None:
    volume, region = disc_scan()
    batch = preprocess(volume, region, Midline(angle_deg=20.0, offset_mm=3.0, offset_step_mm=0.0), 30.0)
    assert bool((batch.sampling[:, 0, 0] > 0).all())
    assert bool((batch.sampling[:, 1, 1] > 0).all())


@settings(max_examples=15, deadline=None)
@given(spacings, st.floats(-30, 30), st.floats(-8, 8))
def test_a_smooth_picture_comes_back(spacing_mm: tuple[float, float, float], angle: float, offset: float) -> None:
    volume, region = disc_scan(spacing_mm)
    y, x = native_coordinates_mm(volume)
    smooth = (40 + 20 * torch.sin(y / 20) + 15 * torch.cos(x / 25)).expand(3, -1, -1).contiguous()
    scan = CTVolume(smooth, volume.affine, "smooth")
    batch = preprocess(scan, region, Midline(angle_deg=angle, offset_mm=offset, offset_step_mm=0.5), 30.0)
    back = batch.to_native(batch.relative_hu) + 30.0
    assert float((back - smooth)[region].abs().max()) < 0.25


@settings(max_examples=15, deadline=None)
@given(spacings, st.floats(-30, 30), st.floats(15, 40), st.floats(-25, 25))
def test_a_masks_volume_survives_the_way_there_and_back(
    spacing_mm: tuple[float, float, float], angle: float, radius_mm: float, centre_mm: float
) -> None:
    volume, region = disc_scan(spacing_mm)
    y, x = native_coordinates_mm(volume)
    lesion = ((y - centre_mm) ** 2 + (x + centre_mm) ** 2 <= radius_mm**2).expand(3, -1, -1)
    scan = CTVolume(torch.where(lesion, 80.0, 30.0), volume.affine, "lesion")
    batch = preprocess(scan, region, Midline(angle_deg=angle, offset_mm=0.0, offset_step_mm=0.0), 30.0)
    back = batch.to_native((batch.relative_hu > 25.0).float()) > 0.5
    assert float(back.sum()) == pytest.approx(float(lesion.sum()), rel=0.04)


def test_the_way_back_is_zero_where_the_canvas_does_not_reach() -> None:
    volume, region = disc_scan(fov_mm=240.0, radius_mm=40.0)
    batch = preprocess(volume, region, STRAIGHT, 30.0, PreprocessOptions(fov_px=96))
    back = batch.to_native(torch.ones(batch.region.shape))
    y, x = native_coordinates_mm(volume)
    reached = (y.abs() < 47) & (x.abs() < 47)
    np.testing.assert_allclose(back[:, reached], 1.0, atol=1e-4)
    assert bool((back[:, (y.abs() > 50) | (x.abs() > 50)] == 0).all())


def test_maps_of_another_shape_are_refused() -> None:
    volume, region = disc_scan()
    batch = preprocess(volume, region, STRAIGHT, 30.0)
    with pytest.raises(ValueError, match="to_native: expected maps on the canvas"):
        batch.to_native(torch.ones(3, 191, 192))
    with pytest.raises(ValueError, match="to_canvas: expected maps on the scan's grid"):
        batch.to_canvas(torch.ones(3, 192, 192))


def test_native_maps_land_on_the_canvas_where_their_voxels_do() -> None:
    volume, region = disc_scan()
    line = Midline(angle_deg=18.0, offset_mm=4.0, offset_step_mm=1.0)
    batch = preprocess(volume, region, line, 30.0)
    agreement = (batch.to_canvas(region.float()) >= 0.5) == batch.region
    assert float(agreement.float().mean()) > 0.995


def test_a_lesion_has_one_size_whatever_the_pixels() -> None:
    areas = []
    for spacing in (0.4, 0.7, 1.1):
        volume, region = disc_scan((5.0, spacing, spacing))
        y, x = native_coordinates_mm(volume)
        lesion = (y**2 + (x - 20) ** 2 <= 15**2).expand(3, -1, -1)
        scan = CTVolume(torch.where(lesion, 80.0, 30.0), volume.affine, "lesion")
        areas.append(float((preprocess(scan, region, STRAIGHT, 30.0).relative_hu[0] > 25).sum()))
    assert areas == pytest.approx([math.pi * 15**2] * 3, rel=0.02)


def test_fine_stripes_become_their_mean_and_do_not_alias() -> None:
    volume, region = disc_scan((5.0, 0.5, 0.5))
    stripes = torch.where(torch.arange(volume.hu.shape[2]) % 2 == 0, 0.0, 60.0).expand_as(volume.hu).contiguous()
    batch = preprocess(CTVolume(stripes, volume.affine, "stripes"), region, STRAIGHT, 30.0)
    assert float(batch.relative_hu[batch.region].abs().max()) < 1.0


def test_pixels_finer_than_the_canvas_average_their_noise() -> None:
    volume, region = disc_scan((5.0, 0.4, 0.4))
    noise = 10.0 * torch.randn(volume.hu.shape, generator=torch.Generator().manual_seed(0))
    batch = preprocess(CTVolume(30.0 + noise, volume.affine, "noise"), region, STRAIGHT, 30.0)
    # the mean over a 1 mm pixel of independent 0.4 mm pixels: 10 / (1 / 0.4) = 4 HU
    assert float(batch.relative_hu[batch.region].std()) == pytest.approx(4.0, rel=0.15)


def test_the_canvas_grows_for_a_larger_head_and_is_one_for_all_slices() -> None:
    volume, region = disc_scan(radius_mm=90.0)
    batch = preprocess(volume, region, STRAIGHT, 30.0, PreprocessOptions(fov_px=128, margin_mm=4.0))
    assert batch.images.shape[2:] == (192, 192)  # 2 x 94 mm is 188 px; a multiple of 8
    assert preprocess(volume, region, STRAIGHT, 30.0, PreprocessOptions(fov_px=256)).images.shape[2:] == (256, 256)
    area_mm2 = float(batch.region[0].sum())
    assert area_mm2 == pytest.approx(math.pi * 90.0**2, rel=0.01)


def test_without_a_region_the_canvas_is_the_middle_of_the_picture() -> None:
    volume, region = disc_scan()
    batch = preprocess(volume, torch.zeros_like(region), STRAIGHT, 30.0)
    assert batch.images.shape == (3, 2, 192, 192)
    assert not bool(batch.region.any())
    middle = batch.sampling[0] @ torch.tensor([95.5, 95.5, 1.0], dtype=torch.float64)
    assert middle.tolist() == pytest.approx([(n - 1) / 2 for n in volume.hu.shape[1:]])


@pytest.mark.parametrize("channels", ["relative", "windows_fixed", "windows_observed"])
@pytest.mark.parametrize("hu", [-1024.0, 0.0, 30.0, 3000.0, float("nan"), float("inf")])
def test_channels_are_finite_and_in_range_for_flat_scans(channels: str, hu: float) -> None:
    volume, region = disc_scan()
    flat = CTVolume(torch.full_like(volume.hu, hu), volume.affine, "flat")
    options = PreprocessOptions.model_validate({"channels": channels})
    batch = preprocess(flat, region, STRAIGHT, 30.0, options)
    assert batch.images.dtype == torch.float32
    assert batch.images.shape == (3, options.n_channels, 192, 192)
    assert bool(torch.isfinite(batch.images).all())
    assert bool(torch.isfinite(batch.relative_hu).all())
    assert float(batch.images.min()) >= 0.0
    assert float(batch.images.max()) <= 1.0


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["relative", "windows_fixed", "windows_observed"]), st.booleans())
def test_channels_are_in_range_for_any_scan(seed: int, channels: str, skull: bool) -> None:
    volume, region = disc_scan(fov_mm=64.0, radius_mm=25.0)
    hu = 800.0 * torch.randn(volume.hu.shape, generator=torch.Generator().manual_seed(seed))
    options = PreprocessOptions.model_validate({"channels": channels, "skull_channel": skull, "fov_px": 64})
    images = preprocess(CTVolume(hu, volume.affine, "noise"), region, STRAIGHT, 30.0, options).images
    assert images.shape[1] == options.n_channels == (2 + skull if channels == "relative" else 3)
    assert float(images.min()) >= 0.0
    assert float(images.max()) <= 1.0


@pytest.mark.parametrize("channels", ["relative", "windows_fixed", "windows_observed"])
def test_a_slice_does_not_depend_on_its_batch_mates(channels: str) -> None:
    head = draw_head(angle_deg=9.0, bottom_mm=-20.0, top_mm=20.0)
    line = Midline(angle_deg=9.0, offset_mm=1.0, offset_step_mm=0.0)
    together = prepared(head, line, channels=channels)
    changed = head.ct.hu.clone()
    changed[1:] += 40.0
    others = CTVolume(changed, head.ct.affine, "other mates")
    options = PreprocessOptions.model_validate({"channels": channels})
    apart = preprocess(others, head.inside, line, 35.0, options)
    torch.testing.assert_close(apart.images[0], together.images[0], atol=1e-6, rtol=0)


def test_neighbours_are_channels_where_both_show_brain() -> None:
    head = draw_head(bottom_mm=-20.0, top_mm=20.0)
    region = head.inside.clone()
    region[3] = False
    options = PreprocessOptions(neighbours=1, align=False)
    hu = head.ct.hu + 3.0 * torch.arange(len(region))[:, None, None]
    ct = CTVolume(hu, head.ct.affine, "a ramp")
    batch = preprocess(ct, region, STRAIGHT, 35.0, options)
    own = preprocess(ct, region, STRAIGHT, 35.0, PreprocessOptions(align=False))
    assert batch.images.shape[1] == options.n_channels == 4
    assert torch.equal(batch.images[:, :2], own.images)
    assert len(region) == 8
    inside = batch.region[[0, 1, 2, 4, 5, 6, 7]].all(dim=0)
    for index, sources in {0: (0, 1), 1: (0, 2), 2: (1, 2), 4: (4, 5), 6: (5, 7), 7: (6, 7)}.items():
        for channel, source in enumerate(sources, start=2):
            assert torch.equal(batch.images[index, channel][inside], own.images[source, 0][inside])
    outside = ~batch.region[0] & ~batch.region[1]
    assert not batch.images[0, 3][outside & (own.images[0, 0] == 0)].any()  # hidden where the slice's own outside is


def test_neighbours_are_numbered_from_the_nearest_above_and_below() -> None:
    assert neighbour_rows([4, 5, 6, 9], 2).tolist() == [[0, 1, 0, 2], [0, 2, 1, 1], [1, 2, 0, 2], [3, 3, 3, 3]]
    assert neighbour_rows([], 1).shape == (0, 2)


def test_a_scan_without_brain_has_neighbours_of_its_own() -> None:
    volume, region = disc_scan()
    images = preprocess(volume, torch.zeros_like(region), STRAIGHT, 30.0, PreprocessOptions(neighbours=1)).images
    assert images.shape[1] == 4
    assert torch.equal(images[:, 2], images[:, 0])


def test_neighbours_are_not_guessed() -> None:
    options, hu, region = PreprocessOptions(neighbours=1), torch.zeros(2, 8, 8), torch.ones(2, 8, 8, dtype=torch.bool)
    with pytest.raises(ValueError, match="expected 2 neighbours of each slice; got none"):
        network_images(hu, region, 30.0, options)
    with pytest.raises(ValueError, match="expected neighbours 0 with channels windows_fixed"):
        PreprocessOptions(neighbours=1, channels="windows_fixed")


def test_chunks_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    head = draw_head(angle_deg=9.0, bottom_mm=-20.0, top_mm=20.0)
    line = Midline(angle_deg=9.0, offset_mm=1.0, offset_step_mm=0.2)
    whole = prepared(head, line, neighbours=1)
    native = whole.to_native(whole.relative_hu)
    monkeypatch.setattr("hgisam.preprocess._CHUNK_VOXELS", 1)
    single = prepared(head, line, neighbours=1)
    torch.testing.assert_close(single.images, whole.images, atol=1e-6, rtol=0)
    torch.testing.assert_close(single.to_native(single.relative_hu), native, atol=1e-4, rtol=0)


def test_fixed_windows_keep_a_hu_at_one_value_and_observed_ones_do_not() -> None:
    volume, region = disc_scan()
    hu = torch.full_like(volume.hu, 20.0)
    hu[0, :, :125] = 60.0  # the same 20 HU beside 60 HU in one slice, beside 40 HU in the next, alone in the last
    hu[1, :, :125] = 40.0
    scan = CTVolume(hu, volume.affine, "steps")
    fixed, observed = (
        preprocess(scan, region, STRAIGHT, 30.0, PreprocessOptions(channels=channels)).images[:, 0, 96]
        for channels in ("windows_fixed", "windows_observed")
    )
    right, left = slice(10, 80), slice(110, 180)
    np.testing.assert_allclose(fixed[:, left], 20 / 80, atol=1e-5)
    np.testing.assert_allclose(fixed[0, right], 60 / 80, atol=1e-5)
    np.testing.assert_allclose(fixed[1, right], 40 / 80, atol=1e-5)
    np.testing.assert_allclose(observed[:2, right], 1.0, atol=1e-4)
    np.testing.assert_allclose(observed[:, left], 0.0, atol=1e-4)


def test_relative_hu_is_mapped_over_its_stated_range() -> None:
    volume, region = disc_scan()
    for median_hu, expected in ((30.0, 40 / 120), (-10.0, 80 / 120), (70.0, 0.0), (-60.0, 1.0)):
        images = preprocess(volume, region, STRAIGHT, median_hu).images
        np.testing.assert_allclose(images[0, 0, 96, 60:130], expected, atol=1e-5)


def test_the_mirror_channel_is_signed_and_antisymmetric() -> None:
    head = draw_head(angle_deg=14.0, offset_mm=5.0, bottom_mm=0.0, top_mm=20.0, noise_hu=0.0)
    bleed = (head.across_mm - 30) ** 2 + head.along_mm**2 < 12**2
    scan = head.with_hu(bleed, 65.0)  # 30 HU over the brain, on the patient's left
    batch = preprocess(scan, head.inside, Midline(angle_deg=14.0, offset_mm=5.0, offset_step_mm=0.0), 35.0)
    mirror = batch.images[1, 1]
    centre_row = batch.images.shape[2] // 2
    assert float(mirror[centre_row, 126]) == pytest.approx(0.5 + 30 / 80, abs=0.02)
    assert float(mirror[centre_row, 192 - 1 - 126]) == pytest.approx(0.5 - 30 / 80, abs=0.02)
    torch.testing.assert_close(mirror.flip(1), 1.0 - mirror, atol=1e-5, rtol=0)
    deep = batch.region[1] & batch.region[1].flip(1)
    elsewhere = deep.clone()
    elsewhere[centre_row - 20 : centre_row + 20] = False
    assert float((mirror[elsewhere] - 0.5).abs().mean()) < 0.01  # a symmetric head differs nowhere else
    assert bool((mirror[~deep] == 0.5).all())


def test_the_mirror_channel_can_be_left_out_and_takes_nothing_else_with_it() -> None:
    head = draw_head(bottom_mm=0.0, top_mm=10.0)
    all_channels = prepared(head, STRAIGHT, skull_channel=True, neighbours=1).images
    without = prepared(head, STRAIGHT, skull_channel=True, neighbours=1, mirror_channel=False).images
    torch.testing.assert_close(without, all_channels[:, [0, 2, 3, 4]])


def test_the_outside_is_hidden_and_can_be_shown() -> None:
    head = draw_head(bottom_mm=0.0, top_mm=10.0)
    hidden = prepared(head, STRAIGHT).images[:, 0]
    shown = prepared(head, STRAIGHT, mask_outside=False).images[:, 0]
    region = prepared(head, STRAIGHT).region
    across = torch.arange(192)[None, None, :].expand_as(region)
    scalp = (across > 95 + 66 + 7 + 1) & (across < 95 + 66 + 7 + 5)
    scalp[:, :90] = scalp[:, 102:] = False
    assert float(hidden[scalp].max()) == 0.0
    assert float(shown[scalp].mean()) == pytest.approx(45 / 120, abs=0.05)
    torch.testing.assert_close(hidden[region], shown[region])


def test_relative_hu_on_the_canvas_is_neither_clipped_nor_masked() -> None:
    head = draw_head(bottom_mm=0.0, top_mm=10.0, noise_hu=0.0)
    relative = prepared(head, STRAIGHT).relative_hu
    assert float(relative.max()) == pytest.approx(900.0 - 35.0, abs=1.0)
    assert float(relative.min()) == pytest.approx(-1000.0 - 35.0, abs=1.0)


def test_the_skull_channel_shows_what_lies_outside() -> None:
    head = draw_head(bottom_mm=0.0, top_mm=10.0, noise_hu=0.0)
    skull = prepared(head, STRAIGHT, skull_channel=True).images[:, 2]
    assert float(skull.max()) == pytest.approx((900 - 35 + 200) / 1200, abs=0.01)
    assert float(skull[0, 96, 96]) == pytest.approx((55 - 35 + 200) / 1200, abs=0.02)


def test_a_region_of_another_scan_is_refused() -> None:
    volume, region = disc_scan()
    with pytest.raises(ValueError, match="disc: expected a region of the scan's shape"):
        preprocess(volume, region[:2], STRAIGHT, 30.0)


@pytest.mark.parametrize("median_hu", [float("nan"), float("inf")])
def test_a_median_that_is_no_number_is_refused(median_hu: float) -> None:
    volume, region = disc_scan()
    with pytest.raises(ValueError, match="disc: expected a finite brain median"):
        preprocess(volume, region, STRAIGHT, median_hu)


def test_the_scan_is_left_as_it_was() -> None:
    volume, region = disc_scan()
    hu, mask = volume.hu.clone(), region.clone()
    preprocess(volume, region, STRAIGHT, 30.0)
    assert torch.equal(hu, volume.hu)
    assert torch.equal(mask, region)
