"""A web service that stores products and finds them by meaning and by words.

Run it with any ASGI server, for instance: fastapi dev app.py
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse
from models import Product
from pydantic import BaseModel, ConfigDict
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from pgembed.errors import InvalidQuery, PgembedError
from pgembed.sqlalchemy import await_embedded


class ProductIn(BaseModel):
    """A product as clients send it."""

    model_config = ConfigDict(from_attributes=True)

    sku: str
    name: str
    description: str
    category: str
    price: Decimal


class Found(BaseModel):
    """A product that a search found, and why."""

    product: ProductIn
    score: float
    passage: str | None


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Connect to DATABASE_URL, such as postgresql+psycopg://localhost/shop."""
    engine = create_async_engine(os.environ["DATABASE_URL"])
    app.state.sessions = async_sessionmaker(engine, expire_on_commit=False)
    yield
    await engine.dispose()


app = FastAPI(lifespan=lifespan)


@app.exception_handler(PgembedError)
async def explain(_: Request, error: PgembedError) -> JSONResponse:
    """Say what is wrong: with the query, or that no service encodes it."""
    status = 422 if isinstance(error, InvalidQuery) else 503
    return JSONResponse({"detail": str(error)}, status)


async def session() -> AsyncIterator[AsyncSession]:
    """Give each request a session."""
    async with app.state.sessions() as new:
        yield new


Database = Annotated[AsyncSession, Depends(session)]


@app.put("/products/{sku}")
async def put_product(
    sku: str, product: ProductIn, database: Database, wait: bool = False
) -> dict[str, Any]:
    """Store a product; with ?wait=true, answer when it can be found."""
    await database.merge(Product(**product.model_dump() | {"sku": sku}))
    await database.commit()
    if wait:
        await await_embedded(database, timeout=30)
    return {"sku": sku}


@app.get("/search")
async def search(
    q: str,
    database: Database,
    category: str | None = None,
    below: Decimal | None = None,
    page: int = 1,
) -> list[Found]:
    """Find products, five a page; conditions are met before the ranking."""
    found = Product.embedding.hybrid_search(q).limit(5).offset(5 * (page - 1))
    if category is not None:
        found = found.where(Product.category == category)
    if below is not None:
        found = found.where(Product.price < below)
    return [
        Found(
            product=ProductIn.model_validate(product),
            score=hit.score,
            passage=hit.content,
        )
        for product, hit in await database.execute(found)
    ]


@app.get("/products/{sku}/similar")
async def similar(sku: str, database: Database) -> list[ProductIn]:
    """Find the three products most like one."""
    rows = await database.scalars(Product.embedding.similar(sku, 3))
    return [ProductIn.model_validate(product) for product in rows]
