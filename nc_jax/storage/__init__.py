"""Labelled results on disk: xarray data sets in Zarr stores, written completely or not at all."""

from ..datasets import (
    provenance as provenance,
    states as states,
    to_dataset as to_dataset,
    variable_attributes as variable_attributes,
    with_attributes as with_attributes,
)
from .batches import NOT_RUN as NOT_RUN
from .replacement import (
    check_replaceable as check_replaceable,
    is_store as is_store,
    writing as writing,
)
from .stores import (
    arrays as arrays,
    attributes as attributes,
    load as load,
    open_lazily as open_lazily,
    save as save,
)
