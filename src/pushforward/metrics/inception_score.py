r"""The inception score: are samples sure of their class, and the classes many?

.. math:: \exp \mathbb{E}_x \mathrm{KL}(p(y | x) \,\|\, p(y))
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from pushforward.metrics.measurement import Measurement, as_features


def inception_score(logits: Tensor | np.ndarray, *, splits: int = 10) -> Measurement:
    """Inception score, averaged over consecutive splits of nearly equal size.

    It is biased downwards by few samples a split: ten one-hot classes in splits of 100 give 9.5, not 10. State the splits.

    Args:
        logits: Of a classifier, (n, classes); n >= splits.
        splits: How many.

    Returns:
        Mean over splits, with the standard error of that mean (none for one split).

    Raises:
        ValueError: fewer samples than splits.

    Reference: Salimans et al. 2016, section 4, arXiv 1606.03498.

    Example:
        >>> round(inception_score(1e4 * torch.eye(10), splits=1).value, 6)
        10.0
    """
    x = as_features(logits, "logits", minimum=1)
    if not 1 <= splits <= len(x):
        raise ValueError(f"splits must lie between 1 and the {len(x)} samples; got {splits}.")
    log_p = torch.log_softmax(x.double(), dim=1)
    scores = []
    for k in range(splits):  # the published cut, also where n is no multiple of splits
        p = log_p[k * len(x) // splits : (k + 1) * len(x) // splits].exp()
        marginal = p.mean(dim=0)
        # 0 log 0 = 0: a class that no sample has contributes nothing, whatever its logarithm.
        divergence = torch.xlogy(p, p).sum(dim=1).mean() - torch.xlogy(marginal, marginal).sum()
        scores.append(math.exp(divergence))
    stderr = float(np.std(scores, ddof=1)) / math.sqrt(splits) if splits > 1 else math.nan
    return Measurement(
        float(np.mean(scores)), stderr, f"over {splits} splits" if splits > 1 else "none: one split", 0, len(x)
    )
