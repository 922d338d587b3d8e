"""Public names of nc_jax: what the reference documents, and what must have an example."""

import functools
import importlib
import inspect
from collections import defaultdict
from collections.abc import Iterator
from types import ModuleType

# The modules in which users find names, by order of the reference; "" is `nc_jax`. A name that
# several modules have is documented in the first one.
NAMESPACES = {
    "": "nc_jax",
    "problems": "nc_jax.problems",
    "losses": "nc_jax.losses",
    "exact": "nc_jax.exact",
    "landscape": "nc_jax.landscape",
    "metrics": "nc_jax.metrics",
    "geometry": "nc_jax.geometry",
    "images": "nc_jax.images",
    "cnn": "nc_jax.cnn",
    "storage": "nc_jax.storage",
    "plotting": "nc_jax.plotting",
    "plotting.style": "nc_jax.plotting.style",
}


def public_objects(module: ModuleType) -> Iterator[tuple[str, object]]:
    """Functions and classes of nc_jax that are public in the module, by name."""
    is_package = hasattr(module, "__path__")
    for name, value in sorted(vars(module).items()):
        is_documented = inspect.isclass(value) or inspect.isroutine(inspect.unwrap(value))
        # Checks of arguments are no functions for users.
        if name.startswith(("_", "check_")) or not is_documented:
            continue
        home = getattr(value, "__module__", "")
        if home == module.__name__ or (is_package and home.startswith("nc_jax.")):
            yield name, value


def is_hidden(base: object) -> bool:
    """Whether a base is a class of nc_jax without a page; a base with parameters is no class."""
    is_own = inspect.isclass(base) and base.__module__.startswith("nc_jax.")
    return is_own and base not in _documented_classes()


@functools.cache
def _documented_classes() -> set[type]:
    homes = [objects for by_home in pages().values() for objects in by_home.values()]
    return {value for objects in homes for _, value in objects if inspect.isclass(value)}


def pages() -> dict[str, dict[str, list[tuple[str, object]]]]:
    """Names and objects by namespace, and in it by the module that defines them."""
    documented: set[int] = set()
    found: dict[str, dict[str, list[tuple[str, object]]]] = {}
    for namespace, module_name in NAMESPACES.items():
        by_home = defaultdict(list)
        for name, value in public_objects(importlib.import_module(module_name)):
            if id(value) not in documented:
                documented.add(id(value))
                by_home[value.__module__].append((f"{module_name}.{name}", value))
        found[namespace] = dict(sorted(by_home.items()))
    return found
