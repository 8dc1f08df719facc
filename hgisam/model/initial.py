"""Initial weights: a network begins with what another of its kind learned, though window, image, patch or channels
differ.

What fits is copied, what can be carried over is adapted, and whatever is left on either side is named: nothing is
silent. Another kind, another embedding or width, or other heads are another network, and refused.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.interpolate import make_interp_spline
from torch import Tensor
from torch.nn import functional

from hgisam.model.checkpoint import WeightsError, check_finite, follows_from_geometry, published_names, read_tensors
from hgisam.model.slice_classifier import SliceClassifier

_BIAS_TABLE = ".attn.relative_position_bias_table"
_PATCH_KERNEL = "swin.patch_embed.proj.weight"
_FIRST_OF_DEEP_STEM = "swin.patch_embed.at_full.enter.conv.weight"
_RESNET = "resnet."
_FIRST_OF_RESNET = f"{_RESNET}conv1.weight"


@dataclass(frozen=True)
class InitialReport:
    """What became of every tensor, of the network and of the file.

    Attributes:
        copied: the network's tensors that took the file's values as they are.
        adapted: the network's tensors that took the file's values in another shape, and how.
        random: the network's tensors that stay as they were, and why.
        unused: the file's tensors that went nowhere, under the file's own names, and why.
        sha256: of the file; None where the tensors came from none.
    """

    copied: tuple[str, ...]
    adapted: dict[str, str]
    random: dict[str, str]
    unused: dict[str, str]
    sha256: str | None = None

    def lines(self) -> list[str]:
        """For a log: how many were copied, and one line for each of the others."""
        named = (("adapted", self.adapted), ("stays random", self.random), ("unused", self.unused))
        return [
            f"copied {len(self.copied)} of {len(self.copied) + len(self.adapted) + len(self.random)} tensors",
            *(f"{what}: {name}: {why}" for what, names in named for name, why in names.items()),
        ]


@dataclass(frozen=True)
class SwinShape:
    """What the tensors of a Swin Transformer tell of it.

    Attributes:
        embed_dim: channels of stage 1.
        depths: blocks in each stage.
        heads: attention heads in each stage.
    """

    embed_dim: int
    depths: tuple[int, ...]
    heads: tuple[int, ...]


def load_initial_weights(model: SliceClassifier, path: Path, *, added_channels: bool = False) -> InitialReport:
    """Let a network begin with the weights of a file; what the file cannot give stays as it is.

    Args:
        model: the network; changed in place, and only once all is known to fit. Token heads are never in a file.
        path: a .safetensors file: hgisam's own, or a Swin under timm's names. If a .sha256 lies beside it, it counts. A
            ResNet begins with hgisam's own alone.
        added_channels: whether the network's first channels are the file's; those after them begin without a say.

    Returns:
        What became of every tensor.

    Raises:
        WeightsError: the file is missing, a pickle, damaged, changed, not finite, or of another network.
    """
    stored = read_tensors(path)
    check_finite({name: t for name, t in stored.tensors.items() if not follows_from_geometry(name)}, path)
    own = model.state_dict()
    try:
        adapted, report = adapt_state(stored.tensors, own, added_channels=added_channels)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error
    model.load_state_dict(own | adapted)  # copy_ casts to the network's own type
    return replace(report, sha256=stored.sha256)


def adapt_state(
    state: Mapping[str, Tensor], network: Mapping[str, Tensor], *, added_channels: bool = False
) -> tuple[dict[str, Tensor], InitialReport]:
    """What a network can take over from the tensors of another.

    Tables of the relative position bias are resized to the network's attention windows, the first convolution to its
    channels, and the patch embedding to its patch. Blocks that only one side has are named and left alone, and so are a
    head with another number of outputs and a patch embedding of another kind (the deep stem).

    Args:
        state: names as timm, HGI-SAM or hgisam have them; of a ResNet, as hgisam does.
        network: the state_dict of the network; only names and shapes count.
        added_channels: whether the network's first channels are the file's; those after them begin without a say.

    Returns:
        Tensors under the network's names and in its shapes, and what became of every tensor of either side.

    Raises:
        WeightsError: where the tensors are of no network of this kind, or of one with another embedding or width, other
            heads or fewer stages.
    """
    if _is_resnet(network):
        names = {name: name for name in state}
        published = dict(state)
        _refuse_another_resnet(state, network)
    else:
        names = published_names(state)
        published = {own: state[name] for name, own in names.items()}
        if _is_resnet(state):
            raise WeightsError(
                "expected the tensors of a Swin Transformer; got those of a ResNet; take weights of a Swin, or train a"
                " classifier of kind resnet18"
            )
        _refuse_another_network(swin_shape(published), swin_shape(network))
    copied: list[str] = []
    adapted: dict[str, str] = {}
    random: dict[str, str] = {}
    taken: dict[str, Tensor] = {}
    for name, tensor in network.items():
        if name not in published:
            random[name] = "not in the file"
        elif published[name].shape == tensor.shape:
            taken[name] = published[name]
            copied.append(name)
        elif (fitted := _fitted(name, published[name], tensor.shape, added_channels)) is not None:
            taken[name], adapted[name] = fitted
        else:
            random[name] = f"expected shape {[*tensor.shape]}; the file's is {[*published[name].shape]}"
    unused = {name: _why_unused(name, names, network) for name in state if names.get(name) not in taken}
    return taken, InitialReport(tuple(copied), adapted, random, unused)


def swin_shape(state: Mapping[str, Tensor]) -> SwinShape:
    """Embedding, depths and heads of the Swin Transformer that some tensors are of.

    Args:
        state: under the names of `SliceClassifier`.

    Raises:
        WeightsError: where a stage's first block is not that of a Swin Transformer, as in Swin V2.
    """
    found = (re.match(r"swin\.layers\.(\d+)\.blocks\.(\d+)\.", name) for name in state)
    blocks = {(int(match[1]), int(match[2])) for match in found if match}
    stages = sorted({stage for stage, _ in blocks})
    tables = [state.get(f"swin.layers.{stage}.blocks.0{_BIAS_TABLE}") for stage in stages]
    norm = state.get("swin.layers.0.blocks.0.norm1.weight")
    whole = norm is not None and norm.dim() == 1 and stages == list(range(len(stages)))
    if norm is None or not whole or any(table is None or table.dim() != 2 for table in tables):
        some = ", ".join(sorted(state)[:3]) or "none"
        raise WeightsError(
            f"expected the tensors of a Swin Transformer (version 1); got {some} and others; "
            "take weights of hgisam, HGI-SAM or timm's swin_*"
        )
    return SwinShape(
        embed_dim=len(norm),
        depths=tuple(sum(of == stage for of, _ in blocks) for stage in stages),
        heads=tuple(table.shape[1] for table in tables if table is not None),
    )


def resize_bias_table(table: Float[Tensor, "offsets heads"], window: int) -> Float[Tensor, "new_offsets heads"]:
    """A relative position bias for another attention window: cubic splines over the offsets, in both directions.

    The farthest offsets of one window become the farthest of the other, and offset 0 stays 0: an attention window keeps
    its part of the picture, as it does where resolution and window grow together.

    Source: arXiv 2103.14030, section 3.2, "Relative position bias": bi-cubic interpolation for another window size,
    which made the published networks of 384 px (window 12) out of those of 224 px (window 7).
    Deviation: an interpolating spline, which keeps what is linear linear up to the edge. timm spaces the file's offsets
    geometrically instead (after BEiT), so that near offsets keep their bias and only far ones are stretched.

    Args:
        table: of a square window, as `WindowAttention` has it.
        window: side of the new one.

    Raises:
        ValueError: where the table is not that of a square window.
    """
    side = math.isqrt(len(table))
    if side**2 != len(table) or side % 2 == 0:
        raise ValueError(f"expected (2 window - 1)^2 offsets; got {len(table)}; the attention window is not square")
    grid = table.double().cpu().numpy().reshape(side, side, table.shape[1])
    if side == 1:
        grid = np.broadcast_to(grid, (2 * window - 1, 2 * window - 1, grid.shape[2]))
    else:
        degree = min(3, side - 1)
        for axis in (0, 1):
            grid = make_interp_spline(_offsets((side + 1) // 2), grid, k=degree, axis=axis)(_offsets(window))
    return torch.tensor(grid.reshape(-1, grid.shape[2]), dtype=table.dtype)


def resize_patch_kernel(
    kernel: Float[Tensor, "out in rows cols"], patch_px: int
) -> Float[Tensor, "out in {patch_px} {patch_px}"]:
    """A patch embedding for another patch: what it says of a patch, it says of the resized patch too.

    Exactly so where the patch grows (bilinear); where it shrinks, as nearly as least squares allow.

    Source: Beyer et al., FlexiViT, CVPR 2023 (arXiv 2212.08013), equation 4: the pseudo-inverse of the resizing.
    """
    rows, cols = kernel.shape[2:]
    pixels = torch.eye(rows * cols, dtype=torch.float64).view(-1, 1, rows, cols)
    resized = functional.interpolate(pixels, size=(patch_px, patch_px), mode="bilinear", antialias=True).flatten(1)
    flat: Tensor = kernel.double().cpu().flatten(2) @ torch.linalg.pinv(resized).T
    return flat.view(*kernel.shape[:2], patch_px, patch_px).to(kernel.dtype)


def spread_channels(
    kernel: Float[Tensor, "out in rows cols"], channels: int
) -> Float[Tensor, "out {channels} rows cols"]:
    """A convolution for another number of input channels: each gets an equal share of the sum over the file's.

    To channels that show the same it answers as before. For one channel this is timm's rule too; for others timm
    repeats red, green and blue, which mean nothing in CT.
    """
    share = kernel.double().cpu().sum(dim=1, keepdim=True) / channels
    return share.expand(-1, channels, -1, -1).to(kernel.dtype).contiguous()


def _refuse_another_network(got: SwinShape, expected: SwinShape) -> None:
    stages = min(len(got.heads), len(expected.heads))
    for what, own, other in (
        ("embed_dim", expected.embed_dim, got.embed_dim),
        ("heads", expected.heads[:stages], got.heads[:stages]),
    ):
        if own != other:
            raise WeightsError(f"expected {what} {own}; got {other}; set the network's to the file's or take another")
    if len(got.depths) < len(expected.depths):
        raise WeightsError(
            f"expected {len(expected.depths)} stages; got {len(got.depths)}; "
            "give the network as many as the file or take another"
        )


def _is_resnet(state: Mapping[str, Tensor]) -> bool:
    """Whether tensors are of a ResNet, as hgisam names them."""
    return _FIRST_OF_RESNET in state


def _refuse_another_resnet(got: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    if not _is_resnet(got):
        some = ", ".join(sorted(got)[:3]) or "none"
        raise WeightsError(
            f"expected the tensors of a ResNet as hgisam names them; got {some} and others; take weights of hgisam's"
            " resnet18, or train a classifier of kind swin"
        )
    own, other = (sum(state[_FIRST_OF_RESNET].shape[:1]) for state in (expected, got))
    if own != other:
        raise WeightsError(f"expected width {own}; got {other}; set the network's to the file's or take another")


def _fitted(name: str, tensor: Tensor, shape: torch.Size, added_channels: bool) -> tuple[Tensor, str] | None:
    """A tensor in the shape that the network's has, and how it came there; None where there is no way."""
    if name.endswith(_BIAS_TABLE):
        return _fitted_table(tensor, shape)
    if name in {_PATCH_KERNEL, _FIRST_OF_DEEP_STEM, _FIRST_OF_RESNET} and tensor.dim() == 4 and len(tensor) == shape[0]:
        return _fitted_kernel(name, tensor, shape, added_channels)
    return None


def _fitted_table(table: Tensor, shape: torch.Size) -> tuple[Tensor, str] | None:
    if table.dim() != 2 or table.shape[1] != shape[1]:
        return None
    windows = [(math.isqrt(offsets) + 1) // 2 for offsets in (len(table), shape[0])]
    if (2 * windows[0] - 1) ** 2 != len(table):
        return None
    resized = resize_bias_table(table, windows[1])
    return resized, f"relative position bias of attention window {windows[0]} resized to {windows[1]}"


def _fitted_kernel(name: str, kernel: Tensor, shape: torch.Size, added_channels: bool) -> tuple[Tensor, str] | None:
    ways = []
    if kernel.shape[2:] != shape[2:]:
        if name != _PATCH_KERNEL:
            return None
        ways.append(f"patch of {kernel.shape[2]} px resized to {shape[2]}")
        kernel = resize_patch_kernel(kernel, shape[2])
    if added_channels and kernel.shape[1] < shape[1]:
        ways.append(f"{shape[1] - kernel.shape[1]} more channels, which begin without a say")
        kernel = torch.cat(
            [kernel, kernel.new_zeros(len(kernel), shape[1] - kernel.shape[1], *kernel.shape[2:])], dim=1
        )
    elif kernel.shape[1] != shape[1]:
        ways.append(f"sum over {kernel.shape[1]} channels spread over {shape[1]}")
        kernel = spread_channels(kernel, shape[1])
    return kernel, ", ".join(ways)


def _why_unused(name: str, names: Mapping[str, str], network: Mapping[str, Tensor]) -> str:
    if follows_from_geometry(name):
        return "follows from the geometry"
    if name not in names:
        return "the head of another task"
    if names[name] not in network:
        return "the network has no such part"
    return "does not fit the network's shape"


def _offsets(window: int) -> NDArray[np.float64]:
    """The offsets of a window along one axis, the farthest as -1 and 1."""
    return np.linspace(-1.0, 1.0, 2 * window - 1) if window > 1 else np.zeros(1)
