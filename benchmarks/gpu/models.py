"""The models: a GPT, an encoder-decoder, a vision transformer, over padded rows or shared ones."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu

from benchmarks.gpu.attention import Attend, Kernel, Segments, causal, to_keys, within
from benchmarks.gpu.sizes import Sizes

IGNORED = -100

Batch = dict[str, Any]


class Attention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.queries = nn.Linear(width, width)
        self.keys_and_values = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, over: Tensor, attend: Attend) -> Tensor:
        query = self.queries(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        both = self.keys_and_values(over).unflatten(-1, (2, self.heads, -1))
        key, value = both.permute(2, 0, 3, 1, 4)
        return self.out(attend(query, key, value).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention to itself, to an encoder's output where it is given, and two products."""

    def __init__(self, width: int, heads: int, *, crosses: bool = False):
        super().__init__()
        self.before_self, self.itself = nn.LayerNorm(width), Attention(width, heads)
        self.before_cross = nn.LayerNorm(width) if crosses else None
        self.cross = Attention(width, heads) if crosses else None
        self.before_feed = nn.LayerNorm(width)
        self.feed, self.fed = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(
        self,
        x: Tensor,
        attend: Attend,
        encoded: Tensor | None = None,
        attend_encoded: Attend | None = None,
    ) -> Tensor:
        normed = self.before_self(x)
        x = x + self.itself(normed, normed, attend)
        if self.cross is not None:
            x = x + self.cross(self.before_cross(x), encoded, attend_encoded)
        return x + self.fed(gelu(self.feed(self.before_feed(x))))


class GPT(nn.Module):
    """A causal language model (Radford et al., 2019) whose last product is by its embedding.

    Takes batches of `PadCollator` and of `PackCollator`; `kernel` is for the latter.
    """

    def __init__(self, sizes: Sizes, kernel: Kernel = "dense"):
        super().__init__()
        self.kernel: Kernel = kernel
        self.tokens = nn.Embedding(sizes.vocabulary, sizes.width)
        self.positions = nn.Embedding(sizes.longest, sizes.width)
        blocks = (Block(sizes.width, sizes.heads) for _ in range(sizes.layers))
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(sizes.width)
        nn.init.normal_(self.tokens.weight, std=0.02)
        nn.init.normal_(self.positions.weight, std=0.02)

    def forward(self, batch: Batch) -> Tensor:
        """int64[rows, length] → scores, float[rows, length, vocabulary]."""
        tokens = batch["input_ids"]
        attend: Attend = causal
        if "position_ids" in batch:
            edges, longest = batch["cu_seq_lens_q"], batch["max_length_q"]
            segments = Segments(edges, longest, batch["document_ids"])
            attend = within(segments, self.kernel, causal=True)
            places = self.positions(batch["position_ids"].clamp(max=len(self.positions.weight) - 1))
        else:
            places = self.positions.weight[: tokens.shape[1]]
        x = self.tokens(tokens) + places
        for block in self.blocks:
            x = block(x, attend)
        return self.norm(x) @ self.tokens.weight.T


def text_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Return the *sum* of the loss of each next token."""
    scores, labels = model(batch)[:, :-1], batch["labels"][:, 1:]
    return cross_entropy(
        scores.flatten(0, 1).float(), labels.flatten(), reduction="sum", ignore_index=IGNORED
    )


def next_tokens(batch: Batch) -> float:
    """Count what that sums over."""
    return float((batch["labels"][:, 1:] != IGNORED).sum())


class EncoderDecoder(nn.Module):
    """A translation model (Vaswani et al., 2017), of half the layers on each side."""

    def __init__(self, sizes: Sizes):
        super().__init__()
        half = max(1, sizes.layers // 2)
        self.tokens = nn.Embedding(sizes.vocabulary, sizes.width)
        self.positions = nn.Embedding(sizes.longest, sizes.width)
        self.encoder = nn.ModuleList(Block(sizes.width, sizes.heads) for _ in range(half))
        decoder = (Block(sizes.width, sizes.heads, crosses=True) for _ in range(half))
        self.decoder = nn.ModuleList(decoder)
        self.norm = nn.LayerNorm(sizes.width)
        nn.init.normal_(self.tokens.weight, std=0.02)

    def forward(self, batch: Batch) -> Tensor:
        """Source and target, int64[rows, length] each → scores of the target's next tokens."""
        to_source = to_keys(batch["source"] != 0)
        encoded = self._embedded(batch["source"])
        for block in self.encoder:
            encoded = block(encoded, to_source)
        x = self._embedded(batch["target"])
        for block in self.decoder:
            x = block(x, causal, encoded, to_source)
        return self.norm(x) @ self.tokens.weight.T

    def _embedded(self, tokens: Tensor) -> Tensor:
        return self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]


def pair_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Return the *sum* of the loss of each next token of the target."""
    scores, labels = model(batch)[:, :-1], batch["target"][:, 1:]
    return cross_entropy(
        scores.flatten(0, 1).float(), labels.flatten(), reduction="sum", ignore_index=0
    )


def target_tokens(batch: Batch) -> float:
    """Count what that sums over."""
    return float((batch["target"][:, 1:] != 0).sum())


class VisionTransformer(nn.Module):
    """A classifier of images of any size (Dosovitskiy et al., 2020; Dehghani et al., 2023).

    Takes rows of patches, padded to the longest, or the images of a batch in one row.
    """

    def __init__(self, sizes: Sizes, kernel: Kernel = "dense", classes: int = 10):
        super().__init__()
        self.kernel: Kernel = kernel
        self.patches = nn.Linear(3 * sizes.patch**2, sizes.width)
        places = sizes.longest_side // sizes.patch
        self.down, self.across = (nn.Embedding(places, sizes.width) for _ in range(2))
        blocks = (Block(sizes.width, sizes.heads) for _ in range(sizes.layers))
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(sizes.width)
        self.head = nn.Linear(sizes.width, classes)

    def forward(self, batch: Batch) -> Tensor:
        """Patches, float[rows, length, 3 · patch²] → scores, float[images, classes]."""
        at = batch["coordinates"]
        x = self.patches(batch["patches"]) + self.down(at[..., 0]) + self.across(at[..., 1])
        is_packed = "segment_ids" in batch
        if is_packed:
            segments = Segments(batch["cu_seqlens"], batch["max_seqlen"], batch["segment_ids"])
            attend = within(segments, self.kernel, causal=False)
        else:
            attend = to_keys(batch["real"])
        for block in self.blocks:
            x = block(x, attend)
        x = self.norm(x)
        if not is_packed:
            real = batch["real"][..., None]
            return self.head((x * real).sum(1) / real.sum(1))
        owners, count = batch["segment_ids"][0], len(batch["labels"])
        inside = owners >= 0  # -1 in gaps
        sums = x.new_zeros(count, x.shape[-1]).index_add(0, owners[inside], x[0, inside])
        sizes = torch.bincount(owners[inside], minlength=count)
        return self.head(sums / sizes[:, None])


def image_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Return the *sum* of the loss over images."""
    return cross_entropy(model(batch).float(), batch["labels"], reduction="sum")


def images_of(batch: Batch) -> float:
    """Count what that sums over."""
    return float(len(batch["labels"]))
