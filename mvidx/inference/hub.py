"""Models on the Hugging Face Hub, or in a folder as it would lie there: model.safetensors, config.json, README.md.

    HubModel(model).push_to_hub("owner/name")    # or save_pretrained("folder")
    model = HubModel.from_pretrained("owner/name").model

config.json holds the model's card and the weights are .safetensors: no code is loaded, pickles are not read.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mvidx.checkpoint.files import CheckpointError, read_file
from mvidx.checkpoint.sources import load_content
from mvidx.convert import write_checkpoint
from mvidx.errors import UserError
from mvidx.inference.load import WEIGHTS_NAME
from mvidx.models.card import CardError, ModelCard, card_of

try:
    from huggingface_hub import PyTorchModelHubMixin, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
except ImportError:
    raise UserError("the Hugging Face Hub needs huggingface_hub: pip install 'mvidx[hub]'") from None

README = """---
{{ card_data }}
---

# {{ model_name }}

A model of [mvidx](https://pypi.org/project/mvidx) for {{ kind }} classification, {{ num_classes }} classes.

```python
import mvidx

model = mvidx.load_model("hf://OWNER/NAME")
print(mvidx.predict(model, "{{ example }}"))
```

config.json has its arguments, its preprocessing and the names of its classes.
"""


class HubModel(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="mvidx",
    license="apache-2.0",
    tags=["mvidx"],
    model_card_template=README,
):
    """A model with huggingface_hub's methods: save_pretrained, push_to_hub and from_pretrained.

    Args:
        card: of the model, as `ModelCard.to_dict` gives it; what config.json holds. A model itself may be given too.
    """

    def __init__(self, card: Mapping[str, Any] | nn.Module):
        super().__init__()
        if isinstance(card, nn.Module):
            self.model = card
        else:
            self.model = ModelCard.from_dict(card).build()
        self._hub_mixin_config = {"card": card_of(self.model).to_dict()}

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, [T,] H, W) -> logits (B, classes)."""
        return self.model(x)

    def _save_pretrained(self, save_directory: Path) -> None:
        """Weights under the model's own names, with the card: a file that `load_model` takes."""
        card = card_of(self.model)
        self._hub_mixin_config = {"card": card.to_dict()}
        write_checkpoint(save_directory / WEIGHTS_NAME, self.model.state_dict(), card)

    def generate_model_card(self, *args, **kwargs):
        """README.md of the repository."""
        card = card_of(self.model)
        images = card.preprocessing.takes_images
        described = {
            "model_name": card.name,
            "kind": "image" if images else "video",
            "num_classes": self.model.num_classes,
            "example": "image.jpg" if images else "video.mp4",
        }
        readme = super().generate_model_card(*args, **{**described, **kwargs})
        readme.data.pipeline_tag = f"{described['kind']}-classification"
        return readme

    @classmethod
    def _from_pretrained(cls, *, model_id: str, card: Mapping[str, Any] | None = None, **options) -> "HubModel":
        """Called by `from_pretrained` with what config.json holds."""
        map_location = options.pop("map_location", "cpu")
        strict = options.pop("strict", True)
        if card is None:
            raise UserError(f"{model_id}: its config.json has no card of mvidx")
        path = os.path.join(model_id, WEIGHTS_NAME) if os.path.isdir(model_id) else _download(model_id, **options)
        try:
            hub_model = cls(card)
        except CardError as error:
            raise UserError(f"{model_id}: {error}") from None
        load_content(hub_model.model, read_file(path), path, strict=strict)
        return hub_model.to(map_location).eval()


def _download(repo_id: str, **options) -> str:
    """Path of a repository's weights, fetched into huggingface_hub's cache. Raises CheckpointError."""
    try:
        return hf_hub_download(repo_id=repo_id, filename=WEIGHTS_NAME, **options)
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"checkpoint hf://{repo_id}: {reason}") from None


def download(name: str) -> str:
    """The local file of OWNER/NAME or OWNER/NAME@REVISION's weights. Raises CheckpointError."""
    repo_id, _, revision = name.partition("@")
    return _download(repo_id, revision=revision or None)
