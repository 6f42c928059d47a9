"""The asyncio driver: connections, buffers, writing, hashing, publishing.

It asks `core` what to do and does it; it looks at no payload and decides nothing by itself. A
package rather than one module, because a large file, a small file, the connections and the buffers
are four ideas (docs/internals/tour.md).
"""
