"""The last state of a training on disk, by Orbax."""

from pathlib import Path

from jaxtyping import PyTree


class TrainingCheckpoints:
    """The last state of a training in a folder; older states are removed.

    A state in the folder is complete: Orbax writes it under another name and renames it.

    With `read_only` nothing is saved or removed.

    Raises: ModuleNotFoundError without Orbax.
    """

    def __init__(self, path: Path, *, read_only: bool = False):
        # Imported here, since Orbax takes a second to import and brings TensorStore.
        try:
            from orbax import checkpoint
        except ModuleNotFoundError:
            raise ModuleNotFoundError("checkpoints need Orbax: pip install 'nc_jax[cnn]'") from None
        self._args = checkpoint.args
        # Synchronous, so that the last state is on disk when the training returns.
        options = checkpoint.CheckpointManagerOptions(
            max_to_keep=1, enable_async_checkpointing=False, cleanup_tmp_directories=not read_only,
            create=not read_only, read_only=read_only,
        )  # fmt: skip
        # Orbax refuses relative paths.
        self._manager = checkpoint.CheckpointManager(path.absolute(), options=options)

    def latest(self) -> int | None:
        """The number under which the state in the folder was saved; None without a state."""
        return self._manager.latest_step()

    def save(self, number: int, state: PyTree) -> None:
        """Write a state, and then remove the one before."""
        self._manager.save(number, args=self._args.StandardSave(state))

    def restore(self, like: PyTree) -> PyTree:
        """The state in the folder, with the structure, shapes and dtypes of `like`."""
        return self._manager.restore(self.latest(), args=self._args.StandardRestore(like))
