"""The mathematics of the map: by hand, by properties, and against the authors' own maps."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import GOLDEN, REFERENCE_SWIN, arrays
from torch import Tensor

from hgisam.attention import combine_stages, fuse_stages, lay_on_grid, min_max, pair_product, token_map
from hgisam.model.swin import BlockGrid

GRIDS = st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 5), st.booleans()).map(
    lambda t: BlockGrid(stage=1, block=1, rows=t[0] * t[2], cols=t[1] * t[2], window=t[2], shift=t[2] // 2 * t[3])
)


def published_maps(stages: tuple[int, ...], *, gradients: bool, roll_last: bool) -> tuple[Tensor, dict[str, Tensor]]:
    """The map that this module makes of the authors' network's records, and the golden file."""
    golden = {name: torch.from_numpy(array) for name, array in arrays(GOLDEN / "hgi_sam_maps.npz").items()}
    maps = []
    for stage in stages:
        blocks = []
        for block in range(REFERENCE_SWIN.depths[stage - 1]):
            grid = REFERENCE_SWIN.grid(stage, block)
            if roll_last and stage == 4 and block == 1:
                grid = BlockGrid(stage, block, grid.rows, grid.cols, grid.window, shift=6)
            means = golden[f"key_means/{stage}.{block}"][None]
            norms = golden[f"gradient_norms/{stage}.{block}"][None] if gradients else torch.ones(means.shape[:3])
            blocks.append(lay_on_grid(token_map(means, norms), grid))
        maps.append(pair_product(blocks))
    return combine_stages(maps, golden["brain"][None])[0], golden


def test_hgi_sam_is_the_authors_map() -> None:
    made, golden = published_maps((1, 2, 3), gradients=True, roll_last=False)
    torch.testing.assert_close(made, golden["hgi_sam"], atol=1e-5, rtol=0)


def test_swin_sam_is_the_authors_map_with_their_roll_of_the_last_stage() -> None:
    made, golden = published_maps((1, 2, 3, 4), gradients=False, roll_last=True)
    torch.testing.assert_close(made, golden["swin_sam_as_published"], atol=1e-5, rtol=0)


def test_with_its_true_shift_swin_sam_differs() -> None:
    """Difference 2 of the method's notes: the last stage does not shift, yet the authors roll it back."""
    made, golden = published_maps((1, 2, 3, 4), gradients=False, roll_last=False)
    assert (made - golden["swin_sam_as_published"]).abs().max() > 0.1


def test_token_map_by_hand() -> None:
    """One window of two tokens, two heads: (0.25 * 2 + 0.5 * 6) / 2 and (0.75 * 2 + 0.5 * 6) / 2."""
    key_means = torch.tensor([[[[0.25, 0.75], [0.5, 0.5]]]])
    assert token_map(key_means, torch.tensor([[[2.0, 6.0]]])).tolist() == [[[1.75, 2.25]]]


def test_pair_product_by_hand() -> None:
    """Two pairs: (2 * 3 + 5 * 7) / 2."""
    blocks = [torch.full((1, 1, 1), value) for value in (2.0, 3.0, 5.0, 7.0)]
    assert pair_product(blocks).item() == 20.5


@pytest.mark.parametrize("count", [0, 3])
def test_blocks_that_make_no_pairs_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"got {count} blocks"):
        pair_product([torch.ones(1, 2, 2)] * count)


@settings(deadline=None, max_examples=50)
@given(GRIDS, st.data())
def test_a_marked_token_is_laid_back_where_it_was(grid: BlockGrid, data: st.DataObject) -> None:
    row, col = data.draw(st.integers(0, grid.rows - 1)), data.draw(st.integers(0, grid.cols - 1))
    image = torch.zeros(1, grid.rows, grid.cols)
    image[0, row, col] = 1.0
    windows = image.flatten()[grid.window_order()].view(1, grid.windows, grid.window**2)
    assert torch.equal(lay_on_grid(windows, grid), image)


def test_shifted_windows_are_rolled_back_down_and_right() -> None:
    """A 4 x 4 grid, window 2, shift 1: the first window's first token stood at (1, 1), the last's last at (0, 0)."""
    grid = BlockGrid(stage=1, block=1, rows=4, cols=4, window=2, shift=1)
    windows = torch.zeros(1, 4, 4)
    windows[0, 0, 0], windows[0, 3, 3] = 1.0, 2.0
    laid = lay_on_grid(windows, grid)[0]
    assert laid[1, 1] == 1.0 and laid[0, 0] == 2.0 and laid.sum() == 3.0


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=6, max_size=6))
def test_min_max_spans_zero_to_one_or_is_zeros(values: list[float]) -> None:
    stretched = min_max(torch.tensor(values).view(1, 2, 3))
    constant = min(values) == max(values)
    assert torch.isfinite(stretched).all()
    assert stretched.min() == 0.0 and stretched.max() == (0.0 if constant else 1.0)


def test_min_max_stretches_each_map_by_itself() -> None:
    maps = torch.stack([torch.tensor([[0.0, 1.0]]), torch.tensor([[5.0, 9.0]]), torch.tensor([[3.0, 3.0]])])
    assert min_max(maps).tolist() == [[[0.0, 1.0]], [[0.0, 1.0]], [[0.0, 0.0]]]


def test_the_combination_by_hand() -> None:
    """Stages of one resolution: the product of the stretched maps, stretched again over the region."""
    first = torch.tensor([[[0.0, 2.0], [4.0, 4.0]]])
    second = torch.tensor([[[1.0, 3.0], [2.0, 3.0]]])
    region = torch.tensor([[[True, True], [True, False]]])
    # stretched: [0, .5, 1, 1] and [0, 1, .5, 1]; product inside: [0, .5, .5]; stretched again: [0, 1, 1]
    assert combine_stages([first, second], region).tolist() == [[[0.0, 1.0], [1.0, 0.0]]]


def test_an_empty_region_and_a_constant_map_are_zeros() -> None:
    """Difference 4: 0/0 in the authors' code."""
    stages = [torch.rand(2, 4, 4), torch.rand(2, 2, 2)]
    region = torch.ones(2, 8, 8, dtype=torch.bool)
    region[0] = False
    empty, full = combine_stages(stages, region)
    assert torch.equal(empty, torch.zeros(8, 8)) and full.max() == 1.0
    constant = combine_stages([torch.full((1, 4, 4), 0.3)], region[1:])
    assert torch.equal(constant, torch.zeros(1, 8, 8))


def test_the_maximum_of_stages_by_hand() -> None:
    """Shares of 1/2 and 1/4 of their stages' highest, saturated by tanh(2 x); the higher counts, stretched."""
    early = torch.tensor([[[4.0, 2.0, 0.0, 0.0]]])
    late = torch.tensor([[[8.0, 2.0, 4.0, 0.0]]])
    region = torch.ones(1, 1, 4, dtype=torch.bool)
    expected = torch.tensor([[[1.0, 0.7616, 0.7616, 0.0]]]) / torch.tensor([[[1.0, 0.9640, 0.9640, 1.0]]])
    torch.testing.assert_close(fuse_stages([early, late], region), expected, atol=1e-4, rtol=0)


def test_a_lone_stage_is_only_stretched() -> None:
    stage = torch.tensor([[[4.0, 2.0, 1.0, 0.0]]])
    region = torch.tensor([[[True, True, True, False]]])
    assert fuse_stages([stage], region).tolist() == [[[1.0, 0.5, 0.25, 0.0]]]


def test_the_maximum_of_nothing_is_zeros() -> None:
    region = torch.ones(1, 4, 4, dtype=torch.bool)
    zeros = torch.zeros(1, 2, 2)
    assert fuse_stages([zeros, zeros], region).abs().max() == 0.0
    assert fuse_stages([zeros, torch.rand(1, 4, 4)], torch.zeros_like(region)).abs().max() == 0.0
