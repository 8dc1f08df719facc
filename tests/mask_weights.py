"""Weights of a network that learns from masks, as small as can be."""

from datetime import UTC, datetime
from pathlib import Path

import torch

from hgisam.model.checkpoint import SegmenterMetadata, save_weights
from hgisam.model.supervised import MaskNetwork, UNetOptions
from hgisam.preprocess import PreprocessOptions
from hgisam.supervised import StackOptions


def write_weights(path: Path, spatial_dims: int, slice_mm: float = 5.0) -> Path:
    """A U-Net of one convolution that has learned nothing, and sees pixels of 2 mm."""
    options = UNetOptions(spatial_dims=spatial_dims, channels=(1, 1), slice_halvings=0, residual_units=0)
    torch.manual_seed(0)
    metadata = SegmenterMetadata(
        architecture=options,
        preprocess=PreprocessOptions(spacing_mm=2.0, fov_px=96).model_dump(mode="json"),
        stack=StackOptions(slice_mm=slice_mm, window_slices=8).model_dump(mode="json"),
        data="none", command="none", seed=0, created=datetime(2026, 1, 2, tzinfo=UTC), version="0",
        licence="Apache-2.0",
    )  # fmt: skip
    save_weights(path, MaskNetwork(options), metadata)
    return path
