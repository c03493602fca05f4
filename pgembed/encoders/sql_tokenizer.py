"""Tokenizers that PostgreSQL can run by itself: see sql/functions/models/tokens.sql."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from pgembed.errors import InvalidParameter

if TYPE_CHECKING:
    from collections.abc import Mapping

_KINDS: Final = {"WordPiece": "wordpiece", "WordLevel": "words"}
_LONGEST_TOKEN: Final = 2000  # bytes: an index takes no longer ones
_HINT: Final = (
    "PostgreSQL can cut texts by BERT's WordPiece and into whole words, with "
    "BertNormalizer and BertPreTokenizer. Leave other models to the service: "
    "pgembed model add NAME --provider static."
)


@dataclass(frozen=True, slots=True)
class SqlTokenizer:
    """A tokenizer as `pgembed.tokenizer` and `pgembed.token` have it."""

    kind: Literal["wordpiece", "words"]
    clean_text: bool
    split_ideographs: bool
    strip_accents: bool
    lowercase: bool
    special_pattern: str | None
    unknown_id: int | None
    continuing_prefix: str
    longest_word: int
    vocabulary: Mapping[str, int]

    @property
    def longest_token(self) -> int:
        """Length of the longest token, in characters."""
        return max(map(len, self.vocabulary), default=1)

    @property
    def digest(self) -> str:
        """SHA-256 over all of it."""
        said = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(said.encode()).hexdigest()


def sql_tokenizer(tokenizer_json: str) -> SqlTokenizer:
    """Read a tokenizer of the `tokenizers` library, without its truncation.

    Args:
        tokenizer_json: As `Encoder.tokenizer_json()` gives it.

    Raises:
        InvalidParameter: PostgreSQL cannot run it, with the part that it cannot.
    """
    found = json.loads(tokenizer_json)
    model: dict[str, Any] = found["model"]
    kind = _KINDS.get(model.get("type", ""))
    if kind is None:
        raise _not_in_sql(f"its model is {model.get('type')}")
    normalizer = _only(found.get("normalizer"), "normalizers")
    pre_tokenizer = _only(found.get("pre_tokenizer"), "pretokenizers")
    if normalizer is not None and normalizer["type"] != "BertNormalizer":
        raise _not_in_sql(f"its normalizer is {_named(found['normalizer'])}")
    if pre_tokenizer is None or pre_tokenizer["type"] != "BertPreTokenizer":
        raise _not_in_sql(f"its pre-tokenizer is {_named(found.get('pre_tokenizer'))}")
    does = normalizer or {}
    lowercase = bool(does.get("lowercase"))
    strips = does.get("strip_accents")
    vocabulary: dict[str, int] = {
        token: number for token, number in model["vocab"].items() if "\0" not in token
    }
    special = _special(found.get("added_tokens") or [])
    vocabulary |= special
    for token in vocabulary:
        if len(token) > _LONGEST_TOKEN // 4 and len(token.encode()) > _LONGEST_TOKEN:
            raise _not_in_sql(f"a token has {len(token)} characters: {token[:40]!r}…")
    return SqlTokenizer(
        kind="wordpiece" if kind == "wordpiece" else "words",
        clean_text=bool(does.get("clean_text")),
        split_ideographs=bool(does.get("handle_chinese_chars")),
        # As the library has it: None is as lower case.
        strip_accents=lowercase if strips is None else bool(strips),
        lowercase=lowercase,
        special_pattern="|".join(map(_escaped, special)) or None,
        unknown_id=vocabulary.get(model.get("unk_token", "")),
        continuing_prefix=model.get("continuing_subword_prefix", ""),
        longest_word=model.get("max_input_chars_per_word", _LONGEST_TOKEN),
        vocabulary=vocabulary,
    )


def _only(part: dict[str, Any] | None, inner: str) -> dict[str, Any] | None:
    """Take a sequence of one for that one."""
    if part is not None and part.get("type") == "Sequence" and len(part[inner]) == 1:
        one: dict[str, Any] = part[inner][0]
        return one
    return part


def _special(added: list[dict[str, Any]]) -> dict[str, int]:
    """Give the tokens that are found in a text as it is written, by their ids."""
    special: dict[str, int] = {}
    for token in added:
        if token.get("normalized") or token.get("single_word") or not token["content"]:
            raise _not_in_sql(
                f"its added token {token['content']!r} is found in normalized text, or "
                "only as a word"
            )
        special[token["content"]] = token["id"]
    for one in special:
        if any(other != one and other.startswith(one) for other in special):
            raise _not_in_sql(f"its added token {one!r} is the beginning of another")
    return special


def _escaped(token: str) -> str:
    return "".join(char if char.isalnum() else f"\\{char}" for char in token)


def _named(part: dict[str, Any] | None) -> str:
    if part is None:
        return "none"
    inner = part.get("normalizers") or part.get("pretokenizers") or []
    return " of ".join(
        filter(None, [str(part["type"]), ", ".join(one["type"] for one in inner)])
    )


def _not_in_sql(why: str) -> InvalidParameter:
    return InvalidParameter(
        f"PostgreSQL cannot run this model's tokenizer: {why}", hint=_HINT
    )
