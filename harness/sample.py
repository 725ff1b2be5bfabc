"""A real English text that every Python installation carries: the manual pages behind `help()`."""


def sample_text() -> bytes:
    """`pydoc_data.topics`, its pages in the order of their names. It differs between versions of Python."""
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name] for name in sorted(topics)).encode()
