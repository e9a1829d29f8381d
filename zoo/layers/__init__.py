"""Operators of the families that timm does not have."""
