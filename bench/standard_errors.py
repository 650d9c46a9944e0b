"""How far limma's standard errors under weights are from the exact ones, and how they move with the order of plates.

Each design is fitted three times: with limma's standard errors, with the exact ones, and with limma's again after plates were renamed so
that their order is reversed. Printed are relative differences of stdev.unscaled over contrasts × genes, as a Markdown table. Counts are
simulated.

    python -m bench.standard_errors
"""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd

from perturbridge_dagster.effects import estimate_effects

N_GENES = 2_000


def simulated(n_plates: int, n_conditions: int, plates_a_condition: int, controls_a_plate: int, spread: float, seed: int = 1) -> ad.AnnData:
    """Counts of a stratum in which every condition has one sample on each of some plates.

    Parameters
    ----------
    n_plates, n_conditions, plates_a_condition, controls_a_plate
        The design.
    spread
        Standard deviation of log2 library size: the more it is, the more weights differ.
    seed
        Of the generator.
    """
    generator = np.random.default_rng(seed)
    wells = [("DMSO", plate) for plate in range(n_plates) for _ in range(controls_a_plate)]
    for condition in range(n_conditions):
        wells += [(f"c{condition:04d}", plate) for plate in generator.choice(n_plates, plates_a_condition, replace=False)]
    obs = pd.DataFrame(wells, columns=["perturbagen", "plate"])
    log_mean = generator.normal(3, 2, N_GENES) + generator.normal(0, 0.5, (n_plates, N_GENES))[obs["plate"]]
    depth = 2 ** generator.normal(0, spread, len(obs))
    expected = depth[:, np.newaxis] * 2**log_mean
    counts = generator.negative_binomial(5, 5 / (5 + expected))
    obs["plate"] = obs["plate"].map("P{:02d}".format)
    obs = obs.assign(
        is_control=obs["perturbagen"] == "DMSO", pert_dose_uM=1.0, pert_time_h=24.0, cell_type="CVCL_0001", dataset="simulated"
    )
    obs.index = obs.index.map("s{:04d}".format)
    return ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=[f"ENSG{i:011d}" for i in range(N_GENES)]))


def reversed_plates(samples: ad.AnnData) -> ad.AnnData:
    """The same samples with plates renamed so that the last comes first."""
    other = samples.copy()
    names = sorted(samples.obs["plate"].unique())
    other.obs["plate"] = samples.obs["plate"].map(dict(zip(names, reversed(names), strict=True)))
    return other


def differences(samples: ad.AnnData) -> dict[str, float]:
    """Relative differences of standard errors, and the largest of logFC, between the three fits."""
    limma = estimate_effects(samples)
    exact = estimate_effects(samples, standard_errors="exact")
    other = estimate_effects(reversed_plates(samples))
    error = limma.layers["stdev.unscaled"]
    from_exact = np.abs(error / exact.layers["stdev.unscaled"] - 1)
    from_other = np.abs(error / other.layers["stdev.unscaled"] - 1)
    return {
        "limma from exact, mean": from_exact.mean(),
        "limma from exact, most": from_exact.max(),
        "limma moves with plate order, mean": from_other.mean(),
        "limma moves with plate order, most": from_other.max(),
        "logFC moves, most": np.abs(limma.layers["logFC"] - other.layers["logFC"]).max(),
    }


DESIGNS = {
    "4 plates, each condition on 3": (4, 40, 3, 4, 0.5),
    "8 plates, each condition on 2": (8, 60, 2, 4, 0.5),
    "8 plates, each condition on 2, uneven depth": (8, 60, 2, 4, 1.5),
    "8 plates, each condition on 1": (8, 60, 1, 8, 0.5),
}


def main() -> None:
    """Print the table."""
    rows = {name: differences(simulated(*design)) for name, design in DESIGNS.items()}
    columns = list(next(iter(rows.values())))
    print("| design |", " | ".join(columns), "|")
    print("|---|" + "---|" * len(columns))
    for name, values in rows.items():
        print(f"| {name} |", " | ".join(f"{values[c]:.1e}" if "logFC" in c else f"{values[c]:.2%}" for c in columns), "|")


if __name__ == "__main__":
    main()
