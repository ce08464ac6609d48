"""What to do about a run that does not resume correctly, by framework."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from batchwright.doctor.records import Run

Cure = tuple[str, Sequence[str]]
"""A sentence in the imperative, and lines to copy."""

_LOOP: Cure = (
    (
        "Save the position of the loader in the checkpoint, and load it before the first batch. A "
        "DataLoader has no position; PlanLoader and torchdata's StatefulDataLoader do. PlanLoader "
        "can also continue with other numbers of workers and ranks."
    ),
    (
        "from batchwright.torch import PlanLoader",
        "loader = PlanLoader(dataset, planner, collate_fn=collate)",
        'checkpoint["loader"] = loader.state_dict()  # where the model is saved',
        'loader.load_state_dict(checkpoint["loader"])  # where it is loaded',
    ),
)

_PLANNED: Cure = (
    (
        "The loader knows its position: save its state_dict() at the end of an update, and load it "
        "before the first batch."
    ),
    (
        'checkpoint["loader"] = loader.state_dict()  # where the model is saved',
        'loader.load_state_dict(checkpoint["loader"])  # where it is loaded',
    ),
)

_CURES: Mapping[str, Cure] = {
    "transformers": (
        (
            "Let use_plan make the batches: it continues at the next sample, also on another "
            "number of ranks. Without it, resume on as many ranks and with the same batch size."
        ),
        (
            "from batchwright.integrations.transformers import use_plan",
            "use_plan(trainer)  # before trainer.train(resume_from_checkpoint=…)",
        ),
    ),
    "lightning": (
        (
            "Give fit a PlanDataModule, or torchdata's StatefulDataLoader: Lightning only saves "
            "the position of loaders that have a state_dict."
        ),
        (
            "from batchwright.integrations.lightning import PlanDataModule",
            "data = PlanDataModule(dataset, planner, collate_fn=collate)",
            "trainer.fit(model, datamodule=data, ckpt_path=path)",
        ),
    ),
    "accelerate": (
        "Register a PlanLoader, so that save_state and load_state include its position.",
        (
            "from batchwright.torch import PlanLoader",
            "loader = PlanLoader(dataset, planner, collate_fn=collate)",
            "accelerator.register_for_checkpointing(loader)",
        ),
    ),
    "keras": (
        (
            "Save at the end of an epoch, and give fit the initial_epoch of the checkpoint: its "
            "loaders have no position within an epoch."
        ),
        ("model.fit(data, initial_epoch=epoch, epochs=epochs)",),
    ),
}

EPOCH: Cure = (
    (
        "Save the number of the epoch, and call set_epoch with it before each epoch, also after "
        "resuming; or save the state of the generator that shuffles."
    ),
    ("loader.set_epoch(epoch)",),
)
"""For an order that is repeated."""

COMPLETE_STATE: Cure = (
    (
        "Load the model, the optimizer, the learning rate schedule and the loss scale from the "
        "checkpoint before the first update."
    ),
    (
        'model.load_state_dict(checkpoint["model"])',
        'optimizer.load_state_dict(checkpoint["optimizer"])',
        'scheduler.load_state_dict(checkpoint["scheduler"])',
    ),
)
"""For a loss that jumps."""


def cure_of(run: Run) -> Cure:
    """Say what to do about a position that is not saved, or not loaded.

    Example:
        >>> cure_of(Run(ranks=()))[1][0]
        'from batchwright.torch import PlanLoader'
    """
    framework = "transformers" if run.framework == "trl" else run.framework
    if framework in _CURES:
        return _CURES[framework]
    loader = run.first.trained if run.first is not None else None
    return _PLANNED if loader is not None and loader.is_planned else _LOOP
