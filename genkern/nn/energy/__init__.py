"""Energy-based and score models: Markov chains, the memory that they start from, and networks of energies."""

from .chains import annealed_langevin, langevin, noise_levels, score_of, tuned_step
from .networks import ConvEnergy, ResidualEnergy
from .replay_buffer import ReplayBuffer

__all__ = [
    "ConvEnergy",
    "ReplayBuffer",
    "ResidualEnergy",
    "annealed_langevin",
    "langevin",
    "noise_levels",
    "score_of",
    "tuned_step",
]
