"""From prompts and positions to pictures; the only package that imports torch and diffusers."""
