"""The benchmark of the sample, for three seeds, and small problems with a known answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from perturbridge_dagster.representation.op3.data import Op3Table, Problem, read_table, resplit
from perturbridge_dagster.sample import op3_benchmark
from perturbridge_dagster.sample.biology import simulate
from perturbridge_dagster.sample.tables import compounds
from perturbridge_dagster.sources import locate_files


@dataclass(frozen=True)
class Sampled:
    """The benchmark of a sample: its files, what is read of them, and the mechanism of each compound."""

    folder: Path
    table: Op3Table
    problem: Problem
    mechanism: pd.Series


@pytest.fixture(scope="session")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Sampled]:
    """The benchmark of the sample with a seed."""

    @cache
    def make(seed: int) -> Sampled:
        folder = tmp_path_factory.mktemp("op3")
        op3_benchmark.write(folder, simulate(seed), seed)
        table = read_table(locate_files("op3_benchmark", folder))
        known = compounds().dropna(subset="smiles").drop_duplicates("smiles").set_index("smiles")["mechanism"]
        return Sampled(folder, table, resplit(table), table.compounds["smiles"].map(known))

    return make


@pytest.fixture(scope="session")
def tiny_problem() -> Problem:
    """Six compounds on two cell types, forty genes; values are drawn."""
    random = np.random.default_rng(3)

    def conditions(names: list[str]) -> pd.DataFrame:
        return pd.DataFrame([(name, cell) for name in names for cell in ("B cells", "T cells")], columns=["sm_name", "cell_type"])

    train, test = conditions(["a", "b", "c", "d", "e"]), conditions(["f"])
    values = random.normal(size=(len(train) + len(test), 40)).astype(np.float32)
    return Problem(train, test, values[: len(train)], values[len(train) :])


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Networks of a few units are slower with more threads where tests run side by side."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
