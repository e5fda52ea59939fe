"""What a model's description may have built: classes of this library, unless its user trusts whoever wrote it.

The description (``config.json``, or what lies in a ``.ckpt``) comes with the weights, often from the network. A class path in it would be
imported and called.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
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


def refusal(where: str, path: str) -> UntrustedCode:
    """The message about ``path``, a class or function that ``where`` names."""
    return UntrustedCode(
        f"{where} names {path}, which is not of this library, so it was neither imported nor called: it could run any program. If you "
        f"trust whoever made the file, pass {SWITCH}=True (on the command line --{SWITCH})"
    )
