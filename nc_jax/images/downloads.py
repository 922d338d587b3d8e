"""Published files, fetched where they are not on disk and kept only as they were published."""

import tarfile
import textwrap
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import NamedTuple


class Source(NamedTuple):
    """Where a set is published, and what is.

    Attributes:
        addresses: of the folders that hold the files, tried in turn; each ends in a slash.
        md5: of each file as published, archives and all.
        members: what is unpacked of an archive.
    """

    addresses: tuple[str, ...]
    md5: Mapping[str, str]
    members: tuple[str, ...] = ()


SOURCES = {
    "mnist": Source(
        (
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
        {
            "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
            "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
            "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
        },
    ),
    "fashion-mnist": Source(
        ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
        {
            "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
            "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
            "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
        },
    ),
    "kmnist": Source(
        (
            "http://codh.rois.ac.jp/kmnist/dataset/kmnist/",
            "https://storage.googleapis.com/kuzushiji-mnist/",
        ),
        {
            "train-images-idx3-ubyte.gz": "bdb82020997e1d708af4cf47b453dcf7",
            "train-labels-idx1-ubyte.gz": "e144d726b3acfaa3e44228e80efcd344",
            "t10k-images-idx3-ubyte.gz": "5c965bf0a639b31b8f53240b1b52f4d7",
            "t10k-labels-idx1-ubyte.gz": "7320c461ea6c1c855c0b718fb2a4b134",
        },
    ),
    "cifar10": Source(
        ("https://www.cs.toronto.edu/~kriz/",),
        {"cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a"},
        tuple(
            f"cifar-10-batches-py/{batch}"
            for batch in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
        ),
    ),
}


def cache_folder(name: str) -> Path:
    """Where files of a set go that are given no folder: the system's place for caches.

    Raises: ModuleNotFoundError without pooch.
    """
    return Path(_pooch().os_cache("nc_jax")) / name


def fetch(name: str, folder: Path) -> None:
    """Have a set's published files in a folder; those that are there unharmed are not asked for.

    Raises: ModuleNotFoundError without pooch; OSError where no address gives the published file.
    """
    source = SOURCES[name]
    for file, md5 in source.md5.items():
        _fetch_file(source.addresses, file, md5, folder)
        if source.members:
            with tarfile.open(folder / file) as archive:
                members = [archive.getmember(member) for member in source.members]
                archive.extractall(folder, members, filter="data")


def _fetch_file(addresses: tuple[str, ...], file: str, md5: str, folder: Path) -> None:
    """Have a file in a folder, whole or not at all: pooch moves it there once it is checked."""
    pooch = _pooch()
    from requests import RequestException  # pooch depends on it

    failures = []
    for address in addresses:
        try:
            pooch.retrieve(address + file, f"md5:{md5}", file, folder, progressbar=True)
            return
        # The latter is pooch's for another checksum.
        except (RequestException, ValueError) as error:
            cause = error.args[0] if error.args else type(error).__name__
            # What went wrong with a connection is wrapped in how often it was tried.
            reason = str(getattr(cause, "reason", cause))
            failures.append(f"{address}{file}: {textwrap.shorten(reason, 200, placeholder='…')}")
    raise OSError(f"{'; '.join(failures)}; fetch {file} by hand into {folder}.")


def _pooch() -> ModuleType:
    try:
        import pooch
    except ModuleNotFoundError:
        raise ModuleNotFoundError("download=True needs pooch: pip install 'nc_jax[cnn]'") from None
    return pooch
