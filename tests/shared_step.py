"""A training of a tiny network, alone or as one of two processes: a script for torchrun, and its measure."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor

from hgisam.model.classifier import ClassifierOptions, HemorrhageClassifier
from hgisam.model.swin import SwinOptions
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


def training(device: str = "cpu") -> Trainer[HemorrhageClassifier, TrainingBatch]:
    """Before its first step."""
    torch.manual_seed(0)
    model = HemorrhageClassifier(TINY, token_heads=True)
    return Trainer(model, OPTIONS, ClassifierObjective(LossOptions()), torch.device(device))


def trained(part: slice, device: str = "cpu") -> dict[str, Tensor]:
    """The parameters after a few steps of eight images, of which a process sees its part; most blood is in one half."""
    trainer = training(device)
    generator = torch.Generator().manual_seed(3)
    for _ in range(OPTIONS.steps):
        images = torch.rand(8, 1, 32, 32, generator=generator)
        labels = torch.rand(8, 6, generator=generator) < 0.5
        known = torch.rand(8, 6, generator=generator) < 0.7
        blood = torch.rand(8, 32, 32, generator=generator) < torch.linspace(0.0, 0.02, 8)[:, None, None]
        traced = torch.rand(8, generator=generator) < 0.7
        trainer.learn(TrainingBatch(*(field[part] for field in (images, labels, known, blood, traced))))
    return trainer.averaged.state_dict()


def main() -> None:
    """One of the processes that torchrun starts: unequal parts of every batch."""
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    found = {name: value.contiguous() for name, value in trained([slice(0, 3), slice(3, 8)][rank]).items()}
    save_file(found, Path(sys.argv[1]) / f"{rank}.safetensors")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
