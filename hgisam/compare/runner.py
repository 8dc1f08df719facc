"""Every method on every case: a mask and a record each, so that a run that was stopped goes on where it was.

A record counts as done only if its key is the one that method, weights, scan and reference would have now.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from pydantic import TypeAdapter, ValidationError

from hgisam import __version__
from hgisam.cases import own_record
from hgisam.compare.data import ComparedCase, ComparedData
from hgisam.compare.memory import PeakMemory
from hgisam.compare.settings import AnyMethod, CompareOptions, GivenMethod, TrainedMethod, learns_from_masks
from hgisam.compare.training import FoldTraining, TrainingEnd, content_of_lessons, train_side_by_side
from hgisam.config import Settings
from hgisam.evaluate.folders import with_probabilities
from hgisam.evaluate.scores import ScanScore, score_masks
from hgisam.exits import Interrupts
from hgisam.io.atomic import make_output_folder
from hgisam.io.digest import code_sha256, file_sha256
from hgisam.io.errors import OutputError, ScanRefused
from hgisam.io.nifti import read_mask_and_labels, write_mask
from hgisam.io.tables import write_json
from hgisam.pipeline import OUTLINE_CODE, Look, MaskSegmenter, SegmentationResult, Segmenter, pick_device
from hgisam.processes import side_by_side
from hgisam.records import Record, case_record, recorded_reason, refusal_record, segmentation_record
from hgisam.volume import MaskVolume, same_grid
from hgisam.wording import counted

log = logging.getLogger(__name__)

METHODS = "methods"
CACHE = "cache"
METHOD_RECORD = "method.json"
_SCORE = TypeAdapter(ScanScore)
RECORD_CODE = (
    *OUTLINE_CODE, "compare/memory.py", "compare/runner.py", "evaluate/lesions.py", "evaluate/overlap.py",
    "evaluate/scores.py", "evaluate/surface.py",
)  # fmt: skip
"""What makes a mask, its score, and what it cost."""

Shas = tuple[str | None, str | None]
"""sha256 of a case's scan and of its reference; None where a file cannot be read."""


@runtime_checkable
class MaskMaker(Protocol):
    """What is asked of a `Segmenter` or a `MaskSegmenter`."""

    @property
    def device(self) -> torch.device: ...

    @property
    def settings(self) -> dict[str, Any]: ...

    def segment(self, scan: Path) -> SegmentationResult: ...


@dataclass(frozen=True)
class CaseResult:
    """One method on one case.

    Attributes:
        case: the case.
        score: of its mask; of an empty one, marked as failed, where the method failed.
        failure: why there is no mask; None where there is one.
        seconds: of all stages from file to mask; None where it failed.
        threads: of the CPU, that it had; None where that is not on record.
        peak_mib: the most memory that its mask took, the look at the case included, beyond program and networks. None
            where it failed, or the system does not tell.
        mask: the file; None where it failed.
    """

    case: ComparedCase
    score: ScanScore
    failure: str | None
    seconds: float | None
    threads: int | None
    peak_mib: float | None
    mask: Path | None


@dataclass(frozen=True)
class MethodResult:
    """One method on all its cases.

    Attributes:
        method: as the YAML has it.
        cases: by name; empty where the method could not be started.
        failure: why it could not be started; None where it could.
        settings: of the first of its networks, resolved; None where it could not be started.
        trainings: how those of its networks ended, by fold; empty where it is not trained here.
    """

    method: AnyMethod
    cases: tuple[CaseResult, ...] = ()
    failure: str | None = None
    settings: dict[str, Any] | None = field(default=None, compare=False)
    trainings: tuple[TrainingEnd, ...] = ()

    @property
    def failed_cases(self) -> tuple[CaseResult, ...]:
        """Those that got no mask."""
        return tuple(found for found in self.cases if found.failure is not None)

    @property
    def works(self) -> bool:
        """Whether it gave any mask at all."""
        return len(self.failed_cases) < len(self.cases)


def _unseen(_: str) -> None:
    """What is begun where nobody watches."""


@dataclass(frozen=True, eq=False)
class Runner:
    """A comparison at work.

    Attributes:
        options: of the comparison.
        base: the folder that relative paths in it start from.
        output: the comparison's folder.
        device: as `Segmenter` takes it.
        batch_size: as `Segmenter` takes it.
        workers: processes that trainings may use; on a CPU so many trainings, then methods, run side by side.
        begin: told what is begun, `METHOD: CASE`.
    """

    options: CompareOptions
    base: Path
    output: Path
    device: str = "auto"
    batch_size: int | None = None
    workers: int = 1
    begin: Callable[[str], None] = _unseen

    def over_all(self, data: ComparedData, interrupts: Interrupts) -> tuple[MethodResult, ...]:
        """Every method on every case that it is for. What fails is recorded, and the run goes on.

        Raises:
            OutputError: where something cannot be written.
            KeyboardInterrupt: where it is cancelled; what is done stays.
        """
        # Remembered from here on, of the code that is at work: trainings take long enough for somebody to edit it.
        code_sha256(RECORD_CODE)
        shas = {case.name: (file_sha256(case.scan), file_sha256(case.reference)) for case in data.cases}
        if pick_device(self.device).type == "cpu":  # one training fills a GPU, but not many cores
            trainings = [
                self._training(method, method.settings(self.base), data, fold)
                for method in self.options.methods
                if isinstance(method, TrainedMethod)
                for fold in _folds_of(method, self.options)
                if fold is not None
            ]
            train_side_by_side(trainings, self.workers)
            self._judge_side_by_side(data, shas)
        found: dict[str, MethodResult] = {}
        for methods in _at_once(self.options.methods):
            for result in self.judge((methods, data.cases), data, shas, interrupts):
                if result.failure is not None:
                    log.error("%s: left out: %s", result.method.name, result.failure)
                with interrupts.held():
                    folder = self.output / METHODS / result.method.folder_name
                    write_json(folder / METHOD_RECORD, _method_record(result))
                found[result.method.name] = result
        return tuple(found[method.name] for method in self.options.methods)

    def judge(
        self, work: "_Work", data: ComparedData, shas: dict[str, Shas], interrupts: Interrupts
    ) -> tuple[MethodResult, ...]:
        """Some methods on some cases: each case is shown to one after the other, and those of one network look once.

        A method that fails ends there, and its result says why; the others go on.

        Raises:
            OutputError: where something cannot be written.
            KeyboardInterrupt: where it is cancelled; what is done stays.
        """
        methods, cases = work
        networks: dict[Path | None, Segmenter] = {}
        at_work = [_AtWork(method, self.base) for method in methods]
        for one in at_work:
            make_output_folder(self.output / METHODS / one.method.folder_name)
            with one.failing():
                for fold in _folds_of(one.method, self.options):
                    one.makers[fold] = self._segmenter(one.method, data, fold, networks)
                    if isinstance(one.method, TrainedMethod) and fold is not None:
                        settings = one.method.settings(self.base)
                        one.trainings.append(self._training(one.method, settings, data, fold).end)
        for case in cases:
            looks: dict[str, _Seen] = {}
            for one in at_work:
                maker = one.maker_for(case)
                if maker is not None:
                    self.begin(f"{one.method.name}: {case.name}")
                    folder = self.output / METHODS / one.method.folder_name
                    with one.failing():
                        sharing = _Sharing(maker, looks)
                        one.found.append(compare_case(sharing, case, shas[case.name], folder, interrupts))
        return tuple(one.result() for one in at_work)

    def _judge_side_by_side(self, data: ComparedData, shas: dict[str, Shas]) -> None:
        """So many processes at a time, each with its share of threads; records stay.

        The cases of methods that come as they are are dealt to processes; a trained method has a process of its own.
        """
        known: dict[Path | None, Segmenter] = {}
        left = [method for method in self.options.methods if not self._judged(method, data, shas, known)]
        work: list[_Work] = []
        for methods in _at_once(left):
            shares = self.workers if isinstance(methods[0], GivenMethod) else 1
            work += [(methods, data.cases[k::shares]) for k in range(shares)]
        at_once = min(self.workers, len(work))
        if at_once > 1:
            threads = max(1, torch.get_num_threads() // at_once)
            alone = replace(self, workers=1, begin=_unseen)
            side_by_side(partial(_judge, runner=alone, data=data, shas=shas, threads=threads), work, at_once)

    def _judged(
        self,
        method: AnyMethod,
        data: ComparedData,
        shas: dict[str, Shas],
        networks: dict[Path | None, Segmenter],
    ) -> bool:
        """Whether each of a method's cases has a record that is still true; so is one that cannot be started."""
        folder = self.output / METHODS / method.folder_name
        for fold in _folds_of(method, self.options):
            cases = [case for case in data.cases if fold in {None, case.fold}]
            records = [own_record(folder / f"{case.name}.json") for case in cases]
            if not all(record.get("key") for record in records):
                return False
            with suppress(Exception):  # told where its records are read
                settings = self._segmenter(method, data, fold, networks).settings
                for case, record in zip(cases, records, strict=True):
                    key = case_key(settings, shas[case.name])
                    failed = record["key"] == key and record.get("status") != "ok"  # it is tried again there, once
                    if not failed and _known(record, case, key, folder / _mask_name(case)) is None:
                        return False
        return True

    def _segmenter(
        self, method: AnyMethod, data: ComparedData, fold: int | None, networks: dict[Path | None, Segmenter]
    ) -> MaskMaker:
        """The method, ready: with one of these networks where it is among them, else with its own, which joins them."""
        settings = method.settings(self.base)
        supervised = learns_from_masks(settings)
        weights: Path | None = None
        if isinstance(method, TrainedMethod) and fold is not None:
            weights = self._training(method, settings, data, fold).weights(self.workers)
        elif isinstance(method, GivenMethod) and method.weights is not None:
            weights = self.base / method.weights
        if supervised and weights is not None:
            network = settings.supervised
            return MaskSegmenter(weights, options=network, device=self.device, batch_size=self.batch_size)
        options = settings.segment
        if options.asks_network and weights in networks:
            segmenter = networks[weights].with_options(options)
        else:
            segmenter = Segmenter(weights, options=options, device=self.device, batch_size=self.batch_size)
        if options.asks_network:
            networks[weights] = segmenter
        segmenter.ensure_able("segment")
        return segmenter

    def _training(self, method: TrainedMethod, settings: Settings, data: ComparedData, fold: int) -> FoldTraining:
        recipe = settings.train_segmenter if learns_from_masks(settings) else settings.train
        dealt = {"folds": self.options.folds, "fold": fold, "seed": self.options.seed}
        options = recipe.model_copy(update={"split": recipe.split.model_copy(update=dealt)})
        tested = frozenset(case.patient for case in data.cases if case.fold == fold)
        return FoldTraining(
            options=options,
            data=data.folder,
            run=self.output / METHODS / method.folder_name / f"fold_{fold}",
            tested=tested,
            cache=self.output / CACHE,
            device=self.device,
            taught_on=content_of_lessons(data, options, tested),
        )


_Work = tuple[tuple[AnyMethod, ...], tuple[ComparedCase, ...]]
"""Methods, and the cases that they are asked about."""


def _judge(work: _Work, runner: Runner, data: ComparedData, shas: dict[str, Shas], threads: int) -> None:
    torch.set_num_threads(threads)
    runner.judge(work, data, shas, Interrupts())
    log.info("judged: %s, %s", ", ".join(method.name for method in work[0]), counted(len(work[1]), "case"))


def _at_once(methods: Sequence[AnyMethod]) -> list[tuple[AnyMethod, ...]]:
    """Methods that come as they are together, since they may share a network; each trained one, with its own, alone."""
    given = tuple(method for method in methods if isinstance(method, GivenMethod))
    trained = [(method,) for method in methods if isinstance(method, TrainedMethod)]
    return [given, *trained] if given else [*trained]


@dataclass(eq=False)
class _AtWork:
    """A method while it is judged.

    Attributes:
        method: the method.
        base: as for `Runner`.
        makers: what makes its masks, by fold; of None for all cases.
        trainings: how those of its networks ended.
        found: its cases so far.
        failure: why it goes no further.
    """

    method: AnyMethod
    base: Path
    makers: dict[int | None, MaskMaker] = field(default_factory=dict)
    trainings: list[TrainingEnd] = field(default_factory=list)
    found: list[CaseResult] = field(default_factory=list)
    failure: str | None = None

    @contextmanager
    def failing(self) -> Iterator[None]:
        """One broken method must not end the others."""
        try:
            yield
        except (OutputError, KeyboardInterrupt):
            raise
        except Exception as error:
            self.failure = recorded_reason(f"{type(error).__name__}: {error}", self.base)
            log.debug("%s: where it failed", self.method.name, exc_info=error)

    def maker_for(self, case: ComparedCase) -> MaskMaker | None:
        """What makes its mask of a case; None where it is not for the case, or has failed."""
        return None if self.failure is not None else self.makers.get(None, self.makers.get(case.fold))

    def result(self) -> MethodResult:
        """What became of it; nothing but its settings and trainings where it failed."""
        cases = () if self.failure is not None else tuple(sorted(self.found, key=lambda result: result.case.name))
        settings = next((maker.settings for maker in self.makers.values()), None)
        return MethodResult(self.method, cases, self.failure, settings, tuple(self.trainings))


@dataclass(frozen=True, eq=False)
class _Seen:
    """What a network saw of a case.

    Attributes:
        look: at the case.
        peak_mib: the most memory that looking took; None where the system does not tell.
        held_mib: what of it the look keeps, likewise.
    """

    look: Look
    peak_mib: float | None
    held_mib: float | None


@dataclass(frozen=True, eq=False)
class _Sharing:
    """A method that shares its look at a case with others of the same eye.

    Attributes:
        maker: the method.
        looks: at the case, by the eye.
    """

    maker: MaskMaker
    looks: dict[str, _Seen]

    def segment(self, scan: Path) -> tuple[SegmentationResult, float | None]:
        """A mask, and the most memory in MiB that it took, whoever looked; None where the system does not tell."""
        memory = PeakMemory(self.maker.device)
        if not isinstance(self.maker, Segmenter):
            return self.maker.segment(scan), memory.peak_mib()
        eye = self.maker.eye
        if eye not in self.looks:
            self.looks[eye] = _Seen(self.maker.look(scan), memory.peak_mib(), memory.held_mib())
            memory = PeakMemory(self.maker.device)
        seen = self.looks[eye]
        result, mib = self.maker.segment(seen.look), memory.peak_mib()
        if mib is None or seen.peak_mib is None or seen.held_mib is None:
            return result, None
        return result, max(seen.peak_mib, seen.held_mib + mib)


def compare_case(sharing: _Sharing, case: ComparedCase, shas: Shas, folder: Path, interrupts: Interrupts) -> CaseResult:
    """One method on one case: what is on record where that is still true, else a new mask and record.

    A scan that the method refuses or fails at is scored with an empty mask, and marked as failed.

    Args:
        sharing: the method.
        case: the case.
        shas: sha256 of scan and reference.
        folder: the method's, for `CASE_mask.nii.gz` and `CASE.json`.
        interrupts: held back while files are written.

    Raises:
        ScanRefused: where the reference cannot be read.
        OutputError: where something cannot be written.
    """
    path, mask = folder / f"{case.name}.json", folder / _mask_name(case)
    settings = sharing.maker.settings
    key = case_key(settings, shas)
    record = own_record(path)
    known = _known(record, case, key, mask)
    if known is not None:
        return known
    mask.unlink(missing_ok=True)
    reference, labels, *_ = read_mask_and_labels(case.reference)
    result: SegmentationResult | None = None
    try:
        result, peak_mib = sharing.segment(case.scan)
        seconds, prediction = sum(result.timings_s.values()), result.mask_volume
        if not same_grid(prediction, reference):
            raise ScanRefused(f"{case.name}: expected scan and reference on one grid; got two; resample the reference")
        cost = {"seconds": round(seconds, 4), "threads": torch.get_num_threads(), "peak_mib": peak_mib}
        found = segmentation_record(result) | cost
    except Exception as error:  # one bad case must not end the others
        status = "refused" if isinstance(error, ScanRefused) else "failed"
        reason = recorded_reason(f"{type(error).__name__}: {error}", case.scan)
        log.error("%s: %s: %s", case.name, status, reason)
        log.debug("%s: where it failed", case.name, exc_info=error)
        result, prediction = None, MaskVolume(torch.zeros_like(reference.voxels), reference.affine, reference.source)
        found = refusal_record("segment", status, reason) | {"seconds": None, "threads": None, "peak_mib": None}
    subtypes = labels if case.tells_subtypes else None
    upside_down = result is not None and result.grid.orientation.flips[0]  # as the scan's file counts its slices
    score = score_masks(case.name, prediction, reference, subtypes, upside_down=upside_down)
    score = replace(score, patient=case.patient, failed=result is None)
    score = score if result is None else with_probabilities(score, found)
    record = (
        case_record("compare", case.name, case.scan, shas[0], settings, {}) | {"key": key, "fold": case.fold} | found
    )
    record |= {"score": _SCORE.dump_python(score, mode="json")}
    with interrupts.held():
        if result is not None:
            write_mask(mask, result.mask_volume.voxels, result.grid)
        write_json(path, record)
    return _case_result(case, score, record, mask if result else None)


def case_key(settings: dict[str, Any], shas: Shas) -> str:
    """sha256 of all that a record follows from: settings with the weights' hash, code, scan and reference."""
    everything = [code_sha256(RECORD_CODE), settings, *shas]
    return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()


def _mask_name(case: ComparedCase) -> str:
    return f"{case.name}_mask.nii.gz"


def _known(record: Record, case: ComparedCase, key: str, mask: Path) -> CaseResult | None:
    """What a record says, where it is of this key, whole, and has its mask. What failed is tried again, and what was
    scored when subtypes were told that are not now, or the reverse."""
    if record.get("key") != key or record.get("status") != "ok" or not mask.is_file():
        return None
    try:
        score = replace(_SCORE.validate_python(record["score"]), patient=case.patient)
    except (KeyError, ValidationError):
        return None
    if bool(score.subtypes) != (case.tells_subtypes and score.positive):
        return None
    return _case_result(case, score, record, mask)


def _case_result(case: ComparedCase, score: ScanScore, record: Record, mask: Path | None) -> CaseResult:
    cost = record["seconds"], record.get("threads"), record["peak_mib"]
    return CaseResult(case, score, record["reason"], *cost, mask)


def _folds_of(method: AnyMethod, options: CompareOptions) -> Sequence[int | None]:
    if isinstance(method, GivenMethod):
        return (None,)
    return tuple(range(options.folds)) if method.folds is None else method.folds


def _method_record(found: MethodResult) -> Record:
    return {
        "hgisam_version": __version__,
        "method": found.method.model_dump(mode="json") | {"config": found.method.config and found.method.config.name},
        "failure": found.failure,
        "settings": found.settings,
        "n_cases": len(found.cases),
        "failed_cases": {one.case.name: one.failure for one in found.failed_cases},
    }
