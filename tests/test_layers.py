"""The shape of the package: who imports whom, and what importing it costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import nc_jax

ROOT = Path(nc_jax.__file__).parent
# A module imports from lower layers and its own folder only; modules of one layer are strangers.
LAYERS = [
    {"capabilities", "paths"},
    {"checks", "compilation", "configuration", "interrupts", "lanes", "precision", "progress"},
    {"display", "labels", "state"},
    {"geometry", "images"},
    {"losses", "metrics"},
    {"problems"},
    {"trajectory"},
    {"storage"},
    {"exact", "dynamics", "landscape"},
    {"cnn", "sweeps"},
    {"plotting"},
]
DEPTH = {name: depth for depth, names in enumerate(LAYERS) for name in names}
HEAVY = ["flax", "matplotlib", "xarray", "zarr", "tqdm", "torch", "pandas", "sklearn", "orbax"]


def imported_parts(path):
    """Top-level parts of nc_jax that a file imports, with relative imports resolved."""
    package = path.relative_to(ROOT.parent).parent.parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            target = [*base, *(node.module or "").split(".")] if node.module else list(base)
            names = [alias.name for alias in node.names]
            yield from [target[1]] if len(target) > 1 else names
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            module = getattr(node, "module", None)
            for name in [module] if module else [alias.name for alias in node.names]:
                assert not name.startswith("nc_jax"), f"{path}: import nc_jax relatively"


def modules():
    return [path for path in sorted(ROOT.rglob("*.py")) if path != ROOT / "__init__.py"]


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_from_lower_layers_only(path):
    own = path.relative_to(ROOT).parts[0].removesuffix(".py")
    assert own in DEPTH, f"{own} has no layer"
    for part in imported_parts(path):
        assert part == own or DEPTH[part] < DEPTH[own], f"{own} imports {part}"


def test_importing_the_package_loads_the_numerical_core_alone():
    code = f"import nc_jax, sys; print([m for m in {HEAVY} if m in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_importing_the_package_changes_no_setting_of_jax():
    code = (
        "import jax; before = dict(jax.config.values); import nc_jax; "
        "print({k for k, v in jax.config.values.items() if before.get(k, v) != v})"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "set()"
