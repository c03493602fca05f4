"""The encoder service: listens, claims, encodes, writes."""

from pgembed.service.options import ServiceSettings
from pgembed.service.pipeline import Outcome
from pgembed.service.service import EncoderService, drain

__all__ = ["EncoderService", "Outcome", "ServiceSettings", "drain"]
