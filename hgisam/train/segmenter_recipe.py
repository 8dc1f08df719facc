"""A segmenter's training in one set of options: scans with masks in, reference masks or our own, weights out."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, model_validator

from hgisam import __version__
from hgisam.brain import BrainOptions
from hgisam.evaluate.overlap import Overlap
from hgisam.io.errors import InputError
from hgisam.model.checkpoint import SegmenterMetadata, default_weights_path, load_segmenter, save_weights
from hgisam.model.supervised import MaskNetwork, SegmenterArchitecture, UNetOptions, can_see
from hgisam.pipeline import SegmentOptions
from hgisam.preprocess import PreprocessOptions
from hgisam.supervised import StackOptions
from hgisam.train.augment import AugmentOptions
from hgisam.train.cohort import Cohort, Finding
from hgisam.train.crops import CropBatches, CropSampling, MaskBatch, MaskedSlices
from hgisam.train.layouts import LayoutName, read_cohort
from hgisam.train.loop import LoopOptions, Trainer
from hgisam.train.masks import (
    THRESHOLD,
    MaskJudge,
    MaskLossOptions,
    SegmenterObjective,
    judge_masks,
    mask_judges,
    mean_dice,
    write_masks_judgement,
)
from hgisam.train.own_masks import OwnMaskOptions, OwnMasks, outline_by_ourselves
from hgisam.train.prepared import header_index, prepare_cohort
from hgisam.train.processes import first_process_first, n_processes, rank
from hgisam.train.splits import Role
from hgisam.train.training import (
    BEST,
    Kept,
    SplitOptions,
    Training,
    by_content,
    carried_out,
    check_channels,
    fold_of,
    taught_by,
    warn_of_few,
)
from hgisam.wording import counted

log = logging.getLogger(__name__)

OWN_MASKS = "own_masks.csv"


class SegmenterTrainOptions(BaseModel):
    """What a segmenter is, what it sees, and how it learns."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    brain: BrainOptions = BrainOptions()
    """How the intracranial region is found."""
    preprocess: PreprocessOptions = PreprocessOptions()
    """What the network sees: the classifier's canvas and channels."""
    stack: StackOptions = StackOptions()
    """How a 3D network sees slices together."""
    network: SegmenterArchitecture = UNetOptions()
    """The network."""
    layout: LayoutName | Literal["auto"] = "auto"
    """How the data are laid out."""
    own_masks: OwnMaskOptions | None = None
    """How the masks are made that it learns from where it may see no reference mask; None: it learns from those."""
    split: SplitOptions = SplitOptions()
    """Who is learned from."""
    sampling: CropSampling = CropSampling()
    """What a step learns from."""
    augmentation: AugmentOptions = AugmentOptions()
    """How slices are changed; those of a stack alike."""
    loss: MaskLossOptions = MaskLossOptions()
    """What is made small."""
    loop: LoopOptions = LoopOptions(patience=6)
    """How the parameters are found."""
    licence: str = "Apache-2.0"
    """Of the weights, as an SPDX identifier; what the data demand goes before what one would like."""

    @model_validator(mode="after")
    def _network_fits(self) -> "SegmenterTrainOptions":
        seen, network = self.preprocess, self.network
        check_channels(seen, network.in_channels)
        window = (seen.fov_px, seen.fov_px)
        sides = window if network.spatial_dims == 2 else (self.stack.window_slices, *window)
        if not can_see(network, sides):
            raise ValueError(
                f"expected windows of multiples of {list(network.steps)} for this network, and more than one; got "
                f"{list(sides)}; change preprocess.fov_px or stack.window_slices"
            )
        if seen.neighbours:
            raise ValueError("expected preprocess.neighbours 0: a segmenter that sees more slices is a 3D network")
        if self.loop.layer_decay != 1 or self.loop.freeze_steps:
            raise ValueError("expected loop.layer_decay 1 and loop.freeze_steps 0: a segmenter's layers learn as one")
        if self.own_masks is not None and self.split.tuning_share:
            raise ValueError(
                "expected split.tuning_share 0 with own_masks, since no reference may choose; got "
                f"{self.split.tuning_share}; the network of the last step is kept"
            )
        if self.augmentation.thickness:
            raise ValueError("expected augmentation.thickness 0: where slices are mixed, their masks are not known")
        return self


@dataclass(frozen=True, eq=False)
class MaskSources:
    """What a training learns from and is judged by.

    Attributes:
        cohort: the scans that were dealt into folds, with masks or without.
        slices: of those patients who are learned from.
        tuning: scans that choose; empty where nobody does.
        test: scans that judge; likewise.
        left_out: what of the scans could not be prepared.
        own: our own masks, where they are what is learned from.
    """

    cohort: Cohort
    slices: MaskedSlices
    tuning: list[MaskJudge]
    test: list[MaskJudge]
    left_out: tuple[Finding, ...] = ()
    own: OwnMasks | None = None


@dataclass(frozen=True, eq=False)
class TrainedSegmenter:
    """What came of a training.

    Attributes:
        weights: the file with the kept network.
        kept: when it was kept.
        tuning: how far its masks cover those of the tuning scans.
        test: likewise of the scans that judge.
    """

    weights: Path
    kept: Kept
    tuning: list[Overlap]
    test: list[Overlap]


def train_segmenter(
    options: SegmenterTrainOptions,
    data: Path,
    output: Path,
    *,
    resume: bool = False,
    cache: Path | None = None,
    workers: int = 1,
    device: torch.device | None = None,
    command: str = "",
    show_progress: bool = False,
) -> TrainedSegmenter | None:
    """Train a segmenter on scans with masks, and leave in `output` what `train_classifier` leaves.

    Args:
        options: the recipe.
        data: a folder that `read_cohort` knows; with reference masks, where the recipe learns from them.
        output: the run's folder.
        resume: go on from the latest checkpoint there, if there is one.
        cache: where prepared scans are kept; None for a folder in `output`.
        workers: processes that prepare scans, and that load batches where there is a GPU.
        device: where to train; None for the CPU.
        command: that made the weights, for their record.
        show_progress: draw a bar.

    Returns:
        What came of it; None in all processes but the first.

    Raises:
        InputError: where the folder holds another run, or the data are not what the recipe needs.
        CohortRefused: where the data cannot be trusted.
        OutputError: where something cannot be written.
        WeightsError: where the weights of a method that outlines for it cannot be used.
    """
    device = device or torch.device("cpu")
    _check_precision(options, device)

    def begin() -> _SegmenterTraining:
        sources = gather_masks(options, data, output, cache or output / "cache", workers, device)
        return _SegmenterTraining(options, sources, output, device, command)

    return carried_out(
        begin,
        options.loop,
        recorded_segmenter_settings(options),
        SegmenterTrainOptions,
        output,
        device,
        n_units=options.sampling.n_units,
        units_setting="train_segmenter.sampling",
        resume=resume,
        workers=workers,
        show_progress=show_progress,
    )


def _check_precision(options: SegmenterTrainOptions, device: torch.device) -> None:
    """Stop before gradients are made of memory that nobody wrote.

    On a CPU with bfloat16 units, torch 2.13's weight gradients of small 3D convolutions (the deepest of Swin-UNETR's
    decoder) differ from call to call, by 10 % or by 1e37. In float32 they do not.

    Raises:
        InputError: for such a training.
    """
    network = options.network
    if device.type == "cpu" and network.kind == "swin_unetr" and network.spatial_dims == 3 and options.loop.bfloat16:
        raise InputError(
            "expected loop.bfloat16 false for a 3D Swin-UNETR on the CPU, where its bfloat16 gradients are wrong;"
            " got true; set it to false"
        )


def gather_masks(
    options: SegmenterTrainOptions,
    data: Path,
    output: Path,
    cache: Path,
    workers: int,
    device: torch.device | None = None,
) -> MaskSources:
    """Read, split and prepare what a segmenter learns from. Where processes share it, the first of them goes ahead.

    With masks of our own, only scans that judge keep their references: no other is read.

    Args:
        options: the recipe.
        data: a folder that `read_cohort` knows; scans without a reference mask are dealt into folds, as for a
            classifier, so that folds of one seed are the same for both, and then left out.
        output: the run's folder; where a run goes on, its splits are used again.
        cache: where prepared scans are kept.
        workers: processes that prepare.
        device: where own masks are made; None for the CPU.

    Raises:
        InputError: where no scan has a mask, or nobody to learn from or to choose bled.
        CohortRefused: where the data cannot be trusted.
        WeightsError: where the weights of a method that outlines cannot be used.
    """
    with first_process_first():
        everything = read_cohort(data, options.layout, workers=workers, index=header_index(cache))
        everything.log_summary()
        own = None
        if options.own_masks is None:
            cohort = _with_masks(everything, data)
            fold = fold_of(options.split, everything, output)
            prepared = prepare_cohort(cohort, options.brain, options.preprocess, cache, workers)
            learned = taught_by(fold, options.split, cohort)
            slices = MaskedSlices(prepared, learned, options.sampling)
            tuning, test = (mask_judges(prepared, fold.patients(role)) for role in (Role.TUNING, Role.TEST))
        else:
            fold = fold_of(options.split, everything, output)
            if chosen_by := fold.patients(Role.TUNING):
                raise InputError(
                    f"expected splits without tuning patients with own_masks, since no reference may choose; got "
                    f"{len(chosen_by)}; take splits that were dealt with tuning_share 0"
                )
            learned = taught_by(fold, options.split, everything)
            taught = Cohort(everything.layout, everything.of(learned)).without_references()
            own = outline_by_ourselves(taught, options.own_masks, cache, workers, device or torch.device("cpu"))
            log.info("%s", own.summary())
            prepared = prepare_cohort(own.cohort, options.brain, options.preprocess, cache, workers)
            slices = MaskedSlices(prepared, learned, options.sampling)
            tuning, test = [], _judges_alone(everything, fold.patients(Role.TEST), options, cache, workers)
            if not rank():
                own.write(output / OWN_MASKS)
    warn_of_few(prepared.scans, learned, fold.patients(Role.TUNING))
    log.info("%s, %d with blood", counted(len(slices.anywhere), "slice"), len(slices.bleeding))
    if not len(slices.bleeding):
        raise InputError(
            f"expected a mask with blood among the {len(learned)} training patients; got none; change split.seed or "
            "split.train_patients"
        )
    if fold.patients(Role.TUNING) and not any(judge.scan.blood.any() for judge in tuning):
        raise InputError(
            f"expected a mask with blood in the tuning set; got {len(tuning)} scans without; raise split.tuning_share, "
            "or change split.seed"
        )
    return MaskSources(everything, slices, tuning, test, prepared.findings, own)


def _judges_alone(
    cohort: Cohort, patients: frozenset[str], options: SegmenterTrainOptions, cache: Path, workers: int
) -> list[MaskJudge]:
    """The scans of some patients that have reference masks, apart from whatever is learned from."""
    judging = tuple(scan for scan in cohort.of(patients) if scan.reference is not None)
    prepared = prepare_cohort(Cohort(cohort.layout, judging), options.brain, options.preprocess, cache, workers)
    return mask_judges(prepared, patients)


def _with_masks(cohort: Cohort, data: Path) -> Cohort:
    """The scans of a cohort that have reference masks.

    Raises:
        InputError: where none has.
    """
    masked = tuple(scan for scan in cohort.scans if scan.reference is not None)
    if not masked:
        raise InputError(
            f"{data}: expected scans with reference masks, since a segmenter learns from masks; got "
            f"{counted(len(cohort.scans), 'scan')} with slice labels alone ({cohort.layout}); train a "
            "classifier on them, take a recipe with own_masks, or name other data"
        )
    n_without = len(cohort.scans) - len(masked)
    if n_without:
        log.warning("no reference mask for %d of %s: left out", n_without, counted(len(cohort.scans), "scan"))
    return Cohort(cohort.layout, masked, cohort.findings)


def recorded_segmenter_settings(options: SegmenterTrainOptions) -> dict[str, Any]:
    """Settings as records state them: weights of methods that outline by name and content of their file.

    Other weights make other masks, so a training is another one then. A file that is not there has its name alone: who
    loads it says so.

    Raises:
        WeightsError: where the package's are asked for and missing.
    """
    settings = options.model_dump(mode="json")
    for opinion in (settings["own_masks"] or {}).values():
        if isinstance(opinion, dict) and SegmentOptions.model_validate(opinion["segment"]).asks_network:
            opinion["weights"] = by_content(Path(opinion["weights"] or default_weights_path()))
    return settings


class _SegmenterTraining(Training[MaskNetwork, MaskBatch, TrainedSegmenter]):
    """A segmenter's training."""

    what = "segmenter"
    score_name = "tuning_dice"

    def __init__(
        self, options: SegmenterTrainOptions, sources: MaskSources, output: Path, device: torch.device, command: str
    ) -> None:
        self._options, self._sources = options, sources
        torch.manual_seed(options.loop.seed)
        trainer = Trainer(MaskNetwork(options.network), options.loop, SegmenterObjective(options.loss), device)
        settings = recorded_segmenter_settings(options)
        super().__init__(trainer, options.loop, settings, sources.cohort, sources.left_out, output, command, device)

    def record(self, state: str, **more: object) -> None:
        """The record of the run, with what became of own masks."""
        own = {} if self._sources.own is None else {"own_masks": self._sources.own.figures}
        super().record(state, **own, **more)

    def batches(self) -> CropBatches:
        """Slices or stacks of slices, with their blood."""
        options = self._options
        return CropBatches(
            self._sources.slices,
            options.preprocess,
            options.stack if options.network.spatial_dims == 3 else None,
            options.sampling,
            options.augmentation,
            options.loop.seed,
            rank=rank(),
            n_processes=n_processes(),
        )

    def score(self) -> float | None:
        """Mean Dice of the tuning scans that bled; mirror images are not asked, which takes half the time."""
        return mean_dice(self._judged(self.trainer.averaged, self._sources.tuning, mirrored=False))

    def keep(self, path: Path) -> None:
        """Write the averaged network."""
        save_weights(path, self.trainer.averaged, self._metadata(finished=False), half=True)

    def finish(self) -> TrainedSegmenter:
        """Hold the kept network's masks against those of the tuning scans and of those that judge.

        Its weights say from here on that their training has come to its end.
        """
        path = self._output / BEST
        model = load_segmenter(path).model.to(self._device)
        found: dict[str, list[Overlap]] = {}
        figures: dict[str, object] = {}
        for name, judges in (("tuning", self._sources.tuning), ("test", self._sources.test)):
            found[name] = self._judged(model, judges, mirrored=True)
            if judges:
                figures[name] = write_masks_judgement(self._output / f"{name}.csv", judges, found[name])
        save_weights(path, model, self._metadata(finished=True), half=True)
        self.draw_curves()
        self.record("finished", kept=asdict(self.kept), **figures)
        return TrainedSegmenter(path, self.kept, found["tuning"], found["test"])

    def _judged(self, model: MaskNetwork, judges: Sequence[MaskJudge], *, mirrored: bool) -> list[Overlap]:
        options = self._options
        return judge_masks(
            model, judges, options.preprocess, options.stack, mirrored=mirrored, bfloat16=options.loop.bfloat16
        )

    def _metadata(self, *, finished: bool) -> SegmenterMetadata:
        """What is stored with the weights. No name of a patient, file or folder."""
        options, sources = self._options, self._sources
        cohort = sources.cohort
        whose = "masks" if sources.own is None else "our own masks"
        return SegmenterMetadata(
            architecture=options.network,
            brain=options.brain.model_dump(mode="json"),
            preprocess=options.preprocess.model_dump(mode="json"),
            stack=options.stack.model_dump(mode="json"),
            threshold=THRESHOLD,
            data=f"{whose} of {sources.slices.n_patients} patients ({cohort.layout}, cohort {cohort.sha256[:12]})",
            command=self._command,
            seed=options.loop.seed,
            created=datetime.now(UTC).replace(microsecond=0),
            version=__version__,
            licence=options.licence,
            finished=finished,
            figures={} if self.kept.score is None else {"tuning_dice": round(self.kept.score, 4)},
        )
