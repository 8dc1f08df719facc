"""Two processes that share a step end with the network of one process that was given both their batches."""

from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import spawn

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
    torch.manual_seed(0)
    model = HemorrhageClassifier(TINY, token_heads=False)
    return train(model, batches(part), OPTIONS, torch.device("cpu")).state_dict()


def one_of_two(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    try:
        torch.save(trained(slice(4 * rank, 4 * rank + 4)), f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


def test_two_processes_reach_the_parameters_of_one(tmp_path: Path) -> None:
    alone = trained(slice(0, 8))
    spawn(one_of_two, args=(str(tmp_path),), nprocs=2)
    for rank in range(2):
        shared = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name, value in alone.items():
            torch.testing.assert_close(shared[name], value, atol=1e-5, rtol=1e-5)
