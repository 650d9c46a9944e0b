"""Hold-out studies: the published variants of transfer between datasets, and models on cells, assays and chemistry never trained.

Belongs here: which variants there are, running them, their scores over seeds beside all baselines. Does not belong here: the splits
(``splits/``), the models and their training, or baselines (``baselines.py``).
"""
