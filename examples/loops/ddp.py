"""Train on several ranks with DistributedDataParallel: the same gradient as on one.

    torchrun --nproc-per-node 2 examples/loops/ddp.py

All ranks have the same number of batches, and each token counts the same on every rank.
"""

import torch
import torch.distributed as dist
from byte_model import Net, loss_sum, samples
from torch.nn.parallel import DistributedDataParallel

import batchwright as bw
from batchwright.torch import PadCollator, PlanLoader, Precision, windows

EPOCHS = 2


def main() -> None:
    """Train, and print the loss of each epoch on the first rank."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    device = torch.device("cuda", rank) if torch.cuda.is_available() else torch.device("cpu")
    torch.manual_seed(0)
    dataset, lengths = samples()
    model = DistributedDataParallel(Net().to(device))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    planner = bw.Planner(lengths, batching=bw.TokenBudget(4_096), world_size=world_size)
    # The rank comes from torch.distributed.
    loader = PlanLoader(dataset, planner, collate_fn=PadCollator())
    precision = Precision("fp32")

    for epoch in range(EPOCHS):
        loader.set_epoch(epoch)
        for window in windows(loader):
            with precision.update(model, optimizer, weight=window.tokens) as update:
                for batch in window:
                    on_device = {name: field.to(device) for name, field in batch.items()}
                    update.backward(loss_sum, on_device)
        if rank == 0:
            print(f"epoch {epoch}: loss {update.loss:.3f} in the last update")
    dist.barrier()  # no rank leaves while another may still wait for it


if __name__ == "__main__":
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        main()
    finally:
        dist.destroy_process_group()
