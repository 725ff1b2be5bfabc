"""f itself: pure computation of spec and data. No sockets, no files, no clocks, no asyncio, no floats in a probability."""
