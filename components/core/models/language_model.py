# B batch, S places, T tokens, E width, M of these chosen, V vocabulary.
"""Causal language models by name: a tiny one made on the spot, or any that transformers can load.

The tiny one is a Llama (Touvron et al., arXiv 2302.13971) of about a hundred thousand weights. Its vocabulary is made
from the training texts: bytes merged to words, the unchanging parts of VMCBench's prompt, and frequent lines such as
`B. red`. So a question with four options is about a dozen tokens, and a reply is mostly one of them, which the model
picks from its context. To learn from scratch which letter stands before which word takes a model of this size many
times as long.
"""

import contextlib
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from io import BufferedIOBase
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from components.core.data.questions import LETTERS
from components.core.models.torchvision_cpu import allow_torchvision_import

TINY = "tiny"
END, PADDING = "</s>", "<pad>"
MAX_POSITIONS = 4096
FRAME = ("Question: ", "Options:", "Answer with the option's letter from the given choices directly.")
WORD = r"\w+|[^\w\s]"
LINE = re.compile(rf"^[{LETTERS}]\. .+$", re.MULTILINE)
LEAST_REPEATS, MOST_LINES = 4, 8192  # of a line that becomes one token
MOST_MERGES = 32_768
MAX_SHARD = "4GB"  # of saved weights
SCALED = ("final_logit_softcapping", "logit_scale", "logits_scaling")  # configurations of Gemma 2, Cohere, Granite


class Files(Protocol):
    """A place that holds files by name; one on this machine's disk says so by an attribute `path`."""

    def open(self, name: str) -> BufferedIOBase: ...

    def writer(self, name: str) -> AbstractContextManager[BufferedIOBase]: ...

    def names(self, prefix: str = "") -> list[str]: ...


class LanguageModel(nn.Module):
    """A causal language model with its tokenizer.

    Args:
        model: A transformers model with a language modelling head.
        tokenizer: A transformers tokenizer.

    Raises:
        ValueError: The tokenizer has no end token, or the model's scores are not the product of its last states and
            its output embedding.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        super().__init__()
        self.model, self.tokenizer = model.eval(), tokenizer
        for name in SCALED:
            if getattr(model.config, name, None) not in (None, 1):
                raise ValueError(f"its scores are changed by {name}: give a model such as Llama, Mistral or Qwen")
        if tokenizer.eos_token_id is None:
            raise ValueError("its tokenizer has no end token")
        self.end_id: int = tokenizer.eos_token_id
        self.start_id: int | None = tokenizer.bos_token_id

    @property
    def width(self) -> int:
        """E, the width of a word vector."""
        return self.model.get_input_embeddings().embedding_dim

    def encode(self, text: str) -> list[int]:
        """Returns the token ids of a text, without start and end."""
        return self.tokenizer.encode(text, add_special_tokens=False)

    def first_ids(self, options: Sequence[str]) -> list[int]:
        """Returns the first token of the reply that names each option: the letter, or the whole line."""
        letters = LETTERS[: len(options)]
        return [self.encode(reply_text(letter, text))[0] for letter, text in zip(letters, options, strict=True)]

    def decode(self, ids: list[int]) -> str:
        """Returns the text of token ids, without special tokens."""
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        return re.sub(r" (?=[.,!?;:])", "", text)

    def embed(self, tokens_BT: Tensor) -> Tensor:
        """Returns word vectors (B, T, E)."""
        return self.model.get_input_embeddings()(tokens_BT)

    def states(
        self, vectors_BSE: Tensor, mask_B1SS: Tensor | None = None, positions_BS: Tensor | None = None
    ) -> Tensor:
        """Returns the last states (B, S, E), after the final norm.

        Args:
            vectors_BSE: Words, or what stands in their place.
            mask_B1SS: True where a position (row) sees another (column); without, each sees all up to itself.
            positions_BS: Where each stands; without, as they come.
        """
        return self.model.base_model(
            inputs_embeds=vectors_BSE, attention_mask=mask_B1SS, position_ids=positions_BS, use_cache=False
        ).last_hidden_state

    def scores(self, states_ME: Tensor) -> Tensor:
        """Returns the logits (M, V) of the tokens that follow these states."""
        return self.model.get_output_embeddings()(states_ME)

    def some_scores(self, states_BE: Tensor, ids_BM: Tensor) -> Tensor:
        """Returns the logits (B, M) of some tokens each, in float32: in bfloat16 equal ones are frequent."""
        head = self.model.get_output_embeddings()
        scores_BM = (head.weight[ids_BM].float() @ states_BE.float()[:, :, None])[:, :, 0]
        return scores_BM if head.bias is None else scores_BM + head.bias[ids_BM].float()

    def train(self, mode: bool = True) -> "LanguageModel":
        """Returns itself; the model stays in evaluation mode, which has no dropout."""
        super().train(mode)
        self.model.eval()
        return self


def reply_text(letter: str, text: str) -> str:
    """Returns the reply that is learnt: the letter, then the option that it stands for."""
    return f"{letter}. {text}"


def tiny_language_model(texts: Iterable[str], *, width: int, depth: int, num_heads: int, seed: int) -> LanguageModel:
    """Returns a new Llama, whose vocabulary is the words of `texts`; the same arguments give the same bits."""
    allow_torchvision_import()
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = bpe_tokenizer(texts)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=depth,
        num_attention_heads=num_heads,
        num_key_value_heads=num_heads,
        max_position_embeddings=MAX_POSITIONS,
        initializer_range=0.1,  # 0.02 is for widths in the thousands; this is 1 / sqrt(100)
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    _start_from_parts(model.model.embed_tokens.weight, tokenizer)
    return LanguageModel(model, tokenizer)


@torch.no_grad()
def _start_from_parts(vectors_VE: Tensor, tokenizer: Any) -> None:
    """Makes the vector of each line the sum of its words', at their length, as is usual for tokens that are added.

    So `A. red` and `B. red` have something in common from the start: what is learnt of one holds for the other.
    """
    for line, number in tokenizer.get_added_vocab().items():
        if LINE.match(line):
            words = " ".join(word for word in re.findall(WORD, line) if word != ".")
            parts = tokenizer.encode(words, add_special_tokens=False)
            vectors_VE[number] = vectors_VE[parts].sum(dim=0) / len(parts) ** 0.5


def bpe_tokenizer(texts: Iterable[str]) -> Any:
    """Returns a tokenizer by byte pair encoding, made of the words of the texts.

    Sennrich et al., arXiv 1508.07909, on bytes, as GPT-2 does it. The words of the texts are a token each as long as
    MOST_MERGES pairs suffice; others are pieces down to single bytes, so that every text can be read. The fixed parts
    of VMCBench's prompt and frequent option lines are tokens of their own.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    counts = Counter(texts)
    words = sorted({word for text in counts for word in re.findall(WORD, text)} | set(LETTERS) | {"."})
    lines: Counter[str] = Counter()
    for text, repeats in counts.items():
        for line in LINE.findall(text):
            lines[line] += repeats
    frequent = sorted((-repeats, line) for line, repeats in lines.items() if repeats >= LEAST_REPEATS)
    tokenizer = Tokenizer(models.BPE())
    each_word = pre_tokenizers.Split(Regex(WORD), behavior="removed", invert=True)
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([each_word, as_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + MOST_MERGES,
        special_tokens=[PADDING, END],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(words, trainer)
    tokenizer.add_tokens([AddedToken(part, normalized=False) for part in FRAME])
    tokenizer.add_tokens([AddedToken(line, normalized=False, single_word=True) for _, line in frequent[:MOST_LINES]])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PADDING, eos_token=END, padding_side="right")


def load_language_model(name_or_path: str, dtype: torch.dtype = torch.float32) -> LanguageModel:
    """Returns a model that transformers knows by name or path, in evaluation mode.

    Args:
        name_or_path: On the hub, or a folder.
        dtype: Of the weights: float32 to be trained (autocast or FSDP compute in bfloat16), bfloat16 to be used only.

    Raises:
        ValueError: It can't be loaded, or can't be used.
    """
    allow_torchvision_import()
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    try:
        tokenizer = AutoTokenizer.from_pretrained(name_or_path, trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(
            name_or_path, use_safetensors=True, dtype=dtype, trust_remote_code=False
        )
        model.generation_config = GenerationConfig()  # its own may ask for sampling, or punish repetition
        return LanguageModel(model, tokenizer)
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"the language model {name_or_path} can't be loaded ({reason})") from error


def save_language_model(files: Files, folder: str, language_model: LanguageModel) -> list[str]:
    """Writes model and tokenizer in Hugging Face's format below `folder`, and returns the names written."""
    with tempfile.TemporaryDirectory() as directory:
        language_model.model.save_pretrained(directory, max_shard_size=MAX_SHARD)
        language_model.tokenizer.save_pretrained(directory)
        names = []
        for path in sorted(p for p in Path(directory).rglob("*") if p.is_file()):
            names.append(f"{folder}/{path.relative_to(directory).as_posix()}")
            with path.open("rb") as source, files.writer(names[-1]) as target:
                shutil.copyfileobj(source, target)
    return names


def read_language_model(files: Files, folder: str, dtype: torch.dtype = torch.float32) -> LanguageModel:
    """Returns what `save_language_model` wrote."""
    with _on_disk(files, folder) as directory:
        return load_language_model(str(directory), dtype)


@contextlib.contextmanager
def _on_disk(files: Files, folder: str) -> Iterator[Path]:
    """Yields a directory with the files below `folder`: where they are, or else a copy for the time being."""
    path = getattr(files, "path", None)
    if isinstance(path, Path):
        yield path / folder
        return
    with tempfile.TemporaryDirectory() as directory:
        for name in files.names(f"{folder}/"):
            copy = Path(directory) / name.removeprefix(f"{folder}/")
            copy.parent.mkdir(parents=True, exist_ok=True)
            with files.open(name) as source, copy.open("wb") as target:
                shutil.copyfileobj(source, target)
        yield Path(directory)
