"""Representation: the training corpus, its splits, the models trained on it, and their honest evaluation.

Belongs here: the stable way in, which needs no torch. Does not belong here: effects (``effects/``) or how a stage is run
(``assets/``, ``payloads/``). Modules: ``splits`` (who is held out), ``corpus`` (the long table on disk), ``encoding`` (symbols to
integers), ``models``, ``training``, ``evaluation``, ``embeddings``, ``figures``.
"""

from perturbridge_dagster.representation.splits import split_molecules, split_scalar

__all__ = ["split_molecules", "split_scalar"]
