r"""MAUVE: how far two sets of features are one distribution, from 0.004 to 1.

Both sets, each feature scaled to length one, are reduced together to the principal components that hold 0.9 of their
variance, and clustered, ten features of the smaller set a cluster. The shares p and q of each set in the clusters give,
with \(r_w = w p + (1 - w) q\), the frontier of points

.. math:: \bigl( e^{-c \, \mathrm{KL}(q \| r_w)}, \; e^{-c \, \mathrm{KL}(p \| r_w)} \bigr), \qquad 0 < w < 1, \quad c = 5,

and the area under it is the score: 1 for equal shares, 0.004 for disjoint ones. Two samples of one distribution lie below 1,
the fewer they are, the further: real samples are held against real ones beside. The published program clusters by another
library, so that its scores differ a little.

References:
    | MAUVE: Measuring the Gap Between Neural Text and Human Text using Divergence Frontiers (Pillutla et al., 2021)
"""

__all__ = ["area", "mauve"]

import math
import numpy as np

from scipy.stats import entropy
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.preprocessing import normalize

SCALING, POINTS, EXPLAINED, EACH = 5.0, 25, 0.9, 10  # c, of the frontier, of the variance, features of a cluster


def mauve(a: np.ndarray, b: np.ndarray) -> float:
    """Returns the score of two sets of features, with shapes (N, D) and (M, D); no number where one is empty."""
    if not (len(a) and len(b)):
        return math.nan
    both = normalize(np.concatenate([a, b]))
    if np.ptp(both, axis=0).max() == 0:
        return 1.0
    points = PCA(EXPLAINED, svd_solver="full").fit_transform(both)
    count = max(2, round(min(len(a), len(b)) / EACH))
    number = KMeans(count, n_init=5, max_iter=500, random_state=0).fit_predict(points)
    return area(*(np.bincount(part, minlength=count) / len(part) for part in (number[: len(a)], number[len(a) :])))


def area(p: np.ndarray, q: np.ndarray) -> float:
    """Returns the area under the frontier of two distributions, with shape (K,)."""
    mixed = [w * p + (1 - w) * q for w in np.linspace(1e-6, 1 - 1e-6, POINTS)]
    x, y = (np.exp([-SCALING * entropy(side, r) for r in mixed]) for side in (q, p))
    return -float(np.trapezoid([0.0, *y, 1.0], [1.0, *x, 0.0]))
