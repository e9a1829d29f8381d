"""Figures that runs leave behind."""
