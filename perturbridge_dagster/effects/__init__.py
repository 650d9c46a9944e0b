"""Differential effects: from the harmonized samples of a stratum to a table of contrasts × genes.

``strata.py`` cuts a dataset into strata; ``design.py`` says which conditions, plates and contrasts a stratum has; ``filter.py`` and
``normalize.py`` prepare counts; an engine fits them (``structured.py`` on ``solver.py`` and ``moderate.py``, or ``limma.py``; both over
``r.py``); ``p_values.py`` and ``table.py`` make the result, ``streaming.py`` in bounded memory; ``storage.py`` writes and reads it;
``figures.py`` draws it; ``batches.py`` is the published cut; ``estimate.py`` is the whole walk.

Belongs in this package: the statistics of effects. Does not belong
here: reading sources (``sources/``) or comparing effects (``agreement/``).

Names below load on first use, so importing this package loads neither anndata nor R.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perturbridge_dagster.effects.estimate import estimate_effects
    from perturbridge_dagster.effects.r import RError, r_source, r_versions
    from perturbridge_dagster.effects.storage import StoredEffects, open_effects, write_effects
    from perturbridge_dagster.effects.strata import Stratum, split_strata, strata_table
    from perturbridge_dagster.effects.table import EffectTable

__all__ = [
    "EffectTable",
    "RError",
    "StoredEffects",
    "Stratum",
    "estimate_effects",
    "open_effects",
    "r_source",
    "r_versions",
    "split_strata",
    "strata_table",
    "write_effects",
]

_MODULES = {
    "EffectTable": "table",
    "RError": "r",
    "StoredEffects": "storage",
    "Stratum": "strata",
    "estimate_effects": "estimate",
    "open_effects": "storage",
    "r_source": "r",
    "r_versions": "r",
    "split_strata": "strata",
    "strata_table": "strata",
    "write_effects": "storage",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
