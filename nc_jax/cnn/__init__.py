"""Networks trained on images, and measures of their collapse; only this package imports Flax.

from nc_jax import cnn, images
"""

from .convolution import convolve as convolve
from .evaluation import EQUATIONS as EQUATIONS
from .networks import VGG as VGG, ConvNet as ConvNet, Network as Network, ResNet as ResNet
from .stems import (
    AbstractStem as AbstractStem,
    CIFARStem as CIFARStem,
    ImageNetStem as ImageNetStem,
)
from .trainer import TrainedNetworks as TrainedNetworks, train as train
from .training import crop_and_flip as crop_and_flip
from .unconstrained_model import model_flow as model_flow, model_of_network as model_of_network
