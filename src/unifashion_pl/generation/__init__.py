"""Parts of the diffusion model, on diffusers: U-Net, autoencoder, text encoder, schedules. Nothing here knows the Q-Former."""

from unifashion_pl.generation.denoiser import SD1_UNET as SD1_UNET
from unifashion_pl.generation.denoiser import Denoiser as Denoiser
from unifashion_pl.generation.denoiser import UNetLora as UNetLora
from unifashion_pl.generation.garment import GarmentBranch as GarmentBranch
from unifashion_pl.generation.prompts import PromptEncoder as PromptEncoder
from unifashion_pl.generation.samplers import SAMPLERS as SAMPLERS
from unifashion_pl.generation.samplers import build_scheduler as build_scheduler
from unifashion_pl.generation.vae import ImageVAE as ImageVAE
