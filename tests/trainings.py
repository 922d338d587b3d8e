"""A data set as `cnn.train` records it, without a training."""

import numpy as np
import xarray as xr

EPOCHS = np.array([0, 1, 2, 4, 7])


def training(decay: float) -> xr.Dataset:
    """Two seeds: accuracies rise, the rest falls."""
    rng = np.random.default_rng(0)
    falling = np.exp(-decay * EPOCHS) * np.array([[1.0], [1.5]])
    margins = np.sort(rng.normal(EPOCHS[:, None], 1, (2, 5, 50)))
    names = ["zhu_nc1", "ji_feature_norm_variation", "ji_classifier_norm_variation"]
    return xr.Dataset(
        {
            **{name: (("seed", "epoch"), falling * (i + 1)) for i, name in enumerate(names)},
            "train_accuracy": (("seed", "epoch"), 1 - falling / 2),
            "margin_min": (("seed", "epoch"), margins.min(axis=-1)),
            "margins": (("seed", "epoch", "sample"), margins),
        },
        {"seed": [0, 1], "epoch": EPOCHS},
    )
