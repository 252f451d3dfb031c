"""Nano: a small real model of the family Gemma 4 Unified and its drafter, trained by this package from nothing."""
