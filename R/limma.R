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

# Filter (unless the genes to keep are given), TMM, voom, fit. support counts the samples that reach the cut-off of filterByExpr,
# which is 10 counts at the median library size; min_samples is how many must.
fit_counts <- function(counts, design, keep) {
  samples <- edgeR::DGEList(counts)
  cut_off <- 10 / median(samples$samples$lib.size) * 1e6
  support <- rowSums(edgeR::cpm(samples) >= cut_off)
  min_samples <- 1 / max(stats::hat(design))
  if (min_samples > 10) min_samples <- 10 + (min_samples - 10) * 0.7
  if (length(keep) == 0) keep <- edgeR::filterByExpr(samples, design)
  if (sum(keep) < 2) {
    stop("the gene filter leaves ", sum(keep), " of ", length(keep), " genes, and voom needs two at least", call. = FALSE)
  }
  samples <- edgeR::calcNormFactors(samples[keep, , keep.lib.sizes = FALSE])
  list(
    fit = limma::lmFit(limma::voom(samples, design), design),
    keep = unname(keep),
    support = unname(support),
    total_count = unname(rowSums(counts)),
    min_samples = min_samples,
    cut_off_cpm = cut_off,
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

# Calls a function and returns its list with the text of the warnings beside it.
with_warnings <- function(call) {
  warned <- character()
  result <- withCallingHandlers(call(), warning = function(warning) {
    warned <<- c(warned, conditionMessage(warning))
    invokeRestart("muffleWarning")
  })
  c(result, list(warnings = warned))
}

# The whole analysis of one stratum. values is a vector of genes × samples, gene by gene fastest. An empty keep asks for
# filterByExpr.
limma_effects <- function(values, n_genes, condition, plate, treated, control, normalized, keep) {
  with_warnings(function() {
    dim(values) <- c(n_genes, length(condition))
    design <- design_matrix(condition, plate)
    fitted <- if (normalized) fit_normalized(values, design) else fit_counts(values, design, keep)
    contrasts <- contrast_matrix(treated, control, ncol(design))
    fit <- limma::eBayes(fit_contrasts(fitted$fit, contrasts), robust = TRUE, trend = normalized)
    n_tested <- sum(fitted$keep)
    list(
      keep = fitted$keep,
      support = as.double(fitted$support),
      total_count = as.double(fitted$total_count),
      min_samples = as.double(fitted$min_samples),
      cut_off_cpm = as.double(fitted$cut_off_cpm),
      norm_factors = as.double(fitted$norm_factors),
      lib_sizes = as.double(fitted$lib_sizes),
      coefficients = as.double(fit$coefficients),
      stdev.unscaled = as.double(fit$stdev.unscaled),
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
  })
}

# What the structured engine asks of R, one step at a time ------------------------------------------------------------------------

# The trend of voom: lowess with voom's span, with equal log counts made one knot as voom's approxfun does.
voom_trend <- function(log_count, root_sigma) {
  with_warnings(function() {
    curve <- stats::lowess(log_count, root_sigma, f = 0.5)
    knots <- environment(stats::approxfun(curve, rule = 2, ties = list("ordered", mean)))
    list(log_count = knots$x, root_sigma = knots$y)
  })
}

# The hyper-parameters and moderated variances of eBayes(robust = TRUE); trend takes the variance as a function of mean expression.
moderate <- function(sigma, df_residual, mean, trend) {
  with_warnings(function() {
    squeezed <- limma::squeezeVar(sigma^2, df_residual, covariate = if (trend) mean, robust = TRUE)
    list(
      s2_post = as.double(squeezed$var.post),
      df_prior = rep_len(as.double(squeezed$df.prior), length(sigma)),
      s2_prior = rep_len(as.double(squeezed$var.prior), length(sigma))
    )
  })
}

# The B statistic of eBayes with its defaults; t and stdev_unscaled are vectors of genes × contrasts, gene by gene fastest.
log_odds <- function(t, stdev_unscaled, df_total, df_prior, s2_prior, proportion = 0.01, stdev_coef_lim = c(0.1, 4)) {
  dim(t) <- dim(stdev_unscaled) <- c(length(df_total), length(t) / length(df_total))
  prior <- limma::tmixture.matrix(t, stdev_unscaled, df_total, proportion, stdev_coef_lim^2 / median(s2_prior))
  prior[is.na(prior)] <- rep_len(1 / s2_prior, sum(is.na(prior)))
  ratio <- (stdev_unscaled^2 + rep(prior, each = length(df_total))) / stdev_unscaled^2
  t2 <- t^2
  kernel <- (1 + df_total) / 2 * log((t2 + df_total) / (t2 / ratio + df_total))
  normal <- df_prior > 1e6
  kernel[normal, ] <- t2[normal, ] * (1 - 1 / ratio[normal, ]) / 2
  list(log_odds = as.double(log(proportion / (1 - proportion)) - log(ratio) / 2 + kernel))
}
