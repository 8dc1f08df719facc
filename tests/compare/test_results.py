"""What is concluded from scores: pairs by patient, ranks of those that are complete, sentences that claim no more."""

from dataclasses import replace
from pathlib import Path

import pytest

from hgisam.compare.data import ComparedCase
from hgisam.compare.report import answer
from hgisam.compare.results import Results
from hgisam.compare.runner import CaseResult, MethodResult
from hgisam.compare.settings import CompareOptions, GivenMethod
from hgisam.evaluate.lesions import Lesions, LesionScore
from hgisam.evaluate.overlap import Overlap
from hgisam.evaluate.scores import ScanScore
from hgisam.evaluate.surface import SurfaceScore

NO_LESIONS = LesionScore(Lesions((), (), ()), Lesions((), (), ()))


def on_case(
    name: str,
    dice: float | None,
    patient: str | None = None,
    false_ml: int = 0,
    ml: float = 0.001,
    probability: float | None = None,
    failure: str | None = None,
) -> CaseResult:
    """A case with that Dice and so much blood; None: a normal scan with a false alarm of so many mL."""
    none = Overlap(false_ml, 0, 0, float(false_ml), 0.0)
    found = none if dice is None else Overlap(1000, 1000, round(1000 * dice), ml, ml)
    surface = SurfaceScore(1.0, 1.0, 0.5, 0.5)
    score = ScanScore(name, patient or name, found, surface, NO_LESIONS, (), (), 0.005, 5.0, probability)
    score = replace(score, failed=failure is not None)
    case = ComparedCase(name, patient or name, Path(f"{name}.nii.gz"), Path(f"{name}_mask.nii.gz"))
    return CaseResult(case, score, failure, 1.0, 1, None, None)


def results(**methods: list[CaseResult]) -> Results:
    """Methods by name with their cases; `ours` is the reference. Those without cases are broken."""
    given = {name: GivenMethod(name=name, learned_from="labels") for name in methods}
    options = CompareOptions.model_validate(
        {
            "title": "a test",
            "data": {"kind": "phantoms", "n": 9, "first_seed": 0},
            "reference": "ours",
            "methods": list(given.values()),
        }
    )
    found = [
        MethodResult(given[name], tuple(cases), None if cases else "WeightsError: there are none")
        for name, cases in methods.items()
    ]
    return Results(options, tuple(found))


def cases(*dice: float | None) -> list[CaseResult]:
    return [on_case(f"p{number}", value) for number, value in enumerate(dice)]


def test_differences_are_of_the_same_cases() -> None:
    found = results(ours=cases(0.9, 0.8, 0.7, None), other=cases(0.5, 0.8, 0.9, None)).versus[0]
    assert found.difference.mean == pytest.approx((0.4 + 0.0 - 0.2) / 3)
    assert (found.n_better, found.n_equal, found.n_worse) == (1, 1, 1)
    assert (found.difference.n, found.test.p) == (3, None)
    assert found.test.reason == "a test needs 6 patients or more; got 3"


def test_a_patient_with_many_slices_is_one_patient_in_the_test() -> None:
    ours = [on_case(f"s{n}", 0.9, "a" if n < 20 else f"b{n}") for n in range(23)]
    other = [replace(one, score=on_case(one.case.name, 0.5, one.case.patient).score) for one in ours]
    found = results(ours=ours, other=other).versus[0]
    assert (found.test.n, found.difference.n, found.difference.n_patients) == (4, 23, 4)
    assert found.test.p is None


def test_holm_is_over_the_tests_that_were_made() -> None:
    ours = cases(*(0.9 - 0.01 * n for n in range(8)))
    worse = cases(*(0.5 - 0.02 * n for n in range(8)))
    found = results(ours=ours, worse=worse, same=ours, broken=[])
    by_name = {one.name: one for one in found.versus}
    assert by_name["worse"].test.p == pytest.approx(2 / 2**8)
    assert by_name["worse"].p_holm == by_name["worse"].test.p, "the equal one is no test, and the broken one no row"
    assert by_name["same"].p_holm is None


def test_the_answer_tells_better_from_not_told_apart_and_names_the_broken() -> None:
    ours = cases(*(0.9 - 0.01 * n for n in range(9)), None)
    worse = cases(*(0.5 - 0.02 * n for n in range(9)), None)
    close = cases(*(0.9 - 0.01 * n + (0.02 if n % 2 else -0.02) for n in range(9)), None)
    text = " ".join(answer(results(ours=ours, worse=worse, close=close, broken=[])))
    assert "ours is better than: worse. ours is not told apart from: close." in text
    assert "broken gave no result: WeightsError: there are none." in text
    assert "Highest mean of Dice, positive scans: ours, 0.860 (95% interval" in text


def test_where_the_mean_has_another_sign_than_the_test_neither_is_called_better() -> None:
    """Nine patients favour ours by 0.1, one with forty scans the other by 0.05."""
    ours = [*cases(*[0.8] * 9), *(on_case(f"s{n}", 0.5, "many") for n in range(40))]
    other = [*cases(*(0.7 - 0.001 * n for n in range(9))), *(on_case(f"s{n}", 0.55, "many") for n in range(40))]
    text = " ".join(answer(results(ours=ours, other=other)))
    assert "ours against other: neither is called better. By patient the signed ranks favour ours (p 0.0039)," in text
    assert "the mean over cases favours other (-0.022, ours minus other)." in text
    assert "ours is" not in text.replace("ours is number", "")


def test_a_method_judged_on_fewer_cases_is_not_the_highest_but_held_against_ours_on_those_it_has() -> None:
    """It has the three easy cases alone, and the only normal scan in which nothing was found."""
    ours = [*cases(0.95, 0.95, 0.95, 0.1, 0.1, 0.1), on_case("n0", None), on_case("n1", None, false_ml=4)]
    other = [*cases(*[0.4] * 6), on_case("n0", None, false_ml=3), on_case("n1", None, false_ml=3)]
    easy = [*cases(0.9, 0.9, 0.9), on_case("n0", None)]
    found = results(ours=ours, easy=easy, other=other)
    assert found.best_first() == ["ours", "other", "easy"]
    text = " ".join(answer(found))
    assert "Highest mean of Dice, positive scans: ours, 0.525 (" in text
    assert (
        "Not ranked, since they were judged on other or fewer cases: easy, 0.900 (n = 3), "
        "ours minus it on the 3 cases that both have +0.050."
    ) in text
    assert "mL per scan: ours 2.00 (n = 2)." in text


def test_failing_on_a_normal_scan_is_no_better_than_any_answer() -> None:
    ours = [
        on_case("b0", 0.5, probability=0.9),
        on_case("b1", 0.5, probability=0.8),
        on_case("n0", None, false_ml=2, probability=0.1),
        on_case("n1", None, false_ml=4, probability=0.2),
    ]
    refused = on_case("n1", None, failure="RuntimeError: too hard")
    careful = [*ours[:2], on_case("n0", None, false_ml=1, probability=0.1), refused]
    found = results(ours=ours, careful=careful)
    summary = found.summaries["careful"]
    false_ml, off = summary.means["false_positive_ml"], summary.means["absolute_difference_ml"]
    assert (false_ml.n, false_ml.n_undefined, false_ml.mean) == (1, 1, 1.0)
    assert (off.n, off.n_undefined, summary.volume_all.limits.n) == (3, 1, 3)
    assert (summary.scan_specificity.n, summary.scan_specificity.mean) == (2, 0.0)
    assert summary.scan_detection is not None
    assert (summary.scan_detection.n, summary.scan_detection.auc.value) == (4, 0.5), "below every scan that bled"
    assert "mL per scan: ours 3.00 (n = 2)." in " ".join(answer(found)), "none is least beside one with a failure"
    turned = " ".join(answer(results(ours=careful, other=ours)))
    assert "ours 1.00 (n = 1, 1 undefined); least of those with a mask for each of these scans other, 3.00" in turned


def test_too_few_patients_prove_nothing_and_the_answer_says_so() -> None:
    text = " ".join(answer(results(ours=cases(0.9, 0.9), other=cases(0.1, 0.2))))
    assert "Not tested against other: a test needs 6 patients or more; got 2" in text
    assert "These differences prove nothing." in text
    assert "better than" not in text


def test_a_broken_reference_is_said_and_nothing_is_tested() -> None:
    found = results(ours=[], other=cases(0.5, 0.6), third=cases(0.5, 0.6))
    assert (found.versus, found.telling_cases()) == ((), [])
    assert "ours, which the others were to be held against, gave no result" in " ".join(answer(found))


def test_a_method_with_fewer_cases_is_not_ranked_but_compared() -> None:
    full = [cases(*(0.9 - 0.1 * k - 0.01 * n for n in range(6))) for k in range(3)]
    found = results(ours=full[0], second=full[1], third=full[2], fewer=full[1][:5])
    assert [one.method.name for one in found.complete] == ["ours", "second", "third"]
    assert found.ranking is not None
    assert found.ranking.mean_ranks == (1.0, 2.0, 3.0)
    assert {one.name: one.difference.n for one in found.versus} == {"second": 6, "third": 6, "fewer": 5}


def test_best_median_and_worst_and_the_largest_false_alarm() -> None:
    ours = [*cases(0.1, 0.9, 0.5, 0.7, 0.3), on_case("n0", None, false_ml=2), on_case("n1", None, false_ml=7)]
    found = results(ours=ours, other=ours).telling_cases()
    assert found == [("Best", "p1"), ("Median", "p2"), ("Worst", "p0"), ("Largest false alarm", "n1")]


def test_of_equally_bad_cases_the_worst_is_the_one_with_most_blood() -> None:
    """A miss of a drop would hide the miss of a spoonful."""
    ours = [on_case("a", 0.0, ml=0.1), on_case("b", 0.0, ml=9.0), on_case("c", 0.0, ml=2.0), on_case("d", 0.8)]
    assert ("Worst", "b") in results(ours=ours, other=ours).telling_cases()


def test_one_patient_has_one_vote_in_the_mean_by_patient() -> None:
    ours = [on_case(f"s{n}", 0.9, "a") for n in range(8)] + [on_case("t", 0.1, "b"), on_case("u", 0.3, "b")]
    found = results(ours=ours, other=ours).means_by_patient["ours"]
    assert found.mean == pytest.approx((0.9 + 0.2) / 2)
    assert found.n == 2


def test_a_lower_distance_is_better() -> None:
    found = results(ours=cases(0.5, 0.5), other=cases(0.5, 0.5))
    options = found.options.model_copy(update={"measure": "hd95_mm"})
    far = replace(found.methods[1].cases[0].score, surface=SurfaceScore(9.0, 1.0, 0.5, 0.5))
    other = replace(found.methods[1], cases=(replace(found.methods[1].cases[0], score=far), found.methods[1].cases[1]))
    found = Results(options, (found.methods[0], other))
    assert (found.versus[0].n_better, found.versus[0].difference.mean) == (1, pytest.approx(-4.0))
    assert found.best_first() == ["ours", "other"]
