# limma's side of the headline: voom, lmFit with its weights, contrasts.fit and eBayes, timed as the published runs call them.
#
# Rscript bench/lmfit.R FOLDER SOURCE SECONDS
# FOLDER/counts.bin holds int32 counts (genes × samples, gene by gene fastest), FOLDER/codes.bin int32: number of genes, samples, contrasts;
# condition and plate of each sample, treated and control of each contrast, all from 1. SOURCE is R/limma.R, for its design and contrasts.
# Writes FOLDER/limma.bin: float64 coefficients of the contrasts of the genes that were fitted (genes × contrasts, gene by gene fastest),
# and prints one line of name=value.

arguments <- commandArgs(trailingOnly = TRUE)
folder <- arguments[1]
source(arguments[2])
seconds_allowed <- as.numeric(arguments[3])
suppressPackageStartupMessages(library(limma))

elapsed <- function(expression) system.time(expression)[["elapsed"]]
read_integers <- function(name) {
  path <- file.path(folder, name)
  readBin(path, "integer", n = file.size(path) / 4)
}

codes <- read_integers("codes.bin")
n_genes <- codes[1]
n_samples <- codes[2]
n_contrasts <- codes[3]
lengths <- c(n_samples, n_samples, n_contrasts, n_contrasts)
parts <- split(codes[-(1:3)], rep(1:4, lengths))
design <- design_matrix(parts[[1]], parts[[2]])
contrasts <- contrast_matrix(parts[[3]], parts[[4]], ncol(design))

samples <- edgeR::DGEList(matrix(read_integers("counts.bin"), n_genes))
filter_s <- elapsed({
  keep <- edgeR::filterByExpr(samples, design)
  samples <- edgeR::calcNormFactors(samples[keep, , keep.lib.sizes = FALSE])
})
voom_s <- elapsed(weighted <- voom(samples, design))

# the fit has a cost that does not depend on the number of genes, so two fits tell the cost of a gene
few <- 4
few_s <- elapsed(lmFit(weighted[seq_len(few), ], design))
more_s <- elapsed(lmFit(weighted[seq_len(2 * few), ], design))
first_guess <- max((more_s - few_s) / few, 1e-3)
fitted <- as.integer(max(4 * few, min(nrow(weighted), (seconds_allowed - few_s - more_s) / first_guess)))
fit_s <- elapsed(fit <- lmFit(weighted[seq_len(fitted), ], design))
gene_s <- (fit_s - few_s) / (fitted - few)

# as many genes as the stratum has, so that a contrast costs what it did
whole <- fit[rep_len(seq_len(fitted), nrow(weighted)), ]
n_timed <- 3
contrast_s <- elapsed(for (i in seq_len(n_timed)) {
  eBayes(contrasts.fit(whole, contrasts[, i, drop = FALSE]), robust = TRUE)
}) / n_timed

blas <- extSoftVersion()[["BLAS"]]
writeBin(as.double(fit_contrasts(fit, contrasts)$coefficients), file.path(folder, "limma.bin"))
cat(
  paste0(
    c("filter_s", "voom_s", "gene_s", "contrast_s", "n_fitted", "n_tested", "n_coefficients", "blas"), "=",
    c(filter_s, voom_s, gene_s, contrast_s, fitted, nrow(weighted), ncol(design), file.path(basename(dirname(blas)), basename(blas)))
  ),
  "\n"
)
