"""From prompts and positions to pictures; the only room that imports torch and diffusers."""
