"""Networks of diffusion and score models: what a noise level enters, beside noisy data."""

from .embedding import TimeEmbedding, timestep_embedding
from .mlp import ResidualMLP
from .preconditioning import EDMPreconditioning
from .unet import UNet

__all__ = ["EDMPreconditioning", "ResidualMLP", "TimeEmbedding", "UNet", "timestep_embedding"]
