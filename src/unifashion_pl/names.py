"""Names that people get wrong, and names that torch makes up."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from difflib import get_close_matches
from itertools import chain
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

#: More names than this are not listed in a message; of what others wrote so many characters stand in it.
LISTED, SHOWN = 30, 100
#: What ``torch.compile`` puts before the names of everything inside the module that it wraps.
COMPILED = "_orig_mod."


def unknown(what: str, name: str, known: Collection[str]) -> str:
    """The sentence about a name that does not exist: names like it, and all names if they are not too many.

    >>> unknown("sampler", "dpm", ["ddim", "dpmpp", "paper"])
    "unknown sampler 'dpm' (did you mean dpmpp or ddim?); known are ddim, dpmpp, paper"
    """
    lower = {entry.lower(): entry for entry in known}
    close = [lower[match] for match in get_close_matches(str(name)[:SHOWN].lower(), lower, n=3, cutoff=0.5)]
    meant = f" (did you mean {' or '.join(close)}?)" if close else ""
    return f"unknown {what} {quoted(name)}{meant}; " + (
        f"known are {', '.join(known)}" if len(known) <= LISTED else f"{len(known)} are known"
    )


def shorten(text: str, most: int = SHOWN) -> str:
    """The first ``most`` characters, and an ellipsis where there were more."""
    return text if len(text) <= most else f"{text[:most].rstrip()} …"


def quoted(value: Any, most: int = SHOWN) -> str:
    """What somebody else gave, as Python writes it, for a message: no more than its beginning.

    >>> quoted("a red dress"), quoted("a very red dress", 6), quoted([1, 2, 3], 5)
    ("'a red dress'", "'a very …'", '[1, 2 …')
    """
    return repr(shorten(value, most)) if isinstance(value, str) else shorten(repr(value), most)


def plain(name: str) -> str:
    """A parameter's name as it is without ``torch.compile``.

    >>> plain("diffusion_head.denoiser.unet._orig_mod.conv_in.weight")
    'diffusion_head.denoiser.unet.conv_in.weight'
    """
    return name.replace(COMPILED, "")


def plain_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state under :func:`plain` names, whether or not parts of its model were compiled."""
    return {plain(name): tensor for name, tensor in state.items()}


def keep_names_plain(module: nn.Module) -> None:
    """States that a module gives have :func:`plain` names, and those that it takes may have either, so that a checkpoint does not depend
    on which parts were given to ``torch.compile``, as in ``model.backbone = torch.compile(model.backbone)``."""
    module.register_state_dict_post_hook(_give_plain)
    module.register_load_state_dict_pre_hook(_take_either)


def _give_plain(module: nn.Module, state: dict[str, Any], prefix: str, metadata: dict[str, Any]) -> None:
    for name in [name for name in state if name.startswith(prefix) and COMPILED in name]:
        state[prefix + plain(name.removeprefix(prefix))] = state.pop(name)


def _take_either(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    tensors = (module.named_parameters(remove_duplicate=False), module.named_buffers(remove_duplicate=False))
    own = {plain(name): name for name, _ in chain.from_iterable(tensors)}
    for name in [name for name in state if name.startswith(prefix)]:
        bare = plain(name.removeprefix(prefix))
        if (actual := prefix + own.get(bare, bare)) != name:
            state[actual] = state.pop(name)
