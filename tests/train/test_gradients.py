"""A step's gradients are those of the step: torch's kernels have been seen to make some of memory that nobody wrote."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from hgisam.config import load_settings
from hgisam.model.architecture import build_classifier
from hgisam.model.supervised import MaskNetwork

SEGMENTERS = {
    "unet2d": (2, 128, 128),
    "unet3d": (2, 16, 96, 96),
    "swin_unetr2d": (2, 128, 128),
    "swin_unetr3d": (2, 32, 64, 64),
}
"""Each recipe of configs/, and the shape of what its network sees."""


def gradients(network: nn.Module, images: Tensor, *, bfloat16: bool) -> dict[str, Tensor]:
    network.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        answers = network(images)
    answers.float().square().mean().backward()
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


def leave_rubbish() -> None:
    """Free memory that holds no numbers, for who reads what it has not written."""
    sizes = torch.Generator().manual_seed(0)
    _ = [torch.full((int(torch.randint(1000, 3_000_000, (1,), generator=sizes)),), float("nan")) for _ in range(20)]


def same_twice(network: nn.Module, images: Tensor, *, bfloat16: bool) -> bool:
    first = gradients(network, images, bfloat16=bfloat16)
    leave_rubbish()
    again = gradients(network, images, bfloat16=bfloat16)
    return all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize("name", SEGMENTERS)
def test_a_segmenter_s_gradients_are_the_same_twice(repository: Path, name: str) -> None:
    options = load_settings(repository / "configs" / f"{name}.yaml").train_segmenter
    torch.manual_seed(0)
    network = MaskNetwork(options.network).eval()
    assert same_twice(network, torch.rand(1, *SEGMENTERS[name]), bfloat16=options.loop.bfloat16)


@pytest.mark.parametrize("name", ["ct_ich", "resnet18_ct_ich"])
def test_a_classifier_s_gradients_are_the_same_twice(repository: Path, name: str) -> None:
    options = load_settings(repository / "configs" / f"{name}.yaml").train
    torch.manual_seed(0)
    network = build_classifier(options.classifier).eval()
    assert same_twice(network, torch.rand(2, 2, 192, 192), bfloat16=options.loop.bfloat16)
