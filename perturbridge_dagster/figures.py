"""What all pictures share: how a Matplotlib figure becomes a PNG file.

Belongs here: encoding. Does not belong here: what is drawn, which is the ``figures.py`` of each stage. Figures are made as objects,
never through pyplot, which keeps state for a whole process.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOTS_PER_INCH = 120


def to_png(figure: Figure) -> bytes:
    """PNG bytes of a figure, without software version or time, so that equal data give equal files."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
    return stream.getvalue()
