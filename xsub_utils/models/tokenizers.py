"""Tokenizers trained on texts, in the layout of XLM-R."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from xsub_utils._internal.validation import invalid, whole, wrong_type

SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")  # the first four at their ids in XLM-R


def train_tokenizer(texts: Iterable[str], *, vocab_size: int = 2000, max_length: int = 128) -> Any:
    """A fast byte-pair tokenizer with the special tokens and templates of XLM-R.

    Texts are NFKC-normalised and cut at blanks and around punctuation, then merges are learnt. The same texts
    give the same tokenizer, which the parallel sums of a unigram model would not promise. Characters take up
    half of the vocabulary at most; the rarest beyond become `<unk>`.

    Args:
        texts: What to learn from.
        vocab_size: Sub-words with the special tokens; fewer if the texts are poorer.
        max_length: Longest input of the encoder, to which it truncates.

    Returns:
        A transformers `PreTrainedTokenizerFast`.

    Raises:
        TypeError: If something else than texts is given.
        ValueError: If there are no texts, or a size is too small.

    Source: Sennrich et al. 2016; templates as in Conneau et al. 2020.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    known = list(texts)
    if isinstance(texts, str) or not all(isinstance(text, str) for text in known):
        raise wrong_type("texts", "a list of texts", "a single one" if isinstance(texts, str) else "something else")
    if not any(text.strip() for text in known):
        raise invalid("texts", "at least one to learn from", "none")
    whole("vocab_size", vocab_size, len(SPECIAL_TOKENS) + 2)
    whole("max_length", max_length, 1)
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation("isolated")]
    )
    tokenizer.decoder = decoders.Metaspace()
    alphabet = _alphabet(known, tokenizer, vocab_size // 2)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    tokenizer.train_from_iterator(known, trainer)
    return _wrap(tokenizer, max_length)


def _alphabet(texts: list[str], tokenizer: Any, size: int) -> list[str]:
    """The most frequent characters; of equally frequent ones, which the trainer would choose at random, the first."""
    pieces = (tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str(text)) for text in texts)
    counts = Counter(character for cut in pieces for piece, _ in cut for character in piece)
    return sorted(counts, key=lambda character: (-counts[character], character))[:size]


def _wrap(tokenizer: Any, max_length: int) -> Any:
    """The tokenizer with the templates of XLM-R, as transformers wants it."""
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    start, pad, end, unknown, mask = SPECIAL_TOKENS
    tokenizer.post_processor = TemplateProcessing(
        single=f"{start} $A {end}",
        pair=f"{start} $A {end} {end} $B:0 {end}:0",
        special_tokens=[(token, SPECIAL_TOKENS.index(token)) for token in (start, end)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=start,
        cls_token=start,
        pad_token=pad,
        eos_token=end,
        sep_token=end,
        unk_token=unknown,
        mask_token=mask,
        model_max_length=max_length,
        model_input_names=["input_ids", "attention_mask"],
    )
