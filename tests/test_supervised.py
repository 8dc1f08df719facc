"""Slices to a stack and back, a scan through a network that echoes what it sees: every value returns to its place."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hgisam.model.supervised import MaskNetwork, UNetOptions
from hgisam.preprocess import PreprocessOptions
from hgisam.supervised import StackOptions, slice_weights, stack_positions_mm, voxel_probabilities

SEEN = PreprocessOptions(spacing_mm=2.0, fov_px=16)


def mm(*positions: float) -> Tensor:
    return torch.tensor(positions, dtype=torch.float64)


class Echo(MaskNetwork):
    """Says of each pixel that it is blood with the probability that its first channel shows."""

    def __init__(self, spatial_dims: int) -> None:
        super().__init__(UNetOptions(channels=(1, 1), spatial_dims=spatial_dims, slice_halvings=0))

    def forward(self, images: Tensor) -> Tensor:
        return images[:, 0].clamp(1e-4, 1 - 1e-4).logit()


def test_between_two_slices_weights_are_linear_and_beyond_the_ends_the_end_counts() -> None:
    found = slice_weights(mm(0, 5, 15), mm(-3, 2, 5, 12.5, 20))
    expected = torch.tensor([[1, 0, 0], [0.6, 0.4, 0], [0, 1, 0], [0, 0.25, 0.75], [0, 0, 1]])
    torch.testing.assert_close(found, expected)


def test_thin_slices_are_averaged_and_thick_ones_are_not() -> None:
    found = slice_weights(mm(0, 1, 2, 3, 4, 5, 10, 15), mm(2, 10, 12.5), thickness_mm=2.0)
    torch.testing.assert_close(found[0], torch.tensor([0, 0.25, 0.5, 0.25, 0, 0, 0, 0]))
    torch.testing.assert_close(found[1], torch.tensor([0.0, 0, 0, 0, 0, 0, 1, 0]))
    torch.testing.assert_close(found[2], torch.tensor([0, 0, 0, 0, 0, 0, 0.5, 0.5]))


def test_slices_as_far_apart_as_the_stack_s_stay_as_they_are() -> None:
    positions, options = mm(10, 15, 20, 25), StackOptions(slice_mm=5.0, window_slices=4)
    assert torch.equal(stack_positions_mm(positions, options), positions)
    assert torch.equal(slice_weights(positions, positions, 5.0), torch.eye(4))


@given(st.lists(st.floats(0.5, 12.0), min_size=0, max_size=12), st.floats(0.7, 10.0), st.floats(-50.0, 50.0))
def test_a_stack_reaches_from_the_first_slice_to_the_last(steps: list[float], slice_mm: float, first: float) -> None:
    positions = first + torch.tensor([0.0, *steps], dtype=torch.float64).cumsum(0)
    stacked = stack_positions_mm(positions, StackOptions(slice_mm=slice_mm, window_slices=1))
    assert stacked[0] == positions[0]
    assert float(positions[-1]) - 1e-5 <= float(stacked[-1]) < float(positions[-1]) + slice_mm
    weights = slice_weights(positions, stacked, slice_mm)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(len(stacked)))
    assert float(weights.min()) >= 0.0


def test_a_stack_shorter_than_the_window_reaches_beyond_the_scan_where_its_ends_are_repeated() -> None:
    positions = mm(10, 15, 20)
    stacked = stack_positions_mm(positions, StackOptions(slice_mm=5.0, window_slices=6))
    assert stacked.tolist() == [5, 10, 15, 20, 25, 30]
    assert slice_weights(positions, stacked, 5.0).argmax(dim=1).tolist() == [0, 0, 1, 2, 2, 2]
    assert stack_positions_mm(mm(7), StackOptions(slice_mm=5.0, window_slices=4)).tolist() == [2, 7, 12, 17]


def test_a_3d_network_is_never_shown_an_empty_slice_of_a_short_scan() -> None:
    """What answers by the brightness of a whole stack says the same of one slice as of that slice again and again."""

    class Mean(Echo):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images).mean(dim=1, keepdim=True).expand(-1, images.shape[2], -1, -1)

    def said(depth: int) -> Tensor:
        hu, region = torch.full((depth, 16, 16), 50.0), torch.ones(depth, 16, 16, dtype=torch.bool)
        stack = StackOptions(slice_mm=5.0, window_slices=4)
        return voxel_probabilities(Mean(3), hu, region, 5.0 * torch.arange(depth).double(), 33.0, SEEN, stack)

    torch.testing.assert_close(said(1), said(4)[:1])


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("depth", [1, 3, 9])
@pytest.mark.parametrize("sides", [(16, 16), (24, 40)])
def test_every_voxel_s_answer_returns_to_it(spatial_dims: int, depth: int, sides: tuple[int, int]) -> None:
    """Also where windows cover a canvas that grew, and where the stack is shorter or longer than the window."""
    torch.manual_seed(0)
    hu = 100.0 * torch.rand(depth, *sides) - 30.0
    region = torch.ones(depth, *sides, dtype=torch.bool)
    positions = 5.0 * torch.arange(depth, dtype=torch.float64)
    found = voxel_probabilities(
        Echo(spatial_dims), hu, region, positions, 33.0, SEEN, StackOptions(slice_mm=5.0, window_slices=4)
    )
    torch.testing.assert_close(found, (hu + 40.0) / 120.0, atol=2e-4, rtol=0)


def test_uneven_slices_come_back_each_at_its_own_place() -> None:
    """HU that rise evenly along the head survive the way to the stack and back, whatever the steps of the slices.

    All but the last: the stack ends just beyond it, where its own value is repeated.
    """
    positions = mm(0, 4, 8, 15, 22, 29.5)
    hu = (2.0 * positions).float()[:, None, None].expand(6, 16, 16)
    region = torch.ones(6, 16, 16, dtype=torch.bool)
    stack = StackOptions(slice_mm=2.0, window_slices=8)
    found = voxel_probabilities(Echo(3), hu, region, positions, 33.0, SEEN, stack)
    torch.testing.assert_close(found[:5], ((hu + 40.0) / 120.0)[:5], atol=2e-4, rtol=0)
    torch.testing.assert_close(found[5], (hu[5] + 40.0) / 120.0, atol=2 * 2.0 / 120.0, rtol=0)


def test_mirror_images_are_asked_and_their_answers_turned_back() -> None:
    class LeftHalf(Echo):
        """Believes whatever lies in the left half of the picture."""

        def forward(self, images: Tensor) -> Tensor:
            logits = super().forward(images)
            logits[..., 8:] = -20.0
            return logits

    hu = torch.full((1, 16, 16), 50.0)
    region = torch.ones(1, 16, 16, dtype=torch.bool)
    both, one = (
        voxel_probabilities(LeftHalf(2), hu, region, mm(0), 33.0, SEEN, StackOptions(), mirrored=mirrored)
        for mirrored in (True, False)
    )
    torch.testing.assert_close(both, torch.full((1, 16, 16), 0.375), atol=1e-3, rtol=0)
    torch.testing.assert_close(one[..., :8], torch.full((1, 16, 8), 0.75), atol=1e-3, rtol=0)
    assert float(one[..., 8:].max()) < 1e-3


def test_no_slices_give_no_probabilities() -> None:
    nothing = torch.zeros(0, 16, 16)
    found = voxel_probabilities(Echo(3), nothing, nothing > 0, mm(), 33.0, SEEN, StackOptions())
    assert found.shape == (0, 16, 16)
