"""Trains a model by sentence-transformers' own trainer, and stops early."""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pgembed.errors import DimensionMismatch, InvalidParameter, MissingExtra

try:
    import accelerate  # noqa: F401 - what the trainer wants
    import torch
    import transformers
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer import losses
    from sentence_transformers.sentence_transformer.training_args import BatchSamplers
except ImportError as exc:
    raise MissingExtra("tune") from exc

from pgembed.encoders.sentence_transformers import (
    SentenceTransformersEncoder,
    is_out_of_memory,
    quiet,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

#: Batches of more pairs are computed in parts of so many, with the same result.
MINI_BATCH: Final = 32
#: How often the loss on the held-out part is looked at.
EVALUATIONS_AN_EPOCH: Final = 2
_WARM_UP: Final = 0.1  # share of the steps


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingOptions:
    """How to train.

    Attributes:
        epochs: How often all pairs are read, at most.
        most_steps: Batches at most; None: as many as the epochs have.
        batch_size: Pairs in a batch: the other pairs' documents are negatives of each
            query, so that more make it harder.
        learning_rate: The highest; it rises to it and falls again.
        max_tokens: Cut texts after so many while training; None: where the model does.
        matryoshka: Lengths to which the vectors may be cut afterwards.
        patience: Stop when the loss on the held-out part was no lower so many times.
        seed: Of the order of the pairs.
    """

    epochs: int = 3
    most_steps: int | None = None
    batch_size: int = 32
    learning_rate: float = 2e-5
    max_tokens: int | None = None
    matryoshka: Sequence[int] = ()
    patience: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        """Check each."""
        for name, least in (
            *(("epochs", 1), ("most_steps", 1), ("batch_size", 2)),
            *(("max_tokens", 8), ("patience", 1), ("seed", 0)),
        ):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InvalidParameter(
                    f"{name} is {value}", hint=f"Give {least} or more."
                )
        if not 0 < self.learning_rate <= 1:  # NaN is not either
            raise InvalidParameter(
                f"learning_rate is {self.learning_rate}",
                hint="Give more than 0; 0.00002 is usual.",
            )


@dataclass(frozen=True, slots=True)
class Row:
    """A query, a document that answers it, and documents that do not."""

    query: str
    positive: str
    negatives: tuple[str, ...] = ()

    def columns(self) -> dict[str, str]:
        """Name the texts as the loss wants them: their order is what counts."""
        negatives = {f"negative_{n}": one for n, one in enumerate(self.negatives)}
        return {"anchor": self.query, "positive": self.positive, **negatives}


@dataclass(frozen=True, slots=True)
class Trained:
    """What training did.

    Attributes:
        steps: Batches that the model that was kept has seen.
        most_steps: Batches that were planned.
        losses: On the held-out part, by the number of steps.
    """

    steps: int
    most_steps: int
    losses: dict[int, float]


def check_trainable(
    encoder: SentenceTransformersEncoder, matryoshka: Sequence[int]
) -> None:
    """Refuse a model that this training does not suit, or lengths that it has not.

    Raises:
        InvalidParameter: It is no transformer.
        DimensionMismatch: Its vectors are shorter.
    """
    kind = type(encoder.transformer).__name__
    if kind != "Transformer":
        raise InvalidParameter(
            f"model {encoder.name!r} cannot be fine-tuned: it begins with {kind}, and "
            "is no transformer",
            hint="Tune the transformer that it was made of, and distil that again.",
        )
    for length in matryoshka:
        if not 1 <= length <= encoder.dimensions:
            raise DimensionMismatch(
                f"model {encoder.name!r} has {encoder.dimensions} dimensions, so "
                f"{length} are not possible",
                hint="Give as many, or fewer.",
            )


def train(
    encoder: SentenceTransformersEncoder,
    rows: Sequence[Row],
    held_out: Sequence[Row],
    options: TrainingOptions,
    progress: Callable[[str, float], None] = lambda _what, _done: None,
) -> Trained:
    """Train a model in place; what had the lowest loss on the held-out part is kept.

    Args:
        encoder: Its weights are changed, and its fingerprint no longer true: save it.
        rows: All with as many negatives.
        held_out: Of other queries.
        options: How.
        progress: Told what is being done, and the share of it that is done, 0 to 1.

    Raises:
        InvalidParameter: The loss is no number, or memory ran out.
    """
    model = encoder.library_model
    limit, prompts = model.max_seq_length, _prompts(encoder, rows[0])
    steps, every = _steps(len(rows), options)
    watch = _Watch(steps, progress)
    with tempfile.TemporaryDirectory(prefix="pgembed-tune-") as folder, quiet():
        trainer = _Trainer(
            model=model,
            args=_arguments(
                encoder, folder, prompts, options, steps=steps, every=every
            ),
            train_dataset=Dataset.from_list([row.columns() for row in rows]),
            eval_dataset=Dataset.from_list([row.columns() for row in held_out]),
            loss=_loss(model, encoder.dimensions, options),
            callbacks=[
                watch,
                transformers.EarlyStoppingCallback(options.patience),
            ],
        )
        trainer.remove_callback(transformers.PrinterCallback)
        try:
            if options.max_tokens is not None:
                model.max_seq_length = min(options.max_tokens, limit or math.inf)
            trainer.train()
        except (RuntimeError, MemoryError) as exc:
            if not is_out_of_memory(exc):
                raise
            raise InvalidParameter(
                f"{encoder.device} has not enough memory for batches of "
                f"{options.batch_size} pairs",
                hint="Give a smaller --batch-size, or cut texts: --max-tokens 128.",
            ) from exc
        finally:
            model.max_seq_length = limit
            model.eval()
        kept = trainer.state.best_global_step or trainer.state.global_step
    if not all(math.isfinite(loss) for loss in watch.losses.values()):
        raise InvalidParameter(
            "training went astray: the loss on the held-out part is not finite",
            hint=f"Give a lower --learning-rate than {options.learning_rate}.",
        )
    return Trained(kept, steps, watch.losses)


def save(encoder: SentenceTransformersEncoder, folder: Path) -> None:
    """Write a model as sentence-transformers does, prompts included."""
    model = encoder.library_model
    # Those of a card go by the name, and the new model has another.
    if encoder.query_prompt or encoder.document_prompt:
        model.prompts = {
            "query": encoder.query_prompt,
            "document": encoder.document_prompt,
        }
        model.default_prompt_name = None
    with quiet():
        model.save_pretrained(str(folder), create_model_card=False)


def _steps(rows: int, options: TrainingOptions) -> tuple[int, int]:
    """Count the steps, and those between two looks at the held-out part."""
    an_epoch = math.ceil(rows / options.batch_size)
    steps = an_epoch * options.epochs
    if options.most_steps is not None:
        steps = min(steps, options.most_steps)
    looks = max(1, round(EVALUATIONS_AN_EPOCH * steps / an_epoch))
    every = max(1, steps // min(looks, steps))
    return steps - steps % every, every


def _arguments(
    encoder: SentenceTransformersEncoder,
    folder: str,
    prompts: dict[str, str],
    options: TrainingOptions,
    *,
    steps: int,
    every: int,
) -> SentenceTransformerTrainingArguments:
    return SentenceTransformerTrainingArguments(
        output_dir=folder,
        max_steps=steps,
        per_device_train_batch_size=options.batch_size,
        per_device_eval_batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        warmup_steps=math.ceil(_WARM_UP * steps),
        # A text that is there twice would be its own negative.
        batch_sampler=BatchSamplers.NO_DUPLICATES,
        prompts=prompts or None,
        eval_strategy="steps",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=1,
        save_only_model=True,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=encoder.device != "cpu",
        use_cpu=encoder.device == "cpu",
        seed=options.seed,
    )


def _loss(
    model: SentenceTransformer, dimensions: int, options: TrainingOptions
) -> torch.nn.Module:
    loss: torch.nn.Module
    if options.batch_size > MINI_BATCH:
        loss = losses.CachedMultipleNegativesRankingLoss(
            model, mini_batch_size=MINI_BATCH
        )
    else:
        loss = losses.MultipleNegativesRankingLoss(model)
    if options.matryoshka:
        lengths = sorted({dimensions, *options.matryoshka}, reverse=True)
        loss = losses.MatryoshkaLoss(model, loss, lengths)
    return loss


def _prompts(encoder: SentenceTransformersEncoder, row: Row) -> dict[str, str]:
    """Choose what is put before each column, as when it is encoded."""
    return {
        name: prompt
        for name in row.columns()
        if (
            prompt := encoder.query_prompt
            if name == "anchor"
            else encoder.document_prompt
        )
    }


class _Trainer(SentenceTransformerTrainer):
    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """Collect nothing for a card: texts of rows would stand in it."""


class _Watch(transformers.TrainerCallback):
    """Tells how far training is, and keeps the losses."""

    def __init__(self, steps: int, progress: Callable[[str, float], None]) -> None:
        self.losses: dict[int, float] = {}
        self._steps = steps
        self._progress = progress

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        del args, control, kwargs
        self._progress("training", state.global_step / self._steps)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        del args, control
        self.losses[state.global_step] = float(kwargs["metrics"]["eval_loss"])
