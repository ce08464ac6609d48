"""A plain loop that saves model and optimizer, but not where the loader is.

python plain.py FOLDER [--resume] [--skip]: it begins its epoch anew, or skips as many batches as it
had taken, of another shuffle.
"""

import torch
from samples import EPOCHS, SAMPLES, Model, collate, loss_of, options, save
from torch.utils.data import DataLoader

given = options("--skip")
model = Model()
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
loader = DataLoader(SAMPLES, batch_size=8, shuffle=True, collate_fn=collate)
begin = taken = updates = 0
path = given.folder / "last.pt"
if given.resume:
    state = torch.load(path)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    begin, taken, updates = state["epoch"], state["taken"], state["updates"]
for epoch in range(begin, EPOCHS):
    for number, batch in enumerate(loader, 1):
        if given.skip and epoch == begin and number <= taken:
            continue
        loss_of(model, batch).backward()
        optimizer.step()
        optimizer.zero_grad()
        updates += 1
        if updates % given.every == 0:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            save({**state, "epoch": epoch, "taken": number, "updates": updates}, path)
