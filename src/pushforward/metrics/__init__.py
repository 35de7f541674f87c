"""Arrays to numbers: pure functions with keyword-only `real=` and `fake=`, each giving `Measurement`s."""

from pushforward.metrics.frechet import frechet_distance
from pushforward.metrics.measurement import Measurement
from pushforward.metrics.modes import class_entropy, class_histogram
from pushforward.metrics.neighbours import PrecisionRecall, precision_recall

__all__ = ["Measurement", "PrecisionRecall", "class_entropy", "class_histogram", "frechet_distance", "precision_recall"]
