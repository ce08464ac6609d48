"""A model's weights and where its data set is, saved together: a killed run goes on from there."""

import json
from pathlib import Path
from typing import Any

import keras

from batchwright._checks import whole_number
from batchwright._files import write_bytes
from batchwright._states import parsed
from batchwright.errors import PlanError
from batchwright.typing import State

_STATE = "position.json"
_WEIGHTS = ".weights.h5"
_FIELDS = {"weights", "state", "accumulate", "seeds"}


class Backup:
    """Keeps the last weights, of the optimizer too, with the state of the data set.

    The state is written after the weights, and names them: whenever the process is killed, the
    last state that was written whole has its weights beside it.
    """

    def __init__(self, folder: str | Path, save_freq: int | str) -> None:
        self.folder = Path(folder)
        self.save_freq: int | None = None
        if save_freq != "epoch":
            self.save_freq = whole_number("callback", "save_freq", save_freq, error=PlanError)

    def state(self) -> State | None:
        """Return the state of the data set that was saved. None: nothing was."""
        saved = self._saved()
        return None if saved is None else saved["state"]

    def restore(self, model: keras.Model, *, is_saver: bool) -> None:
        """Give the model, and its optimizer, the weights that were saved.

        The rank that saved them also goes on with its random numbers.
        """
        saved = self._saved()
        if saved is None:
            return
        before, now = saved["accumulate"], _accumulated(model)
        if before != now:  # Keras counts batches, and adds variables for accumulated gradients
            raise PlanError(
                f"the backup in {self.folder} is of an optimizer with gradient_accumulation_steps="
                f"{before}, whose state Keras cannot give to one with {now}. Go on with {before} "
                "batches for each update and rank, or remove the backup to start over."
            )
        if not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
        model.load_weights(self.folder / saved["weights"])
        for variable, seed in zip(_seeds(model), saved["seeds"] if is_saver else [], strict=False):
            variable.assign(seed)

    def save(self, model: keras.Model, state: State) -> None:
        """Replace what was saved."""
        self.folder.mkdir(parents=True, exist_ok=True)
        before = self._saved()
        is_second = before is not None and before["weights"] == f"a{_WEIGHTS}"
        name = f"{'b' if is_second else 'a'}{_WEIGHTS}"
        model.save_weights(self.folder / name)  # those that the state still names stay whole
        saved = {
            "weights": name,
            "state": state,
            "accumulate": _accumulated(model),
            "seeds": [keras.ops.convert_to_numpy(each).tolist() for each in _seeds(model)],
        }
        write_bytes(self.folder / _STATE, json.dumps(saved).encode(), PlanError)

    def remove(self) -> None:
        """Remove what was saved, and the folder if nothing else is in it."""
        for name in (_STATE, f"a{_WEIGHTS}", f"b{_WEIGHTS}"):
            (self.folder / name).unlink(missing_ok=True)
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _saved(self) -> dict[str, Any] | None:
        path = self.folder / _STATE
        if not path.exists():
            return None
        try:
            saved = parsed(path.read_bytes())
            named = saved["weights"] in {f"a{_WEIGHTS}", f"b{_WEIGHTS}"}
        except (ValueError, TypeError, KeyError):
            named = False
        if not named or saved.keys() != _FIELDS:
            raise PlanError(f"{path} was changed after it was saved. Remove it to start over.")
        return dict(saved)


def _accumulated(model: keras.Model) -> int:
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    return getattr(optimizer, "gradient_accumulation_steps", None) or 1


def _seeds(model: keras.Model) -> list[keras.Variable]:
    """Return the states of random layers, which Keras leaves out of a model's weights."""
    return [each for each in model.variables if each.name == "seed_generator_state"]
