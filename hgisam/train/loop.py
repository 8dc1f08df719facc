"""One step after the other: a network, its optimizer, and the running average that is kept."""

import gc
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hgisam.io.errors import InputError
from hgisam.model.masked_swin import MaskedSwin
from hgisam.model.slice_classifier import SliceClassifier
from hgisam.model.supervised import MaskNetwork
from hgisam.train.batch import Batch

MOST_LOST = 50
"""So many steps in a row whose gradient is not finite end a training."""


class LoopOptions(BaseModel):
    """How the parameters are found."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    steps: int = Field(default=2000, ge=1)
    """Updates of the parameters."""
    learning_rate: float = Field(default=6e-4, gt=0)
    """Highest rate of AdamW, reached after the warm-up and left along a cosine."""
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    """Each block learns at this times the rate of the next; 1 for one rate."""
    weight_decay: float = Field(default=0.05, ge=0)
    """Of matrices only; biases, norms and bias tables are not decayed."""
    warmup_share: float = Field(default=0.06, ge=0, lt=1)
    """Share of the steps over which the rate rises."""
    freeze_steps: int = Field(default=0, ge=0)
    """Steps at the start in which the heads alone learn."""
    clip_norm: float = Field(default=1.0, gt=0)
    """Largest norm of the gradient."""
    accumulate: int = Field(default=1, ge=1)
    """Parts that a step is cut into, one after the other, where it does not fit the device as a whole: so many, or as
    many as the process with the fewest images has images. A batch norm (the deep stem has some) takes its statistics
    from a part, so that the step is near that of the whole batch; without one it is the same."""
    average_decay: float = Field(default=0.995, ge=0, lt=1)
    """Decay of the running average of the parameters, which is what is kept."""
    bfloat16: bool = True
    """Whether forward passes run in bfloat16, on any device; parameters stay in float32."""
    evaluate_every: int = Field(default=250, ge=1)
    """Steps between two looks at the tuning set."""
    patience: int | None = Field(default=None, ge=1)
    """Looks at the tuning set without a better score after which training stops; None never stops early."""
    checkpoint_every: int = Field(default=100, ge=1)
    """Steps between two checkpoints."""
    seed: int = Field(default=0, ge=0)
    """Of everything random."""


Network = TypeVar("Network", SliceClassifier, MaskNetwork, MaskedSwin)
Learned = TypeVar("Learned", bound=Batch)

Costs = dict[str, Tensor]
"""Addends of what is made small, by name."""


class Objective(ABC, Generic[Network, Learned]):
    """What a network is asked in training, and what its answers cost."""

    @abstractmethod
    def question(self, model: Network) -> nn.Module:
        """The module whose forward takes a batch's images and gives all that costs are computed from."""

    @abstractmethod
    def costs_of(self, batch: Learned, model: Network) -> Callable[[Callable[..., Any], Learned], Costs]:
        """How a step's costs are computed; where processes share it, all of them must ask.

        Args:
            batch: all that this process learns from in the step.
            model: the network.

        Returns:
            From the question and a part of the batch, the part's costs. Their sums over parts and processes are those
            of the step, where an image is answered alike in a part and in the whole: batch norms do not.
        """


@dataclass(frozen=True)
class StepReport:
    """What one step cost.

    Attributes:
        losses: the addends of what is made small, by name.
        gradient_norm: before clipping.
        learning_rate: of the heads.
        seconds: that the step took, without the wait for its batch.
    """

    losses: dict[str, float]
    gradient_norm: float
    learning_rate: float
    seconds: float

    @property
    def loss(self) -> float:
        """What is made small."""
        return sum(self.losses.values())


class Trainer(Generic[Network, Learned]):
    """A network in training.

    Where a process group of torch.distributed is there, processes share each step: each gives its part of the batch,
    all must start from equal parameters, and all end with the same. The deep stem's batch norms see the images of all;
    those of a CNN or a U-Net see their process's part alone.

    Attributes:
        model: in training mode.
        averaged: the running average of its parameters, in eval mode: what is kept.
        step: how many steps were made.
    """

    def __init__(
        self, model: Network, options: LoopOptions, objective: Objective[Network, Learned], device: torch.device
    ) -> None:
        """Move the network to the device and make its optimizer.

        Args:
            model: trained in place; with whatever heads the objective asks.
            options: the recipe.
            objective: what is made small.
            device: where to train.
        """
        self.model: Network = model.to(device).train()
        self.averaged: Network = deepcopy(model).eval()
        self.step = 0
        self._n_lost = 0
        self._options, self._device = options, device
        self._objective: Objective[Network, Learned] = objective
        kept = self.model.state_dict().keys()
        self._statistics = [buffer for name, buffer in self.model.named_buffers() if name in kept]
        self._question: nn.Module = objective.question(self.model)
        if dist.is_initialized():
            self._question = DistributedDataParallel(self._question)
        self._optimizer = torch.optim.AdamW(_groups(model, options), lr=options.learning_rate)

    def learn(self, batch: Learned) -> StepReport:
        """Make one step. Where its gradient is not finite, the network and its average stay as they are.

        Args:
            batch: this process's part of it, on the CPU.

        Returns:
            What the step cost over all processes.

        Raises:
            InputError: where that has happened in many steps in a row.
        """
        started = time.perf_counter()
        rank = dist.get_rank() if dist.is_initialized() else 0
        # what is dropped follows from the step, not from the steps before
        torch.manual_seed(int(np.random.SeedSequence((self._options.seed, self.step, rank)).generate_state(1)[0]))
        rate = self._options.learning_rate * _schedule(self.step, self._options)
        for group in self._optimizer.param_groups:
            group["lr"] = rate * group["rate_factor"]
        self._optimizer.zero_grad(set_to_none=True)
        moved = batch.to(self._device)
        costs_of = self._objective.costs_of(moved, self.model)
        processes = dist.get_world_size() if dist.is_initialized() else 1
        parts = moved.split(self._n_parts(len(moved)))
        before = [buffer.clone() for buffer in self._statistics]
        sums: dict[str, Tensor] = {}
        for number, part in enumerate(parts):
            with self._in_step(last=number == len(parts) - 1):
                costs = costs_of(self._ask, part)
                total = torch.stack(list(costs.values())).sum()
                (total * processes).backward()  # type: ignore[no-untyped-call]  # DDP takes the mean
            for name, cost in costs.items():
                sums[name] = sums.get(name, torch.zeros_like(cost)) + cost.detach()
        frozen = self.step < self._options.freeze_steps
        if frozen:
            for name, parameter in self.model.named_parameters():
                if not _is_head(name):
                    parameter.grad = None
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self._options.clip_norm)
        finite = bool(torch.isfinite(norm))
        self._n_lost = 0 if finite else self._n_lost + 1
        if self._n_lost >= MOST_LOST:
            raise InputError(
                f"expected finite gradients; got none in steps {self.step + 2 - MOST_LOST} to {self.step + 1}; lower"
                " loop.learning_rate, or set loop.bfloat16 to false"
            )
        self.step += 1
        if frozen or not finite:
            for buffer, value in zip(self._statistics, before, strict=True):
                buffer.copy_(value)
        if finite:
            self._optimizer.step()
            _average(self.averaged, self.model, min(self._options.average_decay, self.step / (self.step + 9)))
        found = torch.stack(list(sums.values()))
        if dist.is_initialized():
            dist.all_reduce(found)
        losses = dict(zip(sums, found.tolist(), strict=True))
        return StepReport(losses, float(norm), rate, time.perf_counter() - started)

    def leave(self) -> None:
        """Go on alone, and let go of the process group: one that is held beyond its end can abort its process."""
        if isinstance(self._question, DistributedDataParallel):
            self._question = self._question.module
            gc.collect()  # the wrapper is part of cycles

    def tensors(self) -> dict[str, Tensor]:
        """All that the next step depends on, but for the settings and the number of steps."""
        found = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        found |= {f"averaged.{name}": value for name, value in self.averaged.state_dict().items()}
        found["loop.n_lost"] = torch.tensor(self._n_lost)
        for name, parameter in self.model.named_parameters():
            for key, value in self._optimizer.state[parameter].items():
                found[f"optimizer.{key}.{name}"] = value
        return {name: value.detach().cpu().contiguous() for name, value in found.items()}

    def restore(self, tensors: Mapping[str, Tensor], step: int) -> None:
        """Go on from what `tensors` gave.

        Raises:
            KeyError, RuntimeError: where they are of another network.
        """
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "averaged": {}, "optimizer": {}, "loop": {}}
        for name, value in tensors.items():
            kind, _, rest = name.partition(".")
            parts[kind][rest] = value
        self.model.load_state_dict(parts["model"])
        self.averaged.load_state_dict(parts["averaged"])
        for name, parameter in self.model.named_parameters():
            for key in ("step", "exp_avg", "exp_avg_sq"):
                stored = parts["optimizer"].get(f"{key}.{name}")
                if stored is not None:  # a parameter that was frozen so far has none
                    device = "cpu" if key == "step" else parameter.device
                    self._optimizer.state[parameter][key] = stored.to(device, copy=True)
        self.step = step
        self._n_lost = int(parts["loop"].get("n_lost", 0))  # checkpoints of older versions have none

    def _ask(self, *images: Tensor) -> Any:
        """The network's answers, in bfloat16 where that is wanted."""
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._options.bfloat16):
            return self._question(*images)

    def _n_parts(self, n_images: int) -> int:
        """Parts of a step: equally many in all processes, since their batch norms wait for each other."""
        if self._options.accumulate == 1 or not dist.is_initialized():
            return self._options.accumulate
        fewest = torch.tensor(n_images, device=self._device)
        dist.all_reduce(fewest, dist.ReduceOp.MIN)
        return min(self._options.accumulate, int(fewest))

    def _in_step(self, *, last: bool) -> AbstractContextManager[object]:
        """Gradients of all parts but the last stay with their process."""
        if last or not isinstance(self._question, DistributedDataParallel):
            return nullcontext()
        return self._question.no_sync()


def _schedule(step: int, options: LoopOptions) -> float:
    warmup = max(1, round(options.warmup_share * options.steps))
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, options.steps - warmup)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done))


def _is_head(name: str) -> bool:
    return name.startswith(("head.", "token_heads."))


def _groups(model: SliceClassifier | MaskNetwork | MaskedSwin, options: LoopOptions) -> list[dict[str, object]]:
    """Parameters by rate and decay; a segmenter and an encoder have one rate.

    Source of the layer-wise rates: Bao et al. 2021, arXiv 2106.08254 (BEiT).
    """
    grouped: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        decay = options.weight_decay if parameter.ndim >= 2 and "relative_position_bias_table" not in name else 0.0
        layers_above = model.layers_above(name) if isinstance(model, SliceClassifier) else 0
        factor = options.layer_decay**layers_above
        grouped.setdefault((factor, decay), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": decay, "rate_factor": factor}
        for (factor, decay), parameters in grouped.items()
    ]


@torch.no_grad()
def _average(averaged: nn.Module, model: nn.Module, decay: float) -> None:
    for kept, new in zip(averaged.state_dict().values(), model.state_dict().values(), strict=True):
        if kept.is_floating_point():
            kept.lerp_(new, 1 - decay)
        else:
            kept.copy_(new)
