"""Attention masks that keep the documents of a packed row apart."""

from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

from batchwright.errors import LengthsError


def document_mask(document_ids: Tensor, *, causal: bool = True) -> Tensor:
    """Make the mask for `scaled_dot_product_attention`: a token sees its own document only.

    Every token sees itself, so no row is empty.

    Args:
        document_ids: integer[batch, T], as `PackCollator` makes them (one row: [1, T]).
        causal: Whether a token sees only those before it.

    Returns:
        bool[batch, 1, T, T], true where the query (third) may attend to the key (fourth). T²
        memory: for long rows use `document_block_mask`, or `cu_seq_lens` with a kernel that
        takes them. Attention that *adds* its mask, such as transformers' ``"eager"``, wants 0
        where this is true and minus infinity elsewhere.

    Raises:
        LengthsError: If the ids are not [batch, T].

    Example:
        >>> import torch
        >>> document_mask(torch.tensor([[0, 0, 1]]))[0, 0].int().tolist()
        [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
    """
    _check(document_ids)
    mask = document_ids[:, None, :, None] == document_ids[:, None, None, :]
    return mask.tril() if causal else mask


def document_block_mask(document_ids: Tensor, *, causal: bool = True) -> BlockMask:
    """Make the mask for `flex_attention`: a token sees its own document only.

    Args:
        document_ids: integer[batch, T], as `PackCollator` makes them (one row: [1, T]).
        causal: Whether a token sees only those before it.

    Returns:
        A `BlockMask` for any number of heads, on the device of the ids. While it is made, T²
        bytes are needed, unless the caller compiles this function.

    Raises:
        LengthsError: If the ids are not [batch, T].

    Example:
        >>> import torch
        >>> document_block_mask(torch.tensor([[0, 0, 1]])).shape
        (1, 1, 3, 3)
    """
    _check(document_ids)

    def sees(batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        same = document_ids[batch, query] == document_ids[batch, key]
        return same & (query >= key) if causal else same

    batch, width = document_ids.shape
    device = str(document_ids.device)
    return create_block_mask(sees, batch, None, width, width, device=device)


def _check(document_ids: Tensor) -> None:
    if document_ids.ndim != 2 or document_ids.is_floating_point():
        message = (
            f"document_ids are {document_ids.dtype}{list(document_ids.shape)}, expected integers "
            "[batch, T], as PackCollator makes them."
        )
        raise LengthsError(message)
