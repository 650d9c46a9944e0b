"""What tests of sources share: genes that the shipped identity knows."""

from __future__ import annotations

import pandas as pd
import pytest

from perturbridge_dagster.identity.snapshot import shipped

MALAT1 = "ENSG00000251562"


@pytest.fixture(scope="session")
def genes() -> pd.DataFrame:
    """300 current genes, ensembl_id and symbol: MALAT1 first, then the 13 mitochondrial protein genes, then others."""
    known = shipped().genes.genes.dropna(subset="symbol").sort_values("ensembl_id")
    malat1 = known[known["ensembl_id"] == MALAT1]
    mitochondrial = known[known["symbol"].str.match(r"MT-(?:ND|CO|CYB|ATP)")]
    others = known.drop([*malat1.index, *mitochondrial.index])
    chosen = pd.concat([malat1, mitochondrial, others]).head(300).reset_index(drop=True)
    assert (len(malat1), len(mitochondrial), len(chosen)) == (1, 13, 300)
    return chosen[["ensembl_id", "symbol"]]
