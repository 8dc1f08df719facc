"""Make sample_volumes/: five phantoms with their truth, small enough to ship and telling enough to look at.

Run by hand: `python tools/make_sample_volumes.py`.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

from hgisam.labels import Subtype
from hgisam.phantom import PhantomOptions, make_phantom
from hgisam.phantom_folder import write_phantoms

OUTPUT = Path(__file__).resolve().parents[1] / "sample_volumes"
LIMIT_BYTES = 5_000_000


@dataclass(frozen=True)
class Sample:
    """One phantom of the folder, its seed chosen by eye."""

    name: str
    shows: str
    seed: int
    kinds: tuple[Subtype, ...] = ()
    volumes_ml: tuple[float, ...] = ()

    @property
    def options(self) -> PhantomOptions:
        """The head of this sample: 28 slices of 5 mm, pixels of 1 mm; calcified where it has no bleed."""
        return PhantomOptions(
            n_slices=28,
            pixel_mm=1.0,
            kinds=self.kinds,
            volumes_ml=self.volumes_ml,
            bleed_probability=0.0,
            calcifications=not self.kinds,
        )


SAMPLES = (
    Sample(
        "intraparenchymal_large",
        "a large deep bleed that broke into the ventricles",
        5,
        (Subtype.INTRAPARENCHYMAL, Subtype.INTRAVENTRICULAR),
        (38.0, 14.0),
    ),
    Sample("subdural_thin", "a thin crescent over one hemisphere", 12, (Subtype.SUBDURAL,), (11.0,)),
    Sample("epidural", "a lens between skull and brain", 18, (Subtype.EPIDURAL,), (22.0,)),
    Sample("subarachnoid_film", "blood in the cisterns at the base", 7, (Subtype.SUBARACHNOID,), (11.0,)),
    Sample("normal_calcified", "no bleed: calcified pineal, choroid plexus, falx and basal ganglia", 4),
)

README = """# Sample volumes

Synthetic head CT, made by `python tools/make_sample_volumes.py`; no person was scanned. Try them with

```
hgisam segment sample_volumes -o out/demo
```

| file | shows | volume of blood (mL) |
|---|---|---|
{table}

The volume is that of the blood before the scan; the labels, whose volume `hgisam evaluate` gives as the reference, hold
whole voxels, and so a little less or more.

- `NAME.nii.gz`: the scan in Hounsfield units, 28 slices of 5 mm, 256 x 256 pixels of 1 mm.
- `truth/NAME_labels.nii.gz`: the truth on the same grid: 0 none, 1 epidural, 2 intraparenchymal, 3 intraventricular,
  4 subarachnoid, 5 subdural. A voxel is labelled where at least half of it is blood.
- `slice_labels.csv`: which subtypes each slice shows (at least 10 mm2 of label), slice 0 the lowest.

The brain derives from the ICBM 2009a template; its notice is in `hgisam/phantom/data/NOTICE`.
"""


def main() -> None:
    """Write the folder and say how large it is."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    output: Path = parser.parse_args().output
    phantoms = (make_phantom(sample.seed, sample.options) for sample in SAMPLES)
    rows = write_phantoms(phantoms, [sample.name for sample in SAMPLES], output)
    table = [
        f"| {sample.name}.nii.gz | {sample.shows} | {row['volume_ml']:.1f} |"
        for sample, row in zip(SAMPLES, rows, strict=True)
    ]
    (output / "README.md").write_text(README.format(table="\n".join(table)), encoding="utf-8")
    size = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    print(f"{output}: {size / 1e6:.2f} MB")
    if size > LIMIT_BYTES:
        raise SystemExit(f"expected at most {LIMIT_BYTES / 1e6:.0f} MB; fewer slices or less noise make it smaller")


if __name__ == "__main__":
    main()
