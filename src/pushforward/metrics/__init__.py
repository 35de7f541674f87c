"""Arrays to numbers: pure functions with keyword-only `real=` and `fake=`, each giving `Measurement`s."""

from pushforward.metrics.frechet import Extrapolation, frechet_distance, frechet_infinity
from pushforward.metrics.inception_score import inception_score
from pushforward.metrics.kernel import kernel_distance
from pushforward.metrics.likelihood import Likelihood, likelihood
from pushforward.metrics.measurement import Measurement
from pushforward.metrics.modes import class_entropy, class_histogram, mode_count, reverse_kl
from pushforward.metrics.neighbours import (
    DensityCoverage,
    Memorisation,
    PrecisionRecall,
    density_coverage,
    memorisation,
    nearest_distances,
    prdc,
    precision_recall,
)
from pushforward.metrics.outliers import aupr_in, aupr_out, auroc, fpr95_inliers_positive, fpr95_outliers_positive
from pushforward.metrics.transport import sliced_wasserstein, wasserstein

__all__ = [
    "DensityCoverage",
    "Extrapolation",
    "Likelihood",
    "Measurement",
    "Memorisation",
    "PrecisionRecall",
    "aupr_in",
    "aupr_out",
    "auroc",
    "class_entropy",
    "class_histogram",
    "density_coverage",
    "fpr95_inliers_positive",
    "fpr95_outliers_positive",
    "frechet_distance",
    "frechet_infinity",
    "inception_score",
    "kernel_distance",
    "likelihood",
    "memorisation",
    "mode_count",
    "nearest_distances",
    "prdc",
    "precision_recall",
    "reverse_kl",
    "sliced_wasserstein",
    "wasserstein",
]
