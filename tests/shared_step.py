"""A training of a tiny network, alone or as one of two processes: a script for torchrun, and its measure."""

import sys
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor, nn

from hgisam.model.classifier import ClassifierOptions, HemorrhageClassifier
from hgisam.model.swin import SharedBatchNorm, SwinOptions
from hgisam.train.batches import TrainingBatch
from hgisam.train.loop import LoopOptions, Trainer
from hgisam.train.losses import ClassifierObjective, LossOptions

# a bias of keys changes no softmax: its gradient is rounding, of which AdamW makes a step
TINY = ClassifierOptions(
    swin=SwinOptions(
        img_size=32, window=4, embed_dim=8, depths=(2, 2, 2), heads=(1, 2, 4), in_channels=1, qkv_bias=False
    )
)
OPTIONS = LoopOptions(steps=5, learning_rate=5e-4, bfloat16=False)
EPS = 1e-5
"""Of AdamW, in place of 1e-8: of a gradient that is rounding, here some 1e-9, it would make a whole step, and which one
depends on the processor."""
EVERYTHING, UNEQUAL = slice(0, 8), (slice(0, 3), slice(3, 8))


@dataclass(frozen=True)
class Shared:
    """How two processes share eight images, and how one has to take them to see the same.

    Attributes:
        stem: of the network.
        images: of each process.
        accumulate: parts of their step.
        alone: the images of one process, in its order.
        accumulate_alone: parts of its step.
    """

    stem: str
    images: tuple[slice, slice]
    accumulate: int
    alone: slice | list[int]
    accumulate_alone: int


RUNS = {
    "none": Shared("none", UNEQUAL, 1, EVERYTHING, 1),
    "deep": Shared("deep", UNEQUAL, 1, EVERYTHING, 1),
    # two images are no three parts, so both processes make two: image 0 beside 2, 3, 4, then 1 beside 5, 6, 7
    "deep in parts": Shared("deep", (slice(0, 2), slice(2, 8)), 3, [0, 2, 3, 4, 1, 5, 6, 7], 2),
}


def training(
    device: str = "cpu", stem: str = "none", accumulate: int = 1
) -> Trainer[HemorrhageClassifier, TrainingBatch]:
    """Before its first step."""
    torch.manual_seed(0)
    classifier = TINY.model_copy(update={"swin": TINY.swin.model_copy(update={"stem": stem})})
    model = HemorrhageClassifier(classifier, token_heads=True)
    options = OPTIONS.model_copy(update={"accumulate": accumulate})
    with patch.object(torch.optim, "AdamW", partial(torch.optim.AdamW, eps=EPS)):
        return Trainer(model, options, ClassifierObjective(LossOptions()), torch.device(device))


def trained(part: slice | list[int], device: str = "cpu", stem: str = "none", accumulate: int = 1) -> dict[str, Tensor]:
    """The parameters after a few steps of eight images, of which a process sees its part, and what the steps cost.

    Most blood is in one half.
    """
    trainer = training(device, stem, accumulate)
    generator = torch.Generator().manual_seed(3)
    losses = []
    for _ in range(OPTIONS.steps):
        images = torch.rand(8, 1, 32, 32, generator=generator)
        labels = torch.rand(8, 6, generator=generator) < 0.5
        known = torch.rand(8, 6, generator=generator) < 0.7
        blood = torch.rand(8, 32, 32, generator=generator) < torch.linspace(0.0, 0.02, 8)[:, None, None]
        traced = torch.rand(8, generator=generator) < 0.7
        report = trainer.learn(TrainingBatch(*(field[part] for field in (images, labels, known, blood, traced))))
        losses.append(report.loss)
    return {**trainer.averaged.state_dict(), "losses": torch.tensor(losses)}


def normed(norm: nn.BatchNorm2d, dtype: torch.dtype, part: slice) -> dict[str, Tensor]:
    """What a norm makes of its part of eight maps far from zero, the gradient of its maps, and what it remembers."""
    generator = torch.Generator().manual_seed(4)
    maps, asked = (torch.randn(8, 3, 5, 5, generator=generator) for _ in range(2))
    maps = (100.0 + maps).to(dtype)[part].requires_grad_()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.5, 1.0, 2.0]))
        norm.bias.copy_(torch.tensor([-1.0, 0.0, 3.0]))
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        found = norm(maps)
    (gradient,) = torch.autograd.grad((found * asked[part]).sum(), maps)
    return {"found": found.detach(), "gradient": gradient, **norm.state_dict()}


def main() -> None:
    """One of the processes that torchrun starts: unequal parts of every batch."""
    dist.init_process_group("gloo", timeout=timedelta(seconds=120))
    rank = dist.get_rank()
    found = {}
    for run, shared in RUNS.items():
        state = trained(shared.images[rank], stem=shared.stem, accumulate=shared.accumulate)
        found |= {f"{run}.{name}": value.contiguous() for name, value in state.items()}
    for dtype in (torch.float32, torch.bfloat16):
        made = normed(SharedBatchNorm(3), dtype, UNEQUAL[rank])
        found |= {f"{dtype}.{name}": value.contiguous() for name, value in made.items()}
    if not rank:  # outside training nobody waits for the others
        SharedBatchNorm(3).eval()(torch.ones(2, 3, 4, 4))
    dist.barrier()
    save_file(found, Path(sys.argv[1]) / f"{rank}.safetensors")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
