"""Comparisons as YAML: those that ship load, and a slip is found before any work."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from hgisam.compare.settings import CompareOptions, GivenMethod, TrainedMethod, load_comparison
from hgisam.config import SettingsError

SHIPPED = sorted((Path(__file__).resolve().parents[2] / "configs").glob("compare_*.yaml"))

PLAIN: dict[str, Any] = {
    "title": "a test",
    "data": {"kind": "phantoms", "n": 4, "first_seed": 9},
    "reference": "ours",
    "methods": [{"name": "ours", "learned_from": "labels"}, {"name": "other", "learned_from": "labels"}],
}


def write(path: Path, **changes: object) -> Path:
    path.write_text(yaml.safe_dump({"source": "a test", "compare": PLAIN | changes}), encoding="utf-8")
    return path


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_every_comparison_loads_and_its_methods_differ(path: Path, tmp_path: Path) -> None:
    assert len(SHIPPED) == 2
    comparison = load_comparison(path, tmp_path if path.name == "compare_bhsd.yaml" else None)
    options = [method.settings(path.parent).segment for method in comparison.compare.methods]
    assert all(first != second for i, first in enumerate(options) for second in options[:i])
    kinds = {(found.weak.method, found.refine.method) for found in options}
    maps = {weak for weak, _ in kinds}
    assert kinds == {(weak, refine) for weak in maps for refine in ("threshold", "components")}


def test_names_that_differ_by_signs_have_folders_of_their_own() -> None:
    first, second = (GivenMethod(name=name, learned_from="b").folder_name for name in ("Grad-CAM, a", "Grad-CAM++, a"))
    assert (first, second) == ("Grad-CAM_a", "Grad-CAMplusplus_a")


def test_the_comparison_on_phantoms_is_as_large_as_promised() -> None:
    options = load_comparison(SHIPPED[1]).compare
    assert options.data.kind == "phantoms"
    assert options.data.n >= 80
    assert options.folds == 4


def test_methods_are_given_unless_they_say_otherwise() -> None:
    trained = {"name": "trained", "learned_from": "labels", "kind": "trained", "folds": [1]}
    options = CompareOptions.model_validate(PLAIN | {"folds": 2, "methods": [*PLAIN["methods"], trained]})
    assert [type(method) for method in options.methods] == [GivenMethod, GivenMethod, TrainedMethod]


def test_a_method_takes_its_recipe_with_changes(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("source: a recipe\nsegment: {refine: {method: threshold}, threshold: 0.3}\n")
    method = GivenMethod(
        name="a", learned_from="b", config=Path("recipe.yaml"), segment={"threshold": 0.4, "gate": False}
    )
    found = method.settings(tmp_path).segment
    assert (found.refine.method, found.threshold, found.gate) == ("threshold", 0.4, False)


TRAINED = {"name": "trained", "learned_from": "labels", "kind": "trained"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"reference": "nobody"}, "expected one of the methods as reference; got 'nobody'"),
        ({"methods": PLAIN["methods"] * 2}, "expected methods of different names"),
        ({"methods": [*PLAIN["methods"], TRAINED]}, "expected 2 folds or more"),
        ({"methods": [*PLAIN["methods"], TRAINED | {"folds": [2]}], "folds": 2}, "expected folds from 0 to 1"),
        ({"methods": [*PLAIN["methods"], TRAINED | {"train": {"split": {"fold": 1}}}], "folds": 2}, "no folds, fold"),
        ({"measure": "beauty"}, "'compare.measure'"),
        ({"data": {"kind": "scans"}}, "add --data FOLDER"),
        ({"mehtods": []}, "unknown key 'compare.mehtods'"),
        ({"methods": [PLAIN["methods"][0], {"name": "b", "learned_from": "c", "segment": {"gaet": 1}}]}, "method 'b'"),
        ({"methods": [PLAIN["methods"][0], {"name": "b", "learned_from": "c", "config": "no.yaml"}]}, "no.yaml"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_a_slip_is_found_before_any_work(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    with pytest.raises(SettingsError) as error:
        load_comparison(write(tmp_path / "a.yaml", **changes))
    assert said in str(error.value)
