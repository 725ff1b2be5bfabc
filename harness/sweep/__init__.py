"""`codelength sweep`: datasets × codes × seeds × k, every trial a real transmission, on this machine or on a Ray cluster."""
