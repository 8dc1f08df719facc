"""An attention that remembers what saliency needs, and no more: mean weights per key, and gradient norms per head.

The attention weights A and the gradient dY/dS of a window and head have tokens^2 entries each; of A only the mean over
queries is needed, of dY/dS only the Frobenius norm; or of both together, the mean over queries of the positive part of
A x dY/dA. They are taken while A and its gradient pass by. Gradients and scores are never stored; weights only until
the backward pass, and only as long as memory for them is cheap.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from hgisam.model.swin import BlockGrid, fused_attention

KEPT_WEIGHTS_BYTES = 256 * 2**20
"""Up to this much, a pass keeps attention weights from forward to backward; beyond it they are computed twice."""

GradientOf = Literal["scores", "weights", "positive_weights"]
"""With respect to what the logit is differentiated: attention before or after softmax. Of the first two a norm is taken
by head; of the positive weights only what raises the logit counts, for each pair of query and key by itself."""


@dataclass(frozen=True, eq=False)
class BlockAttention:
    """What one block's attention was like.

    Attributes:
        grid: stage, block, window and shift, from the block that ran.
        key_means: mean over queries of the attention weights, float32; sums to 1 over the tokens of a window.
        gradient_norms: Frobenius norm of the logit's gradient, float32; None before `AttentionRecorder.differentiate`,
            and for positive weights.
        relevance: for positive weights, the mean over heads and queries of the positive part of weights times their
            gradient, float32; else None, and before `AttentionRecorder.differentiate`.
    """

    grid: BlockGrid
    key_means: Float[Tensor, "batch windows heads tokens"]
    gradient_norms: Float[Tensor, "batch windows heads"] | None
    relevance: Float[Tensor, "batch windows tokens"] | None


class AttentionRecorder:
    """An `Attend` for one forward pass, and for the backward pass of its logit.

    The parameters should not require gradients. The root of autograd is a zero that enters each recorded attention, so
    that nothing below the first of them is differentiated: the input of stage 1, where stage 1 is recorded.

    Args:
        stages: which stages (1-based) to record; the others run fused.
        gradient_of: what the gradients are of; None to record no gradients, and have no backward pass at all.
    """

    def __init__(self, stages: tuple[int, ...], gradient_of: GradientOf | None) -> None:
        self.stages = stages
        self.gradient_of = gradient_of
        self._root = torch.zeros((), requires_grad=gradient_of is not None)
        self._grids: list[BlockGrid] = []
        self._key_means: list[Tensor] = []
        self._gradient_norms: dict[int, Tensor] = {}
        self._relevance: dict[int, Tensor] = {}
        self._kept_bytes = 0

    def __call__(
        self,
        query: Float[Tensor, "batch windows heads tokens channels"],
        key: Float[Tensor, "batch windows heads tokens channels"],
        value: Float[Tensor, "batch windows heads tokens channels"],
        bias: Float[Tensor, "windows_or_1 heads tokens tokens"],
        grid: BlockGrid,
    ) -> Float[Tensor, "batch windows heads tokens channels"]:
        """Attend, and record where the stage is one of those to record."""
        if grid.stage not in self.stages:
            return fused_attention(query, key, value, bias, grid)
        self._grids.append(grid)
        wide_bias = bias.to(torch.promote_types(bias.dtype, torch.float32))
        weights_bytes = math.prod(query.shape[:4]) * query.shape[3] * query.element_size()
        keep_weights = self._kept_bytes + weights_bytes <= KEPT_WEIGHTS_BYTES
        self._kept_bytes += weights_bytes if keep_weights else 0
        out: Tensor = _RecordedAttention.apply(  # type: ignore[no-untyped-call]
            query, key, value, wide_bias, self._root, self, keep_weights
        )
        return out

    def differentiate(self, logits: Float[Tensor, " batch"]) -> None:
        """Run the backward pass that fills in the records. No parameter gets a gradient; the graph is freed.

        Args:
            logits: one per image, of the forward pass that this recorder attended.

        Raises:
            ValueError: where the recorder was made to record no gradients.
        """
        if self.gradient_of is None:
            raise ValueError("expected a recorder of gradients; got gradient_of=None; make it with 'scores'")
        torch.autograd.grad(logits.sum(), self._root)

    @property
    def blocks(self) -> list[BlockAttention]:
        """One entry per recorded block, in the order they ran."""
        return [
            BlockAttention(grid, means, self._gradient_norms.get(index), self._relevance.get(index))
            for index, (grid, means) in enumerate(zip(self._grids, self._key_means, strict=True))
        ]


class _RecordedAttention(torch.autograd.Function):
    """softmax(query key^T / sqrt(channels) + bias) value, with a gradient written by hand that leaves norms behind.

    With o the output and g its gradient: dA = g value^T; dS = A * (dA - rowsum(A * dA)), where the row sum is that of
    g * o; d value = A^T g; d query = dS key / sqrt(channels); d key = dS^T query / sqrt(channels). The bias gets none.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        bias: Tensor,
        root: Tensor,
        recorder: AttentionRecorder,
        keep_weights: bool,
    ) -> Tensor:
        with torch.autocast(query.device.type, enabled=False):
            query, key, value = query / math.sqrt(query.shape[-1]), key.contiguous(), value.contiguous()
            weights = _weights(query, key, bias)
            recorder._key_means.append(weights.mean(dim=-2))
            weights = weights.to(value.dtype)
            out = weights @ value
        ctx.save_for_backward(query, key, value, bias, out, weights if keep_weights else None)
        ctx.recorder, ctx.index = recorder, len(recorder._key_means) - 1
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, bias, out, weights = ctx.saved_tensors
        recorder: AttentionRecorder = ctx.recorder
        grad_query = grad_key = grad_value = None
        with torch.autocast(query.device.type, enabled=False):
            grad_out = grads[0].contiguous()
            if weights is None:
                weights = _weights(query, key, bias).to(value.dtype)
            gradient = grad_out @ value.transpose(-2, -1)
            if recorder.gradient_of == "weights":
                recorder._gradient_norms[ctx.index] = _frobenius_norm(gradient, bias.dtype)
            elif recorder.gradient_of == "positive_weights":
                raising = gradient.clamp_min(0).mul_(weights)
                recorder._relevance[ctx.index] = raising.mean(dim=(2, 3), dtype=bias.dtype)
            gradient.sub_((grad_out * out).sum(dim=-1, keepdim=True)).mul_(weights)
            if recorder.gradient_of == "scores":
                recorder._gradient_norms[ctx.index] = _frobenius_norm(gradient, bias.dtype)
            if ctx.needs_input_grad[0]:
                grad_query = (gradient @ key) / math.sqrt(query.shape[-1])
                grad_key = gradient.transpose(-2, -1) @ query
                grad_value = weights.transpose(-2, -1) @ grad_out
        return grad_query, grad_key, grad_value, None, torch.zeros(()), None, None


def _weights(query: Tensor, key: Tensor, bias: Tensor) -> Tensor:
    """Attention weights, in the bias's precision, of a query that is already scaled."""
    scores = query @ key.transpose(-2, -1)
    scores = scores.add_(bias) if scores.dtype == bias.dtype else scores + bias
    return scores.softmax(dim=-1)


def _frobenius_norm(matrices: Tensor, dtype: torch.dtype) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(matrices, dim=(-2, -1), dtype=dtype)
    return norms
