import pytest
import torch
import torch.nn.functional as F

from mvidx.layers.norm import SampleBatchNorm
from mvidx.layers.position import WindowBias
from mvidx.mixers.mixing import Mixing, frame_windows, from_windows, to_windows
from tests.oracles import randomise


def published_formula(mixer: Mixing, grid):
    """The block for an image whose sides are whole windows, window by window, with loops."""
    batch, height, width, channels = grid.shape
    half, heads, (wh, ww) = channels // 2, mixer.num_heads, mixer.window
    table = mixer.bias.table[0]  # (2 * wh - 1, 2 * ww - 1, heads)

    def batch_norm(norm, x):
        return (x - norm.running_mean) / (norm.running_var + 1e-5).sqrt() * norm.weight + norm.bias

    attended = mixer.attn_in_norm(mixer.attn_in(grid))
    local = mixer.conv_in_norm(mixer.conv_in(grid))
    local = F.conv2d(local.movedim(-1, 1), mixer.conv.weight, mixer.conv.bias, padding=1, groups=channels)
    local = F.gelu(batch_norm(mixer.conv_norm, local.movedim(1, -1)))
    first, norm, _, last = mixer.channel_gate
    channel_gate = torch.sigmoid(last(F.gelu(batch_norm(norm, first(local.mean((1, 2)))))))
    local = mixer.conv_out(local)

    out = torch.empty(batch, height, width, half)
    for b in range(batch):
        for top in range(0, height, wh):
            for left in range(0, width, ww):
                window = attended[b, top : top + wh, left : left + ww].reshape(-1, half)
                q, k, v = mixer.qkv(window).chunk(3, -1)
                v = v * channel_gate[b]
                parts = []
                for h in range(heads):
                    dims = slice(h * half // heads, (h + 1) * half // heads)
                    logits = q[:, dims] @ k[:, dims].T / (half // heads) ** 0.5
                    for i in range(wh * ww):
                        for j in range(wh * ww):
                            offset = (i // ww - j // ww + wh - 1, i % ww - j % ww + ww - 1)
                            logits[i, j] += table[offset][h]
                    parts.append(logits.softmax(-1) @ v[:, dims])
                out[b, top : top + wh, left : left + ww] = torch.cat(parts, -1).view(wh, ww, half)
    gate = mixer.spatial_gate_out(F.gelu(batch_norm(mixer.spatial_gate_norm, mixer.spatial_gate_in(out)))).sigmoid()
    local = batch_norm(mixer.conv_out_norm, gate * local)
    return mixer.proj(torch.cat((mixer.attn_norm(out), local), -1))


def test_is_the_published_formula():
    mixer = randomise(Mixing(16, num_heads=2, window=(2, 3)))
    grid = torch.randn(2, 4, 6, 16)
    with torch.no_grad():
        assert torch.allclose(mixer(grid), published_formula(mixer, grid), atol=1e-5)


def test_padding_stands_below_and_to_the_right_and_takes_part():
    mixer = randomise(Mixing(16, num_heads=2, window=(4, 4)))
    grid = torch.randn(1, 5, 7, 16)
    padded = F.pad(grid, (0, 0, 0, 1, 0, 3))
    with torch.no_grad():
        assert torch.allclose(mixer(grid), mixer(padded)[:, :5, :7], atol=1e-6)
        assert not torch.allclose(mixer(grid[:, :4, :4]), mixer(grid)[:, :4, :4], atol=1e-3)


@pytest.mark.parametrize(("size", "window"), [((4, 6), (2, 3)), ((4, 6, 10), (2, 3, 5))])
def test_windows_are_cut_and_joined(size, window):
    grid = torch.randn(2, *size, 3)
    windows = to_windows(grid, window)
    first = grid[(0, *(slice(0, n) for n in window))].reshape(-1, 3)
    assert torch.equal(windows[0], first)
    assert torch.equal(from_windows(windows, window, size), grid)


def test_frames_are_split_into_the_fewest_windows():
    for frames in range(1, 40):
        for longest in (1, 2, 7, 8):
            lengths, end = [], 0
            for first, count, length in frame_windows(frames, longest):
                assert first == end
                end += count * length
                lengths += [length] * count
            assert end == frames and len(lengths) == -(-frames // longest)
            assert max(lengths) <= longest and max(lengths) - min(lengths) <= 1


def test_time_is_split_without_padding():
    """11 frames in windows of up to 4 are three windows, each the same as alone (the convolution apart)."""
    mixer = randomise(Mixing(16, num_heads=2, window=(4, 2, 2), kernel=(1, 3, 3)))
    q, k, v = torch.randn(3, 1, 11, 2, 4, 8)
    with torch.no_grad():
        out = mixer._attend(q, k, v)
        alone = [mixer._attend(q[:, part], k[:, part], v[:, part]) for part in (slice(0, 4), slice(4, 8), slice(8, 11))]
    assert torch.allclose(out, torch.cat(alone, dim=1), atol=1e-6)


def test_window_bias_of_smaller_windows_uses_the_same_offsets():
    bias = randomise(WindowBias((3, 2, 2), 5))
    with torch.no_grad():
        whole, part = bias((3, 2, 2)), bias((2, 2, 2))
    assert whole.shape == (1, 5, 12, 12)
    assert torch.equal(part, whole[:, :, :8, :8])
    i, j = 1 * 4 + 0 * 2 + 1, 2 * 4 + 1 * 2 + 0  # (t, h, w) = (1, 0, 1) and (2, 1, 0)
    assert torch.equal(whole[0, :, i, j], bias.table[0, 1 - 2 + 2, 0 - 1 + 1, 1 - 0 + 1])


def test_channel_interaction_trains_on_a_batch_of_one():
    norm = SampleBatchNorm(4).train()
    norm(torch.randn(8, 4))
    kept = norm.running_mean.clone()
    x = torch.randn(1, 4)
    assert torch.allclose(norm(x), (x - kept) / (norm.running_var + norm.eps).sqrt(), atol=1e-6)
    assert torch.equal(norm.running_mean, kept)
    Mixing(16, num_heads=2, window=(2, 2)).train()(torch.randn(1, 4, 4, 16)).sum().backward()


def test_bad_numbers_are_refused():
    with pytest.raises(ValueError, match="num_heads=3 does not divide the 8 channels"):
        Mixing(16, num_heads=3)
    with pytest.raises(ValueError, match="channels=17"):
        Mixing(17, num_heads=1)
    with pytest.raises(ValueError, match=r"channels=8, .* at least 16"):
        Mixing(8, num_heads=1)
    with pytest.raises(ValueError, match=r"window=\(7, 7\) has 2 entries, expected 3"):
        Mixing(16, num_heads=2, kernel=(3, 3, 3))
    with pytest.raises(ValueError, match=r"window=\(0, 7\)"):
        Mixing(16, num_heads=2, window=(0, 7))
