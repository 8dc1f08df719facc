"""A page in blocks, written twice: as one HTML file that needs nothing else, and as Markdown beside its pictures."""

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""Nothing is loaded and nothing runs, whatever a name in the tables may hold."""

_STYLE = """
:root { color-scheme: light; }
body { margin: 0; background: #f4f5f7; color: #22262b; font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 40px 44px 64px; background: #fff; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 6px; }
h2 { font-size: 21px; margin: 44px 0 10px; padding-top: 14px; border-top: 1px solid #e3e6ea; }
.notice { color: #8a3b00; font-weight: 600; margin: 0 0 20px; }
.answer { background: #fdf3ec; border-left: 5px solid #d55e00; padding: 12px 20px; }
.answer p { margin: 6px 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 14px; margin: 8px 0 4px; font-variant-numeric: tabular-nums; }
th, td { padding: 6px 12px 6px 0; text-align: right; border-bottom: 1px solid #e3e6ea; vertical-align: top; }
th { vertical-align: bottom; border-bottom: 2px solid #8a8f98; }
th:first-child, td:first-child { text-align: left; }
tr.own td { background: #fdf3ec; font-weight: 600; }
.prose td, .prose th { text-align: left; }
figure { margin: 18px 0 26px; }
figure img { max-width: 100%; height: auto; display: block; border: 1px solid #e3e6ea; }
figcaption, .caption { color: #565c66; font-size: 14px; margin: 6px 0 0; }
pre { background: #f4f5f7; padding: 12px 16px; overflow-x: auto; font-size: 13px; }
@media print {
  @page { size: A4 landscape; margin: 12mm; }
  body, main { background: none; max-width: none; padding: 0; font-size: 11px; }
  table { font-size: 8px; }
  th, td { padding: 3px 5px 3px 0; }
  .scroll { overflow: visible; }
  figcaption, .caption { font-size: 9px; }
  figure img { max-height: 165mm; }
  pre { white-space: pre-wrap; font-size: 7px; line-height: 1.3; columns: 4; }
  h2 { margin-top: 20px; break-after: avoid; }
  tr, figure { break-inside: avoid; }
}
"""


@dataclass(frozen=True)
class Heading:
    """A section's name."""

    text: str


@dataclass(frozen=True)
class Paragraph:
    """Running text."""

    text: str


@dataclass(frozen=True)
class Answer:
    """What the page is about, in a few sentences that stand out."""

    sentences: tuple[str, ...]


@dataclass(frozen=True)
class Items:
    """A list."""

    items: tuple[str, ...]


@dataclass(frozen=True)
class Code:
    """Lines as they are typed or stored."""

    text: str


@dataclass(frozen=True)
class Table:
    """Rows under a head.

    Attributes:
        head: of each column.
        rows: cells as text.
        caption: what it shows, of how many.
        own: the first cell of the row that stands out.
        prose: whether cells are text, not numbers.
    """

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str
    own: str | None = None
    prose: bool = False


@dataclass(frozen=True)
class Picture:
    """A PNG file in the page's folder.

    Attributes:
        path: relative to the page.
        caption: what it shows, of how many.
    """

    path: str
    caption: str


Block = Heading | Paragraph | Answer | Items | Code | Table | Picture


def as_html(title: str, notice: str, blocks: Sequence[Block], folder: Path) -> str:
    """One HTML page with its pictures inside; it loads nothing and runs nothing.

    Args:
        title: of the page.
        notice: what it is not for.
        blocks: what it says.
        folder: where the pictures lie.
    """
    body = "\n".join(_html_block(block, folder) for block in blocks)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        f'<h1>{html.escape(title)}</h1>\n<p class="notice">{html.escape(notice)}</p>\n{body}\n'
        f'<p class="notice">{html.escape(notice)}</p>\n</main>\n</body>\n</html>\n'
    )


def as_markdown(title: str, notice: str, blocks: Sequence[Block]) -> str:
    """The same as Markdown; pictures stay files beside it."""
    body = "\n\n".join(_markdown_block(block) for block in blocks)
    return f"# {_plain(title)}\n\n**{_plain(notice)}**\n\n{body}\n"


def _html_block(block: Block, folder: Path) -> str:
    if isinstance(block, Heading):
        return f"<h2>{html.escape(block.text)}</h2>"
    if isinstance(block, Paragraph):
        return f"<p>{html.escape(block.text)}</p>"
    if isinstance(block, Answer):
        return '<div class="answer">' + "".join(f"<p>{html.escape(s)}</p>" for s in block.sentences) + "</div>"
    if isinstance(block, Items):
        return "<ul>" + "".join(f"<li>{html.escape(item)}</li>" for item in block.items) + "</ul>"
    if isinstance(block, Code):
        return f"<pre>{html.escape(block.text)}</pre>"
    if isinstance(block, Picture):
        data = base64.b64encode((folder / block.path).read_bytes()).decode("ascii")
        caption = html.escape(block.caption)
        return (
            f'<figure><img alt="{caption}" src="data:image/png;base64,{data}">'
            f"<figcaption>{caption}</figcaption></figure>"
        )
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in block.head)
    rows = "\n".join(
        ('<tr class="own">' if row[0] == block.own else "<tr>")
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in row)
        + "</tr>"
        for row in block.rows
    )
    table = f"<table><thead><tr>{head}</tr></thead>\n<tbody>{rows}</tbody></table>"
    kind = "scroll prose" if block.prose else "scroll"
    return f'<div class="{kind}">{table}</div>\n<p class="caption">{html.escape(block.caption)}</p>'


def _markdown_block(block: Block) -> str:
    if isinstance(block, Heading):
        return f"## {_plain(block.text)}"
    if isinstance(block, Paragraph):
        return _plain(block.text)
    if isinstance(block, Answer):
        return "\n>\n".join(f"> {_plain(sentence)}" for sentence in block.sentences)
    if isinstance(block, Items):
        return "\n".join(f"- {_plain(item)}" for item in block.items)
    if isinstance(block, Code):
        return f"```\n{block.text}\n```"
    if isinstance(block, Picture):
        return f"![{_plain(block.caption)}]({block.path})\n\n*{_plain(block.caption)}*"
    aligned = ["---", *("---" if block.prose else "---:" for _ in block.head[1:])]
    lines = [_row([_plain(cell) for cell in block.head]), _row(aligned)]
    for row in block.rows:
        mark = "**" if row[0] == block.own else ""
        lines.append(_row([f"{mark}{_plain(cell)}{mark}" for cell in row]))
    return "\n".join(lines) + f"\n\n*{_plain(block.caption)}*"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _plain(text: str) -> str:
    """Text without what Markdown would take for markup."""
    for sign in "\\`*_|<>[]":
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.split())
