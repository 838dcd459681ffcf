"""Squeeze and unsqueeze in plain PyTorch: the definition that every kernel is compared with."""

from torch import Tensor


def squeeze(x: Tensor, factor: int, layout: str, inverse: bool) -> Tensor:
    batch, channels, height, width = x.shape
    f = factor
    if inverse:
        c = channels // (f * f)
        squares = x.reshape(batch, f, f, c, height, width) if layout == "ordered" else x.reshape(
            batch, c, f, f, height, width).permute(0, 2, 3, 1, 4, 5)  # fmt: skip
        return squares.permute(0, 3, 4, 1, 5, 2).reshape(batch, c, height * f, width * f).contiguous()
    squares = x.reshape(batch, channels, height // f, f, width // f, f)
    order = (0, 3, 5, 1, 2, 4) if layout == "ordered" else (0, 1, 3, 5, 2, 4)
    return squares.permute(order).reshape(batch, channels * f * f, height // f, width // f).contiguous()
