"""Every tolerance of the tests, derived from the dtype or the solver's rtol."""

import numpy as np


def rounding(dtype="float64", operations: int = 100) -> float:
    """Relative error of a computation of so many roundings, all in one direction."""
    return operations * float(np.finfo(dtype).eps)


def integration(rtol: float) -> float:
    """Relative error of a whole integration at this local tolerance.

    Step control holds each step's error at rtol; over a run those of the hundreds of steps add up
    in part. A factor of 30 covers every flow here; the errors seen are 1 to 5 times rtol.
    """
    return 30 * rtol


def second_order_integration(rtol: float) -> float:
    """Relative error of a whole integration of second order at this local tolerance.

    Each step's error is held at rtol, but its length falls with rtol^(1/3) only, so that the sum
    falls as rtol^(2/3). A factor of 5 covers the flows here; 1 to 4 are seen.
    """
    return 5 * rtol ** (2 / 3)
