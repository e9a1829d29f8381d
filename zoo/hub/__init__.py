"""Weights and the Hub: fetched, verified, published."""
