"""Gradient-weighted rollout against dense matrices over all tokens, filled in token by token."""

import math

import pytest
import torch
from networks import small_cnn, small_network
from torch import Tensor

from hgisam.model.swin import BlockGrid
from hgisam.weak import GradientRollout
from hgisam.weak.rollout import rollout


class Remember:
    """Attention written out, whose weights keep their gradients."""

    def __init__(self) -> None:
        self.blocks: list[tuple[BlockGrid, Tensor]] = []

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor, grid: BlockGrid) -> Tensor:
        scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1]) + bias
        weights = scores.softmax(dim=-1)
        weights.retain_grad()
        self.blocks.append((grid, weights))
        return weights @ value


def window_and_place(row: int, col: int, grid: BlockGrid) -> tuple[int, int]:
    """The attention window of a token of the image's grid, and the token's place in it, after the block's roll."""
    row, col = (row - grid.shift) % grid.rows, (col - grid.shift) % grid.cols
    window = (row // grid.window) * (grid.cols // grid.window) + col // grid.window
    return window, (row % grid.window) * grid.window + col % grid.window


def dense(grid: BlockGrid, relevance: Tensor) -> Tensor:
    """A' over all tokens in raster order: zero between tokens of different windows."""
    places = [window_and_place(row, col, grid) for row in range(grid.rows) for col in range(grid.cols)]
    matrix = torch.zeros(len(places), len(places), dtype=relevance.dtype)
    for i, (window, query) in enumerate(places):
        for j, (other, key) in enumerate(places):
            if window == other:
                matrix[i, j] = relevance[window, query, key]
    return matrix


def merging(side: int) -> Tensor:
    """Rows: merged tokens; columns: the tokens of the stage before; a quarter for each child."""
    matrix = torch.zeros((side // 2) ** 2, side**2, dtype=torch.float64)
    for row in range(side):
        for col in range(side):
            matrix[(row // 2) * (side // 2) + col // 2, row * side + col] = 0.25
    return matrix


@pytest.mark.parametrize("pooling", ["mean", "log_sum_exp"])
def test_the_map_is_that_of_dense_matrices(pooling: str) -> None:
    """Forwards, as in the paper: R <- R + A' R from the identity, with every matrix over all tokens."""
    model = small_network(outputs=2, spread=1.0).double().eval()
    model.options = model.options.model_copy(update={"pooling": pooling})
    images = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    _, (got,) = GradientRollout().stage_maps(model, images)

    remember = Remember()
    logits = model(images, attend=remember)
    logits[0, 1].backward()
    with torch.no_grad():
        *_, last = model.swin.stages(images)
        answers = model.head(model.swin.norm(last))[0, :, 1]
    share = answers.softmax(dim=0) if pooling == "log_sum_exp" else torch.full_like(answers, 1 / len(answers))
    relevance, straight = torch.eye(256, dtype=torch.float64), torch.eye(256, dtype=torch.float64)
    side = 16
    for grid, weights in remember.blocks:
        if grid.rows < side:
            relevance, straight, side = merging(side) @ relevance, merging(side) @ straight, grid.rows
        assert weights.grad is not None
        block = dense(grid, (weights.grad * weights.detach())[0].relu().mean(dim=1))
        relevance = relevance + block @ relevance
    expected = (share @ (relevance - straight)).view(1, 16, 16)
    assert any(grid.shift for grid, _ in remember.blocks)
    assert expected.max() > 1.01 * expected.min()
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-12)


def test_relevance_crosses_the_borders_of_regular_windows_only_by_a_shift() -> None:
    """One token of the last block draws from its window; through a shifted block, from its neighbours too."""
    share = torch.zeros(1, 64)
    share[0, 0] = 1.0
    full = torch.full((1, 4, 16, 16), 1 / 16)

    def reached(shift: int) -> Tensor:
        grids = [
            BlockGrid(stage=1, block=block, rows=8, cols=8, window=4, shift=shift if block else 0) for block in (0, 1)
        ]
        return rollout(share, [full, full], grids) > 0

    assert reached(0)[0].nonzero().amax(dim=0).tolist() == [3, 3]
    assert reached(2).all()  # the corner token's shifted window lies around all four corners of the image


def test_a_network_without_attention_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a Swin Transformer, for its attention; got a CnnClassifier"):
        GradientRollout().stage_maps(small_cnn(), torch.zeros(1, 3, 64, 64))
