"""Trainings: what they record, how they end, and that a kill costs them nothing but time."""

import functools
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax_settings import closed_over_arrays_as_arguments
from linear_network import DIM, NUM_CLASSES, SIDE, TwoLayers, two_layers
from store_files import files_of, read_only
from tolerances import rounding

import nc_jax as nc
from nc_jax import cnn, images, metrics, progress, storage
from nc_jax.cnn import evaluation, programs, records, trainer, training
from nc_jax.compilation import cpu_options
from nc_jax.storage.batches import BatchStore

NUM_SAMPLES, NUM_EPOCHS, SAVED = 24, 4, [0, 1, 3, 4]
KEY = jax.random.key(7)


def image_set(seed, side=4, count=NUM_SAMPLES):
    rng = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int32) % NUM_CLASSES
    pixels = rng.normal(size=(count, side, side, 1)) + labels[:, None, None, None]
    return images.ImageSet(pixels.astype(np.float32), labels, ("a", "b", "c"))


DATA, TEST, TINY = image_set(0), image_set(1, count=9), image_set(2, side=SIDE)


def convnet(rngs):
    return cnn.ConvNet(1, NUM_CLASSES, widths=(3,), rngs=rngs)


def augment(key, images):
    return cnn.crop_and_flip(key, images)


def train(path=None, **changes):
    """A convolutional network with momentum and running statistics in its state."""
    options = {
        "network": convnet, "training": DATA, "optimizer": optax.sgd(0.1, 0.9),
        "num_epochs": NUM_EPOCHS, "test": TEST, "batch_size": 7, "weight_decay": 1e-3,
        "augment": augment, "key": KEY, "save_epochs": SAVED,
        "progress": False, "attributes": {"rate": 0.1}, "path": path,
    }  # fmt: skip
    return cnn.train(**(options | changes))


# As changes of these arguments: programs that are compiled in no time.
QUICK = {"network": two_layers, "training": TINY, "test": None, "augment": None}


def a_few(settings, state, data, test, balanced):
    """Observables that are compiled in no time."""
    logits = evaluation.last_layer(settings, state, data).logits()
    value = jnp.mean(settings.loss.value(logits, data.labels))
    margins = metrics.logit_margins(logits, data.labels)
    return {"train_loss": value, "zhu_nc1": value, "margins": margins}, value


@pytest.fixture(scope="module", autouse=True)
def few_observables():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(programs, "record", a_few)
        yield


class Shared:
    """The programs of `train`, compiled once for all trainings here, and how many epochs ran."""

    def __init__(self):
        self.programs, self.epochs = None, 0
        make = trainer.TrainingPrograms

        def shared_programs(*arguments, **options):
            if self.programs is None:
                self.programs = make(*arguments, **options)
                self.programs.epoch = self._counted(self.programs.epoch)
                for name in ("example", "digest"):
                    value = getattr(self.programs, name)()
                    setattr(self.programs, name, lambda value=value: value)
            return self.programs

        self.of = shared_programs

    def _counted(self, epoch):
        def counted(state):
            self.epochs += 1
            return epoch(state)

        return counted


@pytest.fixture(scope="module")
def shared():
    return Shared()


@pytest.fixture
def compiled_once(monkeypatch, shared):
    monkeypatch.setattr(trainer, "TrainingPrograms", shared.of)
    shared.epochs = 0
    return shared


@pytest.fixture(scope="module")
def whole(shared):
    """The training in memory, which nothing stopped."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "TrainingPrograms", shared.of)
        return train()


def assert_same(run, other):
    """To the bit, in all that was recorded and in all that moves."""
    assert set(run.data.variables) == set(other.data.variables)
    for name, variable in other.data.variables.items():
        assert run.data[name].dims == variable.dims
        assert run.data[name].dtype == variable.dtype
        np.testing.assert_array_equal(run.data[name], variable, err_msg=name)
    jax.tree.map(np.testing.assert_array_equal, run.state, other.state)


def test_a_data_set_has_every_measure_over_seed_and_epoch(monkeypatch):
    monkeypatch.setattr(programs, "record", evaluation.record)
    monkeypatch.setattr(trainer, "_run_epochs", lambda *_, **__: None)
    data = train(num_seeds=2).data
    layer = nc.LastLayer(jnp.ones((6, 2)), jnp.ones((3, 2)))
    measures = jax.eval_shape(lambda: metrics.collapse_metrics(layer, np.arange(6) % 3))
    for name in (*measures, "train_loss", "train_accuracy", "test_loss", "test_accuracy"):
        assert data[name].dims == ("seed", "epoch")
        assert np.all(np.isnan(data[name]))
    assert data["margins"].dims == ("seed", "epoch", "sample")
    assert dict(data.sizes) == {"seed": 2, "epoch": len(SAVED), "sample": NUM_SAMPLES}


def test_a_data_set_describes_the_training_and_its_outcome(whole):
    data = whole.data
    np.testing.assert_array_equal(data["seed"], [0])
    np.testing.assert_array_equal(data["epoch"], SAVED)
    np.testing.assert_array_equal(data["result"], [[0] * len(SAVED)])
    assert data["result"].attrs["0"] == ""
    assert all({"long_name", "units"} <= data[name].attrs.keys() for name in data.variables)
    assert all(np.all(np.isfinite(data[name])) for name in data.data_vars)
    assert data["train_loss"][0, -1] < data["train_loss"][0, 0]
    assert data.attrs["rate"] == 0.1
    assert data.attrs["batch_size"] == "7"
    assert data.attrs["version_jax"] == jax.__version__


def test_the_network_of_a_run_is_the_one_that_was_observed_last(whole):
    graph, state = nnx.split(whole.network())
    layer = jax.jit(lambda state: nnx.merge(graph, state)(jnp.asarray(DATA.images), train=False))
    logits = np.array(layer(state).logits())
    mask = np.eye(NUM_CLASSES, dtype=bool)[DATA.labels]
    margins = logits[mask] - np.where(mask, -np.inf, logits).max(axis=1)
    expected = whole.data["margins"][0, -1]
    np.testing.assert_allclose(margins, expected, atol=rounding("float32") * np.max(np.abs(logits)))


def test_saved_epochs_are_even_in_log_by_default(compiled_once):
    run = train(save_epochs=None)
    np.testing.assert_array_equal(run.data["epoch"], nc.log_steps(NUM_EPOCHS, 30))


def test_the_progress_bar_shows_epochs_loss_accuracy_and_nc1(compiled_once, capsys, monkeypatch):
    monkeypatch.setattr(progress, "_FILE_SECONDS", 0.0)  # in a file a minute
    train(progress=True, save_epochs=[1])
    bar = capsys.readouterr().err
    assert "4/4" in bar
    for name in ("loss=", "accuracy=", "NC1="):
        assert name in bar


@pytest.fixture(scope="module")
def finished(tmp_path_factory, shared):
    """The training on disk; not to be changed."""
    path = tmp_path_factory.mktemp("runs") / "finished"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "TrainingPrograms", shared.of)
        return path, train(path)


def test_results_on_disk_are_those_in_memory(compiled_once, finished, whole):
    path, run = finished
    assert_same(run, whole)
    assert run.data.attrs.keys() == whole.data.attrs.keys() | {"program"}
    assert run.data["result"].attrs["0"] == ""
    # Called again, a finished training is read.
    assert_same(train(path), whole)
    assert compiled_once.epochs == 0


def stop_at(call, count, after):
    """A function that is stopped at its call of this number, before or after it does its work."""
    left = [count]

    def stopped(*arguments):
        left[0] -= 1
        if left[0] == 0 and not after:
            raise KeyboardInterrupt
        result = call(*arguments)
        if left[0] == 0:
            raise KeyboardInterrupt
        return result

    return stopped


# The place, the number of its call, before or after its work; whether each epoch leaves a state;
# and how many epochs are left to run.
KILLS = {
    "within a row": (BatchStore, "_array", 6, False, True, 4),
    "between row and state": (records.Records, "checkpoint", 3, False, True, 2),
    "after a state": (records.Records, "checkpoint", 3, True, True, 1),
    "after rows without a state": (records.Records, "write", 4, True, False, 4),
}
MORE_KILLS = {
    "before the first row": (records.Records, "write", 1, False, True, 4),
    "after the first row": (records.Records, "write", 1, True, True, 4),
    "before a row": (records.Records, "write", 3, False, True, 2),
    "before the last state": (records.Records, "checkpoint", 1, False, False, 4),
    "after the last state": (records.Records, "checkpoint", 4, True, True, 0),
}


@pytest.mark.parametrize(
    "kill", [*KILLS, *(pytest.param(kill, marks=pytest.mark.slow) for kill in MORE_KILLS)]
)
def test_a_stopped_training_resumes_to_the_same_bits(
    monkeypatch, tmp_path, compiled_once, whole, kill
):
    place, name, count, after, each, left = (KILLS | MORE_KILLS)[kill]
    monkeypatch.setattr(trainer, "_CHECKPOINT_SECONDS", -1.0 if each else 1e9)
    path = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(place, name, stop_at(getattr(place, name), count, after))
        with pytest.raises(nc.Interrupted, match="is saved; the same call resumes in") as caught:
            train(path)
    done = NUM_EPOCHS - left
    assert ("no epoch" if done == 0 else f"the state after epoch {done}") in str(caught.value)
    compiled_once.epochs = 0
    assert_same(train(path), whole)
    assert compiled_once.epochs == left


def test_a_training_in_memory_that_is_stopped_gives_its_rows(monkeypatch, compiled_once, whole):
    monkeypatch.setattr(records.Records, "write", stop_at(records.Records.write, 3, False))
    with pytest.raises(
        nc.Interrupted, match="the exception's `data` is what was computed"
    ) as caught:
        train()
    part = caught.value.data
    assert part is not None
    np.testing.assert_array_equal(part["result"] != storage.NOT_RUN, [[True, True, False, False]])
    np.testing.assert_array_equal(part["zhu_nc1"][:, :2], whole.data["zhu_nc1"][:, :2])


def test_a_training_stopped_twice_ends_as_an_uninterrupted_one(
    monkeypatch, tmp_path, compiled_once, whole
):
    monkeypatch.setattr(trainer, "_CHECKPOINT_SECONDS", -1.0)
    for _ in range(2):
        with monkeypatch.context() as patch:
            call = stop_at(records.Records.checkpoint, 2, False)
            patch.setattr(records.Records, "checkpoint", call)
            with pytest.raises(KeyboardInterrupt):
                train(tmp_path)
    assert_same(train(tmp_path), whole)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"batch_size": 8}, "batch_size = 7 there, 8 here"),
        ({"weight_decay": 0.5}, "weight_decay = 0.001 there, 0.5 here"),
        ({"attributes": {"rate": 0.2}}, "rate = 0.1 there, 0.2 here"),
        ({"attributes": None}, "rate = 0.1 there, None here"),
        ({"num_epochs": 5}, "num_epochs = 4 there, 5 here"),
        ({"save_epochs": [0, 4]}, "save_epochs = [0, 1, 3, 4] there, [0, 4] here"),
        ({"loss": nc.SquaredError()}, "loss = CrossEntropy() there, SquaredError() here"),
        ({"augment": None}, "augment = augment there, None here"),
        ({"key": jax.random.key(6)}, "key = threefry2x32 [0, 7] there, threefry2x32 [0, 6] here"),
        ({"training": image_set(3)}, "training = float32[24, 4, 4, 1] "),
        ({"test": None}, "there, none here"),
    ],
)
def test_another_training_is_not_resumed(compiled_once, finished, whole, changes, part):
    path, run = finished
    with pytest.raises(ValueError, match="holds another training: ") as error:
        train(path, **changes)
    message = str(error.value)
    assert part in message
    # The key that was changed, and no other.
    assert message.count(" there, ") == 1
    assert "\n" not in message
    assert_same(run, whole)


def test_a_rate_that_no_attribute_names_changes_the_program(monkeypatch, tmp_path):
    """No one can read it from an Optax transformation; the compiler's input has it."""
    monkeypatch.setattr(trainer, "_run_epochs", lambda *_, **__: None)
    train(tmp_path, **QUICK)
    train(tmp_path, **QUICK)
    with pytest.raises(
        ValueError, match=r"another training: program = \w+ there, \w+ here"
    ) as error:
        train(tmp_path, **QUICK, optimizer=optax.sgd(0.2, 0.9))
    assert "\n" not in str(error.value)


def test_an_array_that_a_network_closes_over_changes_the_program(monkeypatch, tmp_path):
    monkeypatch.setattr(trainer, "_run_epochs", lambda *_, **__: None)

    def network(unit):
        class Scaled(TwoLayers):
            def features(self, images, train):
                return super().features(images, train) / unit

        return lambda rngs: Scaled(rngs=rngs)

    quick = {**QUICK, "num_epochs": 1, "save_epochs": [1]}
    one, other = (network(jnp.full(3, unit)[:1]) for unit in (1.0, 2.0))
    with closed_over_arrays_as_arguments(True):
        train(tmp_path, **quick | {"network": one})
        with pytest.raises(ValueError, match="another training: program = "):
            train(tmp_path, **quick | {"network": other})


def test_a_finished_training_is_read_where_nothing_can_be_written(compiled_once, tmp_path, whole):
    path = tmp_path / "run"
    train(path)
    (path / ".results.zarr.nc_jax-lock").unlink()
    before = files_of(path)
    compiled_once.epochs = 0
    with read_only(tmp_path):
        assert_same(train(path), whole)
        with pytest.raises(PermissionError, match="cannot write there"):
            train(tmp_path / "other")
    assert compiled_once.epochs == 0
    assert files_of(path) == before


def test_a_training_starts_anew_where_it_is_asked_to(compiled_once, tmp_path, finished, whole):
    path = tmp_path / "run"
    shutil.copytree(finished[0], path)
    run = train(path, resume=False, attributes={"rate": 0.3})
    assert compiled_once.epochs == NUM_EPOCHS
    assert run.data.attrs["rate"] == 0.3
    assert_same(run, whole)


def test_a_folder_that_is_no_zarr_store_is_not_replaced(compiled_once, tmp_path):
    (tmp_path / "results.zarr").mkdir()
    (tmp_path / "results.zarr" / "notes.txt").write_text("mine")
    for resume in (True, False):
        with pytest.raises(FileExistsError, match="not a Zarr store: give another path") as error:
            train(tmp_path, resume=resume)
        assert "\n" not in str(error.value)
    assert (tmp_path / "results.zarr" / "notes.txt").read_text() == "mine"


def test_other_folders_beside_the_results_are_not_removed(compiled_once, tmp_path):
    """Such as a folder with checkpoints of another program."""
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "best.pt").write_text("mine")
    for resume in (True, False):
        train(tmp_path, resume=resume)
    assert (tmp_path / "checkpoints" / "best.pt").read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} >= {"results.zarr", "results.states"}


def test_a_path_that_another_process_writes_is_refused(compiled_once, finished):
    path, _ = finished
    with (
        storage.writing(path / "results.zarr"),
        pytest.raises(RuntimeError, match="another process is writing there") as error,
    ):
        # Without `resume` a finished training is not read, but replaced.
        train(path, resume=False)
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def alone():
    """Three networks by themselves: their starts, and their states and features after 2 epochs."""
    settings = training.TrainingSettings(
        nnx.graphdef(nnx.eval_shape(lambda: convnet(nnx.Rngs(0)))),
        optax.with_extra_args_support(optax.sgd(0.1, 0.9)), nc.CrossEntropy(), 1e-3, 7, augment,
        NUM_SAMPLES,
    )  # fmt: skip
    data = training.Samples(jnp.asarray(DATA.images), jnp.asarray(DATA.labels))
    begin = functools.partial(training.start, convnet, settings.optimizer)
    # To the bit only where it is compiled alike.
    begin = jax.jit(begin, compiler_options=cpu_options(**programs._COMPILED_FAST))
    epoch = jax.jit(functools.partial(training.epoch, settings, data))
    observe_once = jax.jit(lambda state: a_few(settings, state, data, None, True)[0])
    networks = []
    for i in range(3):
        key = jax.random.fold_in(KEY, i)
        states = [begin(key)]
        for _ in range(2):
            states.append(epoch(states[-1], key)[0])
        networks.append((states[0], states[-1], observe_once(states[-1])))
    return networks


@pytest.mark.parametrize("backend", [pytest.param("cpu", marks=pytest.mark.slow), "gpu"])
def test_each_seed_of_a_training_equals_a_training_of_its_key_alone(monkeypatch, alone, backend):
    """In turn, as on a CPU, and side by side."""
    created, make = [], trainer.TrainingPrograms
    with monkeypatch.context() as patch:
        patch.setattr(
            trainer,
            "TrainingPrograms",
            lambda *arguments, **options: created.append(make(*arguments, **options)) or created[0],
        )
        patch.setattr(jax, "default_backend", lambda: backend)
        run = train(num_seeds=3, num_epochs=2, save_epochs=[2], test=None)
        starts = created[0].start()
    for i, (start, end, observed) in enumerate(alone):
        mine, state = (jax.tree.map(lambda x, i=i: x[i], tree) for tree in (starts, run.state))
        jax.tree.map(np.testing.assert_array_equal, mine, start)
        found = {name: run.data[name][i, 0].values for name in observed}
        for pair in ((found, observed), (state._asdict(), end._asdict())):
            mine, expected = map(jax.tree.leaves, pair)
            for a, b in zip(mine, expected, strict=True):
                # Sums in another order, over the steps of two epochs.
                atol = rounding("float32", 1000) * np.max(np.abs(b))
                np.testing.assert_allclose(a, b, rtol=0, atol=atol)
    assert len(np.unique(run.data["train_loss"])) == 3


def features_by_hand(run):
    """Features, classifier, bias and logits of all training images after the last epoch."""
    params = jax.tree.map(lambda leaf: np.array(leaf[0], np.float64), run.state.params)
    features = TINY.images.reshape(NUM_SAMPLES, -1).astype(np.float64) @ params["kernel"]
    classifier, bias = params["head"]["classifier"], params["head"]["bias"]
    return features, classifier, bias, features @ classifier.T + bias


def test_observe_names_record_exactly_these_measures(monkeypatch):
    monkeypatch.setattr(programs, "record", evaluation.record)
    run = train(**QUICK, observe=("train_accuracy", "margins", "zhu_nc4"))
    assert set(run.data.data_vars) == {"train_accuracy", "margins", "zhu_nc4", "result"}
    assert run.data["margins"].dims == ("seed", "epoch", "sample")
    features, classifier, bias, z = features_by_hand(run)
    mask = np.eye(NUM_CLASSES, dtype=bool)[TINY.labels]
    means = [features[TINY.labels == label].mean(0) for label in range(NUM_CLASSES)]
    expected = {
        "train_accuracy": np.mean(np.argmax(z, axis=1) == TINY.labels),
        "margins": z[mask] - np.where(mask, -np.inf, z).max(axis=1),
        "zhu_nc4": np.linalg.norm(classifier @ np.mean(means, axis=0) + bias),
    }
    for name, value in expected.items():
        atol = rounding("float32", 100) * np.max(np.abs(z))
        np.testing.assert_allclose(run.data[name][0, -1], value, atol=atol, err_msg=name)
    # Whether a seed failed is known without the loss among the names.
    np.testing.assert_array_equal(run.data["result"], [[0] * len(SAVED)])


def test_measures_that_are_not_named_are_not_compiled(monkeypatch):
    monkeypatch.setattr(programs, "record", evaluation.record)
    monkeypatch.setattr(trainer, "_run_epochs", lambda *_, **__: None)
    sizes, make = [], trainer.TrainingPrograms

    def compiled(*arguments, **options):
        created = make(*arguments, **options)
        state = jax.eval_shape(created._begin, created._keys)
        text = created._record.lower(state, created._data, created._test).compile().as_text()
        sizes.append(len(str(text)))
        return created

    monkeypatch.setattr(trainer, "TrainingPrograms", compiled)
    for observe in (None, ("train_accuracy",), lambda layer: {"scale": layer.classifier[0, 0]}):
        train(**QUICK, observe=observe)
    assert max(sizes[1:]) < sizes[0] / 2


def test_a_function_observes_the_last_layer_of_every_seed(monkeypatch):
    monkeypatch.setattr(programs, "record", evaluation.record)

    def observe(layer):
        return {
            "first_row": layer.features[0],
            "largest_logit": jnp.max(layer.logits()),
            "nc4": metrics.collapse_metrics(layer, TINY.labels)["zhu_nc4"],
            "count": layer.features.shape[0],
        }

    options = {**QUICK, "num_seeds": 2, "num_epochs": 2, "save_epochs": [0, 2]}
    run = train(**options, observe=observe)
    assert set(run.data.data_vars) == {"first_row", "largest_logit", "nc4", "count", "result"}
    assert run.data["first_row"].shape == (2, 2, DIM)
    assert run.data["nc4"].dims == ("seed", "epoch")
    assert run.data["nc4"].dtype == np.float64
    named = train(**options, observe=("zhu_nc4",))
    np.testing.assert_allclose(
        run.data["nc4"], named.data["zhu_nc4"], rtol=rounding(operations=100)
    )
    features, _, _, z = features_by_hand(run)
    atol = rounding("float32", 100) * np.max(np.abs(features))
    np.testing.assert_allclose(run.data["first_row"][0, -1], features[0], atol=atol)
    np.testing.assert_allclose(run.data["largest_logit"][0, -1], z.max(), rtol=1e-5)
    assert len(np.unique(run.data["nc4"])) == 4
    np.testing.assert_array_equal(run.data["count"], NUM_SAMPLES)


def test_a_training_resumes_with_the_same_measures_only(monkeypatch, tmp_path):
    monkeypatch.setattr(programs, "record", evaluation.record)
    quick = {**QUICK, "num_epochs": 1, "save_epochs": [1]}
    names = ("train_loss", "margin_min")
    first = train(tmp_path, **quick, observe=names)
    assert_same(train(tmp_path, **quick, observe=list(names)), first)
    for other in (None, ("train_loss",), observe_norm):
        with pytest.raises(ValueError, match=r"observe = .* there, .* here") as error:
            train(tmp_path, **quick, observe=other)
        assert "\n" not in str(error.value)


def observe_norm(layer):
    return {"norm": jnp.linalg.norm(layer.classifier)}


@pytest.mark.parametrize(
    ("observe", "message"),
    [
        (("zhu_nc9",), "observe: 'zhu_nc9' is no measure of this training.* zhu_nc"),
        (("test_loss",), "observe: 'test_loss' is no measure of this training"),
        (lambda layer: layer.bias, "observe returns a .*: return a dict of arrays by name"),
        (lambda layer: {}, "observe returns an empty dict"),
        (lambda layer: {"result": layer.bias}, "observe returns 'result', which the data set"),
    ],
)
def test_invalid_observers_are_refused_in_one_line(monkeypatch, tmp_path, observe, message):
    monkeypatch.setattr(programs, "record", evaluation.record)
    for path in (None, tmp_path / "run"):
        with pytest.raises(ValueError, match=message) as error:
            train(path, **QUICK, observe=observe)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


class Sometimes(TwoLayers):
    """A start that is no number, for a seed in two."""

    def __init__(self, *, rngs):
        super().__init__(rngs=rngs)
        fails = jax.random.bernoulli(rngs.params())
        self.kernel[...] = jnp.where(fails, jnp.nan, self.kernel[...])


def sometimes(rngs):
    return Sometimes(rngs=rngs)


def test_a_seed_that_fails_is_marked_and_does_not_affect_others():
    options = QUICK | {"network": sometimes, "num_epochs": 2, "save_epochs": [0, 2]}
    data = train(**options, num_seeds=6).data
    failed = np.isnan(data["train_loss"].values)
    assert 0 < failed[:, 0].sum() < 6
    np.testing.assert_array_equal(failed[:, 0], failed[:, 1])
    np.testing.assert_array_equal(data["result"] != 0, failed)
    [code] = set(np.unique(data["result"])) - {0}
    assert "nonfinite" in data["result"].attrs[str(code)].lower().replace("-", "")


def test_a_training_that_diverges_stops_with_its_loss_and_epoch():
    part = r"loss = (nan|inf) in epoch [12]: take a smaller learning rate"
    with pytest.raises(RuntimeError, match=part) as error:
        train(**QUICK, optimizer=optax.sgd(1e30), num_epochs=3, save_epochs=[3])
    assert "\n" not in str(error.value)


def test_no_program_calls_back_to_the_host(monkeypatch, tmp_path):
    # JAX stores none that does.
    class Lowered(Exception):
        pass

    def stop(traced):
        raise Lowered("".join(program.lower().as_text() for program in traced))

    monkeypatch.setattr(programs, "digest_of_programs", stop)
    monkeypatch.setattr(programs, "record", evaluation.record)
    with pytest.raises(Lowered) as lowered:
        train(tmp_path / "run")
    assert "callback" not in str(lowered.value)


def test_no_python_runs_for_each_step_nor_for_each_epoch(monkeypatch):
    traces = []
    step = training.step

    def counted(*arguments):
        traces.append(None)
        return step(*arguments)

    monkeypatch.setattr(training, "step", counted)
    train(**QUICK, num_epochs=6, save_epochs=[6])
    # 18 steps.
    assert 1 <= len(traces) <= 3


GRAY = images.ImageSet(DATA.images[..., 0], DATA.labels, DATA.classes)
LARGER = image_set(1, side=5)
FOUR = images.ImageSet(DATA.images, DATA.labels % 4, ("a", "b", "c", "d"))
MISSING = DATA._replace(labels=DATA.labels % 2)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"batch_size": 0}, "batch_size = 0: give an integer >= 1"),
        ({"batch_size": 25}, "batch_size = 25: give an integer from 1 to 24, the samples, or None"),
        ({"num_epochs": 0}, "num_epochs = 0: give an integer >= 1"),
        ({"num_seeds": 0}, "num_seeds = 0: give an integer >= 1"),
        ({"save_epochs": [0, 3, 3]}, r"save_epochs = \[0, 3, 3\]: give increasing integers"),
        ({"save_epochs": [0, 5]}, r"save_epochs = \[0, 5\]: give increasing integers in 0..4"),
        ({"save_epochs": [-1, 2]}, r"save_epochs = \[-1, 2\]: give increasing integers"),
        ({"save_epochs": []}, r"save_epochs = \[\]: give increasing integers"),
        ({"training": GRAY}, r"training: images of shape \(24, 4, 4\); give \(N, H, W, C\)"),
        ({"test": GRAY}, r"test: images of shape \(24, 4, 4\); give \(N, H, W, C\)"),
        ({"test": LARGER}, r"test: images of \(5, 5, 1\), training images are of \(4, 4, 1\)"),
        ({"training": MISSING}, "training: labels: class 2 of 3 has no samples"),
        (
            {"training": DATA._replace(labels=DATA.labels + 1)},
            r"training: labels hold 3 in row 2: give integers in 0\.\.2, .* subtract 1\.",
        ),
        (
            {"test": TEST._replace(labels=TEST.labels + 1)},
            r"test: labels hold 3 in row 2: give integers in 0\.\.2, .* subtract 1\.",
        ),
        (
            {"test": TEST._replace(labels=TEST.labels[:, None])},
            r"test: labels have shape \(9, 1\): .* np\.ravel\(labels\)",
        ),
        (
            {"test": TEST._replace(labels=TEST.labels[:-1])},
            "test: labels have 8 entries for 9 samples",
        ),
        (
            {"training": DATA._replace(labels=DATA.labels.astype(float))},
            r"training: labels have dtype float64: .* labels\.astype\(int\)",
        ),
        (
            {"test": DATA._replace(classes=("c", "b", "a"))},
            r"test: classes \('c', 'b', 'a'\), train",
        ),
        (
            {"training": FOUR, "test": None},
            r"network: has 3 classes, and the images have 4: .*; build it with num_classes",
        ),
        (
            {"attributes": {"loss": "mine"}},
            "attributes: 'loss' is an attribute that train writes; give another",
        ),
        ({"path": __file__}, r"path = .*test_trainer.py: is a file; give a folder"),
        ({"path": "s3://bucket/run"}, "path = 's3://bucket/run': is a URL"),
        ({"weight_decay": -1.0}, "weight_decay = -1.0: give a finite number >= 0"),
    ],
)
def test_arguments_that_make_no_training_are_refused_in_one_line(changes, part):
    with pytest.raises(ValueError, match=part) as error:
        train(**({"network": two_layers} | changes))
    assert "\n" not in str(error.value)


PROGRAM = Path(__file__).parent.with_name("training_process.py")


def start(path):
    # What the first process has compiled serves the others.
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(path.parent / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return subprocess.Popen(
        [sys.executable, str(PROGRAM), str(path)], text=True, env=os.environ | cache,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def finish(process):
    """What it tells of the state it ended with."""
    out, error = process.communicate(timeout=500)
    assert process.returncode == 0, error
    return out.split()[-1]


def written(path):
    results = path / records.RESULTS
    return (
        (storage.load(results)["result"].values != storage.NOT_RUN).sum() if results.exists() else 0
    )


@pytest.mark.slow
def test_kills_at_any_moment_lose_nothing(tmp_path):
    """SIGKILL, some of it in the midst of a row or a state."""
    expected = finish(start(tmp_path / "whole"))
    whole = storage.load(tmp_path / "whole" / records.RESULTS)
    path, random, before = tmp_path / "killed", np.random.default_rng(0), []
    for _ in range(6):
        process = start(path)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(random.uniform(0, 3))
        process.kill()
        process.communicate()
        before.append(written(path))
    assert finish(start(path)) == expected
    found = storage.load(path / records.RESULTS)
    for name in whole.variables:
        np.testing.assert_array_equal(found[name], whole[name], err_msg=name)
    # Else the kills fell before or after the training, and showed nothing.
    assert any(0 < count < whole.sizes["epoch"] for count in before), before
    assert before == sorted(before)
