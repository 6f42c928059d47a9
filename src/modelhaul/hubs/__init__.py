"""Hubs: wire formats as pure functions, and one thin client each."""
