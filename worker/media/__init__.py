"""From frames to files: GIF, MP4, WebP, ZIP, stills, and what they say about themselves."""
