"""The Swin Transformer, with an attention that the caller may choose and read.

Parameters carry the names and shapes of timm's Swin, so that its weights load. What differs is inside: tokens stay in
one flat axis [batch, tokens, channels], a block's roll and its partition into attention windows are one permutation of
that axis, and the attention itself is a function handed down by the caller (`Attend`): fused by default, or one that
records what a saliency method needs. No hooks.

Source: Liu et al., Swin Transformer, ICCV 2021 (arXiv 2103.14030).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Literal, Protocol, runtime_checkable

import torch
import torch.distributed as dist
from einops import rearrange
from jaxtyping import Float, Int
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn import functional

MASKED_SCORE = -100.0
"""Added to the score of two tokens that a shifted attention window brings together from opposite image borders."""

PLAIN_WINDOW_TOKENS = 64
"""Up to this many tokens in a window, attention written out beats the fused kernel on a CPU (measured: 36, 144)."""

DEEP_STEM_CHANNELS = (12, 32)
"""Channels of the convolutional stem at full and at half resolution; at a quarter it has the embedding's own."""


MAX_BLOCKS = 64
"""Blocks of one stage; the largest Swin Transformer has 18."""

MAX_SCORES = 2**21
"""Attention scores of one head in one block; 384 x 384 pixels with a window of 12 have 1.3 million."""


class SwinOptions(BaseModel):
    """Geometry of a Swin Transformer."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    img_size: int = Field(default=192, gt=0, le=2048)
    """Rows and columns of the input image in pixels."""
    patch_size: int = Field(default=4, gt=0, le=64)
    """Side of the square of pixels that becomes one token of stage 1."""
    window: int = Field(default=6, gt=0, le=64)
    """Side of the attention window in tokens; shrinks to the token grid where that is smaller."""
    embed_dim: int = Field(default=48, gt=0, le=1024)
    """Channels of stage 1; each later stage has twice as many as the one before."""
    depths: tuple[int, ...] = Field(default=(2, 2, 4, 2), min_length=1, max_length=6)
    """Blocks in each stage."""
    heads: tuple[int, ...] = Field(default=(3, 6, 12, 24), min_length=1, max_length=6)
    """Attention heads in each stage."""
    mlp_ratio: float = Field(default=4.0, gt=0, le=16)
    """Hidden channels of a block's MLP, as a multiple of the stage's channels."""
    qkv_bias: bool = True
    """Whether queries, keys and values have an additive bias."""
    in_channels: int = Field(default=3, gt=0, le=64)
    """Channels of the input image."""
    stem: Literal["none", "deep"] = "none"
    """What comes before stage 1: one strided convolution, or a deep residual stem (needs patch_size 4)."""
    norm_eps: float = Field(default=1e-5, gt=0, le=1)
    """Epsilon of every LayerNorm."""
    drop_path: float = Field(default=0.0, ge=0, lt=1)
    """Probability with which the last block skips a sample in training; grows linearly from 0 at the first block."""

    @model_validator(mode="after")
    def _geometry_fits(self) -> "SwinOptions":
        if len(self.depths) != len(self.heads) or min(self.depths) < 1 or min(self.heads) < 1:
            raise ValueError(f"expected as many heads as depths, each at least 1; got {self.heads} and {self.depths}")
        if max(self.depths) > MAX_BLOCKS:
            raise ValueError(f"expected at most {MAX_BLOCKS} blocks in a stage; got depths {self.depths}")
        if self.stem == "deep" and self.patch_size != 4:
            raise ValueError(f"expected patch_size 4 with the deep stem, which halves twice; got {self.patch_size}")
        if self.img_size % self.patch_size:
            raise ValueError(f"expected img_size to be a multiple of patch_size {self.patch_size}; got {self.img_size}")
        if (self.grid_side(1) * self.stage_window(1)) ** 2 > MAX_SCORES:
            raise ValueError(
                f"expected at most {MAX_SCORES:,} attention scores a head; got an attention window of {self.window} on"
                f" {self.grid_side(1)} x {self.grid_side(1)} tokens"
            )
        for stage, heads in enumerate(self.heads, start=1):
            side, window, channels = self.grid_side(stage), self.stage_window(stage), self.stage_channels(stage)
            if channels % heads:
                raise ValueError(f"stage {stage}: expected channels to be a multiple of {heads} heads; got {channels}")
            if side % window or (side % 2 and stage < len(self.heads)):
                raise ValueError(
                    f"stage {stage}: expected a token grid divisible by the attention window {window} and by 2 before "
                    f"the next stage; got {side} x {side}; choose another img_size, patch_size or window"
                )
        return self

    @property
    def least_parameters(self) -> int:
        """Those of the blocks' matrices and tables of positions, and of the embedding where no stem is before it."""
        embedding = self.embed_dim * self.in_channels * self.patch_size**2 if self.stem == "none" else 0
        blocks = 0
        for stage, (depth, heads) in enumerate(zip(self.depths, self.heads, strict=True), start=1):
            matrices = (4 + 2 * self.mlp_ratio) * self.stage_channels(stage) ** 2
            blocks += depth * (int(matrices) + heads * (2 * self.stage_window(stage) - 1) ** 2)
        return embedding + blocks

    def grid_side(self, stage: int) -> int:
        """Tokens along each side of the grid of a stage (1-based)."""
        return self.img_size // self.patch_size >> (stage - 1)

    def stage_channels(self, stage: int) -> int:
        """Channels of a stage (1-based)."""
        return self.embed_dim << (stage - 1)

    def stage_window(self, stage: int) -> int:
        """Side of the attention window of a stage (1-based): never larger than the token grid."""
        return min(self.window, self.grid_side(stage))

    def grid(self, stage: int, block: int) -> "BlockGrid":
        """The grid of one block: even blocks are regular; odd ones shift, unless one window covers the whole grid."""
        side, window = self.grid_side(stage), self.stage_window(stage)
        shift = window // 2 if block % 2 and side > window else 0
        return BlockGrid(stage=stage, block=block, rows=side, cols=side, window=window, shift=shift)


@dataclass(frozen=True)
class BlockGrid:
    """Where a block's attention windows lie on the token grid.

    Attributes:
        stage: 1-based, as in the papers (timm's `layers.{stage - 1}`).
        block: 0-based within the stage.
        rows, cols: tokens of the stage's grid.
        window: side of an attention window in tokens.
        shift: tokens by which the grid was rolled up and to the left before it was cut into windows.
    """

    stage: int
    block: int
    rows: int
    cols: int
    window: int
    shift: int

    @property
    def windows(self) -> int:
        """Number of attention windows."""
        return (self.rows // self.window) * (self.cols // self.window)

    def window_order(self) -> Int[Tensor, " tokens"]:
        """For each token in window order (window by window, row by row inside), its index in raster order."""
        raster = torch.arange(self.rows * self.cols).view(self.rows, self.cols)
        rolled = raster.roll((-self.shift, -self.shift), dims=(0, 1))
        return rearrange(rolled, "(r i) (c j) -> (r c i j)", i=self.window, j=self.window)

    def raster_order(self) -> Int[Tensor, " tokens"]:
        """For each token in raster order, its index in window order: the inverse of `window_order`."""
        return torch.argsort(self.window_order())

    def shift_mask(self) -> Float[Tensor, "windows tokens tokens"] | None:
        """What a shifted block adds to its scores, so that tokens from opposite borders do not meet; None if regular.

        Source: arXiv 2103.14030, section 3.2, "Efficient batch computation for shifted configuration".
        """
        if not self.shift:
            return None

        def region(length: int) -> Int[Tensor, " length"]:
            index = torch.arange(length)
            return (index >= length - self.window).long() + (index >= length - self.shift).long()

        regions = 3 * region(self.rows)[:, None] + region(self.cols)[None, :]
        per_window = rearrange(regions, "(r i) (c j) -> (r c) (i j)", i=self.window, j=self.window)
        return (per_window[:, :, None] != per_window[:, None, :]).float() * MASKED_SCORE


@runtime_checkable
class Attend(Protocol):
    """Windowed attention: softmax(query key^T / sqrt(channels) + bias) value."""

    def __call__(
        self,
        query: Float[Tensor, "batch windows heads tokens channels"],
        key: Float[Tensor, "batch windows heads tokens channels"],
        value: Float[Tensor, "batch windows heads tokens channels"],
        bias: Float[Tensor, "windows_or_1 heads tokens tokens"],
        grid: BlockGrid,
    ) -> Float[Tensor, "batch windows heads tokens channels"]:
        """Attend within each window and head.

        Args:
            query, key, value: strided views are welcome; the last axis is contiguous.
            bias: relative position bias, plus the shift mask where the block is shifted.
            grid: of the block that runs.
        """
        ...


def plain_attention(
    query: Float[Tensor, "batch windows heads tokens channels"],
    key: Float[Tensor, "batch windows heads tokens channels"],
    value: Float[Tensor, "batch windows heads tokens channels"],
    bias: Float[Tensor, "windows_or_1 heads tokens tokens"],
    grid: BlockGrid,
) -> Float[Tensor, "batch windows heads tokens channels"]:
    """Attention written out, with weights in memory: the definition, and the fastest on a CPU for small windows."""
    scores = (query / math.sqrt(query.shape[-1])) @ key.transpose(-2, -1)
    weights = (scores + bias).softmax(dim=-1, dtype=torch.float32)
    return weights.to(value.dtype) @ value


def fused_attention(
    query: Float[Tensor, "batch windows heads tokens channels"],
    key: Float[Tensor, "batch windows heads tokens channels"],
    value: Float[Tensor, "batch windows heads tokens channels"],
    bias: Float[Tensor, "windows_or_1 heads tokens tokens"],
    grid: BlockGrid,
) -> Float[Tensor, "batch windows heads tokens channels"]:
    """Attention that nobody reads, the fastest way: torch's fused kernels, which never store the weights.

    On a CPU these lose against `plain_attention` for small windows and in backward passes.
    """
    batch, windows, _, tokens, _ = query.shape
    differentiates = torch.is_grad_enabled() and (query.requires_grad or bias.requires_grad)
    if query.device.type == "cpu" and (differentiates or tokens <= PLAIN_WINDOW_TOKENS):
        return plain_attention(query, key, value, bias, grid)
    if len(bias) > 1:
        bias = bias.repeat(batch, 1, 1, 1)
    out = functional.scaled_dot_product_attention(
        query.flatten(0, 1), key.flatten(0, 1), value.flatten(0, 1), attn_mask=bias.to(query.dtype)
    )
    return rearrange(out, "(b w) h t c -> b w h t c", b=batch, w=windows)


class _Permute(torch.autograd.Function):
    """Reorder the token axis. The gradient is the inverse permutation: a gather, many times faster than index_add."""

    @staticmethod
    def forward(ctx: FunctionCtx, tokens: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return tokens.index_select(1, order)

    @staticmethod
    def backward(ctx: FunctionCtx, *grads: Tensor) -> tuple[Tensor, None, None]:
        (inverse,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return grads[0].index_select(1, inverse), None, None


def permute_tokens(
    tokens: Float[Tensor, "batch tokens channels"], order: Int[Tensor, " tokens"], inverse: Int[Tensor, " tokens"]
) -> Float[Tensor, "batch tokens channels"]:
    """Token i of the result is token order[i] of the input; `inverse` undoes `order`."""
    permuted: Tensor = _Permute.apply(tokens, order, inverse)  # type: ignore[no-untyped-call]
    return permuted


class Linear(nn.Linear):
    """nn.Linear, a tenth faster in float32 on a CPU while its weights are frozen: through oneDNN, in both directions.

    torch itself takes oneDNN for smaller types only. Measured on AMD EPYC with AVX-512, one and two threads.
    """

    def forward(self, tokens: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        """tokens weight^T + bias."""
        trains = torch.is_grad_enabled() and self.weight.requires_grad
        if trains or not _serves_onednn(tokens, self.weight):
            return super().forward(tokens)
        out: Tensor = _FrozenLinear.apply(tokens, self.weight, self.bias)  # type: ignore[no-untyped-call]
        return out


def _serves_onednn(tokens: Tensor, weight: Tensor) -> bool:
    return (
        tokens.device.type == "cpu"
        and tokens.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


class _FrozenLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, tokens: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return _onednn_linear(tokens, weight, bias)

    @staticmethod
    def backward(ctx: FunctionCtx, *grads: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return _onednn_linear(grads[0], weight.T, None), None, None


def _onednn_linear(tokens: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The operator that torch.compile puts in place of frozen linear layers."""
    out: Tensor = torch.ops.mkldnn._linear_pointwise(tokens, weight, bias, "none", [], "")
    return out


def drop_path(branch: Float[Tensor, "batch ..."], probability: float) -> Float[Tensor, "batch ..."]:
    """Stochastic depth: zero the residual branch of whole samples at random and scale up those kept. Training only.

    Source: Huang et al., Deep Networks with Stochastic Depth, ECCV 2016 (arXiv 1603.09382).
    """
    kept = torch.rand(branch.shape[0], *[1] * (branch.dim() - 1), device=branch.device) >= probability
    return branch * (kept.to(branch.dtype) / (1.0 - probability))


class PatchEmbed(nn.Module):
    """One strided convolution: each square of pixels becomes a token."""

    def __init__(self, options: SwinOptions) -> None:
        super().__init__()
        self.proj = nn.Conv2d(options.in_channels, options.embed_dim, options.patch_size, stride=options.patch_size)
        self.norm = nn.LayerNorm(options.embed_dim, eps=options.norm_eps)

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch tokens embed"]:
        """Images to tokens in raster order."""
        tokens: Tensor = self.norm(self.proj(images).flatten(2).transpose(1, 2))
        return tokens


class _SumOverProcesses(torch.autograd.Function):
    """A tensor's sum over all processes. Each of them adds to every other's answer, so gradients are summed alike."""

    @staticmethod
    def forward(ctx: FunctionCtx, tensor: Tensor) -> Tensor:
        total = tensor.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: FunctionCtx, *grads: Tensor) -> Tensor:
        return _SumOverProcesses.forward(ctx, grads[0])


def _sum_over_processes(tensor: Tensor) -> Tensor:
    total: Tensor = _SumOverProcesses.apply(tensor)  # type: ignore[no-untyped-call]
    return total


class SharedBatchNorm(nn.BatchNorm2d):
    """nn.BatchNorm2d whose mean and variance are those of the images of all processes that share a training step.

    All of them must ask equally often, each with as many images as it has. Alone and outside training it is
    nn.BatchNorm2d. torch's own SyncBatchNorm runs on GPUs only.

    Source: Ioffe and Szegedy 2015, arXiv 1502.03167, algorithm 1.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels)

    def forward(self, maps: Float[Tensor, "batch channels rows cols"]) -> Float[Tensor, "batch channels rows cols"]:
        """Each channel with mean 0 and variance 1, then scaled and shifted."""
        if not self.training or not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
            return super().forward(maps)
        exact = maps if maps.dtype == torch.float64 else maps.float()
        n_here = exact.new_tensor([exact.numel() / self.num_features])
        sums = _sum_over_processes(torch.cat([exact.sum(dim=(0, 2, 3)), n_here]))
        n = sums[-1]
        mean = sums[:-1] / n
        centred = exact - mean[:, None, None]
        variance = _sum_over_processes(centred.square().sum(dim=(0, 2, 3))) / n
        with torch.no_grad():
            self._remember(mean, variance * n / (n - 1))
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(maps.dtype)

    def _remember(self, mean: Float[Tensor, " channels"], variance: Float[Tensor, " channels"]) -> None:
        """Move the running statistics."""
        for name, new in (("running_mean", mean), ("running_var", variance)):
            self.get_buffer(name).lerp_(new, self.momentum or 0.0)
        self.get_buffer("num_batches_tracked").add_(1)


class ConvNorm(nn.Module):
    """A 3 x 3 convolution and a BatchNorm, which outside training are one convolution."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.norm = SharedBatchNorm(out_channels)

    def forward(self, maps: Float[Tensor, "batch in rows cols"]) -> Float[Tensor, "batch out rows_out cols_out"]:
        """Feature maps at the stride's resolution."""
        norm = self.norm
        if self.training or norm.running_mean is None or norm.running_var is None:
            normed: Tensor = norm(self.conv(maps))
            return normed
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        weight = self.conv.weight * scale[:, None, None, None]
        return functional.conv2d(maps, weight, norm.bias - norm.running_mean * scale, self.conv.stride, padding=1)


class ResidualConv(nn.Module):
    """A convolution that changes the channels and maybe halves the grid, then one with a skip connection."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.enter = ConvNorm(in_channels, out_channels, stride)
        self.residual = ConvNorm(out_channels, out_channels)

    def forward(self, maps: Float[Tensor, "batch in rows cols"]) -> Float[Tensor, "batch out rows_out cols_out"]:
        """Feature maps at the stride's resolution."""
        entered = functional.gelu(self.enter(maps))
        return entered + functional.gelu(self.residual(entered))


class DeepStem(nn.Module):
    """Convolutions at full, half and quarter resolution: small bright details reach the tokens with some context."""

    def __init__(self, options: SwinOptions) -> None:
        super().__init__()
        full, half = DEEP_STEM_CHANNELS
        self.at_full = ResidualConv(options.in_channels, full, stride=1)
        self.at_half = ResidualConv(full, half, stride=2)
        self.at_quarter = ResidualConv(half, options.embed_dim, stride=2)
        self.norm = nn.LayerNorm(options.embed_dim, eps=options.norm_eps)

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch tokens embed"]:
        """Images to tokens in raster order."""
        maps = self.at_quarter(self.at_half(self.at_full(images.contiguous(memory_format=torch.channels_last))))
        tokens: Tensor = self.norm(maps.flatten(2).transpose(1, 2))
        return tokens


class PatchMerging(nn.Module):
    """Between two stages: four neighbouring tokens become one with twice the channels."""

    def __init__(self, grid_side: int, channels: int, norm_eps: float) -> None:
        super().__init__()
        self.grid_side = grid_side
        self.norm = nn.LayerNorm(4 * channels, eps=norm_eps)
        self.reduction = Linear(4 * channels, 2 * channels, bias=False)

    def forward(self, tokens: Float[Tensor, "batch tokens channels"]) -> Float[Tensor, "batch fewer more"]:
        """Tokens of the stage before (raster order) to the tokens of the next."""
        merged = rearrange(tokens, "b (r i c j) n -> b (r c) (j i n)", r=self.grid_side // 2, i=2, j=2)
        reduced: Tensor = self.reduction(self.norm(merged))
        return reduced


class WindowAttention(nn.Module):
    """Multi-head attention inside windows, with a learned bias for each relative position."""

    relative_position_index: Tensor

    def __init__(self, channels: int, heads: int, window: int, qkv_bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.window_tokens = window * window
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.qkv = Linear(channels, 3 * channels, bias=qkv_bias)
        self.proj = Linear(channels, channels)
        self.register_buffer("relative_position_index", relative_position_index(window).flatten(), persistent=False)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def position_bias(self) -> Float[Tensor, "heads tokens tokens"]:
        """The learned bias of each pair of tokens in a window."""
        per_pair = self.relative_position_bias_table.T.index_select(1, self.relative_position_index)
        return per_pair.view(self.heads, self.window_tokens, self.window_tokens)

    def forward(
        self,
        tokens: Float[Tensor, "batch tokens channels"],
        shift_mask: Float[Tensor, "windows window_tokens window_tokens"] | None,
        grid: BlockGrid,
        attend: Attend,
    ) -> Float[Tensor, "batch tokens channels"]:
        """Attention of tokens in window order, with the scores' bias and mask."""
        bias = self.position_bias()[None]
        if shift_mask is not None:
            bias = bias + shift_mask[:, None]
        query, key, value = rearrange(
            self.qkv(tokens), "b (w t) (three h c) -> three b w h t c", w=grid.windows, three=3, h=self.heads
        ).unbind(0)
        attended = attend(query, key, value, bias, grid)
        projected: Tensor = self.proj(rearrange(attended, "b w h t c -> b (w t) (h c)"))
        return projected


def relative_position_index(window: int) -> Int[Tensor, "tokens tokens"]:
    """For each pair (query, key) of a window's tokens, the row of the bias table that belongs to their offset."""
    row, col = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
    row, col = row.flatten(), col.flatten()
    row_offset = row[:, None] - row[None, :] + window - 1
    col_offset = col[:, None] - col[None, :] + window - 1
    return row_offset * (2 * window - 1) + col_offset


class Mlp(nn.Module):
    """Two linear layers with a GELU between."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = Linear(channels, hidden)
        self.fc2 = Linear(hidden, channels)

    def forward(self, tokens: Float[Tensor, "batch tokens channels"]) -> Float[Tensor, "batch tokens channels"]:
        """Each token by itself."""
        out: Tensor = self.fc2(functional.gelu(self.fc1(tokens)))
        return out


class SwinBlock(nn.Module):
    """Windowed attention and an MLP, each behind a LayerNorm and beside a skip connection."""

    order: Tensor
    inverse: Tensor
    shift_mask: Tensor | None

    def __init__(self, options: SwinOptions, stage: int, block: int, drop_path_probability: float) -> None:
        super().__init__()
        channels = options.stage_channels(stage)
        self.grid = options.grid(stage, block)
        self.drop_path_probability = drop_path_probability
        self.norm1 = nn.LayerNorm(channels, eps=options.norm_eps)
        self.attn = WindowAttention(channels, options.heads[stage - 1], self.grid.window, options.qkv_bias)
        self.norm2 = nn.LayerNorm(channels, eps=options.norm_eps)
        self.mlp = Mlp(channels, int(channels * options.mlp_ratio))
        self.register_buffer("order", self.grid.window_order(), persistent=False)
        self.register_buffer("inverse", self.grid.raster_order(), persistent=False)
        self.register_buffer("shift_mask", self.grid.shift_mask(), persistent=False)

    def forward(
        self, tokens: Float[Tensor, "batch tokens channels"], attend: Attend
    ) -> Float[Tensor, "batch tokens channels"]:
        """Tokens in raster order, in and out."""
        windowed = permute_tokens(self.norm1(tokens), self.order, self.inverse)
        attended = self.attn(windowed, self.shift_mask, self.grid, attend)
        tokens = tokens + self._branch(permute_tokens(attended, self.inverse, self.order))
        return tokens + self._branch(self.mlp(self.norm2(tokens)))

    def _branch(self, branch: Tensor) -> Tensor:
        if self.training and self.drop_path_probability > 0:
            return drop_path(branch, self.drop_path_probability)
        return branch


class SwinStage(nn.Module):
    """The blocks of one resolution, behind the merging that leads to it (none in stage 1)."""

    def __init__(self, options: SwinOptions, stage: int, drop_path_probabilities: list[float]) -> None:
        super().__init__()
        self.downsample = (
            nn.Identity()
            if stage == 1
            else PatchMerging(options.grid_side(stage - 1), options.stage_channels(stage - 1), options.norm_eps)
        )
        self.blocks = nn.ModuleList(
            SwinBlock(options, stage, block, probability) for block, probability in enumerate(drop_path_probabilities)
        )

    def forward(self, tokens: Float[Tensor, "batch tokens in"], attend: Attend) -> Float[Tensor, "batch fewer out"]:
        """Tokens in raster order, in and out."""
        tokens = self.downsample(tokens)
        for block in self.blocks:
            tokens = block(tokens, attend)
        return tokens


class SwinTransformer(nn.Module):
    """Images to tokens to stages: `embed`, then `run_stage` for each; `norm` is for the tokens of the last."""

    def __init__(self, options: SwinOptions) -> None:
        super().__init__()
        self.options = options
        self.patch_embed = DeepStem(options) if options.stem == "deep" else PatchEmbed(options)
        blocks = sum(options.depths)
        probabilities = (options.drop_path * block / max(1, blocks - 1) for block in range(blocks))
        self.layers = nn.ModuleList(
            SwinStage(options, stage, list(islice(probabilities, depth)))
            for stage, depth in enumerate(options.depths, start=1)
        )
        self.norm = nn.LayerNorm(self.channels, eps=options.norm_eps)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    @property
    def n_stages(self) -> int:
        """Number of stages."""
        return len(self.options.depths)

    @property
    def channels(self) -> int:
        """Channels of the last stage."""
        return self.options.stage_channels(self.n_stages)

    def embed(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch tokens embed"]:
        """The input of stage 1: tokens in raster order.

        Args:
            images: values in [0, 1], as many channels and pixels as the options say.

        Raises:
            ValueError: for images of another shape.
        """
        expected = (self.options.in_channels, self.options.img_size, self.options.img_size)
        if images.dim() != 4 or tuple(images.shape[1:]) != expected:
            raise ValueError(
                f"expected images [batch, {expected[0]}, {expected[1]}, {expected[2]}]; got {list(images.shape)}; "
                "cut larger images into overlapping windows of that size"
            )
        tokens: Tensor = self.patch_embed(images)
        return tokens

    def run_stage(
        self, stage: int, tokens: Float[Tensor, "batch tokens in"], attend: Attend = fused_attention
    ) -> Float[Tensor, "batch fewer out"]:
        """One stage (1-based) on the output of the stage before: `embed` for stage 1."""
        out: Tensor = self.layers[stage - 1](tokens, attend)
        return out

    def stages(
        self, images: Float[Tensor, "batch channels height width"], attend: Attend = fused_attention
    ) -> Iterator[Float[Tensor, "batch tokens channels"]]:
        """The output of each stage in turn, tokens in raster order."""
        tokens = self.embed(images)
        for stage in range(1, self.n_stages + 1):
            tokens = self.run_stage(stage, tokens, attend)
            yield tokens


def swin_tiny_patch4_window7_224(in_channels: int = 3) -> SwinOptions:
    """Swin-T at 224 pixels (arXiv 2103.14030)."""
    return SwinOptions(
        img_size=224, window=7, embed_dim=96, depths=(2, 2, 6, 2), heads=(3, 6, 12, 24), in_channels=in_channels
    )


def swin_small_patch4_window7_224(in_channels: int = 3) -> SwinOptions:
    """Swin-S at 224 pixels (arXiv 2103.14030)."""
    return SwinOptions(
        img_size=224, window=7, embed_dim=96, depths=(2, 2, 18, 2), heads=(3, 6, 12, 24), in_channels=in_channels
    )


def swin_base_patch4_window7_224(in_channels: int = 3) -> SwinOptions:
    """Swin-B at 224 pixels (arXiv 2103.14030)."""
    return SwinOptions(
        img_size=224, window=7, embed_dim=128, depths=(2, 2, 18, 2), heads=(4, 8, 16, 32), in_channels=in_channels
    )


def swin_base_patch4_window12_384(in_channels: int = 3) -> SwinOptions:
    """Swin-B at 384 pixels: the network of HGI-SAM (arXiv 2304.04902)."""
    return SwinOptions(
        img_size=384, window=12, embed_dim=128, depths=(2, 2, 18, 2), heads=(4, 8, 16, 32), in_channels=in_channels
    )
