"""The published Chem-PerturBridge release as a source: its files in our contract, and our effects beside its effects.

``layout.py`` finds the release's files below a folder; ``h5ad.py`` opens one of them; ``effects.py`` and ``samples.py`` turn effects and
harmonized samples into our contract; ``matching.py`` says which published contrast is which of ours; ``compare.py`` measures how far they
agree; ``refit.py`` fits our samples in the release's own batches; ``explain.py`` says why two contrasts differ; ``figures.py`` draws it.

Belongs in this package: reading that release and the comparison with it. Does not belong here: the rule by which the published analysis
cut strata into batches (``effects/batches.py``), or agreement between datasets (``agreement/``).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perturbridge_dagster.published.compare import Comparison, compare_stratum
    from perturbridge_dagster.published.effects import PublishedEffects, open_published_effects
    from perturbridge_dagster.published.layout import Release
    from perturbridge_dagster.published.refit import refit_batches
    from perturbridge_dagster.published.samples import PublishedSamples, open_published_samples

__all__ = [
    "Comparison",
    "PublishedEffects",
    "PublishedSamples",
    "Release",
    "compare_stratum",
    "open_published_effects",
    "open_published_samples",
    "refit_batches",
]

_MODULES = {
    "Comparison": "compare",
    "PublishedEffects": "effects",
    "PublishedSamples": "samples",
    "Release": "layout",
    "compare_stratum": "compare",
    "open_published_effects": "effects",
    "open_published_samples": "samples",
    "refit_batches": "refit",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
