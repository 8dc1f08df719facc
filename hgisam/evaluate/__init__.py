"""Predicted masks against reference masks: pure measures, their summary, and the tables that show both."""
