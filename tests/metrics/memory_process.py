"""A process that measures N samples which it makes one batch at a time, and prints its memory.

python memory_process.py N d once|twice
"""

import resource
import sys
from collections.abc import Iterator

import numpy as np

from nc_jax import metrics


def batches(count: int, dim: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches of 10 000 samples of ten classes."""
    rng = np.random.default_rng(0)
    means = rng.normal(size=(10, dim)).astype(np.float32)
    for start in range(0, count, 10_000):
        labels = rng.integers(0, 10, min(10_000, count - start))
        noise = rng.standard_normal((len(labels), dim), np.float32)
        yield means[labels] + 0.1 * noise, labels


def main() -> None:
    """Measure, then print the samples and the largest resident memory in MiB."""
    count, dim, passes = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    found = metrics.measure(
        batches(count, dim) if passes == "once" else lambda: batches(count, dim)
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(found.counts.sum(), peak // 1024)


if __name__ == "__main__":
    main()
