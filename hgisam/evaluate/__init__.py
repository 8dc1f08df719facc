"""Masks against reference masks, probabilities against labels: pure measures, their summaries, tables and figures."""
