# limma and edgeR by another route than R/limma.R: named factor levels, one contrast at a time, topTable, results as text.
# Rscript oracle.R FOLDER...; each folder holds values.tsv (genes × samples), samples.tsv, contrasts.tsv and gets top.tsv.
suppressPackageStartupMessages({library(limma); library(edgeR)})

in_byte_order <- function(x) factor(x, levels = sort(unique(x), method = "radix"))

for (folder in commandArgs(trailingOnly = TRUE)) {
  values <- as.matrix(read.delim(file.path(folder, "values.tsv"), row.names = 1, check.names = FALSE))
  samples <- read.delim(file.path(folder, "samples.tsv"), colClasses = "character")
  pairs <- read.delim(file.path(folder, "contrasts.tsv"), colClasses = "character")
  condition <- in_byte_order(samples$condition)
  plate <- in_byte_order(samples$plate)
  design <- if (nlevels(plate) > 1) model.matrix(~ 0 + condition + plate) else model.matrix(~ 0 + condition)
  normalized <- samples$normalized[1] == "True"
  if (normalized) {
    y <- values[rowSums(!is.na(values)) > 0, , drop = FALSE]
  } else {
    y <- DGEList(values)
    y <- y[filterByExpr(y, design), , keep.lib.sizes = FALSE]
    y <- voom(calcNormFactors(y), design)
  }
  invisible(capture.output(fit <- suppressWarnings(lmFit(y, design))))
  tables <- lapply(seq_len(nrow(pairs)), function(i) {
    contrast <- (colnames(design) == paste0("condition", pairs$treated[i])) - (colnames(design) == paste0("condition", pairs$control[i]))
    one <- eBayes(contrasts.fit(fit, contrast), robust = TRUE, trend = normalized)
    cbind(contrast = i - 1, gene = rownames(y),
          topTable(one, number = Inf, sort.by = "none", confint = TRUE),
          stdev.unscaled = one$stdev.unscaled[, 1], sigma = one$sigma, s2.post = one$s2.post,
          df.residual = one$df.residual, df.total = one$df.total)
  })
  top <- do.call(rbind, tables)
  top$across <- p.adjust(top$P.Value, method = "BH")
  write.table(top, file.path(folder, "top.tsv"), sep = "\t", quote = FALSE, row.names = FALSE)
}
