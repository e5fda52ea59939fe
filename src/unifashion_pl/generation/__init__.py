"""Parts of the diffusion model, on diffusers: U-Net, autoencoder, text encoder, schedules. Nothing here knows the Q-Former."""

from unifashion_pl.generation.denoiser import SD1_UNET, Denoiser, UNetLora
from unifashion_pl.generation.garment import GarmentBranch
from unifashion_pl.generation.prompts import PromptEncoder
from unifashion_pl.generation.samplers import SAMPLERS, build_scheduler
from unifashion_pl.generation.vae import ImageVAE

__all__ = ["SAMPLERS", "SD1_UNET", "Denoiser", "GarmentBranch", "ImageVAE", "PromptEncoder", "UNetLora", "build_scheduler"]
