"""One page in two forms: names cannot become markup, and the HTML needs nothing beside it."""

import re
from html.parser import HTMLParser
from pathlib import Path

from PIL import Image

from hgisam.compare.document import Answer, Code, Heading, Items, Paragraph, Picture, Table, as_html, as_markdown

EVIL = "<script>alert(1)</script> | a_b * c"
BLOCKS = (
    Answer(("It is so.", EVIL)),
    Heading("Means"),
    Paragraph(EVIL),
    Items(("one", EVIL)),
    Table(("method", "Dice"), (("ours", "0.5"), (EVIL, "0.4")), "n = 2", own="ours"),
    Picture("a.png", "a picture, n = 3"),
    Code("hgisam compare"),
)


class Tags(HTMLParser):
    """The tags of a page, and where its sources lead."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attrs if name in {"src", "href"}]


def test_the_html_holds_its_pictures_loads_nothing_and_runs_nothing(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4), (9, 9, 9)).save(tmp_path / "a.png")
    page = as_html(EVIL, "Research use only.", BLOCKS, tmp_path)
    found = Tags()
    found.feed(page)
    assert "script" not in found.tags
    assert [source[:22] for source in found.sources] == ["data:image/png;base64,"]
    assert "default-src 'none'" in page
    assert page.count("Research use only.") == 2
    assert '<tr class="own"><td>ours</td>' in page


def test_a_markdown_table_has_as_many_cells_in_every_row() -> None:
    text = as_markdown("A title", "Research use only.", BLOCKS)
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert {len(re.split(r"(?<!\\)\|", row)) for row in rows} == {4}
    assert "| **ours** | **0.5** |" in rows
    assert "<script>" not in text.replace("\\<script\\>", "")
    assert "![a picture, n = 3](a.png)" in text
    assert "**Research use only.**" in text
