"""Cutting texts into chunks that fit a model, at sentence and paragraph boundaries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, Protocol, TypeAlias, get_args

from semantic_text_splitter import TextSplitter

from pgembed.errors import InvalidParameter, TextError

if TYPE_CHECKING:
    from collections.abc import Sequence

ChunkingKind: TypeAlias = Literal["sentences", "none"]

DEFAULT_SIZE: Final = 256  # tokens, for encoders that know no limit
CHARACTERS_PER_TOKEN: Final = 4  # where there is no tokenizer
# A sentence of ordinary prose fits: chunks overlap by one where it does.
_OVERLAP_SHARE: Final = 8
# Without a tokenizer a size in tokens is a guess that must hold for other scripts too.
_GUESSED_LIMIT: Final = 512
# The text is cut within a window that moves along. The splitter's time for one chunk
# grows with all the text before the next boundary: 400,000 CJK characters without a
# space took minutes as a whole and seconds by windows, with equal chunks.
_WINDOW: Final = 12  # characters for each token of the size
_SMALLEST_WINDOW: Final = 512  # characters


class Tokenizing(Protocol):
    """What a chunker asks of an encoder."""

    @property
    def max_tokens(self) -> int | None:
        """Longest input, special tokens included."""

    @property
    def document_prompt(self) -> str:
        """Put before every document, part of its tokens."""

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Count tokens with special tokens and document prompt."""

    def tokenizer_json(self) -> str | None:
        """Give the Hugging Face tokenizer as JSON."""


class Chunker:
    """Cuts a text into chunks of bounded size; the same text always gives the same.

    Boundaries are, in this order of preference: paragraphs, lines, sentences, words,
    characters (Unicode's rules). Neighbouring chunks share whole sentences up to
    `overlap`, or nothing where not one fits.

    Attributes:
        kind: `sentences`, or `none`: the text stays whole and the model truncates it.
        size: Most tokens in a chunk, special tokens and prompt not counted. Without
            a tokenizer a token stands for 4 characters.
        overlap: Most tokens that two neighbouring chunks share.
    """

    def __init__(
        self,
        kind: ChunkingKind = "sentences",
        size: int = DEFAULT_SIZE,
        overlap: int = 0,
        tokenizer_json: str | None = None,
    ) -> None:
        """Prepare a chunker; parsing the tokenizer takes some 10 ms.

        Args:
            kind: `sentences` or `none`.
            size: Most tokens in a chunk, at least 1.
            overlap: Most tokens shared by neighbours, below `size`.
            tokenizer_json: Hugging Face fast tokenizer without truncation; None
                counts 4 characters as a token.

        Raises:
            InvalidParameter: A parameter is out of its range.
        """
        if kind not in get_args(ChunkingKind):
            raise InvalidParameter(
                f"unknown chunking {kind!r}", hint="Use 'sentences' or 'none'."
            )
        if size < 1:
            raise InvalidParameter(f"chunk_size must be at least 1 token, not {size}")
        if not 0 <= overlap < size:
            raise InvalidParameter(
                f"chunk_overlap must be at least 0 and below chunk_size ({size}), "
                f"not {overlap}"
            )
        self.kind = kind
        self.size = size
        self.overlap = overlap
        self._window = max(_SMALLEST_WINDOW, size * _WINDOW)
        if tokenizer_json is None:
            self._splitter = TextSplitter(
                size * CHARACTERS_PER_TOKEN, overlap * CHARACTERS_PER_TOKEN
            )
        else:
            self._splitter = TextSplitter.from_huggingface_tokenizer_str(
                tokenizer_json, size, overlap
            )

    @classmethod
    def for_encoder(
        cls,
        encoder: Tokenizing,
        kind: ChunkingKind = "sentences",
        size: int | None = None,
        overlap: int | None = None,
    ) -> Chunker:
        """Make a chunker whose chunks an encoder takes without truncation.

        Args:
            encoder: Its limit, tokenizer and document prompt decide the size.
            kind: `sentences` or `none`.
            size: Most tokens in a chunk; None: as many as fit.
            overlap: Most tokens shared by neighbours; None: an eighth of the size.

        Raises:
            InvalidParameter: A chunk of `size` tokens would not fit the model.
        """
        tokenizer = encoder.tokenizer_json()
        limit = encoder.max_tokens
        if limit is None:
            fits = None
            default = DEFAULT_SIZE
        else:
            # Special tokens and prompt. A prompt may merge with the text's first
            # letters in another way than alone: one token to spare.
            taken = encoder.count_tokens([""])[0] + bool(encoder.document_prompt)
            fits = limit - taken
            if fits < 1:
                raise InvalidParameter(
                    f"the document prompt leaves no room for text: it takes {taken} "
                    f"of the model's {limit} tokens",
                    hint="Register the model with a shorter document_prompt.",
                )
            default = fits if tokenizer else min(fits, _GUESSED_LIMIT)
        if size is None:
            size = default
        elif fits is not None and size > fits and kind != "none":
            raise InvalidParameter(
                f"chunk_size {size} is more than the model takes: at most {fits} "
                "tokens beside special tokens and document prompt"
            )
        if overlap is None:
            overlap = size // _OVERLAP_SHARE
        return cls(kind, size, overlap, tokenizer)

    def chunk(self, text: str) -> list[str]:
        """Cut a text.

        Takes time in proportion to the text, whatever it is made of, and leaves
        other threads running meanwhile.

        Returns:
            Chunks in order, without white space at their ends. Every other character
            of the text is in at least one. Empty for a text of white space only.

        Raises:
            TextError: The text is not valid Unicode (a lone surrogate).
        """
        if not text or text.isspace():
            return []
        if not text.isascii():
            _check(text)
        if self.kind == "none":
            return [text]
        return [chunk for _, chunk in self._split(text)]

    def _split(self, text: str) -> list[tuple[int, str]]:
        """Give each chunk with the character it starts at."""
        chunks: list[tuple[int, str]] = []
        start = 0
        while start < len(text):
            end = start + self._window
            found = self._splitter.chunk_indices(text[start:end])
            following = end
            # The window may have cut the last chunk short: unless it is the only
            # one, the next window begins with it.
            if end < len(text) and len(found) > 1 and found[-1][0] > 0:
                following = start + found.pop()[0]
            chunks += [(start + at, chunk) for at, chunk in found]
            start = following
        return chunks


def _check(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise TextError(
            f"the text has a lone surrogate at character {exc.start}",
            hint="Decode the source as UTF-8 with errors='replace'.",
        ) from exc
