"""YAML -> settings. Each stage owns its options and their defaults; this file only assembles and explains."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from hgisam.limits import one_line, read_whole
from hgisam.pipeline import SegmentOptions, SupervisedOptions
from hgisam.train.encoder_recipe import EncoderTrainOptions
from hgisam.train.recipe import TrainOptions
from hgisam.train.segmenter_recipe import SegmenterTrainOptions

MAX_YAML_BYTES = 2**16
"""The largest file of settings that is read; the longest in configs/ has 3 kB, and PyYAML takes seconds for 100."""

_MAX_LEVELS = 50
_MAX_SHOWN = 100
_MAX_SLIPS = 8
_MERGE = "tag:yaml.org,2002:merge"


class SettingsError(ValueError):
    """A setting that does not exist or cannot have that value. Its text is one line. Exit code 2."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class Settings(BaseModel):
    """A recipe: what differs from the defaults, and why."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    source: str = Field(default="defaults and command line", min_length=1)
    """Where the numbers come from: a paper, a measurement, the command that made them."""
    segment: SegmentOptions = SegmentOptions()
    """Settings of `hgisam segment` and `hgisam classify`."""
    supervised: SupervisedOptions = SupervisedOptions()
    """Settings of `hgisam segment` with a network that learned from masks; where they name a method, it is used."""
    train: TrainOptions = TrainOptions()
    """Settings of a classifier's training; those that the network needs are stored with its weights."""
    train_segmenter: SegmenterTrainOptions = SegmenterTrainOptions()
    """Settings of a segmenter's training; likewise."""
    train_encoder: EncoderTrainOptions = EncoderTrainOptions()
    """Settings of an encoder's training without labels; likewise."""


class Instead(dict[str, Any]):
    """Settings that are laid over others and leave nothing of them: those of another method, which has its own."""


Recipe = TypeVar("Recipe", bound=BaseModel)


def load_settings(
    path: Path | None = None, overrides: Mapping[str, Any] | None = None, *, needs: str | None = None
) -> Settings:
    """The settings of a YAML file, with those given on the command line laid over them: `load_recipe` of `Settings`."""
    return load_recipe(Settings, path, overrides, needs=needs)


def load_recipe(
    schema: type[Recipe],
    path: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    needs: str | None = None,
) -> Recipe:
    """A YAML file as settings of one kind, with those given on the command line laid over them.

    Args:
        schema: the kind.
        path: the YAML; None for the defaults. It names its `source`, and below each stage only what differs.
        overrides: nested like the YAML, such as `{"segment": {"threshold": 0.1}}`; None stands for "not given", and
            `Instead` for what leaves nothing of the YAML's.
        needs: a stage that the file must have settings of, so that no other recipe is taken for one; None for any.

    Returns:
        The resolved settings; the defaults where both are empty.

    Raises:
        SettingsError: where the file cannot be read, is not YAML of plain values, lacks the stage, a key is unknown (it
            is named), or a value is out of range, true or false for a number, or no finite number.
    """
    where = "command line" if path is None else str(path)
    recipe: Any = {} if path is None else _read_yaml(path)
    if not isinstance(recipe, dict):
        raise SettingsError(f"{where}: expected keys and values; got {type(recipe).__name__}; see configs/")
    if path is not None and "source" not in recipe:
        raise SettingsError(f"{where}: expected a line 'source: ...' that tells where its numbers come from; got none")
    if needs is not None and needs not in recipe:
        stages = ", ".join(f"'{key}'" for key in recipe if key != "source") or "nothing"
        raise SettingsError(f"{where}: expected a recipe with '{needs}'; got {stages}; take another recipe or command")
    given = _laid_over(recipe, overrides or {})
    try:
        settings = schema.model_validate(given)
    except ValidationError as error:
        raise SettingsError(
            "; ".join(f"{where}: {_explained(detail)}" for detail in error.errors()[:_MAX_SLIPS])
        ) from error
    slips = [f"{where}: {slip}" for slip in _no_numbers(given, settings.model_dump(), "")]
    if slips:
        raise SettingsError("; ".join(slips[:_MAX_SLIPS]))
    return settings


class _PlainLoader(yaml.SafeLoader):
    """Safe YAML in which no key may appear twice, since the second would silently win, and nothing stands for another.

    A few lines of aliases of aliases are a tree of billions of values for whoever walks through it.
    """

    def fetch_flow_collection_start(self, TokenClass: Any) -> None:  # noqa: N803 - as PyYAML has it
        if self.flow_level >= _MAX_LEVELS:  # its time grows with the square of the levels
            raise RecursionError
        super().fetch_flow_collection_start(TokenClass)

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "an alias; write the value out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE:
                raise yaml.constructor.ConstructorError(None, None, "a key that is no plain word", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} appears twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _read_yaml(path: Path) -> object:
    try:
        text = read_whole(path, MAX_YAML_BYTES).decode("utf-8")
        return yaml.load(text, Loader=_PlainLoader)  # noqa: S506 - a SafeLoader  # nosec B506
    except OSError as error:
        raise SettingsError(f"{path}: expected a YAML file; got '{error.strerror}'; check the path") from error
    except RecursionError as error:
        raise SettingsError(f"{path}: expected a few levels of settings; got hundreds; see configs/") from error
    except (yaml.YAMLError, ValueError, AttributeError, TypeError) as error:  # so ends PyYAML on odd dates
        raise SettingsError(f"{path}: expected YAML of plain values; got {' '.join(str(error).split())}") from error


def _laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """A nested mapping with another laid over it; None above leaves what lies below."""
    merged = dict(below)
    for key, value in above.items():
        if isinstance(value, Mapping):
            lower = {} if isinstance(value, Instead) else merged.get(key, {})
            laid = _laid_over(lower, value) if isinstance(lower, Mapping) else lower
            if laid or key in merged:
                merged[key] = laid
        elif value is not None:
            merged[key] = value
    return merged


def _no_numbers(given: object, taken: object, key: str) -> Iterator[str]:
    """What stands where a number is wanted and is none, though pydantic takes it for one: true for 1, NaN, infinity."""
    if isinstance(given, Mapping) and isinstance(taken, Mapping):
        for name in (name for name in given if name in taken):
            yield from _no_numbers(given[name], taken[name], f"{key}.{name}" if key else str(name))
    elif isinstance(given, list | tuple) and isinstance(taken, list | tuple):
        for index, pair in enumerate(zip(given, taken, strict=False)):
            yield from _no_numbers(*pair, f"{key}.{index}")
    elif isinstance(given, bool) and not isinstance(taken, bool):
        yield f"'{key}': expected a number; got {str(given).lower()}; write one"
    elif isinstance(taken, float) and not math.isfinite(taken):
        yield f"'{key}': expected a finite number; got {taken}; write one"


def _explained(detail: ErrorDetails) -> str:
    key = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        return f"unknown key '{key}'; check its spelling"
    if detail["type"] == "value_error":  # ours, and it says what it got
        return f"'{key}': {detail['msg'].removeprefix('Value error, ')}"
    return f"'{key}': {detail['msg'][0].lower()}{detail['msg'][1:]}; got {repr(detail['input'])[:_MAX_SHOWN]}"
