"""Methods that are trained for the comparison: one training per fold, on patients of the other folds alone.

Classifiers and segmenters, each by the function that `hgisam train` calls.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path

import torch

from hgisam import __version__
from hgisam.cases import own_record
from hgisam.compare.data import ComparedData
from hgisam.io.atomic import make_output_folder, set_aside
from hgisam.io.tables import write_json
from hgisam.outputs import RUN_RECORD
from hgisam.pipeline import pick_device
from hgisam.processes import side_by_side
from hgisam.train.layouts import read_cohort
from hgisam.train.recipe import TrainOptions, recorded_settings, train_classifier
from hgisam.train.segmenter_recipe import SegmenterTrainOptions, recorded_segmenter_settings, train_segmenter
from hgisam.train.splits import Role, load_splits
from hgisam.train.training import BEST, SPLITS, as_now

log = logging.getLogger(__name__)

TAUGHT_ON = "taught_on.json"
"""In a run's folder: by what content it was begun."""


@dataclass(frozen=True)
class TrainingEnd:
    """How the training of one fold ended.

    Attributes:
        fold: which.
        score: what the tuning set says of the network that was kept; None where nobody chose.
        kept_step: at which it was kept.
        steps: that were made.
        allowed: steps that the recipe allows.
    """

    fold: int
    score: float | None
    kept_step: int
    steps: int
    allowed: int


@dataclass(frozen=True)
class FoldTraining:
    """The training of one fold.

    Attributes:
        options: the recipe of a classifier or a segmenter, with the comparison's folds and this fold.
        data: the comparison's scans, with their slice labels and, for a segmenter, masks.
        run: the training's folder.
        tested: the patients whom the comparison judges in this fold.
        cache: where prepared scans are kept, for all trainings of the comparison that see them alike.
        device: where to train.
        taught_on: what `content_of_lessons` says of what it may learn from.
    """

    options: TrainOptions | SegmenterTrainOptions
    data: Path
    run: Path
    tested: frozenset[str]
    cache: Path
    device: str
    taught_on: str

    @property
    def finished(self) -> bool:
        """Whether the run's folder holds the weights and splits of a training of which nothing has changed since."""
        state = own_record(self.run / RUN_RECORD).get("state")
        return state == "finished" and not self.changed and all((self.run / name).is_file() for name in (BEST, SPLITS))

    @property
    def changed(self) -> tuple[str, ...]:
        """What is other now than for the training in the run's folder; empty where nothing is, or none has begun."""
        record = own_record(self.run / RUN_RECORD)
        if not record:
            return ()
        if isinstance(self.options, SegmenterTrainOptions):
            settings = recorded_segmenter_settings(self.options)
        else:
            settings = recorded_settings(self.options)
        same = {
            "version of hgisam": record.get("versions", {}).get("hgisam") == __version__,
            "settings": as_now(record.get("settings"), type(self.options)) == settings,
            "data": own_record(self.run / TAUGHT_ON).get("sha256") == self.taught_on,
        }
        return tuple(what for what, is_same in same.items() if not is_same)

    @property
    def end(self) -> TrainingEnd:
        """How it ended, once it is finished."""
        kept, loop = own_record(self.run / RUN_RECORD)["kept"], self.options.loop
        steps = loop.steps
        if loop.patience is not None and kept["looks_since"] >= loop.patience:
            steps = min(steps, kept["step"] + kept["looks_since"] * loop.evaluate_every)
        return TrainingEnd(self.options.split.fold, kept["score"], kept["step"], steps, loop.steps)

    def weights(self, workers: int) -> Path:
        """The weights that lie in the run's folder if its training is done, else newly learned.

        A training that was stopped goes on from its latest checkpoint; one of another version of hgisam, by other
        settings or on other data is set aside, and begun anew.

        Args:
            workers: processes that prepare.

        Raises:
            InputError: where the data are not what the recipe needs.
            OutputError: where something cannot be written or set aside.
            ValueError: where the training's own division would have taught it a patient that it is to be judged on.
        """
        if not self.finished:
            self._begin()
            segmenter = isinstance(self.options, SegmenterTrainOptions)
            train: Callable[..., object] = train_segmenter if segmenter else train_classifier
            train(
                self.options,
                self.data,
                self.run,
                resume=bool(own_record(self.run / RUN_RECORD)),
                cache=self.cache,
                workers=workers,
                device=pick_device(self.device),
                command=f"hgisam compare, fold {self.options.split.fold}",
            )
        splits = load_splits(self.run / SPLITS, read_cohort(self.data, self.options.layout))
        judged = splits.folds[self.options.split.fold].patients(Role.TEST)
        if judged != self.tested:
            raise ValueError(
                f"{self.run.name}: expected {len(self.tested)} patients kept for judging; the training kept "
                f"{len(judged)} others"
            )
        return self.run / BEST

    def _begin(self) -> None:
        """Make the run's folder ready for a training of what is asked for now.

        Raises:
            OutputError: where it cannot be.
        """
        changed = self.changed
        if changed:
            aside = set_aside(self.run, (f"{self.run.name}_old_{n}" for n in count(1)))
            log.warning(
                "%s: begun anew: other %s than before; that training is now %s",
                self.run, ", other ".join(changed), aside.name,
            )  # fmt: skip
        make_output_folder(self.run)
        write_json(self.run / TAUGHT_ON, {"hgisam_version": __version__, "sha256": self.taught_on})


def content_of_lessons(
    data: ComparedData, options: TrainOptions | SegmenterTrainOptions, tested: frozenset[str]
) -> str:
    """sha256 of all that a training may learn from: everybody's labels, by which patients are dealt too, and voxels of
    those who are not tested; with their masks, where the recipe reads masks."""
    with_masks = isinstance(options, SegmenterTrainOptions) and options.own_masks is None
    taught = [
        (one.name, one.voxels_sha256, one.reference_sha256 if with_masks else None)
        for one in data.lessons
        if one.patient not in tested
    ]
    return hashlib.sha256(json.dumps([data.cohort_sha256, taught]).encode()).hexdigest()


def train_side_by_side(trainings: Sequence[FoldTraining], workers: int) -> None:
    """Trainings that are not finished, so many at a time, each in a process of its own and with its share of threads.

    One that fails is logged, and left for who needs its weights to try and tell.
    """
    left = [training for training in trainings if not training.finished]
    at_once = min(workers, len(left))
    if at_once > 1:
        side_by_side(partial(_train, threads=max(1, torch.get_num_threads() // at_once)), left, at_once)


def _train(training: FoldTraining, threads: int) -> None:
    torch.set_num_threads(threads)
    training.weights(workers=1)
