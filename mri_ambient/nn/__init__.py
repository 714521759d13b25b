"""Networks: a U-Net backbone and the scalings that make a denoiser of it."""
