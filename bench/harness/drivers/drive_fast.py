"""Trivet's engine with fast numerics."""

from drive_trivet import Trivet
from protocol import serve

serve(lambda settings: Trivet(settings | {"numerics": "fast"}))
