"""Agreement: how well datasets, and replicates within a dataset, agree on what a compound does.

Belongs here: matching conditions (``matching.py``), scores of one pair of signatures (``metrics.py``), the baseline of other
compounds in the same context (``baselines.py``), scoring matched conditions (``scoring.py``) and replicates (``replicates.py``),
and what they say together (``summary.py``, ``figures.py``). Does not belong here: estimating effects (``effects/``) or where the
results are written (``payloads/``).
"""

from perturbridge_dagster.agreement.matching import match_conditions

__all__ = ["match_conditions"]
