"""What a model's description may have built: classes of this library, unless its user trusts whoever wrote it.

The description (``config.json``, or what lies in a ``.ckpt``) comes with the weights, often from the network. A class path in it would be
imported and called.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    #: Keyword arguments for another library, as plain data. To jsonargparse it is a bare ``dict``, of which it never instantiates
    #: anything; of a ``dict[str, Any]`` it calls whatever a nested ``class_path`` names.
    Fields = dict[str, Any]
else:
    Fields = dict

#: Import paths that a description may name, with everything below them.
ALLOWED = ("unifashion_pl",)
SWITCH = "trust_remote_code"

_alone = threading.RLock()


class UntrustedCode(ValueError):
    """A model's description names code that is not of this library."""


@contextmanager
def library_only(where: str, trusted: bool) -> Iterator[None]:
    """Inside the block jsonargparse imports nothing but :data:`ALLOWED`, and values of type ``Any`` stay data.

    jsonargparse's settings belong to the process: they are put back afterwards, so that a user's own parsers are as before. Threads take
    turns.

    Args:
        where: the file that holds the description, for messages.
        trusted: nothing is restricted.

    Raises:
        UntrustedCode: something else was named, with its path and the switch.
    """
    if trusted:
        yield
        return
    from jsonargparse._common import parsing_settings as settings

    with _alone:
        before = dict(settings)
        settings["import_path_verdicts"] = {"*": False, **dict.fromkeys(ALLOWED, True)}
        settings["import_paths_enforced"] = True
        settings["instantiate_subclass_spec_in_any"] = False
        try:
            yield
        except Exception as error:
            if found := re.search(r"Importing '([^']+)' is not allowed", str(error)):
                raise refusal(where, found[1]) from error
            raise
        finally:
            settings.clear()
            settings.update(before)


class LibraryOnly:
    """Before one of Lightning's classes: its ``load_from_checkpoint`` builds nothing that only the checkpoint names."""

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, trust_remote_code: bool = False, **kwargs: Any) -> Any:
        """Lightning's, from a local file, of which nothing but tensors is unpickled.

        Args:
            args, kwargs: as Lightning takes them.
            trust_remote_code: also import and call classes that are not of this library. They may run any program.

        Raises:
            ValueError: an address, or a file that names other classes and is not trusted.
        """
        kwargs.setdefault("weights_only", True)
        if isinstance(checkpoint_path, str | Path):
            local(checkpoint_path, trust_remote_code)
        with library_only(str(checkpoint_path), trust_remote_code):
            return super().load_from_checkpoint(checkpoint_path, *args, **kwargs)  # type: ignore[misc]


def local(path: Any, trusted: bool = False) -> Path:
    """The path of a checkpoint of which nothing but tensors will be unpickled.

    Args:
        trusted: it may be a folder.

    Raises:
        ValueError: an address, which Lightning would unpickle.
        UntrustedCode: a folder: the description of a sharded checkpoint is a pickle too, and a pickle can run any program.
    """
    if "://" in str(path):
        raise ValueError(f"{path} is an address: download the checkpoint, and name the file")
    if Path(path).is_dir() and not trusted:
        raise UntrustedCode(
            f"{path} is a folder. If it is a sharded checkpoint, reading it can run any program: name the file of a whole checkpoint, or pass "
            f"{SWITCH}=True (on the command line --{SWITCH}) if you trust whoever made it"
        )
    return Path(path)


def refusal(where: str, path: str) -> UntrustedCode:
    """The message about ``path``, a class or function that ``where`` names."""
    return UntrustedCode(
        f"{where} names {path}, which is not of this library, so it was neither imported nor called: it could run any program. If you "
        f"trust whoever made the file, pass {SWITCH}=True (on the command line --{SWITCH})"
    )
