"""How long are the names in a function, on average? Regression from the bytes of its source."""

import ast, math, pathlib, random, torch
from batchwright.compare import Task
from batchwright.torch import PadCollator
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.out = nn.Embedding(256, 32, padding_idx=0), nn.Linear(64, 1)
        self.conv = nn.Conv1d(32, 64, 7, padding=3)

    def forward(self, tokens):
        real = (tokens != 0)[:, :, None]
        hidden = self.conv(self.embed(tokens).mT).relu().mT * real
        return self.out(hidden.sum(1) / real.sum(1))[:, 0]


def squares(model, batch):
    return (model(batch["tokens"]) - batch["labels"]).square().sum()


def task(*, quick=False):
    samples = []
    for path in sorted(pathlib.Path(ast.__file__).parent.glob("*.py"))[: 40 if quick else None]:
        for node in ast.walk(ast.parse(path.read_bytes())):
            names = [len(name.id) for name in ast.walk(node) if isinstance(name, ast.Name)]
            if isinstance(node, ast.FunctionDef) and names:
                code = torch.tensor(list(ast.unparse(node).encode()[:1500]))
                samples.append({"tokens": code, "labels": math.log(sum(names) / len(names))})
    random.Random(0).shuffle(samples)
    test, train = PadCollator()(samples[:200]), samples[200:]
    print(len(train), "samples; the mean alone:", test["labels"].var().item())
    job = {"model": Net, "optimizer": lambda model: torch.optim.Adam(model.parameters(), 0.005)}
    job |= {"loss_sum": squares, "evaluate": lambda model: squares(model, test).item() / 200}
    job |= {"max_tokens": 6_000, "step_tokens": 12_000, "epochs": 4, "metric": "squared error"}
    job |= {"samples": train, "lengths": [len(sample["tokens"]) for sample in train]}
    return Task(collate=PadCollator(), better="lower", **job)
