"""Decisions without I/O: imports no asyncio, os, time, random or aiohttp."""
