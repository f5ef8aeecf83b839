"""Evaluation of models on held-out pairs of map and aerial image."""

from maptile2sat.evaluation.result import Evaluation
from maptile2sat.evaluation.run import evaluate

__all__ = ["Evaluation", "evaluate"]
