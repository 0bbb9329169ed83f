"""From frames to files: GIF, MP4, WebP, ZIP and stills, with metadata."""
