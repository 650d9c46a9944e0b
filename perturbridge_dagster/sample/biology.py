"""The one simulated truth: what each compound does to each gene, whatever assay looks at it.

Belongs here: mechanisms, dose and time response, cell contexts, baseline expression. Does not belong here: how an assay sees it
(``assays.py``) or which conditions are measured (the writer of each dataset).

The latent effect of a compound on a gene is

    strength(dose) · (programme of its mechanism in the cell context + part of its own) · onset(time)

bounded by a hyperbolic tangent. Compounds of one mechanism therefore resemble each other, contexts differ in how they respond, and
effects grow with dose and time. Genes, compounds and cell contexts are real, and so are a few well-known target genes; everything
else is drawn at random.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from perturbridge_dagster.sample.tables import compounds, genes

Matrix = npt.NDArray[np.float64]

CELL_CONTEXTS = (
    *("CVCL_0023", "CVCL_0004", "CVCL_0031", "CVCL_0035", "CVCL_0006"),  # A549, K-562, MCF7, PC3 and THP-1
    "CVCL_0320",  # HT-29
    *("CL_0000084", "CL_0000236", "CL_0000623", "CL_0000763"),  # T, B, NK and myeloid cells
    *("CL_0002539", "CL_0002551"),  # aortic smooth muscle cells, fibroblasts of dermis
    *("CVCL_0042", "CVCL_0062", "CVCL_0063"),  # U-2 OS, MDA-MB-231 and HEK293T
    *("CL_0000182", "NPC"),  # hepatocytes, neural progenitors
)
"""What a context responds and expresses depends on its id alone, so that one more changes nothing of the others."""

RESPONSIVENESS = {
    "HDAC inhibitor": (1.0, 1.1, 0.9, 1.0, 0.9),
    "proteasome inhibitor": (1.0, 0.9, 1.0, 1.1, 1.2),
    "MEK inhibitor": (1.1, 0.9, 0.4, 0.5, 1.0),
    "BET inhibitor": (0.7, 1.1, 0.9, 0.8, 1.2),
    "HSP90 inhibitor": (1.0, 1.0, 1.0, 0.9, 0.9),
    # K-562 has next to no glucocorticoid receptor
    "glucocorticoid agonist": (1.2, 0.05, 0.5, 0.6, 1.1),
    "topoisomerase inhibitor": (1.0, 0.7, 1.1, 0.6, 0.9),
    "Aurora kinase inhibitor": (0.8, 0.8, 0.7, 0.8, 0.7),
    "broad kinase inhibitor": (1.1, 1.1, 1.1, 1.1, 1.1),
    "Golgi disruptor": (1.0, 1.0, 1.0, 1.0, 1.0),
    "none": (0.0, 0.0, 0.0, 0.0, 0.0),
    "vehicle": (0.0, 0.0, 0.0, 0.0, 0.0),
}
"""How strongly the first cell contexts respond to a mechanism; the response of the others is drawn around the mean of these."""

TARGET_GENES = {
    "HDAC inhibitor": {"CDKN1A": 1.6, "TUBB3": 1.4, "HDAC6": 0.5, "MYC": -1.2, "CCND1": -1.0, "MKI67": -0.8},
    "proteasome inhibitor": {
        "HSPA1A": 3.0,
        "DNAJB1": 2.4,
        "HMOX1": 2.2,
        "BAG3": 2.0,
        "PSMD1": 1.2,
        "PSMA4": 1.0,
        "PSMC4": 1.1,
        "DDIT3": 1.6,
    },
    "MEK inhibitor": {"DUSP6": -2.6, "SPRY4": -2.0, "SPRY2": -1.6, "ETV4": -2.0, "ETV5": -1.8, "EGR1": -1.8, "FOSL1": -1.6, "PHLDA1": -1.4},
    "BET inhibitor": {"MYC": -1.8, "HEXIM1": 1.8, "CCND1": -0.9, "TXNIP": 1.0},
    "HSP90 inhibitor": {"HSPA1A": 2.6, "DNAJB1": 2.0, "HSPB1": 1.4, "HSPH1": 1.8, "BAG3": 1.4, "HSP90AA1": 1.2, "HSPA8": 1.2},
    "glucocorticoid agonist": {"TSC22D3": 2.4, "FKBP5": 2.4, "PER1": 1.8, "ZBTB16": 1.6, "KLF9": 1.4, "DUSP1": 1.2, "SGK1": 1.2},
    "topoisomerase inhibitor": {"CDKN1A": 1.8, "MDM2": 1.6, "GDF15": 1.8, "GADD45A": 1.4, "BAX": 0.9, "MYC": -0.9},
    "Aurora kinase inhibitor": {"PLK1": -1.4, "CCNB1": -1.2, "CDKN1A": 1.0, "MKI67": -0.9},
    "broad kinase inhibitor": {"EGR1": -1.6, "CCND1": -1.4, "ATF3": 1.8},
    "Golgi disruptor": {"DDIT3": 2.2, "CHAC1": 2.2, "ATF3": 1.8},
}
"""Known targets of a mechanism, with the log2 effect at full strength."""

GENES_PER_PROGRAMME = 130
"""Genes that a mechanism moves much."""

SECONDARY = 0.25
"""Standard deviation, log2, of what a mechanism does to all other genes."""

GENES_PER_COMPOUND = 60
BOUND = 5.0
"""No effect exceeds it in log2."""


def generator(seed: int, *names: str) -> np.random.Generator:
    """A stream of random numbers that depends on the seed and on what it is for, not on what was drawn before."""
    return np.random.default_rng([seed, *(zlib.crc32(name.encode()) for name in names)])


@dataclass(frozen=True)
class Biology:
    """The latent truth.

    Attributes
    ----------
    genes
        Index of :func:`tables.genes`.
    baseline
        Cell contexts × genes: log2 abundance without treatment, about 0 for a typical gene.
    programmes
        By mechanism and cell context, effect on each gene at full strength, log2.
    specific
        By agent, the part of its own, log2.
    onset_h
        By gene, time constant of the response, h.
    agents
        Index agent; columns ``mechanism``, ``ec50_uM``, ``hill_slope``, ``max_effect``.
    """

    genes: pd.Index
    baseline: pd.DataFrame
    programmes: dict[tuple[str, str], Matrix]
    specific: dict[str, Matrix]
    onset_h: Matrix
    agents: pd.DataFrame

    def strength(self, conditions: pd.DataFrame) -> Matrix:
        """Hill response of each condition, between 0 and the agent's greatest effect.

        Parameters
        ----------
        conditions
            Columns ``agent`` and ``dose_uM``.
        """
        agents = self.agents.loc[conditions["agent"]]
        dose = conditions["dose_uM"].to_numpy(float)
        potency = np.where(agents["max_effect"] > 0, agents["ec50_uM"], 1.0).astype(float)
        slope = np.where(agents["max_effect"] > 0, agents["hill_slope"], 1.0).astype(float)
        response = dose**slope / (dose**slope + potency**slope)
        return np.asarray(agents["max_effect"].to_numpy(float) * response)

    def log2_effects(self, conditions: pd.DataFrame) -> Matrix:
        """Latent log2 fold change against vehicle.

        Parameters
        ----------
        conditions
            One row a condition: ``agent``, ``cell_type``, ``dose_uM``, ``time_h``.

        Returns
        -------
        Conditions × genes, float64.
        """
        mechanism = self.agents["mechanism"].loc[conditions["agent"]]
        programme = [
            self.programmes[of, context] + self.specific[agent]
            for of, context, agent in zip(mechanism, conditions["cell_type"], conditions["agent"], strict=True)
        ]
        onset = 1 - np.exp(-conditions["time_h"].to_numpy(float)[:, None] / self.onset_h)
        effect = self.strength(conditions)[:, None] * np.array(programme).reshape(len(conditions), len(self.genes)) * onset
        return np.asarray(BOUND * np.tanh(effect / BOUND))


def simulate(seed: int) -> Biology:
    """Draw the latent truth.

    Parameters
    ----------
    seed
        Decides everything that is drawn.
    """
    table = genes()
    agents = compounds().drop_duplicates("agent").set_index("agent")[["mechanism", "ec50_uM", "hill_slope", "max_effect"]]
    # MALAT1 and the mitochondrial genes decide which cells are kept, so no compound moves them
    responsive = ~table["kind"].isin(["MALAT1", "mitochondrial"]).to_numpy()
    programmes: dict[tuple[str, str], Matrix] = {}
    for mechanism in RESPONSIVENESS:
        shared = _programme(generator(seed, "programme", mechanism), table, responsive, mechanism)
        for context in CELL_CONTEXTS:
            response = _responsiveness(seed, mechanism, context)
            draw = generator(seed, "programme", mechanism, context)
            of_context = shared * draw.lognormal(0, 0.25, len(table)) * (draw.random(len(table)) > 0.1)
            programmes[mechanism, context] = response * of_context
    return Biology(
        genes=table.index,
        baseline=_baseline(seed, table),
        programmes=programmes,
        specific={agent: _specific(generator(seed, "agent", agent), responsive) for agent in agents.index},
        onset_h=generator(seed, "onset").uniform(2, 10, len(table)),
        agents=agents,
    )


def _responsiveness(seed: int, mechanism: str, context: str) -> float:
    known = RESPONSIVENESS[mechanism]
    position = CELL_CONTEXTS.index(context)
    if position < len(known):
        return known[position]
    return float(np.mean(known) * generator(seed, "responsiveness", mechanism, context).lognormal(0, 0.2))


def _programme(draw: np.random.Generator, table: pd.DataFrame, responsive: npt.NDArray[Any], mechanism: str) -> Matrix:
    programme = np.where(responsive, draw.normal(0, SECONDARY, len(table)), 0.0)
    chosen = draw.choice(np.flatnonzero(responsive), GENES_PER_PROGRAMME, replace=False)
    programme[chosen] = draw.choice([-1.0, 1.0], len(chosen)) * draw.gamma(2.0, 0.45, len(chosen))
    for symbol, effect in TARGET_GENES.get(mechanism, {}).items():
        programme[(table["symbol"] == symbol).to_numpy()] = effect
    return programme


def _specific(draw: np.random.Generator, responsive: npt.NDArray[Any]) -> Matrix:
    part = np.zeros(len(responsive))
    chosen = draw.choice(np.flatnonzero(responsive), GENES_PER_COMPOUND, replace=False)
    part[chosen] = draw.normal(0, 0.7, len(chosen))
    return part


def _baseline(seed: int, table: pd.DataFrame) -> pd.DataFrame:
    """Log2 abundance of each gene in each context."""
    common = generator(seed, "baseline").normal(0, 1.6, len(table))
    baseline = np.empty((len(CELL_CONTEXTS), len(table)))
    for row, context in zip(baseline, CELL_CONTEXTS, strict=True):
        draw = generator(seed, "baseline", context)
        row[:] = common + draw.normal(0, 0.7, len(table))
        # genes of other tissues are silent
        row[draw.random(len(table)) < 0.08] -= 5
    frame = pd.DataFrame(baseline, index=list(CELL_CONTEXTS), columns=table.index)
    frame.loc[:, (table["kind"] == "low").to_numpy()] -= 6
    frame.loc[:, (table["kind"] == "mitochondrial").to_numpy()] = 3.0
    frame.loc[:, (table["kind"] == "MALAT1").to_numpy()] = 7.0
    return frame
