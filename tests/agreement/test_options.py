from __future__ import annotations

from pathlib import Path

import pytest

from perturbridge_dagster.agreement.options import TAKEN, AgreementOptions, agreement_options
from perturbridge_dagster.errors import InputError
from perturbridge_dagster.stages import STAGES
from resources.store import SETTINGS, Store


def test_what_is_not_said_is_off() -> None:
    options = agreement_options({}, Path("settings.toml"))
    assert options == AgreementOptions()
    assert not options.sample_weights
    assert options.minimum_significant_genes == 0
    assert {name for names in TAKEN.values() for name in names} == set(AgreementOptions.model_fields)
    assert set(TAKEN) <= set(STAGES)


@pytest.mark.parametrize(
    ("table", "column", "expected"),
    [
        ({"n_peer": 5}, "n_peer", "one of max_log10_dose_gap, compound"),
        ({"n_peers": -1}, "n_peers", "a whole number, 0 or more"),
        ({"n_peers": "5"}, "n_peers", "a whole number, 0 or more"),
        ({"sample_weights": 1}, "sample_weights", "true or false"),
        ({"compound": "name"}, "compound", "pubchem_cid or parent_key"),
        ({"max_log10_dose_gap": float("inf")}, "max_log10_dose_gap", "a number, 0 or more"),
    ],
)
def test_a_wrong_option_is_named_with_what_was_expected(table: dict, column: str, expected: str) -> None:
    with pytest.raises(InputError, match=expected) as refused:
        agreement_options(table, Path("settings.toml"))
    assert refused.value.column == column


def test_the_settings_choose(tmp_path: Path) -> None:
    store = Store(home=str(tmp_path))
    assert store.agreement_options() == AgreementOptions()
    (tmp_path / SETTINGS).write_text('[agreement]\nminimum_significant_genes = 10\ncentroid = "row_means"\nmax_log10_dose_gap = 0.5\n')
    assert store.agreement_options() == AgreementOptions(minimum_significant_genes=10, centroid="row_means", max_log10_dose_gap=0.5)
    (tmp_path / SETTINGS).write_text('agreement = "yes"\n')
    with pytest.raises(InputError, match="is not a table"):
        store.agreement_options()
