"""What tests of identity share: a local PubChem."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.identity.pubchem_double import PubChemDouble, Record, serve

IMATINIB = "CN1CCN(CC1)Cc1ccc(cc1)C(=O)Nc1ccc(C)c(Nc2nccc(n2)-c2cccnc2)c1"

RECORDS = [
    Record(2244, "CC(=O)Oc1ccccc1C(=O)O", "Aspirin", ("acetylsalicylic acid", "50-78-2")),
    Record(5291, IMATINIB, "Imatinib", ("gleevec", "152459-95-5")),
    Record(123596, IMATINIB + ".CS(=O)(=O)O", "Imatinib Mesylate", ("gleevec", "imatinib methanesulfonate")),
    Record(702, "CCO", "Ethanol", ("64-17-5", "alcohol")),
    Record(176, "CC(=O)O", "Acetic Acid", ("64-19-7",), ("C=C(O)O",)),
    # two records of one structure
    Record(5793, "OC[C@H]1OC(O)[C@H](O)[C@@H](O)[C@@H]1O", "D-Glucose", ("glucose",)),
    Record(90000001, "OC[C@H]1OC(O)[C@H](O)[C@@H](O)[C@@H]1O", "D-Glucose again", ("glucose",)),
]


@pytest.fixture
def pubchem(monkeypatch: pytest.MonkeyPatch) -> Iterator[PubChemDouble]:
    """A local PubChem that this process asks by default."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serve(PubChemDouble(list(RECORDS), per_second=10_000)) as double:
        monkeypatch.setenv("PERTURBRIDGE_PUBCHEM", double.address)
        yield double
