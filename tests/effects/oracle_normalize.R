# edgeR's normalization factors. Rscript oracle_normalize.R FILE: doubles, for each case the numbers of genes and samples, and the
# counts (genes × samples); writes FILE.out: of every case one factor a sample.
suppressPackageStartupMessages(library(edgeR))

file <- commandArgs(trailingOnly = TRUE)
input <- file(file, "rb")
output <- file(paste0(file, ".out"), "wb")
while (length(size <- readBin(input, "double", 2)) == 2) {
  counts <- matrix(readBin(input, "double", size[1] * size[2]), size[1], size[2])
  y <- suppressWarnings(calcNormFactors(DGEList(counts, lib.size = colSums(counts))))
  writeBin(as.double(y$samples$norm.factors), output)
}
close(output)
