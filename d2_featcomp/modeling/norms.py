"""Names of norms in configs."""

from detectron2.layers import get_norm

__all__ = ["require_norm"]


def require_norm(key, name, channels=32):
    """Checks a norm that a config names, which Detectron2 looks up without telling the key.

    Args:
        key (str): of the config, below MODEL, for the message.
        name (str): of a Detectron2 norm; "" is none.
        channels (int): that it is for.

    Raises:
        ValueError: there is no norm of that name, or not for so many channels.
    """
    try:
        get_norm(name, channels)
    except KeyError:
        raise ValueError(
            f"MODEL.{key} is {name!r}: choose a norm of Detectron2, e.g. BN, SyncBN or GN, or ''"
        ) from None
    except ValueError as error:
        raise ValueError(f"MODEL.{key} is {name!r}, for {channels} channels: {error}") from error
