"""What is compared, on what, and how: the section `compare` of a YAML. A method or a data set more is a few lines."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from hgisam.cases import safe_name
from hgisam.config import Settings, SettingsError, load_recipe, load_settings
from hgisam.labels import Subtype
from hgisam.phantom import PhantomOptions

MeasureName = Literal[
    "dice", "iou", "nsd_1mm", "nsd_2mm", "lesion_f1", "hd95_mm", "assd_mm", "absolute_difference_ml"
]  # fmt: skip
LOWER_IS_BETTER = frozenset({"hd95_mm", "assd_mm", "absolute_difference_ml"})

_STRICT = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class PhantomData(BaseModel):
    """Synthetic heads of seeds in a row, made when they are first needed and kept in the output folder."""

    model_config = _STRICT

    kind: Literal["phantoms"]
    """Tells this source from others."""
    n: int = Field(ge=2)
    """How many heads; each is a patient."""
    first_seed: int = Field(ge=0)
    """Seed of the first; the others have those that follow. None may have taught a method."""
    heads: PhantomOptions = PhantomOptions()
    """What they are like."""


class ScanData(BaseModel):
    """Scans with reference masks, as NIfTI pairs."""

    model_config = _STRICT

    kind: Literal["scans"]
    """Tells this source from others."""
    folder: Path | None = None
    """The scans, directly in it; None where the command line says."""
    references: Path = Path("truth")
    """Of `CASE_mask.nii.gz`, `CASE_labels.nii.gz` or `CASE.nii.gz`; a relative path is within the folder."""
    patients: Path | None = None
    """A table with the columns case and patient; a relative path is within the folder. None: one scan each; with folds,
    whose scan each is comes from the labels that folds are dealt by (the column patient of slice_labels.csv)."""


class SliceData(BaseModel):
    """Single slices with masks as PNG pictures: `images/NAME.png` in grey, `masks/NAME.png` in colours."""

    model_config = _STRICT

    kind: Literal["slices"]
    """Tells this source from others."""
    folder: Path | None = None
    """What holds `images` and `masks`; None where the command line says."""
    spacing_mm: tuple[float, float, float]
    """Nominal slice thickness and pixel size, rows then columns; pictures state none."""
    black_hu: float = 0.0
    """HU that the lowest grey stands for."""
    white_hu: float = 255.0
    """HU that the highest grey, 255, stands for."""
    clipped_hu: float = 1000.0
    """HU that voxels of the highest grey get: all that is denser was cut off there, and that is bone."""
    air_grey: int = Field(default=2, ge=0, le=255)
    """The largest connected area up to this grey is the air around the head."""
    colours: dict[Subtype, tuple[int, int, int]]
    """Red, green and blue of each subtype in the masks."""
    patient_digits: int = Field(ge=0)
    """So many of a name's first characters tell whose slice it is; 0: each is another patient's."""


Data = Annotated[PhantomData | ScanData | SliceData, Field(discriminator="kind")]


class Method(BaseModel):
    """What every method states."""

    model_config = _STRICT

    name: str = Field(min_length=1, max_length=60)
    """How tables and pictures call it."""
    learned_from: str = Field(min_length=1)
    """What it has learned from and was set by, for the reader: slice labels, masks, phantoms, nothing."""
    config: Path | None = None
    """A recipe whose settings of `segment` it takes; a relative path is within the comparison's folder. None: the
    defaults."""
    segment: dict[str, Any] = {}
    """Settings of `segment` laid over the recipe's, for a weak-label method."""
    supervised: dict[str, Any] = {}
    """Settings of `supervised` laid over the recipe's, for a network that learned from masks."""

    @property
    def folder_name(self) -> str:
        """A name that is safe on any disk."""
        return safe_name(self.name.replace("+", "plus").rstrip(")"))

    def settings(self, base: Path) -> Settings:
        """The resolved recipe.

        Args:
            base: the folder that relative paths start from.

        Raises:
            SettingsError: where the recipe is missing or wrong.
        """
        return load_settings(None if self.config is None else base / self.config, self._overrides())

    def _overrides(self) -> dict[str, Any]:
        stated = {"segment": self.segment, "supervised": self.supervised}
        return {stage: settings for stage, settings in stated.items() if settings}


class GivenMethod(Method):
    """A method that needs no training here: it comes with its weights, or needs none."""

    kind: Literal["given"] = "given"
    """Tells this method from others."""
    weights: Path | None = None
    """A weights file, relative as `config`; None: those of the package, where it needs any."""


class TrainedMethod(Method):
    """A network trained for each fold by a recipe, on patients of other folds, and judged on the fold's own.

    A recipe with `train_segmenter` trains a segmenter on masks (on references, or with `own_masks` on those that weak
    methods make of slice labels), any other a classifier on slice labels.
    """

    kind: Literal["trained"]
    """Tells this method from others."""
    train: dict[str, Any] = {}
    """Settings of `train` laid over the recipe's, for a classifier. The folds are the comparison's."""
    train_segmenter: dict[str, Any] = {}
    """Likewise of `train_segmenter`, for a segmenter."""
    folds: tuple[int, ...] | None = None
    """Which folds it is trained for; None for all. With fewer it has fewer cases, and the tables say so."""

    def _overrides(self) -> dict[str, Any]:
        stated = {"train": self.train, "train_segmenter": self.train_segmenter}
        return super()._overrides() | {stage: settings for stage, settings in stated.items() if settings}

    @model_validator(mode="after")
    def _folds_are_the_comparison_s(self) -> Self:
        for stage, settings in (("train", self.train), ("train_segmenter", self.train_segmenter)):
            split = settings.get("split", {})
            if isinstance(split, dict) and {"folds", "fold", "seed", "splits"} & set(split):
                raise ValueError(
                    f"expected no folds, fold, seed or splits under {stage}.split: they are the comparison's"
                )
        return self


AnyMethod = Annotated[GivenMethod | TrainedMethod, Field(discriminator="kind")]


class CompareOptions(BaseModel):
    """One comparison."""

    model_config = _STRICT

    title: str = Field(min_length=1)
    """Of the report."""
    data: Data
    """What all methods are judged on."""
    folds: int = Field(default=1, ge=1)
    """Into so many folds patients are dealt, each judged by what was trained without it; 1 where nothing is trained."""
    seed: int = Field(default=0, ge=0)
    """Of the deal."""
    measure: MeasureName = "dice"
    """What the tests, the ranking and the pictures go by."""
    reference: str
    """The method that all others are tested against."""
    methods: tuple[AnyMethod, ...] = Field(min_length=2)
    """At least two, in the order of the tables."""

    @model_validator(mode="before")
    @classmethod
    def _methods_are_given_unless_they_say_otherwise(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not isinstance(values.get("methods"), list):
            return values
        methods = [{"kind": "given"} | m if isinstance(m, dict) else m for m in values["methods"]]
        return values | {"methods": methods}

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        names = [method.name for method in self.methods]
        folders = Counter(method.folder_name.casefold() for method in self.methods)
        if max(folders.values()) > 1:
            raise ValueError(f"expected methods of different names, blanks and signs aside; got {names}")
        if self.reference not in names:
            raise ValueError(f"expected one of the methods as reference; got {self.reference!r}")
        trained = [method for method in self.methods if isinstance(method, TrainedMethod)]
        if trained and (self.folds < 2 or isinstance(self.data, SliceData)):
            raise ValueError("expected 2 folds or more of whole scans, since methods are trained")
        for method in trained:
            if not set(method.folds or ()) <= set(range(self.folds)):
                raise ValueError(f"{method.name}: expected folds from 0 to {self.folds - 1}; got {method.folds}")
        if isinstance(self.data, SliceData) and self.folds > 1:
            raise ValueError(f"expected 1 fold of single slices, on which nothing is trained; got {self.folds}")
        if isinstance(self.data, ScanData) and self.data.patients is not None and self.folds > 1:
            raise ValueError(
                "expected no table of patients, since folds are dealt by the labels' own; got"
                f" {self.data.patients}; name them in the column patient of slice_labels.csv"
            )
        return self


def learns_from_masks(settings: Settings) -> bool:
    """Whether a recipe is of a network that outlines by itself: it trains a segmenter, or uses a supervised method."""
    return "train_segmenter" in settings.model_fields_set or settings.supervised.method is not None


class Comparison(BaseModel):
    """A YAML of `hgisam compare`."""

    model_config = _STRICT

    source: str = Field(min_length=1)
    """What the comparison is for, and where its choices come from."""
    compare: CompareOptions
    """The comparison."""

    def restricted_to(self, only: Sequence[str]) -> Self:
        """The same with these methods and the reference alone.

        Args:
            only: names, as the YAML has them.

        Raises:
            SettingsError: where the YAML has no such method, or only the reference is asked for.
        """
        options = self.compare
        known = [method.name for method in options.methods]
        unknown = [name for name in only if name not in known]
        if unknown:
            got, names = (", ".join(map(repr, each)) for each in (unknown, known))
            raise SettingsError(f"--method: expected methods of the YAML ({names}); got {got}")
        wanted = {options.reference, *only}
        if len(wanted) == 1:
            raise SettingsError(f"--method: expected one beside the reference; got {options.reference!r} alone")
        methods = tuple(method for method in options.methods if method.name in wanted)
        return self.model_copy(update={"compare": options.model_copy(update={"methods": methods})})


def load_comparison(path: Path, data_folder: Path | None = None) -> Comparison:
    """The comparison of a YAML file. Every method's recipe is resolved once, so that a slip is found before any work.

    Args:
        path: the YAML.
        data_folder: where the data lie; None: where the YAML says.

    Raises:
        SettingsError: where the file or a method's recipe cannot be read, or a setting is unknown or out of range.
    """
    data = {} if data_folder is None else {"data": {"folder": str(data_folder.resolve())}}
    comparison = load_recipe(Comparison, path, {"compare": data})
    if not isinstance(comparison.compare.data, PhantomData) and comparison.compare.data.folder is None:
        raise SettingsError(f"{path}: expected a folder of data; got none; add --data FOLDER")
    for method in comparison.compare.methods:
        try:
            _check(method, method.settings(path.parent))
        except SettingsError as error:
            raise SettingsError(f"{path}: method {method.name!r}: {error}") from error
    return comparison


def _check(method: AnyMethod, settings: Settings) -> None:
    """Whether a method's recipe is of one kind, and what is laid over it is of that kind too.

    Raises:
        SettingsError: where it is not, or a segmenter that is not trained here has no weights.
    """
    supervised = learns_from_masks(settings)
    others = {"segment", "train"} if supervised else {"supervised", "train_segmenter"}
    wrong = sorted(others & settings.model_fields_set)
    if wrong:
        what = "learned from masks" if supervised else "learned from slice labels"
        raise SettingsError(f"expected settings of a network that {what}; got '{wrong[0]}'; take another recipe")
    if supervised and isinstance(method, GivenMethod) and method.weights is None:
        raise SettingsError("expected weights with a network that learned from masks; got none; name a file")
