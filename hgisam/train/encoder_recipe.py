"""An encoder's training without labels in one set of options: scans in, weights for a classifier to begin with out."""

import logging
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, model_validator

from hgisam import __version__
from hgisam.brain import BrainOptions
from hgisam.evaluate.figures import write_hidden_pictures
from hgisam.io.errors import InputError
from hgisam.model.checkpoint import EncoderMetadata, save_weights
from hgisam.model.classifier import ClassifierOptions
from hgisam.model.masked_swin import MaskedSwin
from hgisam.model.swin import SwinOptions
from hgisam.preprocess import PreprocessOptions
from hgisam.train.augment import AugmentOptions
from hgisam.train.cohort import Cohort, Finding
from hgisam.train.hiding import HiddenBatch, HiddenBatches, HiddenObjective, HidingOptions
from hgisam.train.layouts import LayoutName, read_cohort
from hgisam.train.loop import LoopOptions, Trainer
from hgisam.train.prepared import header_index, prepare_cohort
from hgisam.train.processes import first_process_first, n_processes, rank
from hgisam.train.training import (
    BEST,
    Kept,
    SplitOptions,
    Training,
    carried_out,
    check_channels,
    fold_of,
    taught_by,
)

log = logging.getLogger(__name__)

PICTURES = "hidden.png"


class EncoderTrainOptions(BaseModel):
    """What the network is, what it sees, what is hidden from it, and how it learns."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    brain: BrainOptions = BrainOptions()
    """How the intracranial region is found."""
    preprocess: PreprocessOptions = PreprocessOptions()
    """What the network sees."""
    classifier: ClassifierOptions = ClassifierOptions(swin=SwinOptions(in_channels=2, stem="deep", drop_path=0.1))
    """The classifier that is to begin with the encoder; of its head nothing counts."""
    layout: LayoutName | Literal["auto"] = "auto"
    """How the data are laid out."""
    split: SplitOptions = SplitOptions()
    """Whose slices are shown: those of the training patients alone. Nobody chooses, the last network is kept, so that
    tuning patients are for the classifier that is to have the same split; tuning_share 0 shows all."""
    hiding: HidingOptions = HidingOptions()
    """What a step shows and hides."""
    augmentation: AugmentOptions = AugmentOptions(noise_hu=0.0, blur_px=0.0)
    """How slices are changed; noise would have to be said, too."""
    loop: LoopOptions = LoopOptions()
    """How the parameters are found."""
    licence: str = "Apache-2.0"
    """Of the weights, as an SPDX identifier; what the data demand goes before what one would like."""

    @model_validator(mode="after")
    def _network_fits(self) -> "EncoderTrainOptions":
        swin, hidden_px = self.classifier.swin, self.hiding.hidden_px
        check_channels(self.preprocess, swin.in_channels)
        if swin.img_size != self.preprocess.fov_px:
            raise ValueError(
                f"expected a network for preprocess.fov_px {self.preprocess.fov_px}; got img_size {swin.img_size}"
            )
        if hidden_px % swin.patch_size or swin.img_size % hidden_px:
            raise ValueError(
                f"expected hiding.hidden_px to be patches of {swin.patch_size} px and to divide {swin.img_size} px;"
                f" got {hidden_px}"
            )
        if self.loop.freeze_steps:
            raise ValueError(f"expected loop.freeze_steps 0, since no head waits; got {self.loop.freeze_steps}")
        return self


@dataclass(frozen=True, eq=False)
class TrainedEncoder:
    """What came of a training.

    Attributes:
        weights: the file with the encoder.
        kept: when it was kept.
    """

    weights: Path
    kept: Kept


def train_encoder(
    options: EncoderTrainOptions,
    data: Path,
    output: Path,
    *,
    resume: bool = False,
    cache: Path | None = None,
    workers: int = 1,
    device: torch.device | None = None,
    command: str = "",
    show_progress: bool = False,
) -> TrainedEncoder | None:
    """Train an encoder on scans, whatever their labels, and leave in `output` what `train_classifier` leaves, but for
    what judges, and a picture of what was hidden and what the network says was there.

    Args:
        options: the recipe.
        data: a folder that `read_cohort` knows; labels are read, and not learned from.
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
        InputError: where the folder holds another run, or no slice shows enough brain.
        CohortRefused: where the data cannot be trusted.
        OutputError: where something cannot be written.
    """
    device = device or torch.device("cpu")

    def begin() -> _EncoderTraining:
        with first_process_first():
            folder = cache or output / "cache"
            cohort = read_cohort(data, options.layout, workers=workers, index=header_index(folder))
            cohort.log_summary()
            learned = taught_by(fold_of(options.split, cohort, output), options.split, cohort)
            prepared = prepare_cohort(cohort.without_references(), options.brain, options.preprocess, folder, workers)
        try:
            batches = HiddenBatches(
                prepared,
                learned,
                options.preprocess,
                options.hiding,
                options.augmentation,
                options.loop.seed,
                rank=rank(),
                n_processes=n_processes(),
            )
        except ValueError as error:
            raise InputError(f"{data}: expected slices that show brain; got none of training patients") from error
        log.info("%d slices of %d patients", batches.n_slices, batches.n_patients)
        return _EncoderTraining(options, cohort, batches, prepared.findings, output, device, command)

    return carried_out(
        begin,
        options.loop,
        options.model_dump(mode="json"),
        EncoderTrainOptions,
        output,
        device,
        n_units=options.hiding.slices,
        units_setting="train_encoder.hiding.slices",
        resume=resume,
        workers=workers,
        show_progress=show_progress,
    )


class _EncoderTraining(Training[MaskedSwin, HiddenBatch, TrainedEncoder]):
    """An encoder's training."""

    what = "encoder"
    score_name = "none"

    def __init__(
        self,
        options: EncoderTrainOptions,
        cohort: Cohort,
        batches: HiddenBatches,
        left_out: tuple[Finding, ...],
        output: Path,
        device: torch.device,
        command: str,
    ) -> None:
        self._options, self._batches = options, batches
        torch.manual_seed(options.loop.seed)
        trainer = Trainer(MaskedSwin(options.classifier), options.loop, HiddenObjective(), device)
        settings = options.model_dump(mode="json")
        super().__init__(trainer, options.loop, settings, cohort, left_out, output, command, device)

    def batches(self) -> HiddenBatches:
        """Slices of which parts are hidden."""
        return self._batches

    def score(self) -> None:
        """Nobody chooses."""

    def keep(self, path: Path) -> None:
        """Write the averaged encoder."""
        save_weights(path, self.trainer.averaged, self._metadata(finished=False), half=True)

    def finish(self) -> TrainedEncoder:
        """Draw what there is to see, and let the weights say that their training has come to its end."""
        self.draw_curves()
        batch = self._batches[0].to(self._device)
        with torch.inference_mode():
            said = self.trainer.averaged(batch.images, batch.hidden)
        said = torch.where(batch.asked[:, None], said, batch.images)
        write_hidden_pictures(
            self._output / PICTURES, *(planes[:, 0].cpu() for planes in (batch.wanted, batch.images, said))
        )
        path = self._output / BEST
        save_weights(path, self.trainer.averaged, self._metadata(finished=True), half=True)
        self.record("finished", kept=asdict(self.kept))
        return TrainedEncoder(path, self.kept)

    def _metadata(self, *, finished: bool) -> EncoderMetadata:
        """What is stored with the weights. No name of a patient, file or folder."""
        options, cohort = self._options, self._cohort
        of_cohort = "" if cohort is None else f" ({cohort.layout}, cohort {cohort.sha256[:12]})"
        return EncoderMetadata(
            architecture=options.classifier,
            brain=options.brain.model_dump(mode="json"),
            preprocess=options.preprocess.model_dump(mode="json"),
            data=f"slices of {self._batches.n_patients} patients without their labels{of_cohort}",
            command=self._command,
            seed=options.loop.seed,
            created=datetime.now(UTC).replace(microsecond=0),
            version=__version__,
            licence=options.licence,
            finished=finished,
        )
