"""Google Cloud Storage, or an emulator of the same API."""
