"""From a config to the card of its model: what a checkpoint of the run says beside its weights."""

import yaml
from fvcore.common.config import CfgNode

from mvidx.config import build, data
from mvidx.config.load import ConfigError, parse_config
from mvidx.data.annotations import DataError, numbered_names
from mvidx.models.card import SECTION_MODEL, ModelCard, Preprocessing


def preprocessing_of_config(cfg: CfgNode) -> Preprocessing:
    """What a test of this config makes of a video or image."""
    normalization = data.normalization(cfg, "test")
    shared = {
        "crop": cfg.DATA.TEST_CROP_SIZE,
        "mean": normalization.mean,
        "std": normalization.std,
        "reverse": normalization.reverse,
        "activation": cfg.MODEL.HEAD_ACT,
        "ensemble": cfg.DATA.ENSEMBLE_METHOD,
    }
    if build.takes_images(cfg):
        return Preprocessing(
            crop_ratio=cfg.DATA.IN_VAL_CROP_RATIO, interpolation=data.image_interpolation(cfg), **shared
        )
    clip, num_crops = data.clip_sampling(cfg, "test"), cfg.TEST.NUM_SPATIAL_CROPS
    data.spatial_crops(num_crops)  # a wrong number is told
    return Preprocessing(
        num_frames=clip.num_frames,
        sampling_rate=clip.sampling_rate,
        target_fps=clip.target_fps,
        segments=clip.segments,
        use_offset=clip.use_offset,
        resize=data.test_short_side(cfg, "test", num_crops),
        antialias=cfg.DATA.ANTIALIAS,
        num_views=cfg.TEST.NUM_ENSEMBLE_VIEWS,
        num_crops=num_crops,
        **shared,
    )


def _class_names(cfg: CfgNode) -> tuple[str, ...]:
    """Names of the classes where the data of the config is here and names them, else none."""
    try:
        names = data.class_names(cfg)
    except (ConfigError, DataError):
        return ()
    return () if list(names) == list(numbered_names(len(names))) else tuple(names)


def card_of_config(cfg: CfgNode) -> ModelCard:
    """The card of the model of a config, with the names of its classes where the data is here."""
    name = cfg.MODEL.MODEL_NAME
    arguments = build.mvit_arguments(cfg) if name == SECTION_MODEL else build.named_arguments(cfg)
    return ModelCard(name, arguments, preprocessing_of_config(cfg), _class_names(cfg))


def card_of_text(text: str, where: str) -> ModelCard:
    """The card of a config as checkpoints hold it: YAML, ours or PySlowFast's.

    Raises ConfigError, which names `where`, for one that does not make a model.
    """
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"config in {where} is not YAML: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"config in {where} holds a {type(content).__name__}, expected keys and values")
    return card_of_config(parse_config(content, f"config in {where}"))
