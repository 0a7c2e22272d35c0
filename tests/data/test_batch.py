import numpy as np
import torch

from mvidx.data.batch import BatchTransform, Normalization
from mvidx.data.erase import RandomErasing
from mvidx.data.mix import Mix

NORMALIZATION = Normalization((0.1, 0.2, 0.3), (0.5, 0.25, 0.2))


def test_three_images_keep_their_channel_axis():
    images = torch.zeros(3, 3, 4, 4, dtype=torch.uint8)
    expected = torch.tensor([-0.2, -0.8, -1.5])
    assert torch.allclose(NORMALIZATION(images)[0, :, 0, 0], expected, atol=1e-6)


def test_reversed_channels():
    clips = torch.zeros(2, 3, 2, 4, 4, dtype=torch.uint8)
    clips[:, 0] = 255
    out = Normalization((0.0, 0.0, 0.5), (1.0, 1.0, 1.0), reverse=True)(clips)
    assert torch.allclose(out[0, :, 0, 0, 0], torch.tensor([-0.5, 0.0, 1.0]))


def test_draws_belong_to_epoch_step_and_video():
    clips = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 3, 2, 16, 16), np.uint8))
    labels, where = torch.tensor([0, 1, 2, 3]), {"indices": [5, 5, 8, 9], "epoch": 2, "step": 7}
    transform = BatchTransform(NORMALIZATION, RandomErasing(1.0), Mix(4, probability=1.0), seed=1)
    mixed, targets = transform(clips, labels, **where)
    again, again_targets = transform(clips, labels, **where)
    assert torch.equal(mixed, again) and torch.equal(targets, again_targets)
    other, other_targets = transform(clips, labels, **{**where, "step": 8})
    assert not torch.equal(targets, other_targets) and not torch.equal(mixed, other)

    erased = BatchTransform(NORMALIZATION, RandomErasing(1.0), seed=1)
    together, _ = erased(clips, labels, **where)
    alone, _ = erased(clips[2:3], labels[2:3], indices=[8], epoch=2, step=0)
    assert torch.equal(together[2], alone[0])  # whatever the batch
    same, _ = erased(clips[:1].expand(2, -1, -1, -1, -1), labels[:2], indices=[5, 5], epoch=2, step=0)
    assert not torch.equal(same[0], same[1])  # repeated augmentation
