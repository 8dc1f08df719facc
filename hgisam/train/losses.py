"""What an answer costs a classifier: cross-entropy of slices, and of tokens where the blood is known to the pixel."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, binary_cross_entropy_with_logits

from hgisam.labels import Subtype
from hgisam.model.slice_classifier import SliceClassifier
from hgisam.train.batches import TrainingBatch
from hgisam.train.loop import Costs, Objective


class LossOptions(BaseModel):
    """What training makes small. Everything is computed from logits; no softmax or sigmoid comes before it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    kind: Literal["cross_entropy", "focal"] = "cross_entropy"
    """cross_entropy: of one logit (binary), of two (softmax), or of each of six by itself (binary), as the classifier
    has outputs. focal: the same, each answer weighed with (1 - its probability of being right) ** focal_gamma."""
    focal_gamma: float = Field(default=2.0, ge=0)
    """How much less what is right already counts (focal only)."""
    label_smoothing: float = Field(default=0.05, ge=0, lt=0.5)
    """Labels are this and one minus this."""
    token_weight: float = Field(default=1.0, ge=0)
    """Weight of the token loss: what a token covers against the painted blood under it; 0 for none."""


@dataclass(frozen=True, eq=False)
class Counts:
    """How many answers a step asks for, over all processes and parts: what its sums are divided by.

    Attributes:
        known: labels of slices that are known.
        positive: tokens that cover blood, by stage.
        negative: tokens that cover none, by stage.
    """

    known: Float[Tensor, ""]
    positive: Float[Tensor, " stages"]
    negative: Float[Tensor, " stages"]


def count_answers(batch: TrainingBatch, targets: Sequence[Subtype], token_sides: Sequence[int]) -> Counts:
    """Count a whole step; where processes share one, all of them must ask.

    Args:
        batch: all that this process learns from in the step.
        targets: what the network tells apart.
        token_sides: tokens along a side of each stage's grid; empty without a token loss.
    """
    counts = [wanted(batch, targets)[1].sum().float()]
    shares = [token_shares(batch, side)[0] for side in token_sides]
    counts += [(share > 0).sum().float() for share in shares] + [(share <= 0).sum().float() for share in shares]
    found = torch.stack(counts)
    if dist.is_initialized():
        dist.all_reduce(found)
    known, positive, negative = torch.split(found, [1, len(shares), len(shares)])
    return Counts(known[0], positive, negative)


def wanted(
    batch: TrainingBatch, targets: Sequence[Subtype]
) -> tuple[Bool[Tensor, "batch targets"], Bool[Tensor, "batch targets"]]:
    """Labels of what the network tells apart, and which of them are known."""
    columns = [list(Subtype).index(target) for target in targets]
    return batch.labels[:, columns], batch.known[:, columns]


def token_shares(batch: TrainingBatch, side: int) -> tuple[Float[Tensor, "traced side side"], Bool[Tensor, " batch"]]:
    """The share of each token that is blood, of the images in which it is traced; and which images those are."""
    blood = batch.blood[batch.traced, None].float()
    return adaptive_avg_pool2d(blood, (side, side))[:, 0], batch.traced


def slice_loss(
    log_odds: Float[Tensor, "batch targets"],
    labels: Bool[Tensor, "batch targets"],
    known: Bool[Tensor, "batch targets"],
    options: LossOptions,
) -> Float[Tensor, ""]:
    """Sum over known labels of the cross-entropy of log-odds against smoothed labels.

    With two outputs the log-odds are the difference of the logits, so that this is the cross-entropy of their softmax.

    Source: Lin et al. 2017, arXiv 1708.02002, for the focal weight.
    """
    smoothed = labels.float() * (1 - 2 * options.label_smoothing) + options.label_smoothing
    cost = binary_cross_entropy_with_logits(log_odds, smoothed, reduction="none")
    if options.kind == "focal":
        right = torch.where(labels, log_odds, -log_odds).sigmoid()
        cost = cost * (1.0 - right) ** options.focal_gamma
    return (cost * known).sum()


def token_loss(
    tokens: Sequence[Float[Tensor, "batch _side _side"]], batch: TrainingBatch, counts: Counts
) -> Float[Tensor, ""]:
    """Cross-entropy of every token's logit against the share of its pixels that hold blood, mean over stages.

    Positive and negative tokens weigh alike in each stage, since blood covers a hundredth of the tokens. The shares
    come from painted blood, phantoms and slices without any, so no human mask is used.

    Args:
        tokens: logits by stage.
        batch: the step, or a part of it.
        counts: of the whole step.
    """
    costs = []
    for logits, n_positive, n_negative in zip(tokens, counts.positive, counts.negative, strict=True):
        share, traced = token_shares(batch, logits.shape[-1])
        cost = binary_cross_entropy_with_logits(logits[traced].float(), share, reduction="none")
        weight = torch.where(share > 0, 0.5 / n_positive.clamp_min(1), 0.5 / n_negative.clamp_min(1))
        costs.append((cost * weight).sum())
    return torch.stack(costs).mean()


class ClassifierObjective(Objective[SliceClassifier, TrainingBatch]):
    """Slices are told apart, and tokens where the loss weighs them."""

    def __init__(self, options: LossOptions) -> None:
        self._options = options

    def question(self, model: SliceClassifier) -> nn.Module:
        """Logits of images and, where the classifier has token heads, of tokens."""
        return _WithTokens(model)

    def costs_of(
        self, batch: TrainingBatch, model: SliceClassifier
    ) -> Callable[[Callable[..., Any], TrainingBatch], Costs]:
        """The slice loss and the weighted token loss, of a part as its exact share of the step."""
        options = self._options
        counts = count_answers(batch, model.targets, model.token_sides if options.token_weight else [])

        def costs(ask: Callable[..., Any], part: TrainingBatch) -> Costs:
            logits, tokens = ask(part.images)
            labels, known = wanted(part, model.targets)
            log_odds = model.target_log_odds(logits.float())
            of_slices = slice_loss(log_odds, labels, known, options) / counts.known.clamp_min(1)
            of_tokens = token_loss(tokens, part, counts) if tokens else torch.zeros_like(of_slices)
            return {"slice_loss": of_slices, "token_loss": options.token_weight * of_tokens}

        return costs


class _WithTokens(nn.Module):
    """Logits of images and, where the classifier has token heads, of tokens, as the forward of a module."""

    def __init__(self, model: SliceClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        if self.model.token_heads is None:
            return self.model(images), []
        return self.model.forward_with_tokens(images)
