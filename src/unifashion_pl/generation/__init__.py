"""Parts of the diffusion model, on diffusers: U-Net, autoencoder, text encoder, schedules."""

from unifashion_pl.generation.denoiser import Denoiser
from unifashion_pl.generation.prompts import PromptEncoder
from unifashion_pl.generation.schedules import SAMPLERS, build_scheduler, training_schedule
from unifashion_pl.generation.vae import ImageVAE

__all__ = ["SAMPLERS", "Denoiser", "ImageVAE", "PromptEncoder", "build_scheduler", "training_schedule"]
