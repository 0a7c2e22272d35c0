"""ConvNets with MixFormer's mixing block (arXiv 2204.02557, table 12): ResNet-50 and MobileNetV2, for images.

The paper gives 3.9G and 0.3G multiply-accumulates for them and no code, and leaves open how the block is fitted
in. This is our reading, the simplest that has those numbers:

- ResNet-50 (arXiv 1512.03385): the 3x3 convolution of all 16 bottlenecks becomes a whole mixing block, mixer and
  MLP, of the bottleneck's width. The MLP has ratio 2: ratio 4 would make 4.7G, no MLP 3.1G. Where the convolution
  had a stride of 2, a 2x2 mean before the block has it. 3.92G.
- MobileNetV2 (arXiv 1801.04381): in the ten blocks with a residual, the mixer takes the depthwise convolution's
  place, but before the expansion: among the expanded channels it would make more than 2G. The two pointwise
  convolutions are then the MLP that the mixing block has, and have its ratio of 4; with MobileNetV2's 6 it would
  be 0.35G. Blocks that change the grid or its width stay as they are. 0.30G.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from mvidx.layers.drop import drop_path, drop_path_rates
from mvidx.layers.nd import avg_pool, batch_norm_nd, conv_nd, max_pool, on_grid, to_channels_first, to_grid
from mvidx.mixers.mixing import Mixing
from mvidx.models.base import init_linear
from mvidx.models.metaformer import ConvEmbed, MetaFormer, MetaFormerBlock, Stage, check_stages, input_geometry
from mvidx.models.registry import register_model

WINDOW, KERNEL = (7, 7), (3, 3)


def mixing(channels: int) -> Mixing:
    """A mixing block's mixer with heads of 8 channels, or of 4 where 8 do not divide half the width."""
    half = channels // 2
    return Mixing(channels, num_heads=half // (8 if half % 8 == 0 else 4), window=WINDOW, kernel=KERNEL)


class Pointwise(nn.Module):
    """A 1x1 convolution, as a Linear, and BatchNorm."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.linear = nn.Linear(in_channels, out_channels, bias=False)
        self.norm = batch_norm_nd(out_channels, 2)

    def forward(self, grid: Tensor) -> Tensor:  # (B, H, W, in) -> (B, H, W, out)
        return on_grid(self.norm, self.linear(grid))


class MixingBottleneck(nn.Module):
    """ResNet's bottleneck with a mixing block inside.

    Args:
        in_channels, width, out_channels: before, inside and after.
        stride: 1 or 2, of the grid.
        mlp_ratio: of the mixing block's MLP.
        drop_path_rate: stochastic depth of the residual branch.
    """

    def __init__(
        self, in_channels: int, width: int, out_channels: int, *, stride: int, mlp_ratio: float, drop_path_rate: float
    ):
        super().__init__()
        self.stride = (stride, stride)
        self.reduce = Pointwise(in_channels, width)
        self.block = MetaFormerBlock(width, mixing(width), norm=nn.LayerNorm, mlp_ratio=mlp_ratio)
        self.expand = Pointwise(width, out_channels)
        self.skip = Pointwise(in_channels, out_channels) if stride > 1 or in_channels != out_channels else None
        self.drop_path = drop_path(drop_path_rate)

    def forward(self, grid: Tensor) -> Tensor:  # (B, H, W, in) -> (B, H / stride, W / stride, out), rounded up
        x = F.relu(self.reduce(grid))
        if max(self.stride) > 1:
            x = avg_pool(x, self.stride, self.stride, (0, 0))
            grid = grid[:, :: self.stride[0], :: self.stride[1]]  # what a strided 1x1 convolution reads
        skip = grid if self.skip is None else self.skip(grid)
        return F.relu(skip + self.drop_path(self.expand(F.relu(self.block(x)))))


class InvertedResidual(nn.Module):
    """MobileNetV2's block: with a mixer before the expansion where it has a residual, else as published.

    Args:
        in_channels, out_channels: before and after.
        stride: 1 or 2, of the grid.
        expansion: hidden width over `in_channels`.
        drop_path_rate: stochastic depth of the residual branch.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, expansion: int, drop_path_rate: float):
        super().__init__()
        hidden = in_channels * expansion
        self.residual = stride == 1 and in_channels == out_channels
        self.mixer = mixing(in_channels) if self.residual else None
        self.expand = Pointwise(in_channels, hidden) if expansion > 1 else None
        self.conv = None if self.residual else conv_nd(hidden, hidden, KERNEL, stride=stride, groups=hidden, bias=False)
        self.conv_norm = None if self.residual else batch_norm_nd(hidden, 2)
        self.project = Pointwise(hidden, out_channels)
        self.drop_path = drop_path(drop_path_rate)

    def forward(self, grid: Tensor) -> Tensor:  # (B, H, W, in) -> (B, H / stride, W / stride, out), rounded up
        x = grid if self.mixer is None else self.mixer(grid)
        if self.expand is not None:
            x = F.relu6(self.expand(x))
        if self.conv is not None:
            x = F.relu6(to_grid(self.conv_norm(self.conv(to_channels_first(x)))))
        x = self.project(x)
        return grid + self.drop_path(x) if self.residual else x


class ResNetStem(nn.Module):
    """7x7 convolution and 3x3 max pool, each with stride 2."""

    def __init__(self, in_chans: int, channels: int):
        super().__init__()
        self.embed = ConvEmbed(in_chans, channels, kernel=(7, 7), stride=(2, 2), norm=True)

    def forward(self, grid: Tensor) -> Tensor:  # (B, H, W, in) -> (B, H / 4, W / 4, C), rounded up
        return max_pool(F.relu(self.embed(grid)), (3, 3), (2, 2), (1, 1))


def _init_weights(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Linear):
            init_linear(module)
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class MixingResNet(MetaFormer):
    """ResNet with mixing blocks in its bottlenecks.

    Args:
        img_size: side of the default input in pixels, or (height, width). No table depends on it.
        in_chans: input channels.
        num_classes: width of the logits.
        depths: bottlenecks of each stage.
        width: inner width of the first stage, doubled at each further one; stages are 4 times as wide.
        mlp_ratio: of the mixing blocks' MLPs.
        drop_path_rate: stochastic depth of the last bottleneck, growing linearly from 0.
        head_drop_rate: dropout before the classifier.

    Raises:
        ValueError: not four stages, an input that is too small, or a width that the mixer cannot take.
    """

    def __init__(
        self,
        *,
        img_size: int | tuple[int, int] = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        depths: Sequence[int] = (3, 4, 6, 3),
        width: int = 64,
        mlp_ratio: float = 2.0,
        drop_path_rate: float = 0.0,
        head_drop_rate: float = 0.0,
    ):
        check_stages(depths=depths)
        input_size = input_geometry(img_size, None)
        rates = iter(drop_path_rates(drop_path_rate, sum(depths)))
        channels, stages, info = width, [], []
        for stage, depth in enumerate(depths):
            inner, blocks = width << stage, []
            for index in range(depth):
                stride = 2 if stage and not index else 1
                blocks.append(
                    MixingBottleneck(
                        channels, inner, 4 * inner, stride=stride, mlp_ratio=mlp_ratio, drop_path_rate=next(rates)
                    )
                )
                channels = 4 * inner
            stages.append(Stage(blocks))
            info.append({"channels": channels, "strides": (4 << stage, 4 << stage)})
        super().__init__(
            stem=ResNetStem(in_chans, width),
            stages=stages,
            norm=nn.Identity(),
            feature_info=info,
            input_size=input_size,
            in_chans=in_chans,
            num_classes=num_classes,
            head_drop_rate=head_drop_rate,
        )
        _init_weights(self)


class MixingMobileNetV2(MetaFormer):
    """MobileNetV2 with the mixer of the mixing block in its residual blocks.

    Args:
        img_size: side of the default input in pixels, or (height, width). No table depends on it.
        in_chans: input channels.
        num_classes: width of the logits.
        settings: (expansion, channels, blocks, stride of the first) of the groups of blocks, the first of which
            belongs to the stem; the strides of the others multiply to 16, in four stages.
        mixing_expansion: expansion of the blocks with a mixer.
        stem_channels: width of the first convolution.
        last_features: width of the last pointwise convolution, which the head reads.
        drop_path_rate: stochastic depth of the last block, growing linearly from 0.
        head_drop_rate: dropout before the classifier.

    Raises:
        ValueError: not four stages, an input that is too small, or a width that the mixer cannot take.
    """

    def __init__(
        self,
        *,
        img_size: int | tuple[int, int] = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        settings: Sequence[tuple[int, int, int, int]] = (
            (1, 16, 1, 1),
            (6, 24, 2, 2),
            (6, 32, 3, 2),
            (6, 64, 4, 2),
            (6, 96, 3, 1),
            (6, 160, 3, 2),
            (6, 320, 1, 1),
        ),
        mixing_expansion: int = 4,
        stem_channels: int = 32,
        last_features: int = 1280,
        drop_path_rate: float = 0.0,
        head_drop_rate: float = 0.0,
    ):
        (_, first_channels, _, _), *groups = settings
        check_stages(strided_groups=[group for group in groups if group[3] > 1])
        input_size = input_geometry(img_size, None)
        rates = iter(drop_path_rates(drop_path_rate, sum(group[2] for group in groups)))
        channels, stages, info = first_channels, [], []
        for expansion, out_channels, depth, first_stride in groups:
            if first_stride > 1:
                stages.append([])
            for index in range(depth):
                stride = 1 if index else first_stride
                mixes = stride == 1 and channels == out_channels
                stages[-1].append(
                    InvertedResidual(
                        channels,
                        out_channels,
                        stride=stride,
                        expansion=mixing_expansion if mixes else expansion,
                        drop_path_rate=next(rates),
                    )
                )
                channels = out_channels
            info = [*info[: len(stages) - 1], {"channels": channels, "strides": (2 << len(stages),) * 2}]
        super().__init__(
            stem=nn.Sequential(
                ConvEmbed(in_chans, stem_channels, kernel=KERNEL, stride=(2, 2), norm=True),
                nn.ReLU6(),
                InvertedResidual(stem_channels, first_channels, stride=1, expansion=settings[0][0], drop_path_rate=0.0),
            ),
            stages=[Stage(blocks) for blocks in stages],
            norm=nn.Identity(),
            feature_info=info,
            input_size=input_size,
            in_chans=in_chans,
            num_classes=num_classes,
            num_features=last_features,
            head_drop_rate=head_drop_rate,
        )
        self.last = Pointwise(channels, last_features)
        _init_weights(self)

    def forward_features(self, x: Tensor) -> Tensor:
        """What the head takes the mean of, after the last pointwise convolution: (B, H', W', last_features)."""
        return F.relu6(self.last(super().forward_features(x)))


register_model("resnet50_mixing", MixingResNet, num_classes=1000, img_size=224)
register_model("mobilenetv2_mixing", MixingMobileNetV2, num_classes=1000, img_size=224, head_drop_rate=0.2)
