"""The subcommands, a few lines each. What is slow to import is imported inside the command."""

import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from enum import StrEnum
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hgisam import NOTICE, __version__
from hgisam.cases import SeriesChoiceNeeded, Shard, find_cases
from hgisam.exits import ExitCode, Interrupts
from hgisam.io.atomic import output_folder
from hgisam.io.errors import InputError, OutputError, ScanRefused
from hgisam.limits import one_line
from hgisam.wording import counted

if TYPE_CHECKING:
    from hgisam.pipeline import MaskSegmenter, Segmenter
    from hgisam.run import RunReport

log = logging.getLogger("hgisam")
app = typer.Typer(name="hgisam", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
train_app = typer.Typer(no_args_is_help=True, help="Train networks on slice labels, phantoms, masks, or no labels.")
app.add_typer(train_app, name="train")

SUPERVISED = ("unet", "swin_unetr")
"""Methods that learn from masks."""


class RefineName(StrEnum):
    """What `--refine` takes."""

    COMPONENTS = "components"
    RANDOM_WALK = "random_walk"
    THRESHOLD = "threshold"


class Form(StrEnum):
    """What `--prefer` takes."""

    SFORM = "sform"
    QFORM = "qform"


class OomPolicy(StrEnum):
    """What `--oom` takes."""

    HALVE = "halve"
    CPU = "cpu"


def _named_path(text: str) -> Path:
    """A path as typed. An empty one would stand for the folder that the user is in, and nobody means that."""
    with _session(quiet=False, verbose=False):
        if not text.strip():
            raise InputError("expected the name of a file or folder; got an empty one; for this folder, name '.'")
    return Path(text)


Inputs = Annotated[
    list[Path],
    typer.Argument(
        metavar="INPUT",
        parser=_named_path,
        help="Head CT: a NIfTI file or a folder of them; a folder, zip or files of DICOM, each examination one scan.",
    ),
]
Output = Annotated[
    Path,
    typer.Option("--output", "-o", metavar="FOLDER", parser=_named_path, help="Output folder; made if absent."),
]
Weights = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Weights (.safetensors).", show_default="those of the package")
]
Method = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="unet or swin_unetr: a network that learned from masks, with its --weights. Or a weak-label method: "
        "self_attention, grad_cam, grad_cam_plus_plus, layer_cam, gradient_rollout, hu_threshold.",
        show_default="the recipe's",
    ),
]
Refine = Annotated[
    RefineName | None,
    typer.Option(
        metavar="NAME",
        help="How a map becomes a mask. components: dense tissue that the map points at; random_walk: the same, with "
        "its edge found by a random walk; threshold: the map is cut, HU are not looked at.",
        show_default="the recipe's",
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]
BatchSize = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Windows of slices per pass.", show_default="by device")
]
Config = Annotated[
    Path | None, typer.Option(metavar="YAML", help="A recipe such as those in configs/; flags go before it.")
]
HuOffset = Annotated[
    float | None, typer.Option(metavar="HU", help="Added to every voxel, for files known to be off, such as -1024.")
]
SeriesUid = Annotated[
    list[str] | None,
    typer.Option(
        metavar="UID",
        help="The series to take of the DICOM examination that has it; may be given again.",
        show_default="the only one",
    ),
]
AllowGaps = Annotated[
    bool, typer.Option("--allow-gaps", help="Take a DICOM series with missing slices: the volume is a lower bound.")
]
MaxVoxels = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Refuse a scan whose header states more voxels.", show_default="268,435,456"),
]
VolumeOf4D = Annotated[
    int | None,
    typer.Option("--volume", min=0, metavar="N", help="Which to take of a NIfTI file with several volumes, from 0."),
]
Prefer = Annotated[
    Form | None,
    typer.Option(metavar="FORM", help="sform or qform: which to believe where those of a NIfTI header are at odds."),
]
OperatingPoint = Annotated[
    float | None,
    typer.Option(metavar="P", help="Slice probability that counts as blood, 0 to 1.", show_default="the weights' own"),
]
Workers = Annotated[int | None, typer.Option(min=1, metavar="N", help="Processes.", show_default="one per CPU")]
TrainingWorkers = Annotated[
    int | None,
    typer.Option(
        min=1, metavar="N", help="Processes that prepare scans and, on a GPU, load batches.", show_default="one per CPU"
    ),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Leave alone what is done: same input, settings and weights, all files whole.")
]
ShardOf = Annotated[
    str | None,
    typer.Option("--shard", metavar="I/N", help="Take every Nth case, beside N-1 others in one folder; resumes."),
]
Timeout = Annotated[
    float | None,
    typer.Option(min=0.1, max=1e6, metavar="SECONDS", help="Give a case up after so long.", show_default="never"),
]
Oom = Annotated[
    OomPolicy, typer.Option(help="Out of memory with one window per pass: the case fails, or the run goes to the CPU.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say more, with a traceback where something fails.")]


def _show_version(asked: bool) -> bool:
    if asked:
        typer.echo(f"hgisam {__version__}. {NOTICE}")
        raise typer.Exit
    return asked


@app.callback()
def hgisam(
    _version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    """Find intracranial hemorrhage in head CT, and its volume. Research use only, not a medical device."""


@app.command()
def check(
    inputs: Inputs,
    weights: Weights = None,
    config: Config = None,
    hu_offset: HuOffset = None,
    series_uid: SeriesUid = None,
    allow_gaps: AllowGaps = False,
    max_voxels: MaxVoxels = None,
    volume: VolumeOf4D = None,
    prefer: Prefer = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Say whether scans can be worked on, and what is odd about them, as segment and classify would; write nothing."""
    with _session(quiet=quiet, verbose=verbose):
        cases = find_cases(inputs, series_uid or ())
        flags = _intake_flags(hu_offset, allow_gaps, max_voxels, volume, prefer)
        model = _load_to_check(weights, config, flags)
        from hgisam.check import CHECK_COLUMNS, check_cases, document, exit_code

        checks = check_cases(model, cases, show_progress=_on_terminal() and not quiet)
        if as_json:
            from hgisam.io.tables import json_text

            typer.echo(json_text(document(checks)))
        elif not quiet:
            below = [[f"    {doubt.aspect}: {doubt.text}" for doubt in found.doubts] for found in checks]
            _show([found.row() for found in checks], CHECK_COLUMNS, below)
        raise typer.Exit(exit_code(checks))


@app.command()
def segment(
    inputs: Inputs,
    output: Output,
    method: Method = None,
    weights: Weights = None,
    device: Device = "auto",
    batch_size: BatchSize = None,
    config: Config = None,
    no_gate: Annotated[bool, typer.Option("--no-gate", help="Map every slice that shows brain.")] = False,
    scan_gate: Annotated[
        float | None,
        typer.Option(
            metavar="P", help="Outline nothing in scans of lower probability, 0 to 1.", show_default="0, all pass"
        ),
    ] = None,
    refine: Refine = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            metavar="T",
            help="Cut the maps at this saliency, above 0 to 1: --refine threshold, where the recipe names no other.",
        ),
    ] = None,
    operating_point: OperatingPoint = None,
    hu_offset: HuOffset = None,
    series_uid: SeriesUid = None,
    allow_gaps: AllowGaps = False,
    max_voxels: MaxVoxels = None,
    volume: VolumeOf4D = None,
    prefer: Prefer = None,
    save_map: Annotated[bool, typer.Option("--save-map", help="Write saliency maps, CASE_map.nii.gz.")] = False,
    dicom_seg: Annotated[
        bool, typer.Option("--dicom-seg", help="Write DICOM SEG of DICOM scans, CASE_seg.dcm.")
    ] = False,
    dicom_sr: Annotated[
        bool, typer.Option("--dicom-sr", help="Write the volume as a DICOM structured report on that, CASE_sr.dcm.")
    ] = False,
    deidentify: Annotated[
        bool, typer.Option("--deidentify", help="Leave patient and study out of these; UIDs stay.")
    ] = False,
    resume: Resume = False,
    shard: ShardOf = None,
    timeout: Timeout = None,
    oom: Oom = OomPolicy.HALVE,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Outline the blood and measure it: a mask, a preview and a record per scan, a summary over all."""
    with _session(quiet=quiet, verbose=verbose):
        share = None if shard is None else Shard.parse(shard)
        if deidentify and not dicom_seg:
            raise InputError("expected --dicom-seg with --deidentify; got none; no other output names a patient")
        if dicom_sr and not dicom_seg:
            raise InputError("expected --dicom-seg with --dicom-sr; got none; the report refers to it")
        cases = find_cases(inputs, series_uid or ())
        intake = _intake_flags(hu_offset, allow_gaps, max_voxels, volume, prefer)
        flags = {
            "gate": False if no_gate else None,
            "scan_gate": scan_gate,
            "threshold": threshold,
            "refine": {"method": refine},
            "operating_point": operating_point,
            **intake,
        }
        with output_folder(output):
            model = _load_for_masks(method, weights, config, flags, device, batch_size)
            from hgisam.run import RunOptions, segment_cases

            report = segment_cases(
                model,
                cases,
                output,
                save_map=save_map,
                dicom_seg=dicom_seg,
                dicom_sr=dicom_sr,
                deidentify=deidentify,
                show_progress=_on_terminal() and not quiet,
                options=RunOptions(resume, share, timeout, oom.value),
            )
        _finish(report, ("case", "probability", "volume_ml", "status"), output, quiet=quiet)


@app.command()
def classify(
    inputs: Inputs,
    output: Output,
    weights: Weights = None,
    device: Device = "auto",
    batch_size: BatchSize = None,
    config: Config = None,
    operating_point: OperatingPoint = None,
    hu_offset: HuOffset = None,
    series_uid: SeriesUid = None,
    allow_gaps: AllowGaps = False,
    max_voxels: MaxVoxels = None,
    volume: VolumeOf4D = None,
    prefer: Prefer = None,
    resume: Resume = False,
    shard: ShardOf = None,
    timeout: Timeout = None,
    oom: Oom = OomPolicy.HALVE,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Probability of hemorrhage, for each scan and slice; no mask, and faster than segment."""
    with _session(quiet=quiet, verbose=verbose):
        share = None if shard is None else Shard.parse(shard)
        cases = find_cases(inputs, series_uid or ())
        intake = _intake_flags(hu_offset, allow_gaps, max_voxels, volume, prefer)
        flags = {"operating_point": operating_point, **intake}
        with output_folder(output):
            model = _load(weights, config, flags, device, batch_size)
            model.ensure_able("classify")
            from hgisam.run import RunOptions, classify_cases

            options = RunOptions(resume, share, timeout, oom.value)
            report = classify_cases(model, cases, output, show_progress=_on_terminal() and not quiet, options=options)
        _finish(report, ("case", "probability", "n_slices_positive", "status"), output, quiet=quiet)


@app.command()
def phantom(
    output: Output,
    n: Annotated[int, typer.Option("-n", "--number", min=1, help="How many heads.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Of the first head; the others have those that follow.")] = 0,
    workers: Workers = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Make synthetic head CT with known truth: scans, masks by subtype, labels per slice. A seed is a head, always."""
    with _session(quiet=quiet, verbose=verbose):
        from hgisam.phantom import PhantomOptions, generate_phantoms
        from hgisam.phantom_folder import write_phantoms

        options = PhantomOptions()
        made = generate_phantoms(n, seed, options, workers=min(n, workers or _n_cpus()))
        names = [f"phantom_{number:05d}" for number in range(seed, seed + n)]
        rows = write_phantoms(made, names, output, options=options, show_progress=_on_terminal() and not quiet)
        if not quiet:
            _show(rows, ("case", "volume_ml"))
            typer.echo(f"Written to {output}. {NOTICE}")


@app.command()
def evaluate(
    predictions: Annotated[
        Path,
        typer.Argument(
            exists=True,
            metavar="PREDICTIONS",
            help="A folder of CASE_mask.nii.gz, or one mask; for slice labels, a folder of CASE.json.",
        ),
    ],
    references: Annotated[
        Path,
        typer.Argument(
            exists=True,
            metavar="REFERENCES",
            help="A folder of CASE_mask, CASE_labels or CASE.nii.gz, or one mask; or slice labels: slice_labels.csv, or"
            " a data set that train reads.",
        ),
    ],
    output: Output,
    patients: Annotated[
        Path | None,
        typer.Option(
            metavar="CSV", help="Whose scan each case is: columns case, patient.", show_default="another's each"
        ),
    ] = None,
    prefer: Prefer = None,
    workers: Workers = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Compare masks with references, or probabilities with slice labels, in figures that do not flatter."""
    with _session(quiet=quiet, verbose=verbose):
        from hgisam.evaluate.folders import EvaluationReport, evaluate_folders
        from hgisam.evaluate.labelled import LabelledReport
        from hgisam.evaluate.labelled_report import labelled_tables, write_labelled_report
        from hgisam.evaluate.report import as_tables, refuse_foreign, write_report
        from hgisam.io.errors import InputError
        from hgisam.io.tables import read_patients
        from hgisam.labelled_records import are_slice_labels, evaluate_labels

        report: EvaluationReport | LabelledReport
        with output_folder(output):
            refuse_foreign(output)
            if are_slice_labels(references):
                if patients is not None or prefer is not None:
                    raise InputError("--patients and --prefer are for masks: slice labels bring their own patients")
                report = evaluate_labels(predictions, references, workers=workers or _n_cpus())
                write_labelled_report(report, output)
                tables = labelled_tables(report)
            else:
                report = evaluate_folders(
                    predictions,
                    references,
                    None if patients is None else read_patients(patients),
                    form=None if prefer is None else prefer.value,
                    workers=workers or _n_cpus(),
                    show_progress=_on_terminal() and not quiet,
                )
                write_report(report, output)
                tables = as_tables(report)
        if not report.complete:
            n_left_out = len(report.refused) + len(report.without_reference) + len(report.without_prediction)
            left_out = f"{counted(n_left_out, 'case was', 'cases were')} not compared"
            no_file = "labelled scans have no file that can be read"
            log.error("%s: evaluation.json says why", left_out if n_left_out else no_file)
        if not quiet:
            from rich.console import Console

            console = Console(width=None if sys.stdout.isatty() else 160)
            with console.capture() as shown:
                console.print(tables)
            with _to_whoever_listens():
                typer.echo(shown.get(), nl=False)
        raise typer.Exit(ExitCode.OK if report.complete else ExitCode.SOME_FAILED)


@app.command()
def compare(
    config: Annotated[
        Path, typer.Option(metavar="YAML", help="What to compare, such as configs/compare_phantoms.yaml.")
    ],
    output: Output,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            parser=_named_path,
            help="Scans or slices with reference masks.",
            show_default="where the YAML says",
        ),
    ] = None,
    methods: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            metavar="NAME",
            help="Only this method of the YAML, beside the reference; may be repeated. The report is of these alone.",
            show_default="all",
        ),
    ] = None,
    device: Device = "auto",
    batch_size: BatchSize = None,
    workers: Workers = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Hold methods against each other on the same cases: tests by patient, and a report. Goes on where it stopped."""
    with _session(quiet=quiet, verbose=verbose):
        from hgisam.compare.comparison import compare as run_comparison
        from hgisam.compare.report import HTML, answer

        results = run_comparison(
            config,
            output,
            data_folder=data,
            only=methods or (),
            device=device,
            batch_size=batch_size,
            workers=workers or _n_cpus(),
            show_progress=_on_terminal() and not quiet,
        )
        if not quiet:
            for sentence in answer(results):
                typer.echo(sentence)
            typer.echo(f"Written to {output / HTML}. {NOTICE}")
        raise typer.Exit(ExitCode.OK if results.nothing_failed else ExitCode.SOME_FAILED)


ResumeTraining = Annotated[bool, typer.Option("--resume", help="Go on from the latest checkpoint in the folder.")]
FoldNumber = Annotated[
    int | None, typer.Option("--fold", min=0, metavar="K", help="Which fold of the split.", show_default="the recipe's")
]
SplitsFile = Annotated[
    Path | None,
    typer.Option("--splits", metavar="FILE", help="Who trains and who judges: another run's splits.csv."),
]
Seed = Annotated[
    int | None, typer.Option(min=0, metavar="N", help="Of everything random.", show_default="the recipe's")
]
Cache = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", parser=_named_path, help="Prepared scans.", show_default="in the output folder"),
]


@train_app.command()
def classifier(
    config: Annotated[Path, typer.Option(metavar="YAML", help="A recipe such as configs/ct_ich.yaml.")],
    output: Output,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            parser=_named_path,
            help="Labelled scans: slice_labels.csv with NIfTI, RSNA, PhysioNet, BHSD.",
        ),
    ] = None,
    resume: ResumeTraining = False,
    splits: SplitsFile = None,
    fold: FoldNumber = None,
    seed: Seed = None,
    cache: Cache = None,
    device: Device = "auto",
    workers: TrainingWorkers = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Learn which slices hold blood; under torchrun, several processes share each step."""
    _train(
        "classifier",
        config,
        data,
        output,
        resume=resume,
        splits=splits,
        fold=fold,
        seed=seed,
        cache=cache,
        device=device,
        workers=workers,
        quiet=quiet,
        verbose=verbose,
    )


@train_app.command()
def segmenter(
    config: Annotated[Path, typer.Option(metavar="YAML", help="A recipe such as configs/unet2d.yaml.")],
    data: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER",
            parser=_named_path,
            help="Scans with masks: phantoms of hgisam, PhysioNet, BHSD; labels do for own_masks.",
        ),
    ],
    output: Output,
    resume: ResumeTraining = False,
    splits: SplitsFile = None,
    fold: FoldNumber = None,
    seed: Seed = None,
    cache: Cache = None,
    device: Device = "auto",
    workers: TrainingWorkers = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Learn to outline blood from masks; under torchrun, several processes share each step."""
    _train(
        "segmenter",
        config,
        data,
        output,
        resume=resume,
        splits=splits,
        fold=fold,
        seed=seed,
        cache=cache,
        device=device,
        workers=workers,
        quiet=quiet,
        verbose=verbose,
    )


@train_app.command()
def encoder(
    config: Annotated[Path, typer.Option(metavar="YAML", help="A recipe such as configs/encoder_ct_ich.yaml.")],
    data: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER", parser=_named_path, help="Scans as for a classifier; their labels teach nothing."
        ),
    ],
    output: Output,
    resume: ResumeTraining = False,
    splits: SplitsFile = None,
    fold: FoldNumber = None,
    seed: Seed = None,
    cache: Cache = None,
    device: Device = "auto",
    workers: TrainingWorkers = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Learn what heads look like without labels, for a classifier's initial_weights; under torchrun, several share."""
    _train(
        "encoder",
        config,
        data,
        output,
        resume=resume,
        splits=splits,
        fold=fold,
        seed=seed,
        cache=cache,
        device=device,
        workers=workers,
        quiet=quiet,
        verbose=verbose,
    )


@app.command()
def info(
    weights: Weights = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
    verbose: Verbose = False,
) -> None:
    """Version, weights and where they come from, devices and threads."""
    with _session(quiet=False, verbose=verbose):
        from hgisam.environment import describe

        found = describe(weights)
        if as_json:
            typer.echo(json.dumps(found, indent=2))
            return
        for key in ("architecture", "brain", "preprocess"):
            found["weights"][key] = "see --json"
        for line in _outline(found):
            typer.echo(line)


def main() -> None:
    """The `hgisam` command."""
    app()


def _train(
    what: Literal["classifier", "segmenter", "encoder"],
    config: Path,
    data: Path | None,
    output: Path,
    *,
    resume: bool,
    splits: Path | None,
    fold: int | None,
    seed: int | None,
    cache: Path | None,
    device: str,
    workers: int | None,
    quiet: bool,
    verbose: bool,
) -> None:
    """A training by a recipe that has settings of its kind."""
    with _training(output, quiet=quiet, verbose=verbose) as show_progress:
        from hgisam.config import load_settings
        from hgisam.pipeline import pick_device
        from hgisam.train.encoder_recipe import train_encoder
        from hgisam.train.recipe import train_classifier
        from hgisam.train.segmenter_recipe import train_segmenter

        stage = "train" if what == "classifier" else f"train_{what}"
        flags = {"split": {"splits": splits, "fold": fold}, "loop": {"seed": seed}}
        settings = load_settings(config, {stage: flags}, needs=stage)
        learn: dict[str, Callable[..., object]] = {
            "classifier": partial(train_classifier, settings.train),
            "segmenter": partial(train_segmenter, settings.train_segmenter),
            "encoder": partial(train_encoder, settings.train_encoder),
        }
        learn[what](
            data,
            output,
            resume=resume,
            cache=cache,
            workers=workers or _n_cpus(),
            device=pick_device(_own_device(device)),
            command=_train_command(what, config, data, splits, fold, seed),
            show_progress=show_progress,
        )


@contextmanager
def _training(output: Path, *, quiet: bool, verbose: bool) -> Iterator[bool]:
    """A training's session, which holds its folder: whether to draw a bar. Of several processes the first speaks."""
    from hgisam.outputs import claimed

    first = os.environ.get("RANK", "0") == "0"
    with _session(quiet=quiet or not first, verbose=verbose), claimed(output) if first else nullcontext():
        if not quiet and first:
            log.setLevel(min(log.level, logging.INFO))
        yield _on_terminal() and not quiet and first
        if first and not quiet:
            typer.echo(f"Written to {output}. {NOTICE}")


def _own_device(name: str) -> str:
    """Of several processes on one machine with GPUs, each has its own."""
    return f"cuda:{os.environ['LOCAL_RANK']}" if name in {"auto", "cuda"} and _has_own_gpu() else name


def _has_own_gpu() -> bool:
    import torch

    return "LOCAL_RANK" in os.environ and torch.cuda.device_count() > int(os.environ["LOCAL_RANK"])


def _train_command(
    what: str, config: Path, data: Path | None, splits: Path | None, fold: int | None, seed: int | None
) -> str:
    """The command as records state it: files by name, no folder of this machine."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    words = [f"torchrun --nproc-per-node {processes} -m hgisam" if processes > 1 else "hgisam", f"train {what}"]
    words.append(f"--config {config.name}")
    words += [f"--{name} {path.name}" for name, path in (("data", data), ("splits", splits)) if path is not None]
    words += [f"--{name} {value}" for name, value in (("fold", fold), ("seed", seed)) if value is not None]
    return " ".join(words)


def _intake_flags(
    hu_offset: float | None, allow_gaps: bool, max_voxels: int | None, volume: int | None, prefer: Form | None
) -> dict[str, Any]:
    """Flags that say how scans are taken in, under the names of the settings; None where one was not given."""
    return {
        "hu_offset": hu_offset,
        "allow_gaps": allow_gaps or None,
        "max_voxels": max_voxels,
        "volume": volume,
        "prefer": None if prefer is None else prefer.value,
    }


def _load(
    weights: Path | None, config: Path | None, flags: dict[str, Any], device: str, batch_size: int | None
) -> "Segmenter":
    """The network with its settings, before any scan is touched."""
    from hgisam.config import load_settings
    from hgisam.pipeline import Segmenter

    options = load_settings(config, {"segment": flags}).segment
    return Segmenter(weights, options=options, device=device, batch_size=batch_size)


def _load_to_check(weights: Path | None, config: Path | None, flags: dict[str, Any]) -> "Segmenter | MaskSegmenter":
    """What these weights and this recipe would segment with: it takes scans in by its own settings."""
    from hgisam.config import load_settings
    from hgisam.model.checkpoint import LoadedSegmenter, load_network
    from hgisam.pipeline import MaskSegmenter

    options = load_settings(config, {"supervised": flags}).supervised
    if weights is None:
        if options.method is not None:
            raise _without_weights(options.method)
    elif options.method is not None or isinstance(load_network(weights), LoadedSegmenter):
        return MaskSegmenter(weights, options=options, device="cpu")
    return _load(weights, config, flags, "cpu", None)


def _without_weights(method: str) -> InputError:
    return InputError(f"expected --weights with {method}, for which the package has none; train them first")


def _load_for_masks(
    method: str | None,
    weights: Path | None,
    config: Path | None,
    flags: dict[str, Any],
    device: str,
    batch_size: int | None,
) -> "Segmenter | MaskSegmenter":
    """The network and settings that are to outline: of a weak-label method, or one that learned from masks."""
    from hgisam.config import load_settings
    from hgisam.pipeline import MaskSegmenter

    recipe = load_settings(config)
    supervised = method if method in SUPERVISED else recipe.supervised.method if method is None else None
    if supervised is None:
        refinement = flags["refine"]["method"]
        if flags["threshold"] is not None and "refine" not in recipe.segment.model_fields_set:
            refinement = refinement or RefineName.THRESHOLD  # what else would it be for
        named = {
            "refine": _named_method(refinement, recipe.segment.refine.method),
            "weak": _named_method(method, recipe.segment.weak.method),
        }
        model = _load(weights, config, flags | named, device, batch_size)
        model.ensure_able("segment")
        return model
    if weights is None:
        raise _without_weights(supervised)
    for name, flag in {"gate": "--no-gate", "scan_gate": "--scan-gate"}.items():
        if flags[name] is not None:
            raise InputError(f"expected no {flag} with {supervised}, which has no gate; leave it out")
    if flags["refine"]["method"] is not None:
        raise InputError(f"expected no --refine with {supervised}, which has no map to refine; leave it out")
    if flags["operating_point"] is not None:
        raise InputError(f"expected no --operating-point with {supervised}, which has no gate; use --threshold")
    only_weak = {"gate", "scan_gate", "refine", "operating_point"}
    shared = {key: value for key, value in flags.items() if key not in only_weak}
    options = load_settings(config, {"supervised": {"method": supervised} | shared}).supervised
    return MaskSegmenter(weights, options=options, device=device, batch_size=batch_size)


def _named_method(name: str | None, recipes_own: str) -> dict[str, str | None]:
    """A flag that names a method, over the recipe's: another method takes its own defaults, nothing of the recipe's."""
    from hgisam.config import Instead

    return {"method": name} if name in {None, recipes_own} else Instead(method=name)


def _finish(report: "RunReport", columns: tuple[str, ...], output: Path, *, quiet: bool) -> None:
    """Tell people what came out, and leave with the run's exit status."""
    if not quiet:
        with _to_whoever_listens():
            _show(report.rows, columns)
            typer.echo(f"Written to {output}. {NOTICE}")
    raise typer.Exit(report.exit_code)


@contextmanager
def _to_whoever_listens() -> Iterator[None]:
    """Tell on stdout what came out; where the reader has gone, as `head` does, the exit status still tells the end."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        _say_no_more()


def _say_no_more() -> None:
    """Nobody reads stdout any more: without this Python would complain of it once more while it ends."""
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123 - it stays open until the end


def _show(rows: Sequence[Mapping[str, object]], columns: tuple[str, ...], below: Sequence[Sequence[str]] = ()) -> None:
    """Rows as aligned columns on stdout, each with the lines that stand below it."""
    lines = [columns, *(tuple(_shown(row[column]) for column in columns) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    for line, notes in zip_longest(lines, ((), *below), fillvalue=()):
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
        for note in notes:
            typer.echo(note)


def _shown(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _outline(values: dict[str, Any], depth: int = 0) -> Iterator[str]:
    """Nested values as indented lines."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield f"{'  ' * depth}{key}:"
            yield from _outline(value, depth + 1)
        else:
            yield f"{'  ' * depth}{key}: {value}"


def _n_cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _on_terminal() -> bool:
    return sys.stdout.isatty() and sys.stderr.isatty()


@contextmanager
def _session(*, quiet: bool, verbose: bool) -> Iterator[None]:
    """Log to stderr, and end with the exit status that the error stands for, after one line that explains it."""
    _log_to_stderr(logging.ERROR if quiet else logging.DEBUG if verbose else logging.WARNING)
    try:
        with Interrupts():
            yield
    except typer.Exit:
        raise
    except BrokenPipeError:  # whoever read stdout has read enough
        _say_no_more()
        raise typer.Exit(ExitCode.OK) from None
    except KeyboardInterrupt:
        log.error("cancelled")
        raise typer.Exit(ExitCode.CANCELLED) from None
    except Exception as error:  # whatever it is, it ends in one line and an exit status
        if isinstance(error, SeriesChoiceNeeded):
            _show(error.rows, tuple(error.rows[0]))
        code = _exit_code_of(error)
        log.error("%s", f"unexpected {type(error).__name__}: {error}" if code is ExitCode.UNEXPECTED else error)
        log.debug("where it failed", exc_info=error)
        raise typer.Exit(code) from None


def _exit_code_of(error: Exception) -> ExitCode:
    if isinstance(error, InputError):
        return ExitCode.USAGE
    if isinstance(error, ScanRefused):
        return ExitCode.REFUSED
    if isinstance(error, OutputError):
        return ExitCode.OUTPUT
    from hgisam.config import SettingsError
    from hgisam.model.checkpoint import WeightsError
    from hgisam.pipeline import DeviceUnavailable

    codes = {SettingsError: ExitCode.USAGE, WeightsError: ExitCode.WEIGHTS, DeviceUnavailable: ExitCode.DEVICE}
    return next((code for kind, code in codes.items() if isinstance(error, kind)), ExitCode.UNEXPECTED)


class _StderrHandler(logging.Handler):
    """One line per message to whatever stderr is now: while a progress bar is drawn, that is a place above it."""

    def emit(self, record: logging.LogRecord) -> None:
        text = f"hgisam: {record.levelname.lower()}: {one_line(' '.join(record.getMessage().split()))}"
        if record.exc_info:
            text += "\n" + logging.Formatter().formatException(record.exc_info)
        sys.stderr.write(text + "\n")


def _log_to_stderr(level: int) -> None:
    log.handlers[:] = [_StderrHandler()]
    log.setLevel(level)
