"""What both services need around f and the channel: transfer, store, settings, errors, events, metrics."""
