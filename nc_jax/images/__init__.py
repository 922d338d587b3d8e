"""Published image sets, and selections and scalings of them.

Files are read in their published formats and checked. Nothing is downloaded without
`download=True`.
"""

from .idx import load_idx as load_idx, read_idx as read_idx
from .image_set import ImageSet as ImageSet, Split as Split
from .layouts import NAMES as NAMES, standard_name as standard_name
from .scaling import (
    normalize as normalize,
    unit_ball as unit_ball,
    within_unit_ball as within_unit_ball,
)
from .selection import (
    choose_classes as choose_classes,
    random_labels as random_labels,
    several_classes as several_classes,
    two_classes as two_classes,
)
from .sets import (
    load as load,
    load_cifar10 as load_cifar10,
    load_digits as load_digits,
    load_fashion_mnist as load_fashion_mnist,
    load_kmnist as load_kmnist,
    load_mnist as load_mnist,
    load_mnist_5000 as load_mnist_5000,
)
