"""One scan from file to result: the stages in order, a few lines each."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from pydantic import Field, ValidationError, model_validator
from torch import Tensor

from hgisam import __version__
from hgisam.brain import BrainOptions, VolumeDoubt, brain_median_hu, midsagittal_line
from hgisam.intake import Aspect, CheckedScan, Doubt, IntakeOptions, Scan, Stopwatch, check_scan
from hgisam.io.nifti import NiftiGrid
from hgisam.labels import Subtype
from hgisam.model.checkpoint import (
    LoadedSegmenter,
    LoadedWeights,
    Provenance,
    WeightsError,
    WeightsMetadata,
    default_weights_path,
    load_segmenter,
    load_weights,
)
from hgisam.plausibility import Plausibility
from hgisam.preprocess import PreprocessOptions, SliceBatch, preprocess
from hgisam.refine import Components, RefineMethod, Threshold, refine, remove_small_components
from hgisam.segment import (
    AggregationOptions,
    PoseOptions,
    WindowOptions,
    aggregate,
    agreed_over_slices,
    in_scan_context,
    plan_windows,
    score_windows,
    smooth_over_slices,
    stitch_stage_maps,
    to_log_odds,
)
from hgisam.supervised import StackOptions, voxel_probabilities
from hgisam.volume import CTVolume, MaskVolume
from hgisam.weak import AT_CONTRAST, HuThreshold, SelfAttention, WeakMethod
from hgisam.wording import counted

NO_NETWORK = "no network was asked: whatever is dense counts as blood, in every slice"
"""Told of every scan that a method without a network outlined."""

UNFINISHED = "the weights are of a training that has not come to its end: {}; finish it with --resume"
"""Told of every scan that such weights are asked about, with what it leaves undone."""

OUTLINE_CODE = (
    "attention.py", "brain/*.py", "intake.py", "io/*.py", "labels.py", "limits.py", "model/*.py", "pipeline.py",
    "plausibility.py", "preprocess.py", "refine/*.py", "segment.py", "supervised.py", "volume.py", "weak/*.py",
    "windowing.py",
)  # fmt: skip
"""What makes a mask: modules, as patterns within the package."""

DEFAULT_BATCH_SIZE = {"cpu": 4, "cuda": 64, "mps": 16}
"""Windows per pass by kind of device: on a CPU small batches stay in the cache, on a GPU large ones fill it."""


class SegmentOptions(IntakeOptions):
    """What a user may set for one run. What a network was trained with is stored with its weights instead."""

    gate: bool = True
    """Whether only slices at or above the operating point get a map; without the gate every slice with brain does."""
    scan_gate: float = Field(default=0.0, ge=0, le=1)
    """Scan probability from which slices get a map at all; 0 leaves it to the slices."""
    mirrored: bool = True
    """Whether each slice is scored a second time with left and right exchanged, and the two logits averaged."""
    operating_point: float | None = Field(default=None, ge=0, le=1)
    """Slice probability from which a slice counts as holding blood; None takes the weights' own."""
    threshold: float | None = Field(default=None, gt=0, le=1)
    """Saliency from which a voxel counts as blood, for refine.method 'threshold'; None takes the weights' own, or that
    of weak.contrast_hu with hu_threshold."""
    weak: WeakMethod = SelfAttention()
    """The method that makes the maps; `method` names it. hu_threshold asks no network: no gate is then the default, and
    a mask by refine.method 'threshold'. With `gate: true` a network says in which slices its maps count."""
    windows: WindowOptions = WindowOptions()
    """How windows cover slices larger than the network's field of view."""
    poses: PoseOptions = PoseOptions()
    """In which poses each window is mapped; hu_threshold knows none."""
    aggregation: AggregationOptions = AggregationOptions()
    """How stages, windows and slices become one map."""
    refine: RefineMethod = Components()
    """How the map becomes a mask; `method` names it."""

    @property
    def asks_network(self) -> bool:
        """Whether a network looks at the scan at all: for its slices' probabilities, or for a map too."""
        return self.gate or not isinstance(self.weak, HuThreshold)

    @model_validator(mode="before")
    @classmethod
    def _defaults_without_a_network(cls, given: Any) -> Any:
        weak = given.get("weak") if isinstance(given, dict) else None
        method = weak.get("method") if isinstance(weak, dict) else getattr(weak, "method", None)
        if method != HuThreshold().method:
            return given
        return {"gate": False, "refine": Threshold()} | given

    @model_validator(mode="after")
    def _threshold_is_used(self) -> Self:
        if self.threshold is not None and not isinstance(self.refine, Threshold):
            raise ValueError(
                f"expected no threshold with refine.method '{self.refine.method}', which cuts no map; got "
                f"{self.threshold}; set refine.method to 'threshold'"
            )
        return self

    @model_validator(mode="after")
    def _operating_point_has_a_network(self) -> Self:
        if self.operating_point is not None and not self.asks_network:
            raise ValueError(
                "expected no operating_point with weak.method 'hu_threshold' and without a gate, where no network is "
                f"asked; got {self.operating_point}; leave it out, or set gate: true"
            )
        return self

    @model_validator(mode="after")
    def _scan_gate_has_a_gate(self) -> Self:
        if self.scan_gate and not self.gate:
            raise ValueError(
                f"expected no scan_gate with gate: false; got {self.scan_gate}; leave it out, or set gate: true"
            )
        return self

    @model_validator(mode="after")
    def _poses_have_a_network(self) -> Self:
        if isinstance(self.weak, HuThreshold) and self.poses != PoseOptions():
            raise ValueError(
                "expected no poses with weak.method 'hu_threshold', which maps HU as they are; got "
                f"{self.poses.model_dump()}; leave them out"
            )
        return self


class SupervisedOptions(IntakeOptions):
    """What a user may set for one run with a network that learned from masks."""

    method: Literal["unet", "swin_unetr"] | None = None
    """The kind of network that the weights must be of; None takes any."""
    threshold: float | None = Field(default=None, gt=0, le=1)
    """Probability from which a voxel counts as blood; None takes the weights' own."""
    mirrored: bool = True
    """Whether the mean is taken with what the network says of the scan with left and right exchanged."""
    overlap: float = Field(default=0.5, ge=0, lt=1)
    """Share of a sliding window that its neighbour covers too."""
    min_component_mm3: float = Field(default=50.0, ge=0)
    """Components smaller than this are removed, as from the masks of other methods."""


class DeviceUnavailable(RuntimeError):
    """The device that was asked for is not there."""


@dataclass(frozen=True, eq=False)
class ClassificationResult:
    """What the network says of one scan. Slices are in the order of the input's own index along `slice_axis`.

    Attributes:
        ct: the scan, in house axes.
        grid: the input's own grid, to which everything here refers.
        probability: probability that the scan holds hemorrhage, in [0, 1]; None where no network was asked.
        slice_probabilities: the same per slice, in [0, 1]; 0 for slices without brain, NaN where no network was asked.
        subtype_probabilities: per subtype that the weights know, like slice_probabilities; else empty.
        slice_has_brain: which slices show brain and were looked at.
        slice_positions_mm: position of each slice along Superior.
        plausibility: verdict on the Hounsfield units.
        warnings: what the reader of the result should know.
        timings_s: seconds by stage.
        settings: every setting that led to the result.
        weights_sha256: of the weights file; None where no network was asked.
        operating_point: slice probability from which a slice counts as holding blood; None where no network was asked.
    """

    ct: CTVolume
    grid: NiftiGrid
    probability: float | None
    slice_probabilities: NDArray[np.float32]
    subtype_probabilities: dict[str, NDArray[np.float32]]
    slice_has_brain: NDArray[np.bool_]
    slice_positions_mm: NDArray[np.float64]
    plausibility: Plausibility
    warnings: tuple[str, ...]
    timings_s: dict[str, float]
    settings: dict[str, Any]
    weights_sha256: str | None
    operating_point: float | None

    @property
    def source(self) -> str:
        """Where the scan came from."""
        return self.ct.source

    @property
    def affine(self) -> NDArray[np.float64]:
        """The input's affine: voxel index -> RAS+ mm."""
        return self.grid.affine

    @property
    def slice_axis(self) -> int:
        """The input's axis that slices run along."""
        return self.grid.slice_axis

    @cached_property
    def settings_hash(self) -> str:
        """`hash_of` the settings: two results with one hash were made alike."""
        return hash_of(self.settings)


@dataclass(frozen=True, eq=False)
class SegmentationResult(ClassificationResult):
    """Where the blood is in one scan, and how much.

    Attributes:
        mask_volume: the mask in house axes.
        saliency_house: saliency in [0, 1] in house axes; zero in slices that the gate closed.
        region: the intracranial region in house axes.
        brain_median_hu: the scan's brain median, against which blood is dense.
        slice_gated: which slices got a map, in the order of the input's own index.
        volume_reason: why there is no volume; None where there is one.
        volume_doubts: of the warnings, those after which the volume is not to be taken as it is.
    """

    mask_volume: MaskVolume
    saliency_house: Float[Tensor, "depth height width"]
    region: Bool[Tensor, "depth height width"]
    brain_median_hu: float
    slice_gated: NDArray[np.bool_]
    volume_reason: str | None
    volume_doubts: tuple[Doubt, ...]

    @property
    def volume_is_lower_bound(self) -> bool:
        """Whether the scan leaves out part of the brain, slices that are missing from it included."""
        complete = self.ct.slices is None or self.ct.slices.complete
        return not complete or any(doubt.volume is VolumeDoubt.LOWER_BOUND for doubt in self.volume_doubts)

    @property
    def mask(self) -> NDArray[np.uint8]:
        """0 or 1, on exactly the input's grid and in its axes."""
        return self.grid.to_file(self.mask_volume.voxels.to(torch.uint8))

    @property
    def saliency(self) -> NDArray[np.float32]:
        """Saliency in [0, 1], on exactly the input's grid and in its axes."""
        return self.grid.to_file(self.saliency_house)

    @property
    def volume_ml(self) -> float | None:
        """Voxel count x |det(affine)| in mL, of DICOM the sum over slices of area x local spacing.

        None where it was not measured (see volume_reason).
        """
        return None if self.volume_reason else self.mask_volume.volume_ml


@dataclass(frozen=True, eq=False)
class Look:
    """A scan after preprocessing and one forward pass, where there is a network: what a `Segmenter` makes masks of.

    Slices are in house order.
    """

    checked: CheckedScan
    median_hu: float
    batch: SliceBatch | None
    slices: list[int]
    probabilities: Float[Tensor, " depth"]
    subtypes: dict[str, Float[Tensor, " depth"]]
    timings: Stopwatch

    @property
    def seen(self) -> SliceBatch:
        """The slices as the network is to see them.

        Raises:
            ValueError: where the look was taken without a network.
        """
        if self.batch is None:
            raise ValueError(f"{self.ct.source}: expected a look with a network; got one without; take another")
        return self.batch

    @property
    def ct(self) -> CTVolume:
        return self.checked.ct

    @property
    def grid(self) -> NiftiGrid:
        return self.checked.grid

    @property
    def region(self) -> Bool[Tensor, "depth height width"]:
        return self.checked.region


class _Loaded(ABC):
    """What is loaded once onto a device and used on any number of scans, also in another process."""

    device: torch.device
    batch_size: int
    _made_of: Callable[..., "_Loaded"]

    def __reduce__(self) -> tuple[Callable[..., "_Loaded"], tuple[()]]:
        """To another process it goes as what it was made of, which loads the weights there."""
        return self._made_of, ()

    def use_less_memory(self, *, allow_cpu: bool) -> str | None:
        """After the device ran out of memory: halve the windows per pass, else go to the CPU; from here on.

        Args:
            allow_cpu: whether to leave the device once one window per pass is too many.

        Returns:
            What is used now, in words; None where nothing could be changed.
        """
        if self.batch_size > 1:
            self.batch_size //= 2
            return f"a batch of {self.batch_size}"
        if not allow_cpu or self.device.type == "cpu" or not self._to_cpu():
            return None
        self.device = torch.device("cpu")
        self.batch_size = DEFAULT_BATCH_SIZE["cpu"]
        return "the CPU"

    @abstractmethod
    def _to_cpu(self) -> bool:
        """Move the network; whether there is one."""


class Segmenter(_Loaded):
    """A network and its settings, loaded once and used on any number of scans; settings alone where none is asked.

    Example:
        >>> from hgisam import Segmenter
        >>> result = Segmenter().segment("sample_volumes/intraparenchymal_large.nii.gz")
        >>> print(f"{result.volume_ml:.1f} ml")  # doctest: +SKIP
    """

    def __init__(
        self,
        weights: str | Path | None = None,
        *,
        options: SegmentOptions | None = None,
        device: str = "auto",
        batch_size: int | None = None,
    ) -> None:
        """Load the weights.

        Args:
            weights: a .safetensors file; None takes those that come with the package, where the method needs any.
            options: settings of the run.
            device: "auto" (the first GPU, else the CPU), "cpu", "cuda", "cuda:1" or "mps".
            batch_size: windows per pass; None takes the device's default.

        Raises:
            WeightsError: the file is missing, damaged or of another network, or the method needs none.
            DeviceUnavailable: the device is not there.
        """
        self.options = options or SegmentOptions()
        self.device = pick_device(device)
        self.batch_size = batch_size or DEFAULT_BATCH_SIZE[self.device.type]
        self._made_of = partial(type(self), weights, options=self.options, device=device, batch_size=batch_size)
        self._weights: LoadedWeights | None = None
        self._brain = BrainOptions()
        self.operating_point: float | None = None
        if not self.options.asks_network:
            if weights:
                raise WeightsError(
                    f"{weights}: expected no weights with '{self.options.weak.method}' and no gate; leave them out"
                )
            self.threshold = _threshold(self.options)
            return
        self._weights = load_weights(Path(weights) if weights else default_weights_path())
        self._model = self._weights.model.to(self.device).eval()
        metadata = self._weights.metadata
        with _known_settings():
            self._brain = BrainOptions.model_validate(metadata.brain)
            self._preprocess = PreprocessOptions.model_validate(metadata.preprocess)
        self.operating_point = _first(self.options.operating_point, metadata.operating_point)
        self.threshold = _threshold(self.options, metadata)

    def _to_cpu(self) -> bool:
        if self._weights is None:
            return False
        self._model = self._model.to("cpu")
        return True

    @property
    def weights(self) -> LoadedWeights:
        """The network and what is known of it.

        Raises:
            WeightsError: where the method asks no network.
        """
        if self._weights is None:
            raise WeightsError(
                f"expected a method with a network; got '{self.options.weak.method}', which has no probabilities; "
                "choose another, or set gate: true"
            )
        return self._weights

    def ensure_able(self, command: Literal["classify", "segment"]) -> None:
        """Whether this network and these settings can do what is asked, before any scan is touched.

        Raises:
            WeightsError: where they cannot.
        """
        weak = self.options.weak
        if command == "classify":
            _ = self.weights
        elif not isinstance(weak, HuThreshold):
            try:
                weak.check(self._model)
            except ValueError as error:
                raise WeightsError(f"weights for the method '{weak.method}': {error}; choose others") from error

    def check(self, scan: Scan) -> CheckedScan:
        """Whether a scan can be worked on, and what is wrong with it; the network is not asked.

        Raises:
            ScanRefused: the scan cannot be read or is no plausible head CT.
        """
        return check_scan(scan, self._brain, self.options)

    def classify(self, scan: Scan) -> ClassificationResult:
        """Probability of hemorrhage, for the scan and each slice.

        Raises:
            ScanRefused: the scan cannot be read or is no plausible head CT.
            WeightsError: the settings' method asks no network.
        """
        self.ensure_able("classify")
        return ClassificationResult(**self._classification(self.look(scan)))

    def segment(self, scan: Scan | Look) -> SegmentationResult:
        """Where the blood is, and how much. Nothing is written to disk.

        Args:
            scan: the scan, or what a segmenter of the same `eye` has seen of it.

        Raises:
            ScanRefused: the scan cannot be read or is no plausible head CT.
            WeightsError: the settings' method cannot look into this network.
        """
        self.ensure_able("segment")
        look = replace(scan, timings=scan.timings.copy()) if isinstance(scan, Look) else self.look(scan)
        gated, saliency = self._map(look)
        with look.timings.of("mask"):
            mask = refine(saliency, look.ct, look.region, look.median_hu, self.threshold, self.options.refine)
        classification = self._classification(look)
        closed_at = None if self._passes_scan_gate(look) else self.options.scan_gate
        unoutlined = _unoutlined(look, mask, _first(self.operating_point, 1.0), closed_at)
        classification["warnings"] += tuple(doubt.text for doubt in unoutlined)
        return SegmentationResult(
            **classification,
            mask_volume=mask,
            saliency_house=saliency,
            region=look.region,
            brain_median_hu=look.median_hu,
            slice_gated=_in_file_order(gated, look.grid).numpy(),
            volume_reason=_volume_reason(look),
            volume_doubts=_volume_doubts(look) + unoutlined,
        )

    @property
    def settings(self) -> dict[str, Any]:
        """Every setting that leads to a result, resolved, as plain values."""
        return {
            "version": __version__,
            "segment": self.options.model_dump(mode="json")
            | {"operating_point": self.operating_point, "threshold": self.threshold},
            "brain": self._brain.model_dump(mode="json"),
            "preprocess": self._preprocess.model_dump(mode="json") if self._weights else None,
            "weights_sha256": self._weights.sha256 if self._weights else None,
        }

    @property
    def eye(self) -> str:
        """What a look follows from: segmenters of one eye see a scan alike, whatever they make of it."""
        made_later = {"gate", "scan_gate", "operating_point", "threshold", "weak", "poses", "aggregation", "refine"}
        settings = self.settings
        return hash_of(settings | {"segment": {k: v for k, v in settings["segment"].items() if k not in made_later}})

    def with_options(self, options: SegmentOptions) -> "Segmenter":
        """Another one, which shares this one's network.

        Args:
            options: of a method that asks a network.

        Raises:
            WeightsError: where this one, or the method, asks none.
        """
        metadata = self.weights.metadata
        if not options.asks_network:
            raise WeightsError(f"expected a method with a network; got '{options.weak.method}'; make a new Segmenter")
        other = copy(self)
        other.options = options
        other._made_of = partial(self._made_of, options=options)
        other.operating_point = _first(options.operating_point, metadata.operating_point)
        other.threshold = _threshold(options, metadata)
        return other

    def look(self, scan: Scan) -> Look:
        """Read, check, preprocess, and one forward pass over every slice that shows brain.

        Raises:
            ScanRefused: the scan cannot be read or is no plausible head CT.
        """
        look = _prepared(scan, self.options, self._brain, self._preprocess if self._weights else None)
        if look.batch is None:
            return replace(look, probabilities=look.probabilities + torch.nan)
        with look.timings.of("classify"):
            probabilities, subtypes = self._probabilities(look.batch, look.slices)
        return replace(look, probabilities=probabilities, subtypes=subtypes)

    def _probabilities(
        self, batch: SliceBatch, slices: list[int]
    ) -> tuple[Float[Tensor, " depth"], dict[str, Float[Tensor, " depth"]]]:
        """Probability of `any` and of each known subtype.

        The highest over a slice's windows, smoothed over slices; then, as log-odds, seen in the context of the scan and
        divided by the temperature.
        """
        windows = self._windows(batch)

        def score(forward: Callable[[Tensor], Tensor]) -> Tensor:
            fov_px = self._preprocess.fov_px
            return score_windows(forward, batch.images, slices, windows, fov_px, self.batch_size, self.device)

        logits = score(self._model)
        if self.options.mirrored:
            logits = (logits + score(lambda images: self._model(images.flip(3)))) / 2
        by_window = self._model.probabilities(logits.flatten(0, 1))
        by_slice = by_window.reshape(len(slices), len(windows), -1).amax(dim=1)
        found: dict[str, Tensor] = {}
        for name, column in zip(self._model.targets, by_slice.unbind(dim=1), strict=True):
            found[name] = torch.zeros(len(batch.images))
            in_context = in_scan_context(to_log_odds(smooth_over_slices(column)), self.weights.metadata.scan_context)
            found[name][slices] = self.weights.metadata.calibrated(in_context).sigmoid().float()
        return found.pop(Subtype.ANY), found

    def _of_scan(self, look: Look) -> float:
        """Probability that the scan holds hemorrhage, from those of its slices."""
        return float(self.weights.metadata.scan_head(to_log_odds(look.probabilities[look.slices])).sigmoid())

    def _passes_scan_gate(self, look: Look) -> bool:
        return not self.options.scan_gate or self._of_scan(look) >= self.options.scan_gate

    def _windows(self, batch: SliceBatch) -> list[tuple[int, int]]:
        height, width = batch.images.shape[-2:]
        return plan_windows((height, width), self._preprocess.fov_px, self.options.windows)

    def _map(self, look: Look) -> tuple[Bool[Tensor, " depth"], Float[Tensor, "depth height width"]]:
        """Which slices pass the gate, and the saliency of the scan on its own grid."""
        gated = torch.zeros(len(look.ct.hu), dtype=torch.bool)
        gated[look.slices] = True
        weak = self.options.weak
        if self.options.gate:
            gated &= look.probabilities >= _first(self.operating_point, 1.0)
            gated &= self._passes_scan_gate(look)
        if isinstance(weak, HuThreshold):
            with look.timings.of("map"):
                maps = weak(look.ct.hu, look.region, look.median_hu, look.ct.spacing_mm[1:])
                return gated, maps * gated[:, None, None]
        batch = look.seen

        def stage_maps(images: Tensor) -> tuple[Tensor, list[Tensor]]:
            """Calibrated log-odds of each window, and its raw saliency by stage."""
            log_odds, stages = weak.stage_maps(self._model, images)
            return log_odds / self.weights.metadata.temperature, stages  # of the scan's windows, not of patients

        chosen = torch.nonzero(gated).flatten().tolist()
        with look.timings.of("map"):
            stages = stitch_stage_maps(
                stage_maps,
                batch.images,
                batch.region,
                chosen,
                self._windows(batch),
                self._preprocess.fov_px,
                self.batch_size,
                self.device,
                self.options.windows,
                comparable=self.options.aggregation.normalisation == "volume",
                poses=self.options.poses,
            )
            canvas = torch.zeros(batch.region.shape)
            together = self.options.aggregation
            canvas[chosen] = aggregate(stages, batch.region[chosen], together, weak.combination)
            if together.normalisation == "volume":
                at_mm = look.ct.slice_distances_mm[look.slices]
                canvas[look.slices] = agreed_over_slices(canvas[look.slices], at_mm, together.neighbours_mm)
        with look.timings.of("restore"):
            saliency = batch.to_native(canvas).clamp_(0.0, 1.0).mul_(look.region)
        return gated, saliency

    @property
    def _doubts(self) -> tuple[str, ...]:
        """What speaks against these weights, or the want of any, whatever the scan."""
        if self._weights is None:
            return (NO_NETWORK,)
        return _unfinished(self._weights.metadata, "neither probabilities nor the operating point are calibrated")

    def _classification(self, look: Look) -> dict[str, Any]:
        """The fields of a ClassificationResult."""
        return {
            **_fields(look),
            "probability": self._of_scan(look) if self._weights else None,
            "warnings": (*look.checked.warnings, *self._doubts),
            "settings": self.settings,
            "weights_sha256": self._weights.sha256 if self._weights else None,
            "operating_point": self.operating_point,
        }


class MaskSegmenter(_Loaded):
    """A network that learned from masks, loaded once and used on any number of scans: no gate, no saliency.

    It reads, checks and prepares scans as `Segmenter` does, says of each voxel of every slice with brain how likely it
    is blood, and its result is of the same type. There, `saliency` is that probability; a slice's probability is its
    highest voxel's, the scan's its highest slice's, and the operating point is the voxels' threshold: a slice is
    positive where a voxel of it is. None of them is calibrated.
    """

    def __init__(
        self,
        weights: str | Path,
        *,
        options: SupervisedOptions | None = None,
        device: str = "auto",
        batch_size: int | None = None,
    ) -> None:
        """Load the weights. Arguments as for `Segmenter`, but that no weights come with the package.

        Raises:
            WeightsError: the file is missing, damaged, of a classifier, or of another network than the options say.
            DeviceUnavailable: the device is not there.
        """
        self.options = options or SupervisedOptions()
        self.device = pick_device(device)
        self.batch_size = batch_size or DEFAULT_BATCH_SIZE[self.device.type]
        self._made_of = partial(type(self), weights, options=self.options, device=device, batch_size=batch_size)
        self.weights: LoadedSegmenter = load_segmenter(Path(weights))
        metadata = self.weights.metadata
        kind = metadata.architecture.kind
        if self.options.method not in {None, kind}:
            raise WeightsError(f"{weights}: expected weights of a {self.options.method}; got a {kind}; use that method")
        with _known_settings():
            self._brain = BrainOptions.model_validate(metadata.brain)
            self._preprocess = PreprocessOptions.model_validate(metadata.preprocess)
            self._stack = StackOptions.model_validate(metadata.stack)
        self._network = self.weights.model.to(self.device).eval()
        self.threshold = _first(self.options.threshold, metadata.threshold)

    def _to_cpu(self) -> bool:
        self._network = self._network.to("cpu")
        return True

    def check(self, scan: Scan) -> CheckedScan:
        """Whether a scan can be worked on, as `Segmenter.check` says."""
        return check_scan(scan, self._brain, self.options)

    def segment(self, scan: Scan) -> SegmentationResult:
        """Where the blood is, and how much. Nothing is written to disk.

        Raises:
            ScanRefused: the scan cannot be read or is no plausible head CT.
        """
        look = _prepared(scan, self.options, self._brain, self._preprocess)
        batch = look.seen
        canvas = torch.zeros(batch.region.shape)
        with look.timings.of("map"):
            canvas[look.slices] = voxel_probabilities(
                self._network,
                batch.relative_hu[look.slices],
                batch.region[look.slices],
                look.ct.slice_distances_mm[look.slices],
                look.median_hu,
                self._preprocess,
                self._stack,
                overlap=self.options.overlap,
                mirrored=self.options.mirrored,
                batch_size=self.batch_size,
            )
        with look.timings.of("restore"):
            blood = batch.to_native(canvas).clamp_(0.0, 1.0)
        with look.timings.of("mask"):
            voxel_mm3 = 1000.0 * look.ct.slice_voxel_ml
            voxels = remove_small_components(blood >= self.threshold, voxel_mm3, self.options.min_component_mm3)
            mask = MaskVolume(voxels, look.ct.affine, look.ct.source, look.ct.slices)
        look = replace(look, probabilities=blood.amax(dim=(1, 2)))
        fields = _fields(look)
        unoutlined = _unoutlined(look, mask, self.threshold)
        fields["warnings"] += tuple(doubt.text for doubt in unoutlined)
        fields["warnings"] += _unfinished(self.weights.metadata, "better ones may follow")
        return SegmentationResult(
            **fields,
            probability=float(blood.max()),
            settings=self.settings,
            weights_sha256=self.weights.sha256,
            operating_point=self.threshold,
            mask_volume=mask,
            saliency_house=blood,
            region=look.region,
            brain_median_hu=look.median_hu,
            slice_gated=fields["slice_has_brain"],
            volume_reason=_volume_reason(look),
            volume_doubts=_volume_doubts(look) + unoutlined,
        )

    @property
    def settings(self) -> dict[str, Any]:
        """Every setting that leads to a result, resolved, as plain values."""
        return {
            "version": __version__,
            "supervised": self.options.model_dump(mode="json")
            | {"method": self.weights.metadata.architecture.kind, "threshold": self.threshold},
            "brain": self._brain.model_dump(mode="json"),
            "preprocess": self._preprocess.model_dump(mode="json"),
            "stack": self._stack.model_dump(mode="json"),
            "weights_sha256": self.weights.sha256,
        }


def _prepared(scan: Scan, options: IntakeOptions, brain: BrainOptions, preprocessing: PreprocessOptions | None) -> Look:
    """Read, check and find the brain; lay slices on the canvas, where a network is to see them."""
    timings = Stopwatch()
    checked = check_scan(scan, brain, options, timings)
    ct, region = checked.ct, checked.region
    slices = torch.nonzero(region.any(dim=2).any(dim=1)).flatten().tolist()
    with timings.of("preprocess"):
        median_hu = brain_median_hu(ct, region)
        batch = None
        if preprocessing is not None:
            batch = preprocess(ct, region, midsagittal_line(ct, region, brain), median_hu, preprocessing)
    return Look(checked, median_hu, batch, slices, torch.zeros(len(ct.hu)), {}, timings)


def _unfinished(metadata: Provenance, undone: str) -> tuple[str, ...]:
    """The doubt about weights of a training that was stopped, with what it leaves undone; of others none."""
    return () if metadata.finished else (UNFINISHED.format(undone),)


def _fields(look: Look) -> dict[str, Any]:
    """The fields of a ClassificationResult that do not depend on who looked."""
    has_brain = torch.zeros(len(look.ct.hu), dtype=torch.bool)
    has_brain[look.slices] = True
    return {
        "ct": look.ct,
        "grid": look.grid,
        "slice_probabilities": _in_file_order(look.probabilities, look.grid).numpy(),
        "subtype_probabilities": {k: _in_file_order(v, look.grid).numpy() for k, v in look.subtypes.items()},
        "slice_has_brain": _in_file_order(has_brain, look.grid).numpy(),
        "slice_positions_mm": _in_file_order(look.ct.slice_positions_mm, look.grid).numpy(),
        "plausibility": look.checked.plausibility,
        "warnings": look.checked.warnings,
        "timings_s": look.timings.seconds,
    }


@contextmanager
def _known_settings() -> Iterator[None]:
    """Settings stored with weights are those that this version knows.

    Raises:
        WeightsError: where they are not.
    """
    try:
        yield
    except ValidationError as error:
        what = "; ".join(f"{'.'.join(map(str, found['loc']))}: {found['msg']}" for found in error.errors())
        raise WeightsError(f"expected weights made with settings that this version knows; got {what}") from error


def hash_of(settings: dict[str, Any]) -> str:
    """sha256 of settings in canonical JSON."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def pick_device(name: str) -> torch.device:
    """The device of a name; "auto" is the first GPU where there is one, else the CPU.

    Raises:
        DeviceUnavailable: the name is unknown or the device is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n", 1)[0]
        raise DeviceUnavailable(f"expected a device that is there; got {name!r} ({reason}); try cpu") from error
    if device.type not in DEFAULT_BATCH_SIZE:
        raise DeviceUnavailable(f"expected cpu, cuda or mps; got {name!r}; try auto")
    return device


def _volume_reason(look: Look) -> str | None:
    """Why a scan's volume is not measured; None where it is."""
    if look.ct.slice_voxel_ml.isnan().any():
        return "the scan is one slice whose thickness is not stated, so nothing was measured"
    return None


def _volume_doubts(look: Look) -> tuple[Doubt, ...]:
    """What the scan itself says against its volume."""
    return tuple(doubt for doubt in look.checked.doubts if doubt.volume is not None)


def _unoutlined(
    look: Look, mask: MaskVolume, operating_point: float, closed_at: float | None = None
) -> tuple[Doubt, ...]:
    """That an empty mask is none of a scan without blood, where slices are positive.

    Args:
        closed_at: the scan gate, where the scan does not pass it.
    """
    n_positive = int((look.probabilities[look.slices] >= operating_point).sum())
    if not n_positive or mask.voxels.any():
        return ()
    why = "nothing could be outlined"
    if closed_at is not None:
        why = f"the scan's probability is below the scan gate, {closed_at:g}: nothing is outlined"
    text = f"{counted(n_positive, 'slice is', 'slices are')} at or above the operating point, but {why}"
    return (Doubt(Aspect.HU, text, VolumeDoubt.UNSURE),)


def _in_file_order(values: Tensor, grid: NiftiGrid) -> Tensor:
    return values.flip(0) if grid.orientation.flips[0] else values


def _threshold(options: SegmentOptions, metadata: WeightsMetadata | None = None) -> float:
    """Saliency from which a voxel counts: as set, else what goes with the maps, HU's own or the network's."""
    if metadata is None or isinstance(options.weak, HuThreshold):
        return _first(options.threshold, AT_CONTRAST)
    return _first(options.threshold, metadata.threshold)


def _first(*values: float | None) -> float:
    return next(value for value in values if value is not None)
