"""f itself: pure computation, a function of spec and data. No sockets, no files, no clocks, no asyncio, no floats in a probability."""
