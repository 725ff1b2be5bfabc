"""f itself: pure computation, no sockets, no files, no clocks, no asyncio."""
