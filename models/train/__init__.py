"""Training of the bundled model, in four steps: pictures, text encoder, autoencoder, denoiser."""
