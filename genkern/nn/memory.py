"""What a function keeps in memory between its forward and its backward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def bytes_saved(function: Callable[..., Any], *inputs: Any) -> int:
    """Bytes of distinct storages that a forward pass keeps for the backward pass.

    Args:
        function: a module, whose parameters and buffers are not counted, or any function of the inputs.
        inputs: its arguments; floating tensors take part in the graph.

    >>> bytes_saved(nn.Tanh(), torch.zeros(10))
    40
    """
    tensors = [*function.parameters(), *function.buffers()] if isinstance(function, nn.Module) else []
    own = {tensor.untyped_storage().data_ptr() for tensor in tensors}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = function(*map(_in_graph, inputs))
    del outputs  # until here the graph holds what was counted, so that no address comes twice
    return sum(kept.values())


def _in_graph(value: Any) -> Any:
    if not isinstance(value, Tensor) or value.requires_grad or not value.is_floating_point():
        return value
    return value.detach().requires_grad_()
