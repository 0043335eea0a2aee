"""Keys and values of the sequences in flight: one row a sequence, so that a step of all of them is one call."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Lengths are rounded up to this. Sums over keys are then cut into the same pieces whatever the other rows' lengths are, so a
# row's result is the same, to the bit, alone and in a batch (measured with torch's attention on the CPU: 64 and 128 do not do).
_GRANULE = 256


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The rows `first` to `first + B` of a cache and the positions, shape (B, T), that a forward pass fills in them.

    `length` is the longest row's after the pass. `mask` is additive, shape (B, 1, T, length rounded up): a token sees its own
    row up to its own position. B or T is 1.
    """

    first: int
    positions: Tensor
    length: int
    rows: Tensor
    mask: Tensor

    @classmethod
    def of(cls, first: int, positions: Tensor, dtype: torch.dtype = torch.float32) -> Batch:
        length = int(positions.max()) + 1
        seen = torch.arange(_rounded(length), device=positions.device) <= positions[:, None, :, None]
        mask = torch.zeros(seen.shape, dtype=dtype, device=positions.device).masked_fill_(~seen, torch.finfo(dtype).min)
        rows = torch.arange(first, first + len(positions), device=positions.device)
        return cls(first=first, positions=positions, length=length, rows=rows, mask=mask)


class KVCache:
    """Per layer two tensors of shape (rows, heads, capacity, width), made when a layer is first written."""

    def __init__(self) -> None:
        self._layers: list[tuple[Tensor, Tensor]] = []
        self.rows = 1
        self.capacity = _GRANULE

    @property
    def bytes_per_token(self) -> int:
        return sum(store.shape[1] * store.shape[3] * store.element_size() for pair in self._layers for store in pair)

    def bytes_of(self, rows: int, length: int) -> int:
        """Memory of that many rows with room for `length` tokens."""
        return rows * _rounded(length) * self.bytes_per_token

    def resize(self, rows: int, length: int) -> None:
        """Room for `length` tokens in each of `rows`; what fits stays."""
        capacity = _rounded(length)
        if (rows, capacity) != (self.rows, self.capacity):
            self._layers = [(_resized(keys, rows, capacity), _resized(values, rows, capacity)) for keys, values in self._layers]
            self.rows, self.capacity = rows, capacity

    def stores(self, layers: int, heads: int, width: int, dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
        """All layers' tensors, made where they are not there yet, for a model that writes into them itself."""
        while len(self._layers) < layers:
            shape = self.rows, heads, self.capacity, width
            self._layers.append((torch.zeros(shape, dtype=dtype), torch.zeros(shape, dtype=dtype)))
        return self._layers

    def write(self, layer: int, batch: Batch, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store new keys and values, shape (B, heads, T, width); returns those of the whole rows as far as
        the batch's mask goes."""
        if layer == len(self._layers):
            empty = [new.new_zeros(self.rows, new.shape[1], self.capacity, new.shape[3]) for new in (keys, values)]
            self._layers.append((empty[0], empty[1]))
        for store, new in zip(self._layers[layer], (keys, values), strict=True):
            if new.shape[2] == 1:
                store[batch.rows, :, batch.positions[:, 0]] = new[:, :, 0]
            else:
                store[batch.first, :, batch.length - new.shape[2] : batch.length] = new[0]
        stop = batch.first + len(batch.rows)
        width = batch.mask.shape[-1]
        whole_keys, whole_values = self._layers[layer]
        return whole_keys[batch.first : stop, :, :width], whole_values[batch.first : stop, :, :width]

    def copy(self, source: int, target: int, length: int) -> None:
        for pair in self._layers:
            for store in pair:
                store[target, :, :length] = store[source, :, :length]

    def swap(self, one: int, other: int, length: int) -> None:
        for pair in self._layers:
            for store in pair:
                kept = store[one, :, :length].clone()
                store[one, :, :length] = store[other, :, :length]
                store[other, :, :length] = kept


def _rounded(length: int) -> int:
    return -(-length // _GRANULE) * _GRANULE


def _resized(store: Tensor, rows: int, capacity: int) -> Tensor:
    other = store.new_zeros(rows, store.shape[1], capacity, store.shape[3])
    kept_rows, kept = min(rows, store.shape[0]), min(capacity, store.shape[2])
    other[:kept_rows, :, :kept] = store[:kept_rows, :, :kept]
    return other
