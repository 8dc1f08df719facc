"""What came of a comparison, as numbers: means, differences by patient, ranks; and which cases to look at."""

import statistics as numbers
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hgisam.compare.runner import CaseResult, MethodResult
from hgisam.compare.settings import LOWER_IS_BETTER, CompareOptions
from hgisam.compare.statistics import Ranking, SignedRank, by_patient, holm, rank_methods, signed_rank
from hgisam.evaluate.folders import EvaluationReport
from hgisam.evaluate.statistics import MeanInterval, mean_interval
from hgisam.evaluate.summary import MEASURES, Measure, Summary


@dataclass(frozen=True)
class Versus:
    """The reference method against another, on the cases that both have.

    Attributes:
        name: the other method.
        difference: reference minus other, mean over cases, its interval over patients.
        n_better: cases in which the reference is better.
        n_equal: in which both are equal.
        n_worse: in which it is worse.
        test: of the patients' mean differences.
        p_holm: the test's p, adjusted for all tests of this comparison.
    """

    name: str
    difference: MeanInterval
    n_better: int
    n_equal: int
    n_worse: int
    test: SignedRank
    p_holm: float | None


@dataclass(frozen=True)
class Results:
    """All methods.

    Attributes:
        options: of the comparison.
        methods: as they came, broken ones among them.
    """

    options: CompareOptions
    methods: tuple[MethodResult, ...]

    @property
    def measure(self) -> Measure:
        """What tests and ranking go by."""
        return next(measure for measure in MEASURES if measure.name == self.options.measure)

    @property
    def higher_is_better(self) -> bool:
        """Of the measure."""
        return self.options.measure not in LOWER_IS_BETTER

    @property
    def working(self) -> tuple[MethodResult, ...]:
        """Methods that gave at least one mask."""
        return tuple(found for found in self.methods if found.works)

    @property
    def broken(self) -> tuple[MethodResult, ...]:
        """The others."""
        return tuple(found for found in self.methods if not found.works)

    @property
    def nothing_failed(self) -> bool:
        """Whether every method gave a mask for every case."""
        return not any(found.failure or found.failed_cases for found in self.methods)

    @cached_property
    def reports(self) -> dict[str, EvaluationReport]:
        """Of each working method, by name: what `hgisam evaluate` would say of its masks."""
        return {
            found.method.name: EvaluationReport(tuple(one.score for one in found.cases), (), (), (), by_patient=True)
            for found in self.working
        }

    @cached_property
    def summaries(self) -> dict[str, Summary]:
        """The numbers in `reports`."""
        return {name: report.summary for name, report in self.reports.items()}

    @cached_property
    def values(self) -> dict[str, dict[str, float]]:
        """By method, by case: the measure, where it is over the case and defined."""
        measure, values = self.measure, dict[str, dict[str, float]]()
        for found in self.working:
            own = {one.case.name: measure.value(one.score) for one in found.cases if measure.over(one.score)}
            values[found.method.name] = {case: value for case, value in own.items() if value is not None}
        return values

    @cached_property
    def means_by_patient(self) -> dict[str, MeanInterval]:
        """By method: the mean of the measure over patients, each with the mean of his scans; one patient, one vote."""
        means = {}
        for name, values in self.values.items():
            own = by_patient(list(values.values()), [self.patients[case] for case in values])
            means[name] = mean_interval(own, [str(number) for number in range(len(own))])
        return means

    @cached_property
    def patients(self) -> dict[str, str]:
        """Whose scan each case is."""
        return {one.case.name: one.case.patient for found in self.methods for one in found.cases}

    @cached_property
    def complete(self) -> tuple[MethodResult, ...]:
        """Working methods with a value for the same cases: those that are ranked.

        The cases are as many as any method has a value for; of several such sets, the reference's, else the commonest.
        """
        cases = {name: frozenset(values) for name, values in self.values.items()}
        most = max(map(len, cases.values()), default=0)
        fullest = [own for own in cases.values() if len(own) == most]
        reference = cases.get(self.options.reference)
        same = reference if reference in fullest else next((own for own, _ in Counter(fullest).most_common(1)), None)
        return tuple(found for found in self.working if cases[found.method.name] == same)

    @cached_property
    def ranking(self) -> Ranking | None:
        """Of `complete`, in its order, over the patients whose cases all of them have a value for; None without any."""
        names = [found.method.name for found in self.complete]
        if not names:
            return None
        shared = self._shared(names)
        owners = [self.patients[case] for case in shared]
        columns = [by_patient([self.values[name][case] for case in shared], owners) for name in names]
        table = np.array(columns, dtype=np.float64).T.reshape(-1, len(names))
        return rank_methods(table, higher_is_better=self.higher_is_better)

    @cached_property
    def versus(self) -> tuple[Versus, ...]:
        """The reference against each other working method; empty where the reference itself is broken."""
        own = self.options.reference
        others = [found.method.name for found in self.working if found.method.name != own]
        if own not in self.values:
            return ()
        found = [self._against(own, other) for other in others]
        adjusted = holm([one.test.p for one in found])
        return tuple(
            Versus(one.name, one.difference, one.n_better, one.n_equal, one.n_worse, one.test, p)
            for one, p in zip(found, adjusted, strict=True)
        )

    def best_first(self) -> list[str]:
        """The `complete` methods by the mean of the measure; then the others, whose means are of other cases, as they
        came."""

        def key(name: str) -> float:
            mean = numbers.fmean(self.values[name].values() or [0.0])
            return -mean if self.higher_is_better else mean

        complete = [found.method.name for found in self.complete]
        return [*sorted(complete, key=key), *(name for name in self.values if name not in complete)]

    def without_failure_on_normals(self) -> list[str]:
        """Working methods that gave a mask for each of the normal scans that the reference was asked about, and were
        asked about no other: those whose false alarms can be held against each other. Empty where there is none."""
        normal = {
            name: {case: one for case, one in self.case_results(name).items() if not one.score.positive}
            for name in self.values
        }
        asked = normal.get(self.options.reference, {}).keys()
        return [
            name
            for name, own in normal.items()
            if asked and own.keys() == asked and not any(one.score.failed for one in own.values())
        ]

    def telling_cases(self) -> list[tuple[str, str]]:
        """Best, median and worst case of the reference method, and the normal scan with its largest false alarm.

        Returns:
            (what it is, case); each case once. Empty where the reference is broken.
        """
        own = self.options.reference
        if own not in self.values:
            return []
        values = self.values[own]
        reference_ml = {name: one.score.overlap.reference_ml for name, one in self.case_results(own).items()}
        sign = -1 if self.higher_is_better else 1  # of equally bad ones, the worst is the one with most blood
        order = sorted(
            values, key=lambda case: (values[case], sign * reference_ml[case], case), reverse=self.higher_is_better
        )
        chosen = [("Best", order[0]), ("Median", order[len(order) // 2]), ("Worst", order[-1])] if order else []
        normal = [one for one in self.case_results(own).values() if not one.score.positive]
        alarm = max(normal, key=lambda one: one.score.overlap.prediction_ml, default=None)
        if alarm is not None and alarm.score.overlap.n_prediction:
            chosen.append(("Largest false alarm", alarm.case.name))
        once: dict[str, str] = {}
        for what, case in chosen:
            once[case] = f"{once[case]} and {what.lower()}" if case in once else what
        return [(what, case) for case, what in once.items()]

    def case_results(self, name: str) -> Mapping[str, CaseResult]:
        """A method's results by case."""
        return {one.case.name: one for found in self.methods if found.method.name == name for one in found.cases}

    def _shared(self, names: Sequence[str]) -> list[str]:
        return sorted(set.intersection(*(set(self.values[name]) for name in names)))

    def _against(self, own: str, other: str) -> Versus:
        shared = self._shared([own, other])
        differences = [self.values[own][case] - self.values[other][case] for case in shared]
        differences = [0.0 if abs(value) <= 1e-12 else value for value in differences]
        owners = [self.patients[case] for case in shared]
        gains = [value if self.higher_is_better else -value for value in differences]
        return Versus(
            name=other,
            difference=mean_interval(differences, owners),
            n_better=sum(gain > 0 for gain in gains),
            n_equal=sum(gain == 0 for gain in gains),
            n_worse=sum(gain < 0 for gain in gains),
            test=signed_rank(by_patient(differences, owners)),
            p_holm=None,
        )
