"""A whole training in one set of options: phantoms in, a classifier out."""

import logging
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from pydantic import BaseModel, ConfigDict, Field

from hgisam.brain import BrainOptions
from hgisam.model.classifier import ClassifierOptions, HemorrhageClassifier
from hgisam.model.swin import SwinOptions
from hgisam.phantom import PhantomOptions
from hgisam.preprocess import PreprocessOptions, network_images
from hgisam.train.augment import AugmentOptions
from hgisam.train.calibration import auc
from hgisam.train.loop import LoopOptions, train
from hgisam.train.prepared import PreparedScan, prepare_phantoms
from hgisam.train.scans import BatchSource, SamplingOptions

log = logging.getLogger(__name__)


class TrainOptions(BaseModel):
    """What the network is, what it sees, and how it learns."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    brain: BrainOptions = BrainOptions()
    """How the intracranial region is found."""
    preprocess: PreprocessOptions = PreprocessOptions()
    """What the network sees."""
    classifier: ClassifierOptions = ClassifierOptions(
        swin=SwinOptions(in_channels=2, stem="deep", drop_path=0.1), pooling="log_sum_exp"
    )
    """The network."""
    phantom: PhantomOptions = PhantomOptions(bleed_probability=0.85, faint_probability=0.1)
    """The heads it learns from."""
    n_phantoms: int = Field(default=320, ge=2)
    """Training heads, seeds 0 and up."""
    n_twins: int = Field(default=120, ge=0)
    """Of these heads, the first so many also come as they were before they bled."""
    n_tuning: int = Field(default=40, ge=2)
    """Heads, of the seeds after those, that choose operating point, temperature and threshold."""
    sampling: SamplingOptions = SamplingOptions()
    """What a batch is made of."""
    augmentation: AugmentOptions = AugmentOptions()
    """How slices are changed."""
    loop: LoopOptions = LoopOptions()
    """How the parameters are found."""

    @property
    def tuning_seeds(self) -> range:
        """Seeds of the tuning heads."""
        return range(self.n_phantoms, self.n_phantoms + self.n_tuning)


def train_on_phantoms(
    options: TrainOptions,
    cache: Path,
    workers: int,
    device: torch.device,
    keep: Callable[[HemorrhageClassifier, int], None] | None = None,
) -> HemorrhageClassifier:
    """Train a classifier on phantoms.

    Where a process group of torch.distributed is there, its first process makes the phantoms and all train together:
    a step then learns from as many batches as there are processes.

    Args:
        options: the recipe.
        cache: where prepared phantoms are kept from one run to the next.
        workers: processes that make phantoms.
        device: where to train.
        keep: given the averaged network and the step, now and then.
    """

    def prepared(seeds: range, phantom: PhantomOptions) -> list[PreparedScan]:
        return prepare_phantoms(seeds, phantom, options.brain, options.preprocess, cache, workers)

    rank = dist.get_rank() if dist.is_initialized() else 0
    if rank:
        dist.barrier()
    unbled = options.phantom.model_copy(update={"bleed_probability": 0.0})
    heads = prepared(range(options.n_phantoms), options.phantom)
    twins = prepared(range(min(options.n_twins, options.n_phantoms)), unbled)
    tuning = prepared(options.tuning_seeds, options.phantom)
    if dist.is_initialized() and not rank:
        dist.barrier()
    seed = options.loop.seed + rank
    source = BatchSource(heads, twins, options.preprocess, options.sampling, options.augmentation, seed)
    log.info("%d positive and %d negative slices", len(source.positive), len(source.negative))

    def report(model: HemorrhageClassifier, step: int) -> None:
        if rank:
            return
        log.info("step %d  AUC on tuning slices %.4f", step, tuning_auc(model, tuning, options, device))
        if keep:
            keep(model, step)

    torch.manual_seed(options.loop.seed)
    model = HemorrhageClassifier(options.classifier, token_heads=options.loop.token_weight > 0)
    return train(model, source, options.loop, device, evaluate=report)


def tuning_auc(
    model: HemorrhageClassifier, scans: list[PreparedScan], options: TrainOptions, device: torch.device
) -> float:
    """AUC of the unsmoothed slice logits on prepared scans; slices with a trace of blood are left out."""
    source = BatchSource(scans, [], options.preprocess, options.sampling, options.augmentation, 0)
    shown = source.positive + source.negative
    logits = []
    with torch.inference_mode():
        for start in range(0, len(shown), 16):
            hu, region, median_hu = source.stacked([(scans[i], row) for i, row in shown[start : start + 16]])
            logits.append(model(network_images(hu, region, median_hu, options.preprocess).to(device))[:, -1].cpu())
    return auc(torch.cat(logits), torch.arange(len(shown)) < len(source.positive))
