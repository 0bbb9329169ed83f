"""The recipe of the embedded model, in four steps: pictures, text encoder, autoencoder, denoiser."""
