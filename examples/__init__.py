"""Worked examples of Pilotfish; the product itself never imports them."""
