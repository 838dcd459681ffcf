"""Variational autoencoders, and autoencoders whose codes are held to a prior by an adversary."""
