"""An attention that remembers what saliency needs, and no more: mean weights per key, and gradient norms per head.

The attention weights A and the gradient dY/dS of a window and head have tokens^2 entries each; of A only the mean over
queries is needed, of dY/dS only the Frobenius norm. Both are taken while A and dY/dS pass through the cache, a few
windows at a time, and neither is ever stored.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from hgisam.model.swin import BlockGrid, fused_attention

CHUNK_SCORES = 2**19
"""Scores that are worked on at a time on a CPU: 2 MB in float32, which stay in the cache from first step to last."""

GradientOf = Literal["scores", "weights"]
"""With respect to what the logit is differentiated: attention before or after softmax."""


@dataclass(frozen=True, eq=False)
class BlockAttention:
    """What one block's attention was like.

    Attributes:
        grid: stage, block, window and shift, from the block that ran.
        key_means: mean over queries of the attention weights, float32; sums to 1 over the tokens of a window.
        gradient_norms: Frobenius norm of the logit's gradient, float32; None before `AttentionRecorder.differentiate`.
    """

    grid: BlockGrid
    key_means: Float[Tensor, "batch windows heads tokens"]
    gradient_norms: Float[Tensor, "batch windows heads"] | None


class AttentionRecorder:
    """An `Attend` for one forward pass, and for the backward pass of its logit.

    The parameters should not require gradients. The root of autograd is a zero that enters each recorded attention, so
    that nothing below the first of them is differentiated: the input of stage 1, where stage 1 is recorded.

    Args:
        stages: which stages (1-based) to record; the others run fused.
        gradient_of: what the gradient norms are of; None to record no gradients, and have no backward pass at all.
    """

    def __init__(self, stages: tuple[int, ...], gradient_of: GradientOf | None) -> None:
        self.stages = stages
        self.gradient_of = gradient_of
        self._root = torch.zeros((), requires_grad=gradient_of is not None)
        self._grids: list[BlockGrid] = []
        self._key_means: list[Tensor] = []
        self._gradient_norms: dict[int, Tensor] = {}

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
        out: Tensor = _RecordedAttention.apply(query, key, value, bias, self._root, self)  # type: ignore[no-untyped-call]
        return out

    def differentiate(self, logits: Float[Tensor, " batch"]) -> None:
        """Run the backward pass that fills in the gradient norms. No parameter gets a gradient; the graph is freed.

        Args:
            logits: one per image, of the forward pass that this recorder attended.

        Raises:
            ValueError: where the recorder was made to record no gradients.
        """
        if self.gradient_of is None:
            raise ValueError(
                "expected a recorder of gradients; got gradient_of=None; make it with 'scores' or 'weights'"
            )
        torch.autograd.grad(logits.sum(), self._root)

    @property
    def blocks(self) -> list[BlockAttention]:
        """One entry per recorded block, in the order they ran."""
        return [
            BlockAttention(grid, means, self._gradient_norms.get(index))
            for index, (grid, means) in enumerate(zip(self._grids, self._key_means, strict=True))
        ]


class _RecordedAttention(torch.autograd.Function):
    """softmax(query key^T / sqrt(channels) + bias) value, a few windows at a time, with a gradient written by hand.

    With o the output and g its gradient: dA = g value^T; dS = A * (dA - rowsum(A * dA)), where the row sum is that of
    g * o; d value = A^T g; d query = dS key / sqrt(channels); d key = dS^T query / sqrt(channels). The bias gets none.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, bias: Tensor, root: Tensor, recorder: AttentionRecorder
    ) -> Tensor:
        batch, windows, heads, tokens, _ = query.shape
        out = _like_projection_input(value)
        key_means = query.new_empty((batch, windows, heads, tokens), dtype=torch.float32)
        with torch.autocast(query.device.type, enabled=False):
            for chunk in _chunks(query):
                weights = _weights(query[chunk], key[chunk], bias if len(bias) == 1 else bias[chunk[1]])
                key_means[chunk] = weights.mean(dim=-2)
                out[chunk] = weights.to(value.dtype) @ value[chunk]
        ctx.save_for_backward(query, key, value, bias, out)
        ctx.recorder, ctx.index = recorder, len(recorder._key_means)
        recorder._key_means.append(key_means)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, bias, out = ctx.saved_tensors
        (grad_out,) = grads
        recorder: AttentionRecorder = ctx.recorder
        scale = 1.0 / math.sqrt(query.shape[-1])
        norms = query.new_empty(query.shape[:3], dtype=torch.float32)
        grad_query, grad_key, grad_value = (
            _like_projection_input(tensor) if needed else None
            for tensor, needed in zip((query, key, value), ctx.needs_input_grad, strict=False)
        )
        with torch.autocast(query.device.type, enabled=False):
            for chunk in _chunks(query):
                g = grad_out[chunk].contiguous()
                weights = _weights(query[chunk], key[chunk], bias if len(bias) == 1 else bias[chunk[1]])
                grad_weights = (g @ value[chunk].transpose(-2, -1)).to(weights.dtype)
                if recorder.gradient_of == "weights":
                    norms[chunk] = torch.linalg.vector_norm(grad_weights, dim=(-2, -1))
                row_sums = (g * out[chunk]).sum(dim=-1, keepdim=True, dtype=weights.dtype)
                grad_scores = grad_weights.sub_(row_sums).mul_(weights)
                if recorder.gradient_of == "scores":
                    norms[chunk] = torch.linalg.vector_norm(grad_scores, dim=(-2, -1))
                grad_scores = grad_scores.to(query.dtype)
                if grad_value is not None:
                    grad_value[chunk] = weights.to(value.dtype).transpose(-2, -1) @ g
                if grad_query is not None:
                    grad_query[chunk] = (grad_scores @ key[chunk]) * scale
                if grad_key is not None:
                    grad_key[chunk] = grad_scores.transpose(-2, -1) @ (query[chunk] * scale)
        recorder._gradient_norms[ctx.index] = norms
        return grad_query, grad_key, grad_value, None, torch.zeros(()), None


def _weights(query: Tensor, key: Tensor, bias: Tensor) -> Tensor:
    scores = (query / math.sqrt(query.shape[-1])) @ key.transpose(-2, -1)
    scores = scores.add_(bias) if scores.dtype == bias.dtype else scores + bias
    return scores.softmax(dim=-1, dtype=torch.float32)


def _like_projection_input(tensor: Tensor) -> Tensor:
    """Empty, of the same shape, in the memory order [batch, windows, tokens, heads, channels] of the linear layers."""
    return tensor.new_empty([tensor.shape[i] for i in (0, 1, 3, 2, 4)]).transpose(2, 3)


def _chunks(query: Tensor) -> Iterator[tuple[slice, slice]]:
    """Slices of (batch, windows) that cover both, each a part of one sample's windows or whole samples."""
    batch, windows, heads, tokens, _ = query.shape
    at_once = max(1, CHUNK_SCORES // (heads * tokens**2)) if query.device.type == "cpu" else batch * windows
    samples = max(1, at_once // windows)
    for first in range(0, batch, samples):
        for window in range(0, windows, at_once):
            yield slice(first, first + samples), slice(window, window + at_once)
