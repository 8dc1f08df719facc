"""The Swin Transformer against timm's and the authors' numbers, and the geometry of its windows."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import golden_images, reference_network, small_network, timm_network
from pydantic import ValidationError
from torch import Tensor

from hgisam.model import swin
from hgisam.model.swin import (
    MASKED_SCORE,
    BlockGrid,
    ConvNorm,
    Linear,
    SwinOptions,
    SwinTransformer,
    drop_path,
    fused_attention,
    permute_tokens,
    plain_attention,
)

grids = st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 5), st.booleans()).map(
    lambda t: BlockGrid(stage=1, block=1, rows=t[0] * t[2], cols=t[1] * t[2], window=t[2], shift=t[2] // 2 * t[3])
)


def test_logits_are_timms() -> None:
    model, golden = timm_network()
    with torch.no_grad():
        logits = model.eval()(golden_images(golden))
    torch.testing.assert_close(logits, torch.from_numpy(golden["logits"]), atol=1e-5, rtol=0)


def test_logits_are_the_authors() -> None:
    model, golden = reference_network()
    with torch.no_grad():
        logits = model.eval()(golden_images(golden))
    torch.testing.assert_close(logits, torch.from_numpy(golden["logits"]), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("builder", "millions"),
    [
        (swin.swin_tiny_patch4_window7_224, 28.288354),
        (swin.swin_small_patch4_window7_224, 49.606258),
        (swin.swin_base_patch4_window7_224, 87.768224),
        (swin.swin_base_patch4_window12_384, 87.903584),
    ],
)
def test_builders_have_the_published_number_of_parameters(builder, millions: float) -> None:
    """timm's counts, which include a head of 1000 classes."""
    with torch.device("meta"):
        network = SwinTransformer(builder())
    head = 1000 * network.channels + 1000
    assert sum(p.numel() for p in network.parameters()) + head == round(millions * 1e6)


TIMM_NAMES_AND_SHAPES = {
    "patch_embed.proj.weight": (96, 3, 4, 4),
    "patch_embed.proj.bias": (96,),
    "patch_embed.norm.weight": (96,),
    "layers.0.blocks.0.norm1.weight": (96,),
    "layers.0.blocks.1.attn.relative_position_bias_table": (169, 3),
    "layers.0.blocks.1.attn.qkv.weight": (288, 96),
    "layers.0.blocks.1.attn.qkv.bias": (288,),
    "layers.0.blocks.0.attn.proj.weight": (96, 96),
    "layers.0.blocks.0.mlp.fc1.weight": (384, 96),
    "layers.0.blocks.0.mlp.fc2.bias": (96,),
    "layers.1.downsample.norm.weight": (384,),
    "layers.1.downsample.reduction.weight": (192, 384),
    "layers.2.blocks.5.norm2.bias": (384,),
    "layers.2.blocks.5.attn.relative_position_bias_table": (169, 12),
    "layers.3.downsample.reduction.weight": (768, 1536),
    "layers.3.blocks.1.mlp.fc1.weight": (3072, 768),
    "norm.weight": (768,),
}
"""Copied by hand from what timm 1.0.31 lists for swin_tiny_patch4_window7_224; 171 tensors in all, without the head."""


def test_state_has_timms_names_and_shapes() -> None:
    with torch.device("meta"):
        state = SwinTransformer(swin.swin_tiny_patch4_window7_224()).state_dict()
    assert len(state) == 171
    assert {name: tuple(state[name].shape) for name in TIMM_NAMES_AND_SHAPES} == TIMM_NAMES_AND_SHAPES


@settings(deadline=None, max_examples=30)
@given(grids)
def test_window_order_is_undone_by_raster_order(grid: BlockGrid) -> None:
    order = grid.window_order()
    assert order.sort().values.tolist() == list(range(grid.rows * grid.cols))
    assert order[grid.raster_order()].tolist() == list(range(grid.rows * grid.cols))


@settings(deadline=None, max_examples=30)
@given(grids, st.data())
def test_a_window_holds_neighbours_of_the_rolled_grid(grid: BlockGrid, data: st.DataObject) -> None:
    """Token t of window m lies where the definition says: counted from the shifted corner, cyclically."""
    m = data.draw(st.integers(0, grid.windows - 1))
    t = data.draw(st.integers(0, grid.window**2 - 1))
    per_row = grid.cols // grid.window
    row = (m // per_row * grid.window + t // grid.window + grid.shift) % grid.rows
    col = (m % per_row * grid.window + t % grid.window + grid.shift) % grid.cols
    assert int(grid.window_order()[m * grid.window**2 + t]) == row * grid.cols + col


@settings(deadline=None, max_examples=30)
@given(grids)
def test_the_shift_mask_parts_what_the_roll_brought_together(grid: BlockGrid) -> None:
    """Two tokens of a window may meet only where they lie less than a window apart on the unrolled grid."""
    mask = grid.shift_mask()
    if not grid.shift:
        assert mask is None
        return
    order = grid.window_order().view(grid.windows, -1)
    row, col = order // grid.cols, order % grid.cols

    def near(index: Tensor) -> Tensor:
        return (index[:, :, None] - index[:, None, :]).abs() < grid.window

    # Where the grid is a single window wide, rolled-over tokens are less than a window away and yet masked.
    wide_rows, wide_cols = grid.rows > grid.window, grid.cols > grid.window
    if wide_rows and wide_cols:
        assert torch.equal(mask == 0, near(row) & near(col))
    assert set(mask.unique().tolist()) <= {0.0, MASKED_SCORE}


def test_blocks_shift_unless_one_window_covers_the_grid() -> None:
    """timm's rule. The last stages of timm_swin.npz: a grid as large as the window, and one that is smaller."""
    model, _ = timm_network()
    grids = [[(block.grid.window, block.grid.shift) for block in stage.blocks] for stage in model.swin.layers]
    assert grids == [[(4, 0), (4, 2)], [(4, 0), (4, 2)], [(4, 0)] * 4, [(2, 0)] * 2]


def test_permuted_tokens_and_their_gradient_go_back() -> None:
    order = torch.randperm(6, generator=torch.Generator().manual_seed(0))
    inverse = torch.argsort(order)
    tokens = torch.randn(2, 6, 3, dtype=torch.float64, requires_grad=True)
    assert torch.equal(permute_tokens(permute_tokens(tokens, order, inverse), inverse, order), tokens)
    assert torch.autograd.gradcheck(lambda t: permute_tokens(t, order, inverse), (tokens,))


@pytest.mark.parametrize("windows_of_bias", [1, 3])
@pytest.mark.parametrize("side", [4, 9])  # 81 tokens: beyond what plain attention serves
def test_fused_attention_is_plain_attention(side: int, windows_of_bias: int) -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, 3, 2, side**2, 8).unbind(0)
    bias = torch.randn(windows_of_bias, 2, side**2, side**2)
    grid = BlockGrid(stage=1, block=0, rows=side, cols=3 * side, window=side, shift=0)
    expected = plain_attention(query, key, value, bias, grid)
    torch.testing.assert_close(fused_attention(query, key, value, bias, grid), expected, atol=1e-5, rtol=1e-5)


def test_the_bias_learns_through_fused_attention() -> None:
    query, key, value = torch.randn(3, 1, 1, 1, 81, 4).unbind(0)
    bias = torch.zeros(1, 1, 81, 81, requires_grad=True)
    grid = BlockGrid(stage=1, block=0, rows=9, cols=9, window=9, shift=0)
    fused_attention(query, key, value, bias, grid).square().sum().backward()
    assert bias.grad is not None and bias.grad.abs().max() > 0


@pytest.mark.parametrize("bias", [True, False])
def test_a_frozen_linear_layer_is_a_linear_layer(bias: bool) -> None:
    torch.manual_seed(0)
    layer = Linear(7, 5, bias=bias).requires_grad_(False)
    tokens = torch.randn(2, 3, 7, requires_grad=True)
    pull = torch.randn(2, 3, 5)
    out = layer(tokens)
    torch.testing.assert_close(out, torch.nn.functional.linear(tokens, layer.weight, layer.bias))
    (gradient,) = torch.autograd.grad(out, tokens, pull)
    torch.testing.assert_close(gradient, pull @ layer.weight)


def test_a_linear_layer_that_learns_gets_its_gradients() -> None:
    torch.manual_seed(0)
    layer = Linear(7, 5)
    layer(torch.ones(2, 7)).sum().backward()
    assert layer.weight.grad.tolist() == [[2.0] * 7] * 5 and layer.bias.grad.tolist() == [2.0] * 5


def test_softmax_runs_in_float32_under_autocast() -> None:
    """Scores far apart: in bfloat16 a weight of 1/300 beside others would be off by more than this."""
    query = torch.ones(1, 1, 1, 300, 1)
    key = torch.zeros(1, 1, 1, 300, 1)
    value = torch.arange(300.0).view(1, 1, 1, 300, 1).remainder(2)
    grid = BlockGrid(stage=1, block=0, rows=1, cols=300, window=1, shift=0)
    bias = torch.zeros(1, 1, 300, 300)
    with torch.autocast("cpu", torch.bfloat16):
        out = plain_attention(query.bfloat16(), key.bfloat16(), value.bfloat16(), bias, grid)
    torch.testing.assert_close(out.float(), torch.full_like(query, 0.5), atol=4e-3, rtol=0)


@pytest.mark.parametrize("stem", ["none", "deep"])
def test_bfloat16_autocast_stays_near_float32(stem: str) -> None:
    model = small_network(stem=stem, spread=1.0).eval()
    images = torch.rand(3, 3, 64, 64)
    with torch.no_grad():
        exact = model(images)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = model(images)
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, atol=0.05 * float(exact.abs().max()), rtol=0.05)


def test_an_image_is_classified_alike_alone_and_in_a_batch() -> None:
    model = small_network(stem="deep").eval().double()
    images = torch.rand(5, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(model(images)[2:3], model(images[2:3]), atol=1e-6, rtol=1e-6)


def test_conv_and_norm_are_one_convolution_outside_training() -> None:
    torch.manual_seed(0)
    layer = ConvNorm(3, 5, stride=2)
    for _ in range(3):
        layer(torch.randn(4, 3, 8, 8) * 3 + 1)
    layer.eval()
    maps = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(layer(maps), layer.norm(layer.conv(maps)), atol=1e-5, rtol=1e-5)


def test_drop_path_keeps_whole_samples_and_their_expectation() -> None:
    torch.manual_seed(0)
    dropped = drop_path(torch.ones(4000, 3), 0.25)
    assert set(dropped.unique().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert torch.equal(dropped[:, 0], dropped[:, 2])
    assert abs(dropped.mean().item() - 1.0) < 0.03


def test_drop_path_acts_in_training_only() -> None:
    model = small_network(drop_path=0.9)
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model.eval()(images), model.eval()(images))
        model.train()
        assert len({model(images).item() for _ in range(20)}) > 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"img_size": 190}, "multiple of patch_size"),
        ({"img_size": 200}, "divisible by the attention window"),
        ({"window": 5}, "divisible by the attention window"),
        ({"heads": (5, 6, 12, 24)}, "multiple of 5 heads"),
        ({"heads": (3, 6)}, "as many heads as depths"),
        ({"stem": "deep", "patch_size": 2, "img_size": 96}, "patch_size 4"),
        ({"windw": 6}, "Extra inputs"),
    ],
)
def test_geometry_that_does_not_fit_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SwinOptions.model_validate(options)


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected images \[batch, 3, 64, 64\]; got \[1, 3, 32, 32\]"):
        small_network()(torch.zeros(1, 3, 32, 32))
