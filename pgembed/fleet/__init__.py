"""A fleet of encoder services on a Ray cluster, as many as the queue asks for."""

from pgembed.fleet.fleet import Fleet
from pgembed.fleet.scaling import Load, Scaling

__all__ = ["Fleet", "Load", "Scaling"]
