"""Train a Transformer to write articles of a dictionary, with Lightning.

Written as its users write it who begin from Lightning's example of a Transformer.
"""

import argparse
import json
import math
from pathlib import Path

import lightning as L
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset
from transformers import AutoTokenizer


class TextDataset(Dataset):
    def __init__(self, path, tokenizer, max_length):
        lines = Path(path).read_text(encoding="utf-8").splitlines()
        texts = [json.loads(line)["text"] for line in lines]
        encoded = tokenizer(texts, truncation=True, max_length=max_length)["input_ids"]
        self.data = [torch.tensor(ids) for ids in encoded]

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        return self.data[index]


class TextDataModule(L.LightningDataModule):
    def __init__(self, args):
        super().__init__()
        self.args = args
        self.tokenizer = AutoTokenizer.from_pretrained(args.tokenizer)

    def setup(self, stage=None):
        length = self.args.max_length
        self.train = TextDataset(self.args.train_file, self.tokenizer, length)
        self.val = TextDataset(self.args.validation_file, self.tokenizer, length)

    def collate(self, samples):
        padded = pad_sequence(samples, batch_first=True, padding_value=self.tokenizer.pad_token_id)
        return padded[:, :-1], padded[:, 1:]

    def train_dataloader(self):
        return DataLoader(
            self.train, batch_size=self.args.batch_size, shuffle=True, collate_fn=self.collate
        )

    def val_dataloader(self):
        return DataLoader(self.val, batch_size=self.args.batch_size, collate_fn=self.collate)


class PositionalEncoding(nn.Module):
    def __init__(self, dim, dropout=0.1, max_len=5000):
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        position = torch.arange(max_len).unsqueeze(1)
        div_term = torch.exp(torch.arange(0, dim, 2) * (-math.log(10000.0) / dim))
        pe = torch.zeros(1, max_len, dim)
        pe[0, :, 0::2] = torch.sin(position * div_term)
        pe[0, :, 1::2] = torch.cos(position * div_term)
        self.register_buffer("pe", pe)

    def forward(self, x):
        return self.dropout(x + self.pe[:, : x.size(1)])


class LanguageModel(L.LightningModule):
    def __init__(self, vocab_size, pad, dim=128, heads=2, layers=2, lr=1e-3):
        super().__init__()
        self.save_hyperparameters()
        self.embedding = nn.Embedding(vocab_size, dim, padding_idx=pad)
        self.pos_encoder = PositionalEncoding(dim)
        layer = nn.TransformerEncoderLayer(dim, heads, 4 * dim, 0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.decoder = nn.Linear(dim, vocab_size)

    def forward(self, inputs):
        mask = nn.Transformer.generate_square_subsequent_mask(inputs.size(1), device=inputs.device)
        x = self.pos_encoder(self.embedding(inputs) * math.sqrt(self.hparams.dim))
        return self.decoder(self.encoder(x, mask=mask, is_causal=True))

    def loss(self, batch):
        inputs, target = batch
        output = self(inputs)
        return F.cross_entropy(
            output.flatten(0, 1), target.flatten(), ignore_index=self.hparams.pad
        )

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(batch), prog_bar=True)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=self.hparams.lr)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--train_file", required=True)
    parser.add_argument("--validation_file", required=True)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--max_length", type=int, default=256)
    parser.add_argument("--max_epochs", type=int, default=2)
    parser.add_argument("--accumulate_grad_batches", type=int, default=4)
    parser.add_argument("--output_dir", default=".")
    args = parser.parse_args()
    L.seed_everything(42)
    datamodule = TextDataModule(args)
    model = LanguageModel(len(datamodule.tokenizer), datamodule.tokenizer.pad_token_id)
    trainer = L.Trainer(
        max_epochs=args.max_epochs,
        accumulate_grad_batches=args.accumulate_grad_batches,
        gradient_clip_val=0.25,
        accelerator="auto",
        logger=False,
        default_root_dir=args.output_dir,
    )
    trainer.fit(model, datamodule=datamodule)


if __name__ == "__main__":
    main()
