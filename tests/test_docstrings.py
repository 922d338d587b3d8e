"""Every public function and class has an example, and every example runs as a doctest."""

import ast
import doctest
import importlib
from pathlib import Path

import pytest
from public_names import public_objects

import nc_jax

ROOT = Path(nc_jax.__file__).parent
# The modules in which users find functions and classes; "" is `nc_jax`.
PUBLIC = (
    "",
    "cnn",
    "exact",
    "geometry",
    "images",
    "landscape",
    "losses",
    "metrics",
    "plotting",
    "storage",
)


def module_name(path):
    return ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")


def public_functions_and_classes():
    """Name and object of each, where it is defined; a module lists what it defines itself."""
    found = {}
    for part in PUBLIC:
        module = importlib.import_module(f"nc_jax.{part}".removesuffix("."))
        for name, value in public_objects(module):
            found[f"{getattr(value, '__module__', '')}.{name}"] = value
    return found


def test_every_public_function_and_class_has_an_example():
    public = public_functions_and_classes()
    expected = {"Flow", "Loss", "center", "collapse_metrics", "load_digits", "save", "train"}
    assert expected <= {name.rpartition(".")[2] for name in public}
    missing = [name for name, value in public.items() if ">>> " not in (value.__doc__ or "")]
    assert not missing, "\n".join([f"{len(missing)} without an example:", *sorted(missing)])


@pytest.mark.parametrize(
    "path",
    [path for path in sorted(ROOT.rglob("*.py")) if ">>> " in path.read_text()],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_every_example_of_a_module_is_found_by_doctest(path):
    # doctest asks the objects of a module, so that a decorator without functools.wraps hides an
    # example from it; the source has them all.
    written = 0
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module):
            written += ">>> " in (ast.get_docstring(node) or "")
    module = importlib.import_module(module_name(path))
    found = [test for test in doctest.DocTestFinder().find(module) if test.examples]
    assert len(found) == written, sorted(test.name for test in found)
