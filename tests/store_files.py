"""The files of a store, for comparisons byte by byte."""

from pathlib import Path


def files_of(path: Path) -> dict[str, bytes]:
    """Content of every file below a folder, by its relative path."""
    return {
        str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()
    }
