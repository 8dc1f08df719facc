"""Windows, stitching and the scale of a whole scan."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from hgisam.segment import (
    AggregationOptions,
    PoseOptions,
    StageMaps,
    WindowOptions,
    aggregate,
    agreed_over_slices,
    in_scan_context,
    plan_windows,
    score_windows,
    smooth_over_slices,
    stitch_stage_maps,
)

CPU = torch.device("cpu")


def pooled_image(images: Tensor) -> tuple[Tensor, list[Tensor]]:
    """A stand-in network: very sure of blood, and its one stage map is the first channel at a quarter of the size."""
    return torch.full((len(images),), 50.0), [avg_pool2d(images[:, 0], 4)]


def everywhere(images: Tensor) -> Tensor:
    """A region that leaves nothing out."""
    return torch.ones(len(images), *images.shape[-2:], dtype=torch.bool)


@settings(deadline=None, max_examples=25)
@given(st.integers(64, 200), st.integers(64, 200), st.floats(0.0, 0.75))
def test_windows_cover_every_pixel_and_stay_inside(height: int, width: int, overlap: float) -> None:
    covered = torch.zeros(height, width, dtype=torch.bool)
    for top, left in plan_windows((height, width), 64, WindowOptions(overlap=overlap)):
        assert 0 <= top <= height - 64
        assert 0 <= left <= width - 64
        covered[top : top + 64, left : left + 64] = True
    assert covered.all()


def test_a_canvas_of_the_field_of_view_is_one_window() -> None:
    assert plan_windows((64, 64), 64, WindowOptions()) == [(0, 0)]


def test_a_canvas_smaller_than_the_field_of_view_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 64 x 64"):
        plan_windows((64, 60), 64, WindowOptions())


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_scores_belong_to_their_slice_and_window_whatever_the_batch(batch_size: int) -> None:
    images = torch.arange(5.0)[:, None, None, None] + torch.arange(96.0)[None, None, None, :] / 1000
    images = images.expand(5, 1, 64, 96).contiguous()
    windows = [(0, 0), (0, 32)]
    scores = score_windows(lambda x: x.amin(dim=(2, 3)), images, [4, 1], windows, 64, batch_size, CPU)
    torch.testing.assert_close(scores[..., 0], torch.tensor([[4.0, 4.032], [1.0, 1.032]]))


def in_poses(
    stage_maps: StageMaps,
    images: Tensor,
    options: PoseOptions,
    region: Tensor | None = None,
    *,
    comparable: bool = False,
) -> Tensor:
    """Maps of the images, one window each, all of which shows brain unless a region says otherwise."""
    every, side = range(len(images)), images.shape[-1]
    return stitch_stage_maps(
        stage_maps,
        images,
        everywhere(images) if region is None else region,
        every,
        [(0, 0)],
        side,
        len(images),
        CPU,
        WindowOptions(),
        comparable=comparable,
        poses=options,
    )


@pytest.mark.parametrize(
    "options", [PoseOptions(mirrored=True), PoseOptions(shifts_px=(4, 24), mirrored=True)], ids=str
)
def test_maps_that_follow_the_image_are_the_same_in_every_pose(options: PoseOptions) -> None:
    """A shift by whole tokens, or a flip, moves the stand-in's map with the image; back in place, all poses agree."""
    images = torch.zeros(2, 3, 64, 64)
    images[:, :, 28:36, 28:36] = torch.rand(2, 3, 8, 8)
    (plain,) = pooled_image(images)[1]
    fine = interpolate(plain[:, None], size=(64, 64), mode="bilinear")
    torch.testing.assert_close(in_poses(pooled_image, images, options), fine / fine.mean(dim=(2, 3), keepdim=True))
    brain = torch.zeros(2, 64, 64, dtype=torch.bool)
    brain[:, 20:60, 24:50] = True  # neither its mirror image nor moved by any shift
    inside = fine[:, 0][brain].reshape(2, -1).mean(dim=1)[:, None, None, None]
    torch.testing.assert_close(in_poses(pooled_image, images, options, brain), fine / inside)
    certain = in_poses(pooled_image, images, options, brain, comparable=True)
    torch.testing.assert_close(certain, fine / inside * brain[:, None])


def test_a_map_stretched_slice_by_slice_is_the_same_with_poses() -> None:
    """Air takes no part in it, so a map that is nowhere 0 still has its own lowest value for the lowest."""
    images = torch.full((1, 1, 64, 64), 0.5)
    images[:, :, 28:36, 28:36] = 0.6
    brain = torch.zeros(1, 64, 64, dtype=torch.bool)
    brain[:, 16:48, 12:52] = True
    options = AggregationOptions(normalisation="slice")
    plain, posed = (
        aggregate(in_poses(pooled_image, images, poses, brain), brain, options)
        for poses in (PoseOptions(), PoseOptions(mirrored=True, shifts_px=(4,)))
    )
    torch.testing.assert_close(posed, plain, atol=1e-4, rtol=0.0)
    assert float(plain[0, 17, 13]) < 1e-4


def test_what_does_not_follow_the_image_is_thinned_out_by_poses() -> None:
    """A network that always sees something at its left border: with the mirrored pose it is half as strong there."""

    def biased(images: Tensor) -> tuple[Tensor, list[Tensor]]:
        stage = torch.ones(len(images), 64, 64)
        stage[:, :, 0] = 5.0
        return images.mean(dim=(1, 2, 3)), [stage]

    images = torch.rand(1, 1, 64, 64)
    found = in_poses(biased, images, PoseOptions(mirrored=True))[0, 0]
    torch.testing.assert_close(found[7, [0, 30, 63]], torch.tensor([3.0, 1.0, 3.0]) / (68 / 64))
    torch.testing.assert_close(in_poses(biased, images, PoseOptions())[0, 0, 7, [0, 30]], torch.tensor([5.0, 1.0]))


def test_the_probability_is_of_the_mean_log_odds_over_poses() -> None:
    """Multiples of their own mean have a mean of 1; what is left is the probability."""

    def first_pixel(images: Tensor) -> tuple[Tensor, list[Tensor]]:
        return images[:, 0, 0, 0] / 10, [images[:, 0]]

    images = torch.arange(16.0).reshape(1, 1, 4, 4) + 1
    found = in_poses(first_pixel, images, PoseOptions(mirrored=True, shifts_px=(1,)), comparable=True)
    log_odds = (1 + 4 + 14) / 30  # as it is, mirrored, moved down and left
    assert float(found.mean()) == pytest.approx(1 / (1 + math.exp(-log_odds)))


def test_a_slice_that_shows_little_brain_shines_no_brighter_for_it() -> None:
    """A spot five times as bright as the brain about it, which fills the window, half of it, and 8 pixels beside it."""
    images = torch.full((3, 1, 64, 64), 0.1)
    brain = torch.zeros(3, 64, 64, dtype=torch.bool)
    brain[0] = True
    brain[1, 16:48] = True
    brain[2, 24:40, 24:40] = True
    images[:, 0][~brain] = 0.0
    images[:, :, 28:36, 28:36] = 0.5

    def as_bright(batch: Tensor) -> tuple[Tensor, list[Tensor]]:
        return torch.full((len(batch),), 50.0), [batch[:, 0]]

    stages = stitch_stage_maps(
        as_bright, images, brain, range(3), [(0, 0)], 64, 2, CPU, WindowOptions(), comparable=True
    )[:, 0]
    spot, pixels = 64.0, torch.tensor([64.0 * 64, 32.0 * 64, 16.0 * 16])
    torch.testing.assert_close(stages[:, 30, 30], 5 / ((5 * spot + pixels - spot) / pixels))
    assert not stages[~brain].any()


def test_what_a_map_says_of_air_counts_nowhere() -> None:
    images = torch.rand(1, 1, 64, 128, generator=torch.Generator().manual_seed(2))
    brain = torch.zeros(1, 64, 128, dtype=torch.bool)
    brain[:, 10:50, 10:50] = True
    hot_air = torch.where(brain[:, None], images, 40.0)
    windows = plan_windows((64, 128), 64, WindowOptions())
    assert len(windows) == 3  # the last of them shows no brain

    def as_bright(batch: Tensor) -> tuple[Tensor, list[Tensor]]:
        return torch.zeros(len(batch)), [batch[:, 0]]

    found, other = (
        stitch_stage_maps(as_bright, shown, brain, [0], windows, 64, 2, CPU, WindowOptions(), comparable=True)
        for shown in (images, hot_air)
    )
    torch.testing.assert_close(found, other)
    assert found[:, 0][brain].min() > 0
    assert not found[:, 0][~brain].any()


def test_no_slices_give_no_scores_and_no_maps() -> None:
    images = torch.zeros(3, 1, 64, 64)
    assert score_windows(lambda x: x.amin(dim=(2, 3)), images, [], [(0, 0)], 64, 4, CPU).shape[0] == 0
    stages = stitch_stage_maps(
        pooled_image, images, everywhere(images), [], [(0, 0)], 64, 4, CPU, WindowOptions(), comparable=True
    )
    assert aggregate(stages, torch.zeros(0, 64, 64, dtype=torch.bool), AggregationOptions()).shape == (0, 64, 64)


@pytest.mark.parametrize("canvas", [(64, 64), (96, 112)])
def test_blended_windows_of_a_constant_are_the_constant(canvas: tuple[int, int]) -> None:
    images = torch.full((2, 1, *canvas), 0.3)
    windows = plan_windows(canvas, 64, WindowOptions())
    stages = stitch_stage_maps(
        pooled_image, images, everywhere(images), [0, 1], windows, 64, 3, CPU, WindowOptions(), comparable=False
    )
    torch.testing.assert_close(stages, torch.full((2, 1, *canvas), 0.3))


def test_stitching_depends_on_no_batch_size() -> None:
    images = torch.rand(3, 1, 80, 96, generator=torch.Generator().manual_seed(0))
    windows = plan_windows((80, 96), 64, WindowOptions())
    one, many = (
        stitch_stage_maps(
            pooled_image, images, everywhere(images), [0, 2], windows, 64, size, CPU, WindowOptions(), comparable=True
        )
        for size in (1, 50)
    )
    torch.testing.assert_close(one, many)


def test_a_sure_slice_with_small_gradients_is_as_bright_as_a_doubtful_one() -> None:
    images = torch.full((2, 1, 64, 64), 0.1)
    images[:, 0, 30:38, 20:28] = 1.0

    def saturated(batch: Tensor) -> tuple[Tensor, list[Tensor]]:
        gradient = torch.tensor([1e-3, 1.0])[:, None, None]
        return torch.tensor([9.0, 0.0]), [avg_pool2d(batch[:, 0], 4) * gradient]

    stages = stitch_stage_maps(
        saturated, images, everywhere(images), [0, 1], [(0, 0)], 64, 2, CPU, WindowOptions(), comparable=True
    )
    peaks = aggregate(stages, torch.ones(2, 64, 64, dtype=torch.bool), AggregationOptions()).amax(dim=(1, 2))
    torch.testing.assert_close(peaks, torch.tensor([1.0, 0.5**0.5]), atol=1e-3, rtol=0.0)


def test_a_window_without_blood_adds_no_light_of_its_own() -> None:
    """Each window has its own hot spot; stretched one by one, both would be 1. Raw and weighed, only one is."""
    images = torch.full((1, 1, 64, 128), 0.01)
    images[0, 0, 30:38, 20:28] = 1.0
    images[0, 0, 30:38, 100:108] = 0.05

    def sure_where_bright(batch: Tensor) -> tuple[Tensor, list[Tensor]]:
        return 20 * (batch.amax(dim=(1, 2, 3)) - 0.5), [avg_pool2d(batch[:, 0], 4)]

    windows = plan_windows((64, 128), 64, WindowOptions(overlap=0.0))
    stages = stitch_stage_maps(
        sure_where_bright, images, everywhere(images), [0], windows, 64, 2, CPU, WindowOptions(), comparable=True
    )
    saliency = aggregate(stages, torch.ones(1, 64, 128, dtype=torch.bool), AggregationOptions())[0]
    assert saliency[34, 24] == 1.0
    assert saliency[:, 64:].max() < 0.02


def test_a_faint_second_lesion_stays_visible_across_the_volume_and_is_lost_as_published() -> None:
    """Three stages see one lesion at 1 and another, in another slice's company too, at 0.1: worked by hand."""
    stages = torch.zeros(2, 3, 8, 8)
    stages[0, :, 2, 2] = 1.0
    stages[0, :, 5, 5] = 0.1
    stages[1, :, 3, 3] = 0.04
    region = torch.ones(2, 8, 8, dtype=torch.bool)
    volume = aggregate(stages, region, AggregationOptions(normalisation="volume"))
    published = aggregate(stages, region, AggregationOptions(normalisation="slice"))
    assert float(volume[0, 5, 5]) == pytest.approx(0.1**0.5, rel=1e-4)
    assert float(volume[1, 3, 3]) == pytest.approx(0.2, rel=1e-4)
    assert float(published[0, 5, 5]) == pytest.approx(0.001, rel=1e-4)
    assert float(published[1, 3, 3]) == 1.0


@pytest.mark.parametrize("normalisation", ["volume", "slice"])
def test_maps_are_finite_in_range_and_zero_outside_the_region(normalisation: str) -> None:
    generator = torch.Generator().manual_seed(1)
    stages = torch.rand(4, 3, 16, 16, generator=generator) * torch.tensor([1e-12, 1.0, 1e6])[None, :, None, None]
    stages[2] = 0.0
    region = torch.rand(4, 16, 16, generator=generator) > 0.5
    region[3] = False
    maps = aggregate(stages, region, AggregationOptions.model_validate({"normalisation": normalisation}))
    assert torch.isfinite(maps).all()
    assert 0.0 <= float(maps.min()) <= float(maps.max()) == 1.0
    assert not maps[~region].any()
    assert not maps[2:].any()


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=40))
def test_smoothing_keeps_the_range_and_the_mean_of_inner_slices(values: list[float]) -> None:
    smooth = smooth_over_slices(torch.tensor(values))
    assert smooth.shape == (len(values),)
    assert min(values) - 1e-6 <= float(smooth.min()) <= float(smooth.max()) <= max(values) + 1e-6


def test_the_maximum_of_stages_is_on_the_scans_own_scale() -> None:
    """A lone stage is as it is, no root taken; of several, each is saturated, and the highest counts."""
    stages = torch.zeros(2, 1, 8, 8)
    stages[0, 0, 2, 2], stages[1, 0, 3, 3] = 4.0, 1.0
    region = torch.ones(2, 8, 8, dtype=torch.bool)
    lone = aggregate(stages, region, AggregationOptions(), "maximum")
    assert (float(lone[0, 2, 2]), float(lone[1, 3, 3])) == (1.0, 0.25)
    other = torch.zeros(2, 1, 8, 8)
    other[1, 0, 3, 3], other[0, 0, 5, 5] = 0.5, 1.0
    both = aggregate(torch.cat([stages, other], dim=1), region, AggregationOptions(), "maximum")
    assert float(both[1, 3, 3]) == pytest.approx(0.7616 / 0.9640, abs=1e-4)  # tanh(2 x 0.5) / tanh(2)
    published = aggregate(stages, region, AggregationOptions(normalisation="slice"), "maximum")
    assert float(published[1, 3, 3]) == 1.0


def test_what_goes_on_in_the_next_slice_outshines_what_does_not() -> None:
    """Slices 5 mm apart, two places of one brightness, one of them in two slices: worked by hand."""
    saliency = torch.zeros(3, 1, 2)
    saliency[0, 0, 0] = saliency[1, 0, 0] = saliency[1, 0, 1] = 0.8
    share = math.exp(-0.5)
    one, twice = 1 / (1 + 2 * share), (1 + share) / (1 + 2 * share)  # what of the middle's neighbourhood is lit
    end = (1 + share) / (1 + share + math.exp(-2))
    found = agreed_over_slices(saliency, torch.tensor([0.0, 5.0, 10.0]), 5.0)
    assert float(found[1, 0, 1] / found[1, 0, 0]) == pytest.approx((one / twice) ** 0.5)
    assert float(found[0, 0, 0] / found[1, 0, 0]) == pytest.approx((end / twice) ** 0.5)
    assert float(found.max()) == pytest.approx(0.8)
    assert not found[2].any()


def test_neighbours_are_told_by_their_distance_and_a_lone_slice_has_none() -> None:
    saliency = torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(agreed_over_slices(saliency, torch.tensor([0.0, 1000.0]), 5.0), saliency)
    torch.testing.assert_close(agreed_over_slices(saliency[:1], torch.zeros(1), 5.0), saliency[:1])
    assert agreed_over_slices(saliency, torch.tensor([0.0, 1.0]), 0.0) is saliency
    assert not agreed_over_slices(torch.zeros(2, 4, 4), torch.tensor([0.0, 1.0]), 5.0).any()


def test_smoothing_spreads_one_slice_over_its_neighbours() -> None:
    assert smooth_over_slices(torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0])).tolist() == [0.0, 0.25, 0.5, 0.25, 0.0]


def test_the_context_of_a_scan_lifts_its_faint_slices_and_keeps_their_order() -> None:
    faint = torch.tensor([-2.0, -1.0, -3.0, -3.0])
    beside_blood = torch.cat([faint, torch.tensor([4.0, 5.0, 6.0])])
    assert torch.equal(in_scan_context(faint, 0.0), faint)
    assert in_scan_context(faint, 0.5).tolist() == pytest.approx([(x - 0.5 * 2.0) / 1.5 for x in faint.tolist()])
    lifted = in_scan_context(beside_blood, 0.5)
    assert lifted[:4].tolist() == pytest.approx([(x + 0.5 * 5.0) / 1.5 for x in faint.tolist()])
    assert torch.equal(lifted.argsort(stable=True), beside_blood.argsort(stable=True))


def test_the_context_of_no_slice_is_nothing_and_of_one_is_itself() -> None:
    assert in_scan_context(torch.zeros(0), 0.3).shape == (0,)
    assert in_scan_context(torch.tensor([1.5]), 0.3).tolist() == pytest.approx([1.5])
