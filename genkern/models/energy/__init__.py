"""Models that learn noise, scores or energies, and sample by removing noise step by step."""
