"""What agreement says of the sample, whose truth is known: from native files to scores, on three seeds.

Sample data only: three assays see one biology. Assays turn no effect of a gene but show it by a gain of their own, so that direction
survives and magnitude does not; both phases of L1000 share their gains. Shuffled compounds are real effects with their labels dealt
anew, so that effects keep their shape and nothing is left to be found. Comments at the margins say what was measured on the three seeds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy.stats import hypergeom, kstest, spearmanr

from perturbridge_dagster.agreement.matching import match_strata
from perturbridge_dagster.agreement.retrieval import retrieve
from perturbridge_dagster.agreement.scoring import Scored, score_matched
from perturbridge_dagster.agreement.signatures import Relabelled, StratumEffects
from perturbridge_dagster.agreement.strength import agreement_strength
from perturbridge_dagster.contract import METRIC_NAMES
from perturbridge_dagster.effects import estimate_effects, split_strata
from perturbridge_dagster.effects.storage import open_effects, write_effects
from perturbridge_dagster.sample import DEFAULT_SEED, write_sample
from perturbridge_dagster.sample.biology import Biology, simulate
from perturbridge_dagster.sample.tables import perturbagens
from perturbridge_dagster.sources import harmonize
from perturbridge_dagster.written import Stamp

pytestmark = pytest.mark.slow

SEEDS = (DEFAULT_SEED, 1, 2)
L1000 = "l1000_phase1"
IS_NORMALIZED = {L1000: True, "l1000_phase2": True, "vcpi_0001": False, "sciplex": False}
ACROSS_ASSAYS = ("vcpi_0001", "sciplex")
"""Partners of L1000 with gains of their own: bulk counts of 18 compounds in common, single cells of 21."""
N_SHUFFLES = 10
DOSE_AND_TIME = ["pert_time_h", "pert_dose_uM"]
LABEL = ["pubchem_cid", "parent_key", "pert_dose_uM"]

Strata = Mapping[str, StratumEffects]


@dataclass
class GainsUndone:
    """Effects whose logFC are divided by the gains of the assay."""

    effects: StratumEffects
    gains: pd.Series[float]

    @property
    def contrasts(self) -> pd.DataFrame:
        return self.effects.contrasts

    @property
    def genes(self) -> pd.DataFrame:
        return self.effects.genes

    def dense(
        self, layers: Sequence[str], contrasts: NDArray[np.int64] | None = None, genes: NDArray[np.int64] | None = None
    ) -> dict[str, NDArray[np.float32]]:
        values = self.effects.dense(layers, contrasts, genes)
        gain = self.gains.loc[self.genes["ensembl_id"]].to_numpy(dtype=np.float32)
        if "logFC" in values:
            values["logFC"] = values["logFC"] / (gain if genes is None else gain[genes])
        return values


@dataclass
class World:
    """One seed: the latent truth, the gains of each dataset by gene, and the effects that the pipeline finds."""

    seed: int
    biology: Biology
    gains: pd.DataFrame
    strata: dict[str, Strata]

    def scored(self, right: str) -> Scored:
        """L1000 Phase I beside another dataset."""
        return scored(self.strata[L1000], self.strata[right], right)

    def strength(self, matches: pd.DataFrame, side: str) -> NDArray[np.float64]:
        """Mean absolute latent effect of one side of matches."""
        names = perturbagens().dropna(subset="pubchem_cid").drop_duplicates("pubchem_cid").set_index("pubchem_cid")["agent"]
        conditions = pd.DataFrame(
            {
                "agent": names.loc[matches["pubchem_cid"]].to_numpy(),
                "cell_type": matches["cell_type"].to_numpy(),
                "dose_uM": matches[f"{side}_pert_dose_uM"].to_numpy(),
                "time_h": matches["pert_time_h"].to_numpy(),
            }
        )
        return np.asarray(np.abs(self.biology.log2_effects(conditions)).mean(axis=1))


@pytest.fixture(scope="module", params=SEEDS)
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    """Sample, harmonized samples and effects of four datasets."""
    seed: int = request.param
    folder: Path = tmp_path_factory.mktemp("truth")
    write_sample(folder / "sample", seed=seed, datasets=list(IS_NORMALIZED))
    strata: dict[str, Strata] = {}
    for dataset, normalized in IS_NORMALIZED.items():
        stamp = Stamp("condition_effects", "1", "digest", (dataset,), "open", simulated=True)
        stored = {}
        for stratum, samples in split_strata(harmonize(dataset, folder / "sample" / dataset), dataset):
            where = folder / dataset / stratum.stratum
            write_effects(estimate_effects(samples, normalized=normalized, engine="structured"), where, stamp)
            stored[stratum.stratum] = open_effects(where)
        strata[dataset] = stored
    genes = pd.read_parquet(folder / "sample" / "truth" / "genes.parquet").dropna(subset="ensembl_id").set_index("ensembl_id")
    return World(seed, simulate(seed), genes, strata)


def scored(left: Strata, right: Strata, dataset: str) -> Scored:
    return score_matched(match_strata(left, right, L1000, dataset), left, right)


def by_metric(found: Scored, column: str = "score") -> pd.DataFrame:
    """One row a match, one column a metric."""
    return pd.DataFrame(found.scores[column].to_numpy().reshape(-1, len(METRIC_NAMES)), columns=list(METRIC_NAMES))


def shuffled(strata: Strata, within: list[str], *seed: int) -> Strata:
    """Effects whose labels are dealt anew among the contrasts of a stratum that are equal in `within`."""
    draw = np.random.default_rng(seed)
    dealt = {}
    for name, effects in strata.items():
        contrasts = effects.contrasts
        eligible = contrasts[contrasts["estimable"].astype(bool) & contrasts["pubchem_cid"].notna()]
        origin = np.arange(len(contrasts))
        for members in eligible.groupby(within, sort=True).indices.values():
            rows = contrasts.index.get_indexer(eligible.index[members])
            origin[rows] = draw.permutation(rows)
        labels = contrasts[LABEL].take(origin).set_axis(contrasts.index)
        dealt[name] = Relabelled(effects, contrasts.assign(**{column: labels[column] for column in LABEL}))
    return dealt


def shuffles(world: World, within: list[str], n: int = N_SHUFFLES) -> Iterator[tuple[int, str, Strata, Strata]]:
    """Shuffles of both sides, one after the other, for each partner of L1000."""
    for shuffle in range(n):
        for number, dataset in enumerate(ACROSS_ASSAYS):
            sides = [shuffled(world.strata[name], within, world.seed, shuffle, number, side) for side, name in enumerate((L1000, dataset))]
            yield shuffle, dataset, sides[0], sides[1]


def test_direction_agrees_where_magnitude_does_not(world: World) -> None:
    gap = {}
    for dataset in (*ACROSS_ASSAYS, "l1000_phase2"):
        found = world.scored(dataset)
        sides = [
            {name: GainsUndone(effects, world.gains[f"gain_{side}"]) for name, effects in world.strata[side].items()}
            for side in (L1000, dataset)
        ]
        seen, undone = by_metric(found), by_metric(scored(sides[0], sides[1], dataset))
        enough = (found.conditions["n_shared_significant_p05"] >= 10).to_numpy()
        seen, undone = seen[enough], undone[enough]
        # On the scale of a correlation: 0 by chance, 1 at best.
        direction, magnitude = 2 * seen["direction_agreement_p05"] - 1, seen["deg_spearman_p05"]
        gap[dataset] = direction.mean() - magnitude.mean()
        gained = (undone[["deg_spearman_p05", "de_overlap_reference_n"]] - seen[["deg_spearman_p05", "de_overlap_reference_n"]]).mean()
        print(world.seed, dataset, len(seen), f"{direction.mean():.3f} {magnitude.mean():.3f}", gained.round(3).to_dict())
        assert len(seen) > 30
        # A gain is positive: no direction depends on it.
        pd.testing.assert_series_equal(undone["direction_agreement_p05"], seen["direction_agreement_p05"], check_exact=True)
        # .994 to 1 on all seeds
        assert direction.mean() > 0.97
        assert (direction >= magnitude).mean() > 0.95
        if dataset in ACROSS_ASSAYS:
            # Magnitude is lost to the gains: without them it agrees better, and so does which genes change most.
            # .169 to .205, .024 to .038 and .038 to .072
            assert gap[dataset] > 0.12
            assert gained["deg_spearman_p05"] > 0.01
            assert gained["de_overlap_reference_n"] > 0.02
    # One technology has one set of gains, which cancel: .069 to .073.
    assert gap["l1000_phase2"] < min(gap[dataset] for dataset in ACROSS_ASSAYS) - 0.05


def test_agreement_rises_with_strength(world: World) -> None:
    for dataset in ACROSS_ASSAYS:
        found = world.scored(dataset)
        observed = agreement_strength(found.conditions, found.scores, n_resamples=500).set_index("metric")
        latent = (world.strength(found.conditions, "left") + world.strength(found.conditions, "right")) / 2
        score = by_metric(found)["spearman_logFC"].to_numpy()
        of_latent = spearmanr(latent, score).statistic
        weak, strong = latent <= np.quantile(latent, 1 / 3), latent >= np.quantile(latent, 2 / 3)
        thirds = score[weak].mean(), score[strong].mean()
        shown = observed.loc[["spearman_logFC", "signed_overlap_t_top50", "deg_spearman_p05"], ["spearman", "spearman_low"]]
        print(world.seed, dataset, f"latent {of_latent:.2f}, thirds {thirds[0]:.2f} {thirds[1]:.2f}", shown.round(2).to_dict("index"))
        # from .79, .53, .18; .91; and thirds .30 to .45 apart
        assert observed.loc["spearman_logFC", "spearman_low"] > 0.6
        assert observed.loc["signed_overlap_t_top50", "spearman_low"] > 0.3
        assert observed.loc["deg_spearman_p05", "spearman_low"] > 0
        assert of_latent > 0.7
        assert thirds[1] > thirds[0] + 0.2


def test_a_dataset_of_shuffled_compounds_falls_to_the_null(world: World) -> None:
    for number, dataset in enumerate(ACROSS_ASSAYS):
        right = world.strata[dataset]
        parts = []
        for shuffle in range(-1, 6):
            dealt = right if shuffle < 0 else shuffled(right, DOSE_AND_TIME, world.seed, shuffle, number)
            found = scored(world.strata[L1000], dealt, dataset)
            searched = retrieve(
                found.conditions, world.strata[L1000], dealt, representations=["logFC"], similarities=["cosine", "euclidean"]
            ).queries
            strict = searched[searched["positives"] == "matched_condition"].groupby("similarity")["above_expected"].mean()
            delta = by_metric(found, "target_peers_delta")
            parts.append(
                {
                    "spearman": by_metric(found)["spearman_logFC"].mean(),
                    "p": by_metric(found, "left_target_peers_p")["spearman_logFC"].mean(),
                    **{f"{metric} beyond peers": delta[metric].mean() for metric in ("spearman_logFC", "direction_agreement_p05")},
                    **{f"retrieval {similarity}": strict[similarity] for similarity in strict.index},
                }
            )
        as_measured, null = pd.Series(parts[0]), pd.DataFrame(parts[1:]).mean()
        print(world.seed, dataset, pd.DataFrame({"measured": as_measured, "shuffled": null}).round(3).T.to_string(), sep="\n")
        assert as_measured["spearman"] > 0.35
        # Some pairs still share a mechanism, so that not all of it is gone: .061 to .070.
        assert abs(null["spearman"]) < 0.12
        # P of n peers is 1/2 + 1/(2n+2) on the average: .501 to .531; measured, .081 to .144
        assert as_measured["p"] < 0.2
        assert abs(null["p"] - 0.5) < 0.1
        # up to .010 and .022 from zero; measured, from .367 and .410
        assert as_measured["spearman_logFC beyond peers"] > 0.3
        assert abs(null["spearman_logFC beyond peers"]) < 0.04
        assert as_measured["direction_agreement_p05 beyond peers"] > 0.3
        assert abs(null["direction_agreement_p05 beyond peers"]) < 0.07
        # up to .030; measured, from .398
        for similarity in ("cosine", "euclidean"):
            assert as_measured[f"retrieval {similarity}"] > 0.35
            assert abs(null[f"retrieval {similarity}"]) < 0.08


def uniform(values: pd.Series[float], independent: pd.Series[bool]) -> tuple[float, float]:
    """Greatest distance of all values from the uniform distribution, and P of the independent ones among them (Kolmogorov, Smirnov).

    Conditions of one shuffle share its labels. P is right for the independent values alone; the distance of the many others is small
    enough to be bounded as it is.
    """
    return float(kstest(values, "uniform").statistic), float(kstest(values[independent], "uniform").pvalue)


def test_p_values_among_peers_are_uniform_without_a_signal(world: World) -> None:
    draw = np.random.default_rng(world.seed)
    tables, own = [], []
    for shuffle, dataset, left, right in shuffles(world, DOSE_AND_TIME):
        scores = scored(left, right, dataset).scores.assign(shuffle=shuffle)
        own.append(scores.loc[scores["metric"] == "spearman_logFC", ["left_source_peers_p", "right_source_peers_p"]])
        for side, other in (("left", "right"), ("right", "left")):
            table = scores.rename(columns={f"{side}_target_peers_p": "p", f"{side}_target_peers_n": "n", f"{other}_pert_dose_uM": "dose"})
            columns = ["shuffle", "right_dataset", "cell_type", "pert_time_h", "metric", "p", "n", "dose"]
            tables.append(table.loc[table["p"].notna(), columns].assign(side=side))
    p = pd.concat(tables, ignore_index=True).sample(frac=1, random_state=world.seed, ignore_index=True)
    for metric in ("spearman_logFC", "spearman_t"):
        of_metric = p[p["metric"] == metric].reset_index(drop=True)
        # Without ties each of 1/(n+1), … 1 is as likely as the others; spread within its step, P is uniform on [0, 1].
        spread = of_metric["p"] - draw.random(len(of_metric)) / (of_metric["n"] + 1)
        # Labels of one dose and time are dealt independently of those of another; both sides of a shuffle are not independent.
        one_side = of_metric["side"] == np.where(of_metric["shuffle"] % 2, "left", "right")
        groups = of_metric[["shuffle", "right_dataset", "cell_type", "pert_time_h", "dose"]].where(one_side)
        independent = one_side & ~groups.duplicated()
        distance, chance = uniform(spread, independent)
        print(world.seed, metric, f"{len(spread)} values, distance {distance:.3f}; {independent.sum()} independent, P {chance:.3f}")
        assert len(spread) > 2000
        assert independent.sum() > 60
        # up to .025
        assert distance < 0.04
        assert chance > 1e-4
    # Ties, which other metrics have, make P larger, never smaller.
    for level in (0.05, 0.1, 0.25):
        shares = (p["p"] <= level).groupby(p["metric"]).agg(["mean", "size"])
        share = shares.loc[shares["size"] > 200, "mean"]
        print(world.seed, f"P up to {level}: at most {share.max():.3f} ({share.idxmax()})")
        assert len(share) > 6
        assert share.max() < level + 0.035
    # Peers of one's own dataset share its controls and plates, so that another's must agree even better: P is larger than uniform.
    among_own = pd.concat(own)
    print(world.seed, "among own peers", (among_own <= 0.1).mean().round(3).to_dict(), among_own.mean().round(3).to_dict())
    # .011 to .095, and .694 to .858
    assert ((among_own <= 0.1).mean() < 0.12).all()
    assert (among_own.mean() > 0.6).all()
    measured = [by_metric(world.scored(dataset), "left_target_peers_p")["spearman_logFC"] for dataset in ACROSS_ASSAYS]
    assert kstest(pd.concat(measured), "uniform").statistic > 0.5


def test_p_values_of_retrieval_are_uniform_without_a_signal(world: World) -> None:
    draw = np.random.default_rng(world.seed)
    tables = []
    # Doses are candidates together, and a weak effect lies nearer to weak ones whatever their compound: labels are dealt across doses.
    for shuffle, dataset, left, right in shuffles(world, ["pert_time_h"]):
        found = retrieve(match_strata(left, right, L1000, dataset), left, right, representations=["logFC"]).queries
        tables.append(found.assign(shuffle=shuffle))
    queries = pd.concat(tables, ignore_index=True).sample(frac=1, random_state=world.seed, ignore_index=True)
    for (similarity, positives), found in queries.groupby(["similarity", "positives"]):
        found = found.reset_index(drop=True)
        rank, total, positive = (found[name].to_numpy() for name in ("best_rank", "n_candidates", "n_positives"))
        better = hypergeom.sf(0, total, positive, rank - 1)
        step = hypergeom.pmf(0, total, positive, rank - 1) - hypergeom.pmf(0, total, positive, rank)
        np.testing.assert_allclose(found["p"], better + step, rtol=1e-9)
        spread = pd.Series(better + draw.random(len(found)) * step)
        # One query of a cell context: the others of its shuffle share the labels.
        independent = ~found[["shuffle", "right_dataset", "cell_type"]].duplicated()
        distance, chance = uniform(spread, independent)
        by_shuffle = found.groupby("shuffle")["above_expected"].mean()
        above = by_shuffle.mean()
        print(
            world.seed,
            similarity,
            positives,
            f"{len(found)} queries, distance {distance:.3f}, {independent.sum()} independent, P {chance:.3f};",
            f"above expected {above:.3f} ± {by_shuffle.std() / np.sqrt(len(by_shuffle)):.3f}",
        )
        assert len(found) > 2000
        assert independent.sum() >= 3 * N_SHUFFLES
        # up to .038
        assert distance < 0.055
        assert chance > 1e-4
        # up to .012
        assert abs(above) < 0.035
