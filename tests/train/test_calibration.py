"""Temperature, offset, scan head and operating point."""

import logging
import math
from dataclasses import replace

import pytest
import torch

from hgisam.evaluate.detection import auc
from hgisam.model.scan_head import ScanHead
from hgisam.train.calibration import (
    ScoredScan,
    calibrate,
    fit_scan_head,
    fit_temperature,
    pick_operating_point,
    slice_auc,
)


def test_the_temperature_that_made_the_labels_is_found() -> None:
    generator = torch.Generator().manual_seed(0)
    true_logits = 2 * torch.randn(40_000, generator=generator)
    labels = torch.rand(40_000, generator=generator) < true_logits.sigmoid()
    assert fit_temperature(3.0 * true_logits, labels) == pytest.approx((3.0, 0.0), rel=0.05, abs=0.1)


def test_showing_positive_slices_more_often_than_they_are_is_the_offset() -> None:
    generator = torch.Generator().manual_seed(0)
    shift = math.log(0.1 / 0.9)  # a tenth is positive, a training shows half and half
    logits = 2 * torch.randn(40_000, generator=generator)
    labels = torch.rand(40_000, generator=generator) < (logits + shift).sigmoid()
    temperature, offset = fit_temperature(logits, labels)
    assert (temperature, offset) == pytest.approx((1.0, -shift), rel=0.05)
    assert float(((logits - offset) / temperature).sigmoid().mean()) == pytest.approx(
        float(labels.float().mean()), rel=0.01
    )


@pytest.mark.parametrize(("sensitivity", "expected"), [(1.0, 0.2), (0.75, 0.5), (0.5, 0.7), (0.1, 0.9)])
def test_the_operating_point_is_the_highest_that_finds_enough(sensitivity: float, expected: float) -> None:
    probabilities = torch.tensor([0.9, 0.1, 0.7, 0.5, 0.6, 0.2])
    labels = torch.tensor([True, False, True, True, False, True])
    assert pick_operating_point(probabilities, labels, sensitivity) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("sensitivity", "n_unseen", "expected", "told"),
    [(0.75, 0, 0.5, ""), (0.75, 1, 0.2, ""), (0.6, 1, 0.5, ""), (0.75, 2, 0.2, "2 of them"), (1.0, 1, 0.2, "1 of")],
)
def test_positive_slices_that_nothing_finds_are_missed_and_too_many_of_them_are_told(
    caplog: pytest.LogCaptureFixture, sensitivity: float, n_unseen: int, expected: float, told: str
) -> None:
    """Four are seen. Of 5, 3 are 0.6 and all 4 are 0.8; of 6, 0.75 are 5, more than are seen."""
    probabilities = torch.tensor([0.9, 0.1, 0.7, 0.5, 0.6, 0.2])
    labels = torch.tensor([True, False, True, True, False, True])
    with caplog.at_level(logging.WARNING):
        found = pick_operating_point(probabilities, labels, sensitivity, n_unseen=n_unseen)
    assert found == pytest.approx(expected)
    assert (told in caplog.text) if told else not caplog.records


def scored(n: int, seed: int, *, scale: float = 1.0) -> list[ScoredScan]:
    """Scans of ten slices; every second bleeds in three of them, whose log-odds are higher by 3."""
    generator = torch.Generator().manual_seed(seed)
    scans = []
    for number in range(n):
        labels = torch.zeros(10, dtype=torch.bool)
        labels[4:7] = number % 2 == 0
        log_odds = torch.randn(10, generator=generator, dtype=torch.float64) - 1.5 + 3.0 * labels
        scans.append(ScoredScan(scale * log_odds, labels, torch.ones(10, dtype=torch.bool), number % 2 == 0))
    return scans


def chosen(head: ScanHead) -> list[bool]:
    """Which features a scan head was fitted on."""
    return [weight != 0 for weight in head.weights]


def test_calibration_undoes_an_overconfident_scale() -> None:
    plain, loud = (calibrate(scored(40, 0, scale=scale), 0.9) for scale in (1.0, 4.0))
    assert loud.temperature == pytest.approx(4.0 * plain.temperature, rel=1e-3)
    assert loud.operating_point == pytest.approx(plain.operating_point, abs=1e-3)
    assert loud.scan_head.weights == pytest.approx(plain.scan_head.weights, abs=2e-2)


def test_the_operating_point_finds_the_share_that_was_asked_for() -> None:
    scans = scored(40, 1)
    found = calibrate(scans, 0.95)
    probabilities = torch.cat([found.log_odds(scan.log_odds).sigmoid() for scan in scans])
    labels = torch.cat([scan.labels for scan in scans])
    assert float((probabilities[labels] >= found.operating_point).double().mean()) >= 0.95
    assert float((probabilities[labels] > found.operating_point).double().mean()) < 0.95


def test_unknown_slices_choose_nothing() -> None:
    scans = scored(20, 2)
    with_unknown = [
        ScoredScan(
            torch.cat([scan.log_odds, torch.full((2,), -40.0).double()]),
            torch.cat([scan.labels, torch.zeros(2, dtype=torch.bool)]),
            torch.cat([scan.known, torch.zeros(2, dtype=torch.bool)]),
            scan.bled,
        )
        for scan in scans
    ]
    plain, other = calibrate(scans, 0.9), calibrate(with_unknown, 0.9)
    assert (plain.temperature, plain.operating_point) == (other.temperature, other.operating_point)
    assert slice_auc(scans) == slice_auc(with_unknown)


def test_a_scan_has_a_say_in_the_scan_head_where_it_is_known_whether_it_bled() -> None:
    """None of the scans that are added has a slice whose label is known, so that slices choose what they chose."""
    scans = scored(20, 2)
    unlabelled = torch.zeros(10, dtype=torch.bool)
    unknown = [replace(scan, known=unlabelled, bled=None) for scan in scored(20, 6, scale=-1.0)]
    told = [replace(scan, known=unlabelled) for scan in scored(20, 6, scale=-1.0)]
    alone = calibrate(scans, 0.9).scan_head
    assert calibrate([*scans, *unknown], 0.9).scan_head == alone
    assert calibrate([*scans, *told], 0.9).scan_head != alone


def test_the_share_is_of_all_positive_slices_those_without_brain_among_them() -> None:
    """Thirty slices show their blood, and two that bleed show no brain: 0.9 of 32 are 29, of 30 they are 27."""
    scans = scored(20, 1)
    found = calibrate([replace(scan, n_unseen=1) if n < 2 else scan for n, scan in enumerate(scans)], 0.9)
    probabilities = torch.cat([found.log_odds(scan.log_odds).sigmoid() for scan in scans])
    labels = torch.cat([scan.labels for scan in scans])
    assert int((probabilities[labels] >= found.operating_point).sum()) == 29
    assert calibrate(scans, 0.9).operating_point > found.operating_point


def test_scans_of_one_patient_are_left_out_together() -> None:
    """Every patient's scans come three times. Told apart by patient, nothing is chosen otherwise than from one each;
    each by itself, a scan would be predicted by its own copies.
    """
    once = scored(8, 11)
    slices, bled = [scan.log_odds for scan in once], [bool(scan.bled) for scan in once]
    names = [f"p{number}" for number in range(len(once))]
    apart = chosen(fit_scan_head(slices, bled))
    assert chosen(fit_scan_head(slices, bled, names)) == apart
    assert chosen(fit_scan_head(3 * slices, 3 * bled, 3 * names)) == apart
    assert chosen(fit_scan_head(3 * slices, 3 * bled)) != apart


def test_many_scans_of_too_few_patients_fit_no_scan_head() -> None:
    scans = scored(12, 7)
    slices, bled = [scan.log_odds for scan in scans], [bool(scan.bled) for scan in scans]
    assert fit_scan_head(slices, bled, [f"p{number % 4}" for number in range(12)]) == ScanHead()
    named = [replace(scan, patient=f"p{number % 4}") for number, scan in enumerate(scans)]
    assert calibrate(named, 0.9).scan_head == ScanHead()
    assert calibrate(scans, 0.9).scan_head != ScanHead()


def test_a_scan_head_tells_scans_apart_and_is_calibrated() -> None:
    scans = scored(100, 3)
    bled = [bool(scan.labels.any()) for scan in scans]
    head = fit_scan_head([scan.log_odds for scan in scans], bled)
    said = torch.stack([head(scan.log_odds) for scan in scored(100, 4)]).sigmoid()
    assert auc(said.float(), torch.tensor(bled)) > 0.9
    assert float(said.mean()) == pytest.approx(0.5, abs=0.06)


def test_with_too_few_scans_the_highest_slice_speaks() -> None:
    scans = scored(4, 5)
    assert fit_scan_head([scan.log_odds for scan in scans], [True, False, True, False]) == ScanHead()
