# Differential effects of one stratum as limma and edgeR give them.
#
# Belongs here: the statistics that R is the standard of, called as a statistician would type them. Does not belong here:
# keys, names, files and tables, which are Python's (perturbridge_dagster/effects/). Conditions, plates and contrasts come as
# integer codes from 1, so that no name is ever an R name. Matrices are genes × samples here and go back as genes × contrasts.

# Design without intercept. The first plate is the reference; one plate needs no plate effect.
design_matrix <- function(condition, plate) {
  condition <- factor(condition)
  plate <- factor(plate)
  if (nlevels(plate) > 1) model.matrix(~ 0 + condition + plate) else model.matrix(~ 0 + condition)
}

# One column a contrast: the treated condition minus its control condition.
contrast_matrix <- function(treated, control, n_coefficients) {
  contrasts <- matrix(0, n_coefficients, length(treated))
  contrasts[cbind(treated, seq_along(treated))] <- 1
  contrasts[cbind(control, seq_along(control))] <- -1
  contrasts
}

# Filter, TMM, voom, fit. support counts the samples that reach the cut-off of filterByExpr, which is
# 10 counts at the median library size.
fit_counts <- function(counts, design) {
  samples <- edgeR::DGEList(counts)
  cut_off <- 10 / median(samples$samples$lib.size) * 1e6
  support <- rowSums(edgeR::cpm(samples) >= cut_off)
  keep <- edgeR::filterByExpr(samples, design)
  if (sum(keep) < 2) {
    stop("filterByExpr leaves ", sum(keep), " of ", length(keep), " genes, and voom needs two at least", call. = FALSE)
  }
  samples <- edgeR::calcNormFactors(samples[keep, , keep.lib.sizes = FALSE])
  list(
    fit = limma::lmFit(limma::voom(samples, design), design),
    keep = unname(keep),
    support = unname(support[keep]),
    norm_factors = samples$samples$norm.factors,
    lib_sizes = samples$samples$lib.size
  )
}

# Values that are normalized already go straight to the fit. limma refuses a gene without any value, so it is not tested.
fit_normalized <- function(values, design) {
  keep <- rowSums(!is.na(values)) > 0
  list(fit = limma::lmFit(values[keep, , drop = FALSE], design), keep = keep)
}

# All contrasts of a fit. contrasts.fit multiplies a coefficients × contrasts matrix for every gene, and coefficients that no
# contrast of a call uses are dropped first; so blocks of a few contrasts give the same answer in a fraction of the time.
fit_contrasts <- function(fit, contrasts, block_size = 16) {
  blocks <- split(seq_len(ncol(contrasts)), (seq_len(ncol(contrasts)) - 1) %/% block_size)
  parts <- lapply(blocks, function(block) limma::contrasts.fit(fit, contrasts[, block, drop = FALSE]))
  fit$coefficients <- do.call(cbind, lapply(parts, function(part) part$coefficients))
  fit$stdev.unscaled <- do.call(cbind, lapply(parts, function(part) part$stdev.unscaled))
  # eBayes adds an F test over all contrasts together when it finds a design; nobody asks for it
  fit$design <- NULL
  fit
}

# The whole analysis of one stratum. values is a vector of genes × samples, gene by gene fastest.
# Warnings come back as text beside the result.
limma_effects <- function(values, n_genes, condition, plate, treated, control, normalized) {
  warned <- character()
  result <- withCallingHandlers(
    {
      dim(values) <- c(n_genes, length(condition))
      design <- design_matrix(condition, plate)
      fitted <- if (normalized) fit_normalized(values, design) else fit_counts(values, design)
      contrasts <- contrast_matrix(treated, control, ncol(design))
      fit <- limma::eBayes(fit_contrasts(fitted$fit, contrasts), robust = TRUE, trend = normalized)
      n_tested <- sum(fitted$keep)
      list(
        keep = fitted$keep,
        support = as.double(fitted$support),
        norm_factors = as.double(fitted$norm_factors),
        lib_sizes = as.double(fitted$lib_sizes),
        coefficients = as.double(fit$coefficients),
        stdev.unscaled = as.double(fit$stdev.unscaled),
        t = as.double(fit$t),
        lods = as.double(fit$lods),
        Amean = as.double(fit$Amean),
        sigma = as.double(fit$sigma),
        s2.post = as.double(fit$s2.post),
        df.residual = as.double(fit$df.residual),
        df.total = rep_len(as.double(fit$df.total), n_tested),
        df.prior = rep_len(as.double(fit$df.prior), n_tested),
        s2.prior = rep_len(as.double(fit$s2.prior), n_tested),
        rank = as.double(fitted$fit$rank)
      )
    },
    warning = function(warning) {
      warned <<- c(warned, conditionMessage(warning))
      invokeRestart("muffleWarning")
    }
  )
  c(result, list(warnings = warned))
}
