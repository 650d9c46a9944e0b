"""Agreement: how well datasets, and replicates within a dataset, agree on what a compound does.

Belongs here: matching conditions (``matching.py``), metrics of two signatures (``metrics.py``, ``comparing.py``) and what they are set
beside (``baselines.py``, ``peers.py``), scoring matched conditions (``scoring.py``) and replicates (``replicates.py``), searching one
dataset with another (``retrieval.py``) or with itself (``replicate_retrieval.py``), intervals (``bootstrap.py``), and what all of it
says together (``summary.py``, ``compendium.py``) in sentences (``report.py``) and pictures (``gallery.py``). Does not belong here:
estimating effects (``effects/``) or where the results are written (``payloads/``).
"""

from perturbridge_dagster.agreement.matching import match_conditions

__all__ = ["match_conditions"]
