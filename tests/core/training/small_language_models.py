# B rows, N picture vectors, T tokens, D width of a picture's vector.
"""A small Llama that learns sentences after pictures, as the large one of train_vlm, for trainings of a second."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.core.models.lora import add_lora
from components.core.models.torchvision_cpu import allow_torchvision_import
from components.core.objectives.objective import LossAndMetrics, Objective
from components.core.training import distributed
from components.core.training.checkpoint import Checkpoints
from components.core.training.loop import Curve, LoopConfig, train
from components.runtime.storage import LocalFolder

NUM_STEPS, GLOBAL_BATCH, NUM_TOKENS, NUM_VECTORS, PICTURE_WIDTH, VOCABULARY = 6, 8, 10, 3, 12, 37


@dataclass
class Sentences:
    """Rows of pictures and of the tokens that follow them."""

    pictures_BND: Tensor
    tokens_BT: Tensor

    def to(self, device: torch.device | str) -> "Sentences":
        return replace(self, pictures_BND=self.pictures_BND.to(device), tokens_BT=self.tokens_BT.to(device))


class Sentence(Objective):
    """Cross-entropy of every token after its picture; the language model trains as `trained` says."""

    def __init__(self, language_model: Any, trained: str) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            self.projector = nn.Linear(PICTURE_WIDTH, language_model.config.hidden_size)
        self.language_model = language_model
        if trained == "projector":
            language_model.requires_grad_(False)
        elif trained == "last layer":
            language_model.requires_grad_(False)
            language_model.model.layers[-1].requires_grad_(True)
        elif trained == "lora":
            add_lora(language_model, rank=2, alpha=4, seed=3)
        else:
            assert trained == "all"

    def loss(self, batch: Sentences, step: int) -> LossAndMetrics:
        words_BTE = self.language_model.get_input_embeddings()(batch.tokens_BT)
        vectors = torch.cat([self.projector(batch.pictures_BND), words_BTE], dim=1)
        logits = self.language_model(inputs_embeds=vectors, use_cache=False).logits[:, NUM_VECTORS - 1 : -1]
        loss = F.cross_entropy(logits.flatten(0, 1).float(), batch.tokens_BT.flatten())
        return loss, {"loss": loss.detach()}

    def unsaved(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.language_model.parameters() if not parameter.requires_grad]


def llama(*, depth: int = 3, seed: int = 0, is_tied: bool = True) -> Any:
    """Returns a Llama with random weights."""
    allow_torchvision_import()
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=depth,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.1,
        tie_word_embeddings=is_tied,
        use_cache=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def sentences(first_step: int) -> Iterator[Sentences]:
    """Yields this rank's rows of the global batches, without end."""
    place = distributed.world()
    share = GLOBAL_BATCH // place.size
    rows = slice(place.rank * share, (place.rank + 1) * share)
    step = first_step
    while True:
        generator = torch.Generator().manual_seed(step)
        pictures_BND = torch.randn(GLOBAL_BATCH, NUM_VECTORS, PICTURE_WIDTH, generator=generator)
        tokens_BT = torch.randint(0, VOCABULARY, (GLOBAL_BATCH, NUM_TOKENS), generator=generator)
        yield Sentences(pictures_BND[rows], tokens_BT[rows])
        step += 1


def run_sentences(objective: Objective, folder: Path, *, stop_at: int = 0, **changes: Any) -> Curve:
    """Trains; where stop_at is given, it's asked to stop when that many steps are done."""
    reported: list[int] = []
    config = LoopConfig(
        num_steps=NUM_STEPS,
        learning_rate=1e-3,
        warmup_steps=2,
        beta1=0.9,
        beta2=0.95,
        epsilon=1e-4,  # far above the noise of float32 sums, of which AdamW would make whole steps
        clip_norm=1.0,
        checkpoint_every_steps=2,
        log_every_steps=1,
        max_nonfinite_steps=3,
    )
    batches: Callable[[int], Iterator[Sentences]] = sentences
    return train(
        objective,
        batches,
        replace(config, **changes),
        checkpoints=Checkpoints(LocalFolder(folder)),
        report=lambda step, values: reported.append(step),
        should_stop=lambda: bool(reported) and reported[-1] == stop_at,
        tell=lambda event, **facts: None,
    )
