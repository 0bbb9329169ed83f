"""What the API and the workers of MoMALisa share; imports neither FastAPI nor torch."""

from importlib.metadata import version

__version__ = version("momalisa")
