"""Harmonized perturbation transcriptomics: the domain, as plain functions on AnnData, Arrow and NumPy.

Data walk from door to door: sources → identity → harmonized samples → effects → agreement → representation. Each stage is a
package of that name here, an asset module in ``assets/`` and a folder in ``tests/``. Nothing in this package imports Dagster,
except ``definitions.py``, which composes the graph. Nothing is re-exported here, so importing one stage never loads another.
"""

__version__ = "0.1.0"
