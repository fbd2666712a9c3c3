r"""Durations as people read them."""

__all__ = ["minutes"]


def minutes(seconds: float) -> str:
    """Returns a duration as minutes and seconds, with hours where there are any."""
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"
