"""Which public names of nc_jax each example uses, found in its syntax tree."""

import ast
import functools
import importlib
import types
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).parents[2] / "examples"
# Every example imports it, for its flags and tables: what it uses says nothing about an example.
SHARED = "script"
# Each figure uses many of its functions, which are for those who draw other figures.
STYLE = "nc_jax.plotting.style."


def programs() -> list[str]:
    """Names of the examples that are programs: those that define `main` at top level."""
    return sorted(
        path.stem
        for path in EXAMPLES.glob("*.py")
        if any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in _tree(path))
    )


@functools.cache
def uses(name: str) -> list[str]:
    """Names of the example programs that use a public name of nc_jax.

    Args:
        name: a dotted name such as "nc.exact.seli", "nc_jax.exact.seli" or "exact.seli". A method,
            "nc.Trajectory.with_time_scaled", counts as used by an example that uses its class and
            has an attribute of that name, since a syntax tree has no types.
    """
    dotted = _full_name(name)
    owner = dotted.rpartition(".")[0]
    if isinstance(_object(owner), type):
        found = _users(_identity(owner)) & _users(f".{dotted.rpartition('.')[2]}")
    else:
        found = _users(_identity(dotted))
    return sorted(found)


def names_used(program: str) -> list[str]:
    """Names of nc_jax in an example and in the modules beside it that it imports, as "nc.flow"."""
    dotted = {name for path in sources_of(program) for name in _dotted_names(path)}
    return sorted(name.replace("nc_jax.", "nc.", 1) for name in dotted if _is_public(name))


def sources_of(program: str) -> list[Path]:
    """The file of an example, and of the modules in examples/ that it imports but `script`."""
    found: list[Path] = []
    waiting = [EXAMPLES / f"{program}.py"]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.append(path)
            waiting += [file for file in _local_imports(path) if file.stem != SHARED]
    return sorted(found)


def _users(identity: str) -> set[str]:
    return _programs_by_identity().get(identity, set())


@functools.cache
def _programs_by_identity() -> dict[str, set[str]]:
    users: dict[str, set[str]] = {}
    for program in programs():
        for path in sources_of(program):
            attributes = {f".{name}" for name in _attributes(path)}
            for identity in {_identity(name) for name in _dotted_names(path)} | attributes:
                users.setdefault(identity, set()).add(program)
    return users


def _full_name(name: str) -> str:
    head, _, rest = name.partition(".")
    if head in ("nc", "nc_jax"):
        return f"nc_jax.{rest}" if rest else "nc_jax"
    return f"nc_jax.{name}"


def _identity(dotted: str) -> str:
    """The name under which an object is defined, the same for each module that re-exports it."""
    found = _object(dotted)
    module, qualified = (getattr(found, key, None) for key in ("__module__", "__qualname__"))
    return f"{module}.{qualified}" if module and qualified else dotted


def _is_public(dotted: str) -> bool:
    """Whether a name is that of a function or class outside of the style of figures."""
    in_module = isinstance(_object(dotted.rpartition(".")[0]), types.ModuleType)
    return in_module and callable(_object(dotted)) and not dotted.startswith(STYLE)


@functools.cache
def _object(dotted: str) -> Any:
    """The object of a dotted name; None where there is none."""
    module, *rest = dotted.split(".")
    found: Any = importlib.import_module(module)
    for position, part in enumerate(rest):
        if not hasattr(found, part):
            try:
                importlib.import_module(".".join([module, *rest[: position + 1]]))
            except ImportError:
                return None
        found = getattr(found, part, None)
    return found


@functools.cache
def _tree(path: Path) -> tuple[ast.stmt, ...]:
    return tuple(ast.parse(path.read_text(encoding="utf-8")).body)


def _nodes(path: Path) -> list[ast.AST]:
    return [node for statement in _tree(path) for node in ast.walk(statement)]


def _attributes(path: Path) -> set[str]:
    return {node.attr for node in _nodes(path) if isinstance(node, ast.Attribute)}


def _imports(path: Path) -> dict[str, str]:
    """Dotted names by the names that the imports of a file give them."""
    names: dict[str, str] = {}
    for node in _nodes(path):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name] = alias.name
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names


def _local_imports(path: Path) -> list[Path]:
    """Files in examples/ of the modules that a file imports."""
    candidates = [name.split(".") for name in _imports(path).values()]
    files = [EXAMPLES.joinpath(*parts[:end]).with_suffix(".py")
             for parts in candidates for end in (1, 2) if len(parts) >= end]  # fmt: skip
    return [file for file in files if file.is_file()]


@functools.cache
def _dotted_names(path: Path) -> frozenset[str]:
    """Names below nc_jax that a file imports or reads as attributes of a module."""
    imports = _imports(path)
    found = {name for name in imports.values() if name.startswith("nc_jax.")}
    for node in _nodes(path):
        parts = _chain(node)
        if parts and imports.get(parts[0], "").split(".")[0] == "nc_jax":
            found.add(".".join([imports[parts[0]], *parts[1:]]))
    return frozenset(name for name in found if name.startswith("nc_jax."))


def _chain(node: ast.AST) -> list[str]:
    """["nc", "exact", "seli"] of the expression nc.exact.seli; [] of another kind of node."""
    if isinstance(node, ast.Name):
        return [node.id]
    if isinstance(node, ast.Attribute):
        before = _chain(node.value)
        return [*before, node.attr] if before else []
    return []
