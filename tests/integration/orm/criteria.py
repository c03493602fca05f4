"""Conditions in SQLAlchemy, beside what they mean in Python."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import (
    ColumnElement,
    and_,
    any_,
    exists,
    func,
    literal,
    or_,
    select,
    tuple_,
)

from tests.integration.orm.models import Article, Author, Comment


def _all(_: Article) -> bool:
    return True


def _none(_: Article) -> bool:
    return False


def _commented(article: Article) -> bool:
    return (article.id - 1) % 10 == 0


def _by_o_hara(article: Article) -> bool:
    return article.id % 2 == 1 and article.id <= 30


CRITERIA: dict[str, tuple[ColumnElement[bool], Callable[[Article], bool]]] = {
    "comparison": (Article.price < 9, lambda a: a.price < 9),
    "quote": (Article.author.has(Author.name == "O'Hara"), _by_o_hara),
    "like": (Article.body.like("%in oslo, 100\\% %"), lambda a: "oslo" in a.body),
    "contains": (Article.body.contains("100% \\", autoescape=True), _all),
    "in": (Article.id.in_([1, 3, 5, 900]), lambda a: a.id in (1, 3, 5)),
    "in nothing": (Article.id.in_([]), _none),
    "not in": (Article.id.not_in([1, 3]), lambda a: a.id not in (1, 3)),
    "not in nothing": (Article.id.not_in([]), _all),
    "in strings": (Article.title.in_(["cheap flights 2", "'"]), lambda a: a.id == 3),
    "tuple in": (
        tuple_(Article.id, Article.category).in_([(1, "travel"), (3, "kitchen")]),
        lambda a: a.id == 1,
    ),
    "or": (
        or_(Article.price < 3, Article.price > 37),
        lambda a: a.price < 3 or a.price > 37,
    ),
    "and": (and_(Article.price > 3, Article.price < 9), lambda a: 3 < a.price < 9),
    "not": (~(Article.price < 30), lambda a: a.price >= 30),
    "null": (Article.author_id.is_(None), lambda a: a.id > 30),
    "exists": (Article.comments.any(Comment.text == "good"), _commented),
    "own exists": (exists().where(Comment.article_id == Article.id), _commented),
    "subquery": (Article.id.in_(select(Comment.article_id)), _commented),
    "array": (Article.tags.contains(["rome"]), lambda a: "rome" in a.tags),
    "any": (literal("oslo") == any_(Article.tags), lambda a: "oslo" in a.tags),
    "json": (Article.meta["stars"].as_integer() == 2, lambda a: a.meta["stars"] == 2),
    "json path": (
        Article.meta[("stars",)].as_string() == "2",
        lambda a: a.meta["stars"] == 2,
    ),
    "function": (func.length(Article.title) > 15, lambda a: len(a.title) > 15),
    "arithmetic": (Article.id % 4 == 3, lambda a: a.id % 4 == 3),
    "regexp": (Article.title.regexp_match("[a-z] [0-9]$"), lambda a: a.id <= 10),
    "injection": (Article.title == "') or true; drop table article; --", _none),
    "format": (Article.title != "%1$L %s %", _all),
}
