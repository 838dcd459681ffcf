"""Causal layers, and sampling from what is made of them."""

from .sampling import jacobi, naive

__all__ = ["jacobi", "naive"]
