"""The pictures of a transmission, drawn once for the console, for reports and for notebooks.

`curve` has what is drawn, `svg` draws lines and bars, `pictures` says what a transmission's pictures are, `steps` those of
several that were frozen after k steps, `text` colours what Bob decoded, `raster` makes PNG of SVG. A chart library would draw
some of this; none of those looked at draws ten times a second on a machine that is busy coding, stands alone in a file, needs
no browser for a PNG, and follows dark and light.
"""
