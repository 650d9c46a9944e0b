from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perturbridge_dagster.agreement import signatures
from perturbridge_dagster.agreement.baselines import OtherCompoundMeans
from tests.agreement.effects_in_memory import make_effects, random_compendium


def everything(effects: object, rows: np.ndarray) -> np.ndarray:
    n_genes = len(effects.genes)  # type: ignore[attr-defined]
    return OtherCompoundMeans(effects, np.arange(n_genes), rows).means(rows)  # type: ignore[arg-type]


def test_mean_is_over_other_compounds_at_the_same_dose_and_time() -> None:
    conditions = [
        (1, "A549", 24, 1.0),  # asked
        (1, "A549", 24, 1.0),  # same compound
        (2, "A549", 24, 1.0),  # counts
        (2, "A549", 24, 1.0 + 1e-15),  # counts: the same dose
        (3, "A549", 24, 1.0),  # counts
        (4, "A549", 24, 1.0),  # not estimable
        (None, "A549", 24, 1.0),  # might be the same compound
        (5, "A549", 6, 1.0),  # other time
        (6, "A549", 24, 3.0),  # other dose
    ]
    log_fc = 2.0 ** np.arange(9)[:, None]
    effects = make_effects(conditions, log_fc, estimable=[c != 4 for c, *_ in conditions])
    rows = np.array([0, 1, 2, 4, 7])
    baseline = OtherCompoundMeans(effects, np.array([0]), rows)
    np.testing.assert_allclose(
        baseline.means(rows)[:, 0], [(4 + 8 + 16) / 3, (4 + 8 + 16) / 3, (1 + 2 + 16) / 3, (1 + 2 + 4 + 8) / 4, np.nan]
    )
    assert baseline.n_compounds(rows).tolist() == [2, 2, 2, 2, 0]


def test_missing_values_are_left_out_gene_by_gene() -> None:
    nan = np.nan
    effects = make_effects([(c, "A549", 24, 1.0) for c in (1, 2, 3)], np.array([[nan, 1.0, 5.0], [2.0, nan, nan], [4.0, 3.0, nan]]))
    np.testing.assert_allclose(everything(effects, np.arange(3)), [[3, 3, nan], [4, 2, 5], [2, 1, 5]])


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.sampled_from([1, 2, 3, None]), st.sampled_from([1.0, 10.0, 0.0]), st.booleans()), min_size=1, max_size=20))
def test_parity_with_the_rule_in_loops(rows: list[tuple[int | None, float, bool]]) -> None:
    generator = np.random.default_rng(len(rows))
    log_fc = generator.normal(size=(len(rows), 4))
    log_fc[generator.random(log_fc.shape) < 0.2] = np.nan
    effects = make_effects([(c, "A549", 24, d) for c, d, _ in rows], log_fc, estimable=[e for *_, e in rows])
    values = effects.layers["logFC"].astype(float)
    usable = [c is not None and d > 0 and e for c, d, e in rows]
    asked = np.flatnonzero(usable)
    found = everything(effects, asked)
    for row, means in zip(asked, found, strict=True):
        others = [i for i in asked if rows[i][0] != rows[row][0] and rows[i][1] == rows[row][1]]
        for gene, mean in enumerate(means):
            finite = [values[i, gene] for i in others if np.isfinite(values[i, gene])]
            np.testing.assert_allclose(mean, np.mean(finite) if finite else np.nan, atol=1e-12)


def test_blocks_change_nothing_and_bound_what_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    effects = random_compendium(np.random.default_rng(0), n_compounds=12, n_genes=30)
    rows = np.arange(len(effects.contrasts))
    whole = everything(effects, rows)
    monkeypatch.setattr(signatures, "VALUES_PER_BLOCK", 90)
    effects.largest_block = 0
    np.testing.assert_allclose(everything(effects, rows), whole, atol=1e-12)
    assert effects.largest_block == 90
