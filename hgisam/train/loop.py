"""Training a hemorrhage classifier: batches in, a network whose running average is kept out."""

import logging
import math
import time
from collections.abc import Callable, Iterator
from copy import deepcopy

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, binary_cross_entropy_with_logits
from torch.nn.parallel import DistributedDataParallel

from hgisam.model.slice_classifier import SliceClassifier

log = logging.getLogger(__name__)


class LoopOptions(BaseModel):
    """The recipe. Source of the defaults: measured on phantoms, see the model card of the shipped weights."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    steps: int = Field(default=2000, ge=1)
    """Updates of the parameters."""
    learning_rate: float = Field(default=6e-4, gt=0)
    """Highest rate of AdamW, reached after the warm-up and left along a cosine."""
    weight_decay: float = Field(default=0.05, ge=0)
    """Of matrices only; biases, norms and bias tables are not decayed."""
    warmup_share: float = Field(default=0.06, ge=0, lt=1)
    """Share of the steps over which the rate rises."""
    clip_norm: float = Field(default=1.0, gt=0)
    """Largest norm of the gradient."""
    label_smoothing: float = Field(default=0.05, ge=0, lt=0.5)
    """Labels are this and one minus this."""
    token_weight: float = Field(default=1.0, ge=0)
    """Weight of the token loss: what a token covers against the painted blood under it; 0 for none."""
    average_decay: float = Field(default=0.995, ge=0, lt=1)
    """Decay of the running average of the parameters, which is what is kept."""
    bfloat16: bool = True
    """Whether forward passes run in bfloat16 where the device gains from it."""
    seed: int = 0
    """Of everything random."""


class TrainingBatch:
    """Images in [0, 1], whether each holds blood, and where."""

    def __init__(
        self,
        images: Float[Tensor, "batch channels height width"],
        labels: Bool[Tensor, " batch"],
        blood: Bool[Tensor, "batch height width"],
    ) -> None:
        self.images, self.labels, self.blood = images, labels, blood


def train(
    model: SliceClassifier,
    batches: Iterator[TrainingBatch],
    options: LoopOptions,
    device: torch.device,
    evaluate: Callable[[SliceClassifier, int], None] | None = None,
    evaluate_every: int = 600,
) -> SliceClassifier:
    """Train a network and return the running average of its parameters.

    Where a process group of torch.distributed is there, gradients are averaged over its processes: each gives batches
    of its own, all must start from equal parameters, and all return the same average.

    Args:
        model: one output for `any`; trained in place.
        batches: an endless source.
        options: the recipe.
        device: where to train.
        evaluate: called with the averaged network and the step, now and then.
        evaluate_every: steps between two calls.
    """
    torch.manual_seed(options.seed)
    model.to(device).train()
    averaged = deepcopy(model).eval()
    trained: nn.Module = _WithTokens(model)
    if dist.is_initialized():
        trained = DistributedDataParallel(trained)
    optimizer = torch.optim.AdamW(_groups(model, options.weight_decay), lr=options.learning_rate)
    started = time.monotonic()
    smoothed_loss = 0.0
    for step in range(options.steps):
        for group in optimizer.param_groups:
            group["lr"] = options.learning_rate * _schedule(step, options)
        batch = next(batches)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=options.bfloat16):
            logits, tokens = trained(batch.images.to(device))
        loss = slice_loss(logits[:, 0].float(), batch.labels.to(device), options.label_smoothing)
        if tokens:
            loss = loss + options.token_weight * token_loss(tokens, batch.blood.to(device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), options.clip_norm)
        optimizer.step()
        _average(averaged, model, min(options.average_decay, (step + 1) / (step + 10)))
        smoothed_loss += (float(loss.detach()) - smoothed_loss) / min(step + 1, 50)
        if (step + 1) % 50 == 0:
            pace = (time.monotonic() - started) / (step + 1)
            left_min = pace * (options.steps - step - 1) / 60
            log.info("step %d  loss %.4f  %.2f s a step  %.0f min left", step + 1, smoothed_loss, pace, left_min)
        if evaluate and ((step + 1) % evaluate_every == 0 or step + 1 == options.steps):
            evaluate(averaged, step + 1)
    return averaged


class _WithTokens(nn.Module):
    """Logits of images and, where the classifier has token heads, of tokens, as the forward of a module."""

    def __init__(self, model: SliceClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        if self.model.token_heads is None:
            return self.model(images), []
        return self.model.forward_with_tokens(images)


def slice_loss(logits: Float[Tensor, " batch"], labels: Bool[Tensor, " batch"], smoothing: float) -> Tensor:
    """Cross-entropy of one logit against smoothed labels."""
    return binary_cross_entropy_with_logits(logits, labels.float() * (1 - 2 * smoothing) + smoothing)


def token_loss(tokens: list[Float[Tensor, "batch _rows _cols"]], blood: Bool[Tensor, "batch height width"]) -> Tensor:
    """Cross-entropy of every token's logit against the share of its pixels that hold blood, mean over stages.

    Positive and negative tokens weigh alike in each stage, since blood covers a hundredth of the tokens. The shares
    come from painted blood only, so no human mask is used.
    """
    costs = []
    for logits in tokens:
        share = adaptive_avg_pool2d(blood[:, None].float(), (logits.shape[-2], logits.shape[-1]))[:, 0]
        cost = binary_cross_entropy_with_logits(logits.float(), share, reduction="none")
        weight = torch.where(share > 0, 0.5 / (share > 0).sum().clamp_min(1), 0.5 / (share <= 0).sum().clamp_min(1))
        costs.append((cost * weight).sum())
    return torch.stack(costs).mean()


def _schedule(step: int, options: LoopOptions) -> float:
    warmup = max(1, round(options.warmup_share * options.steps))
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, options.steps - warmup)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done))


def _groups(model: SliceClassifier, weight_decay: float) -> list[dict[str, object]]:
    decayed = [p for n, p in model.named_parameters() if p.ndim >= 2 and "relative_position_bias_table" not in n]
    ids = {id(p) for p in decayed}
    rest = [p for p in model.parameters() if id(p) not in ids]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]


@torch.no_grad()
def _average(averaged: SliceClassifier, model: SliceClassifier, decay: float) -> None:
    for kept, new in zip(averaged.state_dict().values(), model.state_dict().values(), strict=True):
        if kept.is_floating_point():
            kept.lerp_(new, 1 - decay)
        else:
            kept.copy_(new)
