"""What all pictures share: how a Matplotlib figure becomes a PNG file, how values with intervals look, and drawing all those of an output.

Belongs here: encoding, marks of several stages, and what a picture of an output is. Does not belong here: what is drawn, which is the
``figures.py`` of each stage.
Figures are made as objects, never through pyplot, which keeps state for a whole process.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike

DOTS_PER_INCH = 120


def to_png(figure: Figure) -> bytes:
    """PNG bytes of a figure, without software version or time, so that equal data give equal files."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
    return stream.getvalue()


def points_with_intervals(
    axes: Axes, labels: Sequence[str], values: ArrayLike, low: ArrayLike, high: ArrayLike, colours: Sequence[str]
) -> None:
    """Draw values as points with their intervals, from top to bottom; a point alone where there is no interval.

    Parameters
    ----------
    axes
        Where to draw.
    labels
        Name of each row.
    values, low, high
        (rows,) numbers; NaN where there is none.
    colours
        Of each row.
    """
    ends = np.array([low, high], dtype=np.float64)
    for place, (value, start, end, colour) in enumerate(zip(np.asarray(values, dtype=np.float64), *ends, colours, strict=True)):
        if np.isfinite(start) and np.isfinite(end):
            axes.plot([start, end], [place, place], color=colour, lw=1.5, solid_capstyle="butt")
        axes.plot(value, place, "o", color=colour, ms=5)
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.set_ylim(max(len(labels), 1) - 0.5, -0.5)
    axes.tick_params(axis="x", labelsize=8)
    axes.grid(axis="x", color="0.9", lw=0.8)
    axes.set_axisbelow(True)


# ---- pictures of an output --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Picture:
    """One picture of an output.

    Attributes
    ----------
    caption
        What it shows, in a few words.
    tables
        Names of the tables it is drawn from, files of the output without their ending.
    draw
        Function of these tables.
    """

    caption: str
    tables: tuple[str, ...]
    draw: Callable[..., bytes]


def draw(pictures: Mapping[str, Picture], tables: Mapping[str, pd.DataFrame]) -> dict[str, bytes]:
    """Draw pictures from tables by name; name → PNG. Matplotlib's own style is taken, whatever the process has set for its figures."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        return {name: picture.draw(*(tables[table] for table in picture.tables)) for name, picture in pictures.items()}
