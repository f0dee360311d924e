"""Pieces of correct code that projects are assembled from; knows nothing of bugs."""

from examples.bugfix.pieces import classes, numbers, records, sequences, texts
from examples.bugfix.pieces.piece import Case, Draw, Part, Piece, literal

PIECES = (
    *records.PIECES,
    *numbers.PIECES,
    *sequences.PIECES,
    *texts.PIECES,
    *classes.PIECES,
)

__all__ = ["PIECES", "Case", "Draw", "Part", "Piece", "literal"]
