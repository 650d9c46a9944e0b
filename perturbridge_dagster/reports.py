"""What all reports share: numbers in words, tables of Markdown, and the page of HTML made of them.

Belongs here: how things are written. Does not belong here: what a report says, which is the ``report.py`` of each stage.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

_STYLE = """
body { font-family: sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; line-height: 1.45; color: #222 }
table { border-collapse: collapse; font-size: 0.9rem } th, td { padding: 0.25rem 0.6rem; border-bottom: 1px solid #ddd; text-align: left }
img { max-width: 100% } h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 1.8rem }
"""


def number(value: float, digits: int = 2) -> str:
    """A number with a true minus sign."""
    return f"{value:.{digits}f}".replace("-", "−")


def with_interval(value: float, low: float, high: float, digits: int = 2) -> str:
    """A value with its interval, or without one where there is none."""
    if pd.isna(value):
        return "not defined"
    if pd.isna(low):
        return f"{number(value, digits)} (no interval)"
    return f"{number(value, digits)} [{number(low, digits)}, {number(high, digits)}]"


def listed(names: Sequence[str]) -> str:
    """Words joined as in a sentence."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of Markdown."""
    return "\n".join(["| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *rows)])


def plural(n: int, one: str, many: str) -> str:
    """A count with its word."""
    return f"{n:,} {one if n == 1 else many}"


def to_html(markdown: str, pictures: Mapping[str, bytes]) -> str:
    """A page of HTML that stands alone.

    Parameters
    ----------
    markdown
        The report.
    pictures
        Caption → PNG, shown below the text.
    """
    from html import escape

    from markdown_it import MarkdownIt

    body = MarkdownIt("commonmark").enable("table").render(markdown)
    title = escape(markdown.splitlines()[0].lstrip("# "))
    shown = "".join(
        f'<figure><img alt="{escape(caption)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>\n"
        for caption, png in pictures.items()
    )
    return (
        f'<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style></head>\n'
        f"<body>\n{body}\n{shown}</body>\n</html>\n"
    )
