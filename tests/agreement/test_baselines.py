from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perturbridge_dagster.agreement import signatures
from perturbridge_dagster.agreement.baselines import Groups, OtherCompoundMeans
from tests.agreement.effects_in_memory import EffectsInMemory, make_effects, random_compendium


def everything(effects: EffectsInMemory, rows: np.ndarray, **options: str) -> np.ndarray:
    return OtherCompoundMeans(effects, np.arange(len(effects.genes)), rows, **options).means(rows)


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
    np.testing.assert_allclose(
        everything(effects, rows, centroid="row_means")[:, 0],
        [(4 + 8 + 16) / 3, (4 + 8 + 16) / 3, (1 + 2 + 16) / 3, (1 + 2 + 4 + 8) / 4, np.nan],
    )
    np.testing.assert_allclose(everything(effects, rows)[:, 0], [(6 + 16) / 2, (6 + 16) / 2, (1.5 + 16) / 2, (1.5 + 6) / 2, np.nan])
    assert Groups.of(effects.contrasts).n_other_compounds(np.array([*rows, 5, 6])).tolist() == [2, 2, 2, 2, 0, 0, 0]


def test_missing_values_are_left_out_gene_by_gene() -> None:
    nan = np.nan
    effects = make_effects([(c, "A549", 24, 1.0) for c in (1, 2, 3)], np.array([[nan, 1.0, 5.0], [2.0, nan, nan], [4.0, 3.0, nan]]))
    np.testing.assert_allclose(everything(effects, np.arange(3)), [[3, 3, nan], [4, 2, 5], [2, 1, 5]])


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(st.sampled_from([1, 2, 3, None]), st.sampled_from([1.0, 10.0, 0.0]), st.booleans()), min_size=1, max_size=20),
    st.sampled_from([0.0, 0.2]),
)
def test_parity_with_the_rule_in_loops(rows: list[tuple[int | None, float, bool]], gaps: float) -> None:
    generator = np.random.default_rng(len(rows))
    log_fc = generator.normal(size=(len(rows), 4))
    log_fc[generator.random(log_fc.shape) < gaps] = np.nan
    effects = make_effects([(c, "A549", 24, d) for c, d, _ in rows], log_fc, estimable=[e for *_, e in rows])
    values = effects.layers["logFC"].astype(float)
    usable = [c is not None and d > 0 and e for c, d, e in rows]
    asked = np.flatnonzero(usable)
    for centroid in ("compound_means", "row_means"):
        for row, means in zip(asked, everything(effects, asked, centroid=centroid), strict=True):
            others = [i for i in asked if rows[i][0] != rows[row][0] and rows[i][1] == rows[row][1]]
            weights = [1 / sum(rows[i][0] == rows[j][0] for j in others) if centroid == "compound_means" else 1.0 for i in others]
            for gene, mean in enumerate(means):
                finite = [(values[i, gene], w) for i, w in zip(others, weights, strict=True) if np.isfinite(values[i, gene])]
                expected = np.average([v for v, _ in finite], weights=[w for _, w in finite]) if finite else np.nan
                np.testing.assert_allclose(mean, expected, atol=1e-12)


def test_any_value_of_the_layers_can_be_averaged() -> None:
    effects = random_compendium(np.random.default_rng(0), n_genes=5)
    rows, genes = np.arange(len(effects.contrasts)), np.arange(5)
    both = OtherCompoundMeans(
        effects, genes, rows, layers=("logFC", "t"), value=lambda found: np.concatenate([found["logFC"], found["t"]], axis=1)
    )
    means = both.means(rows)
    np.testing.assert_allclose(means[:, :5], everything(effects, rows), atol=1e-12)
    np.testing.assert_allclose(means[:, 5:], 2 * means[:, :5], atol=1e-6)


def test_blocks_change_nothing_and_bound_what_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    effects = random_compendium(np.random.default_rng(0), n_compounds=12, n_genes=30)
    rows = np.arange(len(effects.contrasts))
    whole = everything(effects, rows)
    monkeypatch.setattr(signatures, "VALUES_PER_BLOCK", 90)
    effects.largest_block = 0
    np.testing.assert_allclose(everything(effects, rows), whole, atol=1e-12)
    assert effects.largest_block == 90
