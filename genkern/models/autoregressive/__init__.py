"""Autoregressive models of the literature, one file each."""
