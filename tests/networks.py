"""The networks of the golden files, and small ones, for the tests of model, attention and weak."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from hgisam.model.checkpoint import published_state
from hgisam.model.classifier import ClassifierOptions, HemorrhageClassifier
from hgisam.model.cnn import CnnClassifier, CnnOptions
from hgisam.model.swin import SwinOptions

GOLDEN = Path(__file__).resolve().parent / "golden"

TIMM_SWIN = SwinOptions(img_size=64, window=4, embed_dim=8, depths=(2, 2, 4, 2), heads=(1, 2, 2, 4))
"""Of timm_swin.npz: stage 3's window covers its whole grid, stage 4's shrinks to it."""

REFERENCE_SWIN = SwinOptions(img_size=384, window=12, embed_dim=16, depths=(2, 2, 18, 2), heads=(1, 2, 4, 8))
"""Of hgi_sam_reference.npz."""

Arrays = dict[str, np.ndarray]


def arrays(path: Path) -> Arrays:
    """Everything in an npz file."""
    with np.load(path) as stored:
        return {name: stored[name] for name in stored.files}


def stored_weights(golden: Arrays) -> dict[str, Tensor]:
    """The network's state in a golden file, float32."""
    prefix = "weight/"
    return {k.removeprefix(prefix): torch.from_numpy(v).float() for k, v in golden.items() if k.startswith(prefix)}


def timm_network() -> tuple[HemorrhageClassifier, Arrays]:
    """The network of timm_swin.npz with the head it was made with, and the file."""
    golden = arrays(GOLDEN / "timm_swin.npz")
    weights = stored_weights(golden)
    head = {"head.weight": weights.pop("head.fc.weight"), "head.bias": weights.pop("head.fc.bias")}
    model = HemorrhageClassifier(ClassifierOptions(swin=TIMM_SWIN, outputs=2))
    model.load_state_dict(published_state(weights) | head)
    return model, golden


def reference_network() -> tuple[HemorrhageClassifier, Arrays]:
    """The authors' network and the file that holds it; skips the test where the file is not there."""
    folder = Path(os.environ.get("HGISAM_GOLDEN", GOLDEN.parents[2] / "shared" / "golden"))
    if not (folder / "hgi_sam_reference.npz").is_file():
        pytest.skip("hgi_sam_reference.npz is too large for the project: set HGISAM_GOLDEN to the folder that holds it")
    golden = arrays(folder / "hgi_sam_reference.npz")
    model = HemorrhageClassifier(ClassifierOptions(swin=REFERENCE_SWIN, outputs=2))
    model.load_state_dict(published_state(stored_weights(golden)))
    return model, golden


def golden_images(golden: Arrays) -> Tensor:
    """The images of a golden file, in [0, 1]."""
    return torch.from_numpy(golden["images"]).float() / 255


def small_network(seed: int = 0, *, outputs: int = 1, spread: float = 3.0, **swin: object) -> HemorrhageClassifier:
    """A network with lively random weights, 64 px, stages of 16, 8, 4 and 2 tokens a side, window 4."""
    torch.manual_seed(seed)
    geometry = {"img_size": 64, "window": 4, "embed_dim": 8, "depths": (2, 2, 2, 2), "heads": (1, 2, 2, 4)} | swin
    options = ClassifierOptions.model_validate({"swin": geometry, "outputs": outputs})
    model = HemorrhageClassifier(options)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(spread / parameter.std().clamp_min(1e-6) / parameter.shape[1] ** 0.5)
    return model


def small_cnn(seed: int = 0, *, outputs: int = 1, **options: object) -> CnnClassifier:
    """A thin ResNet-18 with random weights and lively running statistics, for three channels."""
    torch.manual_seed(seed)
    geometry = {"in_channels": 3, "width": 4, "outputs": outputs} | options
    model = CnnClassifier(CnnOptions.model_validate(geometry))
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("running_mean"):
                tensor.normal_(0.0, 0.3)
            elif name.endswith("running_var"):
                tensor.uniform_(0.5, 2.0)
    return model
