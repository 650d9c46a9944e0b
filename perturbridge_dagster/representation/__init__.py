"""Representation: the training corpus, its splits, the models trained on it, and their honest evaluation.

Belongs here: the stable way in, which needs no torch. Does not belong here: effects (``effects/``) or how a stage is run
(``assets/``, ``payloads/``). Modules, in the order of the flow: ``splits`` (who is held out), ``corpora`` and ``corpus`` (what is learned
from, and its files), ``encoding`` (symbols to integers), ``models``, ``training``, ``embeddings``; ``fingerprints``, ``baselines`` and
``structure_baselines`` (what needs no training), ``profile_metrics``, ``evaluation``, ``verdicts`` (who wins); ``holdout`` and ``op3``
(evaluations of their own), ``figures``, ``report``.
"""

from perturbridge_dagster.representation.splits import split_molecules, split_scalar

__all__ = ["split_molecules", "split_scalar"]
