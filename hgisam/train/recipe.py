"""A classifier's training in one set of options: labelled scans, phantoms, or both in; calibrated weights out."""

import logging
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor

from hgisam import NOTICE, __version__
from hgisam.brain import BrainOptions
from hgisam.evaluate.detection import Detection, detection, detection_curves, reliability
from hgisam.evaluate.figures import write_reliability, write_roc_and_precision_recall
from hgisam.evaluate.scored import ScoredSlices, detection_by_target, joined_slices, read_scored_slices
from hgisam.io.errors import InputError
from hgisam.io.tables import write_json
from hgisam.labels import Subtype
from hgisam.model.architecture import Architecture, build_classifier
from hgisam.model.checkpoint import (
    EncoderMetadata,
    WeightsError,
    WeightsMetadata,
    load_weights,
    phantom_weights_path,
    read_tensors,
    save_weights,
)
from hgisam.model.classifier import ClassifierOptions
from hgisam.model.initial import InitialReport, load_initial_weights
from hgisam.model.scan_head import ScanHead
from hgisam.model.slice_classifier import SliceClassifier
from hgisam.model.swin import SwinOptions
from hgisam.phantom import PhantomOptions
from hgisam.preprocess import PreprocessOptions
from hgisam.segment import to_log_odds
from hgisam.train.augment import AugmentOptions
from hgisam.train.batches import PatientSlices, PhantomSlices, SamplingOptions, TrainingBatch, TrainingBatches
from hgisam.train.calibration import Calibration, ScoredScan, calibrate, slice_auc
from hgisam.train.cohort import Cohort, Finding
from hgisam.train.layouts import LayoutName, read_cohort
from hgisam.train.loop import LoopOptions, Trainer
from hgisam.train.losses import ClassifierObjective, LossOptions
from hgisam.train.painted_maps import MapQuality, judge_maps
from hgisam.train.painting import PaintingOptions
from hgisam.train.prepared import header_index, prepare_cohort, prepare_phantoms
from hgisam.train.processes import first_process_first, n_processes, rank
from hgisam.train.scoring import Judge, judges_of, phantom_judges, score_judges, scored_slices
from hgisam.train.splits import Fold, Role
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

log = logging.getLogger(__name__)


class PhantomSource(BaseModel):
    """Synthetic heads to learn from."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    heads: PhantomOptions = PhantomOptions(bleed_probability=0.85, faint_probability=0.1)
    """What they are like."""
    n: int = Field(default=0, ge=0)
    """Training heads, seeds 0 and up."""
    n_twins: int = Field(default=0, ge=0)
    """Of these heads, the first so many also come as they were before they bled."""
    n_tuning: int = Field(default=0, ge=0)
    """Heads, of the seeds after those, that are the tuning set where there are no patients to tune on."""

    @property
    def tuning_seeds(self) -> range:
        """Seeds of the tuning heads."""
        return range(self.n, self.n + self.n_tuning)


class TrainOptions(BaseModel):
    """What the network is, what it sees, and how it learns."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    brain: BrainOptions = BrainOptions()
    """How the intracranial region is found."""
    preprocess: PreprocessOptions = PreprocessOptions()
    """What the network sees."""
    classifier: Architecture = ClassifierOptions(
        swin=SwinOptions(in_channels=2, stem="deep", drop_path=0.1), pooling="log_sum_exp"
    )
    """The network."""
    initial_weights: Literal["none", "phantoms"] | Path = "none"
    """Where the parameters start: at random, from the package's weights that saw phantoms alone (and so none of the
    patients that are to judge), or from a file."""
    initial_share: float = Field(default=0.0, ge=0, lt=1)
    """Share of the initial weights in the network that is kept, which is the weighted mean of where the training began
    and where it arrived: what was known before is not forgotten (Wortsman et al. 2022, arXiv 2109.01903)."""
    layout: LayoutName | Literal["auto"] = "auto"
    """How the data are laid out."""
    split: SplitOptions = SplitOptions()
    """Who is learned from."""
    phantoms: PhantomSource = PhantomSource()
    """Synthetic heads beside patients, or instead of them."""
    sampling: SamplingOptions = SamplingOptions(
        positive=4, painted=4, painted_twins=3, negative=5, start_difficulty=0.0
    )
    """What a step learns from."""
    painting: PaintingOptions = PaintingOptions()
    """Which bleeds are painted into slices that hold none."""
    augmentation: AugmentOptions = AugmentOptions()
    """How slices are changed."""
    loss: LossOptions = LossOptions()
    """What is made small."""
    loop: LoopOptions = LoopOptions()
    """How the parameters are found."""
    sensitivity: float = Field(default=0.95, gt=0, le=1)
    """Share of the tuning set's positive slices that the operating point finds."""
    judged_maps: int = Field(default=48, ge=0)
    """Slices without blood of those who judge into which bleeds are painted at the end, to tell how well the map covers
    them; 0 for none."""
    licence: str = "Apache-2.0"
    """Of the weights, as an SPDX identifier; what the data demand goes before what one would like."""

    @model_validator(mode="after")
    def _network_fits(self) -> "TrainOptions":
        check_channels(self.preprocess, self.classifier.in_channels)
        if self.classifier.kind != "swin" and self.loss.token_weight:
            raise ValueError(f"expected loss.token_weight 0 with {self.classifier.kind}, which has no tokens")
        if self.initial_share and self.initial_weights == "none":
            raise ValueError("expected initial_weights to keep a share of; got none; set initial_share to 0")
        return self


@dataclass(frozen=True, eq=False)
class Sources:
    """What a training learns from and is judged by.

    Attributes:
        cohort: the labelled scans; None without data.
        fold: each patient's role; None likewise.
        patients: slices of training patients; None where the sampling wants none.
        phantoms: slices of phantoms; likewise.
        tuning: scans that choose; empty where nobody does.
        test: scans that judge; likewise.
        left_out: what of the labelled scans could not be prepared.
    """

    cohort: Cohort | None
    fold: Fold | None
    patients: PatientSlices | None
    phantoms: PhantomSlices | None
    tuning: list[Judge]
    test: list[Judge]
    left_out: tuple[Finding, ...] = ()


@dataclass(frozen=True, eq=False)
class Trained:
    """What came of a training.

    Attributes:
        weights: the file with the kept network and its calibration.
        kept: when it was kept.
        calibration: what is stored with the weights.
        tuning: what the network says of the tuning set.
        test: likewise of the scans that judge.
    """

    weights: Path
    kept: Kept
    calibration: Calibration
    tuning: list[ScoredScan]
    test: list[ScoredScan]


def train_classifier(
    options: TrainOptions,
    data: Path | None,
    output: Path,
    *,
    resume: bool = False,
    cache: Path | None = None,
    workers: int = 1,
    device: torch.device | None = None,
    command: str = "",
    show_progress: bool = False,
) -> Trained | None:
    """Train a classifier, and leave in `output` its weights, splits, metrics, checkpoints and the record of the run.

    Under torchrun, processes share every step and the first of them writes. A training that was stopped in any way goes
    on with `resume`, and ends, on a CPU, with the very numbers of one that was not.

    Args:
        options: the recipe.
        data: a folder that `read_cohort` knows; None to learn from phantoms alone.
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
        WeightsError: where the initial weights cannot be used.
    """
    device = device or torch.device("cpu")
    check_initial_weights(options)

    def begin() -> _ClassifierTraining:
        sources = gather(options, data, output, cache or output / "cache", workers)
        return _ClassifierTraining(options, sources, output, device, command)

    return carried_out(
        begin,
        options.loop,
        recorded_settings(options),
        TrainOptions,
        output,
        device,
        n_units=options.sampling.n_units,
        units_setting="train.sampling",
        resume=resume,
        workers=workers,
        show_progress=show_progress,
    )


def gather(options: TrainOptions, data: Path | None, output: Path, cache: Path, workers: int) -> Sources:
    """Read, split and prepare what a training learns from. Where processes share it, the first of them goes ahead.

    Args:
        options: the recipe.
        data: a folder that `read_cohort` knows; None for phantoms alone.
        output: the run's folder; where a run goes on, its splits are used again.
        cache: where prepared scans are kept.
        workers: processes that prepare.

    Raises:
        InputError: where the recipe wants patients and there are no data, or wants no one, or a kind of slice of which
            there is none.
        CohortRefused: where the data cannot be trusted.
    """
    sampling = options.sampling
    if sampling.of_patients() and data is None:
        raise InputError("expected data, since the recipe learns from patients; got none; name a folder with --data")
    if sampling.of_phantoms() and not options.phantoms.n:
        raise InputError("expected train.phantoms.n heads, since the recipe learns from phantoms; got 0")
    with first_process_first():
        cohort = fold = patients = None
        left_out: tuple[Finding, ...] = ()
        tuning: list[Judge] = []
        test: list[Judge] = []
        if data is not None:
            cohort = read_cohort(data, options.layout, workers=workers, index=header_index(cache))
            cohort.log_summary()
            fold = fold_of(options.split, cohort, output)
            learned = taught_by(fold, options.split, cohort) if sampling.of_patients() else frozenset()
            if sampling.of_patients():
                _check_told(replace(cohort, scans=cohort.of(learned)), options)
            labelled = cohort.without_references()  # nobody learns from a mask, nor loses a scan to a damaged one
            prepared = prepare_cohort(labelled, options.brain, options.preprocess, cache, workers)
            left_out = prepared.findings
            tuning, test = (judges_of(prepared, fold.patients(role)) for role in (Role.TUNING, Role.TEST))
            warn_of_few(prepared.scans, learned, fold.patients(Role.TUNING))
            if sampling.of_patients():
                patients = PatientSlices(prepared, learned, sampling)
                log.info("slices: %d positive, %d negative", len(patients.positive), len(patients.negative))
                never_shown = patients.findings
                for finding in never_shown:
                    log.warning("%s", finding)
                left_out = (*left_out, *never_shown)
        phantoms = _phantoms(options, cache, workers) if sampling.of_phantoms() else None
        if data is None and options.phantoms.n_tuning:
            seeds, heads = options.phantoms.tuning_seeds, options.phantoms.heads
            tuning = phantom_judges(prepare_phantoms(seeds, heads, options.brain, options.preprocess, cache, workers))
    for source in (patients, phantoms):
        _check_supply(sampling, source)
    if tuning and not _shows_both(tuning):
        raise InputError(
            f"expected positive and negative slices in the tuning set; got {len(tuning)} scans without both;"
            " raise train.split.tuning_share, or change train.split.seed"
        )
    return Sources(cohort, fold, patients, phantoms, tuning, test, left_out)


def _check_told(learned: Cohort, options: TrainOptions) -> None:
    """Warn of subtypes that a network is to tell apart and no real slice teaches.

    Raises:
        InputError: where nothing else teaches them either.
    """
    untold = learned.untold & {*options.classifier.targets}
    if not untold:
        return
    names = ", ".join(subtype for subtype in Subtype if subtype in untold)
    if options.sampling.painted + options.sampling.phantom_positive == 0:
        raise InputError(
            f"expected labels that say of slices with blood whether they show {names}; got none; set"
            " train.classifier.outputs to 1"
        )
    log.warning("labels of slices with blood do not say whether they show %s: no real slice teaches that", names)


def _check_supply(sampling: SamplingOptions, source: PatientSlices | PhantomSlices | None) -> None:
    """Refuse a recipe that asks for slices of a kind that nobody has.

    Raises:
        InputError: with the setting that asks.
    """
    for kind, count in sampling.counts:
        if source is not None and count and source.n_of(kind) == 0:
            raise InputError(
                f"expected slices for train.sampling.{kind} {count}; got none that show enough brain; give more scans,"
                f" or set {kind} to 0"
            )


def _begin_with(
    weights: Literal["phantoms"] | Path, model: SliceClassifier, seen: PreprocessOptions
) -> tuple[InitialReport, WeightsMetadata | EncoderMetadata | None]:
    """Let a network begin with the weights of a file, or with the package's.

    Args:
        weights: which.
        model: changed in place.
        seen: what it is shown.

    Returns:
        What became of every tensor, and what the file says of itself, if it is hgisam's.

    Raises:
        WeightsError: where the file cannot be used.
    """
    path = _initial_weights_path(weights)
    text = read_tensors(path).metadata
    told = _told(text)
    added = told is not None and _differs_in_neighbours_alone(PreprocessOptions.model_validate(told.preprocess), seen)
    report = load_initial_weights(model, path, added_channels=added)
    if text is not None and told is None:
        raise WeightsError(
            f"{path}: expected the metadata of a classifier or an encoder; got others; use the hgisam that wrote it"
        )
    if told is not None and not told.finished:
        log.warning("%s: begins with weights of a training that has not come to its end", path.name)
    return report, told


def _initial_weights_path(weights: Literal["phantoms"] | Path) -> Path:
    return phantom_weights_path() if weights == "phantoms" else Path(weights)


def _told(text: str | None) -> WeightsMetadata | EncoderMetadata | None:
    """What a file that a classifier can begin with says of itself; None of all others."""
    if text is None:
        return None
    for kind in (WeightsMetadata, EncoderMetadata):
        try:
            return kind.model_validate_json(text)
        except ValidationError:  # another kind's, or another version's
            continue
    return None


def _differs_in_neighbours_alone(before: PreprocessOptions, seen: PreprocessOptions) -> bool:
    """Whether a network sees neighbours where another saw none, and of each slice itself the same channels."""
    same = (
        "channels",
        "skull_channel",
        "relative_range_hu",
        "mirror_channel",
        "mirror_clip_hu",
        "mirror_smoothing_mm",
    )
    return seen.neighbours > 0 == before.neighbours and all(getattr(before, key) == getattr(seen, key) for key in same)


def _shows_both(judges: Sequence[Judge]) -> bool:
    """Whether there are positive and negative slices among those that show brain."""
    labels = torch.cat([judge.labels[judge.scan.slices, -1][judge.known[judge.scan.slices, -1]] for judge in judges])
    return bool(labels.any()) and not bool(labels.all())


def _phantoms(options: TrainOptions, cache: Path, workers: int) -> PhantomSlices:
    source = options.phantoms
    unbled = source.heads.model_copy(update={"bleed_probability": 0.0})
    heads, twins = (
        prepare_phantoms(range(n), look, options.brain, options.preprocess, cache, workers)
        for n, look in ((source.n, source.heads), (min(source.n_twins, source.n), unbled))
    )
    found = PhantomSlices(heads, twins, options.sampling, options.preprocess.spacing_mm)
    log.info("slices of phantoms: %d positive, %d negative", len(found.positive), len(found.negative))
    return found


class _ClassifierTraining(Training[SliceClassifier, TrainingBatch, Trained]):
    """A classifier's training."""

    what = "classifier"
    score_name = "tuning_auc"

    def __init__(
        self, options: TrainOptions, sources: Sources, output: Path, device: torch.device, command: str
    ) -> None:
        self._options, self._sources = options, sources
        torch.manual_seed(options.loop.seed)
        model = build_classifier(options.classifier, token_heads=options.loss.token_weight > 0)
        self._start: WeightsMetadata | EncoderMetadata | None = None
        self._initial: dict[str, Tensor] = {}
        if options.initial_weights != "none":
            found, self._start = _begin_with(options.initial_weights, model, options.preprocess)
            for line in found.lines():
                log.info("initial weights: %s", line)
            if options.initial_share:
                known = {*found.copied, *found.adapted}
                self._initial = {name: t.clone() for name, t in model.state_dict().items() if name in known}
        trainer = Trainer(model, options.loop, ClassifierObjective(options.loss), device)
        settings, left_out = recorded_settings(options), sources.left_out
        super().__init__(trainer, options.loop, settings, sources.cohort, left_out, output, command, device)

    def batches(self) -> TrainingBatches:
        """Slices of patients, phantoms or both, labelled."""
        options = self._options
        return TrainingBatches(
            self._sources.patients,
            self._sources.phantoms,
            options.preprocess,
            options.sampling,
            options.augmentation,
            options.painting,
            options.loop.seed,
            rank=rank(),
            n_processes=n_processes(),
        )

    def score(self) -> float | None:
        """AUC over the slices of the tuning set."""
        if not self._sources.tuning:
            return None
        options = self._options
        scored = score_judges(self._network(), self._sources.tuning, options.preprocess, bfloat16=options.loop.bfloat16)
        return slice_auc(scored)

    def keep(self, path: Path) -> None:
        """Write the averaged network, not yet calibrated."""
        save_weights(path, self._network(), self._metadata(None), half=True)

    def _network(self) -> SliceClassifier:
        """The averaged network, with its share of the weights that it began with."""
        averaged = self.trainer.averaged
        if not self._initial:
            return averaged
        network = deepcopy(averaged)
        state = network.state_dict()
        share = self._options.initial_share
        mixed = {
            name: torch.lerp(state[name], start.to(state[name].device), share)
            for name, start in self._initial.items()
            if start.is_floating_point()
        }
        network.load_state_dict(state | mixed)
        return network

    def finish(self) -> Trained:
        """Calibrate the kept network on the tuning set, score those that judge, and draw what there is to see.

        All of it in float32, as the pipeline asks the network: bfloat16 moves probabilities by a few hundredths.
        """
        path = self._output / BEST
        model = load_weights(path).model.to(self._device)
        sources = self._sources
        tuning, test = (
            score_judges(model, judges, self._options.preprocess, bfloat16=False)
            for judges in (sources.tuning, sources.test)
        )
        calibration = calibrate(tuning, self._options.sensitivity) if tuning else self._start_calibration()
        save_weights(path, model, self._metadata(calibration), half=True)
        self.draw_curves()
        for name, judges, scored in (("tuning", sources.tuning, tuning), ("test", sources.test, test)):
            if scored:
                uncalibrated = calibration.model_copy(update={"temperature": 1.0, "offset": 0.0})
                write_judgement(
                    self._output,
                    name,
                    scored_slices(judges, scored, uncalibrated),
                    scored_slices(judges, scored, calibration),
                    calibration,
                )
        maps = self._judged_maps(model, sources.test or sources.tuning)
        self.record(
            "finished",
            kept=asdict(self.kept),
            calibration=calibration.model_dump(),
            maps_on_painted_bleeds=None if maps is None else asdict(maps),
        )
        return Trained(path, self.kept, calibration, tuning, test)

    def _judged_maps(self, model: SliceClassifier, judges: Sequence[Judge]) -> MapQuality | None:
        options = self._options
        if not options.judged_maps:
            return None
        return judge_maps(model, judges, options.preprocess, options.painting, n=options.judged_maps)

    def _start_calibration(self) -> Calibration:
        """Without a tuning set: what the initial weights brought along, or nothing."""
        log.warning("no tuning set: probabilities and operating point are those of the initial weights, or raw")
        start = self._start
        if not isinstance(start, WeightsMetadata):
            return Calibration()
        return Calibration(
            scan_context=start.scan_context,
            temperature=start.temperature,
            offset=start.offset,
            scan_head=start.scan_head,
            operating_point=start.operating_point,
        )

    def _metadata(self, calibration: Calibration | None) -> WeightsMetadata:
        """What is stored with the weights; None while they are not calibrated yet."""
        options, start = self._options, self._start
        return WeightsMetadata(
            architecture=options.classifier,
            finished=calibration is not None,
            brain=options.brain.model_dump(mode="json"),
            preprocess=options.preprocess.model_dump(mode="json"),
            threshold=start.threshold if isinstance(start, WeightsMetadata) else 0.5,
            data=self._data(),
            command=self._command,
            seed=options.loop.seed,
            created=datetime.now(UTC).replace(microsecond=0),
            version=__version__,
            licence=options.licence,
            figures={} if self.kept.score is None else {"tuning_slice_auc": round(self.kept.score, 4)},
            **(calibration or Calibration()).model_dump(),
        )

    def _data(self) -> str:
        """What was learned from, in words. No name of a patient, file or folder."""
        parts = []
        cohort, patients = self._sources.cohort, self._sources.patients
        if patients is not None and cohort is not None:
            n = patients.n_patients
            parts.append(f"slice labels of {n} patients ({cohort.layout}, cohort {cohort.sha256[:12]}); no mask")
        source = self._options.phantoms
        if self._sources.phantoms is not None:
            parts.append(f"{source.n} hgisam phantoms, of which {source.n_twins} also without their blood")
        if self._start is not None:
            parts.append(f"initial weights: {self._start.data}")
        return "; ".join(parts)


def write_judgement(folder: Path, name: str, raw: ScoredSlices, scored: ScoredSlices, calibration: Calibration) -> None:
    """Write what slices and scans say of a network: a table, figures in numbers, and as pictures.

    Args:
        folder: where to.
        name: who judged: "tuning" or "test".
        raw: their slices before temperature and offset.
        scored: after it.
        calibration: that made `scored`; with its scan head and operating point.

    Raises:
        OutputError: where something cannot be written.
    """
    scored.save(folder / f"{name}.csv")
    by_target = [asdict(found) for found in detection_by_target(scored, calibration.operating_point)]
    scans = asdict(scan_detection(scored, calibration.scan_head))
    write_json(folder / f"{name}.json", {"notice": NOTICE, "by_target": by_target, "scans_by_head": scans})
    known = scored.positive | scored.negative
    if not scored.positive.any() or not scored.negative.any():
        log.warning("%s: all slices are labelled alike, so there is no curve to draw", name)
        return
    patients = [patient for patient, keep in zip(scored.patients, known.tolist(), strict=True) if keep]
    probabilities, labels = scored.probabilities[known], scored.positive[known]
    found = detection(probabilities, labels, patients, calibration.operating_point)
    before = detection(raw.probabilities[known], labels, patients)
    curves = detection_curves(probabilities, labels, patients)
    write_roc_and_precision_recall(folder / f"{name}_roc_pr.png", curves, found, f"{name} patients", "slices")
    sets = {
        "before calibration": (reliability(raw.probabilities[known], labels, patients), before),
        "after calibration": (reliability(probabilities, labels, patients), found),
    }
    write_reliability(folder / f"{name}_reliability.png", sets, f"{name} patients", "slices")


def scan_detection(scored: ScoredSlices, head: ScanHead) -> Detection:
    """What a scan's own probability, as `hgisam segment` states it, tells of hemorrhage of any kind.

    A scan is positive where a slice of it is, negative where all of them are, and else left out. One that shows no
    brain has probability 0.

    Args:
        scored: calibrated slices.
        head: from a scan's slices to the scan.
    """
    probabilities, labels, patients = [], [], []
    for rows in scored.rows_by_scan.values():
        bled = bool(scored.positive[rows].any())
        if not bled and not scored.negative[rows].all():
            continue
        log_odds = to_log_odds(scored.probabilities[rows[scored.has_brain[rows]]])
        probabilities.append(float(head(log_odds).sigmoid()) if len(log_odds) else 0.0)
        labels.append(bled)
        patients.append(scored.patients[int(rows[0])])
    return detection(torch.tensor(probabilities).double(), torch.tensor(labels, dtype=torch.bool), patients)


def read_out_of_fold(folder: Path) -> ScoredSlices:
    """What the trainings fold_0, fold_1, ... in a folder say of the patients that each had not seen, as one table.

    Raises:
        ValueError: where there is none, or a patient is in two of them.
    """
    return joined_slices([read_scored_slices(table) for table in sorted(folder.glob("fold_*/test.csv"))])


def check_initial_weights(options: TrainOptions) -> None:
    """Stop before hours of preparation, where the weights to begin with are not there or of another network.

    Raises:
        WeightsError: naming them.
    """
    weights = options.initial_weights
    if weights == "none":
        return
    if isinstance(weights, Path) and not weights.is_file():
        raise WeightsError(f"{weights}: expected a weights file to begin with; got none; set train.initial_weights")
    _begin_with(weights, build_classifier(options.classifier), options.preprocess)


def recorded_settings(options: TrainOptions) -> dict[str, Any]:
    """Settings as records state them: initial weights by the name and content of their file, the package's too.

    With other weights under the same name, a training is another one. A file that is not there has its name alone.
    """
    settings = options.model_dump(mode="json")
    if options.initial_weights != "none":
        settings["initial_weights"] = by_content(_initial_weights_path(options.initial_weights))
    return settings
