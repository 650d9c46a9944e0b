# edgeR's gene filter. Rscript oracle_filter.R FILE: doubles, for each case the numbers of genes, samples and design columns,
# the counts (genes × samples) and the design; writes FILE.out: cut-off and largest leverage, then of every gene: kept, support.
suppressPackageStartupMessages(library(edgeR))

file <- commandArgs(trailingOnly = TRUE)
input <- file(file, "rb")
output <- file(paste0(file, ".out"), "wb")
while (length(size <- readBin(input, "double", 3)) == 3) {
  counts <- matrix(readBin(input, "double", size[1] * size[2]), size[1], size[2])
  design <- matrix(readBin(input, "double", size[2] * size[3]), size[2], size[3])
  lib.size <- colSums(counts)
  cutoff <- 10 / median(lib.size) * 1e6
  writeBin(c(cutoff, max(hat(design))), output)
  writeBin(as.double(filterByExpr(counts, design)), output)
  writeBin(as.double(rowSums(cpm(counts, lib.size = lib.size) >= cutoff)), output)
}
close(output)
