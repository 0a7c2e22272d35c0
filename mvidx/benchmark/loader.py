"""Speed and memory of the video loader against decoding and augmenting as PySlowFast does.

Both sides read the same files with the same random draws through DataLoaders with as many workers, in turn. The
reference opens a file with PyAV for every view, decodes and converts each frame of the clip's span, picks the frames,
augments them one by one through timm's operations on PIL images, and makes them float before resizing and cropping
(`slowfast/datasets/{kinetics,decoder,pyav_decoder}.py` at 287ec00).
"""

import argparse
import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from mvidx.benchmark.common import (
    machine,
    machine_line,
    print_table,
    ratio,
    ratio_text,
    time_alternately,
    write_json,
    write_rows,
)
from mvidx.config import data as config_data
from mvidx.data.annotations import VideoList
from mvidx.data.augment import GREY, RandAugment
from mvidx.data.datasets import TestVideos, TrainVideos
from mvidx.data.decode import BACKENDS
from mvidx.data.loader import EpochBatches, collate, start_worker, train_loader
from mvidx.data.read import ClipSampling, read_random_clip, read_views
from mvidx.data.transforms import crop_offset, random_resized_region, scaled_size
from mvidx.engine.tester import ViewBatches
from mvidx.errors import UserError

SECONDS, FPS, WIDTH, HEIGHT = 10, 30, 340, 256
EXAMPLE = "example: python tools/benchmark.py loader --cfg configs/K400/MVITv2_S.yaml --json loader.json"
DEFAULT_BACKENDS = ("decord", "pyav")
SETTLED_CLIPS = 500
TRAININGS = ("train with RandAugment", "train without")
TESTS = {"test 5 x 1 views": (5, 1), "test 10 x 3 views": (10, 3)}


# ---------------------------------------------------------------------------- files


def write_video(path: Path, seed: int) -> None:
    """A file as Kinetics has them: 10 s of H.264, 340x256, 30 frames a second, x264's own settings.

    Shots of 2 to 6 s: texture of several scales that a camera pans over and zooms into, things that cross it, and a
    sensor's noise. The encoder puts keyframes where shots begin, and none between.
    """
    import av

    rng = np.random.default_rng(seed)
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for pixels in itertools.islice(_shots(rng), SECONDS * FPS):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))


def _shots(rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Frames uint8 (H, W, 3) of one shot after another, for ever."""
    side = 768
    while True:
        scales = [cv2.resize(rng.normal(size=(n, n, 3)).astype(np.float32), (side, side)) for n in (4, 16, 64, 256)]
        scene = rng.uniform(80, 150) + 45 * scales[0] + 28 * scales[1] + 16 * scales[2] + 8 * scales[3]
        start, pan, phase = rng.uniform(200, 320, 2), rng.uniform(-1.2, 1.2, 2), rng.uniform(0, 6)
        corners = (0, 0), (WIDTH, HEIGHT)
        things = [
            (rng.uniform(0, 255, 3).tolist(), rng.uniform(*corners), rng.uniform(-3, 3, 2), int(rng.uniform(12, 50)))
            for _ in range(4)
        ]
        for number in range(int(FPS * rng.uniform(2, 6))):
            zoom = 1 + 0.15 * math.sin(number / 90 + phase)
            x, y = start + pan * number
            matrix = np.array([[zoom, 0, x], [0, zoom, y]], np.float32)
            frame = cv2.warpAffine(
                scene, matrix, (WIDTH, HEIGHT), flags=cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REFLECT
            )
            for colour, place, speed, radius in things:
                centre = (place + speed * number) % (WIDTH, HEIGHT)
                cv2.circle(frame, centre.astype(int).tolist(), radius, colour, -1, cv2.LINE_AA)
            frame += rng.normal(0, 2, frame.shape).astype(np.float32)
            yield np.clip(frame, 0, 255).astype(np.uint8)


def benchmark_videos(folder: Path, count: int) -> VideoList:
    """The first `count` files of the benchmark in `folder`, written where they are missing."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{SECONDS}s_{WIDTH}x{HEIGHT}_{number:03d}.mp4" for number in range(count)]
    for number, path in enumerate(paths):
        if not path.exists():
            unfinished = path.with_suffix(".part")
            write_video(unfinished, number)
            unfinished.replace(path)
    return VideoList([str(path) for path in paths], [0] * count, source=str(folder))


# ---------------------------------------------------------------------------- the reference


def decode_span(path: str, first: int, last: int) -> np.ndarray:
    """uint8 (last - first + 1, H, W, 3): every frame of a span of an evenly timed file, through PyAV."""
    import av

    with av.open(path) as container:
        stream = container.streams.video[0]
        ticks = 1 / float(stream.average_rate * stream.time_base)
        begin, end = (first - 0.5) * ticks, (last + 0.5) * ticks
        container.seek(max(0, round(first * ticks) - 1024), any_frame=False, backward=True, stream=stream)
        frames, beyond = {}, 0
        for frame in container.decode(stream):
            if frame.pts > end:
                beyond += 1  # pictures come in the order of their times, but PySlowFast makes sure
                if beyond >= 5:
                    break
            elif frame.pts >= begin:
                frames[frame.pts] = frame
        return np.stack([frames[time].to_rgb().to_ndarray() for time in sorted(frames)])


def clip_as_float(pixels: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """uint8 (T, H, W, 3) -> normalised float32 (3, T, H, W)."""
    clip = torch.as_tensor(pixels).float() / 255
    return ((clip - torch.tensor(mean)) / torch.tensor(std)).permute(3, 0, 1, 2)


def scaled_float(clip: Tensor, size: Sequence[int]) -> Tensor:
    return functional.interpolate(clip, size=tuple(size), mode="bilinear", align_corners=False)


def augment_frame_by_frame(frames: np.ndarray, operations: Sequence[tuple[str, float, str]]) -> np.ndarray:
    """timm's operations on PIL images of uint8 (T, H, W, 3)."""
    from PIL import Image
    from timm.data import auto_augment

    images = [Image.fromarray(frame) for frame in frames]
    for name, argument, method in operations:
        words = {"fillcolor": GREY, "resample": getattr(Image.Resampling, method.upper())}
        values = (argument,) if auto_augment.LEVEL_TO_ARG[name] else ()
        images = [auto_augment.NAME_TO_OP[name](image, *values, **words) for image in images]
    return np.stack([np.asarray(image) for image in images])


@dataclass
class ReferenceClips(Dataset):
    """Training clips, float32 (3, T, crop, crop), of (epoch, index), with the draws of `TrainVideos`."""

    ours: TrainVideos
    mean: Sequence[float]
    std: Sequence[float]

    def decode(self, epoch: int, index: int) -> tuple[np.ndarray, np.random.Generator]:
        rng = np.random.default_rng((self.ours.seed, epoch, index))
        indices = self.ours.clip.random(SECONDS * FPS, FPS, rng)
        span = decode_span(self.ours.videos.path(index), indices[0], indices[-1])
        return span[indices - indices[0]], rng

    def transform(self, frames: np.ndarray, rng: np.random.Generator) -> Tensor:
        chosen = self.ours.transform
        if chosen.augment is not None:
            frames = augment_frame_by_frame(frames, chosen.augment.draw(rng))
        clip = clip_as_float(frames, self.mean, self.std)
        top, left, h, w = random_resized_region(*clip.shape[-2:], scale=chosen.scale, aspect=chosen.aspect, rng=rng)
        clip = scaled_float(clip[..., top : top + h, left : left + w], (chosen.crop, chosen.crop))
        if chosen.flip and rng.random() < 0.5:
            clip = clip.flip(-1)
        return clip

    def __getitem__(self, item: tuple[int, int]) -> Tensor:
        return self.transform(*self.decode(*item))

    def __len__(self) -> int:
        return len(self.ours)


@dataclass
class ReferenceViews(Dataset):
    """Test views, float32 (3, T, crop, crop), one an item, each decoded by itself."""

    ours: TestVideos
    mean: Sequence[float]
    std: Sequence[float]

    def decode(self, index: int, view: int) -> np.ndarray:
        indices = self.ours.clip.views(SECONDS * FPS, FPS, self.ours.num_views)[view]
        return decode_span(self.ours.videos.path(index), indices[0], indices[-1])[indices - indices[0]]

    def transform(self, frames: np.ndarray, crop_number: int) -> Tensor:
        clip = clip_as_float(frames, self.mean, self.std)
        size = scaled_size(*clip.shape[-2:], self.ours.short_side)
        clip = clip if clip.shape[-2:] == size else scaled_float(clip, size)
        top, left = crop_offset(*size, self.ours.crop, self.ours.spatial_idx[crop_number])
        return clip[..., top : top + self.ours.crop, left : left + self.ours.crop].contiguous()

    def __getitem__(self, item: int) -> Tensor:
        view, crop_number = divmod(item % self.views, len(self.ours.spatial_idx))
        return self.transform(self.decode(item // self.views, view), crop_number)

    @property
    def views(self) -> int:
        return self.ours.num_views * len(self.ours.spatial_idx)

    def __len__(self) -> int:
        return len(self.ours) * self.views


# ---------------------------------------------------------------------------- one comparison


@dataclass
class Side:
    """One side of a comparison.

    Attributes:
        loader: gives batches.
        finish: what is done to a batch where the model is: float32 clips come out.
        stages: {stage: seconds a clip}, measured in one process.
    """

    loader: DataLoader
    finish: Callable[[object], Tensor]
    stages: dict[str, float]
    rss_bytes: int = 0

    def run(self) -> None:
        """Read all batches once."""
        for batch in self.loader:
            self.finish(batch)
            self.rss_bytes = max(self.rss_bytes, loader_rss(self.loader))


def loader_rss(loader: DataLoader) -> int:
    """Bytes of resident memory of a loader's workers and of what they started, shared pages counted in each."""
    import psutil

    total = 0
    for worker in loader._iterator._workers if getattr(loader, "_iterator", None) else ():
        try:
            process = psutil.Process(worker.pid)
            total += sum(each.memory_info().rss for each in (process, *process.children(recursive=True)))
        except psutil.NoSuchProcess:
            continue
    return total


def seconds_of(function: Callable, *arguments) -> tuple[float, object]:
    start = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - start, result


def train_sides(cfg, videos: VideoList, backend: str, *, augment: bool, options) -> dict[str, Side]:
    """Training clips on both sides."""
    transform = config_data.train_transform(cfg)
    policy = transform.augment
    if augment and not isinstance(policy, RandAugment):
        raise UserError("the config has no RandAugment: AUG.ENABLE True AUG.AA_TYPE rand-m7-n4-mstd0.5-inc1")
    if not transform.scale:
        raise UserError("DATA.TRAIN_JITTER_SCALES_RELATIVE is empty, the benchmark expects it, as in configs/K400")
    transform = type(transform)(**{**vars(transform), "augment": policy if augment else None})
    clip = config_data.clip_sampling(cfg, "train")
    dataset = TrainVideos(
        videos, clip=clip, transform=transform, backend=backend, timeout_seconds=cfg.DATA.DECODE_TIMEOUT_SECONDS
    )
    reference = ReferenceClips(dataset, cfg.DATA.MEAN, cfg.DATA.STD)
    normalization = config_data.normalization(cfg, "train")

    def finish(batch) -> Tensor:
        return normalization(batch.clips)

    batches = EpochBatches(len(videos), batch_size=options.batch_size)
    ours = train_loader(dataset, batches, num_workers=options.workers)
    theirs = DataLoader(
        reference,
        batch_sampler=EpochBatches(len(videos), batch_size=options.batch_size),
        num_workers=options.workers,
        worker_init_fn=start_worker,
        persistent_workers=True,
    )
    first = [(0, index) for index in range(options.batch_size)]
    check_same(finish(collate([dataset[item] for item in first])), torch.stack([reference[item] for item in first]))

    stages: dict[str, dict[str, float]] = {side: dict.fromkeys(STAGES, 0.0) for side in ("ours", "theirs")}
    samples, tensors = [], []
    for epoch, index in first:
        rng = np.random.default_rng((0, epoch, index))
        spent, (frames, _, rng) = seconds_of(
            read_random_clip, videos.opener(index, backend), clip, rng, transform.each_frame
        )
        stages["ours"]["decode"] += spent
        stages["ours"]["transform"] += seconds_of(transform, frames, rng)[0]
        samples.append(dataset[epoch, index])
        spent, (frames, rng) = seconds_of(reference.decode, epoch, index)
        stages["theirs"]["decode"] += spent
        spent, tensor = seconds_of(reference.transform, frames, rng)
        stages["theirs"]["transform"] += spent
        tensors.append(tensor)
    spent, batch = seconds_of(collate, samples)
    stages["ours"]["collate"] += spent
    stages["ours"]["normalise"] += seconds_of(finish, batch)[0]
    stages["theirs"]["collate"] += seconds_of(torch.stack, tensors)[0]
    return {
        "ours": Side(ours, finish, {name: spent / len(first) for name, spent in stages["ours"].items()}),
        "theirs": Side(theirs, lambda batch: batch, {n: spent / len(first) for n, spent in stages["theirs"].items()}),
    }


STAGES = ("decode", "transform", "collate", "normalise")


def test_sides(cfg, videos: VideoList, backend: str, *, views: tuple[int, int], options) -> dict[str, Side]:
    """Test views on both sides."""
    num_views, num_crops = views
    dataset = TestVideos(
        videos,
        clip=config_data.clip_sampling(cfg, "test"),
        num_views=num_views,
        spatial_idx=config_data.spatial_crops(num_crops),
        short_side=config_data.test_short_side(cfg, "test", num_crops),
        crop=cfg.DATA.TEST_CROP_SIZE,
        backend=backend,
        timeout_seconds=cfg.DATA.DECODE_TIMEOUT_SECONDS,
    )
    reference = ReferenceViews(dataset, cfg.DATA.MEAN, cfg.DATA.STD)
    normalization = config_data.normalization(cfg, "test")

    batch_of = ViewBatches(normalization, torch.device("cpu"))

    def finish(samples) -> Tensor:
        # in batches of at most TEST.BATCH_SIZE views, as testing takes them
        for sample in samples:
            for start in range(0, len(sample.clips), max(1, cfg.TEST.BATCH_SIZE)):
                numbers = range(start, min(len(sample.clips), start + max(1, cfg.TEST.BATCH_SIZE)))
                normalized = batch_of([(sample.clips, number) for number in numbers])
        return normalized

    common = {"num_workers": options.workers, "worker_init_fn": start_worker, "persistent_workers": True}
    ours = DataLoader(dataset, batch_size=1, collate_fn=list, **common)
    theirs = DataLoader(reference, batch_size=max(1, cfg.TEST.BATCH_SIZE), **common)
    check_same(
        normalization(torch.stack(list(dataset[0].clips))),
        torch.stack([reference[view] for view in range(num_views * num_crops)]),
    )

    stages = {side: dict.fromkeys(STAGES, 0.0) for side in ("ours", "theirs")}
    spent, _ = seconds_of(
        lambda: read_views(videos.opener(0, backend), dataset.clip, num_views=num_views, short_side=dataset.short_side)
    )
    stages["ours"]["decode"] = spent
    whole, sample = seconds_of(TestVideos.__getitem__, without_limit(dataset), 0)
    stages["ours"]["transform"] = max(0.0, whole - spent)
    stages["ours"]["normalise"] = seconds_of(finish, [sample])[0]
    tensors = []
    for view, crop in itertools.product(range(num_views), range(num_crops)):
        spent, frames = seconds_of(reference.decode, 0, view)
        stages["theirs"]["decode"] += spent
        spent, tensor = seconds_of(reference.transform, frames, crop)
        stages["theirs"]["transform"] += spent
        tensors.append(tensor)
    stages["theirs"]["collate"] = seconds_of(torch.stack, tensors)[0]
    return {"ours": Side(ours, finish, stages["ours"]), "theirs": Side(theirs, lambda batch: batch, stages["theirs"])}


def without_limit(dataset: TestVideos) -> TestVideos:
    """The dataset, decoding in this process."""
    copy = TestVideos.__new__(TestVideos)
    copy.__dict__.update(dataset.__dict__, timeout_seconds=0)
    return copy


def check_same(ours: Tensor, theirs: Tensor) -> None:
    """Raise RuntimeError unless two batches of normalised clips show the same.

    Rounding to bytes, before the float arithmetic of the reference begins, and PIL's kernels make small differences.
    """
    difference = (ours - theirs).abs().mean().item()
    if ours.shape != theirs.shape or difference > 0.05:
        raise RuntimeError(
            f"the two sides differ: {tuple(ours.shape)} and {tuple(theirs.shape)}, by {difference:.3f} on average"
        )


def compare(name: str, sides: dict[str, Side], clips: int, *, rounds: int) -> dict:
    """Time both sides in turn; returns what goes into the JSON."""
    timings = time_alternately({side: sides[side].run for side in sides}, rounds=rounds, warmup=1)
    times = ratio(timings["theirs"], timings["ours"])
    row = {
        "row": name,
        "ratio": times.median,
        "ratio_quartiles": (times.low, times.high),
        "clips_per_second": {side: clips / timings[side].median for side in sides},
        "milliseconds_a_clip": {side: {s: 1e3 * t for s, t in sides[side].stages.items()} for side in sides},
    }
    for side in sides:
        row[f"{side}_seconds"] = timings[side].median
        row[f"{side}_timing"] = timings[side]
        row[f"{side}_peak_bytes"] = sides[side].rss_bytes
    return row


# ---------------------------------------------------------------------------- how memory goes on


def memory_curve(
    videos: VideoList, *, clip: ClipSampling, transform, backend: str, clips: int, options
) -> Iterator[tuple[int, float]]:
    """(clips so far, megabytes of the workers) of a loader with persistent workers, about 100 times."""
    dataset = TrainVideos(videos, clip=clip, transform=transform, backend=backend, timeout_seconds=60)
    batches = EpochBatches(len(videos), batch_size=options.batch_size)
    loader = train_loader(dataset, batches, num_workers=options.workers)
    done, step = 0, max(options.batch_size, clips // 100)
    for epoch in itertools.count():
        batches.set_position(epoch)
        for batch in loader:
            done += len(batch.clips)
            if done % step < options.batch_size:
                yield done, loader_rss(loader) / 1e6
            if done >= clips:
                return


def memory_growth(curve: Sequence[tuple[int, float]]) -> float:
    """Megabytes from the first 1,000 clips after `SETTLED_CLIPS` to the last 1,000, medians of each.

    A single point says little: it depends on which batches are just under way.
    """
    last = curve[-1][0]
    early = [size for clips, size in curve if SETTLED_CLIPS <= clips < SETTLED_CLIPS + 1000]
    late = [size for clips, size in curve if clips > last - 1000]
    return statistics.median(late) - statistics.median(early)


def plot_memory(curve: Sequence[tuple[int, float]], path: Path) -> None:
    """Write a curve of `memory_curve` as a picture."""
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(*zip(*curve, strict=True))
    axes.set(xlabel="clips", ylabel="RSS of all workers, MB", ylim=(0, None))
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


# ---------------------------------------------------------------------------- the command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLE
    parser.add_argument("--cfg", required=True, metavar="FILE", help="config: clip length, crop, augmentation")
    parser.add_argument("--json", metavar="FILE", help="write all numbers there")
    parser.add_argument("--videos", default="data/benchmark", metavar="FOLDER", help="where the files are made")
    parser.add_argument("--num-videos", type=int, default=16)
    parser.add_argument("--workers", type=int, default=2, help="of each side")
    parser.add_argument("--batch-size", type=int, default=8, help="training clips")
    parser.add_argument("--rounds", type=int, default=5, help="passes of each side")
    parser.add_argument("--backend", action="append", choices=tuple(BACKENDS), help="may be repeated; decord and pyav")
    parser.add_argument("--only", choices=("train", "test"), help="half of the table")
    parser.add_argument("--memory", type=int, metavar="CLIPS", help="instead: memory over so many training clips")
    parser.add_argument("--plot", metavar="FILE", help="with --memory: the curve as a picture")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE")


def run(parsed: argparse.Namespace) -> int:
    from mvidx.config.load import load_config

    try:
        import psutil  # noqa: F401
        import timm  # noqa: F401
    except ImportError as error:
        raise UserError(f"{error.name} is missing: pip install 'mvidx[benchmark]'") from None
    if parsed.memory and parsed.memory < SETTLED_CLIPS + 1000:
        raise UserError(f"--memory {parsed.memory}, expected at least {SETTLED_CLIPS + 1000} clips")
    if parsed.num_videos < parsed.batch_size:
        raise UserError(f"--num-videos {parsed.num_videos}, expected at least --batch-size {parsed.batch_size}")
    cfg = load_config(parsed.cfg, parsed.overrides)
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    videos = benchmark_videos(Path(parsed.videos), parsed.num_videos)
    return measure_memory(cfg, videos, parsed) if parsed.memory else measure_speed(cfg, videos, parsed)


def measure_memory(cfg, videos: VideoList, parsed: argparse.Namespace) -> int:
    curve = []
    for point in memory_curve(
        videos,
        clip=config_data.clip_sampling(cfg, "train"),
        transform=config_data.train_transform(cfg),
        backend=(parsed.backend or DEFAULT_BACKENDS)[0],
        clips=parsed.memory,
        options=parsed,
    ):
        curve.append(point)
        print(f"\r{point[0]} clips, {point[1]:.0f} MB", end="", flush=True)
    print()
    growth = memory_growth(curve)
    print(f"growth after the first {SETTLED_CLIPS} clips: {growth:+.1f} MB")
    if parsed.plot:
        plot_memory(curve, Path(parsed.plot))
    if parsed.json:
        write_json(parsed.json, {"machine": machine(), "growth_megabytes": growth, "clips_and_megabytes": curve})
    return 0


def measure_speed(cfg, videos: VideoList, parsed: argparse.Namespace) -> int:
    rows = []
    few = VideoList([videos.path(i) for i in range(min(4, len(videos)))], [0] * min(4, len(videos)))
    for backend in parsed.backend or DEFAULT_BACKENDS:
        if parsed.only != "test":
            whole = len(videos) // parsed.batch_size * parsed.batch_size
            for name in TRAININGS:
                sides = train_sides(cfg, videos, backend, augment=name == TRAININGS[0], options=parsed)
                rows.append({"backend": backend, **compare(name, sides, whole, rounds=parsed.rounds)})
                print_row(rows[-1])
        for name, views in TESTS.items() if parsed.only != "train" else ():
            sides = test_sides(cfg, few, backend, views=views, options=parsed)
            rows.append({"backend": backend, **compare(name, sides, len(few) * math.prod(views), rounds=parsed.rounds)})
            print_row(rows[-1])
    described = machine()
    print_table(
        f"mvidx against PySlowFast's way, {parsed.workers} workers each",
        [
            "",
            "backend",
            "theirs / ours",
            "clips/s ours",
            "theirs",
            *(f"{s} ms, ours | theirs" for s in STAGES),
            "RSS MB",
        ],
        [table_row(row) for row in rows],
        caption=machine_line(described),
    )
    if parsed.json:
        write_rows(parsed.json, rows, described, config=parsed.cfg)
    return 0


def table_row(row: dict) -> list[str]:
    stages, speed = row["milliseconds_a_clip"], row["clips_per_second"]
    return [
        row["row"],
        row["backend"],
        ratio_text(row),
        f"{speed['ours']:.1f}",
        f"{speed['theirs']:.1f}",
        *(f"{stages['ours'][stage]:.1f} | {stages['theirs'][stage]:.1f}" for stage in STAGES),
        f"{row['ours_peak_bytes'] / 1e6:.0f} | {row['theirs_peak_bytes'] / 1e6:.0f}",
    ]


def print_row(row: dict) -> None:
    print(f"{row['row']}, {row['backend']}: {ratio_text(row)} times as fast", flush=True)
