"""What a step learns from: balanced, painted and augmented batches, each of which follows from its step alone."""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int16
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor
from torch.utils.data import Dataset

from hgisam.labels import ANY_COLUMN, Subtype
from hgisam.preprocess import PreprocessOptions, neighbour_rows, network_images
from hgisam.train.augment import AugmentOptions, SliceChanger
from hgisam.train.batch import Batch
from hgisam.train.cohort import Finding, Findings, Trouble
from hgisam.train.deck import Deck
from hgisam.train.painting import PaintingOptions, carry_over, paint_distractor, paint_slice
from hgisam.train.prepared import HU_STEP, PreparedScan, PreparedScans

MAX_TRIES = 20
"""So many slices are tried for a bleed before a slice is shown without one."""


class SamplingOptions(BaseModel):
    """What a step learns from: so many slices of each kind, over all processes together."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    positive: int = Field(default=0, ge=0)
    """Slices of patients that are labelled as holding blood."""
    painted: int = Field(default=0, ge=0)
    """Slices of patients without blood into which a bleed is painted."""
    painted_twins: int = Field(default=0, ge=0)
    """So many of them come with the same slice before it was painted."""
    hard_negative: int = Field(default=0, ge=0)
    """Slices without blood into which something else that is dense is painted: calcium, falx, sinus, skull edge."""
    negative: int = Field(default=0, ge=0)
    """Slices of patients that are labelled as holding none."""
    phantom_positive: int = Field(default=0, ge=0)
    """Slices of phantoms with blood."""
    phantom_twins: int = Field(default=0, ge=0)
    """So many of them come with the same slice before the head bled, where the head has a twin."""
    phantom_negative: int = Field(default=0, ge=0)
    """Other slices of phantoms without blood."""
    start_difficulty: float = Field(default=0.0, ge=0, le=1)
    """How hard painted bleeds and phantoms are at first: 0 for large and bright ones only, 1 for all."""
    easing_steps: int = Field(default=600, ge=0)
    """Steps over which that grows to 1; 0 shows all from the start."""
    easy_share: float = Field(default=0.3, gt=0, le=1)
    """Share of the phantoms' positive slices (those whose blood shows most) that difficulty 0 stands for."""
    balance_subtypes: bool = False
    """Show rare subtypes as often as common ones, for networks that tell subtypes apart."""
    min_blood_mm2: float = Field(default=10.0, gt=0)
    """Blood in a phantom's slice from which it counts as positive; slices with less, but some, are never shown."""
    min_region_mm2: float = Field(default=300.0, ge=0)
    """Slices with less brain than this are never shown."""

    @model_validator(mode="after")
    def _is_sound(self) -> "SamplingOptions":
        if self.painted_twins > self.painted or self.phantom_twins > self.phantom_positive:
            raise ValueError("expected at most one twin for each painted slice and each positive slice of phantoms")
        return self

    @property
    def n_units(self) -> int:
        """Slices in a step, twins not counted: by these, processes share it."""
        return sum(count for _, count in self.counts)

    @property
    def n_images(self) -> int:
        """Images in a step."""
        return self.n_units + self.painted_twins + self.phantom_twins

    @property
    def counts(self) -> tuple[tuple[str, int], ...]:
        """Each kind of slice and how many of it, twins not counted."""
        kinds = ("positive", "painted", "hard_negative", "negative", "phantom_positive", "phantom_negative")
        return tuple((kind, getattr(self, kind)) for kind in kinds)

    def of_patients(self) -> bool:
        """Whether slices of patients are wanted."""
        return self.positive + self.painted + self.hard_negative + self.negative > 0

    def of_phantoms(self) -> bool:
        """Whether slices of phantoms are wanted."""
        return self.phantom_positive + self.phantom_negative > 0

    def difficulty(self, step: int) -> float:
        """How hard a step is, from 0 to 1."""
        eased = min(1.0, step / self.easing_steps) if self.easing_steps else 1.0
        return self.start_difficulty + (1.0 - self.start_difficulty) * eased


@dataclass(frozen=True, eq=False)
class TrainingBatch(Batch):
    """Images in [0, 1], what is known of each, and where blood is.

    Attributes:
        images: what the network sees.
        labels: which of `hgisam.labels.Subtype` each shows.
        known: of which that is known.
        blood: where it is; nowhere where that is not traced.
        traced: whether it is: painted blood, phantoms, and slices that hold none. Never a human's mask.
    """

    images: Float[Tensor, "batch channels height width"]
    labels: Bool[Tensor, "batch 6"]
    known: Bool[Tensor, "batch 6"]
    blood: Bool[Tensor, "batch height width"]
    traced: Bool[Tensor, " batch"]


@dataclass(frozen=True, eq=False)
class DrawnSlice:
    """One slice as it is, before augmentation. Fields as in `TrainingBatch`.

    Attributes:
        beside_hu: its neighbours, HU minus the brain median; none where they are no channels.
        is_own: which of these the slice stands for itself, at the ends of a scan and at gaps.
    """

    relative_hu: Float[Tensor, "height width"]
    beside_hu: Float[Tensor, "beside height width"]
    is_own: Bool[Tensor, " beside"]
    region: Bool[Tensor, "height width"]
    blood: Bool[Tensor, "height width"]
    median_hu: float
    labels: Bool[Tensor, " 6"]
    known: Bool[Tensor, " 6"]
    traced: bool


class PatientSlices:
    """Slices of a cohort's training patients, positive and negative, found without a look at their pixels."""

    def __init__(self, prepared: PreparedScans, patients: Collection[str], sampling: SamplingOptions) -> None:
        """Sort the slices.

        Args:
            prepared: scans of the cohort.
            patients: whose slices may be shown.
            sampling: which slices are fit to be shown.
        """
        self._prepared = prepared
        index = prepared.slice_index
        allowed = torch.tensor([scan.patient in patients for scan in prepared.scans], dtype=torch.bool)
        fit = allowed[index.scan] & (index.brain_mm2 >= sampling.min_region_mm2)
        shown = index.labels[:, ANY_COLUMN]
        self._scan, self._row = index.scan, index.row
        self.positive = torch.nonzero(fit & shown).flatten()
        self.negative = torch.nonzero(fit & ~shown & index.known[:, ANY_COLUMN]).flatten()
        self._labels, self._known = index.labels, index.known
        self._unfit = torch.nonzero(allowed[index.scan] & ~fit & shown).flatten()

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Positive slices that are never shown."""
        found = Findings()
        for index in self._unfit.tolist():
            found.add(Trouble.LITTLE_BRAIN, self._prepared.slice_name(int(self._scan[index]), int(self._row[index])))
        return found.found()

    @property
    def n_patients(self) -> int:
        """Whose slices these are."""
        return self._prepared.n_patients(self._scan[torch.cat([self.positive, self.negative])])

    def n_of(self, kind: str) -> int | None:
        """Slices that there are for a kind of `SamplingOptions.counts`; None where patients are not asked for it."""
        of_negative = dict.fromkeys(("painted", "hard_negative", "negative"), len(self.negative))
        return (of_negative | {"positive": len(self.positive)}).get(kind)

    def weights(self, *, balance_subtypes: bool) -> Float[Tensor, " positive"]:
        """How often each positive slice is shown: a patient's slices together as often as the root of their number.

        Args:
            balance_subtypes: weigh each slice by the rarest of its subtypes as well; one of unknown ones as the others
                on average.
        """
        scans = self._scan[self.positive]
        patients = [self._prepared.scans[scan].patient for scan in scans.tolist()]
        numbers = {patient: k for k, patient in enumerate(dict.fromkeys(patients))}
        counts = torch.bincount(torch.tensor([numbers[patient] for patient in patients], dtype=torch.int64))
        weights = torch.tensor([1.0 / math.sqrt(int(counts[numbers[patient]])) for patient in patients])
        if balance_subtypes:
            subtypes = self._labels[self.positive, :ANY_COLUMN]
            frequency = subtypes.sum(dim=0).clamp_min(1).float()
            rarity = torch.where(subtypes, 1.0 / frequency, 0.0).amax(dim=1)
            told = rarity > 0
            if told.any():
                weights = weights * torch.where(told, rarity, rarity[told].mean())
        return weights

    def at(self, index: int) -> tuple[PreparedScan, int]:
        """The scan, and which of its prepared slices, that an entry of `positive` or `negative` stands for."""
        return self._prepared[int(self._scan[index])], int(self._row[index])

    def labels(self, index: int) -> tuple[Bool[Tensor, " 6"], Bool[Tensor, " 6"]]:
        """Its labels, and which of them are known."""
        return self._labels[index], self._known[index]


class PhantomSlices:
    """Slices of phantoms, the positive ones sorted by how well their blood shows."""

    def __init__(
        self, scans: Sequence[PreparedScan], twins: Sequence[PreparedScan], sampling: SamplingOptions, spacing_mm: float
    ) -> None:
        """Sort the slices.

        Args:
            scans: heads with their blood.
            twins: some of the same heads before they bled, found by name; may be empty.
            sampling: which slices are fit to be shown.
            spacing_mm: side of a pixel.
        """
        self.scans, self._twins = scans, {twin.name: twin for twin in twins}
        self.positive: list[tuple[int, int]] = []
        self.negative: list[tuple[int, int]] = []
        shows: dict[tuple[int, int], float] = {}
        for index, scan in enumerate(scans):
            blood_mm2 = scan.blood.sum(dim=(1, 2)) * spacing_mm**2
            brain_mm2 = scan.region.sum(dim=(1, 2)) * spacing_mm**2
            for row in range(len(scan.slices)):
                if brain_mm2[row] < sampling.min_region_mm2:
                    continue
                if blood_mm2[row] >= sampling.min_blood_mm2:
                    self.positive.append((index, row))
                    shows[index, row] = _conspicuity(scan.relative_hu[row], scan.blood[row])
                elif blood_mm2[row] == 0:
                    self.negative.append((index, row))
        self.positive.sort(key=lambda slice_: -shows[slice_])

    def n_of(self, kind: str) -> int | None:
        """Slices that there are for a kind of `SamplingOptions.counts`; None where phantoms are not asked for it."""
        return {"phantom_positive": len(self.positive), "phantom_negative": len(self.negative)}.get(kind)

    def twin_of(self, index: int, row: int) -> tuple[PreparedScan, int] | None:
        """The same slice before it bled; None where the head has no twin, or the twin no brain there."""
        scan = self.scans[index]
        twin = self._twins.get(scan.name)
        if twin is None or scan.slices[row] not in twin.slices:
            return None
        return twin, twin.slices.index(scan.slices[row])


def _conspicuity(relative_hu: Int16[Tensor, "height width"], blood: Bool[Tensor, "height width"]) -> float:
    """How well blood shows in a slice: its mean HU over the brain median times the square root of its area in px."""
    return float(relative_hu[blood].float().mean()) * HU_STEP * math.sqrt(int(blood.sum()))


Draw = Callable[[int, float, np.random.Generator], list[DrawnSlice]]
"""(position in the deck, difficulty, chance) -> a slice, followed by its twin where it has one."""


class _PatientDraws:
    """Draws slices of patients, as they are or painted."""

    def __init__(
        self,
        slices: PatientSlices,
        sampling: SamplingOptions,
        painting: PaintingOptions,
        thickness: float,
        preprocessing: PreprocessOptions,
        seed: int,
    ) -> None:
        self._slices, self._painting, self._thickness = slices, painting, thickness
        self._spacing_mm, self._neighbours = preprocessing.spacing_mm, preprocessing.neighbours
        weights = {"positive": slices.weights(balance_subtypes=sampling.balance_subtypes).tolist()}
        plain = [1.0] * len(slices.negative)
        self._decks = {
            kind: Deck(weights.get(kind, plain), 1000 * seed + number)
            for number, (kind, count) in enumerate(sampling.counts)
            if count and kind in self.kinds
        }

    @property
    def kinds(self) -> dict[str, Draw]:
        """How each kind is drawn."""
        return {
            "positive": self._positive,
            "painted": self._painted,
            "hard_negative": self._hard_negative,
            "negative": self._negative,
        }

    def _positive(self, position: int, _difficulty: float, random: np.random.Generator) -> list[DrawnSlice]:
        index = int(self._slices.positive[self._decks["positive"][position]])
        return [self._drawn(index, random, traced=False)]

    def _negative(self, position: int, _difficulty: float, random: np.random.Generator) -> list[DrawnSlice]:
        return [self._without_blood(self._decks["negative"][position], random)]

    def _hard_negative(self, position: int, _difficulty: float, random: np.random.Generator) -> list[DrawnSlice]:
        plain = self._without_blood(self._decks["hard_negative"][position], random)
        painted_hu = paint_distractor(plain.relative_hu, plain.region, self._spacing_mm, random)
        beside_hu = carry_over(plain.beside_hu, painted_hu - plain.relative_hu, random)
        return [replace(plain, relative_hu=painted_hu, beside_hu=beside_hu)]

    def _painted(self, position: int, difficulty: float, random: np.random.Generator) -> list[DrawnSlice]:
        plain = self._without_blood(self._decks["painted"][position], random)
        for _ in range(MAX_TRIES):
            found = paint_slice(plain.relative_hu, plain.region, self._spacing_mm, difficulty, self._painting, random)
            if found is not None:
                shown = torch.tensor([subtype in {found.subtype, Subtype.ANY} for subtype in Subtype])
                beside_hu = carry_over(plain.beside_hu, found.relative_hu - plain.relative_hu, random)
                bled = replace(plain, relative_hu=found.relative_hu, beside_hu=beside_hu)
                return [replace(bled, blood=found.blood, labels=shown), plain]
            plain = self._without_blood(int(random.integers(len(self._slices.negative))), random)
        return [plain, plain]

    def _without_blood(self, number: int, random: np.random.Generator) -> DrawnSlice:
        drawn = self._drawn(int(self._slices.negative[number]), random, traced=True)
        return replace(drawn, known=torch.ones_like(drawn.known))  # where there is none, there is none of any kind

    def _drawn(self, index: int, random: np.random.Generator, *, traced: bool) -> DrawnSlice:
        scan, row = self._slices.at(index)
        relative = scan.relative_hu[row].float() * HU_STEP
        if self._thickness:
            share = float(random.uniform(0.0, self._thickness))
            alike = [other for other in (row - 1, row + 1) if _are_alike_neighbours(scan, row, other)]
            if alike:
                beside = torch.stack([scan.relative_hu[other] for other in alike]).float().mean(dim=0) * HU_STEP
                relative = (1.0 - share) * relative + share * beside
        region, (beside_hu, is_own) = scan.region[row], _beside(scan, row, self._neighbours)
        labels, known = self._slices.labels(index)
        blood = torch.zeros_like(region)
        return DrawnSlice(relative, beside_hu, is_own, region, blood, scan.median_hu, labels, known, traced)


class _PhantomDraws:
    """Draws slices of phantoms."""

    def __init__(self, slices: PhantomSlices, sampling: SamplingOptions, neighbours: int, seed: int) -> None:
        self._slices, self._easy_share, self._neighbours = slices, sampling.easy_share, neighbours
        self._decks = {
            kind: Deck([1.0] * n_slices, 1000 * seed + number)
            for number, (kind, count) in enumerate(sampling.counts)
            if count and (n_slices := slices.n_of(kind)) is not None
        }

    @property
    def kinds(self) -> dict[str, Draw]:
        """How each kind is drawn."""
        return {"phantom_positive": self._positive, "phantom_negative": self._negative}

    def _positive(self, position: int, difficulty: float, _random: np.random.Generator) -> list[DrawnSlice]:
        share = self._easy_share + (1.0 - self._easy_share) * difficulty
        index, row = self._slices.positive[int(self._decks["phantom_positive"][position] * share)]
        shown = [(self._slices.scans[index], row), self._slices.twin_of(index, row)]
        return [_of_phantom(*slice_, self._neighbours) for slice_ in shown if slice_ is not None]

    def _negative(self, position: int, _difficulty: float, _random: np.random.Generator) -> list[DrawnSlice]:
        index, row = self._slices.negative[self._decks["phantom_negative"][position]]
        return [_of_phantom(self._slices.scans[index], row, self._neighbours)]


class TrainingBatches(Dataset[TrainingBatch]):
    """Batch k of a training, for any k: drawn, painted and changed by chance that follows from the seed and k alone.

    So a training that was stopped goes on as if it had not been, on any number of workers; and n processes, each given
    its rank, show together what one shows alone, no slice twice.
    """

    def __init__(
        self,
        patients: PatientSlices | None,
        phantoms: PhantomSlices | None,
        preprocessing: PreprocessOptions,
        sampling: SamplingOptions,
        augmentation: AugmentOptions,
        painting: PaintingOptions,
        seed: int,
        *,
        rank: int = 0,
        n_processes: int = 1,
    ) -> None:
        """Shuffle.

        Args:
            patients: slices of patients; needed where the sampling asks for them.
            phantoms: slices of phantoms; likewise.
            preprocessing: what the network will see.
            sampling: what a batch is made of.
            augmentation: how slices are changed.
            painting: which bleeds are painted.
            seed: of everything random.
            rank: which of the processes this is.
            n_processes: how many share each step.

        Raises:
            ValueError: where slices of a kind are asked for and there are none.
        """
        self._preprocessing, self._sampling = preprocessing, sampling
        self._change = SliceChanger(augmentation, preprocessing.spacing_mm)
        self._seed, self._rank, self._n_processes = seed, rank, n_processes
        self._draw: dict[str, Draw] = {}
        if patients is not None:
            thickness = augmentation.thickness
            self._draw |= _PatientDraws(patients, sampling, painting, thickness, preprocessing, seed).kinds
        if phantoms is not None:
            self._draw |= _PhantomDraws(phantoms, sampling, preprocessing.neighbours, seed).kinds
        self._units = [(kind, place, count) for kind, count in sampling.counts for place in range(count)]
        missing = {kind for kind, *_ in self._units} - self._draw.keys()
        if missing or not self._units:
            raise ValueError(f"expected slices of the kinds that are asked for; got none of {sorted(missing) or 'any'}")

    def __getitem__(self, step: int) -> TrainingBatch:
        """What this process learns from in a step."""
        n_twins = {"painted": self._sampling.painted_twins, "phantom_positive": self._sampling.phantom_twins}
        difficulty = self._sampling.difficulty(step)
        shown: list[DrawnSlice] = []
        for number, (kind, place, count) in enumerate(self._units):
            if number % self._n_processes != self._rank:
                continue
            random = np.random.default_rng((self._seed, step, number))
            drawn = self._draw[kind](step * count + place, difficulty, random)
            seed = int(random.integers(2**32))  # one for both: nothing but the blood tells a slice from its twin
            shown += [self._changed(one, seed) for one in drawn[: 1 + (place < n_twins.get(kind, 0))]]
        relative = torch.stack([drawn.relative_hu for drawn in shown])
        beside_hu = torch.stack([drawn.beside_hu for drawn in shown])
        region = torch.stack([drawn.region for drawn in shown])
        median_hu = torch.tensor([drawn.median_hu for drawn in shown])[:, None, None]
        return TrainingBatch(
            images=network_images(relative + median_hu, region, median_hu, self._preprocessing, beside_hu),
            labels=torch.stack([drawn.labels for drawn in shown]),
            known=torch.stack([drawn.known for drawn in shown]),
            blood=torch.stack([drawn.blood for drawn in shown]),
            traced=torch.tensor([drawn.traced for drawn in shown]),
        )

    def _changed(self, drawn: DrawnSlice, seed: int) -> DrawnSlice:
        hu = torch.cat([drawn.relative_hu[None], drawn.beside_hu])
        hu, region, blood = self._change(hu, drawn.region.expand(hu.shape), drawn.blood.expand(hu.shape), seed)
        beside_hu = torch.where(drawn.is_own[:, None, None], hu[0], hu[1:])
        return replace(drawn, relative_hu=hu[0], beside_hu=beside_hu, region=region[0], blood=blood[0])


def _beside(
    scan: PreparedScan, row: int, neighbours: int
) -> tuple[Float[Tensor, "beside height width"], Bool[Tensor, " beside"]]:
    """HU of a slice's neighbours over the brain median, and which of them is the slice itself."""
    rows = neighbour_rows(scan.slices, neighbours)[row]
    return scan.relative_hu[rows].float() * HU_STEP, rows == row


def _are_alike_neighbours(scan: PreparedScan, row: int, other: int) -> bool:
    """Whether two of a scan's prepared slices lie beside each other and are labelled alike."""
    if not 0 <= other < len(scan.slices) or abs(scan.slices[other] - scan.slices[row]) != 1:
        return False
    if scan.labels is None or scan.known is None:
        return False
    return bool(scan.known[other, ANY_COLUMN] and scan.labels[other, ANY_COLUMN] == scan.labels[row, ANY_COLUMN])


def _of_phantom(scan: PreparedScan, row: int, neighbours: int) -> DrawnSlice:
    labels = torch.zeros(len(Subtype), dtype=torch.bool) if scan.labels is None else scan.labels[row].clone()
    labels[ANY_COLUMN] = scan.blood[row].any()
    relative_hu = scan.relative_hu[row].float() * HU_STEP
    known, beside = torch.ones_like(labels), _beside(scan, row, neighbours)
    region, blood = scan.region[row], scan.blood[row]
    return DrawnSlice(relative_hu, *beside, region, blood, scan.median_hu, labels, known, traced=True)
