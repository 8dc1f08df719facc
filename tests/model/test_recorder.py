"""Recorded attention against plain attention and plain autograd, in double precision."""

import pytest
import torch
from networks import small_network
from torch import Tensor

from hgisam.model import recorder as recorder_module
from hgisam.model.recorder import AttentionRecorder
from hgisam.model.swin import BlockGrid

GRID = BlockGrid(stage=1, block=1, rows=4, cols=6, window=2, shift=1)


@pytest.fixture(params=["weights kept", "weights computed twice"])
def memory(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "weights computed twice":
        monkeypatch.setattr(recorder_module, "KEPT_WEIGHTS_BYTES", 0)


def random_inputs(batch: int = 2, heads: int = 3, channels: int = 5) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    query, key, value = torch.randn(3, batch, GRID.windows, heads, 4, channels, dtype=torch.float64).unbind(0)
    bias = torch.randn(GRID.windows, heads, 4, 4, dtype=torch.float64)
    return query, key, value, bias


@pytest.mark.usefixtures("memory")
def test_output_and_gradients_are_those_of_plain_attention() -> None:
    query, key, value, bias = random_inputs()
    recorder = AttentionRecorder((1,), "scores")
    inputs = tuple(t.requires_grad_() for t in (query, key, value))
    torch.testing.assert_close(recorder(*inputs, bias, GRID), plain_attention_float64(*inputs, bias))
    assert torch.autograd.gradcheck(lambda q, k, v: recorder(q, k, v, bias, GRID), inputs, fast_mode=True)


@pytest.mark.usefixtures("memory")
@pytest.mark.parametrize("gradient_of", ["scores", "weights"])
def test_records_are_reductions_of_plain_autograd(gradient_of: str) -> None:
    query, key, value, bias = random_inputs()
    pull = torch.randn_like(value)
    recorder = AttentionRecorder((1,), gradient_of)
    recorder.differentiate((recorder(query, key, value, bias, GRID) * pull).sum(dim=(1, 2, 3, 4)))
    (block,) = recorder.blocks

    scores = (query @ key.mT / 5**0.5 + bias).requires_grad_()
    weights = scores.softmax(dim=-1)
    logit = ((weights @ value) * pull).sum()
    gradient = torch.autograd.grad(logit, scores if gradient_of == "scores" else weights)[0]
    torch.testing.assert_close(block.key_means, weights.mean(dim=-2))
    torch.testing.assert_close(block.gradient_norms, gradient.square().sum(dim=(-2, -1)).sqrt())
    assert block.grid == GRID


@pytest.mark.usefixtures("memory")
def test_positive_weights_are_recorded_as_plain_autograd_has_them() -> None:
    query, key, value, bias = random_inputs()
    pull = torch.randn_like(value)
    recorder = AttentionRecorder((1,), "positive_weights")
    recorder.differentiate((recorder(query, key, value, bias, GRID) * pull).sum(dim=(1, 2, 3, 4)))
    (block,) = recorder.blocks

    weights = (query @ key.mT / 5**0.5 + bias).softmax(dim=-1).requires_grad_()
    (gradient,) = torch.autograd.grad(((weights @ value) * pull).sum(), weights)
    expected = torch.einsum("bwhqk,bwhqk->bwk", gradient.relu(), weights.detach()) / (3 * 4)
    torch.testing.assert_close(block.relevance, expected)
    assert block.gradient_norms is None


def test_only_the_stages_asked_for_are_recorded() -> None:
    model = small_network().eval().requires_grad_(False)
    recorder = AttentionRecorder((2, 3), "scores")
    recorder.differentiate(model(torch.rand(2, 3, 64, 64), recorder)[:, 0])
    assert [(b.grid.stage, b.grid.block) for b in recorder.blocks] == [(2, 0), (2, 1), (3, 0), (3, 1)]
    assert all(b.gradient_norms is not None and b.gradient_norms.min() > 0 for b in recorder.blocks)


def test_nothing_below_the_first_recorded_stage_is_differentiated() -> None:
    model = small_network().eval().requires_grad_(False)
    recorder = AttentionRecorder((3,), "scores")
    tokens = model.swin.embed(torch.rand(1, 3, 64, 64))
    for stage, expected in ((1, False), (2, False), (3, True)):
        tokens = model.swin.run_stage(stage, tokens, recorder)
        assert tokens.requires_grad is expected


def test_without_gradients_there_is_no_graph_and_nothing_to_differentiate() -> None:
    model = small_network().eval().requires_grad_(False)
    recorder = AttentionRecorder((1, 2, 3, 4), None)
    logits = model(torch.rand(1, 3, 64, 64), recorder)
    assert not logits.requires_grad
    assert [b.gradient_norms for b in recorder.blocks] == [None] * 8
    with pytest.raises(ValueError, match="expected a recorder of gradients"):
        recorder.differentiate(logits[:, 0])


def test_key_means_sum_to_one() -> None:
    """Rows of A sum to 1, so plain attention cannot rank windows."""
    model = small_network().eval()
    recorder = AttentionRecorder((1, 2, 3, 4), None)
    with torch.no_grad():
        model(torch.rand(2, 3, 64, 64), recorder)
    for block in recorder.blocks:
        torch.testing.assert_close(block.key_means.sum(dim=-1), torch.ones(block.key_means.shape[:-1]))


def test_records_in_bfloat16_stay_near_float32() -> None:
    model = small_network(spread=1.0).eval().requires_grad_(False)
    images = torch.rand(2, 3, 64, 64)
    records = []
    for enabled in (False, True):
        recorder = AttentionRecorder((1, 2, 3), "scores")
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            recorder.differentiate(model(images, recorder)[:, 0])
        records.append(recorder.blocks)
    for exact, rounded in zip(*records, strict=True):
        assert rounded.key_means.dtype == rounded.gradient_norms.dtype == torch.float32
        torch.testing.assert_close(rounded.key_means, exact.key_means, atol=0.01, rtol=0.1)
        scale = float(exact.gradient_norms.max())
        torch.testing.assert_close(rounded.gradient_norms, exact.gradient_norms, atol=0.1 * scale, rtol=0.1)


def plain_attention_float64(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    return (query @ key.mT / query.shape[-1] ** 0.5 + bias).softmax(dim=-1) @ value
