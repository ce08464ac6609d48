"""A plain loop over torchdata's StatefulDataLoader, whose position is saved.

python stateful.py FOLDER [--resume]
"""

import torch
from samples import EPOCHS, SAMPLES, Model, collate, loss_of, options, save
from torchdata.stateful_dataloader import StatefulDataLoader

given = options()
model = Model()
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
loader = StatefulDataLoader(SAMPLES, batch_size=8, shuffle=True, collate_fn=collate)
begin = updates = 0
path = given.folder / "last.pt"
if given.resume:
    state = torch.load(path)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    loader.load_state_dict(state["loader"])
    begin, updates = state["epoch"], state["updates"]
for epoch in range(begin, EPOCHS):
    for batch in loader:
        loss_of(model, batch).backward()
        optimizer.step()
        optimizer.zero_grad()
        updates += 1
        if updates % given.every == 0:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            state |= {"loader": loader.state_dict(), "epoch": epoch, "updates": updates}
            save(state, path)
