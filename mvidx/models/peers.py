"""Models of pytorchvideo (`ptv_*`) and torchvision (`tv_*`) under the interface of this package, as baselines.

The other library's model is built by its own code and kept as `inner`; its classifier becomes our `head`, so that
logits come without softmax in both modes, and `reset_classifier` works. The libraries are imported when a model is
built. Their checkpoints load under their own names (`from_original`).

Deviations: average pools before a classifier, made for one input size, shrink to a smaller grid. Where such a pool
leaves several positions (a larger test crop), these are averaged before the classifier, not after it: the same
numbers, except that pytorchvideo's X3D takes a softmax of every position in eval mode.
"""

from collections.abc import Callable, Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mvidx.models.base import Backbone
from mvidx.models.registry import register_model

TABLES = ("class_token", "cls_token", "class_pos", "pos_embed", "spatial_pos", "temporal_pos", "rel_pos_", "bias_table")

S3D_FRAMES = 8  # three temporal strides of 2


class FittingPool(nn.AvgPool3d):
    """An average pool whose kernel shrinks to a grid that is smaller."""

    def forward(self, x: Tensor) -> Tensor:  # (B, C, T, H, W) -> (B, C, T', H', W')
        kernel = (self.kernel_size,) * 3 if isinstance(self.kernel_size, int) else self.kernel_size
        kernel = tuple(min(k, n) for k, n in zip(kernel, x.shape[2:], strict=True))
        return F.avg_pool3d(x, kernel, self.stride, self.padding)


class OnPathways(nn.Module):
    """Calls a stage of several pathways with a list of its own: pytorchvideo's stages write into it."""

    def __init__(self, stage: nn.Module):
        super().__init__()
        self.stage = stage

    def forward(self, *pathways: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.stage(list(pathways)))


class Peer(Backbone):
    """Another library's video model, with our head.

    Args:
        inner: the model, built with at least one class.
        classifier: name of its last Linear or 1x1x1 convolution.
        stages: names of the parts that run in turn, each a layer of `layer_groups`.
        after: names of the parts with parameters between the stages and the classifier.
        library: "pytorchvideo" or "torchvision".
        input_size: (T, H, W) of the default clip.
        num_classes: width of the logits.
        head_drop_rate: dropout before our head, for a model that has none itself.
        frames_multiple: what the number of frames must be a multiple of.
        fewest_frames: what the temporal strides leave a frame of.
    """

    feature_info: list[dict] = []

    def __init__(
        self,
        inner: nn.Module,
        *,
        classifier: str,
        stages: list[str],
        after: tuple[str, ...] = (),
        library: str,
        input_size: tuple[int, int, int],
        num_classes: int,
        head_drop_rate: float = 0.0,
        frames_multiple: int = 1,
        fewest_frames: int = 1,
    ):
        last = inner.get_submodule(classifier)
        super().__init__(
            ndim=3,
            in_chans=3,
            input_size=input_size,
            num_classes=num_classes,
            num_features=last.weight.shape[1],
            head_drop_rate=head_drop_rate,
        )
        if num_classes:
            with torch.no_grad():
                self.head.weight.copy_(last.weight.flatten(1))
                self.head.bias.copy_(last.bias)
        inner.set_submodule(classifier, nn.Identity())
        for name, module in list(inner.named_modules()):
            if type(module) is nn.AvgPool3d:
                pool = FittingPool(module.kernel_size, module.stride, module.padding)
                inner.set_submodule(name, pool)
        self.inner = inner
        self.classifier = classifier
        self.stage_names = stages
        self.after = after
        self.library = library
        self.frames_multiple = frames_multiple
        self.fewest_frames = fewest_frames

    def stages(self) -> Iterator[nn.Module]:
        """The parts of the model that run in turn."""
        return (self.inner.get_submodule(name) for name in self.stage_names)

    def check_input(self, x: Tensor) -> None:
        super().check_input(x)
        if x.shape[2] % self.frames_multiple:
            raise ValueError(
                f"{type(self.inner).__name__} got {x.shape[2]} frames, expected a multiple of {self.frames_multiple}"
            )

        if x.shape[2] < self.fewest_frames:
            raise ValueError(
                f"{type(self.inner).__name__} got {x.shape[2]} frames, expected {self.fewest_frames} or more"
            )

    def from_original(self, state: Mapping[str, Tensor]) -> tuple[str, dict[str, Tensor]] | None:
        """Name of the library and the state under our names, for a state under the library's names; else None."""
        if any(name.startswith("inner.") for name in state):
            return None
        prefix = f"{self.classifier}."
        named = {
            f"head.{name.removeprefix(prefix)}" if name.startswith(prefix) else f"inner.{name}": value
            for name, value in state.items()
        }
        if "head.weight" in named:  # S3D's is a 1x1x1 convolution
            named["head.weight"] = named["head.weight"].flatten(1)
        return self.library, named

    def no_weight_decay(self) -> set[str]:
        return {name for name, _ in self.named_parameters() if any(table in name for table in TABLES)}

    def layer_groups(self) -> Iterator[tuple[str, int]]:
        depth = 0
        for name in self.stage_names:
            if next(self.inner.get_submodule(name).parameters(), None) is not None:
                yield f"inner.{name}", depth
                depth += 1
        for name in self.after:
            yield f"inner.{name}", depth
        yield "head", depth

    def _run(self, x: Tensor) -> Tensor:
        """(B, 3, T, H, W) -> what comes out of the last stage."""
        self.check_input(x)
        for stage in self.stages():
            x = self.run_block(stage, x)
        return x

    def forward_features(self, x: Tensor) -> Tensor:
        return self._run(x).movedim(1, -1)


class PtvNet(Peer):
    """pytorchvideo's networks that are a list of blocks, the last one the head."""

    def forward_embedding(self, x: Tensor) -> Tensor:
        return self.inner.blocks[-1](self._run(x))


class PtvSlowFast(Peer):
    """pytorchvideo's SlowFast; both pathways are made of one clip, the slow one of every fourth frame."""

    ALPHA = 4

    def _pathways(self, x: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, T, H, W) -> (B, C, T / 4, H', W'), (B, C', T, H', W')."""
        self.check_input(x)
        frames = x.shape[2]
        kept = torch.linspace(0, frames - 1, frames // self.ALPHA, device=x.device).long()
        pathways = (x.index_select(2, kept), x)
        for stage in self.stages():
            pathways = self.run_block(OnPathways(stage), *pathways)
        return pathways

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, T / 4, H', W', C + C'): the fast pathway as the mean of four frames."""
        slow, fast = self._pathways(x)
        fast = fast.unflatten(2, (slow.shape[2], -1)).mean(3)
        return torch.cat([slow, fast], dim=1).movedim(1, -1)

    def forward_embedding(self, x: Tensor) -> Tensor:
        pool, head = self.inner.blocks[-2:]
        return head(pool(list(self._pathways(x))))


class TokenPeer(Peer):
    """The MViTs of both libraries: tokens in a row, a class token first, and the size of their grid beside them."""

    def check_input(self, x: Tensor) -> None:
        super().check_input(x)
        if self.fixed_size and tuple(x.shape[2:]) != self.input_size:
            raise ValueError(
                f"{type(self.inner).__name__} of {self.library} got a clip of {tuple(x.shape[2:])} (T, H, W), expected "
                f"{self.input_size}: its position tables have one size"
            )

    def _encode(self, x: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        """(B, 3, T, H, W) -> normed tokens (B, 1 + N, C), and (T', H', W') with N positions."""
        self.check_input(x)
        tokens, size = self._embed(x)
        for stage in self.stages():
            tokens, size = self.run_block(stage, tokens, size)
        return self._norm(tokens), tuple(size)

    def forward_features(self, x: Tensor) -> Tensor:
        tokens, size = self._encode(x)
        return tokens[:, 1:].unflatten(1, size)

    def layer_groups(self) -> Iterator[tuple[str, int]]:
        for name in self.first:
            yield f"inner.{name}", 0
        for depth, name in enumerate(self.stage_names, start=1):
            yield f"inner.{name}", depth
        for name in (*(f"inner.{part}" for part in self.after), "head"):
            yield name, len(self.stage_names) + 1


class PtvMViT(TokenPeer):
    """pytorchvideo's MViT."""

    first = ("patch_embed", "cls_positional_encoding")
    fixed_size = True

    def _embed(self, x: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        inner = self.inner
        tokens = inner.cls_positional_encoding(inner.patch_embed(x))
        if inner.pos_drop is not None:
            tokens = inner.pos_drop(tokens)
        return tokens, inner.cls_positional_encoding.patch_embed_shape

    def _norm(self, tokens: Tensor) -> Tensor:
        return self.inner.norm_embed(tokens)

    def forward_embedding(self, x: Tensor) -> Tensor:
        return self.inner.head(self._encode(x)[0])


class TvMViT(TokenPeer):
    """torchvision's MViTs. Version 2 has relative positions alone, which it interpolates: it takes any size."""

    first = ("conv_proj", "pos_encoding")

    @property
    def fixed_size(self) -> bool:
        return getattr(self.inner.pos_encoding, "spatial_pos", None) is not None

    def _embed(self, x: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        grid = self.inner.conv_proj(x)
        return self.inner.pos_encoding(grid.flatten(2).transpose(1, 2)), tuple(grid.shape[2:])

    def _norm(self, tokens: Tensor) -> Tensor:
        return self.inner.norm(tokens)

    def forward_embedding(self, x: Tensor) -> Tensor:
        return self.inner.head(self._encode(x)[0][:, 0])


class TvResNet(Peer):
    """torchvision's r3d_18, mc3_18 and r2plus1d_18."""

    def forward_embedding(self, x: Tensor) -> Tensor:
        return self.inner.avgpool(self._run(x)).flatten(1)


class TvS3d(Peer):
    """torchvision's S3D."""

    def forward_embedding(self, x: Tensor) -> Tensor:
        return self.inner.classifier(self.inner.avgpool(self._run(x))).mean((2, 3, 4))


class TvSwin(Peer):
    """torchvision's Video Swin Transformers, whose grids are channels-last already."""

    def forward_features(self, x: Tensor) -> Tensor:
        return self.inner.norm(self._run(x))

    def forward_embedding(self, x: Tensor) -> Tensor:
        return self.forward_features(x).flatten(1, -2).mean(1)


def _clip_size(frames: int, img_size: int | tuple[int, int], at_least: int = 32) -> tuple[int, int, int]:
    """(T, H, W). Raises ValueError for no frames, or a side below `at_least`."""
    height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
    if frames < 1:
        raise ValueError(f"frames={frames}, expected 1 or more")
    if min(height, width) < at_least:
        raise ValueError(f"img_size={(height, width)} is too small, expected at least {at_least}")
    return frames, height, width


def ptv_net(
    *,
    hub: str,
    num_classes: int = 400,
    img_size: int | tuple[int, int] = 224,
    frames: int = 8,
    head_drop_rate: float = 0.5,
) -> PtvNet:
    """A ResNet, X3D, CSN or R(2+1)D of pytorchvideo's hub.

    Args:
        hub: name of its builder.
        num_classes: width of the logits.
        img_size, frames: of the default clip; any other works too.
        head_drop_rate: dropout before the classifier.
    """
    from pytorchvideo.models import hub as builders

    size = _clip_size(frames, img_size)
    arguments = {"model_num_class": max(num_classes, 1), "dropout_rate": head_drop_rate}
    if hub.startswith("x3d"):
        arguments["head_activation"] = None
    if hub.startswith("r2plus1d"):  # its builder fixes the dropout
        del arguments["dropout_rate"]
    inner = getattr(builders, hub)(**arguments)
    blocks = len(inner.blocks)
    if hub.startswith("r2plus1d"):
        inner.blocks[-1].dropout.p = head_drop_rate
    return PtvNet(
        inner,
        classifier=f"blocks.{blocks - 1}.proj",
        stages=[f"blocks.{i}" for i in range(blocks - 1)],
        after=(f"blocks.{blocks - 1}",) if hub.startswith("x3d") else (),  # convolutions
        library="pytorchvideo",
        input_size=size,
        num_classes=num_classes,
    )


def ptv_slowfast(
    *,
    hub: str,
    num_classes: int = 400,
    img_size: int | tuple[int, int] = 224,
    frames: int = 32,
    head_drop_rate: float = 0.5,
) -> PtvSlowFast:
    """A SlowFast of pytorchvideo's hub; arguments as in `ptv_net`, frames a multiple of 4."""
    from pytorchvideo.models import hub as builders

    size = _clip_size(frames, img_size)
    if frames % PtvSlowFast.ALPHA:
        raise ValueError(f"frames={frames}, SlowFast expects a multiple of {PtvSlowFast.ALPHA}")
    inner = getattr(builders, hub)(model_num_class=max(num_classes, 1), dropout_rate=head_drop_rate)
    blocks = len(inner.blocks)
    return PtvSlowFast(
        inner,
        classifier=f"blocks.{blocks - 1}.proj",
        stages=[f"blocks.{i}" for i in range(blocks - 2)],
        library="pytorchvideo",
        input_size=size,
        num_classes=num_classes,
        frames_multiple=PtvSlowFast.ALPHA,
    )


def ptv_mvit(
    *,
    hub: str,
    num_classes: int = 400,
    img_size: int | tuple[int, int] = 224,
    frames: int = 16,
    head_drop_rate: float = 0.5,
    drop_path_rate: float = 0.0,
) -> PtvMViT:
    """An MViT of pytorchvideo's hub: img_size and frames are what its position tables are made for."""
    from pytorchvideo.models import hub as builders

    size = _clip_size(frames, img_size)
    with torch.device("cpu"):  # its builder computes with tensors, which the meta device can't
        inner = getattr(builders, hub)(
            spatial_size=size[1:],
            temporal_size=frames,
            head_num_classes=max(num_classes, 1),
            head_dropout_rate=head_drop_rate,
            droppath_rate_block=drop_path_rate,
        )
    inner = inner.to(torch.get_default_device())
    return PtvMViT(
        inner,
        classifier="head.proj",
        after=("norm_embed",),
        stages=[f"blocks.{i}" for i in range(len(inner.blocks))],
        library="pytorchvideo",
        input_size=size,
        num_classes=num_classes,
    )


def _torchvision(builder: str, num_classes: int, **arguments) -> nn.Module:
    from torchvision.models import video

    return getattr(video, builder)(weights=None, num_classes=max(num_classes, 1), **arguments)


def tv_resnet(
    *,
    builder: str,
    num_classes: int = 400,
    img_size: int | tuple[int, int] = 112,
    frames: int = 16,
    head_drop_rate: float = 0.0,
) -> TvResNet:
    """A ResNet of torchvision; any clip size works."""
    return TvResNet(
        _torchvision(builder, num_classes),
        classifier="fc",
        stages=["stem", "layer1", "layer2", "layer3", "layer4"],
        library="torchvision",
        input_size=_clip_size(frames, img_size, 16),
        num_classes=num_classes,
        head_drop_rate=head_drop_rate,
    )


def tv_s3d(
    *,
    num_classes: int = 400,
    img_size: int | tuple[int, int] = 224,
    frames: int = 16,
    head_drop_rate: float = 0.2,
) -> TvS3d:
    """torchvision's S3D; any clip size works, also those that torchvision's pool is too large for."""
    if frames < S3D_FRAMES:
        raise ValueError(f"frames={frames}, S3D expects {S3D_FRAMES} or more")
    inner = _torchvision("s3d", num_classes, dropout=head_drop_rate)
    return TvS3d(
        inner,
        classifier="classifier.1",
        stages=[f"features.{i}" for i in range(len(inner.features))],
        library="torchvision",
        input_size=_clip_size(frames, img_size),
        num_classes=num_classes,
        fewest_frames=S3D_FRAMES,
    )


def tv_swin(
    *,
    builder: str,
    num_classes: int = 400,
    img_size: int | tuple[int, int] = 224,
    frames: int = 32,
    head_drop_rate: float = 0.0,
) -> TvSwin:
    """A Video Swin Transformer of torchvision; any clip size works."""
    inner = _torchvision(builder, num_classes)
    return TvSwin(
        inner,
        classifier="head",
        after=("norm",),
        stages=["patch_embed", "pos_drop", *(f"features.{i}" for i in range(len(inner.features)))],
        library="torchvision",
        input_size=_clip_size(frames, img_size),
        num_classes=num_classes,
        head_drop_rate=head_drop_rate,
    )


def tv_mvit(
    *,
    builder: str,
    num_classes: int = 400,
    img_size: int | tuple[int, int] = 224,
    frames: int = 16,
    head_drop_rate: float = 0.5,
    drop_path_rate: float = 0.2,
) -> TvMViT:
    """An MViT of torchvision. Version 1 exists for clips of 16x224x224 alone."""
    size = _clip_size(frames, img_size)
    if builder == "mvit_v1_b" and size != (16, 224, 224):
        raise ValueError(f"mvit_v1_b of torchvision has tables for clips of (16, 224, 224), got {size} (T, H, W)")
    inner = _torchvision(builder, num_classes, dropout=head_drop_rate, stochastic_depth_prob=drop_path_rate)
    return TvMViT(
        inner,
        classifier="head.1",
        after=("norm",),
        stages=[f"blocks.{i}" for i in range(len(inner.blocks))],
        library="torchvision",
        input_size=size,
        num_classes=num_classes,
    )


X3D_SIZES = {"x3d_xs": (4, 160, 160), "x3d_s": (13, 160, 160), "x3d_m": (16, 224, 224), "x3d_l": (16, 312, 312)}


def _register_peers() -> None:
    def register(name: str, build: Callable[..., Peer], **arguments) -> None:
        register_model(name, build, video=True, **{"num_classes": 400, **arguments})

    for hub, (frames, side, _) in X3D_SIZES.items():
        register(f"ptv_{hub}", ptv_net, hub=hub, frames=frames, img_size=side, head_drop_rate=0.5)
    for hub, frames, drop in (
        ("slow_r50", 8, 0.5),
        ("c2d_r50", 8, 0.5),
        ("i3d_r50", 8, 0.5),
        ("r2plus1d_r50", 16, 0.5),
        ("csn_r101", 32, 0.0),
    ):
        register(f"ptv_{hub}", ptv_net, hub=hub, frames=frames, img_size=224, head_drop_rate=drop)
    for hub, frames in (("slowfast_r50", 32), ("slowfast_r101", 32), ("slowfast_16x8_r101_50_50", 64)):
        register(f"ptv_{hub}", ptv_slowfast, hub=hub, frames=frames, img_size=224)
    for name, frames in (("16x4", 16), ("32x3", 32)):
        register(f"ptv_mvit_b_{name}", ptv_mvit, hub=f"mvit_base_{name}", frames=frames, img_size=224)
    for builder in ("r3d_18", "mc3_18", "r2plus1d_18"):
        register(f"tv_{builder}", tv_resnet, builder=builder)
    register("tv_s3d", tv_s3d)
    for builder in ("swin3d_t", "swin3d_s", "swin3d_b"):
        register(f"tv_{builder}", tv_swin, builder=builder)
    for builder in ("mvit_v1_b", "mvit_v2_s"):
        register(f"tv_{builder}", tv_mvit, builder=builder)


_register_peers()
