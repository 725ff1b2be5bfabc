"""Reports: what the console shows of finished transmissions, as one file that needs nothing else.

`gather` reads transmissions from the services, or from the JSON lines of an earlier report; `write` makes HTML, SVG, PNG, CSV and
JSON lines of them, from the figures and templates of the console; `events` makes TensorBoard's event files.
"""
