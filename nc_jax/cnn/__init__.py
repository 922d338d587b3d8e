"""Networks trained on images, and their collapse: the only part that imports Flax.

from nc_jax import cnn, images
"""

from .convolution import convolve as convolve
from .networks import VGG as VGG, ConvNet as ConvNet, Network as Network, ResNet as ResNet
from .runs import Run as Run, train as train
from .training import crop_and_flip as crop_and_flip
