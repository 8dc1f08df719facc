"""A training from its first step to its last, whatever is learned: shared, looked at, kept at its best, resumed."""

import logging
import platform
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_serializer
from torch.utils.data import DataLoader, Dataset

from hgisam import NOTICE, __version__
from hgisam.allocator import memory_kept
from hgisam.cases import own_record
from hgisam.evaluate.figures import write_learning_curves
from hgisam.io.atomic import make_output_folder, remove_unfinished
from hgisam.io.digest import file_sha256
from hgisam.io.errors import InputError
from hgisam.io.space import ensure_free_space
from hgisam.io.tables import write_json
from hgisam.preprocess import PreprocessOptions
from hgisam.train.checkpoints import latest_checkpoint, save_checkpoint
from hgisam.train.cohort import Cohort, CohortRefused, Finding, LabelledScan
from hgisam.train.journal import Journal, journal, read_rows
from hgisam.train.loop import Learned, LoopOptions, Network, Trainer
from hgisam.train.processes import joined, n_processes, rank, share_of, shared_out
from hgisam.train.splits import Fold, Role, load_splits, make_splits
from hgisam.wording import counted

log = logging.getLogger(__name__)

RUN_RECORD = "run.json"
SPLITS = "splits.csv"
BEST = "best.safetensors"
CHECKPOINTS = "checkpoints"
CURVES = "curves.png"

FEW_PATIENTS = 5
"""Of fewer patients with hemorrhage, or without, one patient's chance decides what is learned or chosen."""

Result = TypeVar("Result")


class SplitOptions(BaseModel):
    """Who is learned from, who chooses, who judges. Patients, never slices, are dealt."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    folds: int = Field(default=1, ge=1)
    """Folds; with one, no patient is tested."""
    fold: int = Field(default=0, ge=0)
    """Which of them this training is."""
    tuning_share: float = Field(default=0.15, ge=0, lt=1)
    """Share of those not tested that chooses: when to stop, and what is calibrated."""
    seed: int = Field(default=0, ge=0)
    """Of the deal."""
    splits: Path | None = None
    """A `splits.csv` of this cohort to go by, such as another run's; folds, tuning_share and seed then say nothing of
    the deal. None deals anew."""
    train_patients: int | None = Field(default=None, ge=1)
    """Learn from so many of the training patients only, drawn by the seed, with and without blood in
    proportion: for learning curves. None takes all."""

    @field_serializer("splits", when_used="json-unless-none")
    def _by_name(self, splits: Path) -> str:
        return splits.name  # records name no folder of a machine


def check_channels(seen: PreprocessOptions, in_channels: int) -> None:
    """Stop before a network is shown other channels than it takes.

    Raises:
        ValueError: where preprocessing makes others than so many.
    """
    if in_channels != seen.n_channels:
        raise ValueError(
            f"expected a network for the {seen.n_channels} channels that preprocess makes; got one for {in_channels}; "
            "set its in_channels"
        )


def fold_of(split: SplitOptions, cohort: Cohort, output: Path) -> Fold:
    """A training's division of the patients: a new one or that of a file, put into its folder; of a run that goes on,
    the one there.

    Raises:
        InputError: where the cohort has too few patients for the split, or the fold or the file does not exist.
        CohortRefused: where the splits that there are are of another cohort, or damaged.
    """
    path = output / SPLITS
    goes_on = path.is_file() and bool(own_record(output / RUN_RECORD))
    if goes_on:
        splits = load_splits(path, cohort)
        if split.splits is None and len(splits.folds) != split.folds:
            raise CohortRefused(f"{SPLITS}: expected {split.folds} folds; got {len(splits.folds)}; name another folder")
    elif split.splits is not None:
        if not split.splits.is_file():
            raise InputError(f"{split.splits}: expected a table of splits; got none; name a run's {SPLITS}")
        splits = load_splits(split.splits, cohort)
    else:
        try:
            splits = make_splits(cohort, split.folds, split.tuning_share, split.seed)
        except ValueError as error:
            raise InputError(f"split: {error}") from error
    if not split.fold < len(splits.folds):
        raise InputError(f"expected a fold below {len(splits.folds)}; got {split.fold}; they count from 0")
    if not goes_on and not rank():
        splits.save(path)
    return splits.folds[split.fold]


def taught_by(fold: Fold, split: SplitOptions, cohort: Cohort) -> frozenset[str]:
    """The training patients of a cohort, or as many of them as the recipe wants; fewer are among more.

    Among however many are drawn, those who bled have the share that they have among all, rounded up: of a handful drawn
    regardless, one may have bled, and a learning curve would say what chance did.
    """
    bled = dict(zip(cohort.patients, cohort.patient_subtypes.any(dim=1).tolist(), strict=True))
    everyone = sorted(patient for patient in fold.patients(Role.TRAIN) if patient in bled)
    drawn = [everyone[k] for k in np.random.default_rng(split.seed).permutation(len(everyone))]
    n = len(drawn) if split.train_patients is None else min(split.train_patients, len(drawn))
    n_bled = sum(bled[patient] for patient in drawn)
    wanted = -(-n * n_bled // max(1, len(drawn)))
    with_blood, without = ([patient for patient in drawn if bled[patient] is b] for b in (True, False))
    return frozenset(with_blood[:wanted] + without[: n - wanted])


def warn_of_few(scans: Sequence[LabelledScan], learned: frozenset[str], tuning: frozenset[str]) -> None:
    """Say aloud where so few patients teach or choose that it tells little of others; a set of nobody passes.

    Args:
        scans: those of the patients that could be prepared.
        learned: the patients who teach.
        tuning: the patients who choose.
    """
    seen = {scan.patient for scan in scans}
    bled = {scan.patient for scan in scans if bool(scan.positive.any())}
    for name, patients, outcome in (
        ("training", learned, "what is learned"),
        ("tuning", tuning, "what it chooses, such as when to stop, calibration and operating point,"),
    ):
        n_bled, n_without = len(patients & bled), len(patients & seen - bled)
        if patients and min(n_bled, n_without) < FEW_PATIENTS:
            log.warning(
                "%s set: %s with hemorrhage and %s without; of fewer than %d, %s tells little of other patients",
                name, counted(n_bled, "patient"), counted(n_without, "patient"), FEW_PATIENTS, outcome,
            )  # fmt: skip


@dataclass(frozen=True)
class Kept:
    """The best network so far.

    Attributes:
        score: what the tuning set says of it; None where nobody chooses.
        step: at which it was kept.
        looks_since: looks at the tuning set since then.
    """

    score: float | None = None
    step: int = 0
    looks_since: int = 0


class Training(ABC, Generic[Network, Learned, Result]):
    """A training with all that it needs, in one process of perhaps several. What is learned is for a subclass to say.

    Attributes:
        trainer: the network and its optimizer.
        kept: the best network so far.
    """

    what: str
    """As the command has it: hgisam train WHAT."""
    score_name: Literal["tuning_auc", "tuning_dice", "none"]
    """What the tuning set says, the higher the better; none where nobody chooses."""

    def __init__(
        self,
        trainer: Trainer[Network, Learned],
        loop: LoopOptions,
        settings: Mapping[str, Any],
        cohort: Cohort | None,
        left_out: Sequence[Finding],
        output: Path,
        command: str,
        device: torch.device,
    ) -> None:
        """Begin before the first step.

        Args:
            trainer: the network, not yet trained.
            loop: how long, and how often to look.
            settings: of the whole recipe, for the record.
            cohort: what is learned from, for the record; None without data.
            left_out: what of it could not be prepared, likewise.
            output: the run's folder.
            command: that made the weights, for the record.
            device: where the network is.
        """
        self.trainer: Trainer[Network, Learned] = trainer
        self.kept = Kept()
        self._loop, self._settings = loop, settings
        self._cohort, self._left_out = cohort, left_out
        self._output, self._command, self._device = output, command, device

    @abstractmethod
    def batches(self) -> Dataset[Learned]:
        """What this process learns from at each step."""

    @abstractmethod
    def score(self) -> float | None:
        """What the tuning set says of the averaged network; None where there is none. All processes ask."""

    @abstractmethod
    def keep(self, path: Path) -> None:
        """Write the averaged network."""

    @abstractmethod
    def finish(self) -> Result:
        """What is done with the kept network at the end, in the first process alone: the others are gone."""

    def go_back_to_checkpoint(self) -> None:
        """Go on from the latest checkpoint, where there is one."""
        found = latest_checkpoint(self._output / CHECKPOINTS)
        if found is None:
            log.warning("no checkpoint: the training begins anew")
            return
        self.trainer.restore(found.tensors, found.step)
        self.kept = Kept(**found.facts)
        log.info("goes on from step %d", found.step)

    def check_room(self) -> None:
        """Stop before steps of which no checkpoint could be kept.

        Raises:
            OutputError: where the disk has no room for one as large as the network is now.
        """
        if self.trainer.step < self._loop.steps and not self._is_enough():
            remove_unfinished(self._output / CHECKPOINTS)  # of a process that was killed
            ensure_free_space(self._output, sum(tensor.nbytes for tensor in self.trainer.tensors().values()))

    def run(self, workers: int, told: Journal | None) -> None:
        """Step after step, with a look at the tuning set and a checkpoint now and then.

        Args:
            workers: processes that load batches where there is a GPU, for all that train on this machine.
            told: the journal; None in all processes but the first.
        """
        loop, trainer = self._loop, self.trainer
        on_gpu = self._device.type == "cuda"
        loader = DataLoader(
            self.batches(),
            batch_size=None,
            sampler=range(trainer.step, 0 if self._is_enough() else loop.steps),
            num_workers=share_of(workers) if on_gpu else 0,
            prefetch_factor=4 if on_gpu else None,
        )
        asked = time.perf_counter()
        for batch in loader:
            wait_s = time.perf_counter() - asked
            report = trainer.learn(batch)
            last = trainer.step == loop.steps
            if told:
                told.note(trainer.step, report, wait_s)
            looked = trainer.step % loop.evaluate_every == 0 or last
            if looked:
                self._look(told)
            enough = self._is_enough()
            # after each look too: resumed before it, a GPU may not choose again what was kept then
            if told and (trainer.step % loop.checkpoint_every == 0 or looked):
                save_checkpoint(self._output / CHECKPOINTS, trainer.step, asdict(self.kept), trainer.tensors())
            if enough:
                log.info("step %d  no better in %d looks: enough", trainer.step, self.kept.looks_since)
                break
            asked = time.perf_counter()

    def _is_enough(self) -> bool:
        """Whether the tuning set has waited long enough for something better."""
        return self._loop.patience is not None and self.kept.looks_since >= self._loop.patience

    def _look(self, told: Journal | None) -> None:
        """Score the tuning set, and keep the averaged network where it is the best so far, or where nobody chooses."""
        step, found = self.trainer.step, self.score()
        if found is not None:
            log.info("step %d  %s %.4f", step, self.score_name, found)
            if told:
                told.write({"step": step, self.score_name: found})
        if found is not None and self.kept.score is not None and found <= self.kept.score:
            self.kept = replace(self.kept, looks_since=self.kept.looks_since + 1)
            return
        self.kept = Kept(found, step)
        if told:
            self.keep(self._output / BEST)

    def draw_curves(self) -> None:
        """A picture of the training, from its first step to its last."""
        title = f"hgisam train {self.what}: {self.trainer.step:,} steps, kept at step {self.kept.step:,}"
        write_learning_curves(self._output / CURVES, read_rows(self._output), title)

    def record(self, state: str, **more: object) -> None:
        """Write the record of the run."""
        cohort: Cohort | None = self._cohort
        findings = [*([] if cohort is None else cohort.findings), *self._left_out]
        values = {
            "versions": {"hgisam": __version__, "torch": torch.__version__},
            "device": _named(self._device),
            "notice": NOTICE,
            "command": self._command,
            "state": state,
            "settings": self._settings,
            "cohort_sha256": None if cohort is None else cohort.sha256,
            "findings": [str(finding) for finding in findings],
        }
        write_json(self._output / RUN_RECORD, values | more)


def _named(device: torch.device) -> str:
    """Kind and hardware: "cpu: x86_64", "cuda: NVIDIA H100 80GB HBM3"."""
    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return f"{device.type}: {hardware}"


def carried_out(
    begin: Callable[[], Training[Network, Learned, Result]],
    loop: LoopOptions,
    settings: Mapping[str, Any],
    kind: type[BaseModel],
    output: Path,
    device: torch.device,
    *,
    n_units: int,
    units_setting: str,
    resume: bool,
    workers: int,
    show_progress: bool,
) -> Result | None:
    """Carry a training out, from its first step or its latest checkpoint to its end.

    Under torchrun, processes share every step and the first of them writes.

    Args:
        begin: makes the training; what it reads and prepares, the first process does before the others.
        loop: how long.
        settings: of the recipe; a run is gone on with under the same alone.
        kind: what they are the settings of.
        output: the run's folder.
        device: where to train.
        n_units: slices or stacks of slices by which processes share a step.
        units_setting: the name of the settings that say how many.
        resume: go on from the latest checkpoint there, if there is one.
        workers: processes that load batches where there is a GPU, for all that train on this machine.
        show_progress: draw a bar.

    Returns:
        What came of it; None in all processes but the first.

    Raises:
        InputError: where the folder holds another run, processes do not share it, or there are more of them than units.
        OutputError: where something cannot be written, or there is no room for it.
    """
    with joined(device), memory_kept(device):
        if n_units < n_processes():
            raise InputError(
                f"expected a step with a slice or a stack for each process; got {n_units} of them and {n_processes()} "
                f"processes; start fewer, or ask for more in {units_setting}"
            )
        if not rank():
            make_output_folder(output)
            _check_folder(output, settings, kind, resume=resume)
        training = begin()
        if resume:
            training.go_back_to_checkpoint()
            check_together(training.trainer.step)
        if rank():
            training.run(workers, None)
            training.trainer.leave()
            return None
        training.check_room()
        training.record("running")
        with journal(output, loop.steps, training.trainer.step, show=show_progress) as told:
            training.run(workers, told)
        training.trainer.leave()
    return training.finish()  # alone: the other processes are done


def check_together(step: int) -> None:
    """Stop before processes that do not stand at the same step learn together.

    Raises:
        InputError: where one of them found another checkpoint.
    """
    steps = shared_out(n_processes(), lambda _: step)
    if len(set(steps)) > 1:
        raise InputError(
            f"expected all processes to go on from one step; got {', '.join(map(str, steps))};"
            " the run's folder must be one that all machines share"
        )


def as_now(recorded: object, kind: type[BaseModel]) -> object:
    """Settings on record as they are recorded now: what did not exist then has its default, which changes nothing.

    Args:
        recorded: as a record has them.
        kind: what they are the settings of; where they are none of it, they come back as they are.
    """
    try:
        return kind.model_validate(recorded).model_dump(mode="json")
    except ValidationError:
        return recorded


def by_content(file: Path) -> str:
    """A file as records name it: by its name and what it holds; by its name alone where it cannot be read."""
    sha256 = file_sha256(file)
    return file.name if sha256 is None else f"{file.name} sha256 {sha256}"


def _check_folder(output: Path, settings: Mapping[str, Any], kind: type[BaseModel], *, resume: bool) -> None:
    """Stop before another run is overwritten, or gone on with under other settings.

    Raises:
        InputError: naming what is in the way.
    """
    before = own_record(output / RUN_RECORD)
    if not resume:
        if before or (output / RUN_RECORD).exists() or (output / BEST).exists():
            raise InputError(f"{output}: expected a folder without a run; got one; add --resume, or name another")
        return
    then = as_now(before.get("settings", settings), kind)
    changed = sorted(key for key in settings if not isinstance(then, dict) or then.get(key) != settings[key])
    if changed:
        raise InputError(
            f"{output}: expected the settings that the run began with; got others in {', '.join(changed)};"
            " resume with the same configuration, or name another folder"
        )
