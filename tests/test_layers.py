"""Which module imports which, and what an import of the package costs."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import nc_jax

ROOT = Path(nc_jax.__file__).parent
CONVENTIONS = ROOT.parent / "docs" / "conventions.md"


def layers():
    """Names of each layer, lowest first: the numbered list of the section on layers."""
    section = CONVENTIONS.read_text().partition("## Layers\n")[2].partition("\n## ")[0]
    lines = re.findall(r"^(\d+)\. (.*)$", section, re.MULTILINE)
    assert [int(number) for number, _ in lines] == list(range(len(lines)))
    return [re.findall(r"`(\w+)`", names) for _, names in lines]


DEPTH = {name: depth for depth, names in enumerate(layers()) for name in names}
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


def part_of(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_from_lower_layers_only(path):
    part = part_of(path)
    for imported in imported_parts(path):
        lower = imported == part or DEPTH[imported] < DEPTH[part]
        assert lower, f"{part} imports {imported}"


def test_the_document_names_the_layer_of_every_part_once():
    documented = [name for names in layers() for name in names]
    assert sorted(documented) == sorted({part_of(path) for path in modules()})


def test_importing_the_package_loads_the_numerical_core_alone():
    code = f"import nc_jax, sys; print([m for m in {HEAVY} if m in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["cnn", "images", "plotting", "storage"])
def test_a_module_outside_of_the_core_is_imported_when_it_is_first_used(name):
    code = (
        "import sys, nc_jax; full = 'nc_jax.' + sys.argv[1]; before = full in sys.modules; "
        "module = getattr(nc_jax, sys.argv[1]); print(before, module is sys.modules[full])"
    )
    command = [sys.executable, "-c", code, name]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "True"]
    assert name in dir(nc_jax)


def test_a_module_whose_packages_are_missing_names_the_extra_that_brings_them():
    code = "import sys, nc_jax; sys.modules['flax'] = None; nc_jax.cnn"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    message = "nc_jax.cnn needs flax, which is not installed: pip install 'nc_jax[cnn]'."
    assert result.stderr.splitlines()[-1] == f"ModuleNotFoundError: {message}"


def test_a_checkout_that_is_not_installed_states_its_version():
    code = (
        "import importlib.metadata as metadata\n"
        "installed = metadata.distribution\n"
        "def distribution(name):\n"
        "    if name.replace('-', '_') == 'nc_jax':\n"
        "        raise metadata.PackageNotFoundError(name)\n"
        "    return installed(name)\n"
        "metadata.distribution = distribution\n"
        "import nc_jax\n"
        "assert nc_jax.storage.provenance()['version_nc_jax'] == nc_jax.__version__\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    # The tool that builds the package reads the same line.
    settings = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())
    assert settings["tool"]["hatch"]["version"]["path"] == "nc_jax/version.py"
    assert "version" not in settings["project"]


def test_an_attribute_that_does_not_exist_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'nc_jax' has no attribute 'plots'"):
        _ = nc_jax.plots


def test_importing_the_package_changes_no_setting_of_jax():
    code = (
        "import jax; before = dict(jax.config.values); import nc_jax; "
        "print({k for k, v in jax.config.values.items() if before.get(k, v) != v})"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "set()"
