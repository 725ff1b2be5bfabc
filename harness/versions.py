"""The installed version, without importing anything heavy."""


def package_version() -> str:
    """The version of codelength that runs."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("codelength")
    except PackageNotFoundError:
        return "0+source"
