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
