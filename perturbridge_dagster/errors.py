"""Errors that a person can act on.

Belongs here: the exceptions that carry dataset, file, row and column to the user. Does not belong here: exceptions of one
function's own control flow.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


class PerturbridgeError(Exception):
    """Base of every error this project raises on purpose."""


class InputError(PerturbridgeError):
    """Input that cannot be used, said so that the user can mend it.

    Parameters
    ----------
    problem
        What is wrong, in one sentence.
    dataset
        Dataset id, for example ``"sciplex"``.
    file
        The file at fault.
    rows
        Row identifiers (sample ids, gene ids, line numbers) at fault; the first five are shown.
    column
        The column or field at fault.
    expected
        What was expected instead.
    advice
        What to do.
    """

    def __init__(
        self,
        problem: str,
        *,
        dataset: str | None = None,
        file: str | Path | None = None,
        rows: Sequence[object] = (),
        column: str | None = None,
        expected: str | None = None,
        advice: str | None = None,
    ) -> None:
        self.problem = problem
        self.dataset = dataset
        self.file = None if file is None else str(file)
        self.rows = [str(row) for row in rows]
        self.column = column
        self.expected = expected
        self.advice = advice
        where = [f"{name} {value}" for name, value in (("dataset", dataset), ("file", self.file), ("column", column)) if value]
        if self.rows:
            more = f" and {len(self.rows) - 5:,} more" if len(self.rows) > 5 else ""
            where.append(f"rows {', '.join(self.rows[:5])}{more}")
        text = f"{'; '.join(where)}: {problem}" if where else problem
        if (expected or advice) and not text.endswith((".", "?", "!")):
            text += "."
        if expected:
            text += f" Expected: {expected}."
        if advice:
            text += f" {advice}"
        super().__init__(text)


class IncompatibleFileError(PerturbridgeError):
    """A written file whose stamp does not fit: no stamp, another contract version, or another stage."""


class UnacceptedInputError(PerturbridgeError):
    """An input whose blocking checks have not all passed."""


class NotEstimableError(PerturbridgeError):
    """A stratum that cannot be fitted at all: no residual degrees of freedom, no controls, or no conditions."""
