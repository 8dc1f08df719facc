"""A training of a tiny network, alone or as one of two processes: a script for torchrun, and its measure."""

import sys
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor

from hgisam.model.classifier import ClassifierOptions, HemorrhageClassifier
from hgisam.model.swin import SwinOptions
from hgisam.train.loop import LoopOptions, TrainingBatch, train

TINY = ClassifierOptions(
    swin=SwinOptions(img_size=32, window=4, embed_dim=8, depths=(2, 2, 2), heads=(1, 2, 4), in_channels=1)
)
OPTIONS = LoopOptions(steps=5, learning_rate=5e-4, token_weight=0.0, bfloat16=False)


def batches(part: slice) -> Iterator[TrainingBatch]:
    """Batches of eight of which a process sees its part."""
    generator = torch.Generator().manual_seed(3)
    while True:
        images = torch.rand(8, 1, 32, 32, generator=generator)
        labels = torch.rand(8, generator=generator) < 0.5
        yield TrainingBatch(images[part], labels[part], torch.zeros(8, 32, 32, dtype=torch.bool)[part])


def trained(part: slice) -> dict[str, Tensor]:
    """The parameters after a few steps."""
    torch.manual_seed(0)
    model = HemorrhageClassifier(TINY, token_heads=False)
    return train(model, batches(part), OPTIONS, torch.device("cpu")).state_dict()


def main() -> None:
    """One of the processes that torchrun starts: half of every batch."""
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    found = {name: value.contiguous() for name, value in trained(slice(4 * rank, 4 * rank + 4)).items()}
    save_file(found, Path(sys.argv[1]) / f"{rank}.safetensors")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
