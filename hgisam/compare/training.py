"""Methods that are trained for the comparison: one training per fold, on patients of the other folds alone.

Classifiers and segmenters, each by the function that `hgisam train` calls.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hgisam.cases import own_record
from hgisam.outputs import RUN_RECORD
from hgisam.pipeline import pick_device
from hgisam.train.layouts import read_cohort
from hgisam.train.recipe import TrainOptions, recorded_settings, train_classifier
from hgisam.train.segmenter_recipe import SegmenterTrainOptions, recorded_segmenter_settings, train_segmenter
from hgisam.train.splits import Role, load_splits
from hgisam.train.training import BEST, SPLITS


def trained_weights(
    options: TrainOptions | SegmenterTrainOptions,
    data: Path,
    run: Path,
    tested: frozenset[str],
    *,
    cache: Path,
    device: str,
    workers: int,
) -> Path:
    """The weights of one fold: those that lie in the run's folder if its training is done, else newly learned.

    A training that was stopped goes on from its latest checkpoint.

    Args:
        options: the recipe of a classifier or a segmenter, with the comparison's folds and this fold.
        data: the comparison's scans, with their slice labels and, for a segmenter, masks.
        run: the training's folder.
        tested: the patients whom the comparison judges in this fold.
        cache: where prepared scans are kept, for all trainings of the comparison that see them alike.
        device: where to train.
        workers: processes that prepare.

    Raises:
        InputError: where the run's folder holds a training with other settings.
        ValueError: where the training's own division would have taught it a patient that it is to be judged on.
    """
    train: Callable[..., object] = train_classifier
    before = own_record(run / RUN_RECORD)
    recorded = before.get("settings")
    if isinstance(options, SegmenterTrainOptions):
        train, settings = train_segmenter, recorded_segmenter_settings(options)
        recorded = _as_now(recorded)
    else:
        settings = recorded_settings(options)
    done = before.get("state") == "finished" and recorded == settings
    if not (done and (run / BEST).is_file()):
        train(
            options,
            data,
            run,
            resume=bool(before),
            cache=cache,
            workers=workers,
            device=pick_device(device),
            command=f"hgisam compare, fold {options.split.fold}",
        )
    splits = load_splits(run / SPLITS, read_cohort(data, options.layout))
    judged = splits.folds[options.split.fold].patients(Role.TEST)
    if judged != tested:
        raise ValueError(
            f"{run.name}: expected {len(tested)} patients kept for judging; the training kept {len(judged)} others"
        )
    return run / BEST


def _as_now(recorded: Any) -> Any:
    """A segmenter's settings on record, with the default of each that did not exist then: defaults change nothing."""
    try:
        return recorded_segmenter_settings(SegmenterTrainOptions.model_validate(recorded))
    except ValidationError:
        return recorded
