"""Assay operators: how each technology sees one latent state.

Belongs here: what an assay does to expression: gains, saturation, depth, dropout, plates, noise. Does not belong here: the latent state
(``biology.py``) or file formats (the writer of each dataset).

Appendix A of the paper (arXiv 2605.31522) writes an assay as an operator that maps the latent state of a population to what is
measured. Ours are monotone in every gene, so direction survives, and have gains of their own in every gene, so magnitude does not.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from perturbridge_dagster.sample.biology import Matrix

FLOOR, CEILING, HALF_WAY, WIDTH = 3.5, 15.0, 0.5, 2.3
"""Range of L1000 intensities, log2; the log2 abundance seen half-way; and how slowly the curve bends."""


def gene_gains(draw: np.random.Generator, n_genes: int, *, centre: float = 1.0, spread: float = 0.35) -> Matrix:
    """How much of a latent log2 effect an assay shows, gene by gene; positive, so that no direction turns.

    Parameters
    ----------
    draw
        Random numbers.
    n_genes
        Number of genes.
    centre, spread
        Median gain, and standard deviation of its logarithm.
    """
    return np.asarray(np.clip(centre * draw.lognormal(0, spread, n_genes), 0.2, 2.5))


def plate_effects(draw: np.random.Generator, plates: Sequence[str], n_genes: int, deviation: float) -> dict[str, Matrix]:
    """A log2 shift of every gene on every plate, normal with the given standard deviation."""
    return {plate: draw.normal(0, deviation, n_genes) for plate in plates}


def fractions(log2_abundance: Matrix) -> Matrix:
    """Share of each gene in the molecules of a sample.

    Parameters
    ----------
    log2_abundance
        Samples × genes.
    """
    abundance = np.exp2(log2_abundance)
    return np.asarray(abundance / abundance.sum(axis=1, keepdims=True))


def umi_counts(
    draw: np.random.Generator, shares: Matrix, depth: npt.NDArray[np.float64], *, shape: float, dropout: float = 0.0
) -> npt.NDArray[np.int32]:
    """Counts of unique molecules: gamma-Poisson around depth × share.

    Parameters
    ----------
    draw
        Random numbers.
    shares
        Samples (or cells) × genes; rows sum to 1.
    depth
        Expected molecules of each sample.
    shape
        Shape of the gamma distribution; its reciprocal is the dispersion.
    dropout
        Probability that a gene next to unexpressed is lost altogether; it falls with the expected count.
    """
    expected = (depth[:, None] * shares).astype(np.float32)
    noisy = expected * draw.standard_gamma(shape, expected.shape, dtype=np.float32) / np.float32(shape)
    counts = draw.poisson(noisy).astype(np.int32)
    if dropout:
        counts[draw.random(expected.shape, dtype=np.float32) < dropout * np.exp(-expected)] = 0
    return counts


def intensities(draw: np.random.Generator, log2_abundance: Matrix) -> Matrix:
    """L1000 intensities of landmark genes: a logistic curve of log2 abundance, with more noise at the floor.

    Parameters
    ----------
    draw
        Random numbers.
    log2_abundance
        Wells × landmark genes.

    Returns
    -------
    Wells × landmark genes, log2.
    """
    clean = FLOOR + (CEILING - FLOOR) / (1 + np.exp(-(log2_abundance - HALF_WAY) / WIDTH))
    deviation = 0.18 + 0.4 * np.exp(-(clean - FLOOR) / 1.5)
    return np.asarray(np.clip(clean + draw.normal(0, 1, clean.shape) * deviation, 0, CEILING))


def inferred_intensities(draw: np.random.Generator, landmarks: Matrix, n_genes: int) -> Matrix:
    """Genes that L1000 does not measure: each a weighted sum of eight landmark genes, whatever its real expression.

    Parameters
    ----------
    draw
        Random numbers.
    landmarks
        Wells × landmark genes, log2.
    n_genes
        Genes to infer.
    """
    weights = np.zeros((landmarks.shape[1], n_genes))
    for gene in range(n_genes):
        weights[draw.choice(landmarks.shape[1], 8, replace=False), gene] = draw.normal(0, 0.35, 8)
    level = draw.uniform(FLOOR + 1, CEILING - 3, n_genes)
    inferred = level + (landmarks - landmarks.mean(axis=0)) @ weights + draw.normal(0, 0.1, (len(landmarks), n_genes))
    return np.asarray(np.clip(inferred, 0, CEILING))
