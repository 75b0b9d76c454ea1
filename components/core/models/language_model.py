# B batch, T tokens, E width, M tokens asked for, V vocabulary.
"""Causal language models by name: a tiny one made on the spot, or any that transformers can load.

The tiny one is a Llama (Touvron et al., arXiv 2302.13971) of about a hundred thousand weights. Its vocabulary is made
of the training texts: words, the unchanging parts of VMCBench's prompt, and frequent lines such as `B. red`. So a
question with four options is about a dozen tokens, and a reply is mostly one of them, which the model picks from its
context. To learn from scratch which letter stands before which word takes a model of this size many times as long.
"""

import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from components.core.data.questions import LETTERS
from components.core.models.torchvision_cpu import allow_torchvision_import

TINY = "tiny"
END, PADDING, UNKNOWN = "</s>", "<pad>", "<unk>"
MAX_POSITIONS = 4096
FRAME = ("Question: ", "Options:", "Answer with the option's letter from the given choices directly.")
WORD = r"\w+|[^\w\s]"
LINE = re.compile(rf"^[{LETTERS}]\. .+$", re.MULTILINE)
LEAST_REPEATS, MOST_LINES = 4, 8192  # of a line that becomes one token


class Files(Protocol):
    """A place that holds bytes by name."""

    def read(self, name: str) -> bytes: ...

    def write(self, name: str, data: bytes) -> None: ...

    def names(self, prefix: str = "") -> list[str]: ...


class LanguageModel(nn.Module):
    """A causal language model with its tokenizer.

    Args:
        model: A transformers model with a language modelling head.
        tokenizer: A transformers tokenizer.

    Raises:
        ValueError: The tokenizer has no end token, or doesn't tell A, B, C and D apart.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        super().__init__()
        self.model, self.tokenizer = model, tokenizer
        if tokenizer.eos_token_id is None:
            raise ValueError("its tokenizer has no end token")
        self.end_id: int = tokenizer.eos_token_id
        self.start_id: int | None = tokenizer.bos_token_id
        if len(set(self.first_ids(("x", "x", "x", "x")))) < len(LETTERS):
            raise ValueError("its tokenizer doesn't tell the letters A, B, C and D apart at the beginning of a reply")

    @property
    def width(self) -> int:
        """E, the width of a word vector."""
        return self.model.get_input_embeddings().embedding_dim

    def encode(self, text: str) -> list[int]:
        """Returns the token ids of a text, without start and end."""
        return self.tokenizer.encode(text, add_special_tokens=False)

    def first_ids(self, options: Sequence[str]) -> list[int]:
        """Returns the first token of the reply that names each option: the letter, or the whole line."""
        return [self.encode(reply_text(letter, text))[0] for letter, text in zip(LETTERS, options, strict=True)]

    def decode(self, ids: list[int]) -> str:
        """Returns the text of token ids, without special tokens."""
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        return re.sub(r" (?=[.,!?;:])", "", text)

    def embed(self, tokens_BT: Tensor) -> Tensor:
        """Returns word vectors (B, T, E)."""
        return self.model.get_input_embeddings()(tokens_BT)

    def logits(self, vectors_BTE: Tensor, mask_B1TT: Tensor, positions_BT: Tensor, is_asked_BT: Tensor) -> Tensor:
        """Returns the logits (M, V) of the tokens that follow the M asked positions, row by row.

        Only these are computed: with short replies the vocabulary's scores elsewhere would be most of the work.

        Args:
            vectors_BTE: Word vectors.
            mask_B1TT: True where a position (row) sees another (column).
            positions_BT: Where each token stands.
            is_asked_BT: The positions whose next token is wanted.
        """
        states_BTE = self.model.base_model(
            inputs_embeds=vectors_BTE, attention_mask=mask_B1TT, position_ids=positions_BT, use_cache=False
        ).last_hidden_state
        return self.model.get_output_embeddings()(states_BTE[is_asked_BT])


def reply_text(letter: str, text: str) -> str:
    """Returns the reply that is learnt: the letter, then the option that it stands for."""
    return f"{letter}. {text}"


def tiny_language_model(texts: Iterable[str], *, width: int, depth: int, num_heads: int, seed: int) -> LanguageModel:
    """Returns a new Llama, whose vocabulary is the words of `texts`; the same arguments give the same bits."""
    allow_torchvision_import()
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = word_tokenizer(texts)
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
    vocabulary = tokenizer.get_vocab()
    for line, number in tokenizer.get_added_vocab().items():
        if LINE.match(line):
            parts = [vocabulary[word] for word in re.findall(WORD, line) if word != "."]
            vectors_VE[number] = vectors_VE[parts].sum(dim=0) / len(parts) ** 0.5


def word_tokenizer(texts: Iterable[str]) -> Any:
    """Returns a tokenizer of words and marks, of the fixed parts of VMCBench's prompt, and of frequent option lines."""
    from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    counts = Counter(texts)
    known = [PADDING, UNKNOWN, END, *LETTERS, "."]
    words = sorted({word for text in counts for word in re.findall(WORD, text)} - set(known))
    lines: Counter[str] = Counter()
    for text, repeats in counts.items():
        for line in LINE.findall(text):
            lines[line] += repeats
    frequent = sorted((-repeats, line) for line, repeats in lines.items() if repeats >= LEAST_REPEATS)
    tokenizer = Tokenizer(
        models.WordLevel({word: number for number, word in enumerate(known + words)}, unk_token=UNKNOWN)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(WORD), behavior="removed", invert=True)
    tokenizer.add_tokens([AddedToken(part, normalized=False) for part in FRAME])
    tokenizer.add_tokens([AddedToken(line, normalized=False, single_word=True) for _, line in frequent[:MOST_LINES]])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PADDING, unk_token=UNKNOWN, eos_token=END, padding_side="right"
    )


def load_language_model(name_or_path: str) -> LanguageModel:
    """Returns a model that transformers knows by name or path.

    Raises:
        ValueError: It can't be loaded, or can't be used.
    """
    allow_torchvision_import()
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name_or_path)
        model = AutoModelForCausalLM.from_pretrained(name_or_path, use_safetensors=True)
        return LanguageModel(model, tokenizer)
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"the language model {name_or_path} can't be loaded ({reason})") from error


def save_language_model(files: Files, folder: str, language_model: LanguageModel) -> list[str]:
    """Writes model and tokenizer in Hugging Face's format below `folder`, and returns the names written."""
    with tempfile.TemporaryDirectory() as directory:
        language_model.model.save_pretrained(directory, safe_serialization=True)
        language_model.tokenizer.save_pretrained(directory)
        names = []
        for path in sorted(p for p in Path(directory).rglob("*") if p.is_file()):
            names.append(f"{folder}/{path.relative_to(directory).as_posix()}")
            files.write(names[-1], path.read_bytes())
    return names


def read_language_model(files: Files, folder: str) -> LanguageModel:
    """Returns what `save_language_model` wrote."""
    with tempfile.TemporaryDirectory() as directory:
        for name in files.names(f"{folder}/"):
            target = Path(directory) / name.removeprefix(f"{folder}/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(files.read(name))
        return load_language_model(directory)
