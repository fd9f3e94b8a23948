"""Instruction following and planted preferences beyond stacked constraints."""
