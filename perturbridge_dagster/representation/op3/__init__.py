"""The OP3 evaluation: how well effects on blood cells are predicted for compounds that were held out, by descriptor of the compound.

The published one re-splits the tables of the NeurIPS 2023 competition by compound and fits an ensemble in two stages, with learned
embeddings of compounds in the place of descriptors or beside them (``data.py``, ``descriptors.py``, ``members.py``, ``networks.py``,
``ensemble.py``, ``metrics.py``). Ours adds what it lacks: epochs chosen on held-out training compounds, baselines without a network,
compounds that a corpus has seen and those it has not apart, and intervals over compounds (``baselines.py``, ``comparison.py``).

Belongs here: everything of this evaluation but its files and its asset. Does not belong here: corpora and embeddings.
"""
