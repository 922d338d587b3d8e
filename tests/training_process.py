"""A training in a separate process, to be killed. Prints when it starts and a digest at the end."""

import argparse

import jax
import numpy as np
import optax

from nc_jax import cnn, images
from nc_jax.cnn import programs, trainer
from nc_jax.configuration import digest

NUM_EPOCHS = 60


def convnet(rngs):
    return cnn.ConvNet(1, 3, widths=(2, 3), rngs=rngs)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("path")
    args = parser.parse_args()
    # A state at every epoch, so that kills fall on the writing.
    trainer._CHECKPOINT_SECONDS = -1.0
    rng, labels = np.random.default_rng(0), np.arange(24, dtype=np.int32) % 3
    data = images.ImageSet(
        rng.normal(size=(24, 4, 4, 1)).astype(np.float32), labels, ("a", "b", "c")
    )
    begin = programs.TrainingPrograms.start

    def start(self):
        state = begin(self)
        print("started", flush=True)
        return state

    programs.TrainingPrograms.start = start
    run = cnn.train(
        convnet, data, optax.adam(1e-2), NUM_EPOCHS, batch_size=7, augment=cnn.crop_and_flip,
        save_epochs=range(NUM_EPOCHS + 1), path=args.path, progress=False,
    )  # fmt: skip
    leaves = jax.tree.leaves(run.state)
    print(digest(b"".join(np.asarray(leaf).tobytes() for leaf in leaves)))


if __name__ == "__main__":
    main()
