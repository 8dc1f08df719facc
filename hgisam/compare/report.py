"""The report of a comparison: the answer first, then tables and figures, each with its n; what failed is said."""

import logging
import math
import platform
import statistics as numbers
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from hgisam import NOTICE, __version__
from hgisam.compare.data import ComparedData
from hgisam.compare.document import (
    Answer,
    Block,
    Code,
    Heading,
    Items,
    Paragraph,
    Picture,
    Table,
    as_html,
    as_markdown,
)
from hgisam.compare.figures import write_boxes, write_case, write_pairs, write_ranks, write_volumes
from hgisam.compare.results import Results, Versus
from hgisam.compare.runner import METHODS, MethodResult
from hgisam.compare.settings import CompareOptions, Comparison, TrainedMethod
from hgisam.compare.strata import KINDS, StratumMean, contrasts_hu, strata
from hgisam.evaluate.report import write_report as write_evaluation
from hgisam.evaluate.statistics import CONFIDENCE, MeanInterval
from hgisam.evaluate.summary import MEASURES, PUBLISHED_DICE
from hgisam.io.atomic import atomic_write, make_output_folder
from hgisam.io.errors import OutputError
from hgisam.io.tables import write_csv
from hgisam.records import recorded_reason
from hgisam.wording import counted

log = logging.getLogger(__name__)

HTML, MARKDOWN = "report.html", "report.md"
MEANS, CASES, DIFFERENCES, RANKS, STRATA = "means.csv", "cases.csv", "differences.csv", "ranks.csv", "strata.csv"
OUTPUTS = (HTML, MARKDOWN, MEANS, CASES, DIFFERENCES, RANKS, STRATA)
FIGURES = "figures"
LEVEL = 1 - CONFIDENCE

_SHOWN = ("dice", "sensitivity", "precision", "nsd_2mm", "hd95_mm", "lesion_f1", "absolute_difference_ml")
_HEADS = {
    "dice": "Dice", "iou": "IoU", "sensitivity": "sensitivity", "precision": "precision", "nsd_1mm": "NSD 1 mm",
    "nsd_2mm": "NSD 2 mm", "hd95_mm": "HD95 mm", "assd_mm": "ASSD mm", "lesion_f1": "lesion F1",
    "absolute_difference_ml": "|mL off|", "false_positive_ml": "false mL, normals",
}  # fmt: skip
_FORMS = {measure.name: measure.form for measure in MEASURES}

Row = dict[str, Any]


def write_comparison(
    comparison: Comparison, results: Results, data: ComparedData, folder: Path, command: str, n_left_out: int
) -> None:
    """Write tables, figures, `report.md` and, last, `report.html`; and all that `hgisam evaluate` tells by method.

    Patients are written as numbers, in the order in which they come.

    Args:
        comparison: what was compared.
        results: what came out.
        data: on what.
        folder: the comparison's.
        command: that made it.
        n_left_out: so many methods of the YAML were not asked for.

    Raises:
        OutputError: where something cannot be written.
    """
    for name, report in results.reports.items():
        write_evaluation(report, folder / METHODS / _folder_name(results, name))
    write_csv(folder / MEANS, _mean_rows(results), _MEAN_COLUMNS)
    contrasts = contrasts_hu(data.cases)
    sorted_means = strata(results, contrasts)
    write_csv(folder / CASES, _case_rows(results, contrasts), _CASE_COLUMNS)
    write_csv(folder / STRATA, [_stratum_row(one) for one in sorted_means], _STRATUM_COLUMNS)
    write_csv(folder / DIFFERENCES, [_difference_row(results, one) for one in results.versus], _DIFFERENCE_COLUMNS)
    write_csv(folder / RANKS, _rank_rows(results), ("method", "mean_rank", "n_patients"))
    make_output_folder(folder / FIGURES)
    what = _what(comparison, results, data, command, n_left_out)
    blocks = _blocks(what, results, sorted_means, data, folder)
    title = comparison.compare.title
    for name, text in ((MARKDOWN, as_markdown(title, NOTICE, blocks)), (HTML, as_html(title, NOTICE, blocks, folder))):
        with atomic_write(folder / name) as file:
            file.write(text.encode("utf-8"))


def answer(results: Results) -> tuple[str, ...]:
    """What came out, in a few sentences that claim no more than was tested."""
    own, measure = results.options.reference, results.measure
    sentences = []
    n_ranked, order = len(results.complete), results.best_first()
    ranked, others = order[:n_ranked], order[n_ranked:]
    if ranked:
        what = "Mean" if len(ranked) == 1 else "Highest mean" if results.higher_is_better else "Lowest mean"
        sentences.append(f"{what} of {measure.title}: {ranked[0]}, {_mean_text(results, ranked[0])}.")
        if own in ranked[1:]:
            sentences.append(f"{own} is number {ranked.index(own) + 1} of {n_ranked}, {_mean_text(results, own)}.")
    if others:
        told = "; ".join(_unranked_text(results, name) for name in others)
        sentences.append(f"Not ranked, since they were judged on other or fewer cases: {told}.")
    if own not in results.values:
        sentences.append(f"{own}, which the others were to be held against, gave no result, so nothing was tested.")
    else:
        sentences += _tested(results)
    sentences += _false_alarms(results)
    for found in results.broken:
        sentences.append(f"{found.method.name} gave no result: {_reason(found)}.")
    return tuple(sentences)


def _unranked_text(results: Results, name: str) -> str:
    """A method's mean, and how far the reference is from it on the cases that both have."""
    own, text = results.options.reference, f"{name}, {_mean_text(results, name)}"
    versus = next((one for one in results.versus if one.name == name), None)
    if versus is None or versus.difference.mean is None:
        return text
    difference = _difference_form(results).format(versus.difference.mean)
    return f"{text}, {own} minus it on the {counted(versus.difference.n, 'case')} that both have {difference}"


def _false_alarms(results: Results) -> list[str]:
    own = results.options.reference
    false_ml = {name: found.means["false_positive_ml"] for name, found in results.summaries.items()}
    if own not in false_ml or not false_ml[own].n + false_ml[own].n_undefined:
        return []
    text = f"False alarms on normal scans, mL per scan: {own} {_interval_text(false_ml[own], '{:.2f}')}"
    means = {name: false_ml[name].mean or 0.0 for name in results.without_failure_on_normals()}
    least = min(means, key=lambda name: means[name], default=own)
    if least == own:
        return [f"{text}."]
    among = "all" if len(means) == len(false_ml) else "those with a mask for each of these scans"
    return [f"{text}; least of {among} {least}, {_interval_text(false_ml[least], '{:.2f}')}."]


def _tested(results: Results) -> list[str]:
    """What the tests say; direction and p are of the same signed ranks."""
    own, sign = results.options.reference, 1 if results.higher_is_better else -1
    tested = [one for one in results.versus if one.p_holm is not None]
    kinds: dict[str, list[str]] = {"better than": [], "worse than": [], "not told apart from": []}
    at_odds = []
    for one in tested:
        by_ranks, by_mean = sign * (one.test.balance or 0.0), sign * (one.difference.mean or 0.0)
        if one.p_holm is None or one.p_holm >= LEVEL:
            kinds["not told apart from"].append(one.name)
        elif by_ranks * by_mean < 0:
            better, other = (own, one.name) if by_ranks > 0 else (one.name, own)
            at_odds.append(
                f"{own} against {one.name}: neither is called better. By patient the signed ranks favour {better}"
                f" (p {_p_text(one.p_holm)}), the mean over cases favours {other}"
                f" ({_difference_form(results).format(one.difference.mean)}, {own} minus {one.name})."
            )
        else:
            kinds["better than" if by_ranks > 0 else "worse than"].append(one.name)
    sentences = [f"{own} is {kind}: {', '.join(names)}." for kind, names in kinds.items() if names] + at_odds
    if sentences:
        sentences[-1] += f" (Wilcoxon by patient, Holm-adjusted p < {LEVEL:.2g} over {len(tested)} tests.)"
    untested = [one for one in results.versus if one.p_holm is None]
    if untested:
        reasons = "; ".join(sorted({one.test.reason or "" for one in untested}))
        names = ", ".join(one.name for one in untested)
        sentences.append(f"Not tested against {names}: {reasons}. These differences prove nothing.")
    return sentences


def _blocks(
    what: Sequence[Block], results: Results, sorted_means: Sequence[StratumMean], data: ComparedData, folder: Path
) -> list[Block]:
    blocks: list[Block] = [Answer(answer(results)), *what]
    if results.working:
        blocks += [Heading("Means"), _means_table(results)]
        blocks += _figure(folder, "boxes.png", lambda p: write_boxes(p, results), _boxes_caption(results))
    if sorted_means:
        blocks += [Heading("What is hard"), *_strata_tables(results, sorted_means)]
    if results.versus:
        blocks += [Heading(f"{results.options.reference} against each other method"), _versus_table(results)]
        caption = "Every case as a point. " + _n_text(results)
        blocks += _figure(folder, "pairs.png", lambda p: write_pairs(p, results), caption)
    blocks += _ranks(results, folder)
    if results.working:
        blocks += [Heading("Volumes"), _volume_table(results)]
        caption = "Axes are linear below 1 mL and logarithmic above. All cases, normal ones too."
        blocks += _figure(folder, "volumes.png", lambda p: write_volumes(p, results), caption)
    blocks += _cases(results, folder)
    if results.working:
        blocks += [Heading("Time and memory"), _cost_table(results)]
    blocks += _trainings(results)
    blocks += [Heading("What failed"), *_failures(results, data)]
    blocks += [Heading("How to read this"), Items(_reading(results))]
    return [*blocks, Heading("Settings"), *_settings(results)]


def _what(comparison: Comparison, results: Results, data: ComparedData, command: str, n_left_out: int) -> list[Block]:
    options = comparison.compare
    positive = max((found.n_positive for found in results.summaries.values()), default=0)
    normal = max((found.n_normal for found in results.summaries.values()), default=0)
    folds = "Nothing is trained here: every method comes as it is."
    if any(isinstance(method, TrainedMethod) for method in options.methods):
        folds = "What is trained here is judged, in each fold, on patients that it has not seen."
        folds += f" {options.folds} folds, dealt by patient with seed {options.seed}."
    items = [f"Data: {data.description}; {positive} with hemorrhage, {normal} without.", folds]
    if n_left_out:
        n = len(options.methods)
        items.append(f"{n} of the YAML's {n + n_left_out} methods are compared here; p is adjusted for these alone.")
    items.append(f"Everything is tested by {results.measure.title}; other measures are shown, not tested.")
    rows = tuple((found.method.name, _learned_from(found, options)) for found in results.methods)
    caption = f"{len(rows)} methods; {options.reference} is the one that the others are held against."
    return [
        Heading("What was compared"),
        Paragraph(comparison.source),
        Items(tuple(items)),
        Table(("method", "has learned from"), rows, caption, own=options.reference, prose=True),
        Code(command),
    ]


def _learned_from(found: MethodResult, options: CompareOptions) -> str:
    """What a method states, and how many folds it is judged in, where it is not all of them."""
    method = found.method
    if not isinstance(method, TrainedMethod) or method.folds is None or len(method.folds) == options.folds:
        return method.learned_from
    return f"{method.learned_from} (judged in {len(method.folds)} of {options.folds} folds)"


def _means_table(results: Results) -> Table:
    shown = _SHOWN if results.measure.name in _SHOWN else (results.measure.name, *_SHOWN)
    several = any(mean.n < len(results.values[name]) for name, mean in results.means_by_patient.items())
    names = results.best_first()
    summaries = [results.summaries[name] for name in names]
    failed = [[one for one in results.case_results(name).values() if one.score.failed] for name in names]
    columns = [("n", [f"{summary.n_positive} + {summary.n_normal}" for summary in summaries])]
    if any(failed):
        split = [(sum(one.score.positive for one in of_method), len(of_method)) for of_method in failed]
        columns.append(("failed", [f"{n_positive} + {n - n_positive}" for n_positive, n in split]))
    if several:
        by_patient = [results.means_by_patient[name] for name in names]
        columns.append(_column(f"{_HEADS[results.measure.name]} by patient", by_patient, results.measure.form))
    columns += [
        _column(_HEADS[measure], [summary.means[measure] for summary in summaries], _FORMS[measure])
        for measure in (*shown, "false_positive_ml")
    ]
    columns.append(_column("slice Dice*", [summary.positive_slices_only_dice for summary in summaries], "{:.3f}"))
    caption = (
        f"Mean [{CONFIDENCE:.0%} bootstrap interval over patients], best first of those judged on the same cases, then"
        " the others. n: scans with hemorrhage + without; likewise those that failed. Beside a figure, n is how many"
        " values it is the mean of, and how many more are undefined; in the column's head where that is the same for"
        " all. Dice, sensitivity, NSD, HD95 and lesion F1 are over scans with hemorrhage, a miss counted; precision is"
        " over scans with a prediction; mL off over all. * The last column averages slices with hemorrhage alone, as"
        " published figures do: false alarms elsewhere cost it nothing."
    )
    if several:
        caption += " By patient: the mean over patients, each with the mean of his scans."
    heads = ("method", *(head for head, _ in columns))
    rows = zip(names, *(cells for _, cells in columns), strict=True)
    return Table(heads, tuple(rows), caption, own=results.options.reference)


def _column(head: str, means: Sequence[MeanInterval | None], form: str) -> tuple[str, list[str]]:
    """A column of means, one for each method, with n and how many are undefined: in the head where these are alike."""
    known = {_n_of(mean) for mean in means if mean is not None}
    if len(known) == 1:
        return f"{head} ({known.pop()})", ["-" if mean is None else _short(mean, form) for mean in means]
    return head, ["-" if mean is None else f"{_short(mean, form)} ({_n_of(mean)})" for mean in means]


def _strata_tables(results: Results, sorted_means: Sequence[StratumMean]) -> list[Block]:
    """By each kind, a row per method, best mean first, and a column per stratum."""
    blocks: list[Block] = []
    for by, what in KINDS.items():
        means = {(one.method, one.name): one.mean for one in sorted_means if one.by == by}
        names = list(dict.fromkeys(one.name for one in sorted_means if one.by == by))
        if not names:
            continue
        methods = results.best_first()
        columns = [
            _column(name, [means.get((method, name)) for method in methods], results.measure.form) for name in names
        ]
        caption = (
            f"{what}. {results.measure.title}, mean [{CONFIDENCE:.0%} bootstrap interval over patients], and how many"
            " scans: in the column's head where all methods have the same, else beside each figure."
        )
        heads = ("method", *(head for head, _ in columns))
        rows = zip(methods, *(cells for _, cells in columns), strict=True)
        blocks.append(Table(heads, tuple(rows), caption, own=results.options.reference))
    return blocks


def _versus_table(results: Results) -> Table:
    form = _difference_form(results)
    rows = []
    for one in sorted(results.versus, key=lambda found: _gain(results, found), reverse=True):
        test = one.test
        rows.append(
            (
                one.name,
                _short(one.difference, form),
                f"{one.n_better} / {one.n_equal} / {one.n_worse}",
                str(one.difference.n),
                str(one.difference.n_patients),
                _shown("{:+.2f}", test.balance),
                f"- ({test.reason})" if test.p is None else _p_text(test.p),
                "-" if one.p_holm is None else _p_text(one.p_holm),
            )
        )
    own = results.options.reference
    caption = (
        f"Difference: {own} minus the other in {results.measure.title}, mean over cases [{CONFIDENCE:.0%} bootstrap"
        f" interval over patients]. p: Wilcoxon's signed-rank test of patients' means, two-sided; Holm-adjusted for"
        f" {sum(one.p_holm is not None for one in results.versus)} tests. Signed ranks: the test's direction, rank sums"
        " of differences above 0 minus those below as a share of both; where its sign is not the difference's, neither"
        " method is called better."
    )
    heads = ("against", "difference", "better / equal / worse", "cases", "patients", "signed ranks", "p", "p, Holm")
    return Table(heads, tuple(rows), caption)


def _difference_form(results: Results) -> str:
    return _FORMS[results.measure.name].replace("{:", "{:+").replace("{:++", "{:+")


def _gain(results: Results, one: Versus) -> float:
    mean = one.difference.mean
    return -math.inf if mean is None else mean if results.higher_is_better else -mean


def _ranks(results: Results, folder: Path) -> list[Block]:
    ranking = results.ranking
    if ranking is None or ranking.n == 0:
        return []
    left_out = [found.method.name for found in results.working if found not in results.complete]
    if ranking.p is None:
        text = f"No test of ranks: {ranking.reason}."
    else:
        text = (
            f"Friedman's test over {len(results.complete)} methods and {ranking.n} patients: chi squared"
            f" {ranking.chi_squared:.1f}, p {_p_text(ranking.p)}. Critical difference of mean ranks (Nemenyi,"
            f" {LEVEL:.2g}): {ranking.critical_difference:.2f}."
        )
    if left_out:
        text += f" Not ranked, since they were judged on other or fewer cases: {', '.join(left_out)}."
    if len(results.complete) < 2:  # a rank alone is no picture
        return [Heading("Ranks"), Paragraph(text)]
    caption = f"Mean ranks over {ranking.n} patients. Demsar, J Mach Learn Res 7:1, 2006."
    picture = _figure(folder, "ranks.png", lambda p: write_ranks(p, results, ranking), caption)
    return [Heading("Ranks"), Paragraph(text), *picture]


def _volume_table(results: Results) -> Table:
    rows = []
    for name in results.best_first():
        agreement = results.summaries[name].volume_all
        limits, icc = agreement.limits, agreement.icc
        rows.append(
            (
                name,
                str(limits.n),
                _shown("{:+.2f}", limits.bias),
                "-" if limits.low is None else f"{limits.low:+.1f} to {limits.high:+.1f}",
                _shown("{:.2f}", icc.value),
                "-" if icc.low is None or icc.high is None else f"{icc.low:.2f} to {icc.high:.2f}",
            )
        )
    caption = (
        "Predicted minus reference volume over all scans: bias, Bland and Altman's limits (95 % of differences lie"
        " between them if normal), and ICC(2,1), which a few large bleeds raise."
    )
    heads = ("method", "scans", "bias mL", "limits of agreement", "ICC", f"{CONFIDENCE:.0%} interval")
    return Table(heads, tuple(rows), caption, own=results.options.reference)


def _cost_table(results: Results) -> Table:
    rows = []
    for name in results.best_first():
        found = list(results.case_results(name).values())
        seconds = sorted(one.seconds for one in found if one.seconds is not None)
        memory = [one.peak_mib for one in found if one.peak_mib is not None]
        rows.append(
            (
                name,
                str(len(seconds)),
                f"{numbers.median(seconds):.2f}" if seconds else "-",
                f"{seconds[0]:.2f} to {seconds[-1]:.2f}" if seconds else "-",
                f"{max(memory):.0f}" if memory else "-",
            )
        )
    costs = [one for name in results.best_first() for one in results.case_results(name).values()]
    threads = sorted({one.threads for one in costs if one.threads is not None})
    caption = (
        "Seconds of all stages from file to mask; MiB that the mask of any of these scans took at the most, of the GPU"
        " where there is one, beyond what program and networks hold. Methods that came with their weights share their"
        " look at a scan: its time and memory count for each of them."
        f" {platform.machine()}, {' or '.join(map(str, threads)) or '?'} threads a method;"
        " where the machine has more, others ran beside it. A busy machine is slower."
    )
    heads = ("method", "scans", "median s", "least to most s", "peak MiB")
    return Table(heads, tuple(rows), caption, own=results.options.reference)


def _trainings(results: Results) -> list[Block]:
    rows = []
    for found in results.methods:
        ends = found.trainings
        if not ends:
            continue
        n_early = sum(end.steps < end.allowed for end in ends)
        rows.append(
            (
                found.method.name,
                ", ".join(str(end.fold) for end in ends),
                ", ".join("-" if end.score is None else f"{end.score:.3f}" for end in ends),
                ", ".join(str(end.kept_step) for end in ends),
                ", ".join(str(end.steps) for end in ends),
                str(ends[0].allowed),
                f"{n_early} of {len(ends)}",
            )
        )
    if not rows:
        return []
    caption = (
        "Of each fold: what the tuning set says of the network that was kept ('-': nobody chose), at which step that"
        " was, and how many steps were made. Ended early: the tuning set had long seen nothing better. The others made"
        " all steps, over which the learning rate falls to nothing: whether more would have given more is not known."
    )
    heads = ("method", "folds", "tuning score", "kept at step", "steps made", "allowed", "ended early")
    return [Heading("How trainings ended"), Table(heads, tuple(rows), caption, own=results.options.reference)]


def _cases(results: Results, folder: Path) -> list[Block]:
    """A picture of each telling case; of one that cannot be drawn, such as a damaged scan, the reason in its place."""
    blocks: list[Block] = []
    own = results.options.reference
    found = results.case_results(own)
    for number, (what, name) in enumerate(results.telling_cases()):
        path = folder / FIGURES / f"case_{number}.png"
        told = f"{what} of {own}: {name}, one of {len(found)} cases."
        try:
            write_case(path, results, what, name)
        except OutputError:
            raise
        except Exception as error:  # noqa: BLE001 - one bad case must not end the report
            path.unlink(missing_ok=True)  # an earlier run's, which showed another case
            reason = recorded_reason(str(error), found[name].case.scan)
            log.warning("%s: no picture: %s", name, reason)
            blocks.append(Paragraph(f"{told} It cannot be pictured: {reason}"))
            continue
        blocks.append(Picture(f"{FIGURES}/{path.name}", f"{told} Numbers are of the whole scan, not of the slice."))
    return [Heading("Best, median and worst"), *blocks] if blocks else []


def _failures(results: Results, data: ComparedData) -> list[Block]:
    items = [f"{found.method.name}: no result. {_reason(found)}" for found in results.broken]
    for found in results.working:
        items += [
            f"{found.method.name}, {one.case.name}: counted as {'an empty mask' if one.score.positive else 'wrong'}."
            f" {one.failure}"
            for one in found.failed_cases
        ]
    if data.left_out:
        some = ", ".join(data.left_out[:5])
        items.append(f"{len(data.left_out)} scans have no reference that can be read, and were left out: {some}.")
    return [Items(tuple(items)) if items else Paragraph("Nothing: every method gave a mask for every case.")]


def _reading(results: Results) -> tuple[str, ...]:
    return (
        "A scan that a method refuses or fails at never counts in its favour. With hemorrhage it counts as an empty"
        " mask. Without, specificity counts it as wrong; its false mL and volume difference are undefined, and counted"
        " as such; and a method with such a scan is not named as the one with the least false alarms. In AUC a failure"
        " is the worst answer for the scan and its slices: probability 0 with hemorrhage, 1 without.",
        "Dice of two empty masks is undefined: such scans are counted, not averaged. A false alarm on a normal scan"
        " shows in false mL, not in the Dice of scans with hemorrhage.",
        "Patients, not slices or scans, are resampled and tested; several scans of one patient are averaged for tests.",
        "Wilcoxon, Biometrics Bull 1:80, 1945, zeros as Pratt 1959; Holm, Scand J Stat 6:65, 1979; BCa bootstrap, Efron"
        " 1987.",
        f"All numbers by method lie in {METHODS}/NAME/evaluation*.csv, by case in {CASES}, means in {MEANS}.",
    )


def _settings(results: Results) -> list[Block]:
    blocks: list[Block] = [
        Paragraph(
            f"hgisam {__version__}, torch {torch.__version__}, Python {platform.python_version()}. Below, what each"
            f" method states, and what follows from it; {METHODS}/NAME/method.json has all."
        )
    ]
    for found in results.methods:
        stated = found.method.model_dump(mode="json", exclude_defaults=True) | {"kind": found.method.kind}
        for key in ("config", "weights"):
            if stated.get(key):
                stated[key] = Path(stated[key]).name
        settings = found.settings or {}
        stated["weights_sha256"] = settings.get("weights_sha256")
        stated["resolved"] = settings.get("segment") or settings.get("supervised")
        blocks.append(Code(yaml.safe_dump(stated, sort_keys=False, width=110).rstrip()))
    return blocks


def _figure(folder: Path, name: str, write: Any, caption: str) -> list[Block]:
    write(folder / FIGURES / name)
    return [Picture(f"{FIGURES}/{name}", caption)]


def _boxes_caption(results: Results) -> str:
    return f"Spread of {results.measure.title} over cases, best mean on top. {_n_text(results)}"


def _n_text(results: Results) -> str:
    counts = sorted({len(values) for values in results.values.values()})
    cases = {case for values in results.values.values() for case in values}
    n_patients = len({results.patients[case] for case in cases})
    return f"n = {' or '.join(map(str, counts))} cases by method, of {counted(n_patients, 'patient')}."


def _mean_text(results: Results, name: str) -> str:
    return _interval_text(results.summaries[name].means[results.measure.name], results.measure.form)


def _interval_text(found: MeanInterval, form: str) -> str:
    if found.mean is None:
        return f"undefined ({_n_of(found)})"
    mean = form.format(found.mean)
    if found.low is None or found.high is None:
        return f"{mean} ({_n_of(found)})"
    return f"{mean} ({CONFIDENCE:.0%} interval {form.format(found.low)} to {form.format(found.high)}, {_n_of(found)})"


def _n_of(found: MeanInterval) -> str:
    return f"n = {found.n}" + (f", {found.n_undefined} undefined" if found.n_undefined else "")


def _short(found: MeanInterval, form: str) -> str:
    if found.mean is None:
        return "-"
    mean = form.format(found.mean)
    if found.low is None or found.high is None:
        return mean
    return f"{mean} [{form.format(found.low)}, {form.format(found.high)}]"


def _shown(form: str, value: float | None) -> str:
    return "-" if value is None else form.format(value)


def _p_text(p: float) -> str:
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}" if p < 0.1 else f"{p:.2f}"


def _reason(found: MethodResult) -> str:
    return found.failure or next((one.failure for one in found.failed_cases if one.failure), "it has no cases")


def _folder_name(results: Results, name: str) -> str:
    return next(found.method.folder_name for found in results.methods if found.method.name == name)


_MEAN_COLUMNS = ("method", "measure", "n", "n_undefined", "n_patients", "mean", "sd", "low", "high", "reason")
_CASE_MEASURES = tuple(measure.name for measure in MEASURES if not measure.name.endswith(("_all", "_answered_mm")))
_CASE_COLUMNS = (
    "method", "case", "patient", "fold", *_CASE_MEASURES, "reference_ml", "contrast_hu", "prediction_ml", "seconds",
    "peak_mib", "failure",
)  # fmt: skip
_STRATUM_COLUMNS = ("by", "stratum", "method", "n", "n_undefined", "n_patients", "mean", "low", "high", "reason")
_DIFFERENCE_COLUMNS = (
    "reference", "method", "measure", "n", "n_patients", "difference", "low", "high", "reason", "n_better", "n_equal",
    "n_worse", "rank_balance", "p", "p_holm", "no_test",
)  # fmt: skip


def _mean_rows(results: Results) -> list[Row]:
    rows = []
    for name, summary in results.summaries.items():
        means = summary.means | {
            PUBLISHED_DICE: summary.positive_slices_only_dice,
            f"{results.measure.name}_by_patient": results.means_by_patient[name],
        }
        rows += [
            {"method": name, "measure": measure} | {column: getattr(mean, column) for column in _MEAN_COLUMNS[2:]}
            for measure, mean in means.items()
        ]
    return rows


def _stratum_row(one: StratumMean) -> Row:
    figures = {column: getattr(one.mean, column) for column in _STRATUM_COLUMNS[3:]}
    return {"by": one.by, "stratum": one.name, "method": one.method} | figures


def _case_rows(results: Results, contrasts: dict[str, float]) -> list[Row]:
    owners: dict[str, int] = {}
    for patient in results.patients.values():
        owners.setdefault(patient, len(owners) + 1)
    measures = [measure for measure in MEASURES if measure.name in _CASE_MEASURES]
    return [
        {
            "method": found.method.name,
            "case": one.case.name,
            "patient": owners[one.case.patient],
            "fold": one.case.fold,
            **{m.name: m.value(one.score) if m.over(one.score) else None for m in measures},
            "reference_ml": one.score.overlap.reference_ml,
            "contrast_hu": contrasts.get(one.case.name),
            "prediction_ml": one.score.overlap.prediction_ml if one.failure is None else None,
            "seconds": one.seconds,
            "peak_mib": one.peak_mib,
            "failure": one.failure,
        }
        for found in results.working
        for one in found.cases
    ]


def _difference_row(results: Results, one: Versus) -> Row:
    return {
        "reference": results.options.reference,
        "method": one.name,
        "measure": results.measure.name,
        "n": one.difference.n,
        "n_patients": one.difference.n_patients,
        "difference": one.difference.mean,
        "low": one.difference.low,
        "high": one.difference.high,
        "reason": one.difference.reason,
        "n_better": one.n_better,
        "n_equal": one.n_equal,
        "n_worse": one.n_worse,
        "rank_balance": one.test.balance,
        "p": one.test.p,
        "p_holm": one.p_holm,
        "no_test": one.test.reason,
    }


def _rank_rows(results: Results) -> list[Row]:
    ranking = results.ranking
    if ranking is None or ranking.n == 0:
        return []
    names: Sequence[str] = [found.method.name for found in results.complete]
    rows = [
        {"method": name, "mean_rank": rank, "n_patients": ranking.n}
        for name, rank in zip(names, ranking.mean_ranks, strict=True)
    ]
    return sorted(rows, key=lambda row: row["mean_rank"])
