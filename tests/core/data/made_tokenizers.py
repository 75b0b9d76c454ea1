"""Fast tokenizers of the kinds that language models have, trained on a few sentences."""

import functools
import json
from typing import Any

from components.core.data.conversation import SYSTEM

SENTENCES = [
    SYSTEM,
    "USER: What is in the picture? ASSISTANT: A cat and a dog.",
    "USER: How many colours are there? ASSISTANT: There are two, red and blue: red on top!",
    "Question: What is it?\nOptions:\nA. red\nB. blue\nAnswer with the option's letter directly.\n",
    "Die Straße ist grün. Ein Café in München.",
] * 3
KINDS = ("byte_level", "llama", "unigram")


@functools.cache
def made_tokenizer(kind: str) -> Any:
    """Returns a tokenizer of one of `KINDS`.

    `byte_level` is GPT-2's kind: without a start token, spaces part of the word after them. `llama` is the first
    Llama's: a space goes before every text, unknown characters become bytes, `<s>` first and `</s>` last. `unigram` is
    SentencePiece's other model, with a space before the first word only.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    if kind == "byte_level":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=["<|end|>"], initial_alphabet=alphabet)
        tokenizer.train_from_iterator(SENTENCES, trainer)
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
        return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>")
    special = ["<unk>", "<s>", "</s>"]
    if kind == "llama":
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        every_byte = [f"<0x{number:02X}>" for number in range(256)]
        tokenizer.train_from_iterator(
            SENTENCES, trainers.BpeTrainer(vocab_size=700, special_tokens=special + every_byte)
        )
        tokenizer = _without_special_bytes(tokenizer)
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        tokenizer.add_special_tokens(special)
    else:
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.train_from_iterator(
            SENTENCES, trainers.UnigramTrainer(vocab_size=150, special_tokens=special, unk_token="<unk>")
        )
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def _without_special_bytes(tokenizer: Any) -> Any:
    """Returns the same model where the 256 bytes are ordinary tokens, which they can't be while it is trained."""
    from tokenizers import Tokenizer

    definition = json.loads(tokenizer.to_str())
    definition |= {"added_tokens": [], "pre_tokenizer": None}
    return Tokenizer.from_str(json.dumps(definition))
