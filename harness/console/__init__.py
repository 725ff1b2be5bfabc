"""The console: a page for people who look rather than read. It knows Alice, Bob and the wire only by their HTTP interfaces.

`app` has the routes, `services` asks the services, `watching` follows one transmission, `runs` knows all over one dataset,
`yardsticks` measures gzip and xz, `pages` makes HTML. Nothing is kept: what is shown is read from the services, so that every
address means the same after a reload or a restart. Style and script come with this package, and from nowhere else.
"""
