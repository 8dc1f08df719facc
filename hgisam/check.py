"""Many scans -> a verdict on each: what `hgisam check` tells, by the code that segment and classify begin with."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from hgisam import NOTICE, __version__
from hgisam.cases import Case
from hgisam.exits import ExitCode
from hgisam.intake import Aspect, CheckedScan, Doubt, ImplausibleScan, Scan
from hgisam.io.errors import ScanRefused
from hgisam.progress import case_progress
from hgisam.records import plausibility_values, recorded_path, recorded_reason, valid_text

log = logging.getLogger(__name__)


CHECK_COLUMNS = ("case", "verdict", "slices", "spacing_mm", "thickness_mm", "kernel")


@runtime_checkable
class ScanChecker(Protocol):
    """What a check needs of a `Segmenter` or a `MaskSegmenter`."""

    def check(self, scan: Scan) -> CheckedScan: ...


@dataclass(frozen=True)
class CaseCheck:
    """The verdict on one case.

    Attributes:
        case: the case.
        verdict: ok; warning: usable, with the doubts to be known; refused.
        doubts: why; empty where the verdict is ok.
        facts: what was found, by aspect; empty where the scan could not be read.
    """

    case: Case
    verdict: str
    doubts: tuple[Doubt, ...]
    facts: dict[str, Any]

    def row(self) -> dict[str, Any]:
        """The verdict and the most telling facts, for a table; columns as in CHECK_COLUMNS."""
        reading = self.facts.get(Aspect.READING, {})
        thickness = self.facts.get(Aspect.THICKNESS, {}).get("nominal_mm", [])
        return {
            "case": self.case.name,
            "verdict": self.verdict,
            "slices": reading.get("shape", [None])[0],
            "spacing_mm": reading.get("spacing_mm", [None])[0],
            "thickness_mm": " and ".join(f"{mm:g}" for mm in thickness) or None,
            "kernel": self.facts.get(Aspect.KERNEL, {}).get("name"),
        }

    def record(self) -> dict[str, Any]:
        """The verdict as values for JSON, with no folder's name and no patient's."""
        return {
            "case": self.case.name,
            "input": recorded_path(self.case.path),
            "verdict": self.verdict,
            "reasons": [
                {"aspect": doubt.aspect, "text": recorded_reason(doubt.text, self.case.path)} for doubt in self.doubts
            ],
            **self.facts,
        }


def check_cases(model: ScanChecker, cases: Sequence[Case], *, show_progress: bool = False) -> tuple[CaseCheck, ...]:
    """Read and judge every case; nothing is written, and a scan that is refused does not end the others.

    Args:
        model: what would segment them: how the brain is found comes with its weights.
        cases: at least one.
        show_progress: whether to draw a progress bar on the terminal.
    """
    checks = []
    with case_progress(len(cases), show=show_progress) as begin:
        for case in cases:
            begin(case.name)
            checks.append(_check(model, case))
    return tuple(checks)


def document(checks: Sequence[CaseCheck]) -> dict[str, Any]:
    """All verdicts as one JSON document."""
    return {"hgisam_version": __version__, "notice": NOTICE, "cases": [check.record() for check in checks]}


def exit_code(checks: Sequence[CaseCheck]) -> ExitCode:
    """How the command ends: warnings are no failure, a refusal is one."""
    if all(check.verdict != "refused" for check in checks):
        return ExitCode.OK
    return ExitCode.SOME_FAILED if len(checks) > 1 else ExitCode.REFUSED


def _check(model: ScanChecker, case: Case) -> CaseCheck:
    try:
        checked = model.check(case.scan)
    except ImplausibleScan as error:
        log.error("refused: %s", valid_text(str(error)))
        reasons = tuple(Doubt(error.aspect, reason) for reason in error.plausibility.reasons)
        return CaseCheck(case, "refused", reasons, {Aspect.HU: plausibility_values(error.plausibility)})
    except ScanRefused as error:
        log.error("refused: %s", valid_text(str(error)))
        return CaseCheck(case, "refused", (Doubt(Aspect.READING, valid_text(str(error))),), {})
    except Exception as error:
        log.error("failed: %s: %s: %s", valid_text(str(case.path)), type(error).__name__, error)
        log.debug("%s: where it failed", valid_text(str(case.path)), exc_info=error)
        reason = valid_text(f"{type(error).__name__}: {error}")
        return CaseCheck(case, "refused", (Doubt(Aspect.READING, f"unexpected {reason}"),), {})
    return CaseCheck(case, checked.verdict, checked.doubts, checked.facts())
