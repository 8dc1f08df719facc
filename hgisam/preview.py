"""One picture of a result: the slices that tell most, with the mask's outline and the map beside it.

As radiologists have it, the patient's right is on the left of the picture, and the front on top.
"""

import io
import math
from collections.abc import Container, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont
from torch import Tensor

from hgisam import NOTICE
from hgisam.io.atomic import atomic_write
from hgisam.io.nifti import NiftiGrid
from hgisam.plausibility import SOLID_ABOVE_HU
from hgisam.volume import CTVolume, MaskVolume
from hgisam.windowing import BRAIN

WIDTH_PX = 1600
MOST_FINDINGS = 6
"""How many slices are shown with their map beside them. The rest of the tiles goes to slices spread over the head."""

_COLUMNS = 4
_MARGIN_PX, _GAP_PX, _INSET_PX = 28, 10, 9
_TILE_WIDTH_PX = (WIDTH_PX - 2 * _MARGIN_PX - (_COLUMNS - 1) * _GAP_PX) // _COLUMNS
_TILE_ASPECTS = (0.8, 1.3)
_HEAD_MARGIN_MM = 8.0
_BRAIN_HU = (0.0, 80.0)
_SCALE_BAR_MM = 50

_BACKGROUND = (13, 15, 18)
_TILE_EDGE = (38, 42, 48)
_TEXT, _DIM_TEXT = (238, 240, 243), (150, 156, 165)
_OUTLINE = (64, 224, 255)
_NOTE = (255, 196, 84)

_INFERNO = (
    (74, 12, 107), (120, 28, 109), (165, 44, 96), (207, 68, 70),
    (237, 105, 37), (251, 155, 6), (247, 209, 61), (252, 255, 164),
)  # fmt: skip
"""The colour map `inferno` without its blackest fifth, which would look like dark tissue: lightness rises evenly.

Source: Smith and van der Walt, 2015 (CC0).
"""
_MAP_OPACITY = 0.8


@runtime_checkable
class Previewable(Protocol):
    """What a preview needs of a segmentation's result."""

    @property
    def ct(self) -> CTVolume:
        """The scan."""

    @property
    def grid(self) -> NiftiGrid:
        """The file's grid."""

    @property
    def mask_volume(self) -> MaskVolume:
        """The prediction, in house axes."""

    @property
    def saliency_house(self) -> Tensor:
        """The map in [0, 1], in house axes."""

    @property
    def slice_probabilities(self) -> NDArray[np.float32]:
        """Probability of hemorrhage per slice, in the file's own order; NaN where it is not known."""

    @property
    def operating_point(self) -> float | None:
        """Slice probability from which a slice counts as holding blood; None where it is not known."""

    @property
    def probability(self) -> float | None:
        """Probability of hemorrhage in the scan; None where it is not known."""

    @property
    def volume_ml(self) -> float | None:
        """Volume of the mask; None where it was not measured."""

    @property
    def volume_is_lower_bound(self) -> bool:
        """Whether the scan leaves out part of the brain."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader should know."""


def write_preview(path: Path, result: Previewable) -> None:
    """Render a result and write it as PNG; it appears whole or not at all.

    Raises:
        OutputError: where the file cannot be written.
    """
    depth = result.ct.hu.shape[0]
    order = range(depth - 1, -1, -1) if result.grid.orientation.flips[0] else range(depth)
    probabilities = torch.from_numpy(result.slice_probabilities[list(order)].astype(np.float32))
    picture = render_preview(
        result.ct,
        result.mask_volume.voxels,
        result.saliency_house,
        probabilities,
        title=result.ct.source,
        volume_ml=result.volume_ml,
        volume_is_lower_bound=result.volume_is_lower_bound,
        probability=result.probability,
        warnings=result.warnings,
        slice_indices=order,
        operating_point=result.operating_point,
        directions_known=result.grid.directions_known,
    )
    with atomic_write(path) as file:
        file.write(picture)


def render_preview(
    ct: CTVolume,
    mask: Bool[Tensor, "depth height width"],
    saliency: Float[Tensor, "depth height width"] | None,
    slice_probabilities: Float[Tensor, " depth"],
    *,
    title: str,
    volume_ml: float | None,
    volume_is_lower_bound: bool = False,
    probability: float | None,
    warnings: Sequence[str] = (),
    slice_indices: Sequence[int] | None = None,
    operating_point: float | None = None,
    directions_known: bool = True,
) -> bytes:
    """Draw a scan's most telling slices, WIDTH_PX wide, in the brain window.

    Findings come first, each with its map to the right of it, then slices spread over the rest of the head.

    Args:
        ct: the scan.
        mask: the prediction; outlined.
        saliency: in [0, 1]; None where there is no map.
        slice_probabilities: probability of hemorrhage per slice, the lowest slice first; NaN where it is not known.
        title: the case.
        volume_ml: None where it was not measured.
        volume_is_lower_bound: whether the scan leaves out part of the brain; the header then says so.
        probability: of hemorrhage in the scan; None where it is not known.
        warnings: shown beneath the title, the first two of them.
        slice_indices: each slice's index in its file; None where they are the same.
        operating_point: from this probability a slice is a finding even where the mask is empty; None: none is.
        directions_known: whether right and left, front and back are what the scan says, and no guess.

    Returns:
        A PNG file's bytes.
    """
    findings = finding_slices(mask, slice_probabilities, operating_point)
    mapped = set() if saliency is None else set(findings)
    n_tiles = _COLUMNS * (3 if len(findings) <= MOST_FINDINGS // 2 else 4)
    others = spread_slices(ct, findings, n_tiles - len(findings) - len(mapped))
    view = _view_of_head(ct)
    voxel_ml = ct.slice_voxel_ml.nan_to_num(nan=0.0).tolist()
    tiles: list[Image.Image] = []
    map_places = set()
    for index in (*findings, *others):
        grey = view.shown(BRAIN.apply(ct.hu[index]))
        tile = _outlined(grey, view, mask[index])
        label = f"slice {index if slice_indices is None else slice_indices[index]}"
        mask_ml = int(mask[index].count_nonzero()) * voxel_ml[index]
        _annotate(tile, label, float(slice_probabilities[index]), mask_ml, "RLAP" if directions_known else "????")
        tiles.append(tile)
        if saliency is not None and index in mapped:
            map_places.add(len(tiles))
            tiles.append(_heated(grey, view, saliency[index]))
    volume = "volume not measured" if volume_ml is None else _volume_text(volume_ml)
    if volume_ml is not None and volume_is_lower_bound:
        volume = f"at least {volume_ml:.1g} mL" if 0 < volume_ml < 0.1 else f"at least {volume}"
    page = _page(tiles, map_places, _header(title, volume, probability, warnings), _footer(view, bool(mapped)))
    file = io.BytesIO()
    page.save(file, format="PNG", compress_level=4)
    return file.getvalue()


@dataclass(frozen=True)
class Outline:
    """One of several masks of a slice.

    Attributes:
        name: whose mask it is.
        mask: on the slice's grid.
        note: a few words on it, such as its Dice; may be empty.
    """

    name: str
    mask: Bool[Tensor, "height width"]
    note: str = ""


def render_outlines(ct: CTVolume, index: int, outlines: Sequence[Outline], *, title: str) -> bytes:
    """Draw one slice of a scan several times, WIDTH_PX wide, in the brain window: as it is, then with each mask.

    Args:
        ct: the scan.
        index: which slice, in house order.
        outlines: the masks, in order.
        title: of the picture.

    Returns:
        A PNG file's bytes.
    """
    view = _view_of_head(ct)
    grey = view.shown(BRAIN.apply(ct.hu[index]))
    tiles = []
    for outline in (Outline("no outline", torch.zeros_like(ct.hu[index], dtype=torch.bool)), *outlines):
        tile = _outlined(grey, view, outline.mask)
        draw, low = ImageDraw.Draw(tile), tile.height - _INSET_PX
        for text, place, anchor, colour in (
            (_fitted(outline.name, _font(17), tile.width - 2.0 * _INSET_PX), (_INSET_PX, _INSET_PX), "la", _TEXT),
            (outline.note, (_INSET_PX, low), "ld", _OUTLINE),
            ("R", (_INSET_PX, tile.height / 2), "lm", _DIM_TEXT),
            ("L", (tile.width - _INSET_PX, tile.height / 2), "rm", _DIM_TEXT),
        ):
            draw.text(place, text, font=_font(17), fill=colour, anchor=anchor, stroke_width=2, stroke_fill=_BACKGROUND)
        tiles.append(tile)
    header = Image.new("RGB", (WIDTH_PX, 76), _BACKGROUND)
    text = _fitted(title, _font(26), WIDTH_PX - 2.0 * _MARGIN_PX)
    ImageDraw.Draw(header).text((_MARGIN_PX, 24), text, font=_font(26), fill=_TEXT, anchor="la")
    file = io.BytesIO()
    _page(tiles, (), header, _footer(view, with_map=False)).save(file, format="PNG", compress_level=6)
    return file.getvalue()


def finding_slices(
    mask: Bool[Tensor, "depth height width"],
    slice_probabilities: Float[Tensor, " depth"],
    operating_point: float | None,
    n: int = MOST_FINDINGS,
) -> list[int]:
    """The slices with mask, spread over it and the largest among them; where they are few, positive slices too.

    Returns:
        At most `n` indices, rising. Empty where the mask is, and no slice is at or above the operating point.
    """
    area = mask.flatten(1).sum(dim=1)
    masked = torch.nonzero(area).flatten().tolist()
    if len(masked) > n:
        largest = int(area.argmax())
        spread = [masked[round(place)] for place in np.linspace(0, len(masked) - 1, n)]
        nearest = min(range(n), key=lambda i: abs(spread[i] - largest))
        return sorted({*spread[:nearest], largest, *spread[nearest + 1 :]})
    if operating_point is None:
        return masked
    by_probability = slice_probabilities.argsort(descending=True).tolist()
    positive = [i for i in by_probability if slice_probabilities[i] >= operating_point and i not in masked]
    return sorted([*masked, *positive][:n])


def spread_slices(ct: CTVolume, without: Sequence[int], n: int) -> list[int]:
    """Slices spread evenly over those that show brain, without the given ones.

    Returns:
        At most `n` indices, rising; fewer where there are fewer slices.
    """
    sparse = ct.hu[:, ::4, ::4]
    brain_area = ((sparse > _BRAIN_HU[0]) & (sparse < _BRAIN_HU[1])).flatten(1).sum(dim=1)
    with_brain = (brain_area > 0.15 * brain_area.max()).tolist()
    free = [i for i in range(len(with_brain)) if i not in without]
    candidates = [i for i in free if with_brain[i]] if sum(with_brain) - len(without) >= n else free
    if len(candidates) <= n:
        return candidates
    return [candidates[int((i + 0.5) * len(candidates) / n)] for i in range(n)]


@dataclass(frozen=True)
class _View:
    """The part of every slice that is shown, in voxels, and the scale at which it is."""

    box: tuple[int, int, int, int]
    height_px: int
    px_per_mm: float

    def shown(self, plane: Float[Tensor, "height width"], scale: int = 1) -> Image.Image:
        """A plane in [0, 1] as a grey picture of the tile's size, or of a multiple of it; black outside the scan."""
        picture = Image.fromarray((plane * 255).round().to(torch.uint8).numpy()).crop(self.box)
        return picture.resize((_TILE_WIDTH_PX * scale, self.height_px * scale), Image.Resampling.BICUBIC)


def _view_of_head(ct: CTVolume) -> _View:
    """What holds the head in every slice, at one scale, with a tile that is no taller or wider than _TILE_ASPECTS."""
    from scipy import ndimage

    _, height_mm, width_mm = ct.spacing_mm
    step = 4
    components, n_components = ndimage.label((ct.hu[:, ::step, ::step] > SOLID_ABOVE_HU).numpy())
    sizes = np.bincount(components.ravel(), minlength=2)[1:]
    head = components == 1 + sizes.argmax() if n_components else np.ones_like(components, dtype=bool)
    rows, columns = np.flatnonzero(head.any(axis=(0, 2))) * step, np.flatnonzero(head.any(axis=(0, 1))) * step
    height = (rows[-1] - rows[0] + step) * height_mm + 2 * _HEAD_MARGIN_MM
    width = (columns[-1] - columns[0] + step) * width_mm + 2 * _HEAD_MARGIN_MM
    aspect = min(max(height / width, _TILE_ASPECTS[0]), _TILE_ASPECTS[1])
    shown_mm = max(width, height / aspect)
    n_columns, n_rows = round(shown_mm / width_mm), round(shown_mm * aspect / height_mm)
    left, top = (
        round((columns[0] + columns[-1] + step - n_columns) / 2),
        round((rows[0] + rows[-1] + step - n_rows) / 2),
    )
    return _View((left, top, left + n_columns, top + n_rows), round(_TILE_WIDTH_PX * aspect), _TILE_WIDTH_PX / shown_mm)


def _outlined(grey: Image.Image, view: _View, mask: Bool[Tensor, "height width"]) -> Image.Image:
    """The slice with the mask's outline, drawn at twice the size and brought down for a smooth line."""
    tile = grey.convert("RGB")
    if bool(mask.any()):
        inside = view.shown(mask.float(), scale=2).point(lambda value: 255 * (value >= 128))
        grown = inside.filter(ImageFilter.BoxBlur(3)).point(lambda value: 255 * (value > 0))
        line = ImageChops.subtract(grown, inside)
        tile.paste(_OUTLINE, mask=line.resize(tile.size, Image.Resampling.BOX))
    ImageDraw.Draw(tile).rectangle((0, 0, tile.width - 1, tile.height - 1), outline=_TILE_EDGE)
    return tile


def _heated(grey: Image.Image, view: _View, saliency: Float[Tensor, "height width"]) -> Image.Image:
    """The slice with the map over it, the more opaque the higher it is."""
    values = view.shown(saliency.clamp(0, 1))
    colours = Image.fromarray(_colour_table()[np.asarray(values)])
    tile = Image.composite(colours, grey.convert("RGB"), values.point(lambda value: round(value * _MAP_OPACITY)))
    draw = ImageDraw.Draw(tile)
    draw.rectangle((0, 0, tile.width - 1, tile.height - 1), outline=_TILE_EDGE)
    draw.text((_INSET_PX, _INSET_PX), "map", font=_font(17), fill=_DIM_TEXT, anchor="la")
    return tile


def _annotate(tile: Image.Image, label: str, probability: float, mask_ml: float, sides: str) -> None:
    """Write what a slice is into its corners, and the orientation at its sides: left, right, top and bottom of it."""
    draw = ImageDraw.Draw(tile)
    right, bottom = tile.width - _INSET_PX, tile.height - _INSET_PX
    texts = [
        (label, (_INSET_PX, _INSET_PX), "la", _TEXT),
        ("" if math.isnan(probability) else f"p {probability:.2f}", (right, _INSET_PX), "ra", _TEXT),
        (sides[0], (_INSET_PX, tile.height / 2), "lm", _TEXT),
        (sides[1], (right, tile.height / 2), "rm", _TEXT),
        (sides[2], (tile.width / 2, _INSET_PX), "ma", _TEXT),
        (sides[3], (tile.width / 2, bottom), "md", _TEXT),
    ]
    if mask_ml > 0:
        texts.append((_volume_text(mask_ml), (right, bottom), "rd", _OUTLINE))
    for text, place, anchor, colour in texts:
        draw.text(place, text, font=_font(17), fill=colour, anchor=anchor, stroke_width=2, stroke_fill=_BACKGROUND)


def _page(
    tiles: Sequence[Image.Image], map_places: Container[int], header: Image.Image, footer: Image.Image
) -> Image.Image:
    """The tiles in rows between header and footer, each map close to the slice on its left."""
    tile_height = tiles[0].height
    n_rows = -(-len(tiles) // _COLUMNS)
    height = header.height + n_rows * (tile_height + _GAP_PX) - _GAP_PX + footer.height
    page = Image.new("RGB", (WIDTH_PX, height), _BACKGROUND)
    page.paste(header, (0, 0))
    page.paste(footer, (0, height - footer.height))
    for number, tile in enumerate(tiles):
        row, column = divmod(number, _COLUMNS)
        left, top = column * (_TILE_WIDTH_PX + _GAP_PX), row * (tile_height + _GAP_PX)
        if number in map_places and column < _COLUMNS - 1:
            left -= _GAP_PX - 1
        elif number + 1 in map_places and column > 0:
            left += _GAP_PX - 1
        page.paste(tile, (_MARGIN_PX + left, header.height + top))
    return page


def _volume_text(volume_ml: float) -> str:
    return "< 0.1 mL" if 0 < volume_ml < 0.1 else f"{volume_ml:.1f} mL"


def _header(title: str, volume: str, probability: float | None, warnings: Sequence[str]) -> Image.Image:
    """The title, the two numbers that matter, and the warnings."""
    lines = list(warnings)[:2]
    if len(warnings) > 2:
        lines[1] = f"{warnings[1]} (and {len(warnings) - 2} more, see the record)"
    header = Image.new("RGB", (WIDTH_PX, 96 + 26 * len(lines)), _BACKGROUND)
    draw = ImageDraw.Draw(header)
    chance = "not known" if probability is None else f"{probability:.2f}"
    right = WIDTH_PX - _MARGIN_PX
    draw.text((right, 26), volume, font=_font(34), fill=_OUTLINE, anchor="ra")
    taken = draw.textlength(volume, font=_font(34)) + 48
    draw.text((right - taken, 26), chance, font=_font(34), fill=_TEXT, anchor="ra")
    taken += draw.textlength(chance, font=_font(34)) + 12
    draw.text((right - taken, 38), "probability of hemorrhage", font=_font(17), fill=_DIM_TEXT, anchor="ra")
    taken += draw.textlength("probability of hemorrhage", font=_font(17)) + 48
    room = WIDTH_PX - 2 * _MARGIN_PX - taken
    draw.text((_MARGIN_PX, 26), _fitted(title, _font(34), room), font=_font(34), fill=_TEXT, anchor="la")
    for number, line in enumerate(lines):
        text = _fitted(f"Note: {line}", _font(17), float(WIDTH_PX - 2 * _MARGIN_PX))
        draw.text((_MARGIN_PX, 80 + 26 * number), text, font=_font(17), fill=_NOTE, anchor="la")
    return header


def _footer(view: _View, with_map: bool) -> Image.Image:
    """Scale bar, what the colours mean, and what this is not for."""
    footer = Image.new("RGB", (WIDTH_PX, 72), _BACKGROUND)
    draw = ImageDraw.Draw(footer)
    font, middle = _font(17), 38.0
    left = float(_MARGIN_PX)
    bar_px = round(_SCALE_BAR_MM * view.px_per_mm)
    draw.line((left, middle, left + bar_px, middle), fill=_TEXT, width=2)
    for end in (left, left + bar_px):
        draw.line((end, middle - 5, end, middle + 5), fill=_TEXT, width=2)
    left += bar_px + 12
    left = _written(draw, (left, middle), f"{_SCALE_BAR_MM} mm", _TEXT) + 40
    draw.line((left, middle, left + 28, middle), fill=_OUTLINE, width=3)
    left = _written(draw, (left + 38, middle), "outline of the mask", _DIM_TEXT) + 40
    if with_map:
        left = _written(draw, (left, middle), "map 0", _DIM_TEXT) + 10
        table = Image.fromarray(_colour_table()[None, :, :]).resize((160, 14))
        footer.paste(table, (round(left), round(middle) - 7))
        left = _written(draw, (left + 170, middle), "1", _DIM_TEXT) + 40
    _written(draw, (left, middle), f"W {BRAIN.width_hu:.0f} L {BRAIN.center_hu:.0f} HU", _DIM_TEXT)
    draw.text((WIDTH_PX - _MARGIN_PX, middle), NOTICE, font=font, fill=_DIM_TEXT, anchor="rm")
    return footer


def _written(draw: ImageDraw.ImageDraw, place: tuple[float, float], text: str, colour: tuple[int, int, int]) -> float:
    """Write a text from its left middle, and return where it ends."""
    draw.text(place, text, font=_font(17), fill=colour, anchor="lm")
    return place[0] + draw.textlength(text, font=_font(17))


def _fitted(text: str, font: ImageFont.FreeTypeFont, room_px: float) -> str:
    """The text in one line, or as much of it as there is room for, with an ellipsis."""
    text = " ".join(text.split())
    if font.getlength(text) <= room_px:
        return text
    while text and font.getlength(f"{text}...") > room_px:
        text = text[:-1]
    return f"{text.rstrip()}..."


@cache
def _font(size_px: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size_px)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise RuntimeError("expected a Pillow with FreeType; got one without; install Pillow's own wheel")
    return font


@cache
def _colour_table() -> NDArray[np.uint8]:
    """256 colours of the map, [256, 3]."""
    steps = np.array(_INFERNO, dtype=np.float64)
    places = np.linspace(0, 255, len(steps))
    table = np.stack([np.interp(np.arange(256), places, steps[:, channel]) for channel in range(3)], axis=1)
    return table.round().astype(np.uint8)
