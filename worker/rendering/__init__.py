"""From prompts and positions to pictures; the only user of torch and diffusers."""
