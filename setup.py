"""Package metadata of mvidx."""

import re
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
version = re.search(r'__version__ = "(.+)"', (here / "mvidx" / "__init__.py").read_text())[1]

export = ["onnx>=1.17", "onnxscript>=0.3", "onnxruntime>=1.20"]
hub = ["huggingface_hub>=0.26"]
benchmark = ["psutil>=5.9"]
torchcodec = ["torchcodec>=0.7"]
docs = ["mkdocs-material>=9.5", "mkdocstrings[python]>=0.26"]
test = ["pytest>=8", "pytest-timeout>=2.3", "pytest-xdist>=3.6", "scikit-learn>=1.4", "playwright>=1.45"]
test += [*benchmark, *export, *hub, *torchcodec]

setup(
    name="mvidx",
    version=version,
    description="Video recognition with four families of token mixers: MViTv2, PoolFormer, iFormer, MixFormer",
    long_description=(here / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["mvidx", "mvidx.*"]),
    package_data={"mvidx.report": ["assets/*"]},
    python_requires=">=3.10,<3.14",
    install_requires=[
        "torch>=2.7",
        "torchvision>=0.22",
        "pytorchvideo>=0.1.5",
        "decord>=0.6",
        "av>=14",
        "fvcore>=0.1.5.post20221221",
        "iopath>=0.1.10",
        "submitit>=1.5",
        "numpy>=1.26",
        "opencv-python-headless>=4.8",
        "safetensors>=0.4",
        "tensorboard>=2.15",
        "tqdm>=4.66",
        "rich>=13",
        "filelock>=3.13",
        "timm>=1.0.20",
        "pyyaml>=6",
        "pillow>=10.1",
        "shtab>=1.7",
        "jinja2>=3.1",
        "matplotlib>=3.8",
    ],
    entry_points={"console_scripts": ["mvidx=mvidx.cli.main:main"]},
    extras_require={
        "benchmark": benchmark,
        "export": export,
        "hub": hub,
        "docs": docs,
        "torchcodec": torchcodec,
        "wandb": ["wandb>=0.17"],
        "test": test,
        "dev": [*test, *docs, "ruff>=0.12"],
    },
    classifiers=[
        "Programming Language :: Python :: 3",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in range(10, 14)),
    ],
)
