"""Baselines against plain pandas and scikit-learn, and what they do where train has nothing to say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rdkit import Chem, DataStructs
from rdkit.Chem import rdFingerprintGenerator
from sklearn.linear_model import Ridge

from perturbridge_dagster.representation import structure_baselines
from perturbridge_dagster.representation.baselines import BASELINES, MEANINGS, Predictor
from perturbridge_dagster.representation.corpus import StoredCorpus, open_corpus, write_corpus
from perturbridge_dagster.representation.encoding import EncodedSplit, Vocabularies, encode_split
from perturbridge_dagster.representation.fingerprints import morgan_bits
from perturbridge_dagster.representation.structure_baselines import PENALTIES, FingerprintRidge, fitted_baselines

pytestmark = pytest.mark.slow

N_BITS = 64


def fitted(corpus: StoredCorpus, rule: str = "scalar", n_bits: int = N_BITS) -> tuple[dict[str, Predictor], Vocabularies]:
    vocabularies = corpus.vocabularies(rule, unknown=True)
    train, validation = (encode_split(corpus, split, vocabularies, rule=rule) for split in ("train", "val"))
    return {one.name: one for one in fitted_baselines(train, validation, vocabularies, corpus.compounds, n_bits=n_bits)}, vocabularies


def predicted(predictor: Predictor, split: EncodedSplit) -> pd.DataFrame:
    """One row a condition of the split, one column a code of a gene."""
    frames = []
    for block in split.blocks:
        rows = split.conditions.iloc[block.condition]
        frames.append(pd.DataFrame(predictor.predict(rows, block), index=rows.index, columns=block.readout))
    return pd.concat(frames).sort_index()


def long(corpus: StoredCorpus, split: str, rule: str = "scalar") -> pd.DataFrame:
    return _long(corpus.folder, split, rule)


@cache
def _long(folder: Path, split: str, rule: str) -> pd.DataFrame:
    frame = pd.concat(list(open_corpus(folder).iterate_shards(split, rule)), ignore_index=True)
    return frame.astype({"dataset": str, "context": str, "perturbation": str, "readout": str, "value": float})


@pytest.fixture(scope="module")
def holed_corpus(
    additive_corpus: StoredCorpus,
    additive_strata: list,
    additive_samples: pd.DataFrame,
    make_stamp: Callable,
    tmp_path_factory: pytest.TempPathFactory,
) -> StoredCorpus:
    """The additive corpus with missing values, in shards of a few conditions, and without the structures of some compounds of test."""
    random = np.random.default_rng(3)
    strata = []
    for stratum in additive_strata:
        logFC = stratum.logFC.copy()
        logFC[random.random(logFC.shape) < 0.1] = np.nan
        strata.append(stratum.with_logFC(logFC))
    of_test = additive_corpus.conditions_of("test")["perturbation"].drop_duplicates().astype("int64").iloc[::4]
    samples = additive_samples.assign(smiles=additive_samples["smiles"].mask(additive_samples["pubchem_cid"].isin(of_test), None))
    folder: Path = tmp_path_factory.mktemp("corpus") / "holed"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("perturbridge_dagster.representation.shards.SHARD_VALUES", 700)
        write_corpus(strata, folder, make_stamp(), name="holed", samples=samples)
    return open_corpus(folder)


def test_every_baseline_has_a_name_and_a_meaning(additive_corpus: StoredCorpus) -> None:
    assert tuple(fitted(additive_corpus)[0]) == BASELINES == tuple(MEANINGS)


@pytest.mark.parametrize(
    ("name", "columns"), [("gene_mean", []), ("context_mean", ["dataset", "context"]), ("compound_mean", ["perturbation"])]
)
@pytest.mark.parametrize("rule", ["scalar", "molecules", "contexts"])
def test_means_are_group_means_of_train(holed_corpus: StoredCorpus, name: str, columns: list[str], rule: str) -> None:
    found, vocabularies = fitted(holed_corpus, rule)
    train = long(holed_corpus, "train", rule)
    by_gene = train.groupby("readout")["value"].mean()
    by_group = train.groupby([*columns, "readout"])["value"].mean()
    split = encode_split(holed_corpus, "test", vocabularies, rule=rule)
    table = predicted(found[name], split)
    assert len(table) == len(split.conditions) > 0
    for row, condition in split.conditions.iloc[::5].iterrows():
        for code in table.columns[::11]:
            gene = vocabularies.readout[code]
            expected = by_group.get((*condition[columns], gene) if columns else gene, by_gene[gene])
            assert table.loc[row, code] == pytest.approx(expected, rel=1e-9)


def test_a_gene_never_trained_is_predicted_as_no_effect(additive_corpus: StoredCorpus) -> None:
    found, vocabularies = fitted(additive_corpus)
    split = encode_split(additive_corpus, "test", vocabularies)
    strange = replace(split.blocks[0], readout=np.full_like(split.blocks[0].readout, len(vocabularies.readout)))
    for name, predictor in found.items():
        values = predictor.predict(split.conditions.iloc[strange.condition], strange)
        assert (values == 0).all(), name


def test_no_baseline_reads_the_truth(additive_corpus: StoredCorpus) -> None:
    found, vocabularies = fitted(additive_corpus)
    for split in (encode_split(additive_corpus, name, vocabularies) for name in ("val", "test")):
        for block in split.blocks:
            rows = split.conditions.iloc[block.condition]
            blank = replace(block, log_fc=np.full_like(block.log_fc, np.nan), significance=None)
            for name, predictor in found.items():
                np.testing.assert_array_equal(predictor.predict(rows, block), predictor.predict(rows, blank), err_msg=name)


@pytest.mark.parametrize("size", [1, 500])
def test_predictions_do_not_depend_on_how_much_is_read_at_once(holed_corpus: StoredCorpus, size: int) -> None:
    straight, vocabularies = fitted(holed_corpus)
    split = encode_split(holed_corpus, "test", vocabularies)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("perturbridge_dagster.representation.shards.PART_VALUES", size)
        in_parts, _ = fitted(holed_corpus)
        for name, predictor in in_parts.items():
            np.testing.assert_allclose(predicted(predictor, split), predicted(straight[name], split), atol=1e-9, err_msg=name)


# ---- nearest neighbour -------------------------------------------------------------------------------------------------------


def test_the_nearest_neighbour_is_that_of_rdkit(holed_corpus: StoredCorpus) -> None:
    found, vocabularies = fitted(holed_corpus)
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=N_BITS)
    smiles = holed_corpus.compounds.set_index("perturbation")["smiles"].dropna()
    bits = {name: generator.GetFingerprint(Chem.MolFromSmiles(text)) for name, text in smiles.items()}
    train = long(holed_corpus, "train").pivot_table(index=["dataset", "context", "perturbation"], columns="readout", values="value")
    split = encode_split(holed_corpus, "test", vocabularies)
    table = predicted(found["nearest_neighbour"], split)
    context_mean = predicted(found["context_mean"], split)
    n_tied = n_without = 0
    for row, condition in split.conditions.iterrows():
        if condition["perturbation"] not in bits:
            n_without += 1
            np.testing.assert_array_equal(table.loc[row], context_mean.loc[row])
            continue
        profiles = train.loc[condition["dataset"], condition["context"]]
        profiles = profiles[profiles.index.isin(bits)]
        alike = np.array([DataStructs.TanimotoSimilarity(bits[condition["perturbation"]], bits[name]) for name in profiles.index])
        nearest = profiles[alike == alike.max()]
        n_tied += len(nearest) > 1
        expected = nearest.mean().reindex(vocabularies.readout).to_numpy()
        missing = np.isnan(expected)
        np.testing.assert_allclose(table.loc[row].to_numpy()[~missing], expected[~missing], rtol=1e-9)
        np.testing.assert_array_equal(table.loc[row].to_numpy()[missing], context_mean.loc[row].to_numpy()[missing])
    assert n_tied
    assert n_without


@pytest.mark.parametrize(("rule", "level"), [("contexts", ["dataset"]), ("assays", [])])
def test_neighbours_are_looked_for_in_the_dataset_and_then_anywhere(additive_corpus: StoredCorpus, rule: str, level: list[str]) -> None:
    found, vocabularies = fitted(additive_corpus, rule, n_bits=2_048)
    split = encode_split(additive_corpus, "test", vocabularies, rule=rule)
    train = long(additive_corpus, "train", rule)
    table = predicted(found["nearest_neighbour"], split)
    known = set(additive_corpus.compounds.dropna(subset="smiles")["perturbation"])
    n_same = 0
    for row, condition in split.conditions.iterrows():
        there = train
        for column in level:
            there = there[there[column] == condition[column]]
        if level and there.empty:
            continue
        if condition["perturbation"] in known and (there["perturbation"] == condition["perturbation"]).any():
            # no other compound has the same fingerprint, so that the nearest is the compound itself, elsewhere
            of_compound = there[there["perturbation"] == condition["perturbation"]]
            by_row = of_compound.groupby("readout")["value"].mean().reindex(vocabularies.readout)
            np.testing.assert_allclose(table.loc[row], by_row, rtol=1e-6)
            n_same += 1
    assert n_same


# ---- ridge -------------------------------------------------------------------------------------------------------------------


def ridge_by_scikit_learn(corpus: StoredCorpus, dataset: str, penalty: float, n_bits: int, split: str) -> pd.DataFrame:
    """The context's mean and a ridge of the rest on fingerprints, both centred in each context; one row a condition of the split."""
    compounds = corpus.compounds.set_index("perturbation")
    bits = pd.DataFrame(morgan_bits(compounds["smiles"], n_bits=n_bits), index=compounds.index).astype(float)
    bits = bits[bits.any(axis=1)]
    keys = ["context", "perturbation", "log_dose", "time"]

    def wide(name: str) -> pd.DataFrame:
        rows = long(corpus, name)
        return rows[rows["dataset"] == dataset].pivot_table(index=keys, columns="readout", values="value")

    train, held_out = wide("train"), wide(split)
    mean = train.groupby("context").mean()
    rest = (train - mean.reindex(train.index.get_level_values("context")).to_numpy()).fillna(0.0)
    used = train.index.get_level_values("perturbation").isin(bits.index)
    design = bits.loc[train.index[used].get_level_values("perturbation")]
    centre = design.groupby(train.index[used].get_level_values("context")).mean()
    design = design.to_numpy() - centre.loc[train.index[used].get_level_values("context")].to_numpy()
    ridge = Ridge(alpha=penalty, fit_intercept=False).fit(design, rest[used])
    result = mean.loc[held_out.index.get_level_values("context")].set_axis(held_out.index)
    has_structure = held_out.index.get_level_values("perturbation").isin(bits.index)
    asked = held_out.index[has_structure]
    here = bits.loc[asked.get_level_values("perturbation")].to_numpy() - centre.loc[asked.get_level_values("context")].to_numpy()
    result.loc[has_structure] += ridge.predict(here)
    return result


@pytest.mark.parametrize("n_bits", [8, 64, 2_048])
def test_the_ridge_is_that_of_scikit_learn(
    holed_corpus: StoredCorpus, additive_corpus: StoredCorpus, n_bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(structure_baselines, "PENALTIES", (3.0,))
    for corpus, dataset in ((additive_corpus, "alpha"), (holed_corpus, "gamma")):
        found, vocabularies = fitted(corpus, n_bits=n_bits)
        split = encode_split(corpus, "test", vocabularies, datasets=[dataset])
        table = predicted(found["fingerprint_ridge"], split)
        theirs = ridge_by_scikit_learn(corpus, dataset, 3.0, n_bits, "test")
        keys = pd.MultiIndex.from_frame(split.conditions[["context", "perturbation", "log_dose", "time"]])
        np.testing.assert_allclose(table.to_numpy(), theirs.loc[keys, list(vocabularies.readout)].to_numpy(), atol=1e-6)


def test_one_context_and_an_intercept_is_plain_ridge(make_effects: Callable, make_stamp: Callable, tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    chains = ["C" * (1 + number % 9) + "NOF"[number % 3] for number in range(60)]
    rows = [(f"d{number}", number + 1, 1.0, 24.0) for number in range(60)]
    samples = pd.DataFrame(
        [("alpha", "CVCL_A", number + 1, chains[number], "an assay", "cell line", None, 1) for number in range(60)],
        columns=["dataset", "cell_type", "pubchem_cid", "smiles", "assay", "model_system", "mechanism", "n_samples"],
    )
    strata = [make_effects(name, "CVCL_A", rows, random.standard_normal((60, 5))) for name in ("alpha", "beta")]
    write_corpus(strata, tmp_path / "corpus", make_stamp(), name="plain", samples=samples)
    corpus = open_corpus(tmp_path / "corpus")
    found, vocabularies = fitted(corpus)
    split = encode_split(corpus, "test", vocabularies, datasets=["alpha"])
    ridge = found["fingerprint_ridge"]
    assert isinstance(ridge, FingerprintRidge)
    table = predicted(ridge, split)
    smiles = corpus.compounds.set_index("perturbation")["smiles"]
    train = long(corpus, "train")
    train = train[train["dataset"] == "alpha"].pivot_table(index="perturbation", columns="readout", values="value")
    plain = Ridge(alpha=ridge.penalties["alpha"]).fit(morgan_bits(smiles[train.index], n_bits=N_BITS), train)
    expected = plain.predict(morgan_bits(smiles[split.conditions["perturbation"]], n_bits=N_BITS))
    np.testing.assert_allclose(table.to_numpy(), expected, atol=1e-6)


def test_the_penalty_is_the_best_on_validation_values_and_test_takes_no_part(holed_corpus: StoredCorpus) -> None:
    found, vocabularies = fitted(holed_corpus)
    ridge = found["fingerprint_ridge"]
    assert isinstance(ridge, FingerprintRidge)
    for dataset in ("alpha", "beta"):
        predicted(ridge, encode_split(holed_corpus, "test", vocabularies, datasets=[dataset]))
        validation = long(holed_corpus, "val")
        validation = validation[validation["dataset"] == dataset].pivot_table(
            index=["context", "perturbation", "log_dose", "time"], columns="readout", values="value"
        )
        errors = [
            float(np.square(ridge_by_scikit_learn(holed_corpus, dataset, penalty, N_BITS, "val") - validation).sum().sum())
            for penalty in PENALTIES
        ]
        assert ridge.penalties[dataset] == PENALTIES[int(np.argmin(errors))]
    assert min(ridge.penalties.values()) < max(PENALTIES)


def test_without_validation_values_the_largest_penalty_is_taken(additive_corpus: StoredCorpus) -> None:
    vocabularies = additive_corpus.vocabularies(unknown=True)
    train = encode_split(additive_corpus, "train", vocabularies)
    validation = encode_split(additive_corpus, "val", vocabularies, datasets=["alpha"])
    ridge = fitted_baselines(train, validation, vocabularies, additive_corpus.compounds, n_bits=N_BITS)[-1]
    assert isinstance(ridge, FingerprintRidge)
    for dataset in ("alpha", "beta"):
        predicted(ridge, encode_split(additive_corpus, "test", vocabularies, datasets=[dataset]))
    assert ridge.penalties["alpha"] < ridge.penalties["beta"] == max(PENALTIES)


def test_a_dataset_and_a_context_never_trained_take_what_there_is(additive_corpus: StoredCorpus) -> None:
    for rule in ("contexts", "assays"):
        found, vocabularies = fitted(additive_corpus, rule)
        split = encode_split(additive_corpus, "test", vocabularies, rule=rule)
        trained = set(additive_corpus.conditions_of("train", rule)["dataset"])
        table, mean = predicted(found["fingerprint_ridge"], split), predicted(found["gene_mean"], split)
        assert np.isfinite(table).all(axis=None)
        strange = ~split.conditions["dataset"].isin(trained)
        np.testing.assert_array_equal(table[strange], mean[strange])
        if rule == "assays":
            assert strange.any()


def test_without_any_structure_the_baselines_on_structures_are_left_out(additive_corpus: StoredCorpus) -> None:
    vocabularies = additive_corpus.vocabularies(unknown=True)
    train, validation = (encode_split(additive_corpus, split, vocabularies) for split in ("train", "val"))
    bare = fitted_baselines(train, validation, vocabularies, additive_corpus.compounds.assign(smiles=None))
    assert [one.name for one in bare] == ["zero", "gene_mean", "context_mean", "compound_mean"]
