"""Networks trained on images, and measures of their collapse; only this package imports Flax.

from nc_jax import cnn, images
"""

from .class_structure import (
    ClassEigenvalues as ClassEigenvalues,
    ClassShares as ClassShares,
    class_eigenvalues as class_eigenvalues,
    class_shares as class_shares,
)
from .convolution import convolve as convolve
from .curvature import curvature_for as curvature_for, layer_names as layer_names
from .evaluation import EQUATIONS as EQUATIONS
from .feature_kernel import FeatureKernel as FeatureKernel, feature_kernel as feature_kernel
from .features import last_layer as last_layer
from .networks import VGG as VGG, ConvNet as ConvNet, Network as Network, ResNet as ResNet
from .pytorch import from_torch as from_torch, to_torch as to_torch
from .stems import (
    AbstractStem as AbstractStem,
    CIFARStem as CIFARStem,
    ImageNetStem as ImageNetStem,
)
from .trainer import TrainedNetworks as TrainedNetworks, train as train
from .training import crop_and_flip as crop_and_flip
from .unconstrained_model import model_flow as model_flow, model_of_network as model_of_network
