"""Tables of scored slices: what scans and subtypes are held against, and nothing lost on the way through a file."""

import io
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from hgisam.evaluate.detection_report import detection_table, write_detection
from hgisam.evaluate.scored import COLUMNS, ScoredSlices, TargetDetection, detection_by_target, read_scored_slices
from hgisam.labels import Subtype

EPIDURAL, SUBDURAL = Subtype.EPIDURAL, Subtype.SUBDURAL
NONE: tuple[Subtype, ...] = ()

Row = tuple[str, str, int, tuple[Subtype, ...] | None, float | None]


def table(*rows: Row) -> ScoredSlices:
    """Patient, scan, slice, what it shows (None: unknown), probability (None: no brain)."""
    patients, scans, slices, shown, probabilities = zip(*rows, strict=True)
    labels = [[s in (of or ()) or (s is Subtype.ANY and bool(of)) for s in Subtype] for of in shown]
    return ScoredSlices(
        patients,
        scans,
        torch.tensor(slices),
        torch.tensor([p is not None for p in probabilities]),
        torch.tensor(labels),
        torch.tensor([[of is not None] * 6 for of in shown]),
        torch.tensor([p or 0.0 for p in probabilities], dtype=torch.float64),
    )


SIX_SCANS = table(
    ("p1", "a", 0, NONE, 0.2),
    ("p1", "a", 1, (EPIDURAL,), 0.9),
    ("p1", "a", 2, (EPIDURAL, SUBDURAL), 0.7),
    ("p1", "a2", 0, NONE, 0.6),
    ("p1", "a2", 1, None, 0.95),
    ("p2", "b", 0, (SUBDURAL,), 0.3),
    ("p2", "b", 1, NONE, 0.1),
    ("p3", "c", 0, NONE, 0.5),
    ("p3", "c", 1, NONE, None),
    ("p4", "d", 1, NONE, 0.05),
    ("p4", "d", 0, NONE, 0.15),
    ("p5", "e", 0, None, 0.8),
)


def of(target: Subtype, found: tuple[TargetDetection, ...]) -> TargetDetection:
    return next(its for its in found if its.target is target)


def test_a_subtype_is_held_against_slices_without_any_hemorrhage() -> None:
    found = detection_by_target(SIX_SCANS)
    any_kind, epidural, subdural = (of(target, found).slices for target in (Subtype.ANY, EPIDURAL, SUBDURAL))
    assert (any_kind.n, any_kind.n_positive, any_kind.n_patients, any_kind.n_positive_patients) == (10, 3, 4, 2)
    assert (epidural.n, epidural.n_positive) == (9, 2)
    assert (subdural.n, subdural.n_positive) == (9, 2)
    negatives = (0.2, 0.6, 0.1, 0.5, 0.0, 0.05, 0.15)
    assert any_kind.auc.value == pytest.approx(sum(n < p for p in (0.9, 0.7, 0.3) for n in negatives) / 21)
    assert epidural.auc.value == 1.0
    assert subdural.auc.value == pytest.approx(sum(n < p for p in (0.7, 0.3) for n in negatives) / 14)


def test_a_scan_is_negative_only_where_all_of_it_is_known_to_be() -> None:
    found = of(Subtype.ANY, detection_by_target(SIX_SCANS))
    assert (found.scans_by_highest.n, found.scans_by_highest.n_positive) == (4, 2)
    # highest: a 0.9, b 0.3 against c 0.5, d 0.15; mean of the three highest: a 0.6, b 0.2 against c 0.25, d 0.1
    assert found.scans_by_highest.auc.value == 0.75
    assert found.scans_by_mean.auc.value == 0.75
    assert found.scans_by_mean.brier.value == pytest.approx((0.4**2 + 0.8**2 + 0.25**2 + 0.1**2) / 4)


def test_a_subtype_that_nobody_has_gives_a_reason() -> None:
    found = of(Subtype.INTRAVENTRICULAR, detection_by_target(SIX_SCANS))
    assert (found.slices.n, found.slices.n_positive) == (7, 0)
    assert (found.slices.auc.value, found.slices.auc.reason) == (None, "no case is positive")


def test_an_operating_point_is_one_for_slices_and_scans() -> None:
    found = of(Subtype.ANY, detection_by_target(SIX_SCANS, operating_point=0.4))
    assert found.slices.sensitivity.value == pytest.approx(2 / 3)
    assert found.slices.specificity.value == pytest.approx(5 / 7)
    assert (found.scans_by_highest.sensitivity.value, found.scans_by_highest.specificity.value) == (0.5, 0.5)


def test_smoothing_runs_over_a_scan_s_own_slices_with_brain() -> None:
    smooth = table(
        ("p", "a", 3, NONE, 0.8),
        ("q", "b", 0, NONE, 1.0),
        ("p", "a", 0, NONE, None),
        ("p", "a", 2, NONE, 0.4),
        ("p", "a", 1, NONE, 0.0),
    ).smoothed()
    assert smooth.probabilities.tolist() == pytest.approx([0.7, 1.0, 0.0, 0.4, 0.1])
    assert smooth.scans == ("a", "b", "a", "a", "a")


@settings(max_examples=30)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b,", 'c"']),
            st.integers(0, 50),
            st.one_of(st.none(), st.sets(st.sampled_from(tuple(Subtype)[:5]))),
            st.one_of(st.none(), st.floats(0, 1)),
        ),
        unique_by=lambda row: row[:2],
    )
)
def test_a_table_comes_back_from_its_file_as_it_was(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[str, int, set[Subtype] | None, float | None]],
) -> None:
    path = tmp_path_factory.mktemp("scored") / "slices.csv"
    if not rows:
        path.write_text(",".join(COLUMNS) + "\n")
        assert len(read_scored_slices(path)) == 0
        return
    written = table(*((f"patient {s}", s, k, None if shown is None else tuple(shown), p) for s, k, shown, p in rows))
    written.save(path)
    read = read_scored_slices(path)
    assert (read.patients, read.scans) == (written.patients, written.scans)
    for name in ("slices", "has_brain", "labels", "known", "probabilities"):
        assert getattr(read, name).equal(getattr(written, name)), name


def test_a_file_has_the_columns_that_it_should(tmp_path: Path) -> None:
    table(("p", "a", 4, (SUBDURAL,), 0.25), ("p", "a", 5, None, None)).save(tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text().splitlines() == [
        "patient,scan,slice,has_brain,epidural,intraparenchymal,intraventricular,subarachnoid,subdural,any,probability",
        "p,a,4,1,0,0,0,0,1,1,0.25",
        "p,a,5,0,,,,,,,0.0",
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("p,a,4,1,0,0,0,0,1,2,0.5", "expected a table of scored slices; got '2'"),
        ("p,a,4,1,0,0,0,0,1,1,1.5", "expected probabilities in"),
        ("p,a,4,1,0,0,0,0,1,1,nan", "expected probabilities in"),
        ("p,a,4,0,0,0,0,0,1,1,0.5", "probability 0 of slices without brain"),
        ("p,a,0,1,0,0,0,0,0,0,0.5", "each slice of a scan once"),
        ("q,a,4,1,0,0,0,0,0,0,0.5", "scans of one patient each"),
    ],
)
def test_a_damaged_table_is_refused_with_its_name(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text("\n".join([",".join(COLUMNS), "p,a,0,1,0,0,0,0,0,0,0.5", line]) + "\n")
    with pytest.raises(ValueError, match=reason) as caught:
        read_scored_slices(path)
    assert str(caught.value).startswith("t.csv: ")


def test_a_table_without_a_column_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("patient,scan,slice,label,probability\n")
    with pytest.raises(ValueError, match=r"t\.csv: expected the columns .* missing \['has_brain'"):
        read_scored_slices(tmp_path / "t.csv")


def test_the_table_for_people_puts_sets_under_each_other() -> None:
    found = {"a network": detection_by_target(SIX_SCANS), "the bar": detection_by_target(SIX_SCANS.smoothed())}
    console = Console(width=160, file=io.StringIO())
    with console.capture() as shown:
        console.print(detection_table(found))
    lines = shown.get().splitlines()
    row = next(k for k, line in enumerate(lines) if "│ any" in line)
    assert "3 of 10" in lines[row] and "2 of 4" in lines[row] and "a network" in lines[row]
    assert "0.905 [-]" in lines[row]
    assert "the bar" in lines[row + 1]
    ventricles = next(line for line in lines if "intraventricular" in line)
    assert "0 of 7" in ventricles and "0.000" not in ventricles
    assert any("Research use only" in line for line in lines)


def test_the_record_for_machines_has_reasons(tmp_path: Path) -> None:
    write_detection(tmp_path / "d.json", {"a network": detection_by_target(SIX_SCANS)}, folds=5)
    record = json.loads((tmp_path / "d.json").read_text(), parse_constant=pytest.fail)
    assert record["folds"] == 5
    of_any = record["probabilities"]["a network"]["any"]["slices"]
    assert of_any["auc"]["value"] == pytest.approx(19 / 21)
    assert of_any["auc"]["reason"] == "an interval needs 3 patients of each kind; got 2"
    assert of_any["sensitivity"]["reason"] == "no operating point was given"
