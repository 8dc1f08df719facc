"""Several processes that share a training, as torchrun starts them; one alone is the usual case."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from hgisam.io.errors import InputError

T = TypeVar("T")


def rank() -> int:
    """Which of the processes this is; 0 is the first, which writes."""
    return dist.get_rank() if dist.is_initialized() else 0


def n_processes() -> int:
    """How many share the training."""
    return dist.get_world_size() if dist.is_initialized() else 1


def share_of(workers: int) -> int:
    """This process's part of so many workers, which the processes of one machine share; one at the least."""
    return max(1, workers // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


@contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """Join the other processes, where torchrun started several.

    On GPUs, tensors go through nccl, each process with its own GPU; objects and barriers go through gloo.

    Raises:
        InputError: where there are fewer GPUs than processes on this machine.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    if device.type == "cuda":
        if device.index is None:
            raise InputError(
                f"expected a GPU for each process; got {os.environ.get('LOCAL_WORLD_SIZE', 'several')} processes and "
                f"{torch.cuda.device_count()} GPUs; start fewer, or take --device cpu"
            )
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=timedelta(hours=3))
    try:
        yield
    finally:
        dist.destroy_process_group()


@contextmanager
def first_process_first() -> Iterator[None]:
    """The first process does it alone; then the others, who find it done."""
    if rank():
        dist.barrier()
    yield
    if dist.is_initialized() and not rank():
        dist.barrier()


def shared_out(n: int, work: Callable[[int], T]) -> list[T]:
    """What `work` gives for 0 to n - 1: each process does its part, and all get all."""
    mine = {number: work(number) for number in range(rank(), n, n_processes())}
    shares = [mine]
    if dist.is_initialized():
        shares = [{} for _ in range(n_processes())]
        dist.all_gather_object(shares, mine)
    everything = {number: found for share in shares for number, found in share.items()}
    return [everything[number] for number in range(n)]
