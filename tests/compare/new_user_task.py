import ast, math, random, sysconfig
from pathlib import Path
import torch
from torch import nn
from torch.nn.functional import mse_loss
from batchwright.compare import Task
from batchwright.torch import PadCollator

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.conv = nn.Embedding(256, 32), nn.Conv1d(32, 64, 5, padding=2)
        self.out = nn.Linear(64, 1)

    def forward(self, tokens):
        real = (tokens != 0)[:, :, None]
        x = (self.embed(tokens) * real).transpose(1, 2)
        x = torch.relu(self.conv(x)).transpose(1, 2) * real
        return self.out(x.sum(1) / real.sum(1))[:, 0]

def loss_sum(model, batch):
    return mse_loss(model(batch["tokens"]), batch["labels"], reduction="sum")

def task(*, quick=False):
    samples = []
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))[: 40 if quick else None]:
        text = path.read_text("utf-8")
        for f in (n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef)):
            names = [len(n.id) for n in ast.walk(f) if isinstance(n, ast.Name)]
            if names:
                code = torch.tensor(list(ast.get_source_segment(text, f).encode()[:800]))
                samples.append({"tokens": code, "labels": math.log(sum(names) / len(names))})
    random.Random(0).shuffle(samples)
    train, batch = samples[200:], PadCollator()(samples[:200])
    return Task(
        samples=train, lengths=[len(s["tokens"]) for s in train], collate=PadCollator(),
        model=Model, optimizer=lambda m: torch.optim.AdamW(m.parameters(), lr=3e-3),
        loss_sum=loss_sum, evaluate=lambda m: float(loss_sum(m, batch)) / 200,
        max_tokens=4096, step_tokens=16384, epochs=3, metric="validation MSE", better="lower",
    )
