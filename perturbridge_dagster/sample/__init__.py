"""The built-in compendium: one simulated truth, written in the native format of every dataset and benchmark.

It lets the whole graph run on a laptop without a download, and be judged: the truth behind it is written beside it. Genes, compounds
and cell contexts are real, the numbers are not. Belongs here: the simulation and the writers. Does not belong here: readers
(``sources/``), which must not know that they read a sample.
"""

from perturbridge_dagster.sample.compendium import BENCHMARKS, DATASETS, DEFAULT_SEED, SAMPLE_VERSION, is_sample, write_sample

__all__ = ["BENCHMARKS", "DATASETS", "DEFAULT_SEED", "SAMPLE_VERSION", "is_sample", "write_sample"]
