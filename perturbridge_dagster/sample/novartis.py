"""The sample as Novartis MoABox is published: R objects of counts by batch and plate, with tables of compounds, genes and robust controls.

Belongs here: the layout of the MoABox plates, their files and defects. Does not belong here: the biology or the assay's noise.

Files
-----
``Exp_gzip.RData``
    Gzipped R workspace with the list ``Exp``: batches by number, not in order; in each, plates by barcode; in each, the matrix
    ``UMI.counts`` (genes × wells, integers; row names ``SYMBOL,grch38_chromosome``, column names barcode and index of the well) and the
    data frame ``Annotation``, ``ANNOTATION_COLUMNS``, one row a well, in another order.
``robust_RC_ReferenceControl_DMSO_wells.txt``
    Tab-separated, one column ``external_biosample_id``: two DMSO wells of each plate.
``MoABox_compounds_metadata.txt``
    Tab-separated: ``cmpd_sample_id inchi_key smiles cas_number moa``, empty where nothing is known. The ids are those of the original.
``drugseq_ensembl_v98_annotation_and_entrez_mapping.RData``
    Gzipped R workspace with the data frame ``drugseq_ensg_v98``: ``geneID ensembl_gene_id``.

Defects, as in the original: empty wells, DMSO wells that are not robust, positive controls among the samples, wells without counts, a
compound without structure, plates with another order of genes, genes without Ensembl id, with two, and one that shares one of the two.
Symbols and ids of genes are real, the chromosomes in their names are not.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from perturbridge_dagster.sample.account import SAMPLE_COLUMNS, Account, shuffled, well_names
from perturbridge_dagster.sample.assays import fractions, gene_gains, plate_effects, umi_counts
from perturbridge_dagster.sample.biology import Biology, Matrix, generator
from perturbridge_dagster.sample.tables import VEHICLE, cas_numbers, compounds, genes, perturbagens_of

DATASET = "novartis"
CELL_TYPE, CELL_LINE, TIME_H = "CVCL_0042", "U-2 OS", 24.0
DOSES_UM = (0.01, 0.1, 1.0, 10.0)
BATCHES = {"10": ("VH02012001", "VH02012002", "VH02012003"), "9": ("VH02011901", "VH02011902", "VH02011903")}
"""Plates of each batch: three replicates of one layout."""

CONTROLS_PER_PLATE, ROBUST_PER_PLATE, EMPTY_PER_PLATE = 6, 2, 3
POSITIVE_CONTROLS = {"BD-11-DV28": "staurosporine", "EA-18-FP00": "bortezomib", "SE-15-AV21": "brefeldin A"}
"""Ids of the positive controls, and the agent whose effects they show here."""

WATER = "EC-27-RY89"
MEDIAN_DEPTH = 60_000.0

UNANNOTATED, AMBIGUOUS, SHARING = (0, 1, 2), 3, 4
"""Which of the hardly expressed genes have no Ensembl id, have a second one, and are that second one."""

ANNOTATION_COLUMNS = (
    "batch_id",
    "plate_barcode",
    "plate_index",
    "well_id",
    "plate_replicate",
    "well_index",
    "col",
    "row",
    "biosample_id",
    "external_biosample_id",
    "cmpd_sample_id",
    "well_type",
    "cell_line_name",
    "cell_line_ncn",
    "concentration",
    "unit",
    "hours_post_treatment",
    "Sample",
)


def write(folder: Path, biology: Biology, seed: int) -> Account:
    """Write the files of MoABox.

    Parameters
    ----------
    folder
        An empty folder.
    biology, seed
        The latent truth and the seed of the assay.
    """
    wells = _wells(seed)
    gains = gene_gains(generator(seed, DATASET, "gains"), len(biology.genes), spread=0.35)
    counts = _counts(seed, biology, gains, wells)
    features = _features(seed)
    write_rdata(folder / "Exp_gzip.RData", {"Exp": _batches(seed, wells, counts, features)})
    robust = wells.loc[wells["robust"], ["external_biosample_id"]]
    robust.to_csv(folder / "robust_RC_ReferenceControl_DMSO_wells.txt", sep="\t", index=False)
    _compounds().to_csv(folder / "MoABox_compounds_metadata.txt", sep="\t", index=False)
    write_rdata(folder / "drugseq_ensembl_v98_annotation_and_entrez_mapping.RData", {"drugseq_ensg_v98": _annotation(features)})
    return _account(biology, gains, wells, counts, features)


def write_rdata(path: Path, objects: dict[str, Any]) -> None:
    """Write an R workspace as ``save()`` does, gzipped.

    Parameters
    ----------
    path
        The file.
    objects
        By name: dictionaries for lists, data frames, and ``xarray.DataArray`` for matrices with names.
    """
    import xarray as xr
    from rdata.conversion import convert_python_to_r_data
    from rdata.conversion.to_r import DEFAULT_CLASS_MAP
    from rdata.unparser import unparse_data

    def matrix(array: xr.DataArray, converter: Any) -> Any:
        r_object = converter.convert_to_r_object(np.ravel(array.to_numpy(), order="F"))
        names = [array.get_index(name).to_numpy(dtype=object) for name in array.dims]
        r_object.attributes = converter.convert_to_r_attributes({"dim": np.array(array.shape, np.int32), "dimnames": names})
        r_object.info.attributes = True
        return r_object

    constructors = {**DEFAULT_CLASS_MAP, xr.DataArray: matrix}
    data = convert_python_to_r_data(objects, constructor_dict=constructors, file_type="rda")
    # without a file name or time stamp in its header, a gzip file depends on its content alone
    with path.open("wb") as raw, gzip.GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=6, mtime=0) as stream:
        stream.write(unparse_data(data, file_type="rda"))


def _wells(seed: int) -> pd.DataFrame:
    """One row a well: columns of the annotation, and what was meant by them."""
    names = perturbagens_of(DATASET)
    treated, vehicle = names[names["agent"] != VEHICLE], names[names["agent"] == VEHICLE]
    plates = []
    for i, (batch, barcodes) in enumerate(BATCHES.items()):
        conditions = treated.iloc[i :: len(BATCHES)].merge(pd.DataFrame({"dose_uM": DOSES_UM}), how="cross").assign(well_type="SA")
        controls = vehicle.loc[vehicle.index.repeat(CONTROLS_PER_PLATE)].assign(dose_uM=0.0, well_type="RC")
        positive = pd.DataFrame({"source_id": list(POSITIVE_CONTROLS), "agent": list(POSITIVE_CONTROLS.values())})
        empty = pd.DataFrame({"source_id": [WATER] * EMPTY_PER_PLATE})
        layout = pd.concat(
            [conditions, controls, positive.assign(dose_uM=1.0, well_type="SA"), empty.assign(dose_uM=0.0, well_type="EMPTY")]
        )
        for replicate, barcode in enumerate(barcodes):
            plate = shuffled(generator(seed, DATASET, "layout", barcode), layout)
            plate["well_id"] = well_names(len(plate), "ABCDEFGHIJKLMNOP", 24, padded=True)
            first_controls = plate.index[plate["well_type"] == "RC"][:ROBUST_PER_PLATE]
            plate["robust"] = plate.index.isin(first_controls)
            plates.append(plate.assign(batch=batch, plate=barcode, replicate=replicate + 1))
    wells = pd.concat(plates, ignore_index=True)
    wells["agent"] = wells["agent"].fillna(VEHICLE)
    wells["cell_type"], wells["time_h"] = CELL_TYPE, TIME_H
    wells["is_control"] = wells["well_type"] == "RC"
    wells["external_biosample_id"] = [f"BS-{1_400_001 + 13 * i}" for i in range(len(wells))]
    known = perturbagens_of(DATASET)["source_id"]
    # the library of one treated well failed
    wells["failed"] = wells.index == wells.index[(wells["well_type"] == "SA") & wells["source_id"].isin(known)][5]
    return wells


def _counts(seed: int, biology: Biology, gains: Matrix, wells: pd.DataFrame) -> npt.NDArray[np.int32]:
    """Wells × genes."""
    n_genes = len(biology.genes)
    plates = plate_effects(generator(seed, DATASET, "plates"), list(wells["plate"].unique()), n_genes, 0.15)
    capture = generator(seed, DATASET, "capture").normal(0, 1.0, n_genes)
    expected = biology.baseline.loc[wells["cell_type"]].to_numpy() + capture + gains * biology.log2_effects(wells)
    expected += np.array([plates[plate] for plate in wells["plate"]])
    draw = generator(seed, DATASET, "counts")
    depth = np.clip(MEDIAN_DEPTH * draw.lognormal(0, 0.3, len(wells)), 15_000, 200_000)
    # an empty well has what drifts over from others
    depth[(wells["well_type"] == "EMPTY").to_numpy()] = 300.0
    depth[wells["failed"].to_numpy()] = 0.0
    return umi_counts(draw, fractions(expected), depth, shape=25.0)


def _features(seed: int) -> pd.DataFrame:
    """Genes as the counts name them: ``gene_id``, ``ensembl_id`` of an old release, and whether the annotation leaves them an own id."""
    table = genes()
    ensembl = table["retired_ensembl_id"].fillna(table["ensembl_id"])
    chromosome = generator(seed, DATASET, "chromosomes").integers(1, 23, len(table)).astype(str)
    chromosome[(table["kind"] == "mitochondrial").to_numpy()] = "MT"
    low = np.flatnonzero(table["kind"] == "low")
    own = np.ones(len(table), bool)
    own[low[[*UNANNOTATED, AMBIGUOUS, SHARING]]] = False
    name = table["symbol"].fillna(ensembl)
    return pd.DataFrame({"gene_id": name + ",grch38_" + chromosome, "ensembl_id": ensembl, "has_own_id": own})


def _annotation(features: pd.DataFrame) -> pd.DataFrame:
    """The table drugseq_ensg_v98."""
    low = np.flatnonzero(genes()["kind"] == "low")
    table = features[["gene_id", "ensembl_id"]].set_axis(["geneID", "ensembl_gene_id"], axis=1)
    second = pd.DataFrame(
        {"geneID": [table["geneID"].iloc[low[AMBIGUOUS]]], "ensembl_gene_id": [table["ensembl_gene_id"].iloc[low[SHARING]]]}
    )
    annotated = pd.concat([table.drop(table.index[low[list(UNANNOTATED)]]), second])
    return annotated.astype(object).set_axis(pd.RangeIndex(1, len(annotated) + 1))


def _batches(
    seed: int, wells: pd.DataFrame, counts: npt.NDArray[np.int32], features: pd.DataFrame
) -> dict[str, dict[str, dict[str, object]]]:
    """The list Exp."""
    import xarray as xr

    barcode_draw = generator(seed, DATASET, "barcodes")
    indices = {well: "".join(barcode_draw.choice(list("ACGT"), 10)) for well in well_names(384, "ABCDEFGHIJKLMNOP", 24, padded=True)}
    batches: dict[str, dict[str, dict[str, object]]] = {}
    for plate, of_plate in wells.groupby("plate", sort=False):
        draw = generator(seed, DATASET, "order", str(plate))
        # the genes of every plate but the first come in an order of their own
        order = np.arange(len(features)) if not batches else draw.permutation(len(features))
        names = (of_plate["plate"] + "_" + of_plate["well_id"].map(indices)).to_numpy(dtype=object)
        matrix = xr.DataArray(
            counts[of_plate.index][:, order].T, dims=("gene", "well"), coords={"gene": features["gene_id"].to_numpy()[order], "well": names}
        )
        annotation = _plate_annotation(of_plate, indices).iloc[draw.permutation(len(of_plate))]
        batches.setdefault(of_plate["batch"].iloc[0], {})[str(plate)] = {
            "UMI.counts": matrix,
            "Annotation": annotation.set_axis(pd.RangeIndex(1, len(annotation) + 1)),
        }
    return batches


def _plate_annotation(wells: pd.DataFrame, indices: dict[str, str]) -> pd.DataFrame:
    empty = wells["well_type"] == "EMPTY"
    table = pd.DataFrame(
        {
            "batch_id": wells["batch"],
            "plate_barcode": wells["plate"],
            "plate_index": wells["plate"].map(lambda plate: "ACGT" * 2 if int(plate[-1]) % 2 else "TGCA" * 2),
            "well_id": wells["well_id"],
            "plate_replicate": wells["replicate"].astype(np.int32),
            "well_index": wells["well_id"].map(indices),
            "col": wells["well_id"].str[1:].astype(np.int32),
            "row": wells["well_id"].str[0],
            "biosample_id": "B" + wells["external_biosample_id"].str[3:],
            "external_biosample_id": wells["external_biosample_id"],
            "cmpd_sample_id": wells["source_id"],
            "well_type": wells["well_type"].astype("category"),
            "cell_line_name": CELL_LINE,
            "cell_line_ncn": "NCN-0042",
            "concentration": wells["dose_uM"].mask(empty),
            "unit": "uM",
            "hours_post_treatment": "24.0",
            "Sample": wells["source_id"] + "_" + wells["dose_uM"].astype(str) + "uM_24.0hr",
        }
    )[list(ANNOTATION_COLUMNS)]
    text = table.select_dtypes(exclude=["number", "category"]).columns
    return table.astype(dict.fromkeys(text, object))


def _compounds() -> pd.DataFrame:
    """The table of compounds, with water and the positive controls."""
    names = perturbagens_of(DATASET)
    cas = names["compound"].map(cas_numbers()).mask(names["agent"] == VEHICLE)
    listed = pd.DataFrame(
        {"cmpd_sample_id": names["source_id"], "inchi_key": names["inchikey"], "smiles": names["smiles"], "cas_number": cas}
    )
    listed["moa"] = names["mechanism"].mask(names["mechanism"].isin(["none", "vehicle"]))
    others = pd.DataFrame({"cmpd_sample_id": [*POSITIVE_CONTROLS, WATER]})
    others[["inchi_key", "smiles"]] = compounds().loc[["staurosporine"], ["inchikey", "smiles"]].iloc[0].to_list()
    others.loc[others["cmpd_sample_id"].isin(["BD-11-DV28"]), ["inchi_key", "smiles"]] = None
    others.loc[others["cmpd_sample_id"] == WATER, ["inchi_key", "smiles"]] = ["XLYOFNOQVPJJNP-UHFFFAOYSA-N", "O"]
    return pd.concat([listed, others])


def _account(biology: Biology, gains: Matrix, wells: pd.DataFrame, counts: npt.NDArray[np.int32], features: pd.DataFrame) -> Account:
    measured = features["has_own_id"].to_numpy() & genes()["ensembl_id"].notna().to_numpy()
    account = Account(DATASET, pd.DataFrame(), pd.Series(np.where(measured, gains, np.nan), index=biology.genes))
    account.start("samples", len(wells))
    kept = account.keep("samples", "no counts", wells, pd.Series(counts.sum(axis=1) > 0, index=wells.index))
    kept = account.keep("samples", "empty wells", kept, kept["well_type"] != "EMPTY")
    kept = account.keep("samples", "DMSO wells that are not robust", kept, ~kept["is_control"] | kept["robust"])
    kept = account.keep("samples", "positive controls", kept, ~kept["source_id"].isin(POSITIVE_CONTROLS))
    kept = kept.rename(columns={"well_id": "well"}).assign(source_cell_context=CELL_LINE, source_dose_uM=kept["dose_uM"], n_cells=None)
    account.samples = kept[list(SAMPLE_COLUMNS)].reset_index(drop=True)
    account.start("genes", len(features))
    account.drop("genes", "no Ensembl id of their own", int((~features["has_own_id"]).sum()))
    deprecated = genes()["ensembl_id"].isna().to_numpy()
    account.drop("genes", "deprecated without replacement", int((deprecated & features["has_own_id"]).sum()))
    return account
