"""Tiny pipelines of every family with random weights, made offline in about a second each.

They paint nothing, but they read prompts, are guided and sampled by the code of the real ones.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.tiny_parts import (
    autoencoder,
    clip,
    clip_tokenizer,
    diffusers,
    flow_vae,
    gemma,
    gemma_tokenizer,
    heed_text,
    qwen3,
    qwen_tokenizer,
    t5,
    t5_tokenizer,
    transformers,
    unet,
)

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def stable_diffusion(scheduler: Any = None, size: int = 64, **changes: Any) -> Any:
    """Stable Diffusion 1.5, or what the changes make of it."""
    return diffusers.StableDiffusionPipeline(
        vae=autoencoder(),
        text_encoder=clip(),
        tokenizer=clip_tokenizer(),
        unet=unet(size, **changes),
        scheduler=scheduler or diffusers.PNDMScheduler(**BETAS, skip_prk_steps=True, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def stable_diffusion_2() -> Any:
    """Stable Diffusion 2.1 for 768 pixels, which predicts velocities."""
    scheduler = diffusers.DDIMScheduler(
        **BETAS, prediction_type="v_prediction", clip_sample=False, set_alpha_to_one=False, steps_offset=1
    )
    return stable_diffusion(scheduler, 96, use_linear_projection=True, upcast_attention=True)


def stable_diffusion_xl(scheduler: Any = None, size: int = 128, **vae: Any) -> Any:
    """Stable Diffusion XL, or what the changes make of it."""
    return diffusers.StableDiffusionXLPipeline(
        vae=autoencoder(**{"scaling_factor": 0.13025, "force_upcast": True, **vae}),
        text_encoder=clip(),
        text_encoder_2=clip(transformers.CLIPTextModelWithProjection, "gelu"),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        unet=unet(
            size,
            64,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + 32,
        ),
        scheduler=scheduler
        or diffusers.EulerDiscreteScheduler(**BETAS, timestep_spacing="leading", steps_offset=1),
        force_zeros_for_empty_prompt=True,
    )


def turbo() -> Any:
    """SDXL-Turbo, whose sampler draws noise at each step."""
    return stable_diffusion_xl(
        diffusers.EulerAncestralDiscreteScheduler(**BETAS, timestep_spacing="trailing", steps_offset=1), 64
    )


def lightning() -> Any:
    """SDXL-Lightning."""
    return stable_diffusion_xl(
        diffusers.EulerDiscreteScheduler(**BETAS, timestep_spacing="trailing", steps_offset=1)
    )


def sde() -> Any:
    """Stable Diffusion with the sampler that draws noise in the middle of each step."""
    return stable_diffusion(
        diffusers.DPMSolverMultistepScheduler(**BETAS, algorithm_type="sde-dpmsolver++", steps_offset=1)
    )


def zero_snr() -> Any:
    """A fine-tune of SDXL that starts from pure noise."""
    return stable_diffusion_xl(
        diffusers.EulerDiscreteScheduler(
            **BETAS,
            timestep_spacing="trailing",
            steps_offset=1,
            prediction_type="v_prediction",
            rescale_betas_zero_snr=True,
        )
    )


def playground() -> Any:
    """Playground 2.5."""
    return stable_diffusion_xl(
        diffusers.EDMDPMSolverMultistepScheduler(sigma_min=0.002, sigma_max=80.0, sigma_data=0.5),
        scaling_factor=0.5,
        latents_mean=[-1.6574, 1.886, -1.383, 2.5155],
        latents_std=[8.4927, 5.9022, 6.5498, 5.2299],
    )


def lcm() -> Any:
    """A latent consistency model."""
    return diffusers.LatentConsistencyModelPipeline(
        vae=autoencoder(),
        text_encoder=clip(),
        tokenizer=clip_tokenizer(),
        unet=unet(96, time_cond_proj_dim=32),
        scheduler=diffusers.LCMScheduler(
            **BETAS, original_inference_steps=50, clip_sample=False, set_alpha_to_one=True, steps_offset=0
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def stable_diffusion_3() -> Any:
    """Stable Diffusion 3."""
    torch.manual_seed(6)
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=128,
        patch_size=2,
        in_channels=16,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=64,
        pooled_projection_dim=64,
        out_channels=16,
        pos_embed_max_size=192,
    ).eval()
    return diffusers.StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=flow_vae(),
        text_encoder=clip(transformers.CLIPTextModelWithProjection),
        tokenizer=clip_tokenizer(),
        text_encoder_2=clip(transformers.CLIPTextModelWithProjection),
        tokenizer_2=clip_tokenizer(),
        text_encoder_3=t5(64),
        tokenizer_3=t5_tokenizer(),
    )


def flux(scheduler: Any = None, *, guidance: bool = True) -> Any:
    """FLUX.1 dev."""
    torch.manual_seed(7)
    transformer = diffusers.FluxTransformer2DModel(
        patch_size=1,
        in_channels=64,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=[4, 4, 8],
        guidance_embeds=guidance,
    ).eval()
    return diffusers.FluxPipeline(
        transformer=transformer,
        scheduler=scheduler
        or diffusers.FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, shift=3.0
        ),
        vae=flow_vae(),
        text_encoder=clip(),
        tokenizer=clip_tokenizer(),
        text_encoder_2=t5(),
        tokenizer_2=t5_tokenizer(),
    )


def schnell() -> Any:
    """FLUX.1 schnell, which takes no guidance."""
    return flux(diffusers.FlowMatchEulerDiscreteScheduler(shift=1.0), guidance=False)


def klein(*, distilled: bool = True) -> Any:
    """FLUX.2 klein."""
    torch.manual_seed(8)
    transformer = diffusers.Flux2Transformer2DModel(
        patch_size=1,
        in_channels=128,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=48,
        timestep_guidance_channels=256,
        axes_dims_rope=[4, 4, 4, 4],
        guidance_embeds=False,
    ).eval()
    with torch.no_grad():
        transformer.context_embedder.weight.mul_(20)
    return diffusers.Flux2KleinPipeline(
        transformer=transformer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, shift=3.0, base_shift=0.5, max_shift=1.15
        ),
        vae=autoencoder(32, diffusers.AutoencoderKLFlux2),
        text_encoder=qwen3(transformers.Qwen3ForCausalLM, 28),
        tokenizer=qwen_tokenizer(),
        is_distilled=distilled,
    )


def klein_base() -> Any:
    """FLUX.2 klein before it was distilled, which is guided."""
    return klein(distilled=False)


def sana() -> Any:
    """Sana."""
    torch.manual_seed(12)
    transformer = diffusers.SanaTransformer2DModel(
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=4,
        num_cross_attention_heads=2,
        cross_attention_head_dim=4,
        cross_attention_dim=8,
        caption_channels=8,
        sample_size=32,
    ).eval()
    vae = diffusers.AutoencoderDC(
        in_channels=3,
        latent_channels=4,
        attention_head_dim=2,
        encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=[1, 1],
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
        scaling_factor=0.41407,
    ).eval()
    with torch.no_grad():
        vae.decoder.conv_out.weight.mul_(4)
        transformer.caption_norm.weight.mul_(8)
    return diffusers.SanaPipeline(
        transformer=transformer,
        scheduler=diffusers.DPMSolverMultistepScheduler(
            use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0
        ),
        vae=vae,
        text_encoder=gemma(),
        tokenizer=gemma_tokenizer(),
    )


def pixart(kind: Any = diffusers.PixArtSigmaPipeline) -> Any:
    """PixArt-Σ."""
    torch.manual_seed(13)
    transformer = diffusers.PixArtTransformer2DModel(
        sample_size=128,
        num_layers=2,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=3,
        caption_channels=32,
        in_channels=4,
        cross_attention_dim=24,
        out_channels=8,
        attention_bias=True,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        norm_eps=1e-6,
        use_additional_conditions=False,
    ).eval()
    with torch.no_grad():
        transformer.proj_out.weight.mul_(4)
        heed_text(transformer)
    return kind(
        transformer=transformer,
        scheduler=diffusers.DPMSolverMultistepScheduler(),
        vae=autoencoder(),
        text_encoder=t5(),
        tokenizer=t5_tokenizer(),
    )


def pixart_alpha() -> Any:
    """PixArt-α."""
    return pixart(diffusers.PixArtAlphaPipeline)


def qwen_image() -> Any:
    """Qwen-Image."""
    torch.manual_seed(10)
    transformer = diffusers.QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=64,
        out_channels=16,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=3,
        joint_attention_dim=16,
        guidance_embeds=False,
        axes_dims_rope=(8, 4, 4),
    ).eval()
    vae = diffusers.AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=16,
        dim_mult=[1, 2, 2, 2],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.0] * 16,
        latents_std=[1.0] * 16,
    ).eval()
    with torch.no_grad():
        vae.decoder.conv_out.weight.mul_(8)
        transformer.proj_out.weight.mul_(20)
    torch.manual_seed(16)
    text_encoder = transformers.Qwen2_5_VLForConditionalGeneration(
        transformers.Qwen2_5_VLConfig(
            text_config={
                "hidden_size": 16,
                "intermediate_size": 16,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "num_key_value_heads": 2,
                "vocab_size": 512,
                "rope_scaling": {"mrope_section": [1, 1, 2], "rope_type": "default", "type": "default"},
                "rope_theta": 1000000.0,
            },
            vision_config={
                "depth": 2,
                "hidden_size": 16,
                "intermediate_size": 16,
                "num_heads": 2,
                "out_hidden_size": 16,
            },
        )
    ).eval()
    return diffusers.QwenImagePipeline(
        transformer=transformer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True,
            base_shift=0.5,
            max_shift=0.9,
            shift=1.0,
            shift_terminal=0.02,
            time_shift_type="exponential",
        ),
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=qwen_tokenizer(),
    )


def chroma() -> Any:
    """Chroma."""
    torch.manual_seed(15)
    transformer = diffusers.ChromaTransformer2DModel(
        patch_size=1,
        in_channels=64,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        axes_dims_rope=[4, 4, 8],
        approximator_num_channels=64,
        approximator_hidden_dim=32,
        approximator_layers=1,
    ).eval()
    return diffusers.ChromaPipeline(
        transformer=transformer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=flow_vae(),
        text_encoder=t5(),
        tokenizer=t5_tokenizer(),
    )


MAKERS: dict[str, Callable[[], Any]] = {
    maker.__name__: maker
    for maker in (
        *(stable_diffusion, stable_diffusion_2, stable_diffusion_xl, turbo, lightning, sde, zero_snr, playground),
        *(lcm, stable_diffusion_3, flux, schnell, klein, klein_base, sana, pixart, pixart_alpha),
        *(qwen_image, chroma),
    )
}
"""By the name of what they are like."""


def saved(name: str, folder: Path) -> str:
    """Make a pipeline and save it in a new folder within `folder`; return that as the name of a model."""
    model = folder / name
    MAKERS[name]().save_pretrained(model)
    return str(model)
