"""Seconds of each step of the effects, measured on the functions that users run.

The functions that the walk calls are replaced, while a measurement lasts, by ones that note the time and call them. Belongs here: which
function is which step. Does not belong here: what is measured (``effects.py``).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any
from unittest import mock

DESIGN, CHECKS, FILTER, TMM, BY_GENE = "design", "checks of the input", "filter", "TMM", "counts by gene"
FIRST_FITS, LOWESS, FITS, SQUEEZE = "first fits", "lowess (R)", "fits", "squeezeVar (R)"
REFITS, P_VALUES, WITHIN, ACROSS, STORAGE, OTHER = "refits with contrasts", "P values", "BH within", "BH across", "storage", "other"

PER_SAMPLE = (DESIGN, CHECKS, FILTER, TMM, BY_GENE)
PER_FIT = (FIRST_FITS, LOWESS, FITS, SQUEEZE, OTHER)
PER_VALUE = (REFITS, P_VALUES, WITHIN, ACROSS, STORAGE)
STEPS = (*PER_SAMPLE, *PER_FIT, *PER_VALUE)
"""All steps; by what drives their cost: values given, tested genes × samples, contrasts × tested genes."""


class Clock:
    """Seconds by step; a step inside another does not count as that other."""

    def __init__(self, outermost: str) -> None:
        self.seconds: dict[str, float] = {}
        self._open = [outermost]
        self._since = time.perf_counter()

    def _charge(self) -> None:
        now = time.perf_counter()
        self.seconds[self._open[-1]] = self.seconds.get(self._open[-1], 0.0) + now - self._since
        self._since = now

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Charge what happens inside to a step."""
        self._charge()
        self._open.append(name)
        try:
            yield
        finally:
            self._charge()
            self._open.pop()

    def stop(self) -> dict[str, float]:
        """Seconds of every step so far."""
        self._charge()
        return self.seconds


def _noted(function: Callable[..., Any], clock: Clock, step: Callable[[], str]) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        # helpers of a step that runs on all cores belong to the thread that waits for them
        if threading.current_thread() is not threading.main_thread():
            return function(*arguments, **options)
        with clock.step(step()):
            return function(*arguments, **options)

    return call


@contextmanager
def clocked(outermost: str = OTHER) -> Iterator[Clock]:
    """Note the time of every step while the block runs.

    Parameters
    ----------
    outermost
        Step that is charged with whatever no other is.
    """
    from perturbridge_dagster.effects import estimate, streaming, structured

    clock = Clock(outermost)

    def fits() -> str:
        """Counts are fitted without weights, to know the trend, with weights, to know the variances, and again with their contrasts."""
        if SQUEEZE in clock.seconds:
            return REFITS
        return FIRST_FITS if BY_GENE in clock.seconds and LOWESS not in clock.seconds else FITS

    steps: list[tuple[ModuleType | type, str, Callable[[], str]]] = [
        (estimate, "build_design", lambda: DESIGN),
        (estimate, "_counts", lambda: CHECKS),
        (estimate, "_normalized_values", lambda: CHECKS),
        (estimate, "effect_table", lambda: STORAGE),
        (estimate, "unweighted_fit", lambda: DESIGN),
        (estimate, "max_leverage", lambda: DESIGN),
        (estimate, "filter_by_expression", lambda: FILTER),
        (structured, "unweighted_fit", lambda: DESIGN),
        (structured, "_contrasts", lambda: DESIGN),
        (structured, "library_sizes", lambda: TMM),
        (structured, "tmm_factors", lambda: TMM),
        (structured, "_prepare_counts", lambda: BY_GENE),
        (structured, "on_all_cores", fits),
        (structured, "call_r", lambda: LOWESS),
        (structured, "moderated_fit", lambda: SQUEEZE),
        (streaming, "log10_p_values", lambda: P_VALUES),
        (streaming, "adjusted_log10_p", lambda: WITHIN),
        (streaming._Adjustment, "adjust", lambda: ACROSS),
    ]
    with ExitStack() as patched:
        for owner, name, step in steps:
            patched.enter_context(mock.patch.object(owner, name, _noted(getattr(owner, name), clock, step)))
        yield clock
