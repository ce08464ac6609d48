"""Train with Lightning: a data module over the batches of a planner.

    python examples/loops/lightning_trainer.py

Lightning calls `set_epoch`, accumulates, and keeps the position of the loader in its checkpoints.
"""

import lightning
import torch
from byte_model import Net, loss_sum, samples
from torch import Tensor

import batchwright as bw
from batchwright.torch import PadCollator, PlanLoader

EPOCHS = 2


class Planned(lightning.LightningDataModule):
    """The batches of a planner."""

    def __init__(self, dataset: list[dict[str, Tensor]], planner: bw.Planner):
        super().__init__()
        self.dataset, self.planner = dataset, planner

    def train_dataloader(self) -> PlanLoader:
        """Return the loader; the rank comes from torch.distributed."""
        return PlanLoader(self.dataset, self.planner, collate_fn=PadCollator())


class Model(lightning.LightningModule):
    """A model of bytes whose loss is divided by a constant, so that all tokens count the same."""

    def __init__(self, tokens_per_batch: float):
        super().__init__()
        self.net, self.tokens_per_batch = Net(), tokens_per_batch

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        """Return the loss; a mean per batch would give tokens of short batches more weight."""
        total = loss_sum(self.net, batch)
        tokens = batch["labels"].ne(-100).sum()
        self.log("loss", total / tokens, on_step=False, on_epoch=True, batch_size=int(tokens))
        return total / self.tokens_per_batch

    def on_train_epoch_end(self) -> None:
        """Print the mean loss."""
        loss = self.trainer.callback_metrics["loss"]
        print(f"epoch {self.current_epoch}: loss {loss:.3f}")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer."""
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


def main() -> None:
    """Train."""
    lightning.seed_everything(0)
    dataset, lengths = samples()
    planner = bw.Planner(lengths, batching=bw.TokenBudget(4_096), accumulate=2)
    trainer = lightning.Trainer(
        max_epochs=EPOCHS,
        accumulate_grad_batches=planner.accumulate,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    trainer.fit(Model(int(lengths.sum()) / len(planner)), Planned(dataset, planner))


if __name__ == "__main__":
    main()
