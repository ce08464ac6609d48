"""Train with Lightning, on the batches of a planner.

    python examples/loops/lightning_trainer.py

Lightning accumulates what was planned, and its checkpoints know which samples were seen.
"""

import lightning
import torch
from byte_model import Net, loss_sum, samples
from torch import Tensor

import batchwright as bw
from batchwright.integrations.lightning import PlanDataModule
from batchwright.torch import PadCollator

EPOCHS = 2


class Model(lightning.LightningModule):
    """A model of bytes, in whose updates all tokens count the same."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net()

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        """Return the loss; the mean of a batch would give tokens of short ones more weight."""
        total = loss_sum(self.net, batch)
        tokens = batch["labels"].ne(-100).sum()
        self.log("loss", total / tokens, on_step=False, on_epoch=True, batch_size=int(tokens))
        return self.trainer.datamodule.mean(total)

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
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    data = PlanDataModule(dataset, planner, collate_fn=PadCollator())
    trainer.fit(Model(), datamodule=data)


if __name__ == "__main__":
    main()
