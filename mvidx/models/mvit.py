"""MViT (arXiv 2104.11227) and MViTv2 (arXiv 2112.01526), for images and videos.

Published in facebookresearch/SlowFast (`slowfast/models/video_model_builder.py` at 287ec00) and
facebookresearch/mvit (dfbdfdf). The class token of the published video models is carried beside the grid
as `(grid, token)`: norms, projections and MLP act on both, pooling and position terms on the grid alone.

Deviations: none in the numbers. Any input size works; tables are interpolated at run time.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mvidx.layers.drop import add_branch, drop_factors, drop_path, drop_path_rates
from mvidx.layers.lean import residual_mlp
from mvidx.layers.mlp import Mlp
from mvidx.layers.nd import conv_nd, max_pool, ndim_tuple, on_grid, pooled_size
from mvidx.layers.norm import LayerNorm
from mvidx.layers.position import AbsolutePosition
from mvidx.mixers.pooling_attention import PoolingAttention
from mvidx.models.base import Backbone, init_linear
from mvidx.models.registry import register_model

Pool = tuple[tuple[int, ...], tuple[int, ...]]  # kernel, stride


@dataclass(frozen=True)
class BlockGeometry:
    """Numbers of one block.

    Attributes:
        in_channels, attention_channels, out_channels: widths before, inside and after.
        num_heads: attention heads.
        input_size: ([T,] H, W) of its grid at the default input, by whole strides.
        q_pool, kv_pool: (kernel, stride) or None.
        stride: stride of the query, 1 everywhere without pooling.
    """

    in_channels: int
    attention_channels: int
    out_channels: int
    num_heads: int
    input_size: tuple[int, ...]
    q_pool: Pool | None
    kv_pool: Pool | None
    stride: tuple[int, ...]


def round_width(width: float, multiplier: float, divisor: int = 1) -> int:
    """`width * multiplier` rounded to a multiple of `divisor`, never by more than 10% down."""
    width *= multiplier
    rounded = max(divisor, int(width + divisor / 2) // divisor * divisor)
    return int(rounded + divisor if rounded < 0.9 * width else rounded)


def block_geometry(
    *,
    depth: int,
    embed_dim: int,
    num_heads: int,
    input_size: tuple[int, ...],
    dim_mul: Mapping[int, float],
    head_mul: Mapping[int, float],
    q_stride: Mapping[int, Sequence[int]],
    kv_stride: Sequence[int] | Mapping[int, Sequence[int]],
    pool_kernel: Sequence[int] | None,
    expand_in_attention: bool,
) -> list[BlockGeometry]:
    """Widths, heads, sizes and pools of every block, from the per-block settings of the published configs."""
    ndim = len(input_size)
    for name, table in (("dim_mul", dim_mul), ("head_mul", head_mul), ("q_stride", q_stride)):
        beyond = [index for index in table if not 0 <= index < depth]
        if beyond:
            raise ValueError(f"{name} names block {beyond[0]}, but the model has blocks 0 to {depth - 1}")
    if num_heads < 1 or embed_dim % num_heads:
        raise ValueError(f"num_heads={num_heads} does not divide the {embed_dim} channels of embed_dim")
    adaptive = None if isinstance(kv_stride, Mapping) else ndim_tuple(kv_stride, ndim, "kv_stride")

    def pool(stride: Sequence[int], name: str) -> Pool | None:
        stride = ndim_tuple(stride, ndim, name)
        kernel = tuple(s + 1 if s > 1 else s for s in stride) if pool_kernel is None else pool_kernel
        kernel = ndim_tuple(kernel, ndim, "pool_kernel")
        return None if max(kernel) == 1 and max(stride) == 1 else (kernel, stride)

    blocks = []
    for index in range(depth):
        ones = (1,) * ndim
        q_pool = pool(q_stride[index], f"q_stride[{index}]") if index in q_stride else None
        stride = tuple(q_stride[index]) if index in q_stride else ones
        if adaptive is not None:
            adaptive = tuple(max(a // s, 1) for a, s in zip(adaptive, stride, strict=True))
            kv_pool = pool(adaptive, "kv_stride")
        else:
            kv_pool = pool(kv_stride[index], f"kv_stride[{index}]") if index in kv_stride else None

        num_heads = round_width(num_heads, head_mul.get(index, 1.0))
        widens_at = index if expand_in_attention else index + 1
        divisor = round_width(num_heads, head_mul.get(widens_at, 1.0))
        out_channels = round_width(embed_dim, dim_mul.get(widens_at, 1.0), divisor)
        blocks.append(
            BlockGeometry(
                in_channels=embed_dim,
                attention_channels=out_channels if expand_in_attention else embed_dim,
                out_channels=out_channels,
                num_heads=num_heads,
                input_size=input_size,
                q_pool=q_pool,
                kv_pool=kv_pool,
                stride=stride,
            )
        )
        input_size = tuple(size // s for size, s in zip(input_size, stride, strict=True))
        if min(input_size) < 1:
            raise ValueError(
                f"the grid of block {index} would be {input_size} after the stride {stride}: "
                f"the input is too small for the strides of the model"
            )
        embed_dim = out_channels
    return blocks


class MViTBlock(nn.Module):
    """Pooling attention and MLP, each on a residual; the block may pool the grid and change its width.

    Widening happens in the attention (MViTv2) or in the MLP (MViTv1), as `geometry` says.
    """

    def __init__(
        self,
        geometry: BlockGeometry,
        *,
        mlp_ratio: float,
        qkv_bias: bool,
        relative: str,
        residual_pooling: bool,
        drop_rate: float,
        drop_path_rate: float,
    ):
        super().__init__()
        self.geometry = geometry
        wide = geometry.attention_channels
        self.norm1 = LayerNorm(geometry.in_channels)
        self.attn = PoolingAttention(
            geometry.in_channels,
            wide,
            input_size=geometry.input_size,
            num_heads=geometry.num_heads,
            q_pool=geometry.q_pool,
            kv_pool=geometry.kv_pool,
            relative=relative,
            residual_pooling=residual_pooling,
            qkv_bias=qkv_bias,
            drop_rate=drop_rate,
        )
        self.drop_path = drop_path(drop_path_rate)
        self.norm2 = LayerNorm(wide)
        self.mlp = Mlp(wide, int(wide * mlp_ratio), geometry.out_channels, drop_rate=drop_rate)
        widens = geometry.in_channels != geometry.out_channels
        self.proj = nn.Linear(geometry.in_channels, geometry.out_channels) if widens else None
        self.widens_in_attention = widens and wide == geometry.out_channels

    def _pool_skip(self, grid: Tensor) -> Tensor:
        stride = self.geometry.stride
        if max(stride) == 1:
            return grid
        kernel = tuple(s + 1 if s > 1 else s for s in stride)
        return max_pool(grid, kernel, stride, tuple(k // 2 for k in kernel))

    def _skip(self, x: Tensor, normed: Tensor, in_attention: bool) -> Tensor:
        """The residual: `x`, or the projection of its normed self where this half of the block widens it."""
        if self.proj is None or self.widens_in_attention != in_attention:
            return x
        return self.proj(normed)

    def _mlp_half(self, x: Tensor, drop: nn.Module) -> Tensor:
        """Norm and MLP on a residual. Overwrites `x` where no gradients are wanted."""
        if self.mlp.may_be_lean(x, self.norm2, *(() if self.proj is None else (self.proj,))) and x.ndim > 2:
            projects = self.proj is not None and not self.widens_in_attention
            return residual_mlp(
                x,
                norm=("layer", self.norm2.weight, self.norm2.bias, self.norm2.eps),
                fc1=self.mlp.fc1,
                fc2=self.mlp.fc2,
                skip=self.proj if projects else None,
                keep=drop.keep if isinstance(drop, SharedDrop) else drop_factors(drop, len(x), x.device),
                owned=True,
            )
        normed = self.norm2(x)
        return self._skip(x, normed, in_attention=False) + drop(self.mlp(normed))

    def forward(self, grid: Tensor, token: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """(B, [T,] H, W, in), (B, in) or None -> (B, [T',] H', W', out), (B, out) or None."""
        normed = self.norm1(grid)
        normed_token = None if token is None else self.norm1(token)
        attended, attended_token = self.attn(normed, normed_token)
        skip = self._pool_skip(self._skip(grid, normed, in_attention=True))
        if token is None:
            grid = add_branch(skip, self.drop_path(attended))
            return self._mlp_half(grid, self.drop_path), None
        # Stochastic depth drops whole samples: grid and token of a sample share one draw.
        drop_attention, drop_mlp = (SharedDrop(self.drop_path, grid.shape[0], grid.device) for _ in range(2))
        grid = add_branch(skip, drop_attention(attended))
        token = self._skip(token, normed_token, in_attention=True) + drop_attention(attended_token)
        return self._mlp_half(grid, drop_mlp), self._mlp_half(token, drop_mlp)


class SharedDrop:
    """One draw of stochastic depth, applied to several tensors of the same samples."""

    def __init__(self, drop: nn.Module, batch: int, device: torch.device):
        self.keep = drop_factors(drop, batch, device)

    def __call__(self, x: Tensor) -> Tensor:
        return x if self.keep is None else x * self.keep.to(x.dtype).view(-1, *[1] * (x.ndim - 1))


class MViT(Backbone):
    """Multiscale Vision Transformer, version 1 or 2, for images (`frames=None`) or clips.

    Args:
        img_size: side of the default input in pixels, or (height, width).
        frames: frames of the default clip; None for an image model.
        in_chans: input channels.
        num_classes: width of the logits.
        embed_dim: channels after the patch embedding.
        depth: number of blocks.
        num_heads: heads of the first block.
        mlp_ratio: hidden width of the MLPs over their input width.
        dim_mul: {block: factor} by which the width grows at that block.
        head_mul: {block: factor} by which the number of heads grows at that block.
        q_stride: {block: stride} of the blocks that pool their query.
        kv_stride: stride of key and value in the first block, divided by every q_stride on the way down;
            or {block: stride}.
        pool_kernel: kernel of all pools; None for stride + 1.
        patch_kernel, patch_stride, patch_padding: of the patch embedding.
        class_token: carry a class token and classify from it, else from the mean of the last grid.
        mean_pooling: classify from the mean of the last grid, normed after the mean, class token or not.
        absolute_position: "none", "joint" (one table) or "separate" (one for space, one for time).
        relative_position: "none", "space" or "all" (time too).
        expand_in_attention: widen in the attention (MViTv2) rather than in the MLP (MViTv1).
        residual_pooling: add the pooled query to what is attended.
        token_residual: add the class token's query too, which timm does and the published code does not.
            Loading a timm checkpoint with a class token switches it on.
        qkv_bias: bias of the query, key and value projections.
        drop_rate: dropout inside the blocks and after the positions.
        drop_path_rate: stochastic depth of the last block, growing linearly from 0.
        head_drop_rate: dropout before the classifier.
        head_init_scale: factor on the classifier's initial weights.

    Raises:
        ValueError: the input is too small for the strides, heads do not divide a width, or a stride or
            kernel has another number of entries than the input has axes.
    """

    def __init__(
        self,
        *,
        img_size: int | tuple[int, int] = 224,
        frames: int | None = None,
        in_chans: int = 3,
        num_classes: int = 1000,
        embed_dim: int = 96,
        depth: int = 16,
        num_heads: int = 1,
        mlp_ratio: float = 4.0,
        dim_mul: Mapping[int, float] = (),
        head_mul: Mapping[int, float] = (),
        q_stride: Mapping[int, Sequence[int]] = (),
        kv_stride: Sequence[int] | Mapping[int, Sequence[int]],
        pool_kernel: Sequence[int] | None = None,
        patch_kernel: Sequence[int],
        patch_stride: Sequence[int],
        patch_padding: Sequence[int],
        class_token: bool = False,
        mean_pooling: bool = False,
        absolute_position: str = "none",
        relative_position: str = "none",
        expand_in_attention: bool = True,
        residual_pooling: bool = True,
        token_residual: bool = False,
        qkv_bias: bool = True,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        head_drop_rate: float = 0.0,
        head_init_scale: float = 1.0,
    ):
        ndim = 2 if frames is None else 3
        input_size = (*(() if frames is None else (frames,)), *ndim_tuple(img_size, 2, "img_size"))
        patch_kernel = ndim_tuple(patch_kernel, ndim, "patch_kernel")
        patch_stride = ndim_tuple(patch_stride, ndim, "patch_stride")
        patch_padding = ndim_tuple(patch_padding, ndim, "patch_padding")
        size = tuple(s // st for s, st in zip(input_size, patch_stride, strict=True))
        if frames == 1:
            size = (1, *size[1:])  # padding makes a cell of a single frame
        if min(size) < 1:
            raise ValueError(f"an input of {input_size} is too small for patch_stride={patch_stride}")
        if absolute_position not in ("none", "joint", "separate"):
            raise ValueError(f"absolute_position={absolute_position!r}, expected 'none', 'joint' or 'separate'")
        blocks = block_geometry(
            depth=depth,
            embed_dim=embed_dim,
            num_heads=num_heads,
            input_size=size,
            dim_mul=dict(dim_mul),
            head_mul=dict(head_mul),
            q_stride=dict(q_stride),
            kv_stride=kv_stride,
            pool_kernel=pool_kernel,
            expand_in_attention=expand_in_attention,
        )
        super().__init__(
            ndim=ndim,
            in_chans=in_chans,
            input_size=input_size,
            num_classes=num_classes,
            num_features=blocks[-1].out_channels,
            head_drop_rate=head_drop_rate,
        )
        self.mean_pooling = mean_pooling
        self.patch_embed = conv_nd(in_chans, embed_dim, patch_kernel, stride=patch_stride, padding=patch_padding)
        self.cls_token = nn.Parameter(torch.zeros(1, embed_dim)) if class_token else None
        self.pos_embed = None
        self.cls_pos = None
        if absolute_position != "none":
            separate = absolute_position == "separate" and ndim == 3
            self.pos_embed = AbsolutePosition(size, embed_dim, separate_time=separate)
            self.cls_pos = nn.Parameter(torch.zeros(1, embed_dim)) if class_token else None
        self.pos_drop = nn.Dropout(drop_rate)
        self.blocks = nn.ModuleList(
            MViTBlock(
                geometry,
                mlp_ratio=mlp_ratio,
                qkv_bias=qkv_bias,
                relative=relative_position,
                residual_pooling=residual_pooling,
                drop_rate=drop_rate,
                drop_path_rate=rate,
            )
            for geometry, rate in zip(blocks, drop_path_rates(drop_path_rate, depth), strict=True)
        )
        self.norm = LayerNorm(self.num_features)
        self.set_token_residual(token_residual)
        self._init_weights(head_init_scale)

        self.stage_ends = [i - 1 for i, b in enumerate(blocks) if max(b.stride) > 1] + [depth - 1]
        strides, self.feature_info = patch_stride, []
        for index, block in enumerate(blocks):
            strides = tuple(a * b for a, b in zip(strides, block.stride, strict=True))
            if index in self.stage_ends:
                self.feature_info.append({"channels": block.out_channels, "strides": strides})

    def _init_weights(self, head_init_scale: float) -> None:
        for module in self.modules():
            init_linear(module, bias=0.02 if isinstance(module, nn.Linear) else 0.0)
            if isinstance(module, nn.LayerNorm):
                nn.init.constant_(module.bias, 0.02)
        for token in (self.cls_token, self.cls_pos):
            if token is not None:
                nn.init.trunc_normal_(token, std=0.02)
        if self.num_classes:
            with torch.no_grad():
                self.head.weight.mul_(head_init_scale)
                self.head.bias.mul_(head_init_scale)

    def set_token_residual(self, enable: bool) -> None:
        """Add the class token's own query to what it attends to, or not; `state_dict` has a mark while it does."""
        for block in self.blocks:
            block.attn.token_residual = enable
        mark = next(self.parameters()).new_ones((), dtype=torch.bool) if enable else None
        self.register_buffer("token_residual", mark)

    def prepare_for(self, names: Collection[str]) -> None:
        self.set_token_residual("token_residual" in names and self.cls_token is not None)

    def _encode(self, x: Tensor) -> tuple[list[Tensor], Tensor | None]:
        """Grids at the end of every stage, not normed, and the class token (B, C) or None."""
        self.check_input(x)
        grid = on_grid(self.patch_embed, x.movedim(1, -1))  # (B, 3, [T,] H, W) -> (B, [T',] H', W', C)
        token = None if self.cls_token is None else self.cls_token.expand(x.shape[0], -1)
        if self.pos_embed is not None:
            grid = self.pos_embed(grid)
            token = None if token is None else token + self.cls_pos
        grid = self.pos_drop(grid)
        token = None if token is None else self.pos_drop(token)
        pyramid = []
        for index, block in enumerate(self.blocks):
            grid, token = self.run_block(block, grid, token)
            if index in self.stage_ends:
                pyramid.append(grid)
        return pyramid, token

    def forward_pyramid(self, x: Tensor) -> list[Tensor]:
        return self._encode(x)[0]

    def forward_features(self, x: Tensor) -> Tensor:
        return self.norm(self._encode(x)[0][-1])

    def forward_embedding(self, x: Tensor) -> Tensor:
        pyramid, token = self._encode(x)
        if self.mean_pooling:
            return self.norm(pyramid[-1].flatten(1, -2).mean(1))
        if token is not None:
            return self.norm(token + self._grid_only_zero())
        return self.norm(pyramid[-1]).flatten(1, -2).mean(1)

    def _grid_only_zero(self) -> Tensor | float:
        """Zero, made from the parameters of the last block that act on the grid alone, while gradients are wanted.

        The class token never sees them. Their gradient is zero and must not be missing: DistributedDataParallel
        waits for every gradient, and the published code has them too.
        """
        if not torch.is_grad_enabled():
            return 0.0
        attn = self.blocks[-1].attn
        unseen = [] if attn.pool_q is None else [attn.pool_q.conv.weight]
        unseen += [] if attn.relative is None else list(attn.relative.parameters())
        return sum((0.0 * parameter.sum() for parameter in unseen), start=0.0)

    def output_size(self, input_size: Sequence[int]) -> tuple[int, ...]:
        """Size of the last grid, ([T',] H', W'), for an input of ([T,] H, W)."""
        embed = self.patch_embed
        size = pooled_size(input_size, embed.kernel_size, embed.stride, embed.padding)
        for block in self.blocks:
            size = block.attn.output_size(size)
        return size

    def no_weight_decay(self) -> set[str]:
        tables = ("cls_token", "cls_pos", "pos_embed.", ".attn.relative.")
        return {name for name, _ in self.named_parameters() if any(table in name for table in tables)}

    def layer_groups(self) -> Iterator[tuple[str, int]]:
        for name in ("patch_embed", "cls_token", "cls_pos", "pos_embed"):
            yield name, 0
        for index in range(len(self.blocks)):
            yield f"blocks.{index}", index + 1
        for name in ("norm", "head"):
            yield name, len(self.blocks) + 1


def _scaled(starts: Sequence[int]) -> dict[int, float]:
    return dict.fromkeys(starts, 2.0)


def _v2(depths: Sequence[int], *, video: bool, **numbers) -> dict:
    """Arguments of an MViTv2 with these blocks per stage: every block pools its query."""
    starts = [sum(depths[:stage]) for stage in range(1, len(depths))]
    time = (1,) if video else ()
    return {
        "depth": sum(depths),
        "dim_mul": _scaled(starts),
        "head_mul": _scaled(starts),
        "q_stride": {i: (*time, 2, 2) if i in starts else (*time, 1, 1) for i in range(sum(depths))},
        "kv_stride": (1, 8, 8) if video else (4, 4),
        "pool_kernel": (3, 3, 3) if video else (3, 3),
        "relative_position": "all",
        "class_token": video,
        **_patch(video),
        **numbers,
    }


def _v1(starts: Sequence[int], *, video: bool, **numbers) -> dict:
    """Arguments of an MViTv1 that doubles its width and halves its grid at these blocks."""
    time = (1,) if video else ()
    return {
        "dim_mul": _scaled(starts),
        "head_mul": _scaled(starts),
        "q_stride": dict.fromkeys(starts, (*time, 2, 2)),
        "kv_stride": (1, 8, 8) if video else (4, 4),
        "pool_kernel": (3, 3, 3) if video else (3, 3),
        "absolute_position": "separate" if video else "joint",
        "class_token": True,
        "expand_in_attention": False,
        "residual_pooling": False,
        **_patch(video),
        **numbers,
    }


def _patch(video: bool) -> dict:
    if video:
        return {"patch_kernel": (3, 7, 7), "patch_stride": (2, 4, 4), "patch_padding": (1, 3, 3)}
    return {"patch_kernel": (7, 7), "patch_stride": (4, 4), "patch_padding": (3, 3)}


def _register_mvit() -> None:
    image_sizes = {
        "mvitv2_t": _v2((1, 2, 5, 2), video=False, drop_path_rate=0.1),
        "mvitv2_s": _v2((1, 2, 11, 2), video=False, drop_path_rate=0.1),
        "mvitv2_b": _v2((2, 3, 16, 3), video=False, drop_path_rate=0.3),
        "mvitv2_l": _v2(
            (2, 6, 36, 4), video=False, embed_dim=144, num_heads=2, drop_path_rate=0.5, expand_in_attention=False
        ),
        "mvitv2_h": _v2((4, 8, 60, 8), video=False, embed_dim=192, num_heads=3, drop_path_rate=0.8),
        "mvit_b": _v1((1, 3, 14), video=False, drop_path_rate=0.1),
    }
    for name, arguments in image_sizes.items():
        register_model(name, MViT, num_classes=1000, img_size=224, **arguments)
    video = {"num_classes": 400, "head_drop_rate": 0.5}
    video_sizes = {
        "mvitv2_s_video": _v2((1, 2, 11, 2), video=True, frames=16, img_size=224, drop_path_rate=0.2, **video),
        "mvitv2_b_video": _v2((2, 3, 16, 3), video=True, frames=32, img_size=224, drop_path_rate=0.3, **video),
        "mvitv2_l_video": _v2(
            (2, 6, 36, 4), video=True, frames=40, img_size=312, embed_dim=144, num_heads=2, drop_path_rate=0.75, **video
        ),
        "mvit_b_video": _v1((1, 3, 14), video=True, frames=16, img_size=224, drop_path_rate=0.2, **video),
    }
    for name, arguments in video_sizes.items():
        register_model(name, MViT, video=True, **arguments)


_register_mvit()
