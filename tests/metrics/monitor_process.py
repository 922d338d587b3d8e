"""A Monitor in a separate process, to be killed. Prints the number of each row that is written."""

import sys

from nc_jax import metrics


def main() -> None:
    monitor = metrics.Monitor(2, path=sys.argv[1])
    while True:
        epoch = int(monitor.dataset.sizes["epoch"]) + 1
        monitor.record({"cdnv": 1 / epoch})
        print(epoch, flush=True)


if __name__ == "__main__":
    main()
