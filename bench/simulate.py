"""Simulated strata of a given shape: samples with plates, replicates, times and controls, and counts or log intensities.

Belongs here: what a stratum of a dataset looks like. Does not belong here: how many strata there are (``shapes.py``). Everything follows
from the shape alone, whatever the number of cores.

Replicates of a condition lie on the plates of one set, which holds as many plates as a condition has replicates on average, rounded up;
few conditions have one replicate more or less than is usual, so that, as in the real strata, a small share has a single one. Controls
lie on every plate. Plates belong to one treatment time each, and so do conditions.

Counts: the abundances of genes are log-normal, as wide as it takes for a sample of the assumed depth to detect the assumed number of genes
(:data:`EXPRESSION`); depths vary from sample to sample, each count is Poisson around an expectation with log-normal noise. A condition
doubles or halves some genes; few single observations lie far out, which is what brings genes that are hardly expressed through edgeR's
filter. Order of genes says nothing of their abundance.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse, special

from bench.shapes import Shape
from perturbridge_dagster.compiled import compiled, n_cores, on_all_cores
from perturbridge_dagster.written import STAMP_KEY, Stamp, written_whole

if TYPE_CHECKING:
    import anndata as ad


class Expression(NamedTuple):
    """Counts of a sample (unit: counts) and the genes it detects, in the middle of a dataset."""

    depth: float
    detected: int


EXPRESSION = {
    "cigs_mce": Expression(40_000, 2_200),
    "cigs_tcm": Expression(130_000, 1_650),
    "dilimap_train": Expression(3_000_000, 18_500),
    "dilimap_train_val": Expression(3_000_000, 18_500),
    "gdpx2": Expression(300_000, 11_500),
    "novartis": Expression(120_000, 12_000),
    "op3": Expression(300_000, 5_000),
    "sciplex": Expression(60_000, 8_500),
    "tahoe": Expression(2_500_000, 22_500),
    "vcpi_0001": Expression(100_000, 10_000),
    "vcpi_0002": Expression(100_000, 9_000),
}
"""Assumed, near what the sources say of wells and cells, so that in a batch about as many genes pass the filter as were published."""

_DEPTH_SPREAD = 0.4
_NOISE = 0.35
"""Standard deviations of the natural logarithms of depths, and of expectations around their mean."""

_OUTLIERS = 0.001
_OUTLYING = 40.0
"""Share of observations that are many times what is expected, and how many times."""

_RARE = 0.1
"""Expected count below which there is one count or none."""

_CHANGED = 64
"""A condition doubles or halves one gene in so many."""

_MANY = 30
"""Expected count beyond which Poisson numbers come from the normal distribution."""

_BLOCK = 64
"""Samples that one core draws at a time."""

_SHARE_UNEVEN = 0.05
"""Share of conditions with one replicate less than usual; as many have one more."""

_DOSES = 6


def seed_of(shape: Shape) -> int:
    """Seed of a stratum; both modes see the same samples."""
    return zlib.crc32(f"{shape.dataset}-{shape.min_cells}-{shape.cell_context}".encode())


def simulated_obs(shape: Shape) -> pd.DataFrame:
    """Harmonized obs of a stratum, treated samples and controls mixed as a plate has them.

    Parameters
    ----------
    shape
        Its number of samples, conditions, plates and times.
    """
    generator = np.random.default_rng(seed_of(shape))
    n_conditions, n_treated, n_times = shape.n_conditions, shape.n_treated, shape.n_times
    replicates = _replicates(n_treated, n_conditions, generator)
    plates_of_time = np.array_split(np.arange(shape.n_plates), n_times)
    time_of_condition = np.arange(n_conditions) * n_times // max(n_conditions, 1)
    condition = np.repeat(np.arange(n_conditions), replicates)
    number = np.arange(n_treated) - np.repeat(np.cumsum(replicates) - replicates, replicates)
    plate = np.empty(n_treated, dtype=np.int64)
    for time, plates in enumerate(plates_of_time):
        size = min(max(-(-n_treated // n_conditions), 1), len(plates))
        n_sets = len(plates) // size
        of_time = time_of_condition[condition] == time
        # the last set takes the plates that are left over
        which = generator.integers(n_sets, size=n_conditions)[condition[of_time]]
        width = np.where(which == n_sets - 1, len(plates) - size * (n_sets - 1), size)
        start = generator.integers(size, size=n_conditions)[condition[of_time]]
        plate[of_time] = plates[which * size + (start + number[of_time]) % width]
    time_of_plate = np.repeat(np.arange(n_times), [len(plates) for plates in plates_of_time])
    control_plate = np.arange(shape.n_controls) % shape.n_plates
    is_control = np.repeat([False, True], [n_treated, shape.n_controls])
    plate = np.concatenate([plate, control_plate])
    compound, dose = np.divmod(np.concatenate([condition, np.zeros(shape.n_controls, dtype=np.int64)]), _DOSES)
    hours = np.array([24.0, 6.0])
    obs = pd.DataFrame(
        {
            "dataset": shape.dataset,
            "cell_type": shape.cell_context,
            "plate": pd.Series(plate).map("plate_{:04d}".format),
            "perturbagen": np.where(is_control, "DMSO", pd.Series(compound).map("compound-{:06d}".format)),
            "pubchem_cid": pd.array(np.where(is_control, 679, 1_000 + compound), dtype="Int64"),
            "is_control": is_control,
            "pert_dose_uM": np.where(is_control, 0.0, 10.0 / 3.0**dose),
            "pert_time_h": hours[time_of_plate[plate]],
            "condition": np.where(is_control, -1, compound * _DOSES + dose),
        }
    )
    obs = obs.sort_values(["plate", "is_control"], kind="stable", ignore_index=True)
    obs.index = pd.Index([f"{shape.dataset}-{sample:06d}" for sample in range(len(obs))], name="sample_id")
    return obs


def _replicates(n_treated: int, n_conditions: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Samples of each condition, one or more, `n_treated` in all."""
    usual, left = divmod(n_treated, n_conditions)
    replicates = np.full(n_conditions, usual)
    replicates[generator.permutation(n_conditions)[:left]] += 1
    uneven = generator.permutation(np.flatnonzero(replicates > 1))
    n_uneven = min(round(_SHARE_UNEVEN * n_conditions), len(uneven) // 2)
    replicates[uneven[:n_uneven]] -= 1
    replicates[uneven[n_uneven : 2 * n_uneven]] += 1
    return replicates


# ---- counts ------------------------------------------------------------------------------------------------------------------


def shares_of_genes(n_genes: int, expression: Expression, seed: int) -> NDArray[np.float64]:
    """Share of each gene in a sample's counts; as uneven as the number of detected genes asks for."""
    normal = special.ndtri((np.arange(n_genes) + 0.5) / n_genes)

    def shares(spread: float) -> NDArray[np.float64]:
        raw = np.exp(spread * normal)
        return np.asarray(raw / raw.sum())

    narrow, wide = 0.0, 10.0
    for _ in range(60):
        spread = (narrow + wide) / 2
        detected = -np.expm1(-expression.depth * shares(spread)).sum()
        narrow, wide = (spread, wide) if detected > expression.detected else (narrow, spread)
    return np.asarray(np.random.default_rng(seed).permutation(shares(narrow)))


@compiled
def _fold(condition: int, gene: int) -> float:
    """Effect of a condition on a gene; the same whenever it is asked for."""
    if condition < 0:
        return 1.0
    mixed = (np.uint64(condition) * np.uint64(0x9E3779B97F4A7C15)) ^ (np.uint64(gene) * np.uint64(0xBF58476D1CE4E5B9))
    mixed ^= mixed >> np.uint64(29)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed >>= np.uint64(40)
    if mixed % np.uint64(_CHANGED) != np.uint64(0):
        return 1.0
    return 2.0 if (mixed >> np.uint64(6)) % np.uint64(2) == np.uint64(0) else 0.5


@compiled
def _poisson(expected: float) -> int:
    """A Poisson number: by inversion where it is small, else from the normal distribution, which is near enough and fast."""
    if expected > _MANY:
        return max(int(expected + np.sqrt(expected) * np.random.normal() + 0.5), 0)  # noqa: NPY002
    left = np.random.random()  # noqa: NPY002
    chance = np.exp(-expected)
    count = 0
    while left > chance and count < 4 * _MANY:
        left -= chance
        count += 1
        chance *= expected / count
    return count


@compiled
def _draw(
    seed: int,
    depths: NDArray[np.float64],
    conditions: NDArray[np.int64],
    shares: NDArray[np.float64],
    genes: NDArray[np.int32],
    counts: NDArray[np.int32],
    ends: NDArray[np.int64],
) -> int:
    """Draw some samples, the first of which has this seed; number of non-zeros."""
    n = 0
    for sample in range(len(depths)):
        np.random.seed(seed + sample)  # noqa: NPY002 - compiled code has only this one
        # one rare gene in ten is looked at, with ten times its chance, which spares a random number for each
        until_rare = np.random.geometric(_RARE)  # noqa: NPY002
        until_outlier = np.random.geometric(_OUTLIERS)  # noqa: NPY002
        for gene in range(len(shares)):
            expected = depths[sample] * shares[gene]
            count = 0
            if expected < _RARE:
                until_rare -= 1
                if until_rare == 0:
                    until_rare = np.random.geometric(_RARE)  # noqa: NPY002
                    count = 1 if np.random.random() * _RARE < expected else 0  # noqa: NPY002
            else:
                until_outlier -= 1
                if until_outlier == 0:
                    until_outlier = np.random.geometric(_OUTLIERS)  # noqa: NPY002
                    expected *= _OUTLYING
                expected *= _fold(conditions[sample], gene) * np.exp(_NOISE * np.random.normal() - _NOISE * _NOISE / 2)  # noqa: NPY002
                count = _poisson(expected)
            if count:
                genes[n], counts[n] = gene, count
                n += 1
        ends[sample] = n
    return n


def count_blocks(shape: Shape, obs: pd.DataFrame, expression: Expression | None = None) -> Iterator[sparse.csr_array]:
    """Counts of a stratum, some samples at a time, int32 with int32 indices.

    Parameters
    ----------
    shape
        Its genes and dataset.
    obs
        As :func:`simulated_obs` gives it.
    expression
        Depth and detected genes of a sample; those assumed of the dataset by default.
    """
    seed = seed_of(shape)
    expression = expression or EXPRESSION[shape.dataset]
    shares = shares_of_genes(shape.n_genes, expression, seed)
    depths = expression.depth * np.exp(_DEPTH_SPREAD * np.random.default_rng(seed).normal(size=len(obs)))
    conditions = obs["condition"].to_numpy(dtype=np.int64)
    room = [np.empty((2, _BLOCK * shape.n_genes), dtype=np.int32) for _ in range(n_cores())]
    for first in range(0, len(obs), _BLOCK * len(room)):
        starts = range(first, min(first + _BLOCK * len(room), len(obs)), _BLOCK)
        ends = [np.zeros(min(_BLOCK, len(obs) - start), dtype=np.int64) for start in starts]

        def draw(core: int, starts: range = starts, ends: list[NDArray[np.int64]] = ends) -> None:
            samples = slice(starts[core], starts[core] + len(ends[core]))
            genes, counts = room[core]
            _draw((seed + starts[core]) % 2**31, depths[samples], conditions[samples], shares, genes, counts, ends[core])

        on_all_cores(draw, range(len(starts)))
        for core, end in enumerate(ends):
            genes, counts = room[core][:, : end[-1]]
            yield sparse.csr_array((counts, genes, np.concatenate([[0], end]).astype(np.int32)), shape=(len(end), shape.n_genes))


def simulated_counts(shape: Shape, obs: pd.DataFrame, expression: Expression | None = None) -> sparse.csr_matrix:
    """All counts of a stratum, samples × genes, int32. They are held once: the room for them is taken before their number is known.

    Parameters
    ----------
    shape, obs, expression
        As for :func:`count_blocks`.
    """
    kept = np.empty((2, 0), dtype=np.int32)
    n = 0
    pointers = np.zeros(len(obs) + 1, dtype=np.int64)
    row = 0
    for block in count_blocks(shape, obs, expression):
        if n + block.nnz > kept.shape[1]:
            # untouched pages cost nothing; depths vary, so a little more than the first block foretells
            room = int(1.3 * (n + block.nnz) / (row + block.shape[0]) * len(obs)) + block.nnz
            larger = np.empty((2, room), dtype=np.int32)
            larger[:, :n] = kept[:, :n]
            kept = larger
        kept[0, n : n + block.nnz], kept[1, n : n + block.nnz] = block.indices, block.data
        pointers[row + 1 : row + 1 + block.shape[0]] = n + block.indptr[1:]
        n, row = n + block.nnz, row + block.shape[0]
    index = np.int32 if n <= np.iinfo(np.int32).max else np.int64
    matrix = sparse.csr_matrix((len(obs), shape.n_genes), dtype=np.int32)
    matrix.data, matrix.indices, matrix.indptr = kept[1, :n], kept[0, :n].astype(index, copy=False), pointers.astype(index)
    return matrix


def _log_intensities(shape: Shape, obs: pd.DataFrame) -> NDArray[np.float32]:
    """Normalized values of L1000: around 8, with effects of plates and conditions."""
    values = np.empty((len(obs), shape.n_genes), dtype=np.float32)
    of_gene = np.random.default_rng(seed_of(shape)).normal(8, 1.5, shape.n_genes)
    plates = obs["plate"].factorize()[0]
    conditions = obs["condition"].to_numpy()
    for first in range(0, len(obs), 4096):
        block = slice(first, min(first + 4096, len(obs)))
        generator = np.random.default_rng([seed_of(shape), first])
        noise = generator.normal(0, 0.5, (block.stop - first, shape.n_genes))
        shift = 0.3 * np.sin(plates[block, np.newaxis] * 7.1 + np.arange(shape.n_genes))
        shift += 0.3 * np.sin(conditions[block, np.newaxis] * 3.7 + np.arange(shape.n_genes) * 1.3) ** 15
        values[block] = of_gene + noise + shift
    return values


def _var(shape: Shape) -> pd.DataFrame:
    names = [f"ENSG{gene:011d}" for gene in range(shape.n_genes)]
    return pd.DataFrame({"symbol": names}, index=pd.Index(names, name="ensembl_id"))


def simulated_stratum(shape: Shape) -> ad.AnnData:
    """The samples of a stratum in memory: int32 counts by compressed rows, or dense float32."""
    import anndata as ad

    obs = simulated_obs(shape)
    values: Any = _log_intensities(shape, obs) if shape.normalized else simulated_counts(shape, obs)
    return ad.AnnData(values, obs=obs.drop(columns="condition"), var=_var(shape), uns={"stratum": shape.cell_context})


def write_stratum(shape: Shape, path: Path) -> int:
    """Write the counts of a stratum as the platform's h5ad, block by block; number of non-zeros.

    Parameters
    ----------
    shape
        A shape of counts.
    path
        The file to appear.
    """
    import anndata as ad

    obs = simulated_obs(shape)
    stamp = Stamp("harmonized_samples", "bench", "bench", (shape.dataset,), "open", simulated=True)
    whole = ad.AnnData(obs=obs.drop(columns="condition"), var=_var(shape), uns={"stratum": shape.cell_context, STAMP_KEY: stamp.to_json()})
    with written_whole(path) as aside:
        whole.write_h5ad(aside, compression="lzf")
        with h5py.File(aside, "r+") as file:
            group = file.create_group("X")
            group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": whole.shape})
            data, indices = (
                group.create_dataset(name, (0,), np.int32, maxshape=(None,), chunks=(1 << 20,), compression="lzf")
                for name in ("data", "indices")
            )
            pointers = [np.zeros(1, dtype=np.int64)]
            for block in count_blocks(shape, obs):
                n = len(data)
                for dataset, values in ((data, block.data), (indices, block.indices)):
                    dataset.resize((n + block.nnz,))
                    dataset[n:] = values
                pointers.append(n + block.indptr[1:].astype(np.int64))
            group.create_dataset("indptr", data=np.concatenate(pointers), compression="lzf")
            return len(data)
