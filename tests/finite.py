"""Derivatives by central differences in float64: the reference that knows no formula."""

import numpy as np


def gradient(function, x, step=1e-6):
    """d function / d x for a float64 array x and a scalar function, one entry at a time."""
    x = np.array(x, np.float64)
    slopes = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        kept = x[index]
        x[index] = kept + step
        above = function(x)
        x[index] = kept - step
        slopes[index] = (above - function(x)) / (2 * step)
        x[index] = kept
    return slopes
