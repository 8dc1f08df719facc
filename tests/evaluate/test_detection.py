"""AUC, average precision, rates and calibration: by hand, against scikit-learn, and with intervals by patient."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from hgisam.evaluate.detection import (
    N_BINS,
    N_RESAMPLES,
    Detection,
    Estimate,
    auc,
    detection,
    detection_curves,
    reliability,
)
from hgisam.evaluate.statistics import figure_interval

CASES = st.lists(st.tuples(st.integers(0, 8), st.booleans(), st.integers(0, 5)), min_size=2, max_size=40)


def unpacked(cases: list[tuple[int, bool, int]]) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """Probabilities with ties, labels, patients."""
    probabilities, labels, patients = zip(*cases, strict=True)
    return torch.tensor(probabilities) / 8, torch.tensor(labels), [f"p{k}" for k in patients]


def cohort(n_patients: int, n_slices: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """Every second patient bleeds in every third slice; patients differ in how high all of their slices score."""
    draw = np.random.default_rng(seed)
    bled = np.arange(n_patients)[:, None] % 2 == 0
    labels = bled & (np.arange(n_slices) % 3 == 0)
    logits = 1.5 * labels - 1 + draw.normal(0, 0.8, (n_patients, 1)) + draw.normal(0, 1, labels.shape)
    patients = [f"p{k:03d}" for k in range(n_patients) for _ in range(n_slices)]
    return torch.from_numpy(logits).flatten().sigmoid(), torch.from_numpy(labels).flatten(), patients


def test_auc_by_hand() -> None:
    scores = torch.tensor([0.1, 0.4, 0.35, 0.8])
    labels = torch.tensor([False, False, True, True])
    assert auc(scores, labels) == 0.75


def test_ties_count_half() -> None:
    assert auc(torch.zeros(6), torch.tensor([True, False, True, False, False, True])) == 0.5


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=30))
def test_auc_is_the_share_of_pairs_in_the_right_order(rows: list[tuple[int, bool]]) -> None:
    scores = torch.tensor([float(score) for score, _ in rows])
    labels = torch.tensor([label for _, label in rows])
    if labels.all() or not labels.any():
        with pytest.raises(ValueError, match="positive and negative"):
            auc(scores, labels)
        return
    pairs = scores[labels][:, None] - scores[~labels][None]
    expected = float(((pairs > 0).double() + 0.5 * (pairs == 0).double()).mean())
    assert auc(scores, labels) == pytest.approx(expected)


def test_every_figure_by_hand() -> None:
    probabilities = torch.tensor([0.95, 0.85, 0.65, 0.35, 0.15], dtype=torch.float64)
    labels = torch.tensor([True, False, True, False, False])
    found = detection(probabilities, labels, ["a", "b", "c", "d", "e"], operating_point=0.65)
    assert (found.n, found.n_positive, found.n_patients, found.n_positive_patients) == (5, 2, 5, 2)
    assert found.auc.value == pytest.approx(5 / 6)
    assert found.average_precision.value == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert found.brier.value == pytest.approx((0.05**2 + 0.85**2 + 0.35**2 + 0.35**2 + 0.15**2) / 5)
    assert found.calibration_error.value == pytest.approx((0.05 + 0.85 + 0.35 + 0.35 + 0.15) / 5)
    rates = (found.sensitivity, found.specificity, found.ppv, found.npv)
    assert [rate.value for rate in rates] == pytest.approx([1.0, 2 / 3, 2 / 3, 1.0])


def test_calibration_error_weighs_bins_by_their_cases() -> None:
    probabilities = torch.tensor([0.22, 0.24, 0.26, 0.28, 1.0], dtype=torch.float64)
    labels = torch.tensor([True, False, False, False, True])
    assert detection(probabilities, labels, list("abcde")).calibration_error.value == pytest.approx(0.0)
    assert detection(probabilities, ~labels, list("abcde")).calibration_error.value == pytest.approx(0.8 * 0.5 + 0.2)


@settings(max_examples=25)
@given(CASES)
def test_figures_are_those_of_scikit_learn(cases: list[tuple[int, bool, int]]) -> None:
    probabilities, labels, patients = unpacked(cases)
    found = detection(probabilities, labels, patients, operating_point=0.5)
    if labels.all() or not labels.any():
        assert (found.auc.value, found.average_precision.value) == (None, None)
        return
    assert found.auc.value == pytest.approx(metrics.roc_auc_score(labels, probabilities))
    assert found.average_precision.value == pytest.approx(metrics.average_precision_score(labels, probabilities))
    assert found.brier.value == pytest.approx(metrics.brier_score_loss(labels, probabilities))
    hits = probabilities >= 0.5
    expected = metrics.recall_score(labels, hits), metrics.recall_score(~labels, ~hits)
    assert (found.sensitivity.value, found.specificity.value) == pytest.approx(expected)
    if hits.any():
        assert found.ppv.value == pytest.approx(metrics.precision_score(labels, hits))
    if not hits.all():
        assert found.npv.value == pytest.approx(metrics.precision_score(~labels, ~hits))


@settings(max_examples=25)
@given(CASES)
def test_curves_are_those_of_scikit_learn(cases: list[tuple[int, bool, int]]) -> None:
    probabilities, labels, patients = unpacked(cases)
    if labels.all() or not labels.any():
        with pytest.raises(ValueError, match="positive and negative"):
            detection_curves(probabilities, labels, patients)
        return
    curves = detection_curves(probabilities, labels, patients)
    x, y, _ = metrics.roc_curve(labels, probabilities, drop_intermediate=False)
    assert curves.roc.x.tolist() == pytest.approx(x.tolist())
    assert curves.roc.y.tolist() == pytest.approx(y.tolist())
    precision, recall, _ = metrics.precision_recall_curve(labels, probabilities)
    assert curves.precision_recall.x.tolist() == pytest.approx(recall[-2::-1].tolist())
    assert curves.precision_recall.y.tolist() == pytest.approx(precision[-2::-1].tolist())


def test_bins_hold_every_case_once() -> None:
    probabilities = torch.tensor([0.0, 0.04, 0.1, 0.55, 0.99, 1.0], dtype=torch.float64)
    labels = torch.tensor([False, True, False, True, True, True])
    bins = reliability(probabilities, labels, list("abcdef"))
    assert len(bins) == N_BINS
    assert [b.n for b in bins] == [2, 1, 0, 0, 0, 1, 0, 0, 0, 2]
    assert [b.n_positive for b in bins] == [1, 0, 0, 0, 0, 1, 0, 0, 0, 2]
    assert bins[0].mean_probability == pytest.approx(0.02)
    assert (bins[2].mean_probability, bins[2].share.value) == (None, None)
    assert bins[2].share.reason == "no case lies in this bin"


def test_the_auc_s_interval_is_that_of_resampled_patients() -> None:
    probabilities, labels, patients = cohort(n_patients=40, n_slices=12, seed=0)
    found = detection(probabilities, labels, patients).auc
    by_patient = list(zip(probabilities.split(12), labels.split(12), strict=True))

    def slowly(chosen: object) -> float:
        scores, shown = zip(*chosen, strict=True)  # type: ignore[call-overload]
        return auc(torch.cat(scores), torch.cat(shown))

    value, low, high = figure_interval(by_patient, slowly, lambda patient: bool(patient[1].any()))
    assert found.value == pytest.approx(value)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.015)


def test_an_interval_by_patient_knows_that_slices_of_one_patient_are_alike() -> None:
    probabilities, labels, patients = cohort(n_patients=40, n_slices=30, seed=1)
    by_patient = detection(probabilities, labels, patients).auc
    by_slice = detection(probabilities, labels, [str(k) for k in range(len(labels))]).auc
    assert width(by_patient) > 1.5 * width(by_slice)


def test_copies_of_a_patient_s_slices_change_no_interval() -> None:
    probabilities, labels, patients = cohort(n_patients=20, n_slices=9, seed=2)
    once = detection(probabilities, labels, patients, operating_point=0.5)
    twice = detection(probabilities.repeat(2), labels.repeat(2), patients * 2, operating_point=0.5)
    for name in ("auc", "brier", "calibration_error", "sensitivity", "ppv"):
        ends = [(found.value, found.low, found.high) for found in (getattr(once, name), getattr(twice, name))]
        assert ends[0] == pytest.approx(ends[1]), name


def width(estimate: Estimate) -> float:
    assert estimate.low is not None and estimate.high is not None
    return estimate.high - estimate.low


def test_a_sensitivity_s_interval_is_the_textbook_s_where_each_patient_has_one_slice() -> None:
    n, sensitivity = 400, 0.8
    probabilities = (torch.arange(n) < sensitivity * n).double()
    found = detection(probabilities, torch.ones(n, dtype=torch.bool), [str(k) for k in range(n)], 0.5).sensitivity
    half = 1.96 * math.sqrt(sensitivity * (1 - sensitivity) / n)
    assert (found.low, found.high) == pytest.approx((sensitivity - half, sensitivity + half), abs=0.15 * half)


def test_resamples_without_a_positive_are_dropped_and_counted() -> None:
    probabilities, _, patients = cohort(n_patients=30, n_slices=4, seed=3)
    labels = torch.tensor([patient in ("p000", "p001", "p002") for patient in patients])
    found = detection(probabilities, labels, patients).auc
    none_drawn = (27 / 30) ** 30
    assert found.reason is None
    assert N_RESAMPLES - found.n_resamples == pytest.approx(none_drawn * N_RESAMPLES, abs=25)


@pytest.mark.parametrize("positive", [True, False])
def test_one_class_has_reasons_instead_of_numbers(positive: bool) -> None:
    labels = torch.full((6,), positive)
    found = detection(torch.linspace(0.1, 0.6, 6), labels, list("aabbcc"), operating_point=0.3)
    reason = "no case is negative" if positive else "no case is positive"
    assert found.auc == found.average_precision == Estimate(None, reason=reason)
    undefined, defined = found.specificity, found.sensitivity
    if not positive:
        undefined, defined = defined, undefined
    assert undefined == Estimate(None, reason=reason)
    assert defined.value is not None
    assert found.brier.value is not None


def test_nobody_at_all_has_reasons_instead_of_numbers() -> None:
    found = detection(torch.zeros(0), torch.zeros(0, dtype=torch.bool), [], operating_point=0.5)
    assert (found.n, found.n_patients) == (0, 0)
    assert all(estimate.value is None and estimate.reason for estimate in estimates(found))


@given(CASES, st.sampled_from([None, 0.0, 0.5, 1.0]))
@settings(max_examples=25)
def test_a_number_is_never_nan_and_whatever_lacks_says_why(
    cases: list[tuple[int, bool, int]], operating_point: float | None
) -> None:
    found = detection(*unpacked(cases), operating_point)
    for estimate in estimates(found):
        assert estimate.value is None or math.isfinite(estimate.value)
        if estimate.reason is None:
            assert estimate.low is not None and estimate.high is not None
            assert 0 <= estimate.low <= estimate.high <= 1
        else:
            assert (estimate.low, estimate.high, estimate.n_resamples) == (None, None, 0)
    assert found == detection(*unpacked(cases), operating_point)


def estimates(found: Detection) -> list[Estimate]:
    return [value for value in vars(found).values() if isinstance(value, Estimate)]


def test_two_patients_who_bled_are_too_few_for_an_interval() -> None:
    probabilities = torch.tensor([0.9, 0.1, 0.8, 0.3, 0.2, 0.85, 0.4])
    labels = torch.tensor([True, False, True, False, False, False, False])
    found = detection(probabilities, labels, list("aabbcde"))
    assert found.auc.value == pytest.approx(9 / 10)
    assert found.auc.reason == "an interval needs 3 patients of each kind; got 2"


def test_a_band_holds_its_curve_and_narrows_with_more_patients() -> None:
    widths = []
    for n_patients in (20, 320):
        curves = detection_curves(*cohort(n_patients, 12, seed=4))
        roc = curves.roc
        assert roc.low is not None and roc.high is not None
        sensitivity = torch.from_numpy(np.interp(roc.grid, roc.x, roc.y))
        assert bool(((roc.low <= sensitivity + 0.02) & (sensitivity - 0.02 <= roc.high)).all())
        assert (roc.low[-1], roc.high[-1]) == (1.0, 1.0)
        widths.append(float((roc.high - roc.low).mean()))
        band = curves.precision_recall
        assert band.low is not None and band.high is not None
        at = torch.searchsorted(band.x, band.grid[50])
        assert band.low[50] < band.y[at] < band.high[50]
    assert widths[1] < 0.5 * widths[0]


def test_precision_at_full_recall_is_that_of_the_least_probable_positive() -> None:
    probabilities, labels, patients = cohort(40, 12, seed=5)
    curve = detection_curves(probabilities, labels, patients).precision_recall
    found = probabilities >= probabilities[labels].min()
    expected = float((labels & found).sum() / found.sum())
    assert float(curve.y[torch.searchsorted(curve.x, 1.0)]) == pytest.approx(expected)
    assert float(curve.y[-1]) == pytest.approx(float(labels.double().mean()))
    assert curve.low is not None and curve.high is not None
    assert curve.low[-1] <= expected <= curve.high[-1]


@pytest.mark.parametrize("wrong", [1.2, -0.1, float("nan")])
def test_what_is_no_probability_is_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match="expected probabilities in"):
        detection(torch.tensor([0.5, wrong]), torch.tensor([True, False]), ["a", "b"])


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="got 2, 2 and 1"):
        detection(torch.tensor([0.5, 0.4]), torch.tensor([True, False]), ["a"])
