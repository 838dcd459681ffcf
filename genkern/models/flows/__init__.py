"""Normalising flows of the literature, one file each."""
